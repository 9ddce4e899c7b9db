//! Network namespaces without a name, and the mount namespace that gives a daemon its own bpffs.

use std::{
    ffi::CStr,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    panic,
    process::{self, Command, Stdio},
    sync::Arc,
    thread,
};

/// A network namespace, alive as long as this handle, a socket or a process in it.
#[derive(Clone, Debug)]
pub struct NetNs {
    fd: Arc<OwnedFd>,
}

impl NetNs {
    /// Makes a namespace with its loopback interface up.
    ///
    /// # Panics
    ///
    /// If the kernel refuses, which it does for everyone but root.
    #[must_use]
    pub fn new() -> Self {
        let fd = in_thread_of_its_own(|| {
            unshare(libc::CLONE_NEWNET).expect("a network namespace can be made (as root)");
            // Router advertisements and duplicate address detection would make addresses
            // come late or change.
            sysctl("net/ipv6/conf/default/accept_ra", "0");
            sysctl("net/ipv6/conf/default/accept_dad", "0");
            sysctl("net/ipv4/conf/all/rp_filter", "0");
            sysctl("net/ipv4/conf/default/rp_filter", "0");
            OwnedFd::from(File::open("/proc/thread-self/ns/net").expect("own namespace opens"))
        });
        let namespace = Self { fd: Arc::new(fd) };
        namespace.ip(&["link set lo up"]);
        namespace
    }

    /// Runs `work` on a thread that is in this namespace: sockets made there belong to it for good.
    ///
    /// # Panics
    ///
    /// Passes on a panic of `work`.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_thread_of_its_own(|| {
            set_namespace(&self.fd, libc::CLONE_NEWNET).expect("the namespace can be entered");
            work()
        })
    }

    /// Returns a command that will run in this namespace and be killed when the calling thread ends.
    pub fn command(&self, program: &str) -> Command {
        self.command_with(program, None)
    }

    /// Like [`Self::command`], in the mount namespace `mounts` as well.
    pub fn command_with(&self, program: &str, mounts: Option<&Mounts>) -> Command {
        let net = Arc::clone(&self.fd);
        let mounts = mounts.map(|mounts| Arc::clone(&mounts.fd));
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        // SAFETY: between fork and exec the closure makes system calls only; it neither allocates
        // nor takes a lock.
        unsafe {
            command.pre_exec(move || {
                if let Some(mounts) = &mounts {
                    set_namespace(mounts, libc::CLONE_NEWNS)?;
                }
                set_namespace(&net, libc::CLONE_NEWNET)?;
                die_with_parent()
            });
        }
        command
    }

    /// Runs `ip` once with all of `lines`, each a command as written after `ip` in a shell.
    ///
    /// # Panics
    ///
    /// If one of them fails; the message holds what `ip` said.
    #[track_caller]
    pub fn ip(&self, lines: &[&str]) {
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip (package iproute2) starts");
        let mut script = lines.join("\n");
        script.push('\n');
        child
            .stdin
            .take()
            .expect("stdin is piped")
            .write_all(script.as_bytes())
            .expect("ip reads its commands");
        let output = child.wait_with_output().expect("ip ends");
        assert!(
            output.status.success(),
            "ip failed: {}\n{script}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Writes a kernel setting of this namespace; `name` is its path below `/proc/sys`.
    ///
    /// # Panics
    ///
    /// If the setting does not exist or refuses the value.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        self.enter(|| sysctl(name, value));
    }

    /// Reads a kernel setting of this namespace; `name` is its path below `/proc/sys`.
    ///
    /// # Panics
    ///
    /// If the setting does not exist.
    #[must_use]
    pub fn read_sysctl(&self, name: &str) -> String {
        self.enter(|| {
            fs::read_to_string(format!("/proc/sys/{name}"))
                .unwrap_or_else(|error| panic!("{name} cannot be read: {error}"))
                .trim()
                .to_owned()
        })
    }

    /// Returns how many datagrams this namespace's stack refused for their checksum.
    ///
    /// Counts UDP over IPv4 and IPv6, TCP, ICMP and ICMPv6.
    #[must_use]
    pub fn checksum_errors(&self) -> u64 {
        let (snmp, snmp6) = self.enter(|| {
            (
                fs::read_to_string("/proc/thread-self/net/snmp").expect("snmp counters"),
                fs::read_to_string("/proc/thread-self/net/snmp6").expect("snmp6 counters"),
            )
        });
        snmp_checksum_errors(&snmp) + snmp6_checksum_errors(&snmp6)
    }

    /// Returns a path that names this namespace while this process lives, for `nsenter --net=` and `ip`.
    #[must_use]
    pub fn path(&self) -> String {
        descriptor_path(&self.fd)
    }
}

impl Default for NetNs {
    fn default() -> Self {
        Self::new()
    }
}

/// A mount namespace with a `/sys` and a bpffs of its own, and an empty `/run`.
///
/// Pins live as long as this handle, so that a daemon that is killed finds them again.
#[derive(Clone, Debug)]
pub struct Mounts {
    fd: Arc<OwnedFd>,
}

impl Mounts {
    /// Makes the mounts for processes in `net`.
    ///
    /// # Panics
    ///
    /// If the kernel refuses one of them.
    #[must_use]
    pub fn new(net: &NetNs) -> Self {
        let fd = net.enter(|| {
            unshare(libc::CLONE_NEWNS).expect("a mount namespace can be made (as root)");
            mount(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE);
            // sysfs shows the network namespace it was mounted in.
            mount(c"sysfs", c"/sys", c"sysfs", 0);
            mount(c"bpf", c"/sys/fs/bpf", c"bpf", 0);
            mount(c"tmpfs", c"/run", c"tmpfs", 0);
            OwnedFd::from(File::open("/proc/thread-self/ns/mnt").expect("own namespace opens"))
        });
        Self { fd: Arc::new(fd) }
    }

    /// Runs `work` on a thread that sees these mounts.
    ///
    /// # Panics
    ///
    /// Passes on a panic of `work`.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_thread_of_its_own(|| {
            // Threads share their root and working directory; the kernel lets only a task with its own change mounts.
            unshare(libc::CLONE_FS).expect("a thread can have its own file system view");
            set_namespace(&self.fd, libc::CLONE_NEWNS).expect("the namespace can be entered");
            work()
        })
    }

    /// Returns a path that names this namespace while this process lives, for `nsenter --mount=`.
    #[must_use]
    pub fn path(&self) -> String {
        descriptor_path(&self.fd)
    }
}

fn in_thread_of_its_own<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|payload| panic::resume_unwind(payload))
}

fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/{name}");
    fs::write(&path, value).unwrap_or_else(|error| panic!("{path} does not take {value}: {error}"));
}

fn descriptor_path(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", process::id(), fd.as_raw_fd())
}

fn snmp_checksum_errors(text: &str) -> u64 {
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    // Pairs of lines: names, then values in the same columns.
    lines
        .chunks_exact(2)
        .flat_map(|pair| pair[0].iter().zip(&pair[1]))
        .filter(|(name, _)| **name == "InCsumErrors")
        .map(|(_, value)| value.parse::<u64>().expect("a counter is a number"))
        .sum()
}

fn snmp6_checksum_errors(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .filter(|(name, _)| name.ends_with("InCsumErrors"))
        .map(|(_, value)| value.trim().parse::<u64>().expect("a counter is a number"))
        .sum()
}

fn unshare(what: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointer; only the calling thread is concerned.
    succeeded(unsafe { libc::unshare(what) })
}

fn set_namespace(fd: &OwnedFd, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointer, and the descriptor is open while borrowed.
    succeeded(unsafe { libc::setns(fd.as_raw_fd(), kind) })
}

fn die_with_parent() -> io::Result<()> {
    // SAFETY: takes no pointer.
    succeeded(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
}

#[track_caller]
fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong) {
    // SAFETY: the three strings are terminated and live through the call; no data is passed.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            std::ptr::null(),
        )
    };
    succeeded(result).unwrap_or_else(|error| panic!("{target:?} cannot be mounted: {error}"));
}

fn succeeded(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_errors_of_all_protocols_are_added_up() {
        let snmp = "Tcp: InErrs InCsumErrors\nTcp: 9 1\nUdp: InDatagrams InCsumErrors\nUdp: 8 2\n";
        let snmp6 = "Udp6InCsumErrors                \t4\nUdp6InErrors\t9\n";

        assert_eq!(snmp_checksum_errors(snmp), 3);
        assert_eq!(snmp6_checksum_errors(snmp6), 4);
    }
}
