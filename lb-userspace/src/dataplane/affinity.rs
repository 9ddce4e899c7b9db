//! The affinity table as the proxy uses it: one table for the kernel's clients and its own.

use std::path::Path;

use aya::maps::{HashMap, MapData, MapError};
use lb_common::{
    affinity::{Affinity, AffinityKey},
    map_names,
};

use super::{DataplaneError, clock, kernel};

/// What the proxy may ask of the memory of clients. Each call is one or two short system calls.
pub trait Clients: Send {
    /// Returns the backend number that a client belongs to, and the seconds since it was last seen.
    fn find(&self, key: &AffinityKey) -> Option<(u16, u32)>;

    /// Remembers that a client belongs to a backend and was seen now; returns whether there was
    /// room. Without `replace` an entry that somebody else has made meanwhile stays.
    fn remember(&mut self, key: &AffinityKey, backend: u16, replace: bool) -> bool;
}

/// The table in the kernel. Each thread has a handle of its own.
pub struct Table(HashMap<MapData, AffinityKey, Affinity>);

/// Flags of `bpf_map_update_elem` (include/uapi/linux/bpf.h).
const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;

impl Table {
    /// Opens the table that is pinned in `directory`, whose layout has been compared.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when it cannot be opened.
    pub fn open(directory: &Path) -> Result<Self, DataplaneError> {
        kernel::pinned_hash(&directory.join(map_names::AFFINITY)).map(Self)
    }
}

impl Clients for Table {
    fn find(&self, key: &AffinityKey) -> Option<(u16, u32)> {
        match self.0.get(key, 0) {
            Ok(entry) => Some((
                entry.backend,
                clock::seconds().saturating_sub(entry.last_seen),
            )),
            Err(MapError::KeyNotFound) => None,
            Err(error) => {
                tracing::debug!("cannot read affinity: {error}");
                None
            }
        }
    }

    fn remember(&mut self, key: &AffinityKey, backend: u16, replace: bool) -> bool {
        let entry = Affinity {
            last_seen: clock::seconds(),
            backend,
            _reserved: 0,
        };
        let flags = if replace { BPF_ANY } else { BPF_NOEXIST };
        match self.0.insert(key, entry, flags) {
            Ok(()) => true,
            Err(error) => {
                let exists = !replace && self.find(key).is_some();
                if !exists {
                    tracing::debug!("cannot remember a client: {error}");
                }
                exists
            }
        }
    }
}
