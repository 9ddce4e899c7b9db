//! Clients: UDP sockets that know one server.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::backends::Answer;

/// How long an answer may take on a site without delays.
pub const ANSWER_BOUND: Duration = Duration::from_secs(3);

/// Longer than any datagram.
pub(super) const LONGEST_DATAGRAM: usize = 65_536;

/// Bytes that a socket may hold unread, so that a slow reader on a busy machine loses nothing.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// A connected socket: the kernel hands it only what comes from the server's own address and port.
#[derive(Debug)]
pub struct UdpClient {
    socket: UdpSocket,
}

impl UdpClient {
    /// Makes a socket in the namespace of the calling thread.
    ///
    /// `source` may be an address that only a route declares local.
    ///
    /// # Panics
    ///
    /// If the address cannot be bound or the server not be reached.
    #[must_use]
    #[track_caller]
    pub fn connect(source: SocketAddr, server: SocketAddr) -> Self {
        let socket = Socket::new(
            Domain::for_address(server),
            Type::DGRAM,
            Some(Protocol::UDP),
        )
        .expect("a socket can be made");
        match source {
            SocketAddr::V4(_) => socket.set_freebind_v4(true),
            SocketAddr::V6(_) => socket.set_freebind_v6(true),
        }
        .expect("a socket may bind freely");
        socket
            .bind(&source.into())
            .unwrap_or_else(|error| panic!("bind to {source}: {error}"));
        socket
            .connect(&server.into())
            .unwrap_or_else(|error| panic!("connect {source} to {server}: {error}"));
        let socket = UdpSocket::from(socket);
        grow_receive_buffer(&socket);
        Self { socket }
    }

    /// Returns the address and port that the client sends from.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.socket
            .local_addr()
            .expect("a bound socket has an address")
    }

    /// Returns the socket itself.
    #[must_use]
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Gives the socket away.
    #[must_use]
    pub fn into_socket(self) -> UdpSocket {
        self.socket
    }

    /// Sends `payload` once and returns the answer to it.
    ///
    /// # Panics
    ///
    /// If none comes within [`ANSWER_BOUND`]: nothing is sent a second time.
    #[track_caller]
    pub fn ask(&self, payload: &str) -> Answer {
        self.ask_within(payload, ANSWER_BOUND)
            .unwrap_or_else(|error| {
                panic!(
                    "no answer to {payload:.100?} from {}: {error}",
                    self.local()
                )
            })
    }

    /// Sends one datagram and returns the name of the backend that answered.
    ///
    /// # Panics
    ///
    /// If no answer comes within [`ANSWER_BOUND`].
    #[track_caller]
    pub fn backend(&self) -> String {
        self.ask(&nonce()).backend
    }

    /// Sends one datagram and returns the name of the backend, or `None` if nobody answers in `bound`.
    ///
    /// # Panics
    ///
    /// If the datagram cannot be sent.
    pub fn backend_within(&self, bound: Duration) -> Option<String> {
        self.ask_within(&nonce(), bound)
            .ok()
            .map(|answer| answer.backend)
    }

    /// Sends `payload` once and returns the answer to it; answers to other payloads are passed over.
    ///
    /// # Errors
    ///
    /// `TimedOut` or `WouldBlock` without an answer within `bound`; `ConnectionRefused` if a port
    /// unreachable came back.
    pub fn ask_within(&self, payload: &str, bound: Duration) -> io::Result<Answer> {
        self.socket.send(payload.as_bytes())?;
        self.answer_within(payload, bound)
    }

    /// Returns the answer to `payload`, which was sent before; answers to other payloads are passed
    /// over.
    ///
    /// # Errors
    ///
    /// As of [`Self::ask_within`].
    pub fn answer_within(&self, payload: &str, bound: Duration) -> io::Result<Answer> {
        let deadline = Instant::now() + bound;
        let mut buffer = vec![0; LONGEST_DATAGRAM];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            let length = self.socket.recv(&mut buffer)?;
            let answer = Answer::parse(&buffer[..length]).map_err(io::Error::other)?;
            if answer.payload == payload {
                return Ok(answer);
            }
        }
    }
}

/// Lets `socket` hold [`RECEIVE_BUFFER_BYTES`], past the limit that others have.
pub(super) fn grow_receive_buffer(socket: &UdpSocket) {
    use std::os::fd::AsRawFd;

    let bytes = libc::c_int::try_from(RECEIVE_BUFFER_BYTES).expect("a few megabytes fit");
    // SAFETY: the descriptor is open, and the value is an int of the length that is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            std::ptr::from_ref(&bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    assert!(
        result == 0,
        "the receive buffer cannot grow: {}",
        io::Error::last_os_error()
    );
    let got = SockRef::from(socket)
        .recv_buffer_size()
        .expect("a socket has a buffer");
    assert!(
        got >= RECEIVE_BUFFER_BYTES,
        "the receive buffer has only {got} bytes"
    );
}

/// Returns a payload that no other datagram of this process has.
fn nonce() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("n{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
