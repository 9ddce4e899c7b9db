//! What HTTP/1.1 lets a hostile client or a hostile backend do, beside the framing of single messages.

use std::{io::Write as _, net::TcpStream, thread, time::Duration};

use lb_tests::lab::{
    Daemon, Host, Lab, eventually,
    gate::Gate,
    http2,
    origin::Response,
    raw::Raw,
    site::vip,
    tcp_server::connect,
    usage::Usage,
    web_site::{PORTAL, WebSite, failures, open_clients},
};

const BOUND: Duration = Duration::from_secs(20);
/// Short enough to wait for.
const TIMEOUTS: &str = r#"timeouts = { handshake = "700ms", header = "3s", idle = "3s", body = "1s", response = "3s" }"#;
/// What the daemon may need more for one connection, in KiB.
const ROOM_KIB: u64 = 4 * 1024;
/// A request that nobody asked for if it comes to a backend.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: portal.lab.example\r\n\r\n";

fn anonymous_kib(daemon: &Daemon<'_>) -> u64 {
    Usage::of(daemon.pid()).anonymous_kib
}

/// Checks that a client of its own is served; one that is slow may have met a timeout.
#[track_caller]
fn expect_served(site: &WebSite, host: &Host) {
    eventually(BOUND, "others are served", || {
        try_tls(site, host)
            .and_then(|mut client| client.get(PORTAL, "/bystander", "").ok())
            .is_some_and(|answer| answer.status == 200)
    });
}

/// Returns whether a connection over TLS is made.
fn try_tls(site: &WebSite, host: &Host) -> Option<Raw> {
    let client = Raw::tcp(host, vip(443)).expect("the kernel accepts");
    client.tls(&site.client(&["http/1.1"]), PORTAL).ok()
}

#[test]
fn handshakes_that_drip_end_after_their_time_and_others_are_made_meanwhile() {
    let lab = Lab::one_arm().gateways(1).clients(2).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, TIMEOUTS));
    const MANY: usize = 50;
    let mut slow: Vec<TcpStream> = (0..MANY)
        .map(|_| connect(lab.client(1), None, vip(443)).expect("a connection"))
        .collect();
    // A record of 512 bytes, in which a ClientHello of 508 begins (RFC 8446 sections 4 and 5.1).
    for stream in &mut slow {
        stream
            .write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3])
            .expect("sent");
    }

    eventually(BOUND, "every handshake is given up", || {
        for stream in &mut slow {
            let _ = stream.write_all(&[0]);
        }
        failures(&daemon, "handshake_timeout") == MANY as u64
    });
    eventually(BOUND, "nothing is left of them", || {
        open_clients(&daemon) == 0
    });
    expect_served(&site, lab.client(2));
    assert_eq!(failures(&daemon, "handshake_failed"), 0);
}

#[test]
fn a_source_has_its_connections_and_no_more_and_others_have_theirs() {
    let lab = Lab::one_arm().gateways(1).clients(2).build();
    let site = WebSite::start(&lab);
    let limits = "limits = { per_source = 10 }";
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, limits));
    let mut held: Vec<Raw> = (0..10)
        .map(|_| try_tls(&site, lab.client(1)).expect("a connection"))
        .collect();

    for _ in 0..10 {
        assert!(try_tls(&site, lab.client(1)).is_none());
    }

    assert_eq!(failures(&daemon, "too_many_per_source"), 10);
    expect_served(&site, lab.client(2));
    for client in &mut held {
        let answer = client.get(PORTAL, "/", "").expect("an answer");
        assert_eq!(answer.status, 200);
    }
    held.pop();
    eventually(BOUND, "there is room again", || {
        try_tls(&site, lab.client(1)).is_some()
    });
}

#[test]
fn requests_that_come_all_at_once_are_answered_in_their_order() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, TIMEOUTS));
    let origin = &site.origins[0];
    const MANY: usize = 1000;
    let get = |number| format!("GET /{number} HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n");
    let mut client = site.raw(lab.client(1));
    client.get(PORTAL, "/first", "").expect("an answer");
    origin.forget();
    let before = anonymous_kib(&daemon);

    client
        .send((0..MANY).map(get).collect::<String>())
        .expect("sent");

    for number in 0..MANY {
        let answer = client.answer("GET");
        let answer = answer.unwrap_or_else(|error| panic!("{number}: {error}\n{}", daemon.log()));
        assert_eq!(answer.json()["path"], format!("/{number}"));
    }
    let paths = origin.requests().into_iter().map(|record| record.path());
    assert!(paths.eq((0..MANY).map(|number| format!("/{number}"))));
    let grown = anonymous_kib(&daemon).saturating_sub(before);
    assert!(grown < ROOM_KIB, "the daemon grew by {grown} KiB");

    // Who sends on and on and takes nothing is waited for, and then ended.
    let get = format!("GET /bytes/4000 HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n");
    let more = get.repeat(MANY);
    let error = loop {
        if let Err(error) = client.send(&more) {
            break error;
        }
    };
    let grown = anonymous_kib(&daemon).saturating_sub(before);
    assert!(grown < ROOM_KIB, "{error}: the daemon grew by {grown} KiB");
    eventually(BOUND, "it is counted", || {
        failures(&daemon, "client_stalled") == 1 && open_clients(&daemon) == 0
    });
}

#[test]
fn a_websocket_is_one_of_its_sources_connections_for_as_long_as_it_lives() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let limits = "limits = { per_source = 1 }";
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, limits));
    let mut socket = site.raw(lab.client(1));
    let asks = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let head = format!("GET /websocket HTTP/1.1\r\nHost: {PORTAL}\r\n{asks}\r\n");
    socket.send(head).expect("sent");
    assert_eq!(socket.answer_head().expect("an answer").0, 101);

    let _other = Raw::tcp(lab.client(1), vip(443)).expect("accepted");
    eventually(BOUND, "a second connection is refused", || {
        failures(&daemon, "too_many_per_source") == 1
    });
    assert_eq!(open_clients(&daemon), 1);

    drop(socket);
    eventually(BOUND, "its end is counted", || open_clients(&daemon) == 0);
    let answer = site.raw(lab.client(1)).get(PORTAL, "/", "");
    assert_eq!(answer.expect("an answer").status, 200);
}

#[test]
fn what_follows_an_upgrade_that_is_refused_is_a_request_like_any_other() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, ""));
    let origin = &site.origins[0];
    let gate = Gate::new();
    {
        let gate = gate.clone();
        origin.answer(move |request| match request.path().as_str() {
            "/websocket" => match request.header("sec-websocket-key") {
                None => Some(Response::status(400)),
                Some(_) => Some(Response::status(426).after(&gate)),
            },
            "/unasked" => Some(Response::verbatim(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            )),
            _ => None,
        });
    }
    let asks = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (headers, path, status, asked) in [
        (format!("{asks}{key}"), "/websocket", 426, true),
        (asks.to_owned(), "/websocket", 400, true),
        // Nobody said that the connection is meant.
        ("Upgrade: websocket\r\n".to_owned(), "/x", 200, false),
        ("Upgrade: x\r\n".to_owned(), "/unasked", 502, false),
        // A tunnel of HTTP/2 would be one past every rule.
        (
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
                .to_owned(),
            "/x",
            200,
            false,
        ),
        (
            "Connection: Upgrade\r\nUpgrade: websocket, H2C\r\n".to_owned(),
            "/x",
            200,
            false,
        ),
    ] {
        origin.forget();
        let mut client = site.raw(lab.client(1));
        client
            .send(format!(
                "GET {path} HTTP/1.1\r\nHost: {PORTAL}\r\n{headers}\r\n{SMUGGLED}"
            ))
            .expect("sent");
        let first = origin.await_record("the first request", |record| record.path() == path);
        assert!(
            path != "/websocket" || origin.requests().len() == 1 || status == 400,
            "{headers:?}"
        );
        gate.open();

        let answer = client.answer("GET").expect("an answer");
        assert_eq!(answer.status, status, "{headers:?}: {}", daemon.log());
        assert_eq!(first.header("upgrade").is_some(), asked, "{headers:?}");
        assert_eq!(first.header("http2-settings"), None);
        let answer = client.answer("GET");
        let answer = answer.unwrap_or_else(|error| panic!("{headers:?}: {error}"));
        assert_eq!(answer.json()["path"], "/smuggled", "{headers:?}");
        let records = origin.requests();
        let [_, second] = records.as_slice() else {
            panic!("{headers:?}: {records:?}");
        };
        // Our own hand has written it.
        let source = lab.client(1).v4().to_string();
        assert_eq!(second.header("x-forwarded-for"), Some(source.as_str()));
    }

    // HTTP/2 that nobody agreed on is nothing.
    origin.forget();
    let mut client = site.raw(lab.client(1));
    let request = http2::get(1, PORTAL, "/smuggled");
    let sent = [http2::PREFACE, &http2::settings(&[]), &request].concat();
    client.send(sent).expect("sent");
    client.await_end(BOUND).expect("an end");
    eventually(BOUND, "it is counted", || {
        failures(&daemon, "bad_request") == 1
    });
    assert!(origin.requests().is_empty(), "{:?}", origin.requests());
}

#[test]
fn hidden_framing_is_refused_or_has_one_meaning() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, ""));
    let origin = &site.origins[0];
    let long = ["3;", &"x".repeat(100_000), "\r\nabc\r\n0\r\n\r\n"].concat();
    let many = ["0\r\n", &"X: y\r\n".repeat(20_000), "\r\n"].concat();
    for (headers, body) in [
        ("Transfer-Encoding\t: chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\x0b", "0\r\n\r\n"),
        ("Transfer-Encoding: \"chunked\"", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: ,chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked;q=1", "0\r\n\r\n"),
        (
            "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
            "0\r\n\r\n",
        ),
        ("Transfer-Encoding:\r\n chunked", "0\r\n\r\n"),
        ("Transfer-Encoding:", "0\r\n\r\n"),
        ("\0Transfer-Encoding: chunked", "0\r\n\r\n"),
        ("X: y\rTransfer-Encoding: chunked", "0\r\n\r\n"),
        (
            "Transfer-Encoding: chunked",
            "10000000000000003\r\nabc\r\n0\r\n\r\n",
        ),
        ("Transfer-Encoding: chunked", "3 \tx\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "3\r\nabc\n\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", &long),
        ("Transfer-Encoding: chunked", &many),
        ("Content-Length: 3 3", "abc"),
        ("Content-Length: 3\0", "abc"),
        ("Content-Length: 3\r\n\t4", "abc"),
        ("Content-Length: \u{ff13}", "abc"),
        ("Content-Length: 18446744073709551619", "abc"),
        ("Content\0-Length: 3", "abc"),
        ("Content-Length\r: 3", "abc"),
        (": 3", "abc"),
    ] {
        let mut client = site.raw(lab.client(1));
        let request =
            format!("POST /x HTTP/1.1\r\nHost: {PORTAL}\r\n{headers}\r\n\r\n{body}{SMUGGLED}");
        client.send(request).expect("sent");
        let what = (headers, &body[..body.len().min(20)]);
        let answer = client.answer("POST");
        let status = answer.as_ref().map(|answer| answer.status).unwrap_or(0);
        assert_eq!(status, 400, "{what:?}: {answer:?}\n{}", daemon.log());
        let rest = client.await_end(BOUND);
        assert!(rest.is_ok(), "{what:?}: {rest:?}");
        for record in origin.requests() {
            assert_ne!(record.path(), "/smuggled", "{what:?}");
            assert!(!record.complete, "{what:?}: {record:?}");
        }
    }

    // Fields behind a body are none of its head.
    origin.forget();
    let mut client = site.raw(lab.client(1));
    let answer = client.ask(
        "POST",
        format!(
            "POST /trailers HTTP/1.1\r\nHost: {PORTAL}\r\nTransfer-Encoding: chunked\r\n\
             Trailer: Content-Length, Transfer-Encoding, Host, X-Forwarded-For\r\n\r\n\
             3\r\nabc\r\n0\r\nContent-Length: 100\r\nTransfer-Encoding: gzip\r\n\
             Host: other.example\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
        ),
    );
    assert_eq!(answer.expect("an answer").status, 200, "{}", daemon.log());
    let record = &origin.requests()[0];
    assert_eq!(record.body, b"abc");
    let raw = String::from_utf8_lossy(&record.raw_body).to_lowercase();
    for name in ["content-length", "transfer-encoding", "host", "x-forwarded"] {
        assert!(!raw.contains(name), "{raw}");
    }
    let end = client.await_end(BOUND);
    assert!(end.is_ok(), "{end:?}");
    expect_served(&site, lab.client(1));
}

#[test]
fn a_backend_that_never_comes_to_an_end_is_given_up_and_needs_no_memory() {
    let lab = Lab::one_arm().gateways(1).clients(2).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, TIMEOUTS));
    let origin = &site.origins[0];
    let early = |status: u16| format!("HTTP/1.1 {status} x\r\nX: y\r\n\r\n");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    expect_served(&site, lab.client(2));
    let before = anonymous_kib(&daemon);
    // What the backend says, and the status that its client gets: none if the answer breaks off.
    for (what, said, status) in [
        (
            "some early answers",
            [
                &early(103).repeat(1000),
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            ]
            .concat(),
            Some(200),
        ),
        (
            "early answers for ever",
            [early(100), early(103)].concat().repeat(500_000),
            Some(504),
        ),
        (
            "a status for ever",
            ["HTTP/1.1 200 ", &"x".repeat(10_000_000)].concat(),
            Some(502),
        ),
        (
            "fields for ever",
            ["HTTP/1.1 200 OK\r\n", &"X: y\r\n".repeat(1_000_000)].concat(),
            Some(502),
        ),
        (
            "a field for ever",
            ["HTTP/1.1 200 OK\r\nX: ", &"y".repeat(10_000_000)].concat(),
            Some(502),
        ),
        (
            "an extension for ever",
            [chunked, "3;", &"x".repeat(10_000_000)].concat(),
            None,
        ),
        (
            "extensions for ever",
            [chunked, &"1;x=y\r\na\r\n".repeat(500_000)].concat(),
            None,
        ),
        (
            "zeros for ever",
            [chunked, &"0".repeat(10_000_000)].concat(),
            None,
        ),
        (
            "trailers for ever",
            [chunked, "3\r\nabc\r\n0\r\n", &"X: y\r\n".repeat(1_000_000)].concat(),
            None,
        ),
        (
            "a chunk that is too long",
            [chunked, "10000000000000003\r\nabc\r\n0\r\n\r\n"].concat(),
            None,
        ),
    ] {
        origin.answer(move |request| {
            (request.path() == "/endless").then(|| Response::verbatim(said.clone()))
        });
        let mut client = site.raw(lab.client(1));
        let answer = thread::scope(|scope| {
            let asked = scope.spawn(|| client.get(PORTAL, "/endless", ""));
            while !asked.is_finished() {
                expect_served(&site, lab.client(2));
            }
            asked.join().expect("no panic")
        });
        let got = answer.as_ref().ok().map(|answer| answer.status);
        assert_eq!(got, status, "{what}: {answer:?}\n{}", daemon.log());
        let grown = anonymous_kib(&daemon).saturating_sub(before);
        assert!(grown < ROOM_KIB, "{what}: the daemon grew by {grown} KiB");
        eventually(BOUND, &format!("the connection of {what} ends"), || {
            origin.open_connections() <= 3
        });
    }
}

#[test]
fn without_descriptors_who_is_there_is_served_and_others_wait_for_their_turn() {
    let lab = Lab::one_arm().gateways(1).clients(2).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, ""));
    let mut kept = site.raw(lab.client(2));
    kept.get(PORTAL, "/", "").expect("an answer");
    let (pid, limit) = (daemon.pid(), Usage::of(daemon.pid()).descriptors + 60);
    let prlimit = format!("prlimit --pid {pid} --nofile={limit}:{limit}");
    lab.balancer().run(&prlimit).ok();
    eventually(BOUND, "the daemon knows", || {
        let said = format!("the limit of open files is {limit}\n");
        daemon.log().contains(&said)
    });

    let held: Vec<TcpStream> = (0..100)
        .map(|_| connect(lab.client(1), None, vip(443)).expect("the kernel accepts"))
        .collect();

    eventually(BOUND, "the log says it", || {
        daemon.log().contains("connections wait to be accepted")
    });
    for _ in 0..20 {
        let answer = kept.get(PORTAL, "/", "").expect("an answer");
        assert_eq!(answer.status, 200, "{}", daemon.log());
    }
    assert!(daemon.status().backend("gateway1").is_up());
    drop(held);
    eventually(BOUND, "newcomers are served again", || {
        try_tls(&site, lab.client(1))
            .and_then(|mut client| client.get(PORTAL, "/", "").ok())
            .is_some_and(|answer| answer.status == 200)
    });
    assert_eq!(failures(&daemon, "out_of_descriptors"), 0);
}
