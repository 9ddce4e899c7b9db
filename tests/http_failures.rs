//! Who is too slow, too big or gone: each has its deadline or limit, its answer and its counter.

use std::{
    fs,
    io::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Daemon, Lab, always, eventually,
    eventually::eventually_some,
    gate::Gate,
    http2::{self, END_HEADERS, END_STREAM, block, frame, kind},
    origin::{Origin, Response},
    raw::Raw,
    site::{campus_v4, vip},
    stream::End,
    web_site::{HEALTH, POOL, PORTAL, SERVICE, WebSite, failures, open_clients, url},
};

const BOUND: Duration = Duration::from_secs(10);

/// Short enough to wait for, and each of another length.
const TIMEOUTS: &str = r#"timeouts = { handshake = "700ms", header = "800ms", idle = "900ms", body = "1s", connect = "700ms", response = "1500ms", tunnel = "30s" }"#;

fn await_failures(daemon: &Daemon<'_>, reason: &str, count: u64) {
    let mut seen = 0;
    eventually(BOUND, &format!("{count} times {reason}"), || {
        seen = failures(daemon, reason);
        seen >= count
    });
    assert_eq!(seen, count, "{reason}");
}

#[test]
fn each_slow_client_is_ended_after_its_own_time() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, TIMEOUTS));
    let client = lab.client(1);

    // No handshake.
    let mut mute = Raw::tcp(client, vip(443)).expect("a connection");
    mute.await_end(BOUND).expect("an end");
    await_failures(&daemon, "handshake_timeout", 1);

    // No head, and one that is typed slowly: a byte from time to time does not help.
    let mut silent = site.raw(client);
    silent.await_end(BOUND).expect("an end");
    await_failures(&daemon, "header_timeout", 1);
    let mut slow = site.raw(client);
    slow.get(PORTAL, "/", "").expect("an answer");
    let begun = Instant::now();
    let typed = format!(
        "GET / HTTP/1.1\r\nHost: {PORTAL}\r\nX: {}",
        "x".repeat(1000)
    );
    let ended = typed.bytes().any(|byte| {
        slow.send([byte]).is_err() || slow.await_end(Duration::from_millis(20)).is_ok()
    });
    assert!(ended && begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    await_failures(&daemon, "header_timeout", 2);

    // Nothing after an answer: that is no failure.
    let mut idle = site.raw(client);
    idle.get(PORTAL, "/", "").expect("an answer");
    let begun = Instant::now();
    assert_eq!(idle.await_end(BOUND).expect("an end"), End::Close);
    assert!(begun.elapsed() > Duration::from_millis(700));

    // A body that does not go on.
    let mut stalled = site.raw(client);
    let answer = stalled.ask(
        "POST",
        format!("POST /stalled HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 10\r\n\r\nabc"),
    );
    assert_eq!(answer.expect("an answer").status, 408, "{}", daemon.log());
    stalled.await_end(BOUND).expect("an end");
    await_failures(&daemon, "request_timeout", 1);

    // An answer that is not taken.
    let mut reader = site.raw(client);
    reader
        .send(format!(
            "GET /bytes/100000000 HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"
        ))
        .expect("sent");
    await_failures(&daemon, "client_stalled", 1);

    let status = daemon.status();
    let service = status.service(SERVICE);
    assert_eq!(service.failures("client_closed"), 0);
    assert_eq!(service.failures("header_timeout"), 2);
    eventually(BOUND, "every connection has ended", || {
        open_clients(&daemon) == 0
    });
    // The stalled body's and the untaken answer's connections are gone; the pool's may be kept.
    eventually(BOUND, "the backend's connections have ended", || {
        site.origins[0].open_connections() <= 2
    });
}

#[test]
fn a_client_of_http2_that_takes_nothing_is_ended() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, TIMEOUTS));
    const INITIAL_WINDOW_SIZE: u16 = 4;
    // No byte of a body may come.
    let mut client = site.http2_with(lab.client(1), &[(INITIAL_WINDOW_SIZE, 0)]);
    client
        .send(http2::get(1, PORTAL, "/bytes/1000000"))
        .expect("sent");

    await_failures(&daemon, "client_stalled", 1);
    client.raw().await_end(BOUND).expect("an end");
    eventually(BOUND, "the backend's connection has ended", || {
        site.origins[0].open_connections() == 0 && open_clients(&daemon) == 0
    });
}

#[test]
fn a_client_that_stalls_is_to_blame_even_with_one_time_for_all() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let timeouts = r#"timeouts = { body = "1s", response = "1s" }"#;
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, timeouts));
    for _ in 0..5 {
        let mut stalled = site.raw(lab.client(1));
        let answer = stalled.ask(
            "POST",
            format!("POST /stalled HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 10\r\n\r\nabc"),
        );
        assert_eq!(answer.expect("an answer").status, 408, "{}", daemon.log());
    }
    await_failures(&daemon, "request_timeout", 5);
}

#[test]
fn each_slow_backend_is_given_up_after_its_own_time() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, TIMEOUTS));
    let origin = &site.origins[0];
    let never = Gate::new();
    {
        let never = never.clone();
        origin.answer(move |request| match request.path().as_str() {
            "/silent" => Some(Response::status(200).after(&never)),
            "/half" => Some(Response::status(200).body("abc").body_after(&never)),
            _ => None,
        });
    }
    let mut client = site.raw(lab.client(1));

    let silent = client.get(PORTAL, "/silent", "").expect("an answer");
    assert_eq!(silent.status, 504, "{}", daemon.log());
    await_failures(&daemon, "response_timeout", 1);
    let half = client.get(PORTAL, "/half", "");
    assert!(half.is_err(), "{half:?}");
    await_failures(&daemon, "response_stalled", 1);
    eventually(BOUND, "no connection of theirs is left", || {
        origin.open_connections() <= 1
    });
    assert_eq!(origin.requests().len(), 2, "a request was sent twice");
    // By HTTP/2 the stream alone ends.
    let answers = site
        .curl(&lab, lab.client(1))
        .http2()
        .get(&url("/half"))
        .get(&url("/silent"))
        .get(&url("/good"))
        .run();
    assert_ne!(answers[0].exit_code, 0, "{answers:?}");
    assert_eq!(answers[1].status, 504);
    assert_eq!(answers[2].status, 200);
}

#[test]
fn what_is_too_large_is_refused() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let limits = r#"limits = { body_size = "10KiB", header_size = "16KiB", headers = 20 }"#;
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, limits));
    let origin = &site.origins[0];
    let host = format!("Host: {PORTAL}\r\n");

    let mut client = site.raw(lab.client(1));
    let body = "b".repeat(10_241);
    let said = client.ask(
        "POST",
        format!("POST /said HTTP/1.1\r\n{host}Content-Length: 10241\r\n\r\n{body}"),
    );
    assert_eq!(said.expect("an answer").status, 413, "{}", daemon.log());
    client.await_end(BOUND).expect("an end");
    let mut client = site.raw(lab.client(1));
    let grown = client.ask(
        "POST",
        format!(
            "POST /grown HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n2801\r\n{body}\r\n0\r\n\r\n"
        ),
    );
    assert_eq!(grown.expect("an answer").status, 413, "{}", daemon.log());
    client.await_end(BOUND).expect("an end");
    await_failures(&daemon, "body_too_large", 2);
    let whole = origin.requests();
    assert!(whole.iter().all(|record| !record.complete), "{whole:?}");
    let http2 = site
        .curl(&lab, lab.client(1))
        .http2()
        .post(&url("/said"), &body)
        .get(&url("/next"))
        .run();
    assert_eq!(http2[0].status, 413, "{http2:?}");
    assert_eq!(http2[1].status, 200, "{http2:?}");

    for headers in [
        format!("X: {}\r\n", "x".repeat(17_000)),
        "X: y\r\n".repeat(30),
    ] {
        let mut client = site.raw(lab.client(1));
        let answer = client.get(PORTAL, "/head", &headers);
        assert_eq!(answer.expect("an answer").status, 431, "{}", daemon.log());
        client.await_end(BOUND).expect("an end");
    }
    let mut client = site.raw(lab.client(1));
    let good = client.get(PORTAL, "/good", &format!("X: {}\r\n", "x".repeat(15_000)));
    assert_eq!(good.expect("an answer").status, 200);
}

#[test]
fn a_client_that_is_refused_while_it_sends_can_read_why() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let limits = r#"limits = { body_size = "10KiB", header_size = "16KiB" }"#;
    let _daemon = Daemon::start(&lab, &site.configuration_with(&lab, limits));
    let starts = [
        (
            413,
            format!("POST / HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 1000000\r\n\r\n"),
        ),
        (
            431,
            format!(
                "GET / HTTP/1.1\r\nHost: {PORTAL}\r\nX: {}",
                "x".repeat(20_000)
            ),
        ),
    ];
    for (status, start) in starts {
        let mut client = site.raw(lab.client(1));
        client.send(start).expect("sent");
        assert_eq!(client.answer("GET").expect("an answer").status, status);
        for _ in 0..32 {
            client
                .send([b'x'; 2048])
                .expect("taken, though nobody reads it");
        }
        assert_eq!(client.await_end(BOUND).expect("an end"), End::Close);
    }
}

#[test]
fn a_stream_that_is_refused_while_it_sends_ends_with_its_answer() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let limits = r#"limits = { body_size = "10KiB" }"#;
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, limits));
    let origin = &site.origins[0];
    origin.answer(|request| (request.path() == "/refused").then(|| Response::status(403).early()));
    let post = |stream, path, length: &str| {
        let mut fields = http2::usual("POST", PORTAL, path);
        fields.push(("content-length", length));
        frame(kind::HEADERS, END_HEADERS, stream, &block(&fields))
    };
    let mut client = site.http2(lab.client(1));

    for (stream, path, status) in [(1, "/", 413), (3, "/refused", 403)] {
        let length = if status == 413 { "20000" } else { "10000" };
        client.send(post(stream, path, length)).expect("sent");
        let answered = client.answer(stream).expect("an answer");
        assert_eq!(
            answered.status,
            Some(status),
            "{answered:?}\n{}",
            daemon.log()
        );
        let half = length.parse::<usize>().expect("a number") / 2;
        let mut rest = frame(kind::DATA, 0, stream, &vec![b'x'; half]);
        rest.extend(frame(kind::DATA, END_STREAM, stream, &vec![b'x'; half]));
        client.send(rest).expect("sent");
    }
    client.send(http2::get(5, PORTAL, "/next")).expect("sent");
    let answered = client.answer(5).expect("an answer");
    assert_eq!(answered.status, Some(200), "{}", daemon.log());
    assert_eq!(
        client.kept().find(|frame| frame.kind == kind::RST_STREAM),
        None
    );

    // Who sends on without an end is let go, and hears it.
    client.send(post(7, "/", "20000")).expect("sent");
    assert_eq!(client.answer(7).expect("an answer").status, Some(413));
    let reset = loop {
        let frame = client.next_frame().expect("a reset");
        if frame.stream == 7 {
            break frame;
        }
    };
    assert_eq!(
        (reset.kind, reset.error_code()),
        (kind::RST_STREAM, Some(0))
    );
}

#[test]
fn a_backend_that_answers_early_is_let_go_of_with_its_answer() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    origin.answer(|request| (request.path() == "/refused").then(|| Response::status(403).early()));
    let mut client = site.http2(lab.client(1));
    for stream in [1, 3, 5] {
        let fields = block(&http2::usual("POST", PORTAL, "/refused"));
        client
            .send(frame(kind::HEADERS, END_HEADERS, stream, &fields))
            .expect("sent");
        let answered = client.answer(stream).expect("an answer");
        assert_eq!(answered.status, Some(403), "{}", daemon.log());
    }
    eventually(BOUND, "the backend's connections have ended", || {
        origin.open_connections() == 0
    });
    client.send(http2::get(7, PORTAL, "/next")).expect("sent");
    let answered = client.answer(7).expect("an answer");
    assert_eq!(answered.status, Some(200), "{}", daemon.log());
}

#[test]
fn a_100_comes_after_the_backends_and_a_refusal_leaves_the_body_unread() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    let gate = Gate::new();
    {
        let gate = gate.clone();
        origin.answer(move |request| match request.path().as_str() {
            "/refused" => Some(Response::status(413).early()),
            "/mute" => Some(Response::status(200).early().after(&gate)),
            _ => None,
        });
    }
    let ask = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {PORTAL}\r\nExpect: 100-continue\r\n\
             Content-Length: 5\r\n\r\n"
        )
    };

    // The origin says 100 at once.
    let mut client = site.raw(lab.client(1));
    client.send(ask("/taken")).expect("sent");
    assert_eq!(client.answer_head().expect("an answer").0, 100);
    let answer = client.ask("POST", "hello").expect("an answer");
    assert_eq!(answer.json()["body_length"], 5, "{}", daemon.log());
    drop(client);

    // It refuses: no 100, no body, and the connection to it is not used again.
    let mut client = site.raw(lab.client(1));
    client.send(ask("/refused")).expect("sent");
    let (status, _) = client.answer_head().expect("an answer");
    assert_eq!(status, 413);
    let refused = origin.await_record("the refused request", |record| record.path() == "/refused");
    assert_eq!(refused.body_length, 0);
    let next = site.raw(lab.client(1)).get(PORTAL, "/next", "");
    assert_ne!(
        next.expect("an answer").json()["connection"],
        refused.connection
    );
    drop(client);

    // It says nothing: 100 after a second, and the body flows at once from then on.
    let mut client = site.raw(lab.client(1));
    let begun = Instant::now();
    client
        .send(ask("/mute").replace("Length: 5", "Length: 60"))
        .expect("sent");
    assert_eq!(client.answer_head().expect("an answer").0, 100);
    let waited = begun.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(3)).contains(&waited),
        "{waited:?}"
    );
    gate.open();
    let (status, _) = client.answer_head().expect("an answer");
    assert_eq!(status, 200);
    let before = origin.body_received();
    for pieces in 1..=6 {
        client.send("0123456789").expect("sent");
        eventually(BOUND, "the piece is there", || {
            origin.body_received() == before + pieces * 10
        });
    }
    let mute = origin.await_record("the whole body", |record| record.path() == "/mute");
    assert_eq!(mute.body_length, 60);
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    drop(client);
    eventually(BOUND, "nothing is left at the backend", || {
        origin.open_connections() <= 2 && open_clients(&daemon) == 0
    });
}

#[test]
fn a_client_that_goes_away_takes_its_backend_connection_with_it() {
    let lab = Lab::one_arm().gateways(1).build();
    let log = lab.directory().join("access.log");
    let site = WebSite::start(&lab);
    let configuration = site
        .configuration(&lab)
        .log(&format!("access = \"{}\"", log.display()));
    let daemon = Daemon::start(&lab, &configuration);
    let origin = &site.origins[0];
    let host = format!("Host: {PORTAL}\r\n");
    let never = Gate::new();
    {
        let never = never.clone();
        origin.answer(move |request| {
            (request.path() == "/long").then(|| Response::status(200).after(&never))
        });
    }
    for (path, request) in [
        (
            "/up",
            format!("POST /up HTTP/1.1\r\n{host}Content-Length: 1000000\r\n\r\nabc"),
        ),
        ("/long", format!("GET /long HTTP/1.1\r\n{host}\r\n")),
        (
            "/bytes/50000000",
            format!("GET /bytes/50000000 HTTP/1.1\r\n{host}\r\n"),
        ),
    ] {
        for end in [End::Close, End::Reset] {
            let before = daemon.status().service(SERVICE).failures("client_closed");
            let mut client = site.raw(lab.client(1));
            client.send(&request).expect("sent");
            if path.starts_with("/bytes") {
                client.read_exactly(1000).expect("the beginning");
            } else {
                eventually(BOUND, "the backend has the request", || {
                    open_clients(&daemon) == 1 && origin.open_connections() > 0
                });
            }
            client.end(end);
            await_failures(&daemon, "client_closed", before + 1);
            eventually(BOUND, &format!("{path} {end:?} leaves nothing"), || {
                origin.open_connections() == 0 && open_clients(&daemon) == 0
            });
        }
    }
    let lines = eventually_some(BOUND, "six lines", || {
        let text = fs::read_to_string(&log).ok()?;
        (text.lines().count() == 6).then_some(text)
    });
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["fault"], "client", "{line}");
        assert_eq!(line["reason"], "client_closed", "{line}");
    }
}

#[test]
fn the_access_log_says_what_happened() {
    let lab = Lab::one_arm().gateways(1).build();
    let log = lab.directory().join("access.log");
    let site = WebSite::start(&lab);
    let configuration = site
        .configuration(&lab)
        .log(&format!("access = \"{}\"", log.display()));
    let daemon = Daemon::start(&lab, &configuration);
    let client = lab.client(1);
    let answers = site
        .curl(&lab, client)
        .http2()
        .post(&url("/echo?a=b"), "hello")
        .get(&url("/status/404"))
        .run();
    assert_eq!(answers[0].text(), "hello", "{}", daemon.log());

    let text = eventually_some(BOUND, "two lines", || {
        let text = fs::read_to_string(&log).ok()?;
        (text.lines().count() == 2).then_some(text)
    });
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let first = &lines[0];
    for (key, value) in [
        ("service", SERVICE),
        ("kind", "http"),
        ("backend", "web/gateway1"),
        ("method", "POST"),
        ("target", "/echo?a=b"),
        ("host", PORTAL),
        ("protocol", "HTTP/2"),
        ("tls_version", "1.3"),
        ("sni", PORTAL),
    ] {
        assert_eq!(first[key], value, "{first}");
    }
    assert_eq!(first["status"], 200);
    assert_eq!(first["bytes_in"], 5);
    assert_eq!(first["bytes_out"], 5);
    assert_eq!(first["reused"], false);
    assert!(first["handshake_us"].is_u64() && lines[1]["handshake_us"].is_null());
    assert!(first["fault"].is_null() && first["total_us"].is_u64());
    assert_eq!(lines[1]["status"], 404);
    assert_eq!(lines[1]["reused"], true);
    let source = first["client"].as_str().expect("text");
    assert!(source.starts_with(&client.v4().to_string()), "{source}");
}

#[test]
fn a_backend_that_refuses_is_detoured() {
    let lab = Lab::one_arm().gateways(2).build();
    let mut site = WebSite::start(&lab);
    // The check finds out too late: the request itself does.
    let health = HEALTH.replace("300ms\", timeout", "60s\", timeout");
    let configuration = lb_tests::lab::Configuration::new()
        .pool(POOL, &site.backends(&lab), &health)
        .text(&site.service(SERVICE, vip(443), POOL, ""));
    let daemon = Daemon::start(&lab, &configuration);
    let client = lab.client(1);
    let first = site.curl(&lab, client).get(&url("/")).one().json();
    let first = first["backend"].as_str().expect("a name").to_owned();
    let place = site.origins.iter().position(|it| it.name() == first);
    site.origins[place.expect("one of ours")].stop(End::Reset);

    for _ in 0..3 {
        let answer = site.curl(&lab, client).post(&url("/"), "x").one();
        assert_eq!(answer.status, 200, "{answer:?}\n{}", daemon.log());
        assert_ne!(answer.json()["backend"], *first);
    }
    for other in &mut site.origins {
        other.stop(End::Reset);
    }
    let answer = site.curl(&lab, client).get(&url("/")).one();
    assert!(matches!(answer.status, 502 | 503), "{answer:?}");
}

#[test]
fn a_connection_that_the_backend_closed_is_replaced_unseen() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    let mut client = site.raw(lab.client(1));
    for end in [End::Close, End::Fin, End::Reset] {
        for method in ["GET", "POST"] {
            client.get(PORTAL, "/first", "").expect("an answer");
            origin.end_connections(end);
            let request =
                format!("{method} /second HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 0\r\n\r\n");
            let answer = client.ask(method, request).expect("an answer");
            assert_eq!(answer.status, 200, "{end:?} {method}\n{}", daemon.log());
        }
    }
    assert_eq!(origin.requests().len(), 12);

    // One that is closed instead of an answer: GET is sent again, POST is not.
    static LEFT: AtomicU64 = AtomicU64::new(0);
    origin.answer(|request| {
        let dies = request.path() == "/dies"
            && LEFT
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
                    left.checked_sub(1)
                })
                .is_ok();
        dies.then(|| Response::none(End::Reset))
    });
    for (method, status, sent) in [("GET", 200, 2), ("HEAD", 200, 2), ("POST", 502, 1)] {
        origin.forget();
        LEFT.store(1, Ordering::Release);
        let request =
            format!("{method} /dies HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 0\r\n\r\n");
        let answer = client.ask(method, request).expect("an answer");
        assert_eq!(answer.status, status, "{method}\n{}", daemon.log());
        let mut records = origin.requests();
        records.retain(|record| record.path() == "/dies");
        assert_eq!(records.len(), sent, "{method}");
    }
}

#[test]
fn under_load_a_dying_backend_fails_no_get_and_repeats_no_post() {
    let lab = Lab::one_arm().gateways(2).build();
    let mut site = WebSite::start(&lab);
    let more = r#"persistence = { key = "none" }"#;
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, more));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (client, settings) = (lab.client(1), site.client(&["http/1.1"]));
    let connect = || {
        Raw::tcp(client, vip(443))
            .and_then(|it| it.tls(&settings, PORTAL))
            .expect("a connection")
    };
    let (gets, bad) = (AtomicU64::new(0), std::sync::Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for worker in 0..20 {
            let (stop, gets, bad, connect) = (&stop, &gets, &bad, &connect);
            scope.spawn(move || {
                let mut wire = connect();
                for number in 0.. {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    let method = if worker % 4 == 0 { "POST" } else { "GET" };
                    let request = format!(
                        "{method} /{method}/{worker}/{number} HTTP/1.1\r\nHost: {PORTAL}\r\n\
                         Content-Length: 0\r\n\r\n"
                    );
                    match (method, wire.ask(method, request)) {
                        (_, Ok(answer)) if answer.status == 200 => {
                            gets.fetch_add(1, Ordering::Relaxed);
                        }
                        ("POST", Ok(_)) => {}
                        (_, other) => {
                            bad.lock().expect("a lock").push(format!("{other:?}"));
                            wire = connect();
                        }
                    }
                }
            });
        }
        for end in [End::Reset, End::Fin, End::Close, End::Reset] {
            let before = gets.load(Ordering::Relaxed);
            eventually(BOUND, "load", || {
                gets.load(Ordering::Relaxed) > before + 200
            });
            site.origins[0].stop(end);
            let before = gets.load(Ordering::Relaxed);
            eventually(BOUND, "load", || {
                gets.load(Ordering::Relaxed) > before + 200
            });
            site.origins[0].resume();
            eventually(BOUND, "it is up again", || {
                daemon.status().backend("gateway1").is_eligible()
            });
        }
        stop.store(true, Ordering::Release);
    });
    let bad = bad.into_inner().expect("a lock");
    assert!(bad.is_empty(), "{} failed: {:?}", bad.len(), bad.first());
    let mut posts: Vec<String> = site
        .origins
        .iter()
        .flat_map(Origin::requests)
        .filter(|record| record.method() == "POST")
        .map(|record| record.path())
        .collect();
    let all = posts.len();
    posts.sort();
    posts.dedup();
    assert!(all > 20 && posts.len() == all, "{} of {all}", posts.len());
}

#[test]
fn events_come_one_by_one_and_may_be_rare() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, TIMEOUTS));
    let origin = &site.origins[0];
    let mut client = site.raw(lab.client(1));
    client
        .send(format!("GET /sse HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"))
        .expect("sent");
    assert_eq!(client.answer_head().expect("an answer").0, 200);
    eventually(BOUND, "a reader", || origin.event_readers() == 1);
    for number in 0..3 {
        // Longer than any of the timeouts but the tunnel's.
        always(Duration::from_millis(1700), "the stream stays", || {
            origin.event_readers() == 1
        });
        let event = format!("data: {number}\n\n");
        origin.send_event(&number.to_string());
        let chunk = format!("{:X}\r\n{event}\r\n", event.len());
        let came = client.read_exactly(chunk.len());
        let came = came.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
        assert_eq!(String::from_utf8_lossy(&came), chunk);
    }
    origin.end_events();
    assert_eq!(client.read_exactly(5).expect("the end"), b"0\r\n\r\n");
    let _ = client.wire().flush();
}

#[test]
fn an_event_stream_ends_when_its_backend_is_halted_and_another_goes_on() {
    let lab = Lab::one_arm().campus().build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let readers = |name: &str| site.origin(name).event_readers();
    let mut clients: Vec<Raw> = (1..=12)
        .map(|number| {
            let client = Raw::tcp_from(lab.campus(), campus_v4(number), vip(443));
            let mut client = client
                .and_then(|client| client.tls(&site.client(&["http/1.1"]), PORTAL))
                .expect("a connection");
            client
                .send(format!("GET /sse HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"))
                .expect("sent");
            assert_eq!(client.answer_head().expect("an answer").0, 200);
            client
        })
        .collect();
    eventually(BOUND, "all read", || {
        readers("gateway1") + readers("gateway2") == 12
    });
    let stay = readers("gateway2");
    assert!(stay > 0 && stay < 12, "{stay} of 12 are at gateway2");

    daemon.cli(&["halt", "gateway1"]).ok();

    eventually(BOUND, "gateway1 has none", || readers("gateway1") == 0);
    await_failures(&daemon, "backend_gone", 12 - stay as u64);
    assert_eq!(readers("gateway2"), stay);
    site.origin("gateway2").send_event("news");
    let mut served = 0;
    for client in &mut clients {
        served += usize::from(client.read_exactly("data: news".len()).is_ok());
    }
    assert_eq!(served, stay);
}
