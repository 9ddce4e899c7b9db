//! File descriptors: how many there may be, and which of them are not for connections.
//!
//! A proxied connection has two, and two more for each direction that is bulk of a tunnel. The last
//! ones are kept for what the daemon needs besides: probes that find no descriptor would call every
//! backend down. The kernel gives the lowest free number (open(2)), so the number of a new descriptor
//! tells how many are left.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, RawFd},
    sync::atomic::{AtomicI32, Ordering},
};

/// Descriptors that are not for connections, where there are enough.
const RESERVE: i32 = 256;
/// Where there are few, this part of them is not.
const RESERVE_PART: i32 = 8;

/// The limit as it was last looked at.
static LIMIT: AtomicI32 = AtomicI32::new(i32::MAX);

/// Connections of clients that will need another descriptor soon, for one to their backend.
static EXPECTED: AtomicI32 = AtomicI32::new(0);

/// A descriptor that will be needed, until this is dropped.
#[derive(Debug)]
pub(crate) struct Expected(());

impl Expected {
    /// Expects one more.
    pub(crate) fn one() -> Self {
        EXPECTED.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        EXPECTED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Raises the limit of this process as far as it may itself (getrlimit(2)): what a shell or systemd
/// gives is 1024, for the sake of programs that use select(2).
///
/// # Errors
///
/// The kernel refuses; the limit stays.
pub(crate) fn raise() -> io::Result<()> {
    let mut limit = read()?;
    limit.rlim_cur = limit.rlim_max;
    write(&limit)?;
    look();
    Ok(())
}

/// Looks at the limit again, which an administrator can change (prlimit(1)).
pub(crate) fn look() {
    if let Ok(limit) = read() {
        let limit = i32::try_from(limit.rlim_cur).unwrap_or(i32::MAX);
        let former = LIMIT.swap(limit, Ordering::Relaxed);
        if limit != former {
            tracing::info!("the limit of open files is {limit}");
        }
    }
}

/// Returns whether a client's connection of this number is the last one for now.
pub(crate) fn last_for_clients(descriptor: RawFd) -> bool {
    descriptor.saturating_add(EXPECTED.load(Ordering::Relaxed)) >= bound(2)
}

/// Returns whether a connection to a backend, or a pipe, must not have this number. Clients that have
/// been accepted find some for theirs when no more are accepted.
pub(crate) fn none_for_backends(descriptor: RawFd) -> bool {
    descriptor >= bound(1)
}

/// Returns whether clients can be accepted again.
pub(crate) fn enough_for_clients(any: impl AsFd) -> bool {
    let lowest = any.as_fd().try_clone_to_owned();
    lowest.is_ok_and(|lowest| !last_for_clients(lowest.as_raw_fd()))
}

fn bound(reserves: i32) -> RawFd {
    let limit = LIMIT.load(Ordering::Relaxed);
    limit - reserves * RESERVE.min(limit / RESERVE_PART)
}

#[expect(unsafe_code, reason = "the limit has no safe interface")]
fn read() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to one `rlimit`, which lives through the call.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

#[expect(unsafe_code, reason = "the limit has no safe interface")]
fn write(limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: the pointer is to one `rlimit`, which lives through the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const *limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
