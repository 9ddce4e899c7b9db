//! The laboratory's parts for the web, without a balancer between them: what they are built to show
//! would otherwise be believed.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Host, Lab,
    authority::Authority,
    curl::Curl,
    eventually::eventually,
    gate::Gate,
    kerberos::{Kerberos, PORTAL},
    origin::{Origin, Response, filling, sign_on},
    raw::{Raw, RawAnswer},
    stream::End,
    websocket::{self, Frame},
};

const BOUND: Duration = Duration::from_secs(5);

const NAME: &str = "portal.lab.example";

const CRLF_GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn https(host: &Host) -> SocketAddr {
    SocketAddr::new(host.v4().into(), 443)
}

fn http(host: &Host) -> SocketAddr {
    SocketAddr::new(host.v4().into(), 80)
}

#[test]
fn curl_sees_what_an_https_origin_answers_and_trusts_the_authority_alone() {
    let lab = Lab::one_arm().build();
    let authority = Authority::new(lab.directory(), "ca");
    let certificate = authority.certificate(&[NAME]);
    let origin = Origin::on(lab.gateway(1), 443).tls(&certificate).start();
    let server = https(lab.gateway(1));
    let curl = || {
        Curl::on(&lab, lab.client(1))
            .resolve(NAME, server)
            .trust(&authority.file())
    };
    let url = |path: &str| format!("https://{NAME}{path}");

    let answers = curl()
        .http2()
        .header("X-Forwarded-For: 10.1.2.3")
        .get(&url("/a?b=c"))
        .post(&url("/echo"), "hello")
        .get(&url("/chunked/100000"))
        .get(&url("/status/503"))
        .run();

    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(answer.exit_code, 0, "{answer:?}");
        assert_eq!(answer.http_version, "1.1");
        assert_eq!(answer.connections, u64::from(number == 0), "{answer:?}");
    }
    let identity = answers[0].json();
    assert_eq!(identity["backend"], "gateway1");
    assert_eq!(identity["client"], "10.1.2.3");
    assert_eq!(identity["path"], "/a?b=c");
    assert_eq!(identity["host"], NAME);
    assert_eq!(identity["server_name"], NAME);
    assert_eq!(answers[1].text(), "hello");
    assert_eq!(answers[2].body, filling(100_000));
    assert_eq!(answers[3].status, 503);
    assert_eq!(origin.accepted(), 1);
    assert!(origin.faults().is_empty(), "{:?}", origin.faults());
    assert_eq!(origin.records()[1].body, b"hello");
    assert!(
        origin.records()[0]
            .text()
            .starts_with("GET /a?b=c HTTP/1.1\r\nHost: ")
    );

    let other = Authority::new(lab.directory(), "other");
    let refused = Curl::on(&lab, lab.client(1))
        .resolve(NAME, server)
        .trust(&other.file())
        .get(&url("/"))
        .one();
    assert_eq!((refused.status, refused.exit_code), (0, 60), "{refused:?}");
    eventually(BOUND, "the origin counts the handshake", || {
        origin.failed_handshakes().0 == 1
    });
}

#[test]
fn an_origin_shows_the_exact_bytes_and_refuses_what_has_two_meanings() {
    let lab = Lab::one_arm().build();
    let origin = Origin::on(lab.gateway(1), 80).start();
    let mut client = Raw::tcp(lab.client(1), http(lab.gateway(1))).expect("a connection");
    let head = "POST /x HTTP/1.1\r\nHOST:a\r\nTransfer-encoding: chunked\r\n\r\n";
    let body = "3;x=y\r\nabc\r\n0\r\nTrailer: t\r\n\r\n";

    let answer = client
        .ask("POST", format!("{head}{body}"))
        .expect("an answer");

    assert_eq!(answer.json()["body_length"], 3);
    let record = origin.await_record("the request", |_| true);
    assert_eq!(record.text(), head);
    assert_eq!(record.body, b"abc");
    assert_eq!(record.raw_body, body.as_bytes());
    assert_eq!(record.peer, client.local());
    assert!(record.complete);

    let smuggled = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\
                    Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = client.ask("POST", smuggled).expect("an answer");
    assert_eq!(answer.status, 400);
    assert_eq!(origin.faults().len(), 1, "{:?}", origin.faults());
}

#[test]
fn a_test_decides_when_and_what_an_origin_answers() {
    let lab = Lab::one_arm().build();
    let origin = Origin::on(lab.gateway(1), 80).start();
    let gate = Gate::new();
    origin.answer({
        let gate = gate.clone();
        move |request| match request.path().as_str() {
            "/hang" => Some(Response::identity().after(&gate)),
            "/half" => Some(Response::status(200).body("late").body_after(&gate)),
            "/early" => Some(Response::status(413).early().end(End::Close)),
            "/late" => Some(Response::status(200).delay(Duration::from_millis(200))),
            "/verbatim" => Some(Response::verbatim(
                "HTTP/1.1 200\r\nContent-Length: 1, 1\r\n\r\nx",
            )),
            "/reset" => Some(Response::none(End::Reset)),
            "/fin" => Some(Response::none(End::Fin)),
            _ => None,
        }
    });
    let connect = || Raw::tcp(lab.client(1), http(lab.gateway(1))).expect("a connection");

    let (mut hanging, mut half) = (connect(), connect());
    hanging
        .send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("sent");
    half.send("GET /half HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("sent");
    assert_eq!(half.answer_head().expect("a head").0, 200);
    origin.await_record("the request that hangs", |record| record.path() == "/hang");
    hanging.set_bound(Duration::from_millis(300));
    assert!(hanging.answer_head().is_err(), "nothing is answered yet");
    hanging.set_bound(BOUND);
    gate.open();
    assert_eq!(hanging.answer("GET").expect("an answer").status, 200);
    assert_eq!(half.read_exactly(4).expect("the body"), b"late");

    let mut client = connect();
    let start = Instant::now();
    assert_eq!(client.get("a", "/late", "").expect("an answer").status, 200);
    assert!(start.elapsed() >= Duration::from_millis(200));
    client
        .send("GET /verbatim HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("sent");
    let exact = b"HTTP/1.1 200\r\nContent-Length: 1, 1\r\n\r\nx";
    assert_eq!(client.read_exactly(exact.len()).expect("bytes"), exact);
    let answer = client
        .ask(
            "POST",
            "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
        )
        .expect("an answer before the body");
    assert_eq!(answer.status, 413);
    assert_eq!(client.await_end(BOUND).expect("an end"), End::Close);

    for (path, end) in [("/reset", End::Reset), ("/fin", End::Close)] {
        let mut client = connect();
        client
            .send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .expect("sent");
        assert_eq!(client.await_end(BOUND).expect("an end"), end);
    }
}

#[test]
fn an_origin_ends_its_connections_as_it_is_told_and_comes_back() {
    let lab = Lab::one_arm().build();
    let authority = Authority::new(lab.directory(), "ca");
    let certificate = authority.certificate(&[NAME]);
    let mut origin = Origin::on(lab.gateway(1), 443).tls(&certificate).start();
    let settings = authority.client(&[]);
    let connect = || Raw::tcp(lab.client(1), https(lab.gateway(1)))?.tls(&settings, NAME);

    for end in [End::Close, End::Fin, End::Reset] {
        let mut client = connect().expect("a connection");
        assert_eq!(client.ask("GET", CRLF_GET).expect("an answer").status, 200);
        let mut busy = connect().expect("a connection");
        busy.send("GET /bytes/100000000 HTTP/1.1\r\nHost: a\r\n\r\n")
            .expect("sent");
        origin.await_record("the long answer", |record| {
            record.path().starts_with("/bytes")
        });
        assert_eq!(origin.open_connections(), 2);

        origin.stop(end);

        assert_eq!(client.await_end(BOUND).expect("an end"), end);
        assert_eq!(origin.open_connections(), 0);
        assert!(connect().is_err(), "the port is closed");
        origin.forget();
        origin.resume();
    }
    let mut client = connect().expect("a connection");
    assert_eq!(client.ask("GET", CRLF_GET).expect("an answer").status, 200);
    assert!(client.agreed().expect("TLS").resumed);
}

#[test]
fn an_echo_and_events_stream_and_a_websocket_is_a_tunnel() {
    let lab = Lab::one_arm().build();
    let origin = Origin::on(lab.gateway(1), 80).start();
    let connect = || Raw::tcp(lab.client(1), http(lab.gateway(1))).expect("a connection");

    let mut client = connect();
    client
        .send("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n")
        .expect("sent");
    assert_eq!(client.answer_head().expect("an interim answer").0, 100);
    assert_eq!(client.answer_head().expect("the head").0, 200);
    for half in ["abc", "def"] {
        client.send(half).expect("sent");
        assert_eq!(client.read_exactly(3).expect("an echo"), half.as_bytes());
    }

    let mut reader = connect();
    reader
        .send("GET /sse HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("sent");
    assert_eq!(reader.answer_head().expect("a head").0, 200);
    eventually(BOUND, "somebody reads events", || {
        origin.event_readers() == 1
    });
    for event in ["one", "two"] {
        origin.send_event(event);
        let expected = format!("b\r\ndata: {event}\n\n\r\n");
        let read = reader.read_exactly(expected.len()).expect("an event");
        assert_eq!(String::from_utf8_lossy(&read), expected);
    }
    origin.end_events();
    assert_eq!(reader.read_exactly(5).expect("the end"), b"0\r\n\r\n");
    let mut gone = connect();
    gone.send("GET /sse HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("sent");
    eventually(BOUND, "somebody reads events", || {
        origin.event_readers() == 1
    });
    gone.end(End::Close);
    eventually(BOUND, "nobody reads events", || origin.event_readers() == 0);

    let mut client = connect();
    client
        .send(
            "GET /websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .expect("sent");
    let (status, head) = client.answer_head().expect("an answer");
    assert_eq!(status, 101);
    assert!(String::from_utf8_lossy(&head).contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let frame = Frame::text("hello");
    frame
        .write(client.wire(), Some([1, 2, 3, 4]))
        .expect("sent");
    assert_eq!(Frame::read(client.wire()).expect("a frame"), frame);
    let close = Frame {
        last: true,
        opcode: websocket::CLOSE,
        payload: Vec::new(),
    };
    close
        .write(client.wire(), Some([1, 2, 3, 4]))
        .expect("sent");
    assert_eq!(Frame::read(client.wire()).expect("a frame"), close);
    assert_eq!(client.await_end(BOUND).expect("an end"), End::Close);
}

#[test]
fn a_sign_on_belongs_to_its_connection() {
    let lab = Lab::one_arm().build();
    let origin = Origin::on(lab.gateway(1), 80).sign_on("Negotiate").start();
    let connect = || Raw::tcp(lab.client(1), http(lab.gateway(1))).expect("a connection");
    let user = |answer: &RawAnswer| answer.header("x-user").map(str::to_owned);
    let authorization = |value: &str| format!("Authorization: {value}\r\n");
    let (mut ann, mut bob) = (connect(), connect());

    let answer = ann.get("a", "/", "").expect("an answer");
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("www-authenticate"), Some("Negotiate"));
    assert_eq!(
        ann.get("a", "/healthcheck", "").expect("public").status,
        200
    );

    // A ticket of 48 kB in one leg.
    let token = authorization(&sign_on::token("Negotiate", "ann", 36_000));
    assert!(token.len() > 48_000);
    let answer = ann.get("a", "/", &token).expect("an answer");
    assert_eq!(
        (answer.status, user(&answer)),
        (200, Some("ann".to_owned()))
    );

    let leg = authorization(&sign_on::first_leg("Negotiate", "bob", 100));
    let answer = bob.get("a", "/", &leg).expect("an answer");
    assert_eq!(answer.status, 401);
    let challenge = answer.header("www-authenticate").expect("a challenge");
    let leg = sign_on::answer(challenge, "bob", 100).expect("a challenge");
    let answer = bob.get("a", "/", &authorization(&leg)).expect("an answer");
    assert_eq!(
        (answer.status, user(&answer)),
        (200, Some("bob".to_owned()))
    );

    let start = Instant::now();
    for _ in 0..1000 {
        for (client, name) in [(&mut ann, "ann"), (&mut bob, "bob")] {
            let answer = client.get("a", "/", "").expect("an answer");
            assert_eq!((answer.status, user(&answer).as_deref()), (200, Some(name)));
        }
    }
    println!("2000 requests in {:?}", start.elapsed());
    assert_eq!(origin.received(), 2005);
    assert_eq!(connect().get("a", "/", "").expect("an answer").status, 401);
}

#[test]
fn users_sign_on_by_kerberos_and_each_connection_is_its_users() {
    let lab = Lab::one_arm().build();
    let authority = Authority::new(lab.directory(), "ca");
    let backends = [lab.gateway(1), lab.gateway(2)];
    let mut site = Kerberos::start(&lab, &authority, lab.router(), 5, &backends);
    let url = format!("https://{PORTAL}/");
    let curl = |server: SocketAddr| {
        Curl::on(&lab, lab.client(1))
            .resolve(PORTAL, server)
            .trust(&authority.file())
    };
    let negotiate = |server: SocketAddr, environment: &[(String, String)]| {
        curl(server)
            .options(&["--negotiate", "--user", ":"])
            .environment(environment)
    };

    let refused = curl(site.apache(1)).get(&url).one();
    assert_eq!((refused.status, refused.header("x-user")), (401, None));
    assert_eq!(refused.header("www-authenticate"), Some("Negotiate"));
    let health = curl(site.apache(1)).get(&format!("{url}healthcheck")).one();
    assert_eq!(health.status, 404, "nobody signs on for this page");

    for user in 1..=5 {
        let mut command = negotiate(site.apache(1), &site.user(user));
        for _ in 0..20 {
            command = command.get(&url);
        }
        for answer in command.run() {
            assert_eq!(answer.status, 200, "{answer:?}; {}", site.log(1));
            assert_eq!(answer.header("x-user"), Some(site.name(user).as_str()));
        }
    }

    // The second request brings no token, and is the user's for the connection alone.
    let answers = curl(site.apache(2))
        .environment(&site.user(3))
        .transfer(&["--negotiate", "--user", ":", &url])
        .transfer(&[&url])
        .run();
    assert_eq!((answers[0].status, answers[1].status), (200, 200));
    assert_eq!((answers[0].connections, answers[1].connections), (1, 0));
    assert_eq!(answers[1].header("x-user"), Some(site.name(3).as_str()));
    assert_eq!(answers[1].header("x-backend"), Some("gateway2"));
    assert_eq!(
        answers[0].header("x-connection"),
        answers[1].header("x-connection")
    );

    let large = negotiate(site.apache(1), &site.large_user())
        .get(&url)
        .one();
    assert_eq!(large.status, 200, "{large:?}; {}", site.log(1));
    assert_eq!(large.header("x-user"), Some(site.large_name().as_str()));
    let sent = large.report["size_request"].as_u64().unwrap_or_default();
    assert!(sent > 48_000, "{sent}");

    site.restart(1);
    let again = negotiate(site.apache(1), &site.user(1)).get(&url).one();
    assert_eq!(again.header("x-user"), Some(site.name(1).as_str()));
}
