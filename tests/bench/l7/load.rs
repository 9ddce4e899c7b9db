//! Loads, and what a proxy's processors spend on them.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Lab, eventually,
    process::Outcome,
    raw::Raw,
    site::vip,
    usage::Usage,
    web_site::{PORTAL, WebSite},
};
use rustls::ClientConfig;

use super::{
    crowd::Crowd,
    peers::{HTTPS, Peer, Peers, REDIRECT},
};

/// Work for a proxy.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// Requests over connections that stay; with streams, over HTTP/2.
    Requests {
        service: u16,
        path: &'static str,
        connections: u32,
        streams: u32,
        requests: u32,
    },
    /// Requests over connections that stay, each from an address of its own.
    Crowd { clients: u16, times: u32 },
    /// Large answers.
    Bulk { service: u16, requests: u32 },
    /// A connection, a handshake and a request, one after the other.
    Connections {
        service: u16,
        resume: bool,
        count: u32,
    },
    /// Requests without TLS that are sent elsewhere.
    Redirects { requests: u32 },
}

/// Connections that are held before memory is looked at.
const FIRST: usize = 50;
/// How long the memory of a proxy must not fall.
const SETTLES: Duration = Duration::from_secs(5);
/// How long that may take.
const SETTLED: Duration = Duration::from_secs(60);

const BULK: f64 = 10.0 * 1024.0 * 1024.0;

impl Load {
    /// Puts the load on a proxy, and returns its cost in the unit of the scenario.
    pub(crate) fn run(self, lab: &Lab, site: &WebSite, peers: &Peers, peer: Peer) -> f64 {
        let processes = peers.processes(peer);
        let cost = |units: f64, work: &mut dyn FnMut()| {
            let before = spent_ns(&processes);
            work();
            (spent_ns(&processes) - before) / units
        };
        match self {
            Self::Requests {
                service,
                path,
                connections,
                streams,
                requests,
            } => {
                let server = vip(peer.port(service));
                cost(f64::from(requests) * 1e3, &mut || {
                    ask(lab, "https", server, path, (connections, streams), requests);
                })
            }
            Self::Crowd { clients, times } => {
                let server = vip(peer.port(HTTPS));
                // Their handshakes are another matter.
                let mut crowd = Crowd::connect(lab, &settings(site, false), server, clients);
                let units = f64::from(clients) * f64::from(times) * 1e3;
                cost(units, &mut || crowd.ask("/1k", times))
            }
            Self::Bulk { service, requests } => {
                let server = vip(peer.port(service));
                cost(f64::from(requests) * BULK, &mut || {
                    ask(lab, "https", server, "/10m", (4, 0), requests);
                })
            }
            Self::Connections {
                service,
                resume,
                count,
            } => {
                let server = vip(peer.port(service));
                cost(f64::from(count) * 1e3, &mut || {
                    connect(lab, site, server, resume, count);
                })
            }
            Self::Redirects { requests } => {
                let server = vip(peer.port(REDIRECT));
                cost(f64::from(requests) * 1e3, &mut || {
                    ask(lab, "http", server, "/1k", (50, 0), requests);
                })
            }
        }
    }
}

/// Returns the nanoseconds of processor time that processes have had (proc(5), schedstat).
fn spent_ns(processes: &[u32]) -> f64 {
    let tasks = processes
        .iter()
        .filter_map(|id| fs::read_dir(format!("/proc/{id}/task")).ok())
        .flatten()
        .flatten();
    let spent = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    spent.sum::<u64>() as f64
}

/// Sends requests, and sees that all of them are answered.
fn ask(
    lab: &Lab,
    scheme: &str,
    server: SocketAddr,
    path: &str,
    connections_and_streams: (u32, u32),
    requests: u32,
) {
    let mut command = h2load(lab, scheme, server, path, connections_and_streams);
    command.args(["-n", &requests.to_string()]);
    let text = Outcome::of(command).ok();
    let done = format!("{requests} succeeded");
    let redirected = format!("{requests} 3xx");
    assert!(text.contains(&done) || text.contains(&redirected), "{text}");
}

/// Returns what sends requests over so many connections, each with so many streams of HTTP/2, or
/// HTTP/1.1 with none.
pub(crate) fn h2load(
    lab: &Lab,
    scheme: &str,
    server: SocketAddr,
    path: &str,
    (connections, streams): (u32, u32),
) -> Command {
    let mut command = lab.client(1).command("h2load");
    command
        .args(["-t", "1", "-c", &connections.to_string()])
        .arg(format!("--connect-to={server}"));
    match streams {
        0 => command.arg("--h1"),
        streams => command.args(["-m", &streams.to_string()]),
    };
    command.arg(format!("{scheme}://{PORTAL}:{}{path}", server.port()));
    command
}

fn connect(lab: &Lab, site: &WebSite, server: SocketAddr, resume: bool, count: u32) {
    let settings = settings(site, resume);
    for number in 0..count {
        let client = Raw::tcp(lab.client(1), server).expect("a connection");
        let mut client = client.tls(&settings, PORTAL).expect("a handshake");
        let answer = client.get(PORTAL, "/1k", "").expect("an answer");
        assert_eq!(answer.status, 200);
        let resumed = client.agreed().is_some_and(|agreed| agreed.resumed);
        assert_eq!(
            resumed,
            resume && number > 0,
            "connection {number} to {server}"
        );
    }
}

/// Anybody is trusted: what clients verify is not the proxy's work.
fn settings(site: &WebSite, resume: bool) -> Arc<ClientConfig> {
    let mut settings = (*site.client(&["http/1.1"])).clone();
    settings
        .dangerous()
        .set_certificate_verifier(Arc::new(Anybody));
    if !resume {
        settings.resumption = rustls::client::Resumption::disabled();
    }
    Arc::new(settings)
}

#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Returns what `memory` says once it has not fallen for a while: a proxy may give back later what it
/// does not need.
fn settled(memory: impl Fn() -> f64) -> f64 {
    let mut least = memory();
    let mut since = Instant::now();
    eventually(SETTLED, "the proxy's memory no longer falls", || {
        let now = memory();
        if now < least {
            least = now;
            since = Instant::now();
        }
        since.elapsed() >= SETTLES
    });
    least
}

/// Returns the KiB of memory that a proxy takes for each of `count` connections that have had one
/// answer and wait.
pub(crate) fn idle(lab: &Lab, site: &WebSite, peers: &Peers, peer: Peer, count: usize) -> f64 {
    let memory = || -> f64 {
        let processes = peers.processes(peer);
        processes
            .iter()
            .map(|id| Usage::of(*id).pss_kib as f64)
            .sum()
    };
    let settings = settings(site, true);
    let server = vip(peer.port(HTTPS));
    let hold = |count| -> Vec<Raw> {
        let answered = (0..count).map(|_| {
            let client = Raw::tcp(lab.client(1), server).expect("a connection");
            let mut client = client.tls(&settings, PORTAL).expect("a handshake");
            let answer = client.get(PORTAL, "/1k", "").expect("an answer");
            assert_eq!(answer.status, 200);
            client
        });
        answered.collect()
    };
    // The first ones need code and tables that the others find.
    let first = hold(FIRST);
    let before = settled(memory);
    let held = hold(count);
    let after = settled(memory);
    drop((first, held));
    (after - before) / count as f64
}
