//! How long clients wait while a proxy has work, but is not full.

use std::{fs, net::SocketAddr, path::Path};

use lb_tests::lab::{Lab, process::Outcome, site::vip};

use super::{
    load::h2load,
    peers::{HTTPS, Peer},
};

/// What part of the rate that the slowest proxy reaches each of them is asked.
const SHARE: f64 = 0.7;
const CONNECTIONS: u32 = 50;
/// Requests that tell how fast a proxy is.
const FULL: u32 = 20_000;
/// Seconds for which requests come at that rate.
const SECONDS: f64 = 2.0;
/// What parts the beginnings of two clients. Each sends at moments of its own that are a multiple of
/// 10 ms apart: clients that began at one moment would all send at one moment, and then wait for the
/// processor that they share with the servers rather than for a proxy.
const APART: &str = "3ms";

/// Requests in a second that all proxies have time for.
#[derive(Clone, Copy)]
pub(crate) struct Rate(f64);

impl Rate {
    /// Finds out how many requests in a second each proxy answers here, with its clients and servers
    /// beside it on the same processors, and takes a share of the least.
    pub(crate) fn find(lab: &Lab) -> Self {
        let full = |peer: Peer| {
            let mut command = h2load(lab, "https", server(peer), "/1k", (CONNECTIONS, 0));
            command.args(["-n", &FULL.to_string()]);
            let text = Outcome::of(command).ok();
            rate(&text).unwrap_or_else(|| panic!("no rate: {text}"))
        };
        Self(
            SHARE
                * Peer::ALL
                    .into_iter()
                    .map(full)
                    .fold(f64::INFINITY, f64::min),
        )
    }

    /// Returns the milliseconds within which a proxy answers 99 of 100 requests that come at this
    /// rate.
    pub(crate) fn p99(self, lab: &Lab, peer: Peer) -> f64 {
        let log = lab.directory().join("latency.tsv");
        let _ = fs::remove_file(&log);
        let mut command = h2load(lab, "https", server(peer), "/1k", (CONNECTIONS, 0));
        let each = self.0 / f64::from(CONNECTIONS);
        command
            .args(["-n", &format!("{:.0}", self.0 * SECONDS)])
            .arg(format!("--rps={each:.1}"))
            .args(["-r", "1", "--rate-period", APART])
            .arg(format!("--log-file={}", log.display()));
        Outcome::of(command).ok();
        percentile(&log, 0.99)
    }
}

fn server(peer: Peer) -> SocketAddr {
    vip(peer.port(HTTPS))
}

/// Returns the requests in a second of what h2load prints: `finished in 1.02s, 19600.01 req/s, ...`.
fn rate(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("finished in"))?;
    let rate = line
        .split(", ")
        .find_map(|part| part.strip_suffix(" req/s"))?;
    rate.parse().ok()
}

/// Returns the time in milliseconds that this share of the requests in a log of h2load did not
/// exceed: begin, status, microseconds.
fn percentile(log: &Path, share: f64) -> f64 {
    let text = fs::read_to_string(log).expect("a log");
    let mut times: Vec<f64> = text
        .lines()
        .map(|line| {
            let mut columns = line.split('\t');
            assert_eq!(columns.nth(1), Some("200"), "{line}");
            let time = columns.next().and_then(|time| time.parse().ok());
            time.expect("a time")
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * share) as usize] / 1e3
}
