//! For how long the program may rely on what it has read: until the second or the epoch ends.
//!
//! Whoever changes what packets depend on, daemon or program, begins a new epoch afterwards. The
//! stamp of a moment is taken before anything is read that is kept with it: what was read before a
//! change never passes for what came after it. The second is there for changes that nobody
//! announces: by hand, or by a daemon that was killed before it came to it.

use crate::{atomic, maps::EPOCH};

/// The second and the epoch of a moment.
#[derive(Clone, Copy)]
pub(crate) struct Stamp(u64);

impl Stamp {
    /// Returns the stamp of this moment, in second `now`. Nothing that is kept with it may be read
    /// before.
    #[inline(always)]
    pub(crate) fn now(now: u32) -> Self {
        let Some(epoch) = EPOCH.get_ptr_mut(0) else {
            return Self(0);
        };
        // SAFETY: `epoch` points into the map.
        let epoch = unsafe { epoch.read_volatile() };
        Self(u64::from(now) << 32 | u64::from(epoch as u32))
    }

    /// Returns the stamp in a word, which is zero in the first second of the machine alone.
    #[inline(always)]
    pub(crate) fn word(self) -> u64 {
        self.0
    }
}

/// Begins another epoch.
#[inline(always)]
pub(crate) fn begin() {
    if let Some(epoch) = EPOCH.get_ptr_mut(0) {
        // SAFETY: `epoch` points into the map, and is aligned.
        unsafe { atomic::increment(epoch) };
    }
}
