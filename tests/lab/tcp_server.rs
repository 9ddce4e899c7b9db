//! A TCP server that does with each connection what a test says.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{eventually::eventually, host::Host, listening::listen};

/// How long a connection may take to end.
const BOUND: Duration = Duration::from_secs(5);

type Serve = dyn Fn(TcpStream, SocketAddr) + Send + Sync;

/// A server with a thread for each connection.
pub struct TcpServer {
    host: Host,
    port: u16,
    shared: Arc<Shared>,
    running: Option<(TcpListener, JoinHandle<()>)>,
}

struct Shared {
    serve: Box<Serve>,
    accepted: AtomicU64,
    open: Mutex<BTreeMap<u64, TcpStream>>,
}

impl fmt::Debug for TcpServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TcpServer")
            .field("host", &self.host.name())
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl TcpServer {
    /// Starts a server on TCP `port` of `host`, IPv4 and IPv6; `serve` has each connection on a
    /// thread of its own, with the peer's address.
    ///
    /// # Panics
    ///
    /// If the port is taken.
    #[must_use]
    pub fn start(
        host: &Host,
        port: u16,
        serve: impl Fn(TcpStream, SocketAddr) + Send + Sync + 'static,
    ) -> Self {
        let mut server = Self {
            host: host.clone(),
            port,
            shared: Arc::new(Shared {
                serve: Box::new(serve),
                accepted: AtomicU64::new(0),
                open: Mutex::default(),
            }),
            running: None,
        };
        server.resume();
        server
    }

    /// Starts a server that says `name|peer` on a line, and then sends back what it receives.
    ///
    /// # Panics
    ///
    /// If the port is taken.
    #[must_use]
    pub fn echo(host: &Host, port: u16) -> Self {
        let name = host.name().to_owned();
        Self::start(host, port, move |stream, peer| {
            // It is over when the connection is.
            let _ = greet_and_echo(stream, &name, peer);
        })
    }

    /// Returns how many connections were accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Returns how many connections are being served.
    ///
    /// # Panics
    ///
    /// Never.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.lock().expect("no thread panics").len()
    }

    /// Closes the port, and resets what is open.
    ///
    /// # Panics
    ///
    /// If a connection does not end.
    pub fn stop(&mut self) {
        self.stop_listening();
        self.reset_all();
        eventually(BOUND, "the server's connections end", || self.open() == 0);
    }

    /// Closes the port and leaves alone what is open.
    pub fn stop_listening(&mut self) {
        if let Some((listener, thread)) = self.running.take() {
            // Wakes the thread: accept(2) returns EINVAL on a socket that is shut down.
            let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }

    /// Opens the port again after [`Self::stop`].
    ///
    /// # Panics
    ///
    /// If the port is taken.
    pub fn resume(&mut self) {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port));
        let listener: TcpListener = self.host.net().enter(|| listen(address)).into();
        let accepting = listener.try_clone().expect("a socket can be duplicated");
        let shared = Arc::clone(&self.shared);
        let thread = thread::spawn(move || accept(&accepting, &shared));
        self.running = Some((listener, thread));
    }

    fn reset_all(&self) {
        for stream in self.shared.open.lock().expect("no thread panics").values() {
            // RST on the last close (socket(7), SO_LINGER of 0 s). Both fail only on what has ended.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Read);
        }
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.stop_listening();
        self.reset_all();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            Err(_) => continue,
        };
        let peer = SocketAddr::new(IpAddr::to_canonical(&peer.ip()), peer.port());
        let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
        let Ok(held) = stream.try_clone() else {
            continue;
        };
        shared
            .open
            .lock()
            .expect("no thread panics")
            .insert(number, held);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            (shared.serve)(stream, peer);
            shared
                .open
                .lock()
                .expect("no thread panics")
                .remove(&number);
        });
    }
}

fn greet_and_echo(mut stream: TcpStream, name: &str, peer: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name}|{peer}\n").as_bytes())?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

/// A client of [`TcpServer::echo`].
#[derive(Debug)]
pub struct EchoClient {
    /// The connection; what it is greeted with has been read.
    pub stream: TcpStream,
    /// Who answers.
    pub server: String,
    /// Whom the server sees.
    pub seen: SocketAddr,
}

impl EchoClient {
    /// Connects from `host` to `server`, from the address `source` if there is one.
    ///
    /// # Errors
    ///
    /// What the connection says before the greeting has come.
    pub fn connect(
        host: &Host,
        source: Option<SocketAddr>,
        server: SocketAddr,
    ) -> io::Result<Self> {
        Self::greeted(connect(host, source, server)?)
    }

    /// Reads the greeting of a connection.
    ///
    /// # Errors
    ///
    /// What the connection says before it has come.
    pub fn greeted(mut stream: TcpStream) -> io::Result<Self> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        let (server, seen) = line.split_once('|').ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            stream,
            server: server.to_owned(),
            seen: seen.parse().map_err(io::Error::other)?,
        })
    }

    /// Sends `bytes` and reads as many.
    ///
    /// # Errors
    ///
    /// What the connection says, or that other bytes came back.
    pub fn echo(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        let mut back = vec![0; bytes.len()];
        self.stream.read_exact(&mut back)?;
        match back == bytes {
            true => Ok(()),
            false => Err(io::Error::other("other bytes came back")),
        }
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        super::stream::reset_on_close(&self.stream);
    }
}

/// Connects from `host` to `server`, from the address `source` if there is one; reads and writes
/// wait for ten seconds at most.
///
/// # Errors
///
/// Why there is no connection.
pub fn connect(
    host: &Host,
    source: Option<SocketAddr>,
    server: SocketAddr,
) -> io::Result<TcpStream> {
    host.net().enter(|| {
        let socket = Socket::new(
            Domain::for_address(server),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if let Some(source) = source {
            if source.is_ipv6() {
                // An address that the machine has by a route only.
                socket.set_freebind_v6(true)?;
            }
            socket.bind(&source.into())?;
        }
        socket.connect_timeout(&server.into(), Duration::from_secs(10))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    })
}

/// Reads to the peer's end; a reset is an end too.
///
/// # Errors
///
/// That no end came in time.
pub fn end_of(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(bytes),
        Err(error) => Err(error),
    }
}
