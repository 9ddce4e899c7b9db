//! An HTTP/1.1 server that shows the bytes it received and answers as a test says.
//!
//! What a test has no rule for is answered by path:
//!
//! | path | answer |
//! |---|---|
//! | `/healthcheck`, `/RASHTML5Gateway` | 200, `ok`; also where others must sign on |
//! | `/bytes/N` | `N` bytes with Content-Length |
//! | `/chunked/N` | `N` bytes in chunks |
//! | `/echo` | the request's body, sent back as it comes |
//! | `/status/NNN` | that status, no body |
//! | `/sse` | server-sent events, one for each [`Origin::send_event`] |
//! | `/websocket` | the handshake of RFC 6455, then an echo of messages |
//! | others | 200 and JSON that says who answers whom: see [`Response::identity`] |
//!
//! A request that can be understood in two ways is answered with 400 and shows among the
//! [`Origin::faults`].

mod connection;
mod connections;
mod events;
mod pages;
mod record;
mod request;
mod response;
pub mod sign_on;

use std::{
    fmt, io,
    net::{Ipv6Addr, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustls::ServerConfig;
use socket2::SockRef;

use super::{
    authority,
    eventually::{eventually, holds_within},
    host::Host,
    listening::listen,
    nginx::Certificate,
    stream::{Agreed, End},
};
use connections::Connections;
use events::Events;
use record::Log;

pub use record::Record;
pub use request::Request;
pub use response::{Response, filling};

/// How long a request may take to come, and a connection to end.
const BOUND: Duration = Duration::from_secs(5);

/// How long an origin waits after a connection that it could not accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Says how a request is answered once its head is there; `None` leaves it to the path.
type Rule = dyn Fn(&Request) -> Option<Response> + Send + Sync;

/// What an origin shall be; see [`Origin::on`].
#[derive(Debug)]
pub struct OriginBuilder {
    name: String,
    host: Host,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    sign_on: Option<String>,
}

impl OriginBuilder {
    /// Gives it another name than the machine's.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        let name = name.to_owned();
        Self { name, ..self }
    }

    /// Listens on one address only.
    #[must_use]
    pub fn address(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    /// Speaks TLS with `certificate`; of protocols, HTTP/1.1 only.
    #[must_use]
    pub fn tls(self, certificate: &Certificate) -> Self {
        self.tls_as(authority::server(certificate, &["http/1.1"]))
    }

    /// Speaks TLS with `settings`.
    #[must_use]
    pub fn tls_as(self, settings: Arc<ServerConfig>) -> Self {
        let tls = Some(settings);
        Self { tls, ..self }
    }

    /// Asks everybody to sign on with `scheme`, `Negotiate` or `NTLM`: see [`sign_on`].
    #[must_use]
    pub fn sign_on(self, scheme: &str) -> Self {
        let sign_on = Some(scheme.to_owned());
        Self { sign_on, ..self }
    }

    /// Starts the server.
    ///
    /// # Panics
    ///
    /// If the port is taken.
    #[must_use]
    pub fn start(self) -> Origin {
        let mut origin = Origin {
            host: self.host,
            address: self.address,
            shared: Arc::new(Shared {
                name: self.name,
                tls: self.tls,
                sign_on: self.sign_on,
                rule: RwLock::default(),
                log: Mutex::default(),
                body_received: AtomicU64::new(0),
                connections: Connections::default(),
                events: Events::default(),
            }),
            running: None,
        };
        origin.resume();
        origin
    }
}

/// A running origin; its connections are reset when it is dropped.
#[derive(Debug)]
pub struct Origin {
    host: Host,
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<(TcpListener, JoinHandle<()>)>,
}

/// What the threads of one origin share.
struct Shared {
    name: String,
    tls: Option<Arc<ServerConfig>>,
    sign_on: Option<String>,
    rule: RwLock<Option<Arc<Rule>>>,
    log: Mutex<Log>,
    body_received: AtomicU64,
    connections: Connections,
    events: Events,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("name", &self.name)
            .field("sign_on", &self.sign_on)
            .finish_non_exhaustive()
    }
}

impl Origin {
    /// Describes an origin called like `host` on its TCP `port`, IPv4 and IPv6, without TLS.
    #[must_use]
    pub fn on(host: &Host, port: u16) -> OriginBuilder {
        OriginBuilder {
            name: host.name().to_owned(),
            host: host.clone(),
            address: SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            tls: None,
            sign_on: None,
        }
    }

    /// Returns the name that it answers with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Answers by `rule` from here on; where it returns `None`, by path.
    pub fn answer(&self, rule: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static) {
        *self.shared.rule.write().expect("no thread panics") = Some(Arc::new(rule));
    }

    /// Answers by path again.
    pub fn answer_by_path(&self) {
        *self.shared.rule.write().expect("no thread panics") = None;
    }

    /// Returns the latest requests, 4096 at most, in the order in which their bodies ended.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.with_log(|log| log.records.iter().cloned().collect())
    }

    /// Returns the records of what came but for the health checks.
    #[must_use]
    pub fn requests(&self) -> Vec<Record> {
        let mut records = self.records();
        records.retain(|record| record.path() != "/healthcheck");
        records
    }

    /// Returns how many requests came so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.with_log(|log| log.received)
    }

    /// Returns how many bytes of bodies came so far, also of requests that go on.
    #[must_use]
    pub fn body_received(&self) -> u64 {
        self.shared.body_received.load(Ordering::Relaxed)
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.with_log(|log| log.records.clear());
    }

    /// Returns what was wrong with requests, 4096 at most.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        self.records()
            .into_iter()
            .filter_map(|record| record.fault)
            .collect()
    }

    /// Waits for a request that `wanted` likes.
    ///
    /// # Panics
    ///
    /// If none comes.
    #[track_caller]
    pub fn await_record(&self, what: &str, wanted: impl Fn(&Record) -> bool) -> Record {
        let mut found = None;
        eventually(BOUND, what, || {
            found = self.records().into_iter().find(&wanted);
            found.is_some()
        });
        found.expect("the condition above held")
    }

    /// Returns how many connections were accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.connections.accepted()
    }

    /// Returns how many connections are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.connections.open()
    }

    /// Returns how many TLS handshakes failed, and the latest reason.
    #[must_use]
    pub fn failed_handshakes(&self) -> (u64, Option<String>) {
        self.with_log(|log| (log.failed_handshakes, log.handshake_failure.clone()))
    }

    /// Sends an event to everybody who reads `/sse` now.
    pub fn send_event(&self, data: &str) {
        self.shared.events.send(data);
    }

    /// Ends the answers of `/sse`.
    pub fn end_events(&self) {
        self.shared.events.end();
    }

    /// Returns how many read `/sse` now.
    #[must_use]
    pub fn event_readers(&self) -> usize {
        self.shared.events.readers()
    }

    /// Ends every connection and goes on listening.
    ///
    /// # Panics
    ///
    /// If one of them does not end.
    pub fn end_connections(&self, end: End) {
        let asked = self.shared.connections.ask(end);
        let gone = || {
            asked
                .iter()
                .all(|number| !self.shared.connections.is_open(*number))
        };
        eventually(BOUND, "the origin's connections end", gone);
    }

    /// Closes the port, so that connections are refused, and ends those that are open.
    ///
    /// # Panics
    ///
    /// If one of them does not end.
    pub fn stop(&mut self, end: End) {
        self.stop_listening();
        self.end_connections(end);
    }

    /// Closes the port and leaves alone what is open.
    pub fn stop_listening(&mut self) {
        if let Some((listener, thread)) = self.running.take() {
            // Wakes the thread: accept(2) returns EINVAL on a socket that is shut down.
            let _ = SockRef::from(&listener).shutdown(std::net::Shutdown::Both);
            // A panic in the thread has been printed.
            let _ = thread.join();
        }
    }

    /// Opens the port again after [`Self::stop`].
    ///
    /// # Panics
    ///
    /// If the port is taken.
    pub fn resume(&mut self) {
        self.stop_listening();
        let listener: TcpListener = self.host.net().enter(|| listen(self.address)).into();
        let accepting = listener.try_clone().expect("a socket can be duplicated");
        let shared = Arc::clone(&self.shared);
        let thread = thread::spawn(move || accept(&accepting, &shared));
        self.running = Some((listener, thread));
    }

    fn with_log<T>(&self, work: impl FnOnce(&mut Log) -> T) -> T {
        work(&mut self.shared.log.lock().expect("no thread panics"))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop_listening();
        self.shared.connections.ask(End::Reset);
        // They hold nothing of the site but sockets; what does not end is not worth a panic here.
        holds_within(BOUND, || self.open_connections() == 0);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let (socket, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            // The client has gone already, or descriptors are short.
            Err(error) => {
                eprintln!("{} cannot accept: {error}", shared.name);
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let handle = shared.connections.add(&socket);
        let shared = Arc::clone(shared);
        thread::spawn(move || connection::serve(&shared, &handle, socket, peer));
    }
}
