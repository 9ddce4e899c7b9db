//! The end of a worker, in two steps: no new work, then no work at all.

use std::cell::Cell;

use tokio::sync::Notify;

/// What a worker's connections are told of its end.
#[derive(Debug, Default)]
pub(crate) struct Stopping {
    /// Nothing new is begun: what is in flight may end.
    pub(crate) finish: Step,
    /// The time for that is over.
    pub(crate) over: Step,
}

/// Something that happens once. All who wait for it are on the thread that says so.
#[derive(Debug, Default)]
pub(crate) struct Step {
    come: Cell<bool>,
    told: Notify,
}

impl Step {
    /// Says that it has come.
    pub(crate) fn come(&self) {
        self.come.set(true);
        self.told.notify_waiters();
    }

    /// Returns whether it has.
    pub(crate) fn has_come(&self) -> bool {
        self.come.get()
    }

    /// Waits for it.
    pub(crate) async fn wait(&self) {
        let told = self.told.notified();
        if !self.has_come() {
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_told_and_who_comes_late_need_not_wait() {
        let step = Step::default();
        assert!(!step.has_come());

        tokio::join!(step.wait(), async { step.come() });

        step.wait().await;
        assert!(step.has_come());
    }
}
