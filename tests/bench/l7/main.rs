//! What a request, a connection and a gigabyte cost in the proxy, beside HAProxy and nginx that do
//! the same work in the same run: `cargo xtask bench l7`.
//!
//! All three run in one balancer's namespace, with the same certificates, the same backends and the
//! same clients; one after the other in each round. What is compared is the processor time of the
//! proxy alone. On a shared machine one round differs from another by more than proxies do, so the
//! figure is the median of the ratios within a round.

mod cores;
mod crowd;
mod latency;
mod load;
mod peers;
mod report;

use std::{env, process::ExitCode};

use lb_tests::lab::{Daemon, Lab, web_site::WebSite};

use latency::Rate;
use load::Load;
use peers::{Peer, Peers};
use report::Report;

/// What is measured: a name, the unit, and the load.
const SCENARIOS: [(&str, &str, Load); 12] = [
    (
        "HTTPS, 1 KiB, keep-alive",
        "us/request",
        Load::Requests {
            service: peers::HTTPS,
            path: "/1k",
            connections: 50,
            streams: 0,
            requests: 20_000,
        },
    ),
    (
        "HTTPS, 1 KiB, 200 source addresses",
        "us/request",
        Load::Crowd {
            clients: 200,
            times: 100,
        },
    ),
    (
        "HTTPS, 100 KiB",
        "us/request",
        Load::Requests {
            service: peers::HTTPS,
            path: "/100k",
            connections: 50,
            streams: 0,
            requests: 3_000,
        },
    ),
    (
        "HTTPS, 10 MiB",
        "s/GB",
        Load::Bulk {
            service: peers::HTTPS,
            requests: 40,
        },
    ),
    (
        "HTTP/2, 1 KiB, 20 connections of 10 streams",
        "us/request",
        Load::Requests {
            service: peers::HTTPS,
            path: "/1k",
            connections: 20,
            streams: 10,
            requests: 20_000,
        },
    ),
    (
        "new TLS connection, P-256",
        "us/connection",
        Load::Connections {
            service: peers::HTTPS,
            resume: false,
            count: 400,
        },
    ),
    (
        "new TLS connection, resumed",
        "us/connection",
        Load::Connections {
            service: peers::HTTPS,
            resume: true,
            count: 400,
        },
    ),
    (
        "new TLS connection, RSA-2048",
        "us/connection",
        Load::Connections {
            service: peers::RSA,
            resume: false,
            count: 400,
        },
    ),
    (
        "TCP, 1 KiB, keep-alive",
        "us/request",
        Load::Requests {
            service: peers::TCP,
            path: "/1k",
            connections: 50,
            streams: 0,
            requests: 20_000,
        },
    ),
    (
        "TCP, new connection",
        "us/connection",
        Load::Connections {
            service: peers::TCP,
            resume: false,
            count: 400,
        },
    ),
    (
        "TCP, 10 MiB",
        "s/GB",
        Load::Bulk {
            service: peers::TCP,
            requests: 40,
        },
    ),
    (
        "redirect",
        "us/request",
        Load::Redirects { requests: 20_000 },
    ),
];

/// How long 99 of 100 requests take at most while all proxies have time for more.
const LATENCY: &str = "p99 at 70% of the rate of the slowest";

/// What is measured last. After other loads a proxy has memory to give that it took for them: alone
/// (`--only memory`) the figure is that of fresh processes.
const MEMORY: &str = "memory of an idle TLS connection";
/// Connections that are held open to see what each takes.
const IDLE: usize = 1000;

fn main() -> ExitCode {
    let options = Options::read();
    if options.alone {
        cores::pin(std::process::id(), 1);
    }
    let workers = if options.alone { 1 } else { 2 };
    let lab = Lab::one_arm().gateways(2).campus().build();
    let site = WebSite::start_with(&lab, |origin| origin);
    // The origins of the tests are slow: real servers stand beside them on other ports.
    let servers = peers::Servers::start(&lab, &site);
    let configuration = peers::vipd(&lab, &site, &servers, workers);
    let daemon = Daemon::start(&lab, &configuration);
    let peers = Peers::start(&lab, &site, &servers, workers, daemon.pid());
    if options.alone {
        let processes = Peer::ALL.iter().flat_map(|peer| peers.processes(*peer));
        processes.for_each(|process| cores::pin(process, 0));
    }

    let mut report = Report::default();
    for (name, unit, load) in SCENARIOS {
        if !options.wants(name) {
            continue;
        }
        for round in 0..=options.rounds {
            for peer in turns(round) {
                let cost = load.run(&lab, &site, &peers, peer);
                // The first round fills caches and pools of connections.
                if round > 0 {
                    report.add(name, unit, peer, cost);
                }
            }
        }
        report.print(name);
    }
    if options.wants(LATENCY) {
        let rate = Rate::find(&lab);
        for round in 0..options.rounds {
            for peer in turns(round) {
                report.add(LATENCY, "ms", peer, rate.p99(&lab, peer));
            }
        }
        report.print(LATENCY);
    }
    if options.wants(MEMORY) {
        for peer in Peer::ALL {
            let kib = load::idle(&lab, &site, &peers, peer, IDLE);
            report.add(MEMORY, "KiB", peer, kib);
        }
        report.print(MEMORY);
    }
    if options.json {
        println!("{}", report.json());
    }
    ExitCode::SUCCESS
}

/// Returns the order in which the proxies have their turns in a round.
fn turns(round: usize) -> impl Iterator<Item = Peer> {
    let count = Peer::ALL.len();
    (0..count).map(move |place| Peer::ALL[(place + round) % count])
}

/// The command line.
struct Options {
    rounds: usize,
    only: Option<String>,
    json: bool,
    /// Each proxy has one thread on a processor that it shares with nobody.
    alone: bool,
}

impl Options {
    fn read() -> Self {
        let words: Vec<String> = env::args().collect();
        let value = |name: &str| {
            let place = words.iter().position(|word| word == name)?;
            words.get(place + 1).cloned()
        };
        Self {
            rounds: value("--rounds").and_then(|n| n.parse().ok()).unwrap_or(15),
            only: value("--only"),
            json: words.iter().any(|word| word == "--json"),
            alone: words.iter().any(|word| word == "--alone"),
        }
    }

    /// Returns whether something is to be measured.
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only))
    }
}
