//! One meaning for each message: what a client sends reaches the backend as exactly one request, or
//! as none; what a backend answers reaches the client as exactly one answer, or visibly broken.

use std::time::Duration;

use lb_tests::lab::{
    Daemon, Lab,
    http2::{self, END_HEADERS, END_STREAM, block, frame, kind, usual},
    origin::{Origin, Response},
    stream::End,
    web_site::{PORTAL, SERVICE, WebSite, url},
};

const BOUND: Duration = Duration::from_secs(10);

/// What follows each message: a request that would be somebody else's if the message ended early.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: portal.lab.example\r\n\r\n";

fn expect_nothing_smuggled(origin: &Origin, what: &str) {
    for record in origin.records() {
        assert_ne!(record.path(), "/smuggled", "{what}: {}", record.text());
    }
}

#[test]
fn what_has_two_meanings_is_refused_and_the_connection_ends() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    let heads = [
        "POST /x HTTP/1.1\r\nHost: ~\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "POST /x HTTP/1.1\r\nHost: ~\r\nContent-Length: 3, 3\r\n\r\nabc",
        "POST /x HTTP/1.1\r\nHost: ~\r\nContent-Length:\r\n\r\nabc",
        "POST /x HTTP/1.1\r\nHost: ~\r\nContent-Length: +3\r\n\r\nabc",
        "POST /x HTTP/1.1\r\nHost: ~\r\nContent-Length: -3\r\n\r\nabc",
        "POST /x HTTP/1.1\r\nHost: ~\r\nContent-Length: 0x3\r\n\r\nabc",
        "POST /x HTTP/1.1\r\nHost: ~\r\nContent-Length: 99999999999999999999\r\n\r\nabc",
        "POST /x HTTP/1.1\r\nHost: ~\r\nContent-Length : 3\r\n\r\nabc",
        "POST /x HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.0\r\nHost: ~\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: ~\r\nX: a\r\n folded\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: ~\r\nX: a\rb\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: ~\r\nX: a\0b\r\n\r\n",
        "GET /x HTTP/1.1\r\n Host: ~\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: ~\r\nno colon\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: ~\r\nX Y: a\r\n\r\n",
        "GET /x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost:\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: ~\r\nHost: ~\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: ~, other.example\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: user@~\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: ~/x\r\n\r\n",
        "GET https://other.example/x HTTP/1.1\r\nHost: ~\r\n\r\n",
        "GET https://user@~/x HTTP/1.1\r\nHost: ~\r\n\r\n",
        "CONNECT ~:443 HTTP/1.1\r\nHost: ~:443\r\n\r\n",
        "GET ~:443 HTTP/1.1\r\nHost: ~:443\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: ~\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: ~\r\n\r\n",
        "GET /x y HTTP/1.1\r\nHost: ~\r\n\r\n",
        "GET /<x> HTTP/1.1\r\nHost: ~\r\n\r\n",
        "GET  /x HTTP/1.1\r\nHost: ~\r\n\r\n",
        "GET /x HTTP/1.2\r\nHost: ~\r\n\r\n",
        "GET /x HTTP/2.0\r\nHost: ~\r\n\r\n",
        "GET /x\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: ~\r\nX_Forwarded_For: 1.2.3.4\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: ~\r\nX-Forwarded_Proto: http\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: ~\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: ~\r\nContent_Length: 3\r\n\r\nabc",
        "GET ftp://~/x HTTP/1.1\r\nHost: ~\r\n\r\n",
    ];
    for head in heads {
        let head = head.replace('~', PORTAL);
        let mut client = site.raw(lab.client(1));
        client.send(format!("{head}{SMUGGLED}")).expect("sent");

        let answer = client.answer("GET");
        let status = answer.as_ref().map(|answer| answer.status).unwrap_or(0);
        assert_eq!(status, 400, "{head:?}: {answer:?}\n{}", daemon.log());
        let rest = client.await_end(BOUND);
        assert!(rest.is_ok(), "{head:?}: {rest:?}");
        assert!(
            origin.requests().is_empty(),
            "{head:?}: {:?}",
            origin.requests()
        );
    }
    let refused = daemon.status().service(SERVICE).failures("bad_request");
    assert_eq!(refused, heads.len() as u64);
}

#[test]
fn bad_chunks_never_become_a_request_of_their_own() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    for body in [
        "g\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nab\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3;a\rb\r\nabc\r\n0\r\n\r\n",
    ] {
        let mut client = site.raw(lab.client(1));
        client
            .send(format!(
                "POST /victim HTTP/1.1\r\nHost: {PORTAL}\r\nTransfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}"
            ))
            .expect("sent");

        let answer = client.answer("POST");
        let status = answer.as_ref().map(|answer| answer.status).unwrap_or(0);
        assert_eq!(status, 400, "{body:?}: {answer:?}\n{}", daemon.log());
        let rest = client.await_end(BOUND);
        assert!(rest.is_ok(), "{body:?}: {rest:?}");
        expect_nothing_smuggled(origin, body);
        for record in origin.requests() {
            assert!(!record.complete, "{body:?}: {record:?}");
        }
    }
}

#[test]
fn no_request_is_lost_behind_trailers() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    // The engine takes the next request, or a part of it, for trailers where lines end otherwise than
    // they should. Its client must not take a later answer for that of the request that was lost.
    for (trailers, status) in [
        ("\n", 400),
        ("\n\n", 400),
        ("A: b\n\r\n", 200),
        ("A: b\n\n", 200),
        ("A: b\r\n\n", 200),
        ("A: b\r\n\r\n", 200),
    ] {
        origin.forget();
        let mut client = site.raw(lab.client(1));
        client
            .send(format!(
                "POST /victim HTTP/1.1\r\nHost: {PORTAL}\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n0\r\n{trailers}{SMUGGLED}\
                 GET /later HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"
            ))
            .expect("sent");

        let answer = client.answer("POST");
        let answer = answer.unwrap_or_else(|error| panic!("{trailers:?}: {error}"));
        assert_eq!(answer.status, status, "{trailers:?}\n{}", daemon.log());
        assert_eq!(answer.header("connection"), Some("close"), "{trailers:?}");
        let end = client.await_end(BOUND);
        assert!(end.is_ok(), "{trailers:?}: {end:?}");
        for record in origin.records() {
            assert_eq!(record.path(), "/victim", "{trailers:?}: {}", record.text());
        }
    }

    // Where the answer comes first, nobody knows yet how the request will end.
    origin.answer(|request| {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        (request.path() == "/early").then(|| Response::verbatim(answer).early())
    });
    let mut client = site.raw(lab.client(1));
    client
        .send(format!(
            "POST /early HTTP/1.1\r\nHost: {PORTAL}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        ))
        .expect("sent");
    let answer = client.answer("POST").expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, "ok".into()));
    assert_eq!(answer.header("connection"), Some("close"));
    // It may have been closed already.
    let _ = client.send(format!("0\r\nA: b\n\r\n{SMUGGLED}{SMUGGLED}"));
    let end = client.await_end(BOUND);
    assert!(end.is_ok(), "{end:?}");
    expect_nothing_smuggled(origin, "an early answer");
}

#[test]
fn a_length_is_passed_on_without_zeros_in_front() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    origin.answer(|request| {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 003\r\n\r\nabc";
        (request.path() == "/padded").then(|| Response::verbatim(answer))
    });
    let mut client = site.raw(lab.client(1));
    let padded =
        format!("POST /padded HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 010\r\n\r\n0123456789");

    let answer = client.ask("POST", padded).expect("an answer");
    assert_eq!(answer.text(), "abc", "{}", daemon.log());
    assert_eq!(answer.header("content-length"), Some("3"));
    let records = origin.requests();
    assert_eq!(records[0].body, b"0123456789");
    let head = records[0].text().to_lowercase();
    assert!(head.contains("content-length: 10\r\n"), "{head}");
    let next = client.get(PORTAL, "/next", "").expect("an answer");
    assert_eq!(next.status, 200);
}

#[test]
fn what_is_accepted_reaches_the_backend_as_one_request_framed_anew() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    // What is sent, the line and the body at the backend, and whether the connection goes on.
    let cases: [(String, &str, &str, bool); 13] = [
        (
            format!("GET /x HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"),
            "GET /x HTTP/1.1",
            "",
            true,
        ),
        (
            format!("get /x HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"),
            "get /x HTTP/1.1",
            "",
            true,
        ),
        (
            format!("\r\n\r\nGET /x HTTP/1.1\r\nhost:{PORTAL}  \r\n\r\n"),
            "GET /x HTTP/1.1",
            "",
            true,
        ),
        (
            format!("GET /x HTTP/1.1\nHost: {PORTAL}\n\n"),
            "GET /x HTTP/1.1",
            "",
            true,
        ),
        (
            format!("OPTIONS * HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"),
            "OPTIONS * HTTP/1.1",
            "",
            true,
        ),
        (
            format!("GET https://{PORTAL}/x?y HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"),
            "GET /x?y HTTP/1.1",
            "",
            true,
        ),
        (
            format!("POST /x HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 3\r\n\r\nabc"),
            "POST /x HTTP/1.1",
            "abc",
            true,
        ),
        (
            format!("POST /x HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 0\r\n\r\n"),
            "POST /x HTTP/1.1",
            "",
            true,
        ),
        (
            format!("DELETE /x HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 3\r\n\r\nabc"),
            "DELETE /x HTTP/1.1",
            "abc",
            true,
        ),
        (
            format!(
                "GET /x HTTP/1.1\r\nHost: {PORTAL}\r\nTransfer-Encoding: Chunked\r\n\r\n\
                 3\r\nabc\r\n2;ext=\"x\"\r\nde\r\n0\r\n\r\n"
            ),
            "GET /x HTTP/1.1",
            "abcde",
            true,
        ),
        (
            format!(
                "POST /x HTTP/1.1\r\nHost: {PORTAL}\r\nConnection: content-length\r\n\
                 Content-Length: 3\r\n\r\nabc"
            ),
            "POST /x HTTP/1.1",
            "abc",
            true,
        ),
        (
            format!(
                "POST /x HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 3\r\n\
                 Content-Length: 3\r\n\r\nabc"
            ),
            "POST /x HTTP/1.1",
            "abc",
            true,
        ),
        (
            format!(
                "POST /x HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 6\r\n\
                 Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            "POST /x HTTP/1.1",
            "",
            false,
        ),
    ];
    for (sent, line, body, goes_on) in cases {
        origin.forget();
        let mut client = site.raw(lab.client(1));
        client.send(&sent).expect("sent");
        if !goes_on {
            client.send(SMUGGLED).expect("sent");
        }

        let method = line.split(' ').next().expect("a method");
        let answer = client.answer(method);
        let answer = answer.unwrap_or_else(|error| panic!("{sent:?}: {error}\n{}", daemon.log()));
        assert_eq!(answer.status, 200, "{sent:?}: {answer:?}");
        let records = origin.requests();
        let [record] = records.as_slice() else {
            panic!("{sent:?}: {records:?}");
        };
        assert_eq!(record.text().lines().next(), Some(line), "{sent:?}");
        assert_eq!(String::from_utf8_lossy(&record.body), body, "{sent:?}");
        assert_eq!(record.fault, None, "{sent:?}");
        if goes_on {
            let next = client.get(PORTAL, "/next", "").expect("an answer");
            assert_eq!(next.status, 200, "{sent:?}");
        } else {
            let end = client.await_end(BOUND);
            assert!(end.is_ok(), "{sent:?}: {end:?}");
            expect_nothing_smuggled(origin, &sent);
        }
    }
}

#[test]
fn a_client_of_http_1_0_is_answered_in_its_own_way() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    let mut client = site.raw(lab.client(1));
    client
        .send(format!(
            "GET /chunked/3 HTTP/1.0\r\nHost: {PORTAL}\r\n\r\n{SMUGGLED}"
        ))
        .expect("sent");

    let answer = client.read_to_end().expect("an end");
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.starts_with("HTTP/1.0 200"),
        "{answer}\n{}",
        daemon.log()
    );
    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
    assert!(!answer.to_lowercase().contains("transfer-encoding"));
    expect_nothing_smuggled(origin, "HTTP/1.0");
    let records = origin.requests();
    assert_eq!(records.len(), 1);
    assert!(records[0].text().starts_with("GET /chunked/3 HTTP/1.1\r\n"));

    // Without a host it is no request of HTTP/1.1, and is not passed on as one.
    let mut client = site.raw(lab.client(1));
    client.send("GET /hostless HTTP/1.0\r\n\r\n").expect("sent");
    client.read_to_end().expect("an end");
    let hostless = origin.await_record("the request", |record| record.path() == "/hostless");
    let text = hostless.text();
    assert!(text.starts_with("GET /hostless HTTP/1.0\r\n"), "{text}");
    assert!(hostless.headers("host").is_empty(), "{text}");
}

#[test]
fn a_target_reaches_the_backend_byte_for_byte_or_not_at_all() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    for target in [
        "/a/../b/./c",
        "/a%2F..%2fb",
        "/%00%0d%0a",
        "/%zz%",
        "/a//b",
        "//other.example/x",
        "/a;b=c?d?e",
        "/?x=%20&y=+&z",
        "/a|b^c{d}",
        "/back\\slash",
        "/'()*!$&,:@~",
        "/?q=[a]'|^{}`\\",
        "/?",
        "/x?y=https://u:p@other.example/",
        "/\u{fc}ber?\u{20ac}",
    ] {
        origin.forget();
        let mut client = site.raw(lab.client(1));
        let answer = client.get(PORTAL, target, "");
        let status = answer.as_ref().map(|answer| answer.status).unwrap_or(0);
        let records = origin.requests();
        match records.as_slice() {
            [record] => {
                assert_eq!(status, 200, "{target}: {answer:?}");
                assert_eq!(record.target(), target);
            }
            [] => panic!("{target} is refused with {status}\n{}", daemon.log()),
            more => panic!("{target}: {more:?}"),
        }
    }
}

#[test]
fn http2_becomes_one_request_of_http1() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    let file = lab.directory().join("upload");
    std::fs::write(&file, vec![b'u'; 100_000]).expect("written");
    let file = file.display();

    let answers = site
        .curl(&lab, lab.client(1))
        .http2()
        .header("Cookie: a=1")
        .header("TE: trailers")
        .transfer(&["--header", "Cookie: b=2", &url("/get?x=%2f")])
        .transfer(&["--data-binary", "", &url("/empty")])
        .transfer(&["--data-binary", "hello", &url("/length")])
        .transfer(&[
            "--request",
            "POST",
            "--header",
            "Content-Length:",
            "--upload-file",
            &format!("{file}"),
            &url("/chunked-up"),
        ])
        .transfer(&["--head", &url("/bytes/1000")])
        .transfer(&["--request", "DELETE", &url("/delete")])
        .run();

    for answer in &answers {
        assert_eq!(answer.exit_code, 0, "{answer:?}\n{}", daemon.log());
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.http_version, "2", "{answer:?}");
    }
    let records = origin.requests();
    assert_eq!(records.len(), answers.len());
    assert!(origin.faults().is_empty(), "{:?}", origin.faults());
    let of = |path: &str| {
        let found = records.iter().find(|record| record.path() == path);
        found.unwrap_or_else(|| panic!("no {path} in {records:?}"))
    };
    let get = of("/get");
    assert!(get.text().starts_with("GET /get?x=%2f HTTP/1.1\r\n"));
    assert_eq!(get.headers("cookie"), ["a=1; b=2"], "{}", get.text());
    assert_eq!(get.headers("host"), [PORTAL]);
    assert!(get.headers("content-length").is_empty());
    assert!(get.headers("transfer-encoding").is_empty());
    let empty = of("/empty");
    assert_eq!(empty.headers("content-length"), ["0"], "{}", empty.text());
    assert!(empty.headers("transfer-encoding").is_empty());
    let length = of("/length");
    assert_eq!(length.headers("content-length"), ["5"], "{}", length.text());
    let chunked = of("/chunked-up");
    assert_eq!(chunked.headers("transfer-encoding"), ["chunked"]);
    assert!(chunked.headers("content-length").is_empty());
    assert_eq!(chunked.body_length, 100_000);
    assert_eq!(answers[4].header("content-length"), Some("1000"));
    assert!(of("/delete").headers("transfer-encoding").is_empty());
}

#[test]
fn http2_requests_with_two_meanings_never_reach_a_backend() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    // Sends a request and returns the status of the answer, or why there is none.
    let ask = |fields: &[(&str, &str)], body: Option<&str>| {
        let mut client = site.http2(lab.client(1));
        let flags = match body {
            Some(_) => END_HEADERS,
            None => END_HEADERS | END_STREAM,
        };
        let mut bytes = frame(kind::HEADERS, flags, 1, &block(fields));
        if let Some(body) = body {
            bytes.extend(frame(kind::DATA, END_STREAM, 1, body.as_bytes()));
        }
        client.send(bytes).expect("sent");
        let answered = client.answer(1).map_err(|error| error.to_string())?;
        answered.status.ok_or_else(|| format!("{answered:?}"))
    };
    let usual = usual("GET", PORTAL, "/x");
    assert_eq!(ask(&usual, None), Ok(200), "{}", daemon.log());
    origin.forget();
    for field in [
        ("host", "other.example"),
        ("x_forwarded_for", "1.2.3.4"),
        ("content_length", "0"),
        ("x", " a"),
        ("x", "a\t"),
        ("connection", "x"),
        ("keep-alive", "5"),
        ("proxy-connection", "x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("Upper", "x"),
        ("a b", "x"),
        ("x", "a\r\nhost: other.example"),
        ("x", "a\nb"),
        ("x", "a\0b"),
        (":path", "/y"),
        ("content-length", "5"),
    ] {
        let mut fields = usual.clone();
        fields.push(field);
        let got = ask(&fields, None);
        assert!(
            matches!(got, Err(_) | Ok(400)),
            "{field:?}: {got:?}\n{}",
            daemon.log()
        );
    }
    for changed in [
        (":authority", ""),
        (":authority", "user@portal.lab.example"),
        (":authority", "portal.lab.example other.example"),
        (":path", ""),
        (":path", "x"),
        (":path", "/a b"),
        (":path", "/a\r\nHost: other.example\r\n"),
        (":path", "*"),
        (":scheme", "ftp"),
        (":method", "CONNECT"),
        (":method", "GET /smuggled HTTP/1.1\r\n"),
    ] {
        let mut fields = usual.clone();
        for field in &mut fields {
            if field.0 == changed.0 {
                *field = changed;
            }
        }
        let got = ask(&fields, None);
        assert!(
            matches!(got, Err(_) | Ok(400)),
            "{changed:?}: {got:?}\n{}",
            daemon.log()
        );
    }
    // More or less than was said.
    for length in ["3", "30", "+5", "5, 5"] {
        let mut fields = http2::usual("POST", PORTAL, "/body");
        fields.push(("content-length", length));
        let got = ask(&fields, Some("hello"));
        assert_ne!(got, Ok(200), "{length}\n{}", daemon.log());
    }
    for record in origin.requests() {
        assert!(!record.complete, "{record:?}");
    }
}

#[test]
fn an_answer_with_two_meanings_is_no_answer() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let bad: [&str; 17] = [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        "garbage\r\n\r\n",
        "\0\x01\x02\x03",
        "220 mail.example ESMTP\r\n",
        &long,
    ];
    for answer in bad {
        origin.forget();
        let bytes = answer.to_owned();
        origin.answer(move |request| {
            (request.path() == "/bad").then(|| Response::verbatim(bytes.clone()))
        });
        let mut client = site.raw(lab.client(1));

        let got = client.get(PORTAL, "/bad", "");
        let status = got.as_ref().map(|answer| answer.status).unwrap_or(0);
        let shown = &answer[..answer.len().min(200)];
        assert_eq!(status, 502, "{shown:?}: {got:?}\n{}", daemon.log());
        // The client may go on, by another connection to the backend.
        for number in 0..3 {
            let next = client.get(PORTAL, &format!("/next{number}"), "");
            let next = next.unwrap_or_else(|error| panic!("{shown:?}: {error}"));
            assert_eq!(next.status, 200, "{shown:?}: {next:?}");
        }
        let records = origin.requests();
        let spoilt = records.iter().find(|record| record.path() == "/bad");
        let spoilt = spoilt.expect("the request").connection;
        assert_eq!(records.len(), 4, "{shown:?}: {records:?}");
        for record in &records {
            assert!(
                record.path() == "/bad" || record.connection != spoilt,
                "{shown:?}: {record:?}"
            );
        }
    }
    let status = daemon.status();
    assert_eq!(status.service(SERVICE).failures("bad_response"), 17);
}

#[test]
fn an_answer_that_ends_early_is_seen_to_and_its_connection_is_not_used_again() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    // Half a head: 502. Half a body: the client's connection ends without the body's end.
    for (answer, whole_head) in [
        ("", false),
        ("HTTP/1.1 200 OK\r\nContent-Le", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", true),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n",
            true,
        ),
    ] {
        for end in [End::Close, End::Fin, End::Reset] {
            let bytes = answer.to_owned();
            origin.answer(move |request| {
                (request.path() == "/cut").then(|| Response::verbatim(bytes.clone()).end(end))
            });
            let mut client = site.raw(lab.client(1));
            let got = client.ask(
                "POST",
                format!("POST /cut HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 0\r\n\r\n"),
            );
            match (whole_head, got) {
                (false, Ok(got)) => assert_eq!(got.status, 502, "{answer:?} {end:?}"),
                // A reset may overtake what was sent before it.
                (true, Ok(got)) => assert_eq!(got.status, 502, "{answer:?} {end:?}"),
                (true, Err(_)) => {}
                (false, Err(error)) => panic!("{answer:?} {end:?}: {error}\n{}", daemon.log()),
            }
        }
    }
    let posts = origin.requests().len();
    assert_eq!(posts, 15, "a POST was sent twice");
}

#[test]
fn a_body_of_an_answer_until_the_end_must_end_well() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    for (end, good) in [(End::Close, true), (End::Reset, false)] {
        origin.answer(move |request| {
            let answer = Response::verbatim("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc");
            (request.path() == "/until").then(|| answer.end(end))
        });
        let mut client = site.raw(lab.client(1));
        let got = client.get(PORTAL, "/until", "");
        match got {
            Ok(answer) if answer.status == 200 => {
                assert!(good, "{end:?}: {answer:?}\n{}", daemon.log());
                assert_eq!(answer.text(), "abc");
            }
            other => assert!(!good, "{end:?}: {other:?}\n{}", daemon.log()),
        }
    }
}

#[test]
fn a_backend_of_http_1_0_gets_every_body() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    origin.answer(|request| {
        let answer = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
        request
            .path()
            .starts_with("/old")
            .then(|| Response::verbatim(answer))
    });
    let mut client = site.raw(lab.client(1));
    for number in 0..3 {
        let answer = client.ask(
            "POST",
            format!(
                "POST /old/{number} HTTP/1.1\r\nHost: {PORTAL}\r\n\
                 Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            ),
        );
        assert_eq!(answer.expect("an answer").status, 200, "{}", daemon.log());
    }
    for record in origin.requests() {
        assert_eq!(record.body, b"abc", "{record:?}");
    }
}

#[test]
fn bytes_beyond_an_answer_are_nobodys_answer() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let origin = &site.origins[0];
    let forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    for (method, first) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\nabc"),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\nabc",
        ),
    ] {
        let bytes = format!("{first}{forged}");
        origin.answer(move |request| {
            (request.path() == "/more").then(|| Response::verbatim(bytes.clone()))
        });
        let mut client = site.raw(lab.client(1));
        let request = format!("{method} /more HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n");
        let got = client.ask(method, request);
        let got = got.unwrap_or_else(|error| panic!("{first:?}: {error}\n{}", daemon.log()));
        assert!(!got.text().contains("forged"), "{first:?}: {got:?}");
        let mut others = site.raw(lab.client(1));
        for _ in 0..4 {
            for client in [&mut client, &mut others] {
                let next = client.get(PORTAL, "/next", "");
                let next = next.unwrap_or_else(|error| panic!("{first:?}: {error}"));
                assert_eq!(next.json()["path"], "/next", "{first:?}");
            }
        }
    }
}

#[test]
fn trailers_reach_clients_that_ask_for_them() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    site.origins[0].answer(|request| {
        (request.path() == "/trailers").then(|| {
            Response::verbatim(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                 3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
            )
        })
    });
    let mut client = site.raw(lab.client(1));

    let asked = client
        .get(PORTAL, "/trailers", "TE: trailers\r\nConnection: TE\r\n")
        .expect("an answer");
    let raw = String::from_utf8_lossy(&asked.raw_body).to_lowercase();
    assert!(raw.contains("x-sum: 7"), "{raw:?}\n{}", daemon.log());
    let not = client.get(PORTAL, "/trailers", "").expect("an answer");
    assert_eq!(not.body, b"abc");
    let records = site.origins[0].requests();
    assert_ne!(
        records[0].connection, records[1].connection,
        "what stood behind trailers is lost"
    );
    let http2 = site
        .curl(&lab, lab.client(1))
        .http2()
        .get(&url("/trailers"))
        .one();
    assert_eq!(http2.exit_code, 0, "{http2:?}");
    assert!(
        http2.heads.iter().any(|head| head.contains("x-sum: 7")),
        "{http2:?}"
    );
}
