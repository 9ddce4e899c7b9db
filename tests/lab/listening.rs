//! TCP ports that a test's servers listen on.

use std::{net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};

use super::eventually::eventually;

/// How long a port may still be taken.
const BOUND: Duration = Duration::from_secs(5);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Returns a socket that listens on a TCP address; on `::`, for IPv4 too.
///
/// # Panics
///
/// If the port is taken.
pub(super) fn listen(address: SocketAddr) -> Socket {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .expect("a socket can be made");
    if address.is_ipv6() {
        socket
            .set_only_v6(false)
            .expect("a socket can serve both families");
    }
    socket
        .set_reuse_address(true)
        .expect("a socket can reuse its address");
    // A child that another thread has just begun may hold the port that was closed before.
    eventually(BOUND, &format!("TCP {address} is free"), || {
        socket.bind(&address.into()).is_ok()
    });
    socket.listen(BACKLOG).expect("a bound socket can listen");
    socket
}
