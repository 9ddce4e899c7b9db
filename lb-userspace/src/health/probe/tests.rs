//! Probes against real servers in this process.

mod http;
mod others;
mod server;
mod tls;

use std::{collections::BTreeSet, net::SocketAddr};

use super::*;
use crate::config::model::HttpProbe;

/// Long enough for a loaded machine; no test waits for it.
const AMPLE: Duration = Duration::from_secs(20);

/// For probes that get no answer.
const SHORT: Duration = Duration::from_millis(150);

fn check(probe: ProbeSpec, timeout: Duration) -> HealthCheck {
    HealthCheck {
        probe,
        port: None,
        interval: Duration::from_secs(30),
        timeout,
        rise: 2,
        fall: 3,
    }
}

fn target(address: SocketAddr) -> ProbeTarget {
    ProbeTarget {
        name: String::from("aa01"),
        address: address.ip(),
        port: address.port(),
        server_name: None,
        pin: None,
    }
}

fn get(path: &str) -> HttpProbe {
    HttpProbe {
        tls: None,
        host: None,
        path: path.to_owned(),
        method: String::from("GET"),
        expect_status: BTreeSet::from([200]),
        expect_body: None,
    }
}

/// Returns what is said of a failed probe.
fn reason(outcome: &ProbeOutcome) -> String {
    assert!(matches!(outcome, ProbeOutcome::Failed(_)), "{outcome}");
    outcome.to_string()
}

/// Returns what is said of a probe that passed.
fn detail(outcome: &ProbeOutcome) -> String {
    assert!(matches!(outcome, ProbeOutcome::Passed { .. }), "{outcome}");
    outcome.to_string()
}
