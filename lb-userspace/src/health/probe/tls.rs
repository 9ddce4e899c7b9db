//! A TLS handshake is completed, and the certificate is one to trust.

use std::{net::IpAddr, sync::Arc, time::Duration};

use rustls::{ProtocolVersion, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::spawn_blocking,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Awaited, Clock, Passed, ProbeFailure, ProbeTarget, connect};
use crate::tls::ClientTls;

/// How long the end of a connection may take once the verdict stands. A connection that is dropped
/// while the peer still sends ends in a reset, which servers log as an error each time.
pub(super) const FAREWELL: Duration = Duration::from_millis(250);

pub(super) async fn probe(
    target: &ProbeTarget,
    name: Option<&str>,
    tls: &Arc<ClientTls>,
    clock: &Clock,
) -> Result<Passed, ProbeFailure> {
    let name = server_name(name, target)?;
    let stream = connect::open(target, clock).await?;
    let mut stream = handshake(stream, name, target.port, tls, clock).await?;
    let version = match stream.get_ref().1.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        _ => "TLS 1.2",
    };
    let passed = clock.passed(format!("{version} handshake completed"));
    // The verdict stands: how the peer takes the end of the connection does not matter.
    let _ = timeout(FAREWELL, async {
        stream.shutdown().await?;
        stream.read(&mut [0; 1024]).await
    })
    .await;
    Ok(passed)
}

/// Makes the handshake within the probe's time.
pub(super) async fn handshake(
    stream: TcpStream,
    name: ServerName<'static>,
    port: u16,
    tls: &Arc<ClientTls>,
    clock: &Clock,
) -> Result<TlsStream<TcpStream>, ProbeFailure> {
    let shared = Arc::clone(tls);
    let awaited = Awaited::Handshake;
    // Certificates may have to be read from files.
    let config = clock
        .wait(&awaited, spawn_blocking(move || shared.config()))
        .await
        .map_err(|_| {
            ProbeFailure::Local(String::from("the CA certificates cannot be read in time"))
        })?
        .map_err(|error| ProbeFailure::Local(error.to_string()))??;
    clock
        .wait(&awaited, TlsConnector::from(config).connect(name, stream))
        .await?
        .map_err(|error| ProbeFailure::from_io(&error, &awaited, port, tls.trust()))
}

/// Returns the name for SNI and verification: the check's, else the backend's, else its address (for
/// which no SNI is sent, RFC 6066 section 3).
pub(super) fn server_name(
    name: Option<&str>,
    target: &ProbeTarget,
) -> Result<ServerName<'static>, ProbeFailure> {
    let Some(name) = name.or(target.server_name.as_deref()) else {
        return Ok(target.address.into());
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(address.into());
    }
    ServerName::try_from(name.to_owned())
        .map_err(|_| ProbeFailure::Unsendable(format!("{name:?} is not a host name; correct it")))
}
