//! Children that end with their handle, and what they wrote.

use std::{
    fs::{self, File},
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use super::eventually::holds_within;

/// A running program whose output goes to a file; killed on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with both its outputs appended to the file `log`.
    ///
    /// # Panics
    ///
    /// If the program cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("{} cannot be opened: {error}", log.display()));
        let err = out.try_clone().expect("a descriptor can be duplicated");
        let child = command
            .stdout(out)
            .stderr(err)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            ended: None,
        }
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns everything written so far, by this and by earlier processes with the same log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    /// Sends `signal` (a number as in signal(7)); nothing happens if the process has ended.
    pub fn signal(&mut self, signal: libc::c_int) {
        if self.poll().is_some() {
            return;
        }
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id fits");
        // SAFETY: takes no pointer. The child has not been waited for, so the id is still its own.
        let result = unsafe { libc::kill(pid, signal) };
        assert!(
            result == 0,
            "{} cannot be signalled: {}",
            self.name,
            io::Error::last_os_error()
        );
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    ///
    /// If it does not end within `bound`; the message holds its log.
    #[track_caller]
    pub fn wait(&mut self, bound: Duration) -> ExitStatus {
        let ended = holds_within(bound, || self.poll().is_some());
        assert!(
            ended,
            "{} does not end within {bound:?}; its log:\n{}",
            self.name,
            self.log()
        );
        self.ended.expect("the end was seen above")
    }

    /// Kills the process (SIGKILL) and waits until it is gone.
    ///
    /// # Panics
    ///
    /// If it had ended before by itself: then something else was tested than was meant.
    #[track_caller]
    pub fn kill9(&mut self) {
        self.signal(libc::SIGKILL);
        let status = self.wait(Duration::from_secs(10));
        assert_eq!(
            status.signal(),
            Some(libc::SIGKILL),
            "{} had ended before it was killed ({status}); its log:\n{}",
            self.name,
            self.log()
        );
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
        }
        self.ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.poll().is_none() {
            // Both can only fail if the child is gone, which is what is wanted.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a short-lived program printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Runs `command` to its end.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[track_caller]
    pub fn of(mut command: Command) -> Self {
        let output = command
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Returns the standard output of a program that ended with exit code 0.
    ///
    /// # Panics
    ///
    /// If it ended in another way; the message holds what it printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code,
            Some(0),
            "it failed:\n{}{}",
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// Returns both outputs, one after the other.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}
