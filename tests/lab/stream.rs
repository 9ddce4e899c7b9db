//! One TCP connection, with TLS or without, whose end a test decides.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, HandshakeKind, ServerConfig,
    ServerConnection, SideData, StreamOwned, pki_types::ServerName,
};
use socket2::SockRef;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// FIN; with TLS, `close_notify` before it.
    Close,
    /// FIN alone, as when the process dies: with TLS this is a truncation (RFC 8446 section 6.1).
    Fin,
    /// RST.
    Reset,
}

/// What the two sides of a TLS connection agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// The name that the client asked for (SNI), where this is the server's side.
    pub server_name: Option<String>,
    /// The protocol (ALPN).
    pub alpn: Option<String>,
    /// Whether an earlier session was taken up again.
    pub resumed: bool,
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// The client's side of TLS.
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// The server's side of TLS.
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    /// Makes the client's handshake for `name` on `socket`.
    ///
    /// # Errors
    ///
    /// What the handshake failed of.
    pub fn client(
        mut socket: TcpStream,
        settings: Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut tls = ClientConnection::new(settings, name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Self::Client(Box::new(StreamOwned::new(tls, socket))))
    }

    /// Makes the server's handshake on `socket`.
    ///
    /// # Errors
    ///
    /// What the handshake failed of.
    pub fn server(mut socket: TcpStream, settings: Arc<ServerConfig>) -> io::Result<Self> {
        let mut tls = ServerConnection::new(settings).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Self::Server(Box::new(StreamOwned::new(tls, socket))))
    }

    /// Returns the TCP connection below.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Client(stream) => &stream.sock,
            Self::Server(stream) => &stream.sock,
        }
    }

    /// Returns what TLS agreed on; `None` without TLS.
    #[must_use]
    pub fn agreed(&self) -> Option<Agreed> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self {
            Self::Plain(_) => None,
            Self::Client(stream) => Some(Agreed {
                server_name: None,
                alpn: stream.conn.alpn_protocol().map(text),
                resumed: stream.conn.handshake_kind() == Some(HandshakeKind::Resumed),
            }),
            Self::Server(stream) => Some(Agreed {
                server_name: stream.conn.server_name().map(ToString::to_string),
                alpn: stream.conn.alpn_protocol().map(text),
                resumed: stream.conn.handshake_kind() == Some(HandshakeKind::Resumed),
            }),
        }
    }

    /// Says that nothing more will be sent, and goes on reading.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn finish(&mut self) -> io::Result<()> {
        self.notify_close();
        self.flush()?;
        self.socket().shutdown(Shutdown::Write)
    }

    /// Ends the connection.
    pub fn end(mut self, end: End) {
        match end {
            End::Close => {
                self.notify_close();
                // All of these only fail if the peer has ended the connection before.
                let _ = self.flush();
                let _ = self.socket().shutdown(Shutdown::Write);
            }
            End::Fin => {
                let _ = self.socket().shutdown(Shutdown::Both);
            }
            End::Reset => reset_on_close(self.socket()),
        }
    }

    fn notify_close(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Client(stream) => stream.conn.send_close_notify(),
            Self::Server(stream) => stream.conn.send_close_notify(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Client(stream) => stream.read(buffer),
            Self::Server(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Client(stream) => write(&mut stream.conn, &mut stream.sock, bytes),
            Self::Server(stream) => write(&mut stream.conn, &mut stream.sock, bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Client(stream) => drain(&mut stream.conn, &mut stream.sock),
            Self::Server(stream) => drain(&mut stream.conn, &mut stream.sock),
        }
    }
}

/// Writes as the stream of rustls does, but never reads: on a socket whose writes time out, that one
/// goes on to wait for bytes of a peer that waits for ours.
fn write<S: SideData>(
    tls: &mut ConnectionCommon<S>,
    socket: &mut TcpStream,
    bytes: &[u8],
) -> io::Result<usize> {
    drain(tls, socket)?;
    let taken = tls.writer().write(bytes)?;
    match drain(tls, socket) {
        // They are sent with the next bytes, or with the flush.
        Err(error) if !is_timeout(&error) => Err(error),
        _ => Ok(taken),
    }
}

/// Sends everything that is ready to be sent.
fn drain<S: SideData>(tls: &mut ConnectionCommon<S>, socket: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(socket)?;
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Makes the last close of `socket` send RST instead of FIN (socket(7), `SO_LINGER` of 0 s).
pub(super) fn reset_on_close(socket: &TcpStream) {
    // Fails only on what is no socket.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Returns whether the peer has sent FIN or RST, also if there are bytes before it to be read.
pub(super) fn peer_has_ended(socket: &TcpStream) -> bool {
    let mut asked = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: the pointer is to one `pollfd`, as the count says, and it lives through the call.
    let found = unsafe { libc::poll(&raw mut asked, 1, 0) };
    found > 0 && asked.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}
