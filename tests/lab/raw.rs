//! A client that sends exactly the bytes that a test wants.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::ClientConfig;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{
    host::Host,
    http1::{self, BodyReader, Framing},
    stream::{Agreed, End, Stream},
    wire::Wire,
};

/// How long a connection may take to be made, and a read may wait, unless a test says otherwise.
const BOUND: Duration = Duration::from_secs(10);

/// A client's connection.
#[derive(Debug)]
pub struct Raw {
    wire: Wire,
}

impl Raw {
    /// Connects from `host` to `server`.
    ///
    /// # Errors
    ///
    /// Why there is no connection.
    pub fn tcp(host: &Host, server: SocketAddr) -> io::Result<Self> {
        Ok(Self::over(Stream::Plain(connect(host, None, server)?)))
    }

    /// Connects from the address `source` of `host`, such as one of the campus; port 0 lets the
    /// kernel choose.
    ///
    /// # Errors
    ///
    /// Why there is no connection.
    pub fn tcp_from(host: &Host, source: SocketAddr, server: SocketAddr) -> io::Result<Self> {
        let socket = connect(host, Some(source), server)?;
        Ok(Self::over(Stream::Plain(socket)))
    }

    /// Makes TLS for the server `name` on this connection, before anything was sent.
    ///
    /// # Errors
    ///
    /// What the handshake failed of.
    pub fn tls(self, settings: &Arc<ClientConfig>, name: &str) -> io::Result<Self> {
        match self.wire.into_stream() {
            Stream::Plain(socket) => {
                Stream::client(socket, Arc::clone(settings), name).map(Self::over)
            }
            Stream::Client(_) | Stream::Server(_) => {
                Err(io::Error::other("this connection has TLS already"))
            }
        }
    }

    fn over(stream: Stream) -> Self {
        let wire = Wire::new(stream);
        Self { wire }
    }

    /// Returns what TLS agreed on; `None` without TLS.
    #[must_use]
    pub fn agreed(&self) -> Option<Agreed> {
        self.wire.stream().agreed()
    }

    /// Returns this end's address and port.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.wire
            .stream()
            .socket()
            .local_addr()
            .expect("a connected socket has an address")
    }

    /// Lets reads wait for at most `bound`.
    pub fn set_bound(&self, bound: Duration) {
        self.wire
            .stream()
            .socket()
            .set_read_timeout(Some(bound))
            .expect("a timeout can be set");
    }

    /// Sends `bytes`.
    ///
    /// # Errors
    ///
    /// What the connection says.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.write_all(bytes.as_ref())?;
        self.wire.flush()
    }

    /// Sends `bytes`, a request with `method`, and reads the answer to it.
    ///
    /// # Errors
    ///
    /// What the connection says, or what is wrong with the answer.
    pub fn ask(&mut self, method: &str, bytes: impl AsRef<[u8]>) -> io::Result<RawAnswer> {
        self.send(bytes)?;
        self.answer(method)
    }

    /// Asks for `target` of `host` with GET and these header lines, each with its line end.
    ///
    /// # Errors
    ///
    /// What the connection says, or what is wrong with the answer.
    pub fn get(&mut self, host: &str, target: &str, headers: &str) -> io::Result<RawAnswer> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        self.ask("GET", request)
    }

    /// Reads the answer to a request with `method`; interim ones but 101 are passed over.
    ///
    /// # Errors
    ///
    /// What the connection says, or what is wrong with the answer.
    pub fn answer(&mut self, method: &str) -> io::Result<RawAnswer> {
        let (status, head) = loop {
            let (status, head) = self.answer_head()?;
            if !(100..=199).contains(&status) || status == 101 {
                break (status, head);
            }
        };
        let framing = Framing::of_response(&head, status, method).map_err(wrong)?;
        let mut reader = BodyReader::new(framing);
        let (mut body, mut raw_body) = (Vec::new(), Vec::new());
        while let Some(piece) = reader.next(&mut self.wire)? {
            body.extend_from_slice(&piece.data);
            raw_body.extend_from_slice(&piece.raw);
        }
        Ok(RawAnswer {
            status,
            head,
            body,
            raw_body,
        })
    }

    /// Reads the head of one answer, interim or final, and returns its status with it.
    ///
    /// # Errors
    ///
    /// What the connection says, or that this is no head.
    pub fn answer_head(&mut self) -> io::Result<(u16, Vec<u8>)> {
        let head = self
            .wire
            .head()?
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let line = http1::first_line(&head);
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| wrong(format!("{line:?} is no status line of HTTP/1.1")))?;
        Ok((status, head))
    }

    /// Reads `length` bytes.
    ///
    /// # Errors
    ///
    /// What the connection says.
    pub fn read_exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.wire.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads to the peer's end of the connection.
    ///
    /// # Errors
    ///
    /// What the connection says: a reset, a truncation of TLS, or that no end came in time.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.wire.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns how the peer ends the connection; what it sends before is passed over.
    ///
    /// # Errors
    ///
    /// That no end came within `bound`.
    pub fn await_end(&mut self, bound: Duration) -> io::Result<End> {
        self.set_bound(bound);
        match self.read_to_end() {
            Ok(_) => Ok(End::Close),
            Err(error) => match error.kind() {
                io::ErrorKind::UnexpectedEof => Ok(End::Fin),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ok(End::Reset),
                _ => Err(error),
            },
        }
    }

    /// Says that nothing more will be sent, and can still read.
    ///
    /// # Errors
    ///
    /// What the connection says.
    pub fn finish(&mut self) -> io::Result<()> {
        self.wire.stream_mut().finish()
    }

    /// Ends the connection.
    pub fn end(self, end: End) {
        self.wire.into_stream().end(end);
    }

    /// Returns the connection for what else speaks over it, such as WebSocket.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

/// An answer as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawAnswer {
    /// The status.
    pub status: u16,
    /// The exact bytes to the empty line, inclusive.
    pub head: Vec<u8>,
    /// The body, without what chunks add.
    pub body: Vec<u8>,
    /// The body as it came.
    pub raw_body: Vec<u8>,
}

impl RawAnswer {
    /// Returns the values of all header lines called `name`, in their order.
    #[must_use]
    pub fn headers(&self, name: &str) -> Vec<&str> {
        http1::values(&self.head, name)
    }

    /// Returns the value of the first header line called `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).first().copied()
    }

    /// Returns the body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the body as JSON.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON: {error}: {}", self.text()))
    }
}

fn connect(host: &Host, source: Option<SocketAddr>, server: SocketAddr) -> io::Result<TcpStream> {
    host.net().enter(|| {
        let socket = Socket::new(
            Domain::for_address(server),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if let Some(source) = source {
            socket.bind(&SockAddr::from(source))?;
        }
        socket.connect_timeout(&SockAddr::from(server), BOUND)?;
        let socket = TcpStream::from(socket);
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(BOUND))?;
        socket.set_write_timeout(Some(BOUND))?;
        Ok(socket)
    })
}

fn wrong(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
