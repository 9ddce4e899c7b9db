//! The way of a connection: whom it is from, whether it is welcome, TLS, and what is done with it.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use bytes::BytesMut;
use rustls::ProtocolVersion;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    counters::Open,
    descriptors::Expected,
    failure::Failure,
    front::Front,
    guests::{self, Fate},
    http,
    lost::Lost,
    prefixed::Prefixed,
    proxy_protocol, redirect, tcp,
    worker::Worker,
};
use crate::config::model::Forwarding;

/// Serves a connection until it ends.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    front: Arc<Front>,
    stream: TcpStream,
    peer: SocketAddr,
    expected: Expected,
) {
    front.counters(worker.index).connections.add(1);
    let open = Open::count(&front.counters, worker.index);
    let begun = Instant::now();
    let mut client = unmapped(peer);
    if let Err(failure) = way(&worker, &front, stream, &mut client, open, expected).await {
        Lost::from(failure).tell(&worker, &front, client, begun, |_| {});
    }
}

/// # Errors
///
/// Why it did not come to be served; from then on whoever serves it tells what goes wrong.
async fn way(
    worker: &Rc<Worker>,
    front: &Arc<Front>,
    mut stream: TcpStream,
    who: &mut SocketAddr,
    open: Open,
    expected: Expected,
) -> Result<(), Failure> {
    let service = &front.service;
    let limits = &service.limits;
    if limits.connections > 0 {
        let open: u64 = front.counters.iter().map(|of| of.open.read()).sum();
        if open > u64::from(limits.connections) {
            return Err(Failure::TooManyConnections);
        }
    }
    let (client, surplus) = client(front, &mut stream, *who).await?;
    *who = client;
    let snapshot = worker.handle.snapshot();
    if guests::refuses(&snapshot.state.client_ranges, &front.name, client.ip()) {
        return Err(Failure::Refused);
    }
    drop(snapshot);
    // Nothing waits between the question and this: a list that changes later finds the client.
    let guest = worker.guests.enter(&front.name, client.ip());
    let fate = guest.fate();
    let source = match limits.per_source {
        0 => None,
        limit => Some(
            worker
                .sources
                .take(&front.name, client.ip(), limit)
                .ok_or(Failure::TooManyPerSource)?,
        ),
    };
    // For as long as the stream is there, which a WebSocket takes away with it.
    let stream = Prefixed::new(surplus, stream)
        .of(guest)
        .counted(open, source);
    // Each in a place of its own: a connection would have room for all of them.
    match service.forwarding {
        Forwarding::Tcp => {
            Box::pin(tcp::serve(worker, front, stream, client, &fate, expected)).await;
        }
        Forwarding::Redirect => {
            drop(expected);
            let (worker, front) = (Rc::clone(worker), Arc::clone(front));
            Box::pin(redirect::serve(worker, front, stream, client, fate)).await;
        }
        Forwarding::Http => {
            let shaken = Box::pin(secure(worker, front, stream, client, fate));
            let (opened, stream) = shaken.await?;
            drop(expected);
            let (worker, front) = (Rc::clone(worker), Arc::clone(front));
            Box::pin(http::serve(worker, front, opened, stream)).await;
        }
        // These have no front.
        Forwarding::Snat | Forwarding::Monitor => {}
    }
    Ok(())
}

/// Returns the client, whom a trusted peer may name, and its first bytes as far as they were read.
async fn client(
    front: &Front,
    stream: &mut TcpStream,
    peer: SocketAddr,
) -> Result<(SocketAddr, BytesMut), Failure> {
    let trusted = &front.service.proxy_protocol.accept_from;
    if !trusted.iter().any(|prefix| prefix.contains(peer.ip())) {
        return Ok((peer, BytesMut::new()));
    }
    let accepted = Box::pin(proxy_protocol::accept(stream));
    let read = timeout(front.service.timeouts.header, accepted);
    match read.await {
        Ok(Ok((source, _, surplus))) => Ok((source.map_or(peer, unmapped), surplus)),
        Ok(Err(error)) => {
            tracing::debug!(peer = %peer, "no PROXY header: {error}");
            Err(Failure::ProxyHeader)
        }
        Err(_) => Err(Failure::ProxyHeader),
    }
}

/// Makes the TLS handshake.
async fn secure(
    worker: &Worker,
    front: &Front,
    stream: Prefixed<TcpStream>,
    client: SocketAddr,
    fate: Fate,
) -> Result<(http::Opened, Box<TlsStream<Prefixed<TcpStream>>>), Failure> {
    let Some(tls) = &front.tls else {
        return Err(Failure::HandshakeFailed);
    };
    let config = match worker.http1_only.contains(client.ip()) {
        true => tls.config_http1(),
        false => tls.config(),
    };
    let begun = Instant::now();
    let shaken = TlsAcceptor::from(config).accept(stream);
    let stream = match timeout(front.service.timeouts.handshake, shaken).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(client = %client, "the TLS handshake failed: {error}");
            return Err(match fate.is_refused() {
                true => Failure::Refused,
                false => Failure::HandshakeFailed,
            });
        }
        Err(_) => return Err(Failure::HandshakeTimeout),
    };
    let session = stream.get_ref().1;
    let opened = http::Opened {
        client,
        sni: session
            .server_name()
            .map(|name| name.to_ascii_lowercase().into()),
        tls_version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => Some("1.3"),
            Some(ProtocolVersion::TLSv1_2) => Some("1.2"),
            _ => None,
        },
        http2: session.alpn_protocol() == Some(b"h2"),
        handshake: Some(begun.elapsed()),
        fate,
    };
    // On its way to whoever serves it, each future has room for it.
    Ok((opened, Box::new(stream)))
}

/// An IPv4 client on a socket of both families is the same client.
fn unmapped(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
