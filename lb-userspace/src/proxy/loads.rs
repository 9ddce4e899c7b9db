//! How many connections and requests each backend has from the proxy, over all workers.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use lb_common::limits::MAX_BACKENDS;
use tokio::sync::{Notify, futures::Notified};

/// A count for each backend number, and those who wait for room.
#[derive(Clone, Debug)]
pub(crate) struct Loads(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    counts: Box<[AtomicU32]>,
    /// How many wait.
    waiting: AtomicUsize,
    /// Told when one of a backend's has ended.
    freed: Notify,
}

/// Requests and connections that may wait for room; more would wait in vain.
const MOST_WAITING: usize = 1024;

impl Default for Loads {
    fn default() -> Self {
        Self(Arc::new(Shared {
            counts: (0..MAX_BACKENDS).map(|_| AtomicU32::new(0)).collect(),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        }))
    }
}

impl Loads {
    /// Counts one more until the returned value is dropped.
    pub(crate) fn take(&self, backend: u16) -> Load {
        let load = Load {
            loads: self.clone(),
            backend,
        };
        if let Some(count) = load.count() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        load
    }

    /// Returns how many a backend has.
    pub(crate) fn of(&self, backend: u16) -> u32 {
        let count = self.0.counts.get(usize::from(backend));
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Waits until something may have become free.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.0.freed.notified()
    }

    /// Counts one that waits for room; `None`: too many do.
    pub(crate) fn wait(&self) -> Option<Waiting> {
        let waiting = Waiting(self.clone());
        let before = self.0.waiting.fetch_add(1, Ordering::Relaxed);
        (before < MOST_WAITING).then_some(waiting)
    }

    /// Has those who wait look again.
    pub(crate) fn wake(&self) {
        if self.0.waiting.load(Ordering::Relaxed) > 0 {
            self.0.freed.notify_waiters();
        }
    }

    /// Returns the backends that have any, and how many.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u16, u32)> + '_ {
        let counts = (0..).zip(
            self.0
                .counts
                .iter()
                .map(|count| count.load(Ordering::Relaxed)),
        );
        counts.filter(|(_, count)| *count > 0)
    }
}

/// One connection or request of a backend.
#[derive(Debug)]
pub(crate) struct Load {
    loads: Loads,
    backend: u16,
}

impl Load {
    fn count(&self) -> Option<&AtomicU32> {
        self.loads.0.counts.get(usize::from(self.backend))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(count) = self.count() {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        self.loads.wake();
    }
}

/// One that waits for room.
#[derive(Debug)]
pub(crate) struct Waiting(Loads);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
