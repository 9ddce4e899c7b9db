//! HTTPS to clients, HTTPS to backends: what reaches whom, byte by byte.

use std::time::Duration;

use lb_tests::lab::{
    Daemon, Lab,
    eventually::eventually,
    origin::filling,
    site::vip,
    web_site::{INSIDE, PORTAL, SERVICE, WebSite, url},
    websocket::{self, Frame},
};

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_request_reaches_one_backend_anew_with_its_origin_in_headers() {
    let lab = Lab::one_arm().build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let client = lab.client(1);

    let answers = site
        .curl(&lab, client)
        .http1()
        .header("X-Forwarded-For: 1.2.3.4")
        .header("Connection: X-Private")
        .header("X-Private: secret")
        .get(&url("/a/../b?c=%20d"))
        .post(&url("/echo"), "hello")
        .get(&url("/chunked/100000"))
        .get(&url("/bytes/3000000"))
        .get(&url("/status/404"))
        .run();

    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(answer.exit_code, 0, "{answer:?}\n{}", daemon.log());
        assert_eq!(answer.connections, u64::from(number == 0), "{answer:?}");
    }
    let identity = answers[0].json();
    let origin = site.origin(identity["backend"].as_str().expect("a name"));
    assert_eq!(identity["client"], client.v4().to_string());
    assert_eq!(identity["host"], PORTAL);
    assert_eq!(identity["server_name"], INSIDE);
    assert_eq!(answers[1].text(), "hello");
    assert_eq!(answers[2].body, filling(100_000));
    assert_eq!(answers[3].body, filling(3_000_000));
    assert_eq!(answers[4].status, 404);
    assert!(origin.faults().is_empty(), "{:?}", origin.faults());
    let record = origin.await_record("the first request", |record| {
        record.path().starts_with("/b")
    });
    let text = record.text();
    assert!(text.starts_with("GET /b?c=%20d HTTP/1.1\r\n"), "{text}");
    assert!(
        !text.contains("1.2.3.4") && !text.to_lowercase().contains("x-private"),
        "{text}"
    );
    assert_eq!(record.headers("x-forwarded-proto"), ["https"]);
    assert_eq!(record.headers("x-forwarded-port"), ["443"]);
    assert_eq!(record.headers("x-forwarded-host"), [PORTAL]);
    assert_eq!(record.headers("host"), [PORTAL]);
}

#[test]
fn http2_clients_are_served_by_http1_backends() {
    let lab = Lab::one_arm().build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));

    let answers = site
        .curl(&lab, lab.client(1))
        .http2()
        .get(&url("/x"))
        .post(&url("/echo"), "hello")
        .get(&url("/chunked/100000"))
        .run();

    for answer in &answers {
        assert_eq!(answer.exit_code, 0, "{answer:?}\n{}", daemon.log());
        assert_eq!(answer.http_version, "2");
    }
    assert_eq!(answers[0].json()["host"], PORTAL);
    assert_eq!(answers[1].text(), "hello");
    assert_eq!(answers[2].body, filling(100_000));
}

#[test]
fn a_websocket_is_a_tunnel_after_the_backends_101() {
    let lab = Lab::one_arm().build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let mut client = site.raw(lab.client(1));
    client
        .send(format!(
            "GET /websocket HTTP/1.1\r\nHost: {PORTAL}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ))
        .expect("sent");

    let (status, head) = client.answer_head().expect("an answer");
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert_eq!(status, 101, "{head}\n{}", daemon.log());
    assert!(head.contains("upgrade: websocket"), "{head}");
    let accept = websocket::accept("dGhlIHNhbXBsZSBub25jZQ==");
    assert!(head.contains(&accept.to_lowercase()), "{head}");
    for text in ["one", "two"] {
        Frame::text(text)
            .write(client.wire(), Some([1, 2, 3, 4]))
            .expect("sent");
        let echo = Frame::read(client.wire()).expect("an echo");
        assert_eq!(echo.payload, text.as_bytes());
    }
    client.finish().expect("an end");
    eventually(BOUND, "the backend sees the end", || {
        site.origins
            .iter()
            .all(|origin| origin.event_readers() == 0)
    });
}

#[test]
fn the_portal_has_its_page_while_no_backend_is_up() {
    let lab = Lab::one_arm().gateways(1).build();
    let mut site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    site.origins[0].stop(lab_end());
    eventually(BOUND, "the backend is found down", || {
        !daemon.status().backend("gateway1").is_up()
    });

    let answer = site.curl(&lab, lab.client(1)).get(&url("/")).one();

    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some());
    assert!(answer.text().contains("no_backend"));
    let status = daemon.cli(&["status"]).text();
    assert!(status.contains(SERVICE), "{status}");
    let _ = vip(443);
}

fn lab_end() -> lb_tests::lab::stream::End {
    lb_tests::lab::stream::End::Reset
}
