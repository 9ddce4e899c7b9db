//! Waiting for a condition, with a bound.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
///
/// # Panics
///
/// If it does not hold within `bound`; the message contains `what`.
#[track_caller]
pub fn eventually(bound: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(
        holds_within(bound, condition),
        "not within {bound:?}: {what}"
    );
}

/// Waits until `find` returns something, and returns it.
///
/// # Panics
///
/// If it does not within `bound`; the message contains `what`.
#[track_caller]
pub fn eventually_some<T>(bound: Duration, what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually(bound, what, || {
        found = find();
        found.is_some()
    });
    found.expect("the condition above held")
}

/// Returns whether `condition` came to hold within `bound`.
pub fn holds_within(bound: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > bound {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Checks that `condition` holds all through `span`.
///
/// # Panics
///
/// As soon as it does not; the message contains `what`.
#[track_caller]
pub fn always(span: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < span {
        assert!(
            condition(),
            "after {:?}: no longer true: {what}",
            start.elapsed()
        );
        thread::sleep(POLL);
    }
}
