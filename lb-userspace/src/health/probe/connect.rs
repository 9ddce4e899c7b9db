//! A TCP connection is accepted.

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{Awaited, Clock, Passed, ProbeFailure, ProbeTarget};

pub(super) async fn probe(target: &ProbeTarget, clock: &Clock) -> Result<Passed, ProbeFailure> {
    let mut stream = open(target, clock).await?;
    let passed = clock.passed(format!("port {} accepts connections", target.port));
    // The verdict stands: how the peer takes the end of the connection does not matter.
    let _ = stream.shutdown().await;
    Ok(passed)
}

/// Opens a connection within the probe's time.
pub(super) async fn open(target: &ProbeTarget, clock: &Clock) -> Result<TcpStream, ProbeFailure> {
    let awaited = Awaited::Connection;
    clock
        .wait(&awaited, TcpStream::connect(target.socket()))
        .await?
        .map_err(|error| ProbeFailure::from_plain_io(&error, &awaited, target.port))
}
