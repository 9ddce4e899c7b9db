//! Words that other processors change at the same time. The BPF target has no compare-and-swap in
//! `core::sync::atomic`; the intrinsics compile to the kernel's BPF_CMPXCHG and BPF_XADD.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

/// Sets a word to `new` if it is still `old`; returns whether it was.
///
/// # Safety
///
/// `word` points into a map, and is aligned.
#[inline(always)]
pub(crate) unsafe fn swap(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new)
            .1
    }
}

/// Adds one to a word; returns what it was.
///
/// # Safety
///
/// As for [`swap`].
#[inline(always)]
pub(crate) unsafe fn increment(word: *mut u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, 1) }
}
