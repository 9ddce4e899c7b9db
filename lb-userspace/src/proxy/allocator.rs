//! Memory that is not needed any more goes back to the kernel.

/// Lets the allocator give back what this thread has freed and not used again for a while. By itself
/// it does so only while it is asked for more, which after a rush may be never.
#[expect(unsafe_code, reason = "the allocator has no safe interface for this")]
pub(crate) fn give_back() {
    // SAFETY: it looks through what belongs to this thread, and frees nothing that is in use.
    unsafe { libmimalloc_sys::mi_collect(false) }
}
