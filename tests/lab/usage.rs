//! What a running daemon uses.

use std::fs;

/// Memory, descriptors and threads of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Its share of the memory, in KiB: what several processes map is divided among them.
    pub pss_kib: u64,
    /// The part of it that is no file's, in KiB. It does not change when another process ends that
    /// runs the same program.
    pub anonymous_kib: u64,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl Usage {
    /// Reads what the process `pid` uses (proc(5)).
    ///
    /// # Panics
    ///
    /// If there is no such process.
    #[must_use]
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{path} cannot be read: {error}"));
        let kib =
            |name| kib(&text, name).unwrap_or_else(|| panic!("{path} has no {name} in: {text}"));
        Self {
            pss_kib: kib("Pss:"),
            anonymous_kib: kib("Pss_Anon:"),
            descriptors: entries(&format!("/proc/{pid}/fd")),
            threads: entries(&format!("/proc/{pid}/task")),
        }
    }
}

fn kib(rollup: &str, name: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn entries(directory: &str) -> usize {
    fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{directory} cannot be read: {error}"))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_read() {
        let rollup = "55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss: 9 kB\nPss:  4711 kB\nPss_Dirty: 3 kB\nPss_Anon: 12 kB\n";
        assert_eq!(kib(rollup, "Pss:"), Some(4711));
        assert_eq!(kib(rollup, "Pss_Anon:"), Some(12));
        assert!(Usage::of(std::process::id()).descriptors > 0);
    }
}
