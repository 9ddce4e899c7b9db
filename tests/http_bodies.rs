//! Bodies of any length: streamed at the pace of the slower side, never kept.

use std::{fs, io::Write as _, time::Duration};

use lb_tests::lab::{
    Daemon, Lab, always, eventually,
    gate::Gate,
    origin::Response,
    web_site::{PORTAL, SERVICE, WebSite, url},
};

const BOUND: Duration = Duration::from_secs(30);
const LONG: usize = 100_000_000;
/// What the daemon may need more for a few connections, in KiB.
const ROOM_KIB: u64 = 16 * 1024;

/// Returns the most memory that a process has had resident, in KiB (proc(5)).
fn peak_kib(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).expect("the daemon runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse().ok()).expect("a number")
}

#[test]
fn long_bodies_need_no_memory() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    let upload = lab.directory().join("upload");
    fs::write(&upload, vec![b'u'; LONG]).expect("written");
    let upload = format!("{}", upload.display());
    let warm = site.curl(&lab, lab.client(1)).get(&url("/")).one();
    assert_eq!(warm.status, 200);
    let before = peak_kib(daemon.pid());

    for http2 in [false, true] {
        let curl = site
            .curl(&lab, lab.client(1))
            .bound(Duration::from_secs(60));
        let curl = if http2 { curl.http2() } else { curl.http1() };
        let answers = curl
            .get(&url(&format!("/bytes/{LONG}")))
            .transfer(&["--upload-file", &upload, &url("/up")])
            .run();
        for answer in &answers {
            assert_eq!(answer.exit_code, 0, "{:?}\n{}", answer.error, daemon.log());
        }
        assert_eq!(answers[0].body.len(), LONG);
        assert_eq!(answers[1].json()["body_length"], LONG);
    }
    // One side that is slow holds the other back.
    let gate = Gate::new();
    {
        let gate = gate.clone();
        origin.answer(move |request| {
            (request.path() == "/slow").then(|| Response::status(200).early().after(&gate))
        });
    }
    let mut reader = site.raw(lab.client(1));
    reader
        .send(format!(
            "GET /bytes/{LONG} HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"
        ))
        .expect("sent");
    let mut sender = site.raw(lab.client(1));
    sender
        .send(format!(
            "POST /slow HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: {LONG}\r\n\r\n"
        ))
        .expect("sent");
    let piece = vec![b's'; 64 * 1024];
    let mut sent = 0;
    let socket = sender.wire().stream().socket();
    socket
        .set_write_timeout(Some(Duration::from_secs(2)))
        .expect("a timeout can be set");
    let stopped = loop {
        match sender.wire().write(&piece) {
            Ok(length) => sent += length,
            Err(error) => break error,
        }
        if sent >= LONG {
            panic!("nobody held the sender back");
        }
    };
    assert_eq!(stopped.kind(), std::io::ErrorKind::WouldBlock, "{stopped}");
    let grown = peak_kib(daemon.pid()).saturating_sub(before);
    assert!(grown < ROOM_KIB, "the daemon grew by {grown} KiB");
    gate.open();
}

#[test]
fn an_early_answer_reaches_the_client_and_the_rest_of_its_body_the_backend() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    // Longer uploads than a head may take.
    let timeouts = r#"timeouts = { header = "500ms", idle = "1s", body = "2s" }"#;
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, timeouts));
    let origin = &site.origins[0];
    origin.answer(|request| (request.path() == "/early").then(|| Response::status(202).early()));
    let mut client = site.raw(lab.client(1));
    client
        .send(format!(
            "POST /early HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 100\r\n\r\n0123456789"
        ))
        .expect("sent");
    let answer = client.answer("POST").expect("an answer");
    assert_eq!(answer.status, 202, "{}", daemon.log());
    let before = origin.body_received();
    for pieces in 1..=9 {
        always(Duration::from_millis(200), "the upload goes on", || {
            daemon.status().service(SERVICE).proxy("connections_open") == 1
        });
        client.send("0123456789").expect("the connection goes on");
        eventually(BOUND, "the piece is there", || {
            origin.body_received() == before + pieces * 10
        });
    }
    let record = origin.await_record("the whole body", |record| record.path() == "/early");
    assert_eq!(record.body_length, 100, "{record:?}\n{}", daemon.log());
    let next = client.get(PORTAL, "/next", "").expect("an answer");
    assert_eq!(next.status, 200);

    // One that never sends the rest is ended.
    let mut client = site.raw(lab.client(1));
    client
        .send(format!(
            "POST /early HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 100\r\n\r\n0123456789"
        ))
        .expect("sent");
    assert_eq!(client.answer("POST").expect("an answer").status, 202);
    client.await_end(BOUND).expect("an end");
    eventually(BOUND, "nothing is left of it", || {
        daemon.status().service(SERVICE).proxy("connections_open") == 0
            && origin.open_connections() <= 1
    });
}

#[test]
fn a_long_poll_waits_as_long_as_it_may() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let timeouts =
        r#"timeouts = { header = "300ms", idle = "300ms", body = "300ms", response = "20s" }"#;
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, timeouts));
    site.origins[0].answer(|request| {
        let poll = || Response::identity().delay(Duration::from_secs(2));
        (request.path() == "/poll").then(poll)
    });
    for curl in [
        site.curl(&lab, lab.client(1)).http1(),
        site.curl(&lab, lab.client(1)).http2(),
    ] {
        let answer = curl.get(&url("/poll")).one();
        assert_eq!(answer.status, 200, "{answer:?}\n{}", daemon.log());
    }
}
