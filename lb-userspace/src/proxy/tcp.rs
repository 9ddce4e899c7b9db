//! Connections that are passed through as they are.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    access_log::{Kind, Record},
    choose::{self, Asker, Chosen},
    descriptors::Expected,
    failure::Failure,
    front::Front,
    guests::Fate,
    hello::{self, Hello},
    loads::Load,
    prefixed::Prefixed,
    proxy_protocol, tunnel, upstream,
    worker::Worker,
};

/// Serves a connection: which pool, which backend, a connection to it, bytes both ways.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    front: &Arc<Front>,
    mut stream: Prefixed<TcpStream>,
    client: SocketAddr,
    fate: &Fate,
    expected: Expected,
) {
    let begun = Instant::now();
    let mut record = Record::begin(Arc::clone(&front.name), Kind::Tcp, client);
    let served = forward(
        worker,
        front,
        &mut stream,
        client,
        begun,
        expected,
        &mut record,
    )
    .await;
    let failure = match served {
        Err(_) if fate.is_refused() => Some(Failure::Refused),
        served => served.err(),
    };
    let counters = front.counters(worker.index);
    if let Some(failure) = failure {
        counters.failures.add(failure);
    }
    counters.bytes_in.add(record.bytes_in);
    counters.bytes_out.add(record.bytes_out);
    counters.retries.add(u64::from(record.retries));
    if worker.access.is_on() {
        record.total = Some(begun.elapsed());
        record.fault = failure.map(Failure::side);
        record.reason = failure.map(|failure| failure.label().into());
        worker.access.write(record);
    }
}

async fn forward(
    worker: &Rc<Worker>,
    front: &Arc<Front>,
    stream: &mut Prefixed<TcpStream>,
    client: SocketAddr,
    begun: Instant,
    expected: Expected,
    record: &mut Record,
) -> Result<(), Failure> {
    let (place, hello) = route(front, stream, record).await?;
    let (chosen, mut backend, _load) = connect(worker, front, place, client, record).await?;
    drop(expected);
    record.wait = Some(begun.elapsed());
    front.counters(worker.index).connects.add(1);
    // Its entry does not age while the connection lives.
    let _live = chosen.memory.map(|memory| {
        worker.remember(&memory);
        worker.live.enter(memory.key)
    });
    let mut first = Vec::new();
    if let Some(version) = front.service.proxy_protocol.send {
        let vip = front.service.listen();
        proxy_protocol::write(version, client, vip, &mut first);
    }
    first.extend_from_slice(&hello);
    record.bytes_in += hello.len() as u64;
    if !first.is_empty() {
        let written = timeout(front.service.timeouts.connect, backend.write_all(&first)).await;
        written
            .map_err(|_| Failure::ConnectTimeout)?
            .map_err(|_| Failure::BackendClosed)?;
    }
    let ends = worker.tunnel_ends(chosen.number);
    let idle = front.service.timeouts.tunnel;
    let ended = tunnel::run(stream, &mut backend, idle, ends).await;
    record.bytes_in += ended.bytes_in;
    record.bytes_out += ended.bytes_out;
    ended.failure.map_or(Ok(()), Err)
}

/// Returns the place of the pool that serves the name which the client asks for in TLS, and what was
/// read of the connection to find it.
async fn route(
    front: &Front,
    stream: &mut Prefixed<TcpStream>,
    record: &mut Record,
) -> Result<(usize, BytesMut), Failure> {
    let mut bytes = BytesMut::new();
    if front.service.routes.is_empty() {
        return Ok((0, bytes));
    }
    let deadline = Instant::now() + front.service.timeouts.handshake;
    loop {
        match hello::server_name(&bytes) {
            Hello::Incomplete => {
                let read = stream.read_buf(&mut bytes);
                match tokio::time::timeout_at(deadline, read).await {
                    Ok(Ok(0) | Err(_)) => return Err(Failure::ClientClosed),
                    Ok(Ok(_)) => {}
                    Err(_) => return Err(Failure::HandshakeTimeout),
                }
            }
            Hello::NotTls | Hello::Name(None) => return Ok((0, bytes)),
            Hello::Name(Some(name)) => {
                let place = front.route(&name);
                record.sni = Some(name);
                return Ok((place, bytes));
            }
        }
    }
}

/// Connects to the client's backend, or where that fails to another one that is eligible.
async fn connect(
    worker: &Worker,
    front: &Arc<Front>,
    place: usize,
    client: SocketAddr,
    record: &mut Record,
) -> Result<(Chosen, TcpStream, Load), Failure> {
    let mut failed = Vec::new();
    let mut last = Failure::NoBackend;
    while failed.len() < choose::ATTEMPTS {
        let asker = Asker {
            client: client.ip(),
            port: client.port(),
            failed: &failed,
            cookie: None,
        };
        let chosen = match choose::choose_in_time(worker, front, place, asker).await {
            Ok(chosen) => chosen,
            Err(failure) if failed.is_empty() => return Err(failure),
            Err(_) => break,
        };
        record.backend = Some(Arc::clone(&chosen.upstream.label));
        record.backend_address = Some(chosen.upstream.address);
        let load = worker.loads.take(chosen.number);
        match upstream::connect(front, &chosen.upstream, client.ip()).await {
            Ok(stream) => return Ok((chosen, stream, load)),
            Err(error) => {
                worker.accuse(&chosen.upstream, &error);
                last = error.failure;
                failed.push(chosen.number);
                record.retries += 1;
            }
        }
    }
    Err(last)
}
