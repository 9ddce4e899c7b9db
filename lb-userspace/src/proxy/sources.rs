//! How many connections each source has, over all workers.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts by service and source. Only services with a limit ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources(Arc<Mutex<Counts>>);

type Counts = HashMap<(Arc<str>, IpAddr), u32>;

impl Sources {
    /// Counts a connection until the returned value is dropped; `None`: the source has `limit`.
    pub(crate) fn take(&self, service: &Arc<str>, source: IpAddr, limit: u32) -> Option<Source> {
        let key = (Arc::clone(service), aggregate(source));
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Source {
            sources: self.clone(),
            key,
        })
    }
}

/// A host has at least 64 bits of IPv6 addresses to choose from: they are one source.
fn aggregate(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(address) => {
            let bits = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(bits.into())
        }
    }
}

/// One connection of a source.
#[derive(Debug)]
pub(crate) struct Source {
    sources: Sources,
    key: (Arc<str>, IpAddr),
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut counts = self
            .sources
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.key.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_limit_for_each_service() {
        let sources = Sources::default();
        let (web, mail): (Arc<str>, Arc<str>) = ("web".into(), "mail".into());
        let source = |text: &str| text.parse::<IpAddr>().expect("an address");

        let held = [
            sources.take(&web, source("fd00::1"), 2),
            sources.take(&web, source("fd00::2"), 2),
        ];
        assert!(held.iter().all(Option::is_some));
        assert!(sources.take(&web, source("fd00::3"), 2).is_none());
        assert!(sources.take(&mail, source("fd00::3"), 2).is_some());
        assert!(sources.take(&web, source("fd00:0:0:1::3"), 2).is_some());

        drop(held);
        assert!(sources.take(&web, source("fd00::3"), 2).is_some());
        assert!(sources.0.lock().expect("no panic").is_empty());
    }
}
