//! One daemon at a time on one set of pins.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why the data path is not ours alone.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error(
        "another vipd is at work on the data path in {}: stop it first; `vipd status` shows it",
        .0.display()
    )]
    Held(PathBuf),
    /// The directory cannot be opened or locked.
    #[error(
        "cannot lock {}: is the BPF file system there? mount it with `mount -t bpf bpf {}`",
        path.display(), path.display()
    )]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The right to change what is pinned; given back when this is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

impl Lock {
    /// Takes the lock of the BPF file system that `pins` lies in.
    ///
    /// The lock is on the mounted file system itself, so daemons with another socket or
    /// configuration meet it too, and those with a BPF file system of their own do not.
    ///
    /// # Errors
    ///
    /// [`LockError`].
    pub fn take(pins: &Path) -> Result<Self, LockError> {
        let path = pins.parent().unwrap_or(pins);
        let io_error = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let directory = File::open(path).map_err(io_error)?;
        match lock(&directory) {
            Ok(()) => Ok(Self {
                _directory: directory,
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(LockError::Held(pins.to_owned()))
            }
            Err(error) => Err(io_error(error)),
        }
    }

    /// Takes the lock as soon as its holder has gone, for at most `patience`.
    ///
    /// # Errors
    ///
    /// [`LockError`].
    pub async fn wait(pins: &Path, patience: Duration) -> Result<Self, LockError> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match Self::take(pins) {
                Err(LockError::Held(_)) if tokio::time::Instant::now() < deadline => {
                    // The kernel wakes nobody who polls; a blocking wait could not be given up.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                result => return result,
            }
        }
    }
}

#[expect(
    unsafe_code,
    reason = "the standard library has no lock that rust 1.88 knows"
)]
fn lock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call, which takes no pointer.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_of_the_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let pins = directory.path().join("vipd");
        let first = Lock::take(&pins).expect("free");

        let error = Lock::take(&pins).expect_err("held");
        assert!(error.to_string().contains("another vipd"), "{error}");

        drop(first);
        assert!(Lock::take(&pins).is_ok());
    }

    #[tokio::test]
    async fn who_waits_gets_the_lock_when_its_holder_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let pins = directory.path().join("vipd");
        let first = Lock::take(&pins).expect("free");
        assert!(matches!(
            Lock::wait(&pins, Duration::ZERO).await,
            Err(LockError::Held(_))
        ));

        let waiting = tokio::spawn({
            let pins = pins.clone();
            async move { Lock::wait(&pins, Duration::from_secs(10)).await }
        });
        drop(first);

        assert!(waiting.await.expect("no panic").is_ok());
    }

    #[test]
    fn without_the_file_system_the_remedy_is_named() {
        let error = Lock::take(Path::new("/no/such/place/vipd")).expect_err("nothing there");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
    }
}
