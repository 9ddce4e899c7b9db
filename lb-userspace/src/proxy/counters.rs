//! What the proxy counts for each service.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hyper::StatusCode;

use super::failure::FailureCounters;

/// A number that only grows, or one that goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection that is counted as open until this is dropped, however it ends.
#[derive(Debug)]
pub(crate) struct Open {
    counters: Arc<[Counters]>,
    place: usize,
}

impl Open {
    /// Counts a connection of a worker.
    pub(crate) fn count(counters: &Arc<[Counters]>, worker: usize) -> Self {
        let place = worker.checked_rem(counters.len()).unwrap_or_default();
        if let Some(own) = counters.get(place) {
            own.open.add(1);
        }
        Self {
            counters: Arc::clone(counters),
            place,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(own) = self.counters.get(self.place) {
            own.open.subtract(1);
        }
    }
}

/// The counters of one service in one worker: only that worker writes them, so no processor waits
/// for another's cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    /// Connections from clients that are open.
    pub(crate) open: Count,
    /// Connections from clients so far.
    pub(crate) connections: Count,
    /// Requests so far.
    pub(crate) requests: Count,
    /// Answers by the first digit of their status, 1 to 5.
    pub(crate) answers: [Count; 5],
    /// Bytes of bodies, or of the whole connection where it is passed through, from clients.
    pub(crate) bytes_in: Count,
    /// The same to clients.
    pub(crate) bytes_out: Count,
    /// Connections made to backends.
    pub(crate) connects: Count,
    /// Requests that found a connection to their backend open.
    pub(crate) reused: Count,
    /// Requests and connections that were tried again.
    pub(crate) retries: Count,
    /// What went wrong.
    pub(crate) failures: FailureCounters,
}

impl Counters {
    /// Counts an answer by its status.
    pub(crate) fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).wrapping_sub(1);
        if let Some(class) = self.answers.get(class) {
            class.add(1);
        }
    }
}
