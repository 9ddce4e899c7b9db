//! A gate that something waits at until the test opens it.

use std::{
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

/// How often those who wait look whether they still shall.
const POLL: Duration = Duration::from_millis(20);

/// A gate, closed when made; its clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<State>);

#[derive(Debug, Default)]
struct State {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    /// Makes a closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everybody through from here on.
    pub fn open(&self) {
        *self.0.open.lock().expect("nobody panics with the lock") = true;
        self.0.changed.notify_all();
    }

    /// Waits until the gate is open, as long as `wanted` says so; returns whether it is open.
    pub(super) fn wait(&self, mut wanted: impl FnMut() -> bool) -> bool {
        let mut open = self.0.open.lock().expect("nobody panics with the lock");
        while !*open && wanted() {
            (open, _) = self
                .0
                .changed
                .wait_timeout(open, POLL)
                .expect("nobody panics with the lock");
        }
        *open
    }
}
