//! TCP that is passed through: bytes, ends, backends that fail, whose connection it is.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Configuration, Daemon, HealthPage, Host, IdentityServer, Lab, Random,
    configuration::{HEALTH, HEALTH_PORT, SIX_HOURS, backend, backend6},
    eventually::{always, eventually},
    origin::Origin,
    proxied::Proxied,
    raw::Raw,
    site::{campus_v4, campus_v6, vip, vip6},
    tcp_server::{EchoClient, TcpServer, connect, end_of},
    usage::Usage,
};

const BOUND: Duration = Duration::from_secs(10);
const POOL: &str = "gateways";
const SERVICE: &str = "through";

/// Echo servers on the gateways' TCP 443, and pages that say that they are well.
struct Echoes {
    servers: Vec<TcpServer>,
    _pages: Vec<HealthPage>,
}

impl Echoes {
    fn start(lab: &Lab) -> Self {
        let servers = lab.gateways().iter();
        Self {
            servers: servers.map(|host| TcpServer::echo(host, 443)).collect(),
            _pages: pages(lab),
        }
    }
}

fn pages(lab: &Lab) -> Vec<HealthPage> {
    let hosts = lab.gateways().iter();
    hosts
        .map(|host| HealthPage::start(host, HEALTH_PORT))
        .collect()
}

fn service(name: &str, vip: SocketAddr, pool: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = {}\nprotocol = \"tcp\"\n\
         forwarding = \"tcp\"\npool = \"{pool}\"\n{more}\n",
        vip.ip(),
        vip.port()
    )
}

fn configuration(lab: &Lab, more: &str) -> Configuration {
    let backends: Vec<String> = lab.gateways().iter().map(backend).collect();
    Configuration::new()
        .pool(POOL, &backends, HEALTH)
        .text(&service(SERVICE, vip(443), POOL, more))
}

fn client(host: &Host) -> EchoClient {
    EchoClient::connect(host, None, vip(443)).expect("an echo")
}

/// A connection of which a test has both ends.
struct Pair {
    client: TcpStream,
    backend: TcpStream,
    _server: TcpServer,
    _pages: Vec<HealthPage>,
}

impl Pair {
    /// Opens a connection through the balancer to the only gateway.
    fn open(lab: &Lab) -> Self {
        let (sender, receiver) = mpsc::channel();
        let sender = Mutex::new(sender);
        let server = TcpServer::start(lab.gateway(1), 443, move |stream, _| {
            let own = stream.try_clone().expect("a socket can be duplicated");
            drop(stream);
            sender
                .lock()
                .expect("no thread panics")
                .send(own)
                .expect("the test waits");
        });
        Self {
            _pages: pages(lab),
            client: connect(lab.client(1), None, vip(443)).expect("a connection"),
            backend: receiver.recv_timeout(BOUND).expect("the backend's end"),
            _server: server,
        }
    }
}

#[test]
fn megabytes_pass_both_ways_at_once_unchanged_over_ipv4_and_ipv6() {
    let lab = Lab::two_arm().gateways(1).build();
    let _echoes = Echoes::start(&lab);
    let configuration = configuration(&lab, "")
        .pool("six", &[backend6(lab.gateway(1))], HEALTH)
        .text(&service("six", vip6(443), "six", ""));
    let daemon = Daemon::start(&lab, &configuration);
    let bytes = Random::of_the_run().bytes(8 << 20);

    for server in [vip(443), vip6(443)] {
        let client = EchoClient::connect(lab.client(1), None, server).expect("an echo");
        assert_eq!(client.seen.ip(), lab.address_towards_backends(server.ip()));
        let mut writing = client.stream.try_clone().expect("a second handle");
        let mut reading = client.stream;
        let back = thread::scope(|scope| {
            scope.spawn(|| {
                writing.write_all(&bytes).expect("sent");
                writing.shutdown(Shutdown::Write).expect("an end");
            });
            let mut back = Vec::new();
            reading.read_to_end(&mut back).expect("the echo");
            back
        });
        assert!(back == bytes, "{} of {} bytes", back.len(), bytes.len());
    }
    eventually(BOUND, "both connections are counted", || {
        let seen = Proxied::of(&daemon, "six");
        seen.count("connections_open") == 0 && seen.count("bytes_in") == bytes.len() as u64
    });
    assert!(Proxied::of(&daemon, "six").failures().is_empty());
}

#[test]
fn an_end_in_one_direction_is_passed_on_and_the_other_goes_on() {
    let lab = Lab::one_arm().gateways(1).build();
    let mut daemon = Daemon::launch(&lab, &configuration(&lab, ""));
    for client_first in [true, false] {
        let pair_pages;
        let (mut first, mut second) = {
            let pair = open_when_ready(&lab, &mut daemon);
            let ends = match client_first {
                true => (pair.client, pair.backend),
                false => (pair.backend, pair.client),
            };
            pair_pages = (pair._server, pair._pages);
            ends
        };
        first.write_all(b"last words").expect("sent");
        first.shutdown(Shutdown::Write).expect("an end");
        let mut heard = Vec::new();
        second.set_read_timeout(Some(BOUND)).expect("a bound");
        second.read_to_end(&mut heard).expect("the end");
        assert_eq!(heard, b"last words");

        let answer = Random::of_the_run().bytes(1 << 20);
        let heard = thread::scope(|scope| {
            let answer = &answer;
            scope.spawn(move || {
                second
                    .write_all(answer)
                    .expect("the other direction is open");
                second.shutdown(Shutdown::Write).expect("an end");
            });
            let mut heard = Vec::new();
            first.set_read_timeout(Some(BOUND)).expect("a bound");
            first.read_to_end(&mut heard).expect("the end");
            heard
        });
        assert!(heard == answer, "{} bytes", heard.len());
        eventually(BOUND, "the connection is over", || {
            Proxied::of(&daemon, SERVICE).count("connections_open") == 0
        });
        drop(pair_pages);
    }
    assert!(Proxied::of(&daemon, SERVICE).failures().is_empty());
}

fn open_when_ready(lab: &Lab, daemon: &mut Daemon<'_>) -> Pair {
    let page = pages(lab);
    daemon.await_ready();
    eventually(BOUND, "the gateway is up", || {
        daemon.status().backend("gateway1").is_up()
    });
    drop(page);
    Pair::open(lab)
}

#[test]
fn a_reset_of_one_side_ends_the_other_and_is_counted() {
    let lab = Lab::one_arm().gateways(1).build();
    let mut daemon = Daemon::launch(&lab, &configuration(&lab, ""));
    for (client_resets, reason) in [(true, "client_closed"), (false, "response_cut")] {
        let mut pair = open_when_ready(&lab, &mut daemon);
        // Until something has passed, the reset may be that of a connection that is still being made.
        pair.client.write_all(b"x").expect("sent");
        pair.backend.set_read_timeout(Some(BOUND)).expect("a bound");
        pair.backend.read_exact(&mut [0]).expect("passed on");
        let (first, mut second) = match client_resets {
            true => (pair.client, pair.backend),
            false => (pair.backend, pair.client),
        };
        second.set_read_timeout(Some(BOUND)).expect("a bound");
        socket2::SockRef::from(&first)
            .set_linger(Some(Duration::ZERO))
            .expect("a reset can be asked for");
        drop(first);

        end_of(&mut second).expect("an end");
        eventually(BOUND, "the reset is counted", || {
            Proxied::of(&daemon, SERVICE).failed(reason) == 1
        });
        assert_eq!(Proxied::of(&daemon, SERVICE).count("connections_open"), 0);
    }
}

#[test]
fn a_backend_that_refuses_or_keeps_silent_is_passed_over_and_without_any_the_client_is_let_go() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let mut echoes = Echoes::start(&lab);
    let daemon = Daemon::start(
        &lab,
        &configuration(&lab, "timeouts = { connect = \"300ms\" }"),
    );
    let names = || -> Vec<String> {
        (1..=12)
            .map(|number| {
                let source = Some(campus_v4(number));
                let client = EchoClient::connect(lab.campus(), source, vip(443));
                client.expect("an echo").server
            })
            .collect()
    };
    let of_all = names();
    assert!(of_all.contains(&"gateway1".into()) && of_all.contains(&"gateway2".into()));

    echoes.servers[0].stop();
    assert_eq!(names(), vec!["gateway2"; 12]);
    echoes.servers[0].resume();
    for line in [
        "nft add table inet silence",
        "nft add chain inet silence in { type filter hook input priority 0 ; }",
        "nft add rule inet silence in tcp dport 443 drop",
    ] {
        lab.gateway(1).run(line).ok();
    }
    assert_eq!(names(), vec!["gateway2"; 12]);
    lab.gateway(1).run("nft delete table inet silence").ok();
    assert_eq!(names(), of_all, "clients come back");

    for server in &mut echoes.servers {
        server.stop();
    }
    let mut client = connect(lab.client(1), None, vip(443)).expect("the balancer accepts");
    assert_eq!(end_of(&mut client).expect("an end"), b"");
    eventually(BOUND, "the failure is counted", || {
        Proxied::of(&daemon, SERVICE).failed("connect_failed") == 1
    });
    assert!(
        daemon.log().contains("no connection to gateways/gateway1"),
        "{}",
        daemon.log()
    );
}

#[test]
fn a_tunnel_ends_after_its_time_without_a_byte_and_not_before() {
    let lab = Lab::one_arm().gateways(1).build();
    let echoes = Echoes::start(&lab);
    let daemon = Daemon::start(&lab, &configuration(&lab, "timeouts = { tunnel = \"2s\" }"));
    let mut client = client(lab.client(1));
    always(Duration::from_secs(3), "a busy tunnel stays", || {
        client.echo(b"I am here").is_ok()
    });
    let idle = Instant::now();

    end_of(&mut client.stream).expect("an end");

    let idle = idle.elapsed();
    assert!(
        Duration::from_millis(1500) < idle && idle < Duration::from_secs(4),
        "{idle:?}"
    );
    eventually(BOUND, "the backend's end", || echoes.servers[0].open() == 0);
    assert_eq!(Proxied::of(&daemon, SERVICE).failed("tunnel_idle"), 1);
}

#[test]
fn the_backend_is_told_the_client_in_a_proxy_header_of_either_version() {
    let lab = Lab::one_arm().gateways(1).build();
    let _pages = pages(&lab);
    let (sender, received) = mpsc::channel();
    let sender = Mutex::new(sender);
    let _server = TcpServer::start(lab.gateway(1), 443, move |mut stream, _| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("all bytes");
        sender
            .lock()
            .expect("no thread panics")
            .send(bytes)
            .expect("the test waits");
    });
    let configuration = configuration(&lab, "proxy_protocol = { send = \"v1\" }")
        .text(&service(
            "two",
            vip(444),
            POOL,
            "backend_port = 443\nproxy_protocol = { send = \"v2\" }",
        ))
        .text(&service(
            "six",
            vip6(443),
            POOL,
            "proxy_protocol = { send = \"v1\" }",
        ))
        .text(&service("plain", vip(445), POOL, "backend_port = 443"));
    let _daemon = Daemon::start(&lab, &configuration);
    let say = |server| {
        let mut stream = connect(lab.client(1), None, server).expect("a connection");
        let local = stream.local_addr().expect("an address");
        stream.write_all(b"hello").expect("sent");
        stream.shutdown(Shutdown::Write).expect("an end");
        (
            local,
            received
                .recv_timeout(BOUND)
                .expect("what the backend has read"),
        )
    };

    let (local, bytes) = say(vip(443));
    let line = format!(
        "PROXY TCP4 {} {} {} 443\r\nhello",
        local.ip(),
        vip(443).ip(),
        local.port()
    );
    assert_eq!(String::from_utf8_lossy(&bytes), line);

    let (local, bytes) = say(vip6(443));
    let line = format!(
        "PROXY TCP6 {} {} {} 443\r\nhello",
        local.ip(),
        vip6(443).ip(),
        local.port()
    );
    assert_eq!(String::from_utf8_lossy(&bytes), line);

    let (local, bytes) = say(vip(444));
    assert_eq!(bytes[..12], *b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(bytes[12..16], [0x21, 0x11, 0, 12]);
    let SocketAddr::V4(local) = local else {
        panic!("{local}")
    };
    assert_eq!(bytes[16..20], local.ip().octets());
    assert_eq!(bytes[20..24], [10, 20, 90, 105]);
    assert_eq!(bytes[24..26], local.port().to_be_bytes());
    assert_eq!(bytes[26..28], 444_u16.to_be_bytes());
    assert_eq!(bytes[28..], *b"hello");

    assert_eq!(say(vip(445)).1, b"hello");
}

#[test]
fn nginx_understands_the_header_that_is_sent() {
    let lab = Lab::one_arm().gateways(1).build();
    let _pages = pages(&lab);
    let directory = lab.directory().join("nginx-proxy");
    fs::create_dir(&directory).expect("the site's directory takes another");
    let place = directory.display();
    let text = format!(
        "daemon off; master_process off; pid {place}/pid; error_log stderr; events {{}}\n\
         http {{ access_log off; client_body_temp_path {place}/b; proxy_temp_path {place}/p;\n\
         fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
         server {{ listen 443 proxy_protocol;\n\
         location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port\\n\"; }} }} }}\n"
    );
    fs::write(directory.join("nginx.conf"), text).expect("written");
    let mut command = lab.gateway(1).command("nginx");
    command
        .arg("-c")
        .arg(directory.join("nginx.conf"))
        .arg("-p")
        .arg(&directory)
        .arg("-e")
        .arg("stderr");
    let _nginx = lb_tests::lab::process::Process::start("nginx", command, &directory.join("log"));
    let configuration = configuration(&lab, "proxy_protocol = { send = \"v1\" }").text(&service(
        "two",
        vip(444),
        POOL,
        "backend_port = 443\nproxy_protocol = { send = \"v2\" }",
    ));
    let _daemon = Daemon::start(&lab, &configuration);

    for server in [vip(443), vip(444)] {
        let mut client = Raw::tcp(lab.client(1), server).expect("a connection");
        let local = client.local();
        let answer = client.get("x", "/", "").expect("an answer");
        assert_eq!(answer.text(), format!("{} {}\n", local.ip(), local.port()));
    }
}

#[test]
fn a_proxy_header_is_taken_from_trusted_peers_only_and_must_then_be_right_and_in_time() {
    let lab = Lab::one_arm().gateways(2).clients(2).campus().build();
    let _echoes = Echoes::start(&lab);
    let trusted = lab.client(1);
    let more = format!(
        "timeouts = {{ header = \"1s\" }}\n\
         proxy_protocol = {{ send = \"v1\", accept_from = [\"{}/32\"] }}",
        trusted.v4()
    );
    let daemon = Daemon::start(&lab, &configuration(&lab, &more));

    // The header goes on to the backend as the greeting's echo: it is the first that it reads.
    let told = |host: &Host, header: &[u8]| {
        let mut stream = connect(host, None, vip(443)).expect("a connection");
        stream.write_all(header).expect("sent");
        let client = EchoClient::greeted(stream).expect("a greeting");
        let mut stream = client.stream;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the header's echo");
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line).into_owned()
    };
    let line = b"PROXY TCP4 10.30.0.9 10.20.90.105 51000 443\r\n";
    assert_eq!(told(trusted, line), String::from_utf8_lossy(line));
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    second.extend_from_slice(&[10, 30, 0, 9, 10, 20, 90, 105]);
    second.extend_from_slice(&[0xc7, 0x38, 0x01, 0xbb]);
    assert_eq!(told(trusted, &second), String::from_utf8_lossy(line));
    // Somebody else's header is his own bytes.
    let own = told(lab.client(2), line);
    assert!(
        own.starts_with(&format!("PROXY TCP4 {}", lab.client(2).v4())),
        "{own}"
    );

    for (number, (bad, late)) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], false),
        (b"PROXY TCP4 1.2.3.4\r\n", false),
        (b"PROXY TCP4 10.30.0.9", true),
        (b"", true),
    ]
    .into_iter()
    .enumerate()
    {
        let begun = Instant::now();
        let mut stream = connect(trusted, None, vip(443)).expect("a connection");
        stream.write_all(bad).expect("sent");
        assert_eq!(end_of(&mut stream).expect("an end"), b"", "{bad:?}");
        assert_eq!(
            begun.elapsed() > Duration::from_millis(900),
            late,
            "{bad:?}"
        );
        eventually(BOUND, "the failure is counted", || {
            Proxied::of(&daemon, SERVICE).failed("proxy_header") == number as u64 + 1
        });
    }
}

#[test]
fn the_pool_is_chosen_by_the_name_in_tls_and_tls_is_not_touched() {
    let lab = Lab::one_arm().gateways(2).build();
    let authority = lb_tests::lab::authority::Authority::new(lab.directory(), "ca");
    let certificates = [
        authority.certificate(&["first.example", "other.example"]),
        authority.certificate(&["second.example"]),
    ];
    let _pages = pages(&lab);
    let _origins: Vec<Origin> = lab
        .gateways()
        .iter()
        .zip(&certificates)
        .map(|(host, certificate)| Origin::on(host, 443).tls(certificate).start())
        .collect();
    let configuration = Configuration::new()
        .pool("one", &[backend(lab.gateway(1))], HEALTH)
        .pool("two", &[backend(lab.gateway(2))], HEALTH)
        .text(&service(
            SERVICE,
            vip(443),
            "one",
            "routes = [{ host = \"second.example\", pool = \"two\" }]\n\
             timeouts = { handshake = \"1s\" }",
        ));
    let daemon = Daemon::start(&lab, &configuration);

    for (name, gateway) in [
        ("first.example", "gateway1"),
        ("second.example", "gateway2"),
        ("other.example", "gateway1"),
    ] {
        let mut client = Raw::tcp(lab.client(1), vip(443))
            .and_then(|client| client.tls(&authority.client(&["http/1.1"]), name))
            .expect("TLS with the backend itself");
        let answer = client.get(name, "/", "").expect("an answer");
        assert_eq!(answer.json()["backend"], gateway);
        assert_eq!(answer.json()["server_name"], name);
    }
    let mut silent = connect(lab.client(1), None, vip(443)).expect("a connection");
    assert_eq!(end_of(&mut silent).expect("an end"), b"");
    assert_eq!(Proxied::of(&daemon, SERVICE).failed("handshake_timeout"), 1);
}

#[test]
fn the_access_log_has_a_line_of_each_connection() {
    let lab = Lab::one_arm().gateways(1).build();
    let _echoes = Echoes::start(&lab);
    let log = lab.directory().join("access.log");
    let configuration = configuration(&lab, "").log(&format!("access = \"{}\"", log.display()));
    let _daemon = Daemon::start(&lab, &configuration);

    let mut client = client(lab.client(1));
    let local = client.stream.local_addr().expect("an address");
    client.echo(b"hello").expect("an echo");
    drop(client);

    eventually(BOUND, "a line", || {
        fs::read_to_string(&log).is_ok_and(|text| text.lines().count() == 1)
    });
    let line = fs::read_to_string(&log).expect("the log");
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["service"], SERVICE, "{line}");
    assert_eq!(line["client"], local.to_string().as_str(), "{line}");
    assert_eq!(line["backend"], "gateways/gateway1", "{line}");
    assert_eq!(line["bytes_in"], 5, "{line}");
    assert!(line["bytes_out"].as_u64() > Some(5), "{line}");
    assert!(line.to_string().contains("\"tcp\""), "{line}");
}

#[test]
fn thousands_of_short_connections_leave_nothing_behind() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let _echoes = Echoes::start(&lab);
    let daemon = Daemon::start(&lab, &configuration(&lab, ""));
    let run = |count: u16| {
        thread::scope(|scope| {
            for part in 0..4 {
                let lab = &lab;
                scope.spawn(move || {
                    for number in 0..count / 4 {
                        let source = campus_v4(1 + part * 1000 + number % 500);
                        let client = EchoClient::connect(lab.campus(), Some(source), vip(443));
                        client.and_then(|mut it| it.echo(b"x")).expect("an echo");
                    }
                });
            }
        });
        eventually(BOUND, "all have gone", || {
            Proxied::of(&daemon, SERVICE).count("connections_open") == 0
        });
    };
    run(2000);
    let before = Usage::of(daemon.pid());

    run(6000);

    let after = Usage::of(daemon.pid());
    assert!(
        after.descriptors <= before.descriptors + 8,
        "{before:?} {after:?}"
    );
    assert!(
        after.pss_kib < before.pss_kib + 8 * 1024,
        "{before:?} {after:?}"
    );
    let seen = Proxied::of(&daemon, SERVICE);
    assert_eq!(seen.count("connections"), 8000);
    assert_eq!(seen.failures(), []);
}

#[test]
fn backends_that_die_under_load_take_only_their_own_connections_along() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let mut echoes = Echoes::start(&lab);
    let daemon = Daemon::start(&lab, &configuration(&lab, ""));
    let (over, done, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let cut = AtomicU64::new(0);

    thread::scope(|scope| {
        for number in 1..=12 {
            let (lab, over, done, refused, cut) = (&lab, &over, &done, &refused, &cut);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let source = Some(campus_v4(number));
                    match EchoClient::connect(lab.campus(), source, vip(443)) {
                        Err(_) => refused.fetch_add(1, Ordering::Relaxed),
                        Ok(mut client) => match client.echo(&[7; 20_000]) {
                            Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                            Err(_) => cut.fetch_add(1, Ordering::Relaxed),
                        },
                    };
                }
            });
        }
        for round in 0..6 {
            let before = done.load(Ordering::Relaxed);
            echoes.servers[round % 3].stop();
            eventually(BOUND, "connections go on without it", || {
                done.load(Ordering::Relaxed) > before + 200
            });
            echoes.servers[round % 3].resume();
            let before = done.load(Ordering::Relaxed);
            eventually(BOUND, "connections go on with it", || {
                done.load(Ordering::Relaxed) > before + 200
            });
        }
        over.store(true, Ordering::Relaxed);
    });

    // Each death can cut what was under way: at most one connection of each client.
    let (cut, refused) = (cut.into_inner(), refused.into_inner());
    assert!(
        cut + refused <= 6 * 12,
        "{cut} cut, {refused} without greeting"
    );
    eventually(BOUND, "all have gone", || {
        Proxied::of(&daemon, SERVICE).count("connections_open") == 0
    });
}

#[test]
fn connections_beyond_a_limit_are_closed_and_counted_and_others_live_on() {
    let lab = Lab::one_arm().gateways(1).clients(2).campus().build();
    let _echoes = Echoes::start(&lab);
    let more = "limits = { connections = 5, per_source = 2 }";
    let daemon = Daemon::start(&lab, &configuration(&lab, more));
    let refused = |host: &Host, source| {
        let stream = connect(host, source, vip(443));
        let mut stream = stream.expect("the kernel accepts");
        assert_eq!(end_of(&mut stream).expect("an end"), b"");
    };
    let mut held: Vec<EchoClient> = (0..2).map(|_| client(lab.client(1))).collect();
    refused(lab.client(1), None);
    assert_eq!(
        Proxied::of(&daemon, SERVICE).failed("too_many_per_source"),
        1
    );
    held.extend((0..2).map(|_| client(lab.client(2))));
    held.push(EchoClient::connect(lab.campus(), Some(campus_v4(1)), vip(443)).expect("an echo"));

    refused(lab.campus(), Some(campus_v4(2)));

    assert_eq!(
        Proxied::of(&daemon, SERVICE).failed("too_many_connections"),
        1
    );
    for client in &mut held {
        client.echo(b"still here").expect("an echo");
    }
    held.remove(0);
    eventually(BOUND, "there is room again", || {
        EchoClient::connect(lab.client(1), None, vip(443)).is_ok()
    });
}

#[test]
fn one_host_of_ipv6_is_one_source_whatever_address_it_takes() {
    let lab = Lab::one_arm().gateways(1).campus().build();
    let _echoes = Echoes::start(&lab);
    let configuration = Configuration::new()
        .pool(POOL, &[backend6(lab.gateway(1))], HEALTH)
        .text(&service(
            SERVICE,
            vip6(443),
            POOL,
            "limits = { per_source = 1 }",
        ));
    let daemon = Daemon::start(&lab, &configuration);
    let held = EchoClient::connect(lab.campus(), Some(campus_v6(1)), vip6(443));
    let held = held.expect("an echo");

    let mut other = connect(lab.campus(), Some(campus_v6(2)), vip6(443)).expect("accepted");

    assert_eq!(end_of(&mut other).expect("an end"), b"");
    assert_eq!(
        Proxied::of(&daemon, SERVICE).failed("too_many_per_source"),
        1
    );
    drop(held);
}

/// Returns whether the greeting has come, or comes at once.
fn is_served(stream: &TcpStream) -> bool {
    let wait = |bound| {
        stream
            .set_read_timeout(Some(bound))
            .expect("a bound can be set");
    };
    wait(Duration::from_millis(50));
    let peeked = stream.peek(&mut [0]);
    wait(BOUND);
    match peeked {
        Ok(bytes) => {
            assert!(bytes > 0, "it was closed");
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            false
        }
    }
}

#[test]
fn without_descriptors_clients_wait_and_everybody_else_lives_on() {
    let lab = Lab::one_arm().gateways(1).build();
    let _echoes = Echoes::start(&lab);
    let daemon = Daemon::start(&lab, &configuration(&lab, ""));
    let used = Usage::of(daemon.pid()).descriptors;
    let limit = used + 60;
    lab.balancer()
        .run(&format!(
            "prlimit --pid {} --nofile={limit}:{limit}",
            daemon.pid()
        ))
        .ok();
    let mut held = Vec::new();
    eventually(BOUND, "the daemon knows", || {
        let said = format!("the limit of open files is {limit}\n");
        daemon.log().contains(&said)
    });
    for _ in 0..80 {
        held.push(connect(lab.client(1), None, vip(443)).expect("the kernel accepts"));
    }
    eventually(BOUND, "the log says it", || {
        daemon.log().contains("connections wait to be accepted")
    });
    let (served, mut waiting): (Vec<_>, Vec<_>) = held.into_iter().partition(is_served);
    assert!(!served.is_empty() && !waiting.is_empty(), "{served:?}");
    let mut served: Vec<EchoClient> = served
        .into_iter()
        .map(|stream| EchoClient::greeted(stream).expect("a greeting"))
        .collect();
    for client in &mut served {
        client.echo(b"alive").expect("an echo");
    }
    assert!(
        daemon.status().backend("gateway1").is_up(),
        "the probes have descriptors"
    );

    drop(served);

    eventually(BOUND * 3, "everybody's turn comes", || {
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut waiting)
            .into_iter()
            .partition(is_served);
        for stream in now {
            let mut client = EchoClient::greeted(stream).expect("a greeting");
            client.echo(b"alive").expect("an echo");
        }
        waiting = later;
        waiting.is_empty()
    });
    assert!(daemon.status().backend("gateway1").is_up());
    assert_eq!(Proxied::of(&daemon, SERVICE).failures(), []);
}

#[test]
fn a_stop_ends_tunnels_after_a_while_and_a_second_one_at_once() {
    let lab = Lab::one_arm().gateways(1).build();
    let echoes = Echoes::start(&lab);
    let _udp = IdentityServer::start(lab.gateway(1), 443);
    let both = configuration(&lab, "").udp("udp", vip(443), POOL, SIX_HOURS);
    let mut daemon = Daemon::start(&lab, &both);
    let udp = lab.client(1).udp(vip(443));
    udp.ask("before");
    let mut held = client(lab.client(1));
    daemon.signal(libc::SIGTERM);
    eventually(BOUND, "nobody listens any more", || {
        connect(lab.client(1), None, vip(443)).is_err()
    });
    held.echo(b"still here").expect("a tunnel has its time");
    udp.ask("meanwhile");
    let begun = Instant::now();
    end_of(&mut held.stream).expect("an end");
    assert!(
        begun.elapsed() > Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert!(daemon.wait().success(), "{}", daemon.log());
    udp.ask("afterwards");
    eventually(BOUND, "the backend's end", || echoes.servers[0].open() == 0);

    daemon.start_again();
    eventually(BOUND, "the gateway is up", || {
        daemon.status().backend("gateway1").is_up()
    });
    let mut held = client(lab.client(1));
    daemon.signal(libc::SIGTERM);
    eventually(BOUND, "nobody listens any more", || {
        connect(lab.client(1), None, vip(443)).is_err()
    });
    let begun = Instant::now();
    daemon.signal(libc::SIGTERM);
    end_of(&mut held.stream).expect("an end");
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(daemon.wait().success(), "{}", daemon.log());
}
