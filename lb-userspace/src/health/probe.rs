//! One probe: something is sent to a backend, and the answer is compared with what is expected.
//!
//! A probe knows nothing about rise and fall, and keeps nothing from one run to the next but its
//! TLS configuration.

mod connect;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod http;
mod ping;
mod tls;
mod udp;

use std::{
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

pub use self::failure::{Awaited, ProbeFailure};
use crate::{
    config::model::{HealthCheck, Pin, ProbeSpec, Verify},
    tls::{ClientTls, SystemRoots, Trust},
};

/// Whom a probe is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// The backend's name, for logs.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port, unless the check names one of its own.
    pub port: u16,
    /// Name to ask for and to verify where the check names none.
    pub server_name: Option<String>,
    /// The backend's own pinned key.
    pub pin: Option<Pin>,
}

/// How one probe ended. Its text is what an administrator would say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The backend answered as expected.
    Passed {
        /// From the start to the answer.
        latency: Duration,
        /// What was answered, such as `GET /healthcheck answered 200`.
        detail: String,
    },
    /// It did not.
    Failed(ProbeFailure),
}

impl ProbeOutcome {
    /// Returns whether the probe failed by the fault of this machine, so that it says nothing about
    /// the backend.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Failed(ProbeFailure::Local(_)))
    }
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { detail, .. } => f.write_str(detail),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

/// Sends one probe and returns how it ended, at the latest shortly after `check.timeout`.
///
/// Whoever probes again and again keeps a [`Probe`] instead: this builds the TLS configuration anew.
pub async fn probe(check: &HealthCheck, target: &ProbeTarget) -> ProbeOutcome {
    Probe::new(check, target, &Arc::default()).run().await
}

/// A check's probe, ready to be sent any number of times.
#[derive(Clone, Debug)]
pub struct Probe {
    spec: ProbeSpec,
    target: ProbeTarget,
    timeout: Duration,
    tls: Option<Arc<ClientTls>>,
}

impl Probe {
    /// Makes the probe of `check` for `target`. Nothing is read or sent yet.
    #[must_use]
    pub fn new(check: &HealthCheck, target: &ProbeTarget, system: &Arc<SystemRoots>) -> Self {
        let mut target = target.clone();
        target.port = check.port.unwrap_or(target.port);
        let tls = trust(&check.probe).map(|(verify, alpn)| {
            let trust = Trust::new(verify, target.pin);
            // Without resumption, so that each probe sees the certificate.
            Arc::new(ClientTls::new(trust, Arc::clone(system), alpn, false))
        });
        Self {
            spec: check.probe.clone(),
            target,
            timeout: check.timeout,
            tls,
        }
    }

    /// Sends the probe and returns how it ended, at the latest shortly after its timeout.
    pub async fn run(&self) -> ProbeOutcome {
        let clock = Clock::start(self.timeout);
        let result = match (&self.spec, &self.tls) {
            (ProbeSpec::Connect, _) => connect::probe(&self.target, &clock).await,
            (ProbeSpec::Ping, _) => ping::probe(self.target.address, &clock).await,
            (ProbeSpec::Udp { send, expect }, _) => {
                udp::probe(&self.target, send, expect.as_deref(), &clock).await
            }
            (ProbeSpec::Http(spec), tls) => {
                http::probe(spec, &self.target, tls.as_ref(), &clock).await
            }
            (ProbeSpec::Tls { server_name, .. }, Some(tls)) => {
                tls::probe(&self.target, server_name.as_deref(), tls, &clock).await
            }
            (ProbeSpec::Tls { .. }, None) => Err(ProbeFailure::Local(String::from(
                "this probe was made without TLS",
            ))),
        };
        match result {
            Ok(Passed { latency, detail }) => ProbeOutcome::Passed { latency, detail },
            Err(failure) => ProbeOutcome::Failed(failure),
        }
    }
}

/// Returns how the certificate is judged and which protocols are offered, for probes over TLS.
fn trust(spec: &ProbeSpec) -> Option<(&Verify, &'static [&'static str])> {
    match spec {
        ProbeSpec::Tls { verify, .. } => Some((verify, &[])),
        ProbeSpec::Http(http) => http.tls.as_ref().map(|verify| (verify, HTTP1)),
        ProbeSpec::Connect | ProbeSpec::Ping | ProbeSpec::Udp { .. } => None,
    }
}

/// The protocol of every HTTP probe, as ALPN names it (RFC 7301 section 6).
const HTTP1: &[&str] = &["http/1.1"];

impl ProbeTarget {
    fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// A success, before anything is known about rise.
#[derive(Debug)]
struct Passed {
    latency: Duration,
    detail: String,
}

/// The time that one probe has.
#[derive(Debug)]
struct Clock {
    began: Instant,
    timeout: Duration,
}

impl Clock {
    fn start(timeout: Duration) -> Self {
        Self {
            began: Instant::now(),
            timeout,
        }
    }

    /// Waits for a step of the probe within the time that is left for all of it.
    async fn wait<T>(
        &self,
        awaited: &Awaited,
        step: impl Future<Output = T>,
    ) -> Result<T, ProbeFailure> {
        timeout_at(self.began + self.timeout, step)
            .await
            .map_err(|_| ProbeFailure::NoAnswer {
                to: awaited.clone(),
                after: self.timeout,
            })
    }

    fn passed(&self, detail: String) -> Passed {
        Passed {
            latency: self.began.elapsed(),
            detail,
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests;
