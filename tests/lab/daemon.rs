//! A running `vipd`, known by its binary, its command line and its log.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use super::{
    configuration::Configuration,
    eventually::holds_within,
    host::Host,
    process::{Outcome, Process},
    site::Lab,
    status::Status,
};

/// How long a daemon may take from its start until `vipd status` exits 0.
pub const READY_BOUND: Duration = Duration::from_secs(20);
/// How long a daemon may take to end after SIGTERM.
pub const STOP_BOUND: Duration = Duration::from_secs(10);

/// Returns the binary under test.
///
/// # Panics
///
/// If the environment does not name one.
#[must_use]
pub fn binary() -> PathBuf {
    env::var_os("VIPD_BIN")
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!("VIPD_BIN names no vipd binary; run the tests with `cargo xtask test`")
        })
}

/// A daemon on the balancer of a site; killed when dropped, with its pins left to the site.
#[derive(Debug)]
pub struct Daemon<'lab> {
    host: &'lab Host,
    interfaces: &'static [&'static str],
    directory: PathBuf,
    binary: PathBuf,
    process: Process,
}

impl<'lab> Daemon<'lab> {
    /// Starts a daemon and waits until it is ready and every backend is up and reachable.
    ///
    /// # Panics
    ///
    /// If that is not so within [`READY_BOUND`]; the message holds its status and its log.
    #[must_use]
    #[track_caller]
    pub fn start(lab: &'lab Lab, configuration: &Configuration) -> Self {
        let mut daemon = Self::launch(lab, configuration);
        daemon.await_ready();
        let serving = holds_within(READY_BOUND, || {
            let status = daemon.status();
            status
                .backends()
                .all(|backend| backend.is_up() && backend.is_reachable())
        });
        assert!(
            serving,
            "not every backend serves within {READY_BOUND:?}; the status:\n{}\nthe log:\n{}",
            daemon.cli(&["status"]).text(),
            daemon.log()
        );
        daemon
    }

    /// Starts a daemon and does not wait.
    #[must_use]
    #[track_caller]
    pub fn launch(lab: &'lab Lab, configuration: &Configuration) -> Self {
        let directory = lab.directory().join("vipd");
        fs::create_dir_all(&directory).expect("the site's directory takes another");
        let interfaces = lab.balancer_interfaces();
        fs::write(
            file(&directory),
            configuration.render(interfaces, &directory),
        )
        .expect("the configuration can be written");
        let (host, binary) = (lab.balancer(), binary());
        let process = run(host, &binary, &directory);
        Self {
            host,
            interfaces,
            directory,
            binary,
            process,
        }
    }

    /// Waits until `vipd status` exits 0.
    ///
    /// # Panics
    ///
    /// If it does not within [`READY_BOUND`], or the daemon ends.
    #[track_caller]
    pub fn await_ready(&mut self) {
        let mut last = None;
        holds_within(READY_BOUND, || {
            if !self.process.is_running() {
                return true;
            }
            let outcome = self.cli(&["status"]);
            let ready = outcome.code == Some(0);
            last = Some(outcome);
            ready
        });
        let (code, text) = last.map_or((None, String::new()), |last| (last.code, last.text()));
        assert!(
            code == Some(0) && self.process.is_running(),
            "vipd is not ready within {READY_BOUND:?}; its status:\n{text}\nits log:\n{}",
            self.log()
        );
    }

    /// Returns the daemon's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns everything that this and earlier daemons of the site have logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Returns the path of the configuration file.
    #[must_use]
    pub fn configuration_file(&self) -> PathBuf {
        file(&self.directory)
    }

    /// Returns the directory of run-time changes.
    #[must_use]
    pub fn state_directory(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Runs `vipd` with `arguments` and `--config` against this daemon.
    #[must_use]
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.cli_command(arguments))
    }

    /// Returns the command that [`Self::cli`] runs.
    #[must_use]
    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(text(&self.binary));
        command
            .args(arguments)
            .arg("--config")
            .arg(file(&self.directory));
        command
    }

    /// Returns what `vipd status --json` says.
    ///
    /// # Panics
    ///
    /// If it says nothing readable; its exit code may be 0 or 1.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> Status {
        self.try_status()
            .unwrap_or_else(|text| panic!("no status: {text}; log:\n{}", self.log()))
    }

    /// Returns what `vipd status --json` says.
    ///
    /// # Errors
    ///
    /// What the command printed, if that is no status.
    pub fn try_status(&self) -> Result<Status, String> {
        let outcome = self.cli(&["status", "--json"]);
        Status::parse(&outcome.stdout).map_err(|error| format!("{error}: {}", outcome.text()))
    }

    /// Returns the packets that were dropped so far, for each reason that has any.
    ///
    /// The status counts a moment later than the kernel program does: this waits for it.
    ///
    /// # Panics
    ///
    /// If the status does not catch up within [`STOP_BOUND`].
    #[must_use]
    #[track_caller]
    pub fn drops(&self) -> Vec<(String, u64)> {
        let mut status = self.status();
        let caught_up = holds_within(STOP_BOUND, || {
            status = self.status();
            status.dropped() == self.dropped_in_map()
        });
        assert!(caught_up, "the status counts {:?} drops", status.drops());
        status.drops()
    }

    /// Returns the sum of the map `drops`, over all reasons and processors.
    fn dropped_in_map(&self) -> u64 {
        let dump = self
            .host
            .run("bpftool --json map dump pinned /sys/fs/bpf/vipd/drops")
            .ok();
        let entries: serde_json::Value = serde_json::from_str(&dump).expect("bpftool prints JSON");
        entries
            .as_array()
            .expect("bpftool prints a list")
            .iter()
            .flat_map(|entry| {
                entry["formatted"]["values"]
                    .as_array()
                    .expect("a value each")
            })
            .map(|of| of["value"].as_u64().expect("a number"))
            .sum()
    }

    /// Replaces the file without telling the daemon.
    pub fn write_configuration(&self, configuration: &Configuration) {
        let text = configuration.render(self.interfaces, &self.directory);
        fs::write(file(&self.directory), text).expect("the configuration can be written");
    }

    /// Replaces the file and has the daemon reload it.
    ///
    /// # Panics
    ///
    /// If the daemon refuses.
    #[track_caller]
    pub fn reload(&self, configuration: &Configuration) {
        self.write_configuration(configuration);
        self.cli(&["reload"]).ok();
    }

    /// Sends `signal`.
    pub fn signal(&mut self, signal: libc::c_int) {
        self.process.signal(signal);
    }

    /// Returns whether the daemon runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Kills the daemon without warning.
    #[track_caller]
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Asks the daemon to stop (SIGTERM) and waits for its end.
    ///
    /// # Panics
    ///
    /// If it does not end with exit code 0 within [`STOP_BOUND`].
    #[track_caller]
    pub fn terminate(&mut self) {
        self.process.signal(libc::SIGTERM);
        let status = self.process.wait(STOP_BOUND);
        assert!(
            status.success(),
            "vipd ended with {status}; its log:\n{}",
            self.log()
        );
    }

    /// Waits for the daemon to end by itself.
    ///
    /// # Panics
    ///
    /// If it does not within [`STOP_BOUND`].
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait(STOP_BOUND)
    }

    /// Starts a new process with the same file after the old one has ended, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If the old process still runs.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.launch_again();
        self.await_ready();
    }

    /// Like [`Self::start_again`], without waiting.
    ///
    /// # Panics
    ///
    /// If the old process still runs.
    #[track_caller]
    pub fn launch_again(&mut self) {
        assert!(!self.process.is_running(), "the daemon is still running");
        self.process = run(self.host, &self.binary, &self.directory);
    }

    /// Like [`Self::start_again`], from a copy of the binary at another path: a new version.
    ///
    /// # Panics
    ///
    /// If the old process still runs, or the binary cannot be copied.
    #[track_caller]
    pub fn start_upgraded(&mut self) {
        let copy = self.directory.join(format!("vipd-after-{}", self.pid()));
        // By a child: a descriptor of ours, open for writing, could be inherited by another thread's
        // child for a moment, and nothing runs from a file that is being written.
        let mut cp = Command::new("cp");
        cp.arg(&self.binary).arg(&copy);
        Outcome::of(cp).ok();
        self.binary = copy;
        self.start_again();
    }

    /// Returns the names of the daemon's pins below `/sys/fs/bpf/vipd`, sorted; directories end in `/`.
    #[must_use]
    pub fn pins(&self) -> Vec<String> {
        pins(self.host)
    }
}

/// Returns the names of all pins below `/sys/fs/bpf` of `host`, sorted.
///
/// # Panics
///
/// If the machine has no bpffs of its own.
#[must_use]
pub fn pins(host: &Host) -> Vec<String> {
    let mounts = host.mounts().expect("the balancer has a bpffs of its own");
    mounts.enter(|| {
        let mut found = Vec::new();
        collect(Path::new("/sys/fs/bpf"), &mut found);
        // Every bpffs has these two from the kernel.
        found.retain(|path| !path.ends_with("/maps.debug") && !path.ends_with("/progs.debug"));
        found.sort();
        found
    })
}

/// Runs `vipd` with `arguments` on `host`, without a daemon or a configuration.
#[must_use]
#[track_caller]
pub fn vipd<A: AsRef<OsStr>>(host: &Host, arguments: &[A]) -> Outcome {
    let mut command = host.command(text(&binary()));
    command.args(arguments);
    Outcome::of(command)
}

fn run(host: &Host, binary: &Path, directory: &Path) -> Process {
    let mut command = host.command(text(binary));
    command.arg("run").arg("--config").arg(file(directory));
    Process::start("vipd", command, &directory.join("log"))
}

fn file(directory: &Path) -> PathBuf {
    directory.join("vipd.toml")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path of the binary is text")
}

fn collect(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("bpffs can be read") {
        let path = entry.expect("bpffs can be read").path();
        if path.is_dir() {
            found.push(format!("{}/", path.display()));
            collect(&path, found);
        } else {
            found.push(path.display().to_string());
        }
    }
}
