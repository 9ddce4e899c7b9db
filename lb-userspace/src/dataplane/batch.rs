//! Walking a large hash map in batches: several times cheaper than asking for one key after
//! another, and aya has no call for it.
#![expect(
    unsafe_code,
    reason = "BPF_MAP_LOOKUP_BATCH has no safe binding in aya or libc"
)]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{Pod, maps::MapData};

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd` (kernel, `include/uapi/linux/bpf.h`).
const LOOKUP_BATCH: libc::c_int = 24;

/// Entries that are asked for at once. The kernel hands out whole buckets, and refuses a batch that
/// has no room for one.
const ENTRIES: usize = 4096;

/// The `batch` part of `union bpf_attr`.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Calls `each` with every entry of a hash map. Entries that come or go meanwhile may be missed.
///
/// `K` and `V` must have the sizes that the map was made with: its layout has been compared.
pub(super) fn walk<K: Pod + Default, V: Pod + Default>(
    map: &MapData,
    mut each: impl FnMut(K, V),
) -> io::Result<()> {
    let mut keys = vec![K::default(); ENTRIES];
    let mut values = vec![V::default(); ENTRIES];
    // A position of the kernel's: four bytes in hash maps.
    let (mut position, mut next) = (0_u32, 0_u32);
    let mut first = true;
    loop {
        let mut attributes = Attributes {
            in_batch: if first { 0 } else { &raw mut position as u64 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: ENTRIES as u32,
            map_fd: map.fd().as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the buffers have room for `count` keys and values of the map's sizes, and the
        // attributes live until the call returns.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                LOOKUP_BATCH,
                &raw mut attributes,
                size_of::<Attributes>(),
            )
        };
        let error = (result < 0).then(io::Error::last_os_error);
        let ended = error
            .as_ref()
            .is_some_and(|error| error.raw_os_error() == Some(libc::ENOENT));
        if let Some(error) = error
            && !ended
        {
            return Err(error);
        }
        for (key, value) in keys.iter().zip(&values).take(attributes.count as usize) {
            each(*key, *value);
        }
        if ended {
            return Ok(());
        }
        position = next;
        first = false;
    }
}
