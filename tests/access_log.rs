//! The access log: whatever fails has a line that says whose fault it was, and a count that agrees.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, HealthPage, Lab,
    access_log::AccessLog,
    configuration::{HEALTH, HEALTH_PORT, backend},
    eventually::eventually,
    gate::Gate,
    http2,
    origin::Response,
    proxied::Proxied,
    raw::Raw,
    site::vip,
    stream::End,
    tcp_server::{EchoClient, TcpServer, connect, end_of},
    web_site::{PORTAL, SERVICE, WebSite},
};

const BOUND: Duration = Duration::from_secs(10);
const THROUGH: &str = "through";
const REDIRECT: &str = "to-https";

/// Short enough to wait for.
const TIMEOUTS: &str = r#"timeouts = { handshake = "700ms", header = "800ms" }"#;

fn service(name: &str, vip: SocketAddr, forwarding: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = {}\nprotocol = \"tcp\"\n\
         forwarding = \"{forwarding}\"\n{more}\n",
        vip.ip(),
        vip.port()
    )
}

#[test]
fn what_fails_before_a_request_is_told_and_counted_once() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let log = AccessLog::of(&lab);
    let more = format!("{TIMEOUTS}\nlimits = {{ headers = 20 }}");
    let daemon = Daemon::start(&lab, &log.configured(site.configuration_with(&lab, &more)));
    let host = lab.client(1);
    let request = |headers: &str| format!("GET / HTTP/1.1\r\nHost: {PORTAL}\r\n{headers}\r\n");
    let expect = |client: SocketAddr, failure: (&str, &str, Option<u64>)| {
        let line = log.await_line_of(client);
        assert_eq!(line.failure(), failure, "{line:?}");
        assert_eq!(line.text("service"), Some(SERVICE));
        assert_eq!(line.text("kind"), Some("http"));
        assert!(line.number("total_us").is_some(), "{line:?}");
        line
    };

    let mut plain = Raw::tcp(host, vip(443)).expect("a connection");
    plain.send(request("")).expect("sent");
    plain.await_end(BOUND).expect("an end");
    expect(plain.local(), ("client", "handshake_failed", None));

    let mut mute = Raw::tcp(host, vip(443)).expect("a connection");
    mute.await_end(BOUND).expect("an end");
    let line = expect(mute.local(), ("client", "handshake_timeout", None));
    assert!(line.number("total_us") >= Some(700_000), "{line:?}");

    let mut silent = site.raw(host);
    silent.await_end(BOUND).expect("an end");
    let line = expect(silent.local(), ("client", "header_timeout", None));
    assert!(line.number("total_us") >= Some(800_000), "{line:?}");
    assert_eq!(line.text("sni"), Some(PORTAL));
    assert_eq!(line.text("tls_version"), Some("1.3"));
    assert!(line.number("handshake_us").is_some(), "{line:?}");

    for (sent, failure, status) in [
        (request("X: a\r\n b\r\n"), "bad_request", 400),
        (request(&"X: y\r\n".repeat(30)), "header_too_large", 431),
        (
            request(&format!("X: {}\r\n", "x".repeat(80_000))),
            "header_too_large",
            431,
        ),
        (
            format!(
                "GET /{} HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n",
                "x".repeat(65_600)
            ),
            "target_too_long",
            414,
        ),
    ] {
        let mut client = site.raw(host);
        let answer = client.ask("GET", sent).expect("an answer");
        assert_eq!(u64::from(answer.status), status, "{failure}");
        client.await_end(BOUND).expect("an end");
        expect(client.local(), ("client", failure, Some(status)));
    }

    let mut http2_unasked = site.raw(host);
    http2_unasked.send(http2::PREFACE).expect("sent");
    http2_unasked.await_end(BOUND).expect("an end");
    expect(http2_unasked.local(), ("client", "bad_request", None));

    for end in [End::Close, End::Fin] {
        let mut leaves = site.raw(host);
        let local = leaves.local();
        leaves.send("GET / HTTP/1.1\r\nHo").expect("sent");
        leaves.end(end);
        expect(local, ("client", "client_closed", None));
    }

    let proxied = Proxied::of(&daemon, SERVICE);
    assert_eq!(proxied.count("requests"), 4, "those that were answered");
    log.assert_agrees(&daemon, &[SERVICE]);

    let mut lines = site.http2(host);
    for (name, status) in [("x", 431), ("cookie", 200)] {
        let mut fields = http2::usual("GET", PORTAL, "/lines");
        fields.extend([(name, "a=b"); 30]);
        let stream = if status == 431 { 1 } else { 3 };
        let flags = http2::END_STREAM | http2::END_HEADERS;
        let head = http2::frame(http2::kind::HEADERS, flags, stream, &http2::block(&fields));
        lines.send(head).expect("sent");
        assert_eq!(
            lines.answer(stream).expect("an answer").status,
            Some(status)
        );
    }
    log.assert_agrees(&daemon, &[SERVICE]);
    drop(lines);

    // Who comes and goes without a word has done nothing wrong.
    let quiet = site.raw(host);
    quiet.end(End::Close);
    let mut served = site.raw(host);
    served.get(PORTAL, "/", "").expect("an answer");
    let local = served.local();
    served.end(End::Reset);
    assert_eq!(log.await_line_of(local).failure(), ("", "", Some(200)));
    eventually(BOUND, "all have gone", || {
        Proxied::of(&daemon, SERVICE).count("connections_open") == 0
    });
    log.assert_agrees(&daemon, &[SERVICE]);
    assert_eq!(log.lines().len(), 13, "{:#?}", log.lines());
}

#[test]
fn who_is_not_let_in_is_told_and_counted_once_by_every_kind_of_service() {
    let lab = Lab::one_arm().gateways(1).clients(2).build();
    let site = WebSite::start(&lab);
    let _page = HealthPage::start(lab.gateway(1), HEALTH_PORT);
    let _echo = TcpServer::echo(lab.gateway(1), 8443);
    let log = AccessLog::of(&lab);
    let limits = "limits = { connections = 2, per_source = 1 }";
    let more = format!(
        "{limits}\nproxy_protocol = {{ accept_from = [\"{}/32\"] }}",
        lab.client(2).v4()
    );
    let through = format!("pool = \"through\"\n{more}");
    let configuration = site
        .configuration_with(&lab, &more)
        .pool(
            "through",
            &[backend(lab.gateway(1)).replace(" }", ", port = 8443 }")],
            HEALTH,
        )
        .text(&service(THROUGH, vip(8443), "tcp", &through))
        .text(&service(REDIRECT, vip(80), "redirect", limits));
    let daemon = Daemon::start(&lab, &log.configured(configuration));
    let ends = |host, port| {
        let mut stream = connect(host, None, vip(port)).expect("the kernel accepts");
        assert_eq!(end_of(&mut stream).expect("an end"), b"");
        stream.local_addr().expect("an address")
    };
    for (name, kind, port) in [
        (SERVICE, "http", 443),
        (THROUGH, "tcp", 8443),
        (REDIRECT, "redirect", 80),
    ] {
        let expect = |client: SocketAddr, side: &str, reason: &str| {
            let line = log.await_line_of(client);
            assert_eq!(line.failure(), (side, reason, None), "{line:?}");
            assert_eq!(line.text("service"), Some(name));
            assert_eq!(line.text("kind"), Some(kind));
        };
        let open = || Proxied::of(&daemon, name).count("connections_open");
        let held = Raw::tcp(lab.client(1), vip(port)).expect("a connection");
        eventually(BOUND, "it is let in", || open() == 1);
        expect(ends(lab.client(1), port), "client", "too_many_per_source");

        let mut other = connect(lab.client(2), None, vip(port)).expect("a connection");
        if kind != "redirect" {
            other.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
            end_of(&mut other).expect("an end");
            let local = other.local_addr().expect("an address");
            expect(local, "client", "proxy_header");
            // Another client by the word of a peer that is trusted.
            other = connect(lab.client(2), None, vip(port)).expect("a connection");
            let named = b"PROXY TCP4 192.0.2.7 10.0.0.1 4000 443\r\n";
            other.write_all(named).expect("sent");
        }
        eventually(BOUND, "it is let in", || open() == 2);
        expect(ends(lab.client(1), port), "us", "too_many_connections");
        drop((held, other));
        eventually(BOUND, "they have gone", || open() == 0);

        let prefix = lab.client(1).v4().to_string();
        daemon.cli(&["block", &prefix, "--service", name]).ok();
        expect(ends(lab.client(1), port), "client", "refused");
    }
    log.assert_agrees(&daemon, &[SERVICE, THROUGH, REDIRECT]);
}

#[test]
fn who_is_sent_away_is_told_once_with_what_it_was_doing() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let _page = HealthPage::start(lab.gateway(1), HEALTH_PORT);
    let _echo = TcpServer::echo(lab.gateway(1), 8443);
    let log = AccessLog::of(&lab);
    let configuration = site
        .configuration(&lab)
        .pool(
            "through",
            &[backend(lab.gateway(1)).replace(" }", ", port = 8443 }")],
            HEALTH,
        )
        .text(&service(THROUGH, vip(8443), "tcp", "pool = \"through\""))
        .text(&service(REDIRECT, vip(80), "redirect", ""));
    let daemon = Daemon::start(&lab, &log.configured(configuration));
    let never = Gate::new();
    {
        let never = never.clone();
        site.origins[0].answer(move |request| {
            (request.path() == "/long").then(|| Response::status(200).after(&never))
        });
    }
    let host = lab.client(1);
    let mut idle = site.raw(host);
    idle.get(PORTAL, "/", "").expect("an answer");
    let mut busy = site.raw(host);
    busy.send(format!("GET /long HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"))
        .expect("sent");
    let mut both = site.http2(host);
    for stream in [1, 3] {
        both.send(http2::get(stream, PORTAL, "/long"))
            .expect("sent");
    }
    let mut echo = EchoClient::connect(host, None, vip(8443)).expect("an echo");
    let mut kept = Raw::tcp(host, vip(80)).expect("a connection");
    assert_eq!(kept.get(PORTAL, "/", "").expect("an answer").status, 301);
    eventually(BOUND, "the backend has three requests", || {
        site.origins[0].open_connections() >= 3
            && Proxied::of(&daemon, SERVICE).count("requests") == 4
    });

    daemon.cli(&["block", &host.v4().to_string()]).ok();

    for client in [&mut idle, &mut busy, both.raw(), &mut kept] {
        client.await_end(BOUND).expect("an end");
    }
    end_of(&mut echo.stream).expect("an end");
    let refused = |local: SocketAddr| {
        let local = local.to_string();
        let mut targets: Vec<String> = log
            .lines()
            .iter()
            .filter(|line| line.text("client") == Some(&local))
            .filter(|line| line.failure().1 == "refused")
            .map(|line| line.text("target").unwrap_or("none").to_owned())
            .collect();
        targets.sort();
        targets
    };
    let echo = echo.stream.local_addr().expect("an address");
    for (local, targets) in [
        (idle.local(), &["none"][..]),
        (busy.local(), &["/long"]),
        (both.raw().local(), &["/long", "/long"]),
        (kept.local(), &["none"]),
        (echo, &["none"]),
    ] {
        eventually(BOUND, &format!("{targets:?} of {local}"), || {
            refused(local) == targets
        });
    }
    log.assert_agrees(&daemon, &[SERVICE, THROUGH, REDIRECT]);
    assert_eq!(Proxied::of(&daemon, SERVICE).failed("refused"), 4);
    assert_eq!(Proxied::of(&daemon, SERVICE).failed("client_closed"), 0);
}

#[test]
fn a_redirect_tells_what_it_refuses_and_who_is_late() {
    let lab = Lab::one_arm().gateways(1).build();
    let log = AccessLog::of(&lab);
    let configuration =
        Configuration::new().text(&service(REDIRECT, vip(80), "redirect", TIMEOUTS));
    let daemon = Daemon::start(&lab, &log.configured(configuration));
    let connect = || Raw::tcp(lab.client(1), vip(80)).expect("a connection");
    for (sent, failure, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "bad_request", 400),
        ("GET /\r\n\r\n".to_owned(), "bad_request", 400),
        (
            format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000)),
            "header_too_large",
            431,
        ),
    ] {
        let mut client = connect();
        let answer = client.ask("GET", sent).expect("an answer");
        assert_eq!(u64::from(answer.status), status);
        client.await_end(BOUND).expect("an end");
        let line = log.await_line_of(client.local());
        assert_eq!(line.failure(), ("client", failure, Some(status)));
        assert_eq!(line.text("kind"), Some("redirect"));
    }
    let mut silent = connect();
    silent.await_end(BOUND).expect("an end");
    let line = log.await_line_of(silent.local());
    assert_eq!(line.failure(), ("client", "header_timeout", None));
    log.assert_agrees(&daemon, &[REDIRECT]);
}
