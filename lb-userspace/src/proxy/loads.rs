//! How many connections and requests each backend has from the proxy, over all workers.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use lb_common::limits::MAX_BACKENDS;

/// A count for each backend number.
#[derive(Clone, Debug)]
pub(crate) struct Loads(Arc<[AtomicU32]>);

impl Default for Loads {
    fn default() -> Self {
        Self((0..MAX_BACKENDS).map(|_| AtomicU32::new(0)).collect())
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
        let count = self.0.get(usize::from(backend));
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Returns the backends that have any, and how many.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u16, u32)> + '_ {
        let counts = (0..).zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)));
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
        self.loads.0.get(usize::from(self.backend))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(count) = self.count() {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
