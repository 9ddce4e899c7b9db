//! The mapped arrays: `records` and `epoch`, shared with the packets, and `maglev` and `ranges`,
//! which only we write.
//!
//! The only code of the daemon that reads and writes the kernel's memory directly.
#![expect(
    unsafe_code,
    reason = "memory shared with the kernel has no safe interface"
)]

use std::{
    os::fd::AsFd as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use aya::maps::MapData;
use lb_common::{
    guard::Range,
    limits::{MAGLEV_ENTRIES, MAGLEV_SLOTS, MAX_RANGES, RANGE_ENTRIES},
    pool::maglev_index,
    record::{Claim, Record},
};
use memmap2::{MmapOptions, MmapRaw};

use super::{DataplaneError, kernel::failed};

/// Bytes from one value of an array map to the next: values are padded to eight bytes (kernel,
/// `array_map_alloc`).
const fn stride<T>() -> usize {
    size_of::<T>().next_multiple_of(8)
}

/// `records`, mapped. Clones share the mapping.
#[derive(Clone)]
pub(super) struct Records {
    mapping: Arc<MmapRaw>,
    len: u32,
}

impl Records {
    /// Maps the pinned array, which has `len` records.
    pub(super) fn map(path: &Path, len: u32) -> Result<Self, DataplaneError> {
        Ok(Self {
            mapping: Arc::new(map(path, len as usize * stride::<Record>())?),
            len,
        })
    }

    /// Returns the number of records.
    #[must_use]
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Returns the claim of a record.
    #[must_use]
    pub(super) fn claim(&self, index: u32) -> u64 {
        self.claim_word(index).load(Ordering::Acquire)
    }

    /// Sets the claim of a record to `new` if it is still `old`; returns whether it was.
    pub(super) fn swap(&self, index: u32, old: u64, new: Claim) -> bool {
        self.claim_word(index)
            .compare_exchange(old, new.pack(), Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Returns the second of the record's last packet or release.
    #[must_use]
    pub(super) fn last_seen(&self, index: u32) -> u32 {
        self.last_seen_word(index).load(Ordering::Relaxed)
    }

    /// Sets the second of the release, before a record is freed.
    pub(super) fn set_last_seen(&self, index: u32, second: u32) {
        self.last_seen_word(index).store(second, Ordering::Relaxed);
    }

    /// Returns a copy of a record. Packets may change it meanwhile: what belongs together is only
    /// what the claim says before and after.
    #[must_use]
    pub(super) fn copy(&self, index: u32) -> Record {
        // SAFETY: `pointer` is inside the mapping and aligned; every bit pattern is a record. The
        // kernel may write at the same time, hence volatile and no reference.
        unsafe { self.pointer(index).read_volatile() }
    }

    fn claim_word(&self, index: u32) -> &AtomicU64 {
        // SAFETY: the claim is the first word of the record, aligned to eight bytes, inside the
        // mapping, and only ever changed atomically by both sides once the record is in use.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.pointer(index)).claim) }
    }

    fn last_seen_word(&self, index: u32) -> &AtomicU32 {
        // SAFETY: a field of the record, aligned to four bytes, inside the mapping.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.pointer(index)).last_seen) }
    }

    fn pointer(&self, index: u32) -> *mut Record {
        assert!(index < self.len, "record {index} of {}", self.len);
        // SAFETY: the mapping has `len` records, and the index is below that.
        unsafe {
            self.mapping
                .as_mut_ptr()
                .cast::<Record>()
                .add(index as usize)
        }
    }
}

/// `epoch`, mapped. Clones share the mapping.
#[derive(Clone)]
pub(super) struct Epoch {
    mapping: Arc<MmapRaw>,
}

impl Epoch {
    /// Maps the array.
    pub(super) fn map(map: &MapData) -> Result<Self, DataplaneError> {
        let mapping = MmapOptions::new()
            .len(stride::<u64>())
            .map_raw(&map.fd().as_fd())
            .map_err(|e| failed("map the map epoch into memory", e))?;
        Ok(Self {
            mapping: Arc::new(mapping),
        })
    }

    /// Begins another epoch: after each change of what the translation of a flow depends on.
    pub(super) fn begin(&self) {
        // SAFETY: the mapping has one value, which begins with a page, and both sides only ever add
        // to it.
        let epoch = unsafe { AtomicU64::from_ptr(self.mapping.as_mut_ptr().cast()) };
        epoch.fetch_add(1, Ordering::SeqCst);
    }
}

/// `maglev`, mapped.
pub(super) struct Maglev {
    mapping: MmapRaw,
}

impl Maglev {
    /// Maps the pinned array.
    pub(super) fn map(path: &Path) -> Result<Self, DataplaneError> {
        Ok(Self {
            mapping: map(path, MAGLEV_ENTRIES as usize * stride::<u32>())?,
        })
    }

    /// Writes one half of a pool's table.
    pub(super) fn write(&self, pool: u16, half: u32, table: &[u32]) {
        for (slot, &backend) in (0..MAGLEV_SLOTS).zip(table) {
            self.word(pool, half, slot)
                .store(backend, Ordering::Relaxed);
        }
        // The pool's record is written by a system call after this; that orders the two.
    }

    /// Returns one half of a pool's table.
    pub(super) fn read(&self, pool: u16, half: u32) -> Vec<u32> {
        (0..MAGLEV_SLOTS)
            .map(|slot| self.word(pool, half, slot).load(Ordering::Relaxed))
            .collect()
    }

    fn word(&self, pool: u16, half: u32, slot: u32) -> &AtomicU32 {
        let index = maglev_index(u32::from(pool), half, slot);
        assert!(index < MAGLEV_ENTRIES, "slot {index} of {MAGLEV_ENTRIES}");
        // SAFETY: the mapping has `MAGLEV_ENTRIES` values of eight bytes; each begins with an
        // aligned number.
        unsafe {
            AtomicU32::from_ptr(
                self.mapping
                    .as_mut_ptr()
                    .add(index as usize * stride::<u32>())
                    .cast(),
            )
        }
    }
}

/// `ranges`, mapped.
pub(super) struct Ranges {
    mapping: MmapRaw,
}

impl Ranges {
    /// Maps the pinned array.
    pub(super) fn map(path: &Path) -> Result<Self, DataplaneError> {
        Ok(Self {
            mapping: map(path, RANGE_ENTRIES as usize * stride::<Range>())?,
        })
    }

    /// Writes the beginning of a half.
    pub(super) fn write(&self, half: u32, entries: &[Range]) {
        for (place, range) in (0..MAX_RANGES).zip(entries) {
            // SAFETY: inside the mapping and aligned. Packets do not read this half; volatile and
            // no reference, as the kernel has the same memory.
            unsafe { self.pointer(half, place).write_volatile(*range) }
        }
        // The services' values are written by system calls after this; that orders the two.
    }

    /// Returns the first `count` entries of a half.
    pub(super) fn read(&self, half: u32, count: u32) -> Arc<[Range]> {
        (0..count.min(MAX_RANGES))
            // SAFETY: inside the mapping and aligned; every bit pattern is a range, and only we
            // write here.
            .map(|place| unsafe { self.pointer(half, place).read_volatile() })
            .collect()
    }

    fn pointer(&self, half: u32, place: u32) -> *mut Range {
        let index = half * MAX_RANGES + place;
        assert!(index < RANGE_ENTRIES, "range {index} of {RANGE_ENTRIES}");
        // SAFETY: the mapping has `RANGE_ENTRIES` values, and the index is below that.
        unsafe {
            self.mapping
                .as_mut_ptr()
                .add(index as usize * stride::<Range>())
                .cast()
        }
    }
}

fn map(path: &Path, bytes: usize) -> Result<MmapRaw, DataplaneError> {
    let data = MapData::from_pin(path)
        .map_err(|e| failed(&format!("open the pinned map {}", path.display()), e))?;
    // The mapping keeps the map; the descriptor may close.
    MmapOptions::new()
        .len(bytes)
        .map_raw(&data.fd().as_fd())
        .map_err(|e| failed(&format!("map {} into memory", path.display()), e))
}
