//! A real browser, Chromium without a window, on a machine of the site.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use super::{
    authority::Authority,
    eventually::holds_within,
    host::Host,
    process::{Outcome, Process},
    site::Lab,
};

/// How long all of the browser's processes may take to go once they are killed.
const END_BOUND: Duration = Duration::from_secs(10);

/// Where below its home Chromium looks for authorities that its user trusts.
const TRUSTED: &str = ".pki/nssdb";

/// What is not the page's own traffic, or needs more of a machine than a laboratory has.
const OPTIONS: &[&str] = &[
    "--headless",
    // It refuses root otherwise.
    "--no-sandbox",
    "--disable-gpu",
    // Containers have little room there.
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
];

/// A running browser with one page; all of its processes are killed on drop.
#[derive(Debug)]
pub struct Browser {
    process: Process,
}

impl Browser {
    /// Opens `url` on `host`, with `server` for the host `name` and trust in `authority`.
    ///
    /// Nothing of the user's own settings is read or written. The site has room for one browser
    /// on each machine.
    ///
    /// # Panics
    ///
    /// If the browser does not start, or had been started on this machine before.
    #[must_use]
    pub fn open(
        lab: &Lab,
        host: &Host,
        (name, server): (&str, SocketAddr),
        authority: &Authority,
        url: &str,
    ) -> Self {
        let home = lab.directory().join(format!("browser-{}", host.name()));
        fs::create_dir(&home).expect("the site's directory takes another");
        trust(&home.join(TRUSTED), authority);
        // A process namespace ends with its first process: what the browser starts, and that is a
        // dozen processes in groups and sessions of their own, cannot outlive it.
        let mut command = host.command("unshare");
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg("chromium")
            .args(OPTIONS)
            .arg(format!(
                "--user-data-dir={}",
                home.join("profile").display()
            ))
            .arg(format!("--host-resolver-rules=MAP {name} {server}"))
            .arg(url)
            .env("HOME", &home)
            // It has no time to tidy up there before it is killed.
            .env("TMPDIR", &home);
        for variable in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env_remove(variable);
        }
        Self {
            process: Process::start("chromium", command, &home.join("log")),
        }
    }

    /// Returns what the browser wrote.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // unshare waits for the first process, and that is gone when all of the others are: none is
        // left to write into the directory that the site removes.
        if let Some(first) = only_child(self.process.id()) {
            // SAFETY: takes no pointer. The id was the child's a moment ago, and ids are not used
            // again so soon.
            unsafe { libc::kill(first, libc::SIGKILL) };
            holds_within(END_BOUND, || !self.process.is_running());
        }
    }
}

/// Makes a database of NSS in `directory` that trusts `authority` to name servers.
fn trust(directory: &Path, authority: &Authority) {
    fs::create_dir_all(directory).expect("the browser's home takes another");
    let database = format!("sql:{}", directory.display());
    let run = |words: &[&str]| {
        let mut command = Command::new("certutil");
        command.args(["-d", &database]).args(words);
        Outcome::of(command).ok()
    };
    run(&["-N", "--empty-password"]);
    let file = authority.file();
    let file = file.to_str().expect("the site's directory is text");
    run(&["-A", "-n", "laboratory", "-t", "C,,", "-i", file]);
}

/// Returns the child of the process `parent`; `None` if it has none, or is gone.
fn only_child(parent: u32) -> Option<libc::pid_t> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
