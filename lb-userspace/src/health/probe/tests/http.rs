use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::{
    server::{Server, Then},
    *,
};
use crate::health::probe::http::BODY_LIMIT;

#[tokio::test]
async fn the_request_is_what_a_server_expects_of_a_client() {
    let mut server = Server::start(answer("200 OK", "fine"), Then::Close).await;
    let spec = HttpProbe {
        host: Some(String::from("appsanywhere.uni.edu")),
        ..get("/healthcheck?deep=1")
    };

    let outcome = send(spec, server.address, AMPLE).await;

    assert_eq!(detail(&outcome), "GET /healthcheck?deep=1 answered 200");
    assert_eq!(
        server.requests(),
        [format!(
            "GET /healthcheck?deep=1 HTTP/1.1\r\nhost: appsanywhere.uni.edu\r\nuser-agent: \
             vipd-health/{}\r\naccept: */*\r\naccept-encoding: identity\r\nconnection: \
             close\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        )]
    );
}

#[tokio::test]
async fn a_status_that_was_not_expected_is_told_with_its_meaning() {
    for (status, text) in [
        (
            "503 Service Unavailable",
            "answered 503 (expected 200): unavailable",
        ),
        (
            "500 Internal Server Error",
            "answered 500 (expected 200): error",
        ),
        ("403 Forbidden", "answered 403 (expected 200): forbidden"),
        ("404 Not Found", "answered 404 (expected 200): not found"),
        ("204 No Content", "answered 204 (expected 200)"),
        ("418 I'm a teapot", "answered 418 (expected 200)"),
        ("303 See Other", "answered 303 (expected 200): redirected"),
    ] {
        let server = Server::start(answer(status, ""), Then::Close).await;

        let outcome = send(get("/healthcheck"), server.address, AMPLE).await;

        assert_eq!(reason(&outcome), format!("GET /healthcheck {text}"));
    }
}

#[tokio::test]
async fn a_redirect_is_shown_and_not_followed() {
    let head = "HTTP/1.1 303 See Other\r\nLocation: /login\x1b[2J\r\nContent-Length: 0\r\n\r\n";
    let plain = head.replace("\x1b[2J", "");
    let mut server = Server::start(vec![plain.into_bytes()], Then::Close).await;

    let outcome = send(get("/"), server.address, AMPLE).await;

    assert_eq!(
        reason(&outcome),
        "GET / answered 303 (expected 200): redirected to /login"
    );
    assert_eq!(server.requests().len(), 1);

    let server = Server::start(vec![head.into()], Then::Close).await;
    let outcome = send(get("/"), server.address, AMPLE).await;
    assert!(!reason(&outcome).contains('\x1b'), "{outcome}");
}

#[tokio::test]
async fn any_of_several_statuses_may_be_expected() {
    let server = Server::start(answer("401 Unauthorized", ""), Then::Close).await;
    let mut spec = get("/");

    spec.expect_status = BTreeSet::from([200, 401]);
    let outcome = send(spec.clone(), server.address, AMPLE).await;
    assert_eq!(detail(&outcome), "GET / answered 401");

    spec.expect_status = BTreeSet::from([200, 201, 302]);
    let outcome = send(spec, server.address, AMPLE).await;
    assert_eq!(
        reason(&outcome),
        "GET / answered 401 (expected 200-201 or 302): asks for a login"
    );
}

#[tokio::test]
async fn an_expected_text_is_found_across_segments_and_chunks() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let until_close = "HTTP/1.0 200 OK\r\n\r\n";
    for pieces in [
        vec![length, "  Token ser", "vice is ready.  "],
        vec![
            chunked,
            "9\r\n Token se\r\n",
            "10\r\nrvice is ready. \r\n",
            "0\r\n\r\n",
        ],
        vec![until_close, "Token ", "service", " is ready."],
    ] {
        let pieces = pieces.into_iter().map(Vec::from).collect();
        let server = Server::start(pieces, Then::Close).await;
        let spec = HttpProbe {
            expect_body: Some(String::from("Token service is ready.")),
            ..get("/")
        };

        let outcome = send(spec, server.address, AMPLE).await;

        assert_eq!(
            detail(&outcome),
            "GET / answered 200 with \"Token service is ready.\""
        );
    }
}

#[tokio::test]
async fn a_body_without_the_text_fails() {
    let server = Server::start(answer("200 OK", "Token service is starting."), Then::Close).await;
    let spec = HttpProbe {
        expect_body: Some(String::from("Token service is ready.")),
        ..get("/ready")
    };

    let outcome = send(spec, server.address, AMPLE).await;

    assert_eq!(
        reason(&outcome),
        "GET /ready answered 200, but the body does not contain \"Token service is ready.\""
    );
}

#[tokio::test]
async fn a_body_is_searched_up_to_its_first_mebibyte() {
    let ready = "ready";
    for (position, found) in [
        (0, true),
        (BODY_LIMIT - ready.len(), true),
        (BODY_LIMIT - ready.len() + 1, false),
        (BODY_LIMIT + 70_000, false),
    ] {
        let body = ".".repeat(position) + ready + &".".repeat(2 * BODY_LIMIT);
        let server = Server::start(answer("200 OK", &body), Then::Close).await;
        let spec = HttpProbe {
            expect_body: Some(ready.to_owned()),
            ..get("/")
        };

        let outcome = send(spec, server.address, AMPLE).await;

        if found {
            assert_eq!(detail(&outcome), "GET / answered 200 with \"ready\"");
        } else {
            assert_eq!(
                reason(&outcome),
                "GET / answered 200, but the first 1 MiB of the body does not contain \"ready\""
            );
        }
    }
}

#[tokio::test]
async fn a_head_request_waits_for_no_body() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_vec();
    let mut server = Server::start(vec![head], Then::Hang).await;
    let spec = HttpProbe {
        method: String::from("HEAD"),
        ..get("/")
    };

    let outcome = send(spec, server.address, AMPLE).await;

    assert_eq!(detail(&outcome), "HEAD / answered 200");
    assert!(server.requests()[0].starts_with("HEAD / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn ipv6_works_and_brackets_the_host() {
    let address = Ipv6Addr::LOCALHOST.into();
    let mut server = Server::bind(address, None, answer("200 OK", ""), Then::Close).await;

    let outcome = send(get("/"), server.address, AMPLE).await;

    assert_eq!(detail(&outcome), "GET / answered 200");
    let host = format!("\r\nhost: [::1]:{}\r\n", server.address.port());
    assert!(server.requests()[0].contains(&host));
}

#[tokio::test]
async fn a_server_that_goes_silent_is_down_or_offline() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nTok".to_vec();
    for (pieces, text) in [
        (vec![], "(the connection opens, GET / is not answered)"),
        (
            vec![b"HTTP/1.1 200 OK\r\nContent-".to_vec()],
            "(the connection opens, GET / is not answered)",
        ),
        (vec![half], "(the answer to GET / does not end)"),
    ] {
        let server = Server::start(pieces, Then::Hang).await;
        let spec = HttpProbe {
            expect_body: Some(String::from("Token")),
            ..get("/")
        };

        let outcome = send(spec, server.address, SHORT).await;

        assert_eq!(
            reason(&outcome),
            format!("no answer within 150ms: down or offline {text}")
        );
    }
}

#[tokio::test]
async fn a_connection_that_breaks_says_when() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nTok".to_vec();
    for (pieces, then, text) in [
        (
            vec![],
            Then::Close,
            "connection closed before GET / was answered",
        ),
        (
            vec![],
            Then::Reset,
            "connection reset before GET / was answered",
        ),
        (
            vec![half.clone()],
            Then::Close,
            "connection closed inside the answer to GET /",
        ),
    ] {
        let server = Server::start(pieces, then.clone()).await;
        let spec = HttpProbe {
            expect_body: Some(String::from("Token")),
            ..get("/")
        };

        let outcome = send(spec, server.address, AMPLE).await;

        assert_eq!(reason(&outcome), text, "{then:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_says_so() {
    for garbage in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"<html>hello</html>\r\n\r\n",
        &[0xff; 4096],
    ] {
        let server = Server::start(vec![garbage.to_vec()], Then::Close).await;

        let text = reason(&send(get("/"), server.address, AMPLE).await);

        assert!(
            text.starts_with("the answer is not HTTP ("),
            "{garbage:?}: {text}"
        );
    }
}

#[tokio::test]
async fn an_endless_head_is_cut_off() {
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    for number in 0..20_000 {
        head.extend_from_slice(format!("x-{number}: {}\r\n", "y".repeat(90)).as_bytes());
    }
    let server = Server::start(vec![head], Then::Hang).await;

    let text = reason(&send(get("/"), server.address, AMPLE).await);

    assert!(text.starts_with("the answer is not HTTP ("), "{text}");
}

#[tokio::test]
async fn what_cannot_be_sent_is_named() {
    let server = Server::start(answer("200 OK", ""), Then::Close).await;
    for (spec, text) in [
        (
            get("/a b"),
            "the check cannot be sent: \"/a b\" is not a valid path; correct it",
        ),
        (
            HttpProbe {
                method: String::from("GE T"),
                ..get("/")
            },
            "the check cannot be sent: \"GE T\" is not a valid method; correct it",
        ),
        (
            HttpProbe {
                host: Some(String::from("a\nb")),
                ..get("/")
            },
            "the check cannot be sent: \"a\\nb\" is not a valid host; correct it",
        ),
    ] {
        assert_eq!(reason(&send(spec, server.address, AMPLE).await), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a server sends, a probe ends with a verdict, in one line that can be logged.
    #[test]
    fn no_answer_makes_a_probe_panic(
        start in prop_oneof![
            Just(""), Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.1 200 OK\r\nContent-Length: "),
            Just("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Just("HTTP/1.1 303 See\r\nLocation: "), Just("HTTP/1.1 100 Continue\r\n\r\n"),
            Just("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        ],
        noise in prop_oneof![
            "[0-9a-fA-F;:\\r\\n -]{0,60}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..120),
        ],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let text = runtime.block_on(async {
            let bytes = [start.as_bytes(), &noise].concat();
            let server = Server::start(vec![bytes], Then::Close).await;
            let spec = HttpProbe { expect_body: Some(String::from("ready")), ..get("/") };
            send(spec, server.address, AMPLE).await.to_string()
        });

        prop_assert!(!text.is_empty() && !text.contains(char::is_control), "{:?}", text);
        prop_assert!(!text.starts_with("no answer"), "{:?}", text);
    }
}

fn answer(status: &str, body: &str) -> Vec<Vec<u8>> {
    let length = body.len();
    vec![
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n").into_bytes(),
        body.as_bytes().to_vec(),
    ]
}

async fn send(spec: HttpProbe, address: SocketAddr, timeout: Duration) -> ProbeOutcome {
    probe(&check(ProbeSpec::Http(spec), timeout), &target(address)).await
}
