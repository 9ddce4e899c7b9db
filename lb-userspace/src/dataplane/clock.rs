//! The clock that kernel and daemon share.

/// Returns the whole seconds of `CLOCK_MONOTONIC`: what the program writes as `last_seen`.
#[must_use]
pub(super) fn seconds() -> u32 {
    // `Instant` is this clock on Linux, but does not show its value.
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    #[expect(
        unsafe_code,
        reason = "the standard library does not show the clock's value"
    )]
    // SAFETY: the call writes into the given structure only, and the clock always exists.
    unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
    }
    u32::try_from(time.tv_sec).unwrap_or(u32::MAX)
}
