//! Whether the backends serve: probes them, judges the results, reports.
//!
//! The way of a result: [`Probe`] sends and compares, [`Judge`] counts, [`HealthEvent`] goes to the
//! owner of the desired state, who decides what follows from it. Nothing here knows about services'
//! states, weights or the kernel.
//!
//! Each check has a task of its own, started and stopped by [`Prober::reconcile`].

mod judge;
mod probe;
mod schedule;
mod task;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, Semaphore, mpsc},
    task::AbortHandle,
};

pub use self::{
    judge::{Health, Judge, Transition},
    probe::{Awaited, Probe, ProbeFailure, ProbeOutcome, ProbeTarget, probe},
};
use crate::{config::model::HealthCheck, tls::SystemRoots};

/// Names one check; the same across reloads and restarts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId {
    /// The pool's name.
    pub pool: String,
    /// The backend's name in the pool.
    pub backend: String,
    /// The service whose own check this is; `None`: the pool's check.
    pub service: Option<String>,
}

/// What is probed, how, and where it starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Its name.
    pub id: CheckId,
    /// What is sent and expected, and how often.
    pub spec: HealthCheck,
    /// Whom it is sent to.
    pub target: ProbeTarget,
    /// What is known before the first probe. `Some(Health::Up)`: it was serving, and stays up until
    /// `fall` failures in a row. Otherwise the first result decides.
    pub initial: Option<Health>,
}

/// A check's report after one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthEvent {
    /// Which check.
    pub id: CheckId,
    /// What it says.
    pub report: CheckReport,
}

/// What a check says after a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// The state that holds.
    pub health: Health,
    /// This probe changed the state, or is the first one of a check about which nothing was known.
    pub changed: bool,
    /// There has been a result that counts: false only where all probes so far failed by the fault
    /// of this machine while the state was taken over.
    pub probed: bool,
    /// The last result as an administrator would say it, without the backend's name:
    /// `GET /healthcheck answered 503 (expected 200): unavailable`.
    pub reason: String,
    /// When the state last changed; for a state that was taken over, the first result.
    pub since: Option<SystemTime>,
    /// The last result that counted was a success.
    pub passed: bool,
    /// How many results like the last one have come in a row.
    pub consecutive: u32,
    /// How long the last success took.
    pub latency: Option<Duration>,
}

/// The checks that run. Dropping it ends them all.
#[derive(Debug)]
pub struct Prober {
    events: mpsc::Sender<HealthEvent>,
    running: HashMap<CheckId, Running>,
    shared: Arc<Shared>,
}

/// What all checks have in common.
#[derive(Debug)]
struct Shared {
    /// Bounds the sockets that are open at once.
    slots: Semaphore,
    roots: Arc<SystemRoots>,
}

/// Probes that may be under way at once; the others wait for their turn without losing time of their
/// timeout. A process begins with 1024 descriptors on most systems.
const PROBES_AT_ONCE: usize = 256;

/// A check with its task, which ends when this is dropped.
#[derive(Debug)]
struct Running {
    spec: HealthCheck,
    target: ProbeTarget,
    nudge: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    /// Makes a prober without checks. A report goes to `events` after every probe; a full channel
    /// makes the checks wait, a closed one ends them.
    #[must_use]
    pub fn new(events: mpsc::Sender<HealthEvent>) -> Self {
        Self {
            events,
            running: HashMap::new(),
            shared: Arc::new(Shared {
                slots: Semaphore::new(PROBES_AT_ONCE),
                roots: Arc::default(),
            }),
        }
    }

    /// Makes the running checks those of `checks`: starts new ones, each with a probe at once, stops
    /// those that are not listed, and starts those anew whose spec or target changed. A check that
    /// did not change goes on with its history, whatever its `initial` says. Of two checks with the
    /// same id the last one counts.
    ///
    /// A report that a stopped check sent before may still be in the channel: the receiver passes
    /// over ids that it does not know.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn reconcile(&mut self, checks: Vec<Check>) {
        let wanted: HashMap<CheckId, Check> = checks
            .into_iter()
            .map(|check| (check.id.clone(), check))
            .collect();
        self.running
            .retain(|id, running| wanted.get(id).is_some_and(|check| running.is_for(check)));
        for (id, check) in wanted {
            if !self.running.contains_key(&id) {
                let running = self.start(check);
                self.running.insert(id, running);
            }
        }
    }

    /// Brings the check's next probe forward, because something else suggests that the backend
    /// fails: a refused connection, a port unreachable. If it fails then, the backend is down at
    /// once; see [`Judge`]. Unknown ids are passed over.
    pub fn nudge(&self, id: &CheckId) {
        if let Some(running) = self.running.get(id) {
            running.nudge.notify_one();
        }
    }

    /// The same for every check of a backend.
    pub fn nudge_backend(&self, pool: &str, backend: &str) {
        self.running
            .keys()
            .filter(|id| id.pool == pool && id.backend == backend)
            .for_each(|id| self.nudge(id));
    }

    fn start(&self, check: Check) -> Running {
        let nudge = Arc::new(Notify::new());
        let probe = Probe::new(&check.spec, &check.target, &self.shared.roots);
        let shared = Arc::clone(&self.shared);
        let send = move || {
            let probe = probe.clone();
            let shared = Arc::clone(&shared);
            async move {
                // Never closed; without a slot the probe would still be right.
                let _slot = shared.slots.acquire().await;
                probe.run().await
            }
        };
        let initial = check.initial.unwrap_or(Health::Down);
        let judge = Judge::new(check.spec.rise, check.spec.fall, initial);
        let task = task::Task {
            id: check.id,
            interval: check.spec.interval,
            judge,
            events: self.events.clone(),
            nudge: Arc::clone(&nudge),
        };
        Running {
            spec: check.spec,
            target: check.target,
            nudge,
            task: tokio::spawn(task.run(send)).abort_handle(),
        }
    }
}

impl Running {
    fn is_for(&self, check: &Check) -> bool {
        self.spec == check.spec && self.target == check.target
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests;
