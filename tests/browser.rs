//! A real browser at the portal: HTTP/2, a WebSocket beside it, and events as they come.

use std::{fs, path::Path, time::Duration};

use lb_tests::lab::{
    Daemon, Lab,
    browser::Browser,
    eventually::{eventually_some, holds_within},
    origin::{Origin, Response},
    site::vip,
    web_site::{PORTAL, WebSite, url},
};
use serde_json::{Value, json};

/// A browser's first start on a busy machine takes seconds.
const BOUND: Duration = Duration::from_secs(60);

/// What the browser opens. It posts `/listening` when its event stream is open, `/heard` with each
/// event, and in the end `/outcome`, or `/failure` with the reason.
const PAGE: &str = include_str!("browser/page.html");

#[test]
fn a_browser_speaks_http2_and_has_its_websocket_and_its_events() {
    let lab = Lab::one_arm().build();
    let site = WebSite::start(&lab);
    let log = lab.directory().join("access.log");
    let configuration = site
        .configuration(&lab)
        .log(&format!("access = \"{}\"", log.display()));
    let daemon = Daemon::start(&lab, &configuration);
    let client = lab.client(1);
    // The client's backend is the same from here on, whichever of its connections a request is on.
    let identity = site.curl(&lab, client).get(&url("/")).one().json();
    let origin = site.origin(identity["backend"].as_str().expect("a name"));
    origin.answer(|request| {
        let page = Response::status(200).header("Content-Type", "text/html; charset=utf-8");
        (request.path() == "/page").then(|| page.body(PAGE))
    });

    let server = (PORTAL, vip(443));
    let browser = Browser::open(&lab, client, server, &site.authority, &url("/page"));

    let posted = |path: &str, body: &str| await_post(origin, &browser, &daemon, path, body);
    posted("/listening", "");
    for event in ["one", "two"] {
        origin.send_event(event);
        posted("/heard", event);
    }
    let outcome: Value =
        serde_json::from_str(&posted("/outcome", "")).expect("the page posts JSON");
    assert_eq!(
        outcome,
        json!({
            "protocol": "h2",
            "messages": ["first message", "second message"],
            "echo": "a body",
            "events": ["one", "two"],
        })
    );
    // vipd does not offer WebSockets over HTTP/2 (RFC 8441), so the browser makes a connection of
    // its own for it.
    let (page, socket) = (logged(&log, "/page"), logged(&log, "/websocket"));
    assert_eq!(page["protocol"], "HTTP/2", "{page}");
    assert_eq!(socket["protocol"], "HTTP/1.1", "{socket}");
    assert_ne!(page["client"], socket["client"]);
    assert!(origin.faults().is_empty(), "{:?}", origin.faults());
}

/// Returns the body of the page's request to `path` that begins with `body`.
///
/// # Panics
///
/// If the page says that it failed, or nothing of it comes.
#[track_caller]
fn await_post(
    origin: &Origin,
    browser: &Browser,
    daemon: &Daemon,
    path: &str,
    body: &str,
) -> String {
    let bodies = |path: &str| -> Vec<String> {
        let records = origin.records().into_iter();
        records
            .filter(|record| record.method() == "POST" && record.path() == path)
            .map(|record| String::from_utf8_lossy(&record.body).into_owned())
            .collect()
    };
    let mut found = None;
    let came = holds_within(BOUND, || {
        let failures = bodies("/failure");
        assert!(failures.is_empty(), "{failures:?}\n{}", daemon.log());
        found = bodies(path)
            .into_iter()
            .find(|found| found.starts_with(body));
        found.is_some()
    });
    assert!(
        came,
        "the page does not post {body:?} to {path}; the browser says:\n{}\nand the balancer:\n{}",
        browser.log(),
        daemon.log()
    );
    found.expect("the condition above held")
}

/// Waits for the access log's line about `target` and returns it.
#[track_caller]
fn logged(log: &Path, target: &str) -> Value {
    eventually_some(BOUND, &format!("{target} is in the access log"), || {
        let text = fs::read_to_string(log).unwrap_or_default();
        // The last line may not be whole yet.
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|line| line["target"] == target)
    })
}
