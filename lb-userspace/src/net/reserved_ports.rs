//! Keeps the SNAT port range out of the hands of the host's own sockets.
//!
//! The range is merged into `net.ipv4.ip_local_reserved_ports` (kernel documentation,
//! `networking/ip-sysctl.rst`; it holds for IPv6 too): the kernel then never picks one of these
//! ports by itself. A record beside the daemon's other state names the ports that vipd added, and
//! the boot in which it did, so that exactly these are given back.

use std::{
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

pub mod port_set;

use port_set::{ParsePortSetError, PortSet};

const RESERVED: &str = "proc/sys/net/ipv4/ip_local_reserved_ports";
const EPHEMERAL: &str = "proc/sys/net/ipv4/ip_local_port_range";
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";

/// Why the SNAT range could not be reserved or given back.
#[derive(Debug, thiserror::Error)]
pub enum ReservedPortsError {
    /// A file of the kernel or the record could not be read or written.
    #[error("cannot {attempt} {}", path.display())]
    File {
        /// "read", "write" or "remove".
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds {content:?}, which is no {expected}{remedy}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it holds.
        content: String,
        /// What it should hold.
        expected: &'static str,
        /// What to do about it, if anything can be done.
        remedy: &'static str,
    },
    /// Nothing would be left for the host's own connections.
    #[error(
        "snat_ports = \"{snat}\" would leave the host no ephemeral port: its range \
         (net.ipv4.ip_local_port_range) is {ephemeral} and {reserved} would be reserved; \
         choose snat_ports outside {ephemeral} or widen that range"
    )]
    NoEphemeralPortLeft {
        /// The range that was asked for.
        snat: PortSet,
        /// The host's ephemeral range.
        ephemeral: PortSet,
        /// Everything that would be reserved.
        reserved: PortSet,
    },
}

/// Where the kernel's settings and the record of what was added are.
#[derive(Clone, Debug)]
pub struct ReservedPorts {
    root: PathBuf,
    record: PathBuf,
}

impl ReservedPorts {
    /// Names the places: `root` is `/` outside of tests, `record` a file in the state directory
    /// (which must exist) that only this module reads and writes.
    #[must_use]
    pub fn new(root: &Path, record: &Path) -> Self {
        Self {
            root: root.to_owned(),
            record: record.to_owned(),
        }
    }

    /// Reserves `range`, in place of whatever vipd reserved before, and returns how many ephemeral
    /// ports the host is left with. Doing it again changes nothing.
    ///
    /// # Errors
    ///
    /// [`ReservedPortsError::NoEphemeralPortLeft`]; nothing is changed then. Otherwise
    /// [`ReservedPortsError::File`] or [`ReservedPortsError::Content`].
    pub fn reserve(&self, range: RangeInclusive<u16>) -> Result<u32, ReservedPortsError> {
        let snat = PortSet::from(range);
        let current = self.read_set(RESERVED)?;
        let ephemeral = self.ephemeral()?;
        let plan = plan(&current, &self.added_before()?, &snat);
        let left = ephemeral.difference(&plan.reserved);
        if left.is_empty() {
            return Err(ReservedPortsError::NoEphemeralPortLeft {
                snat,
                ephemeral,
                reserved: plan.reserved,
            });
        }
        // The record first: after a crash in between it names ports that are not reserved, and
        // giving those back does nothing.
        self.write_record(&plan.added)?;
        if plan.reserved != current {
            self.write_reserved(&plan.reserved)?;
        }
        Ok(left.len())
    }

    /// Gives back exactly what [`ReservedPorts::reserve`] added and returns it; empty if that was
    /// nothing. What others reserved stays.
    ///
    /// # Errors
    ///
    /// [`ReservedPortsError::File`] or [`ReservedPortsError::Content`].
    pub fn release(&self) -> Result<PortSet, ReservedPortsError> {
        let added = self.added_before()?;
        let current = self.read_set(RESERVED)?;
        let rest = current.difference(&added);
        if rest != current {
            self.write_reserved(&rest)?;
        }
        match fs::remove_file(&self.record) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(file_error("remove", &self.record, source))
            }
            _ => Ok(added),
        }
    }

    fn ephemeral(&self) -> Result<PortSet, ReservedPortsError> {
        let path = self.root.join(EPHEMERAL);
        let content = read(&path)?;
        port_set::parse_port_range(&content).ok_or(ReservedPortsError::Content {
            path,
            content,
            expected: "pair of ports",
            remedy: "",
        })
    }

    fn read_set(&self, file: &str) -> Result<PortSet, ReservedPortsError> {
        let path = self.root.join(file);
        let content = read(&path)?;
        content
            .parse()
            .map_err(|ParsePortSetError| ReservedPortsError::Content {
                path,
                content,
                expected: "list of ports",
                remedy: "",
            })
    }

    fn write_reserved(&self, ports: &PortSet) -> Result<(), ReservedPortsError> {
        let path = self.root.join(RESERVED);
        fs::write(&path, format!("{ports}\n")).map_err(|source| file_error("write", &path, source))
    }

    fn boot_id(&self) -> Result<String, ReservedPortsError> {
        Ok(read(&self.root.join(BOOT_ID))?.trim().to_owned())
    }

    /// Returns what vipd added and did not give back; nothing if the host has booted since, because
    /// the kernel's list began anew.
    fn added_before(&self) -> Result<PortSet, ReservedPortsError> {
        let content = match fs::read_to_string(&self.record) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(PortSet::default()),
            Err(source) => return Err(file_error("read", &self.record, source)),
        };
        let Some((boot, added)) = parse_record(&content) else {
            return Err(ReservedPortsError::Content {
                path: self.record.clone(),
                content,
                expected: "record of added ports",
                remedy: "; remove the file, and the SNAT ports from \
                         net.ipv4.ip_local_reserved_ports if they are still there",
            });
        };
        Ok(if boot == self.boot_id()? {
            added
        } else {
            PortSet::default()
        })
    }

    fn write_record(&self, added: &PortSet) -> Result<(), ReservedPortsError> {
        let content = record(&self.boot_id()?, added);
        let fresh = self.record.with_extension("new");
        fs::write(&fresh, content).map_err(|source| file_error("write", &fresh, source))?;
        fs::rename(&fresh, &self.record).map_err(|source| file_error("write", &self.record, source))
    }
}

/// What to write: everything that is to be reserved, and which of it is vipd's addition.
#[derive(Debug, Eq, PartialEq)]
struct Plan {
    reserved: PortSet,
    added: PortSet,
}

fn plan(current: &PortSet, added_before: &PortSet, snat: &PortSet) -> Plan {
    let of_others = current.difference(added_before);
    Plan {
        reserved: of_others.union(snat),
        added: snat.difference(&of_others),
    }
}

pub(super) fn record(boot: &str, added: &PortSet) -> String {
    format!("boot {boot}\nadded {added}\n")
}

pub(super) fn parse_record(content: &str) -> Option<(&str, PortSet)> {
    let (boot, added) = content.split_once('\n')?;
    let boot = boot.strip_prefix("boot ")?;
    let added = added.strip_prefix("added ")?.parse().ok()?;
    Some((boot, added))
}

fn read(path: &Path) -> Result<String, ReservedPortsError> {
    fs::read_to_string(path).map_err(|source| file_error("read", path, source))
}

fn file_error(attempt: &'static str, path: &Path, source: io::Error) -> ReservedPortsError {
    ReservedPortsError::File {
        attempt,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::testbed::in_namespace;

    const BOOT: &str = "6f1c5b0e-0000-4000-8000-000000000001";

    /// A directory with the kernel's three files in it.
    struct FakeHost(tempfile::TempDir);

    impl FakeHost {
        fn new(reserved: &str, ephemeral: &str) -> Self {
            let host = Self(tempfile::tempdir().expect("a directory"));
            host.write(RESERVED, reserved);
            host.write(EPHEMERAL, ephemeral);
            host.write(BOOT_ID, BOOT);
            host
        }

        fn write(&self, file: &str, content: &str) {
            let path = self.0.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, format!("{content}\n")).expect("a file");
        }

        fn reserved(&self) -> String {
            let content = fs::read_to_string(self.0.path().join(RESERVED)).expect("a file");
            content.trim().to_owned()
        }

        fn ports(&self) -> ReservedPorts {
            ReservedPorts::new(self.0.path(), &self.0.path().join("reserved-ports"))
        }
    }

    #[test]
    fn the_range_joins_what_others_reserved_and_leaves_alone_again() {
        let host = FakeHost::new("8080,25000-40000", "32768\t60999");

        let left = host.ports().reserve(20_000..=32_767).expect("reserved");
        assert_eq!(host.reserved(), "8080,20000-40000");
        assert_eq!(left, 60_999 - 40_000);

        let released = host.ports().release().expect("released");
        assert_eq!(released.to_string(), "20000-24999");
        assert_eq!(host.reserved(), "8080,25000-40000");
    }

    #[test]
    fn reserving_again_still_knows_what_was_added() {
        let host = FakeHost::new("", "32768\t60999");

        host.ports().reserve(20_000..=32_767).expect("reserved");
        host.ports().reserve(20_000..=32_767).expect("again");
        assert_eq!(host.reserved(), "20000-32767");

        host.ports().release().expect("released");
        assert_eq!(host.reserved(), "");
    }

    #[test]
    fn another_range_takes_the_place_of_the_former_one() {
        let host = FakeHost::new("25000", "32768\t60999");

        host.ports().reserve(20_000..=29_999).expect("reserved");
        host.ports().reserve(28_000..=31_000).expect("moved");

        assert_eq!(host.reserved(), "25000,28000-31000");
    }

    #[test]
    fn ports_that_somebody_reserved_meanwhile_stay() {
        let host = FakeHost::new("", "32768\t60999");
        host.ports().reserve(20_000..=20_009).expect("reserved");
        host.write(RESERVED, "8080,20000-20009");

        host.ports().release().expect("released");

        assert_eq!(host.reserved(), "8080");
    }

    #[test]
    fn after_a_reboot_nothing_counts_as_added() {
        let host = FakeHost::new("", "32768\t60999");
        host.ports().reserve(20_000..=32_767).expect("reserved");
        host.write(BOOT_ID, "6f1c5b0e-0000-4000-8000-000000000002");

        let released = host.ports().release().expect("released");

        assert!(released.is_empty());
        assert_eq!(host.reserved(), "20000-32767");
    }

    #[test]
    fn a_range_that_leaves_no_ephemeral_port_is_refused_and_nothing_changes() {
        let host = FakeHost::new("30000-32000", "20000\t32767");

        let error = host
            .ports()
            .reserve(20_000..=32_767)
            .expect_err("no port is left");

        let text = error.to_string();
        assert!(text.contains("snat_ports = \"20000-32767\""), "{text}");
        assert!(
            text.contains("choose snat_ports outside 20000-32767"),
            "{text}"
        );
        assert_eq!(host.reserved(), "30000-32000");
    }

    #[test]
    fn a_damaged_record_is_named_with_the_remedy() {
        let host = FakeHost::new("", "32768\t60999");
        host.write("reserved-ports", "nonsense");

        let error = host.ports().release().expect_err("damaged");

        assert!(error.to_string().contains("remove the file"), "{error}");
    }

    #[test]
    fn the_kernel_takes_and_gives_back_the_range() {
        in_namespace(async || {
            let state = tempfile::tempdir().expect("a directory");
            let ports = ReservedPorts::new(Path::new("/"), &state.path().join("reserved-ports"));
            let kernel = || fs::read_to_string(Path::new("/").join(RESERVED)).expect("readable");

            ports.reserve(20_000..=32_767).expect("reserved");
            assert_eq!(kernel().trim(), "20000-32767");

            ports.release().expect("released");
            assert_eq!(kernel().trim(), "");
        });
    }

    fn any_set() -> impl Strategy<Value = PortSet> {
        let range = (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a.min(b)..=a.max(b));
        prop::collection::vec(range, 0..5).prop_map(|ranges| {
            ranges
                .into_iter()
                .fold(PortSet::default(), |set, range| set.union(&range.into()))
        })
    }

    proptest! {
        #[test]
        fn what_is_added_can_always_be_taken_away(of_others in any_set(), snat in any_set()) {
            let plan = plan(&of_others, &PortSet::default(), &snat);

            prop_assert_eq!(plan.reserved.difference(&plan.added), of_others);
            prop_assert!(snat.difference(&plan.reserved).is_empty());
        }

        #[test]
        fn planning_twice_gives_the_same(of_others in any_set(), snat in any_set()) {
            let first = plan(&of_others, &PortSet::default(), &snat);
            let second = plan(&first.reserved, &first.added, &snat);

            prop_assert_eq!(first, second);
        }
    }
}
