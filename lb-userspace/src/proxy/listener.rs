//! Sockets that clients connect to.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections that may wait to be accepted; the kernel's `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;
/// A peer that has gone without a word is found out after about so long: a quiet session is then
/// asked whether it is still there, and routers on the way do not forget it.
const KEEPALIVE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// Opens a socket for each worker on one address. The kernel spreads connections over them.
///
/// The address need not be on the host yet: vipd adds it, or another node has it.
pub(crate) fn open(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    (0..workers).map(|_| listener(address)).collect()
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_freebind_v6(true)?;
        socket.set_only_v6(true)?;
    }
    // Connections have what their listener has.
    socket.set_tcp_nodelay(true)?;
    keep_alive(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn keep_alive(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES),
    )
}
