//! HTTPS services that are changed, and daemons that are stopped, under traffic.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Configuration, Daemon, Host, Lab,
    configuration::backend,
    eventually::{always, eventually, eventually_some},
    gate::Gate,
    nginx::Certificate,
    origin::Response,
    proxied::Proxied,
    raw::Raw,
    site::{campus_v4, vip},
    stream::Stream,
    tcp_server::{EchoClient, TcpServer, connect},
    web_site::{HEALTH, POOL, PORTAL, SERVICE, WebSite, url},
    websocket::Frame,
};

const BOUND: Duration = Duration::from_secs(10);
/// A certificate's file is looked at every 5 seconds.
const SEEN: Duration = Duration::from_secs(12);

/// Returns the certificate that a new client is shown.
fn shown(site: &WebSite, host: &Host) -> Vec<u8> {
    let mut client = site.raw(host);
    match client.wire().stream() {
        Stream::Client(stream) => {
            let chain = stream.conn.peer_certificates().expect("certificates");
            chain[0].as_ref().to_vec()
        }
        Stream::Plain(_) | Stream::Server(_) => panic!("TLS was asked for"),
    }
}

fn der(certificate: &Certificate) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    CertificateDer::from_pem_file(&certificate.certificate)
        .expect("PEM")
        .as_ref()
        .to_vec()
}

fn websocket(site: &WebSite, host: &Host, source: SocketAddr) -> Raw {
    let mut client = Raw::tcp_from(host, source, vip(443))
        .and_then(|client| client.tls(&site.client(&["http/1.1"]), PORTAL))
        .expect("a connection to the portal");
    client
        .send(format!(
            "GET /websocket HTTP/1.1\r\nHost: {PORTAL}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ))
        .expect("sent");
    let (status, _) = client.answer_head().expect("an answer");
    assert_eq!(status, 101);
    client
}

fn echo(client: &mut Raw, text: &str) -> std::io::Result<()> {
    Frame::text(text).write(client.wire(), Some([1, 2, 3, 4]))?;
    let echo = Frame::read(client.wire())?;
    assert_eq!(echo.payload, text.as_bytes());
    Ok(())
}

fn tcp_service(name: &str, vip: SocketAddr, more: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = {}\nprotocol = \"tcp\"\n\
         forwarding = \"tcp\"\npool = \"{POOL}\"\n{more}\n",
        vip.ip(),
        vip.port()
    )
}

#[test]
fn a_hundred_reloads_and_new_certificates_under_load_break_nothing() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let site = WebSite::start(&lab);
    let _echoes: Vec<TcpServer> = lab
        .gateways()
        .iter()
        .map(|host| TcpServer::echo(host, 7))
        .collect();
    let through = tcp_service("through", vip(7), "");
    let base = site.configuration(&lab).text(&through);
    let daemon = Daemon::start(&lab, &base);
    let (over, requests, echoes) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));

    thread::scope(|scope| {
        for number in 1..=4 {
            let (lab, site, over, requests, echoes) = (&lab, &site, &over, &requests, &echoes);
            scope.spawn(move || {
                let settings = site.client(&["http/1.1"]);
                let mut kept = Raw::tcp_from(lab.campus(), campus_v4(number), vip(443))
                    .and_then(|client| client.tls(&settings, PORTAL))
                    .expect("a connection");
                while !over.load(Ordering::Relaxed) {
                    let answer = kept.get(PORTAL, "/bytes/20000", "").expect("an answer");
                    assert_eq!((answer.status, answer.body.len()), (200, 20_000));
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
            scope.spawn(move || {
                let mut client = websocket(site, lab.campus(), campus_v4(number + 10));
                while !over.load(Ordering::Relaxed) {
                    echo(&mut client, "still here").expect("an echo");
                    echoes.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(5));
                }
                client.finish().expect("a tidy end");
                client.await_end(BOUND).expect("an end");
            });
            scope.spawn(move || {
                let source = Some(campus_v4(number + 20));
                let client = EchoClient::connect(lab.campus(), source, vip(7));
                let mut client = client.expect("an echo");
                while !over.load(Ordering::Relaxed) {
                    client.echo(&[9; 3000]).expect("an echo");
                    echoes.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(5));
                }
            });
            scope.spawn(move || {
                // Short ones too: each meets whatever is in force.
                let settings = site.client(&["http/1.1"]);
                while !over.load(Ordering::Relaxed) {
                    let source = campus_v4(number + 30);
                    let answer = Raw::tcp_from(lab.campus(), source, vip(443))
                        .and_then(|client| client.tls(&settings, PORTAL))
                        .and_then(|mut client| client.get(PORTAL, "/", ""))
                        .expect("an answer");
                    assert_eq!(answer.status, 200);
                }
            });
        }
        for round in 0..100 {
            let before = (
                requests.load(Ordering::Relaxed),
                echoes.load(Ordering::Relaxed),
            );
            if round % 10 == 0 {
                site.certificate
                    .replace_by(&site.authority.certificate(&[PORTAL]));
            }
            let changed = match round % 4 {
                0 => base
                    .clone()
                    .text(&tcp_service("another", vip(8), "backend_port = 7")),
                1 => site
                    .configuration_with(&lab, "timeouts = { body = \"50s\" }\nhsts = \"1d\"")
                    .text(&through),
                2 => site
                    .configuration_with(&lab, &format!("tls = {}", site.tls("http2 = false")))
                    .text(&through),
                _ => base.clone(),
            };
            daemon.reload(&changed);
            eventually(BOUND, "traffic goes on", || {
                requests.load(Ordering::Relaxed) > before.0
                    && echoes.load(Ordering::Relaxed) > before.1
            });
        }
        over.store(true, Ordering::Relaxed);
    });

    assert_eq!(daemon.status().generation(), 101);
    for service in [SERVICE, "through"] {
        assert_eq!(Proxied::of(&daemon, service).failures(), [], "{service}");
    }
}

#[test]
fn an_open_connection_meets_the_backends_of_today() {
    let lab = Lab::one_arm().gateways(3).build();
    let site = WebSite::start(&lab);
    let with = |pool: &str, number: usize| {
        Configuration::new()
            .pool(pool, &[backend(lab.gateway(number))], HEALTH)
            .text(&site.service(SERVICE, vip(443), pool, ""))
    };
    let daemon = Daemon::start(&lab, &with(POOL, 1));
    let mut kept = site.raw(lab.client(1));
    let who = |kept: &mut Raw| {
        let answer = kept.get(PORTAL, "/", "").expect("an answer");
        match answer.status {
            200 => answer.json()["backend"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            _ => answer.status.to_string(),
        }
    };
    assert_eq!(who(&mut kept), "gateway1");

    for (pool, number) in [(POOL, 2), ("other", 3), ("third", 1)] {
        daemon.reload(&with(pool, number));
        let name = format!("gateway{number}");
        eventually(BOUND, &name, || who(&mut kept) == name);
        for _ in 0..20 {
            assert_eq!(who(&mut kept), name);
        }
    }
}

#[test]
fn a_certificate_is_served_once_its_file_has_changed_and_a_faulty_one_never() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let configuration = site.configuration(&lab);
    let daemon = Daemon::start(&lab, &configuration);
    let held = der(&site.certificate);
    assert!(shown(&site, lab.client(1)) == held);
    let mut kept = site.raw(lab.client(1));
    assert_eq!(kept.get(PORTAL, "/", "").expect("an answer").status, 200);

    // Without a word to the daemon.
    let second = site.authority.certificate(&[PORTAL]);
    site.certificate.replace_by(&second);
    eventually(SEEN, "the file's new certificate is shown", || {
        shown(&site, lab.client(1)) == der(&second)
    });
    // With a reload it need not wait for that.
    for _ in 0..4 {
        let next = site.authority.certificate(&[PORTAL]);
        site.certificate.replace_by(&next);
        daemon.reload(&configuration);
        eventually(
            Duration::from_secs(1),
            "the reload's certificate is shown",
            || shown(&site, lab.client(1)) == der(&next),
        );
    }
    let last = shown(&site, lab.client(1));

    fs::write(&site.certificate.certificate, "nothing of use").expect("written");
    let refused = daemon.cli(&["reload"]);
    assert_ne!(refused.code, Some(0), "{}", refused.text());
    eventually(SEEN, "the log says what stays in force", || {
        daemon
            .log()
            .contains("the former certificates stay in force")
    });
    assert!(shown(&site, lab.client(1)) == last);

    let good = site.authority.certificate(&[PORTAL]);
    site.certificate.replace_by(&good);
    eventually(SEEN, "a good one is shown again", || {
        shown(&site, lab.client(1)) == der(&good)
    });
    let answer = kept
        .get(PORTAL, "/", "")
        .expect("the first connection lives");
    assert_eq!(answer.status, 200);
}

#[test]
fn services_come_go_and_move_while_others_serve() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let _echo = TcpServer::echo(lab.gateway(1), 7);
    let base = site.configuration(&lab);
    let daemon = Daemon::start(&lab, &base);
    let mut kept = site.raw(lab.client(1));
    let through = |port| {
        base.clone()
            .text(&tcp_service("through", vip(port), "backend_port = 7"))
    };
    let serves = |port| EchoClient::connect(lab.client(1), None, vip(port)).is_ok();

    daemon.reload(&through(7));
    eventually(BOUND, "the new service serves", || serves(7));
    let mut tunnel = EchoClient::connect(lab.client(1), None, vip(7)).expect("an echo");
    daemon.reload(&through(8));
    eventually(BOUND, "it has moved", || serves(8) && !serves(7));
    tunnel.echo(b"of before").expect("what was open stays");
    assert!(Proxied::of(&daemon, "through").count("connections_open") >= 1);
    daemon.reload(&base);
    eventually(BOUND, "it is gone", || !serves(8));
    tunnel.echo(b"of long before").expect("what was open stays");

    let answer = kept.get(PORTAL, "/", "").expect("an answer");
    assert_eq!(answer.status, 200);
}

#[test]
fn a_port_that_somebody_else_has_is_said_and_tried_until_it_is_free() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let taken = lab
        .balancer()
        .net()
        .enter(|| TcpListener::bind(("0.0.0.0", 443)).expect("a port"));
    let daemon = Daemon::launch(&lab, &site.configuration(&lab));
    eventually(BOUND, "the log says it", || {
        let log = daemon.log();
        log.contains("ERROR cannot listen on 10.20.90.105:443")
    });
    eventually(BOUND, "a status", || daemon.try_status().is_ok());
    let closed = Proxied::of(&daemon, SERVICE).closed().map(str::to_owned);
    assert!(
        closed.is_some_and(|why| why.contains("cannot listen on 10.20.90.105:443")),
        "{}",
        daemon.cli(&["status"]).text()
    );

    drop(taken);

    eventually(SEEN, "the service is served", || {
        site.curl(&lab, lab.client(1)).get(&url("/")).one().status == 200
    });
    assert_eq!(Proxied::of(&daemon, SERVICE).closed(), None);
}

#[test]
fn an_access_log_that_is_moved_away_and_opened_again_loses_no_line() {
    const REQUESTS: usize = 3000;
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let log = lab.directory().join("access.log");
    let configuration = site
        .configuration(&lab)
        .log(&format!("access = \"{}\"", log.display()));
    let mut daemon = Daemon::start(&lab, &configuration);
    let lines = |path: &Path| -> Vec<String> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let mut moved = Vec::new();

    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut kept = site.raw(lab.client(1));
            for number in 0..REQUESTS {
                let answer = kept
                    .get(PORTAL, &format!("/n{number}"), "")
                    .expect("an answer");
                assert_eq!(answer.status, 200);
            }
        });
        while !asking.is_finished() {
            let away = log.with_extension(moved.len().to_string());
            fs::rename(&log, &away).expect("renamed");
            daemon.signal(libc::SIGUSR1);
            eventually(BOUND, "a new file", || log.exists());
            moved.push(away);
            eventually(BOUND, "lines in the new file", || {
                asking.is_finished() || lines(&log).len() >= REQUESTS / 20
            });
        }
    });

    moved.push(log);
    eventually(BOUND, "every line", || {
        moved.iter().map(|path| lines(path).len()).sum::<usize>() >= REQUESTS
    });
    let all: Vec<String> = moved.iter().flat_map(|path| lines(path)).collect();
    assert_eq!(all.len(), REQUESTS, "{} files", moved.len());
    assert!(moved.len() > 3);
    for (number, line) in all.iter().enumerate() {
        assert!(line.contains(&format!("\"/n{number}\"")), "{line}");
    }
}

#[test]
fn a_stop_lets_requests_in_flight_end_and_says_so_on_either_version() {
    let lab = Lab::one_arm().gateways(1).clients(2).build();
    let site = WebSite::start(&lab);
    let mut daemon = Daemon::start(&lab, &site.configuration(&lab));
    let gate = Gate::default();
    site.origins[0].answer({
        let gate = gate.clone();
        move |request| {
            request
                .path()
                .starts_with("/slow")
                .then(|| Response::identity().after(&gate))
        }
    });
    let mut idle = site.raw(lab.client(1));
    assert_eq!(idle.get(PORTAL, "/", "").expect("an answer").status, 200);
    let mut busy = site.raw(lab.client(1));
    busy.send(format!("GET /slow HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"))
        .expect("sent");
    let newer = thread::scope(|scope| {
        let newer = scope.spawn(|| {
            let curl = site.curl(&lab, lab.client(2)).http2();
            curl.get(&url("/slow/2")).one()
        });
        eventually(BOUND, "both requests are at the backend", || {
            Proxied::of(&daemon, SERVICE).count("requests") == 3
        });
        daemon.signal(libc::SIGTERM);
        idle.await_end(Duration::from_secs(2))
            .expect("idle connections end at once");
        eventually(BOUND, "nobody listens any more", || {
            connect(lab.client(1), None, vip(443)).is_err()
        });
        assert!(daemon.is_running());
        gate.open();
        newer.join().expect("no panic")
    });

    let begun = Instant::now();
    let answer = busy.answer("GET").expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), Some("close"));
    busy.await_end(BOUND).expect("an end");
    assert_eq!((newer.status, newer.exit_code), (200, 0), "{newer:?}");
    assert_eq!(newer.http_version, "2");
    assert!(daemon.wait().success());
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "nothing is waited for any more"
    );
}

#[test]
fn what_does_not_end_in_its_time_ends_with_the_daemon_and_is_logged() {
    let lab = Lab::one_arm().gateways(1).campus().build();
    let site = WebSite::start(&lab);
    let log = lab.directory().join("access.log");
    let configuration = site
        .configuration(&lab)
        .log(&format!("access = \"{}\"", log.display()));
    let mut daemon = Daemon::start(&lab, &configuration);
    let mut held = websocket(&site, lab.campus(), campus_v4(1));
    let gate = Gate::default();
    site.origins[0].answer({
        let gate = gate.clone();
        move |request| {
            request
                .path()
                .starts_with("/slow")
                .then(|| Response::identity().after(&gate))
        }
    });
    let mut slow = site.raw(lab.client(1));
    slow.send(format!("GET /slow HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"))
        .expect("sent");
    eventually(BOUND, "the request is there", || {
        Proxied::of(&daemon, SERVICE).count("requests") == 2
    });

    let begun = Instant::now();
    daemon.signal(libc::SIGTERM);
    always(Duration::from_secs(3), "a WebSocket has its time", || {
        echo(&mut held, "still here").is_ok()
    });
    held.await_end(BOUND).expect("an end");
    slow.await_end(BOUND).expect("an end");
    assert!(daemon.wait().success());
    gate.open();
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(8),
        "{took:?}"
    );
    let text = eventually_some(BOUND, "two lines", || {
        fs::read_to_string(&log)
            .ok()
            .filter(|text| text.lines().count() == 2)
    });
    assert_eq!(text.matches("\"stopping\"").count(), 2, "{text}");
}
