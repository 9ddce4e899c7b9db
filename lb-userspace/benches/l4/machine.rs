//! The machine: namespaces of our own, one processor, and its time.
#![expect(
    unsafe_code,
    reason = "namespaces, processors and their clocks have no safe binding"
)]

use std::{ffi::CString, fs, io, path::Path, process::Command, sync::OnceLock, time::Duration};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// The processor that everything runs on: the last one, as the first serves most interrupts.
pub(crate) fn processor() -> usize {
    // Asked once, before this process is moved: the answer depends on where it may run.
    static LAST: OnceLock<usize> = OnceLock::new();
    *LAST.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from) - 1)
}

/// Moves this process into a network namespace and a BPF file system that nobody else sees, onto
/// one processor, and ahead of everything else there.
pub(crate) fn prepare() -> Result<TempDir> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let target = CString::new(directory.path().as_os_str().as_encoded_bytes())?;
    let none = std::ptr::null();
    // SAFETY: changes the namespaces of this process only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET) })
        .context("cannot make namespaces: run this as root")?;
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: C strings, or null where mount(2) ignores the argument.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) })?;
    let bpf = c"bpf".as_ptr();
    // SAFETY: as above.
    check(unsafe { libc::mount(bpf, target.as_ptr(), bpf, 0, none.cast()) })
        .context("cannot mount a BPF file system")?;
    pin(processor())?;
    let priority = libc::sched_param { sched_priority: 50 };
    // SAFETY: for this thread; whatever else runs here waits.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) })
        .context("cannot run ahead of other programs")?;
    Ok(directory)
}

/// Moves this thread to a processor.
pub(crate) fn pin(processor: usize) -> Result<()> {
    // SAFETY: an empty set is all zeros, and the processor's number is in its range.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        check(libc::sched_setaffinity(
            0,
            size_of_val(&set),
            &raw const set,
        ))
    }
    .with_context(|| format!("cannot move to processor {processor}"))
}

/// Returns the processor time of this thread and of the processor's softirq thread so far: packets
/// that are left to the latter are work all the same.
pub(crate) fn processor_time() -> Result<Duration> {
    // SAFETY: a plain structure, filled by the call.
    let own = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        check(libc::clock_gettime(
            libc::CLOCK_THREAD_CPUTIME_ID,
            &raw mut time,
        ))?;
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    Ok(own + softirq_time()?)
}

/// The first number of `schedstat` is the time spent running, in nanoseconds (kernel,
/// Documentation/scheduler/sched-stats.rst).
fn softirq_time() -> Result<Duration> {
    let name = format!("ksoftirqd/{}", processor());
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let process = entry?.path();
        let is_it = fs::read_to_string(process.join("comm")).is_ok_and(|text| text.trim() == name);
        if is_it {
            let text = fs::read_to_string(process.join("schedstat"))?;
            let running = text.split_whitespace().next().unwrap_or("0").parse()?;
            return Ok(Duration::from_nanos(running));
        }
    }
    Ok(Duration::ZERO)
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &str) -> Result<()> {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .with_context(|| format!("cannot start {program}; run `cargo xtask setup`"))?;
    if !output.status.success() {
        bail!(
            "`{program} {arguments}` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Writes a setting of the kernel.
pub(crate) fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
