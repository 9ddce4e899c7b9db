//! Backends that tell who they are and whom they see.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{
    clients::{LONGEST_DATAGRAM, grow_receive_buffer},
    eventually::eventually,
    host::Host,
};

/// How often a server looks whether it shall stop.
const STOP_POLL: Duration = Duration::from_millis(20);

/// How long a port may still be taken.
const BIND_BOUND: Duration = Duration::from_secs(2);

/// What an [`IdentityServer`] said: `name|address:port|payload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name of the server.
    pub backend: String,
    /// Where the datagram seemed to come from.
    pub source: SocketAddr,
    /// What it contained.
    pub payload: String,
}

impl Answer {
    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// A sentence with the text, if it is no answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(bytes);
        let wrong = || format!("{text:?} is no answer of an identity server");
        let mut parts = text.splitn(3, '|');
        let (Some(backend), Some(source), Some(payload)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        Ok(Self {
            backend: backend.to_owned(),
            source: source.parse().map_err(|_| wrong())?,
            payload: payload.to_owned(),
        })
    }
}

/// A UDP server that answers each datagram with its own name and the source that it saw.
#[derive(Debug)]
pub struct IdentityServer {
    name: String,
    host: Host,
    address: SocketAddr,
    seen: Arc<Mutex<BTreeMap<SocketAddr, u64>>>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl IdentityServer {
    /// Starts a server called like `host` on its UDP `port`, IPv4 and IPv6.
    ///
    /// # Panics
    ///
    /// If the port is taken.
    #[must_use]
    pub fn start(host: &Host, port: u16) -> Self {
        Self::start_as(host.name(), host, port)
    }

    /// Like [`Self::start`], under another name.
    ///
    /// # Panics
    ///
    /// If the port is taken.
    #[must_use]
    pub fn start_as(name: &str, host: &Host, port: u16) -> Self {
        Self::start_at(name, host, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    }

    /// Starts a server called `name` on one `address` of `host`, so that its answers come from there.
    ///
    /// # Panics
    ///
    /// If the port is taken.
    #[must_use]
    pub fn start_at(name: &str, host: &Host, address: SocketAddr) -> Self {
        let mut server = Self {
            name: name.to_owned(),
            host: host.clone(),
            address,
            seen: Arc::default(),
            running: None,
        };
        server.resume();
        server
    }

    /// Returns the name that it answers with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the sources seen so far and how many datagrams came from each.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<SocketAddr, u64> {
        self.seen.lock().expect("the server does not panic").clone()
    }

    /// Returns how many datagrams came so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.seen
            .lock()
            .expect("the server does not panic")
            .values()
            .sum()
    }

    /// Closes the port: the host answers with port unreachable.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.store(true, Ordering::Relaxed);
            running.thread.join().expect("the server does not panic");
        }
    }

    /// Opens the port again after [`Self::stop`].
    ///
    /// # Panics
    ///
    /// If the port is taken.
    pub fn resume(&mut self) {
        self.stop();
        let socket = self.host.net().enter(|| bind(self.address));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (stop, seen, name) = (Arc::clone(&stop), Arc::clone(&self.seen), self.name.clone());
            move || serve(&socket, &name, &seen, &stop)
        });
        self.running = Some(Running { stop, thread });
    }
}

impl Drop for IdentityServer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.store(true, Ordering::Relaxed);
            // A panic in the thread has been printed; a second one here would abort the test.
            let _ = running.thread.join();
        }
    }
}

fn bind(address: SocketAddr) -> UdpSocket {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )
    .expect("a socket can be made");
    if address.is_ipv6() {
        socket
            .set_only_v6(false)
            .expect("a socket can serve both families");
    }
    // A child that another thread has just begun may hold the port that was closed before.
    eventually(BIND_BOUND, &format!("bind to UDP {address}"), || {
        socket.bind(&address.into()).is_ok()
    });
    let socket = UdpSocket::from(socket);
    grow_receive_buffer(&socket);
    socket
        .set_read_timeout(Some(STOP_POLL))
        .expect("a timeout can be set");
    socket
}

fn serve(
    socket: &UdpSocket,
    name: &str,
    seen: &Mutex<BTreeMap<SocketAddr, u64>>,
    stop: &AtomicBool,
) {
    let mut buffer = vec![0; LONGEST_DATAGRAM];
    while !stop.load(Ordering::Relaxed) {
        let (length, peer) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            // A timeout, or the port unreachable of an earlier answer.
            Err(_) => continue,
        };
        let source = unmapped(peer);
        *seen
            .lock()
            .expect("nobody panics with the lock")
            .entry(source)
            .or_insert(0) += 1;
        let mut answer = format!("{name}|{source}|").into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        if let Err(error) = socket.send_to(&answer, peer)
            && error.kind() != io::ErrorKind::ConnectionRefused
        {
            eprintln!("{name} cannot answer {source}: {error}");
        }
    }
}

/// Returns the IPv4 address behind an IPv4-mapped one (RFC 4291 section 2.5.5.2).
fn unmapped(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V6(v6) => v6
            .ip()
            .to_ipv4_mapped()
            .map_or(peer, |v4: Ipv4Addr| SocketAddr::from((v4, v6.port()))),
        SocketAddr::V4(_) => peer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_keeps_what_the_payload_contains() {
        let answer = Answer::parse(b"gateway1|[fd00::1]:443|a|b").expect("a right answer");

        assert_eq!(answer.backend, "gateway1");
        assert_eq!(answer.source, "[fd00::1]:443".parse().expect("an address"));
        assert_eq!(answer.payload, "a|b");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        assert!(Answer::parse(b"gateway1|somewhere|x").is_err());
        assert!(Answer::parse(b"gateway1").is_err());
    }
}
