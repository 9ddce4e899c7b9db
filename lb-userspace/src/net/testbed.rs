//! Private network namespaces for the tests of this module. They need root, as the daemon does.
//!
//! A namespace belongs to one thread and dies with it, so nothing can be left behind.

use std::{fmt::Debug, process::Command, sync::mpsc, thread, time::Duration};

use tokio::sync::mpsc::Receiver;

/// How long a test may take: far more than any of them needs.
const TEST_LIMIT: Duration = Duration::from_secs(60);

/// Runs `test` on a thread with a network namespace and a Tokio runtime of its own.
pub(in crate::net) fn in_namespace<F>(test: F)
where
    F: AsyncFnOnce() + Send + 'static,
{
    let outcome = thread::spawn(move || {
        enter_new_namespace();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(async {
                tokio::time::timeout(TEST_LIMIT, test())
                    .await
                    .expect("the test ends in time");
            });
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Another host: a second namespace, in which commands can be run.
pub(in crate::net) struct Host {
    thread_id: libc::pid_t,
    commands: mpsc::Sender<Job>,
    done: mpsc::Receiver<thread::Result<()>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Host {
    /// Makes a host without interfaces other than `lo`.
    pub(in crate::net) fn new() -> Self {
        let (commands, jobs) = mpsc::channel::<Job>();
        let (finished, done) = mpsc::channel();
        let (ready, thread_id) = mpsc::channel();
        thread::spawn(move || {
            enter_new_namespace();
            #[expect(
                unsafe_code,
                reason = "the standard library does not tell thread numbers"
            )]
            // SAFETY: gettid has no arguments and cannot fail.
            let own_id = unsafe { libc::gettid() };
            let _ = ready.send(own_id);
            for job in jobs {
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                if finished.send(outcome).is_err() {
                    return;
                }
            }
        });
        Self {
            thread_id: thread_id.recv().expect("the host's namespace"),
            commands,
            done,
        }
    }

    /// Makes `here` (in the caller's namespace) and `there` (in the host's), the two ends of a
    /// cable, and switches both on. Both ends keep the MAC addresses given.
    pub(in crate::net) fn connect(&self, here: (&str, &str), there: (&str, &str)) {
        let ((here, here_mac), (there, there_mac)) = (here, there);
        ip(&format!(
            "link add {here} address {here_mac} type veth peer name {there} address {there_mac}"
        ));
        ip(&format!("link set {there} netns {}", self.thread_id));
        ip(&format!("link set {here} up"));
        self.ip(&format!("link set {there} up"));
    }

    /// Runs `ip` with `arguments` in the host's namespace.
    pub(in crate::net) fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(move || ip(&arguments));
    }

    /// Runs `job` in the host's namespace and waits for its end.
    pub(in crate::net) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.commands.send(Box::new(job)).expect("the host runs");
        if let Err(panic) = self.done.recv().expect("the host answers") {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Runs `ip` with `arguments` in the namespace of the calling thread.
pub(in crate::net) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("ip can be run");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits for the next event, ten seconds at most.
pub(in crate::net) async fn next<T: Debug>(events: &mut Receiver<T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), events.recv())
        .await
        .expect("an event within ten seconds")
        .expect("the sender lives")
}

fn enter_new_namespace() {
    #[expect(unsafe_code, reason = "no safe wrapper among the dependencies")]
    // SAFETY: unshare takes flags only; with CLONE_NEWNET it concerns the calling thread alone.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(
        result,
        0,
        "a network namespace (are you root?): {}",
        std::io::Error::last_os_error()
    );
    ip("link set lo up");
}
