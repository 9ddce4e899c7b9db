//! Questions to the kernel about what is pinned: bpf(2), without a library between.
//!
//! The structures are prefixes of the kernel's (`include/uapi/linux/bpf.h`); it takes what a
//! caller leaves out for zero, and writes no more than the caller has room for.
#![expect(
    unsafe_code,
    reason = "bpf(2) has no safe binding that tells the type information of a map, or the \
              interface of a link"
)]

use std::{
    ffi::CString,
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use super::LayoutError;

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_BTF_GET_FD_BY_ID: libc::c_int = 19;

/// Open for reading only.
const BPF_F_RDONLY: u32 = 1 << 3;

/// What the kernel says about a map: `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
pub(super) struct MapInfo {
    /// Number of the map's type.
    pub(super) kind: u32,
    _id: u32,
    /// Bytes of a key.
    pub(super) key_size: u32,
    /// Bytes of a value.
    pub(super) value_size: u32,
    /// Capacity in entries.
    pub(super) max_entries: u32,
    /// `BPF_F_...` flags.
    pub(super) flags: u32,
    _name: [u8; 16],
    _interface: u32,
    _vmlinux_value_type: u32,
    _netns_device: u64,
    _netns_inode: u64,
    /// Number of its type information, 0 without.
    pub(super) btf: u32,
    /// Number of the key's type within it, 0 without.
    pub(super) key_type: u32,
    /// Number of the value's type within it, 0 without.
    pub(super) value_type: u32,
    _vmlinux: u32,
}

/// What BPF_OBJ_GET takes.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens the map pinned at `path`; `None` if nothing is there.
///
/// # Errors
///
/// [`LayoutError`] when `path` cannot be opened or is something else.
pub(super) fn open_map(path: &Path) -> Result<Option<OwnedFd>, LayoutError> {
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else {
        return Err(LayoutError::NotAMap(path.to_owned()));
    };
    let mut attributes = ObjGet {
        path: name.as_ptr() as u64,
        fd: 0,
        flags: BPF_F_RDONLY,
    };
    // SAFETY: ObjGet is what BPF_OBJ_GET takes, and `name` is a C string that outlives the call.
    let opened = unsafe { bpf_fd(BPF_OBJ_GET, &mut attributes) };
    let refused = |source: io::Error| match source.raw_os_error() {
        Some(libc::EACCES | libc::EINVAL) => LayoutError::NotAMap(path.to_owned()),
        Some(libc::EPERM) => LayoutError::Denied(path.to_owned()),
        _ => LayoutError::Kernel {
            path: path.to_owned(),
            call: "BPF_OBJ_GET",
            source,
        },
    };
    match opened {
        Ok(object) if is_map(&object).map_err(refused)? => Ok(Some(object)),
        Ok(_) => Err(LayoutError::NotAMap(path.to_owned())),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(refused(error)),
    }
}

/// Tells a map from a program or link: BPF_OBJ_GET opens whatever is pinned, and would describe a
/// program in the fields of a map without complaint.
fn is_map(object: &OwnedFd) -> io::Result<bool> {
    Ok(kind(object)? == Path::new("anon_inode:bpf-map"))
}

fn kind(object: &OwnedFd) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))
}

/// Opens the link pinned at `path`; `None` if nothing is there.
///
/// # Errors
///
/// The kernel's; also when something else is pinned there.
pub(super) fn open_link(path: &Path) -> io::Result<Option<OwnedFd>> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjGet {
        path: name.as_ptr() as u64,
        fd: 0,
        // Links cannot be opened for reading only.
        flags: 0,
    };
    // SAFETY: ObjGet is what BPF_OBJ_GET takes, and `name` is a C string that outlives the call.
    match unsafe { bpf_fd(BPF_OBJ_GET, &mut attributes) } {
        // "bpf-link" or "bpf_link", by the kernel's version.
        Ok(link) if kind(&link)?.to_string_lossy().contains("link") => Ok(Some(link)),
        Ok(_) => Err(io::Error::other("it is no link")),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the number of the program and the index of the interface of `link`, which
/// [`open_link`] has opened and which must be an XDP program's.
///
/// # Errors
///
/// The kernel's.
pub(super) fn link_info(link: &OwnedFd) -> io::Result<(u32, u32)> {
    /// `struct bpf_link_info` with the part that XDP links have.
    #[repr(C)]
    #[derive(Default)]
    struct LinkInfo {
        kind: u32,
        id: u32,
        program: u32,
        _padding: u32,
        interface: u32,
        _rest: [u32; 3],
    }
    const BPF_LINK_TYPE_XDP: u32 = 6;
    let mut info = LinkInfo::default();
    // SAFETY: LinkInfo is a prefix of `struct bpf_link_info`; what other kinds of links take for
    // an address and a length in it is zero.
    unsafe { object_info(link, &mut info) }?;
    if info.kind != BPF_LINK_TYPE_XDP {
        return Err(io::Error::other("it is no link of an XDP program"));
    }
    Ok((info.program, info.interface))
}

/// Tells whether `path` is in a BPF file system; see [`super::is_bpffs`].
pub(super) fn is_bpffs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let mut answer = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `path` is a C string, and there is room for the answer.
    let result = unsafe { libc::statfs(path.as_ptr(), answer.as_mut_ptr()) };
    // SAFETY: a structure of numbers, zeroed above, and filled by the kernel if it could.
    let answer = unsafe { answer.assume_init() };
    result == 0 && answer.f_type == libc::BPF_FS_MAGIC
}

/// Returns what the kernel says about `map`, which [`open_map`] has opened.
///
/// # Errors
///
/// The kernel's.
pub(super) fn map_info(map: &OwnedFd) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    // SAFETY: MapInfo is a prefix of `struct bpf_map_info`, numbers only and without pointers.
    unsafe { object_info(map, &mut info) }?;
    Ok(info)
}

/// Returns the type information with number `id`, as bytes.
///
/// # Errors
///
/// The kernel's.
pub(super) fn btf(id: u32) -> io::Result<Vec<u8>> {
    /// `struct bpf_btf_info`.
    #[repr(C)]
    #[derive(Default)]
    struct BtfInfo {
        bytes: u64,
        size: u32,
        id: u32,
    }
    let mut id = id;
    // SAFETY: BPF_BTF_GET_FD_BY_ID takes a number.
    let fd = unsafe { bpf_fd(BPF_BTF_GET_FD_BY_ID, &mut id) }?;

    let mut info = BtfInfo::default();
    // SAFETY: BtfInfo is a prefix of `struct bpf_btf_info`; there is room for no bytes, so the
    // kernel writes none and says how many there are.
    unsafe { object_info(&fd, &mut info) }?;
    let mut bytes = vec![0; info.size as usize];
    let mut info = BtfInfo {
        bytes: bytes.as_mut_ptr() as u64,
        size: info.size,
        id: 0,
    };
    // SAFETY: as above, and `bytes` has room for `size` bytes and outlives the call.
    unsafe { object_info(&fd, &mut info) }?;
    Ok(bytes)
}

/// Has the kernel fill `info` with what it says about `object`.
///
/// # Safety
///
/// `T` must be a prefix of the `struct bpf_..._info` that belongs to the kind of `object`, valid
/// for whatever numbers are written into it, and the buffers that it names must be valid for
/// writing as many bytes as it says.
unsafe fn object_info<T>(object: &OwnedFd, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct InfoByFd {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut attributes = InfoByFd {
        fd: object.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: InfoByFd is what BPF_OBJ_GET_INFO_BY_FD takes; the rest is the caller's promise.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(())
}

/// Runs a command that answers with a file descriptor.
///
/// # Safety
///
/// As for [`bpf`]; and `command` must be one that opens something.
pub(super) unsafe fn bpf_fd<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attributes) }?;
    // SAFETY: the kernel has just opened it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs a command of bpf(2).
///
/// # Safety
///
/// `T` must be `repr(C)`, without padding, and begin as `union bpf_attr` does for `command`;
/// addresses in it must be valid for what the command does with them.
pub(super) unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from `attributes`, which are there; the
    // rest is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    // The result of every command is an error or an int.
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as libc::c_int)
}
