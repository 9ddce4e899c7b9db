//! A datagram is answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::net::UdpSocket;

use super::{Awaited, Clock, Passed, ProbeFailure, ProbeTarget};

pub(super) async fn probe(
    target: &ProbeTarget,
    send: &[u8],
    expect: Option<&[u8]>,
    clock: &Clock,
) -> Result<Passed, ProbeFailure> {
    let awaited = Awaited::Datagram;
    let failure = |error| ProbeFailure::from_plain_io(&error, &awaited, target.port);

    // Connected, so that port unreachable (RFC 792, RFC 4443 section 3.1) comes back as an error.
    let socket = UdpSocket::bind((unspecified(target.address), 0))
        .await
        .map_err(failure)?;
    socket.connect(target.socket()).await.map_err(failure)?;
    socket.send(send).await.map_err(failure)?;
    let mut reply = vec![0; LARGEST_DATAGRAM];
    let length = clock
        .wait(&awaited, socket.recv(&mut reply))
        .await?
        .map_err(failure)?;
    reply.truncate(length);

    match expect {
        Some(expect) if !contains(&reply, expect) => Err(ProbeFailure::Reply { length }),
        _ => Ok(clock.passed(format!("port {} answered {length} bytes", target.port))),
    }
}

const LARGEST_DATAGRAM: usize = 65_535;

fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}
