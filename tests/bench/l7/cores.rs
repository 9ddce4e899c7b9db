//! Which processors proxies have, and which the clients and servers.

use std::{fs, mem};

/// Puts all threads of a process, and what they start later, on one processor.
pub(crate) fn pin(process: u32, processor: usize) {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("a process's threads");
    for task in tasks.flatten() {
        let name = task.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok());
        set_affinity(id.expect("a thread's number"), processor);
    }
}

#[expect(unsafe_code, reason = "the call has no safe interface")]
fn set_affinity(thread: libc::pid_t, processor: usize) {
    // SAFETY: zeros are an empty set, and the set outlives both calls.
    let result = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    // A thread may have ended since it was found.
    let gone = || std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
    assert!(result == 0 || gone(), "thread {thread} keeps its processor");
}
