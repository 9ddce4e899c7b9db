//! A mount and a network namespace for one test: tests run side by side and leave nothing.
#![expect(
    unsafe_code,
    reason = "mounts and namespaces have no safe binding in the standard library"
)]

use std::{ffi::CString, io, panic, path::Path, thread};

/// Runs `test` with the path of a BPF file system that nobody else sees, in a network namespace
/// whose only interface is a loopback of index 1. Everything goes with the test's thread.
pub(crate) fn private(test: impl FnOnce(&Path) + Send) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    thread::scope(|scope| {
        let test = scope.spawn(|| {
            enter(directory.path()).expect("namespaces and a bpf file system; run this as root");
            test(directory.path());
        });
        test.join()
            .unwrap_or_else(|failure| panic::resume_unwind(failure));
    });
}

fn enter(directory: &Path) -> io::Result<()> {
    let target = CString::new(directory.as_os_str().as_encoded_bytes())?;
    let none = std::ptr::null();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: changes the namespaces of this thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET) })?;
    // SAFETY: all arguments are C strings or null, which mount(2) allows where it ignores them.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) })?;
    let bpf = c"bpf".as_ptr();
    // SAFETY: as above.
    check(unsafe { libc::mount(bpf, target.as_ptr(), bpf, 0, none.cast()) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
