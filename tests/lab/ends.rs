//! Both ends of one flow in the hands of a test.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use super::{
    clients::{ANSWER_BOUND, LONGEST_DATAGRAM, UdpClient},
    eventually::eventually_some,
    gateways::SERVICE_PORT,
    host::Host,
};

/// How long an end waits for what the other one sends.
const BOUND: Duration = Duration::from_secs(5);

/// A client's socket and a backend's socket, each connected to what it sees of the other.
///
/// Connected sockets are told by the kernel what ICMP says of their packets.
#[derive(Debug)]
pub struct Ends {
    /// The client's; its peer is the VIP.
    pub client: UdpSocket,
    /// The backend's; its peer is the SNAT address and port.
    pub backend: UdpSocket,
}

impl Ends {
    /// Opens the service's port on `backend`, the only one of the pool, and begins a flow from
    /// `client` to it.
    ///
    /// # Panics
    ///
    /// If the client's first datagram, or the answer to it, does not arrive.
    #[must_use]
    #[track_caller]
    pub fn meet(client: UdpClient, backend: &Host) -> Self {
        let client = client.into_socket();
        let local = client.local_addr().expect("a bound socket has an address");
        let address = SocketAddr::new(backend.address_like(local.ip()), SERVICE_PORT);
        // A child that another thread has just begun may hold the socket of an earlier flow.
        let backend = eventually_some(BOUND, "the service's port is free", || {
            backend.net().enter(|| UdpSocket::bind(address)).ok()
        });
        for socket in [&client, &backend] {
            socket
                .set_read_timeout(Some(ANSWER_BOUND))
                .expect("a timeout can be set");
        }
        client.send(b"hello").expect("the client can send");
        let mut buffer = [0; 16];
        let (_, source) = backend
            .recv_from(&mut buffer)
            .unwrap_or_else(|error| panic!("the backend hears nothing from {local}: {error}"));
        backend
            .connect(source)
            .expect("the backend reaches its client");
        backend.send(b"hello").expect("the backend can answer");
        client
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("{local} is not answered: {error}"));
        Self { client, backend }
    }

    /// Returns the address and port that the backend takes for its client.
    #[must_use]
    pub fn snat(&self) -> SocketAddr {
        self.backend
            .peer_addr()
            .expect("a connected socket has a peer")
    }
}

/// Returns the next datagram that comes to `socket`.
///
/// # Errors
///
/// What the socket says: an ICMP error, or that nothing came in time.
pub fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    socket.set_read_timeout(Some(BOUND))?;
    let mut buffer = vec![0; LONGEST_DATAGRAM];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}
