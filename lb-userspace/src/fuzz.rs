//! Everything in user space that reads what comes from outside, as functions of bytes.
//!
//! A target takes any bytes, reads them as one part of the daemon does, and panics where a promise
//! is broken: not only that of coming to an end, but also what must hold of the result. Each stands
//! beside the code that it is about. Two engines call them: `lb-userspace/fuzz` by coverage, for as
//! long as somebody wants (`cargo xtask fuzz`), and the ordinary tests, which replay
//! `lb-userspace/fuzz/corpus` and a fixed number of changes of it.

#[cfg(test)]
mod mutate;
#[cfg(test)]
mod replay;

use std::cell::OnceCell;

use tokio::runtime::{Builder, Runtime};

use crate::{admin, cli, config, control, dataplane, health, net, proxy, tls};

/// One function of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]),
    /// Changed inputs in the ordinary tests: as many as a few seconds allow.
    pub changes: u32,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("access-log", proxy::fuzz::record, 2000),
    target("admin-request", admin::fuzz::request, 400),
    target("certificate", tls::fuzz::certificate, 4000),
    target("certificate-file", tls::fuzz::certificate_file, 3000),
    target("client-hello", proxy::fuzz::client_hello, 4000),
    target("command-line", cli::fuzz::command_line, 400),
    target("configuration", config::fuzz::configuration, 800),
    target("daemon-answer", cli::fuzz::daemon_answer, 2000),
    target("echo-reply", health::fuzz::echo_reply, 4000),
    target("host-files", host_files, 4000),
    target("http-answer", health::fuzz::http_answer, 1500),
    target("overrides", control::fuzz::overrides, 4000),
    target("proxy-protocol", proxy::fuzz::header, 4000),
    target("redirect", proxy::fuzz::target, 4000),
    target("request-head", proxy::fuzz::request_head, 4000),
    target("response-head", proxy::fuzz::response_head, 4000),
    target("site", control::fuzz::site, 60),
    target("tls-answer", health::fuzz::tls_answer, 1000),
    target("type-information", dataplane::layout::fuzz::layout, 4000),
];

const fn target(name: &'static str, run: fn(&[u8]), changes: u32) -> Target {
    Target { name, run, changes }
}

/// Files of the host and of the state directory that are lists in text.
fn host_files(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        admin::fuzz::users(text);
        net::fuzz::ports(text);
    }
}

/// Runs a future on a runtime of this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
    }
    RUNTIME.with(|runtime| {
        runtime
            .get_or_init(|| {
                Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime")
            })
            .block_on(future)
    })
}

/// Whether text can stand in one line of a log and stays short whatever a peer sends.
pub(crate) fn assert_one_short_line(text: &str) {
    assert!(!text.is_empty(), "a reason is missing");
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.chars().count() < 2000, "{text:?}");
}
