//! The task of one check: probe, judge, report, wait.

use std::{future::Future, sync::Arc, time::SystemTime};

use tokio::{
    select,
    sync::{Notify, mpsc},
    time::{Duration, Instant, sleep_until},
};

use super::{CheckId, CheckReport, HealthEvent, Judge, ProbeOutcome, schedule::Schedule};

/// What a check's task works with.
pub(super) struct Task {
    pub(super) id: CheckId,
    pub(super) interval: Duration,
    pub(super) judge: Judge,
    pub(super) events: mpsc::Sender<HealthEvent>,
    pub(super) nudge: Arc<Notify>,
}

impl Task {
    /// Probes until nobody listens to the reports any more.
    pub(super) async fn run<P, F>(mut self, mut probe: P)
    where
        P: FnMut() -> F,
        F: Future<Output = ProbeOutcome>,
    {
        let schedule = Schedule::new(&self.id, Instant::now(), self.interval);
        let mut suspected = false;
        loop {
            let began = Instant::now();
            let outcome = probe().await;
            let report = self.judge(&outcome, suspected);
            let event = HealthEvent {
                id: self.id.clone(),
                report,
            };
            if self.events.send(event).await.is_err() {
                return;
            }
            suspected = self.wait(&schedule, began).await;
        }
    }

    fn judge(&mut self, outcome: &ProbeOutcome, suspected: bool) -> CheckReport {
        let transition = self.judge.observe(outcome, suspected, SystemTime::now());
        CheckReport {
            health: self.judge.health(),
            changed: transition.is_some(),
            probed: self.judge.probed(),
            reason: self.judge.reason(),
            since: self.judge.since(),
            passed: self.judge.passed(),
            consecutive: self.judge.consecutive(),
            latency: self.judge.latency(),
        }
    }

    /// Waits until the next probe is due; returns whether it comes out of turn, because somebody
    /// suspects the backend. A nudge during a probe counts for the next one.
    async fn wait(&self, schedule: &Schedule, began: Instant) -> bool {
        select! {
            () = sleep_until(schedule.next(Instant::now())) => false,
            () = self.nudge.notified() => {
                sleep_until(schedule.soonest(began)).await;
                true
            }
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests;
