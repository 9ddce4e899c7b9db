//! Signals as something to wait for, instead of something that interrupts.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use anyhow::{Context, Result};

/// Signals that wait until they are asked for.
///
/// Threads started later inherit this, programs do not: the standard library clears the mask of a
/// child.
pub(super) struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Holds back `signals` (numbers as in signal(7)) from the calling thread.
    pub(super) fn block(signals: &[libc::c_int]) -> Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the pointer is valid for a write, which is all that the call does.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: initialised by the call above.
        let mut set = unsafe { set.assume_init() };
        for signal in signals {
            // SAFETY: the pointer is valid, the set is initialised.
            let result = unsafe { libc::sigaddset(&raw mut set, *signal) };
            check(result).with_context(|| format!("{signal} is no signal"))?;
        }
        // SAFETY: the first pointer is valid for a read; null asks for no copy of the old mask.
        let error =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error)).context("cannot block signals");
        }
        Ok(Self { set })
    }

    /// Waits for one of the signals, for ever or at most `limit`; `None` if none came in time.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Result<Option<libc::c_int>> {
        let limit = limit.map(|limit| libc::timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the set is initialised; null asks for no details, and as a limit for none. A limit
        // that is not null points into a variable that lives until the end of this function.
        let signal = unsafe { libc::sigtimedwait(&raw const self.set, ptr::null_mut(), limit) };
        if signal >= 0 {
            return Ok(Some(signal));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // EINTR: stopped and continued, as by Ctrl-Z.
            Some(libc::EAGAIN | libc::EINTR) => Ok(None),
            _ => Err(error).context("cannot wait for signals"),
        }
    }
}

/// Sends `signal` to a child that has not been waited for.
pub(super) fn send(child: u32, signal: libc::c_int) -> Result<()> {
    let pid = child.try_into().context("no process has this number")?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::kill(pid, signal) }).context("cannot signal a child")
}

/// Asks for SIGTERM when the parent ends, however it ends.
pub(super) fn end_with_parent() -> Result<()> {
    // SAFETY: this option takes a number and no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) })
        .context("cannot ask for a signal at the end of the parent")
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_waits_until_it_is_asked_for() {
        let signals = Signals::block(&[libc::SIGUSR1]).expect("SIGUSR1 can be blocked");
        let nothing = signals.wait(Some(Duration::from_millis(1)));
        assert_eq!(nothing.expect("waiting works"), None);

        // SAFETY: takes no pointer; the calling thread blocks the signal.
        unsafe { libc::raise(libc::SIGUSR1) };
        let signal = signals.wait(Some(Duration::from_secs(60)));
        assert_eq!(signal.expect("waiting works"), Some(libc::SIGUSR1));
    }
}
