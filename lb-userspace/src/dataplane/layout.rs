//! Whether pinned maps have the layout that this version was built for.
//!
//! A map that an earlier daemon left behind is only safe to use if its sizes are ours: the kernel
//! copies as many bytes as the *map* says, whatever buffer it is given. So before a pin is adopted,
//! [`expected`] reads from the kernel object what each map should be, [`pinned`] asks the kernel
//! what the pin is, and [`MapLayout::differences`] says in words where the two part.
//!
//! Types are compared by structure (field names, offsets, widths, array lengths), since two
//! versions may give a different meaning to the same number of bytes. The names of types are
//! not compared: compilers are free to change them.

mod btf;
mod kernel;
mod object;
mod shape;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

pub use btf::BtfError;
pub use shape::{Field, Shape};

use btf::Btf;

/// Returns what each map of the kernel object should be, by name.
///
/// Only maps with type information (section `.maps`) are in the result. The capacity is the one
/// written in the program: for maps that are sized when they are loaded, put the size of this
/// run into [`MapLayout::max_entries`] before comparing.
///
/// # Errors
///
/// [`LayoutError`] when `object` is no ELF file with type information, or defines a map in a way
/// that the loader would not understand either.
pub fn expected(object: &[u8]) -> Result<BTreeMap<String, MapLayout>, LayoutError> {
    object::maps(object)
}

/// Returns what the map pinned at `path` is, or `None` if nothing is pinned there.
///
/// The map is opened for reading and closed again; nothing about it changes. Needs
/// `CAP_SYS_ADMIN`.
///
/// # Errors
///
/// [`LayoutError`] when `path` holds something else than a map, or the kernel refuses to answer.
pub fn pinned(path: &Path) -> Result<Option<MapLayout>, LayoutError> {
    let Some(map) = kernel::open_map(path)? else {
        return Ok(None);
    };
    let refused = |call| {
        move |source: io::Error| match source.raw_os_error() {
            Some(libc::EPERM) => LayoutError::Denied(path.to_owned()),
            _ => LayoutError::Kernel {
                path: path.to_owned(),
                call,
                source,
            },
        }
    };
    let info = kernel::map_info(&map).map_err(refused("BPF_OBJ_GET_INFO_BY_FD"))?;
    let mut layout = MapLayout {
        kind: info.kind,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: info.flags,
        key: None,
        value: None,
    };
    if info.btf != 0 {
        let bytes = kernel::btf(info.btf).map_err(refused("BPF_BTF_GET_FD_BY_ID"))?;
        let shapes = || -> Result<_, BtfError> {
            let btf = Btf::parse(&bytes)?;
            let shape = |id| (id != 0).then(|| btf.shape(id)).transpose();
            Ok((shape(info.key_type)?, shape(info.value_type)?))
        };
        (layout.key, layout.value) = shapes().map_err(|source| LayoutError::Types {
            of: path.display().to_string(),
            source,
        })?;
    }
    Ok(Some(layout))
}

/// Returns the number of the program and the index of the interface that the link pinned at `path`
/// joins, or `None` if nothing is pinned there. The index is zero when the interface has gone, or
/// the link was detached by force.
///
/// # Errors
///
/// The kernel's; also when something else than a link is pinned there.
pub fn link(path: &Path) -> io::Result<Option<(u32, u32)>> {
    let link = kernel::open_link(path)?;
    link.map(|link| kernel::link_info(&link)).transpose()
}

/// Tells whether `path` is in a BPF file system, where alone maps can be pinned. `false` also if
/// it cannot be looked at, or does not exist.
pub fn is_bpffs(path: &Path) -> bool {
    kernel::is_bpffs(path)
}

/// All of a map that a program relies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapLayout {
    /// Number of the map's type, as in the kernel's `enum bpf_map_type`.
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value; of one processor's value in a per-CPU map.
    pub value_size: u32,
    /// Capacity in entries.
    pub max_entries: u32,
    /// The `BPF_F_...` flags that it is created with.
    pub flags: u32,
    /// What a key consists of; `None` without type information.
    pub key: Option<Shape>,
    /// What a value consists of; `None` without type information.
    pub value: Option<Shape>,
}

impl MapLayout {
    /// Says where `pinned` differs from `self`, the expected layout: one sentence per difference,
    /// such as `value size is 12, expected 16`. Empty: the pin can be adopted.
    pub fn differences(&self, pinned: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if pinned.kind != self.kind {
            let (is, expected) = (Kind(pinned.kind), Kind(self.kind));
            found.push(format!("type is {is}, expected {expected}"));
        }
        for (what, is, expected) in [
            ("key size", pinned.key_size, self.key_size),
            ("value size", pinned.value_size, self.value_size),
            ("capacity", pinned.max_entries, self.max_entries),
        ] {
            if is != expected {
                found.push(format!("{what} is {is}, expected {expected}"));
            }
        }
        if pinned.flags != self.flags {
            let (is, expected) = (pinned.flags, self.flags);
            found.push(format!("flags are {is:#x}, expected {expected:#x}"));
        }
        for (what, is, expected) in [
            ("key", &pinned.key, &self.key),
            ("value", &pinned.value, &self.value),
        ] {
            match (is, expected) {
                (Some(is), Some(expected)) => found.extend(expected.differences(what, is)),
                (None, Some(_)) => found.push(format!("{what} has no type information")),
                (Some(is), None) => found.push(format!("{what} is {is}, expected without type")),
                (None, None) => {}
            }
        }
        found
    }
}

/// A map type, shown by the name that `bpftool` gives it.
struct Kind(u32);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::try_from(self.0).ok().and_then(|n| KINDS.get(n)) {
            Some(name) => f.write_str(name),
            None => write!(f, "number {}", self.0),
        }
    }
}

/// Why a layout cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The kernel object is not an ELF file.
    #[error("the kernel object cannot be read as an ELF file; build it again")]
    Elf(#[source] ::object::read::Error),
    /// The kernel object was built without type information.
    #[error(
        "the kernel object has no section {0}; build it with debug information and link it with --btf"
    )]
    NoSection(&'static str),
    /// A map of the kernel object is not defined as loaders understand it.
    #[error("map {map} of the kernel object is defined without a usable {member:?}")]
    Definition {
        /// The map.
        map: String,
        /// The member of its definition.
        member: &'static str,
    },
    /// Type information contradicts itself.
    #[error("the type information of {of} is damaged")]
    Types {
        /// The kernel object, or the path of a pin.
        of: String,
        /// What is wrong with it.
        #[source]
        source: BtfError,
    },
    /// Something else than a map stands where a map should be pinned.
    #[error(
        "{} is not a pinned map that this process may read; as root, move it away and start again",
        .0.display()
    )]
    NotAMap(PathBuf),
    /// The process may not use BPF.
    #[error("reading {} needs CAP_SYS_ADMIN; run this as root", .0.display())]
    Denied(PathBuf),
    /// The kernel refused a call.
    #[error("{call} failed for {}", .path.display())]
    Kernel {
        /// The pin.
        path: PathBuf,
        /// The command of bpf(2).
        call: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Names by number: `enum bpf_map_type` of the kernel's `include/uapi/linux/bpf.h`, as `bpftool`
/// prints them.
const KINDS: [&str; 34] = [
    "unspec",
    "hash",
    "array",
    "prog_array",
    "perf_event_array",
    "percpu_hash",
    "percpu_array",
    "stack_trace",
    "cgroup_array",
    "lru_hash",
    "lru_percpu_hash",
    "lpm_trie",
    "array_of_maps",
    "hash_of_maps",
    "devmap",
    "sockmap",
    "cpumap",
    "xskmap",
    "sockhash",
    "cgroup_storage",
    "reuseport_sockarray",
    "percpu_cgroup_storage",
    "queue",
    "stack",
    "sk_storage",
    "devmap_hash",
    "struct_ops",
    "ringbuf",
    "inode_storage",
    "task_storage",
    "bloom_filter",
    "user_ringbuf",
    "cgrp_storage",
    "arena",
];
