//! What the running kernel offers. Nothing is changed here: a build needs none of it.

use std::fs;
use std::path::Path;

use super::{note, ok};

/// Looks at the kernel and says what will not work on it.
pub(super) fn look() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    let bpffs = fs::read_to_string("/proc/mounts").is_ok_and(|mounts| has_bpffs(&mounts));
    if btf && bpffs {
        ok(&format!("kernel {release}, with BTF and /sys/fs/bpf"));
    }
    if !btf {
        note(&format!(
            "kernel {release} has no /sys/kernel/btf/vmlinux: vipd needs one built with CONFIG_DEBUG_INFO_BTF=y"
        ));
    }
    if !bpffs {
        note("no bpffs at /sys/fs/bpf: before the first start run `mount -t bpf bpf /sys/fs/bpf`");
    }
}

/// Whether the mount table (proc(5), `/proc/mounts`) has the BPF file system at its usual place.
fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some("/sys/fs/bpf") && words.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::has_bpffs;

    #[test]
    fn the_bpf_file_system_counts_only_at_its_place() {
        assert!(has_bpffs(
            "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n"
        ));
        assert!(!has_bpffs("bpf /tmp/bpf bpf rw 0 0\n"));
        assert!(!has_bpffs("sysfs /sys/fs/bpf tmpfs rw 0 0\n"));
    }
}
