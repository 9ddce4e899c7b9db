//! Kerberos and NTLM: who has signed on over a connection is nobody else, and nobody else is them.

use std::{
    env,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Configuration, Daemon, Host, Lab, Random,
    authority::Authority,
    crowd::{PUBLIC, SCHEME, Visitor, Witness},
    curl::{Curl, Fetched},
    eventually::{always, eventually},
    kerberos::Kerberos,
    origin::{Response, filling, sign_on},
    raw::Raw,
    site::{campus_v4, vip},
    stream::End,
    web_site::{HEALTH, POOL, PORTAL, SERVICE, WebSite, url},
    websocket::Frame,
};

const BOUND: Duration = Duration::from_secs(10);
/// Answers that the crowd reads unless `LB_SIGN_ON_REQUESTS` says how many.
const SHORT: u64 = 6000;
const VISITORS: u16 = 10;

/// Returns the number in a variable of the environment, or the usual one.
fn asked_for(variable: &str, usual: u64) -> u64 {
    env::var(variable).map_or(usual, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}"))
    })
}

#[test]
fn identities_never_cross() {
    let count = asked_for("LB_SIGN_ON_REQUESTS", SHORT);
    let lab = Lab::one_arm().campus().build();
    let site = WebSite::start_with(&lab, |origin| origin.sign_on(SCHEME));
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let mut random = Random::of_the_run();
    for storm in [false, true] {
        let witness = Arc::new(Witness::default());
        for origin in &site.origins {
            witness.watch(origin);
        }
        witness.storm.store(storm, Ordering::Relaxed);
        let start = Instant::now();
        let mut http2 = (0, 0);
        thread::scope(|scope| {
            let visitors: Vec<_> = (0..VISITORS)
                .map(|number| {
                    let mut visitor = Visitor {
                        host: lab.campus(),
                        // Few addresses: many people of one building, over few backends.
                        source: campus_v4(1 + number % 3),
                        site: &site,
                        witness: &witness,
                        random: random.split(),
                    };
                    scope.spawn(move || visitor.run(count / 2))
                })
                .collect();
            let anonymous = scope.spawn(|| anonymous_over_http2(&lab, &witness));
            let users = scope.spawn(|| users_over_http2(&lab, &site, &witness));
            let mut weather = random.split();
            while visitors.iter().any(|visitor| !visitor.is_finished()) {
                thread::sleep(weather.time(Duration::from_millis(200)));
                if storm {
                    let end = *weather.of(&[End::Close, End::Fin, End::Reset]);
                    weather.of(&site.origins).end_connections(end);
                }
            }
            witness.over.store(true, Ordering::Relaxed);
            http2 = (
                anonymous.join().expect("no panic"),
                users.join().expect("no panic"),
            );
        });
        let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let (private, shared) = witness.connections();
        println!(
            "{}: {} answers, {} of them to users, in {:?}; {} connections private, {} shared; \
             over HTTP/2 {} without and {} with sign-on; {} refused, {} broken",
            if storm { "storm" } else { "calm" },
            read(&witness.answers),
            read(&witness.signed_on),
            start.elapsed(),
            private,
            shared,
            http2.0,
            http2.1,
            read(&witness.refused),
            read(&witness.broken),
        );
        let wrong = witness.wrong();
        assert!(
            wrong.is_empty(),
            "{} of {:#?}\n{}",
            wrong.len(),
            &wrong[..wrong.len().min(10)],
            daemon.cli(&["status"]).text()
        );
        // Else there was nothing to confuse.
        assert!(private > 50 && shared > 0, "{private} {shared}");
        assert!(http2.0 > 0 && http2.1 > 0, "{http2:?}");
    }
    for origin in &site.origins {
        let faults = origin.faults();
        let unread = |fault: &&String| !fault.contains("ends early");
        assert_eq!(faults.iter().find(unread), None);
    }
}

/// Loads the public page over HTTP/2 until the crowd goes home; returns how often.
fn anonymous_over_http2(lab: &Lab, witness: &Witness) -> u64 {
    let mut answers = 0;
    while !witness.over.load(Ordering::Relaxed) {
        let mut command = lab.campus().command("h2load");
        command
            .args(["-n", "400", "-c", "2", "-m", "8", "-H", "x-client: 0"])
            .arg(format!("--connect-to={}", vip(443)))
            .arg(url(PUBLIC));
        let output = command.output().expect("h2load runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.starts_with("status codes:"));
        let words: Vec<&str> = line.unwrap_or_default().split([' ', ',']).collect();
        let fine: u64 = words
            .get(2)
            .and_then(|word| word.parse().ok())
            .unwrap_or_default();
        let storm = witness.storm.load(Ordering::Relaxed);
        if fine != 400 && !storm {
            witness.accuse(format!("over HTTP/2 {fine} of 400: {text}"));
        }
        answers += fine;
    }
    answers
}

/// Signs on in clients that begin with HTTP/2, until the crowd goes home; returns how many.
fn users_over_http2(lab: &Lab, site: &WebSite, witness: &Witness) -> u64 {
    let mut count = 0;
    while !witness.over.load(Ordering::Relaxed) {
        let client = witness.client();
        let user = format!("curl{client}");
        let number = u16::try_from(client % 30_000).expect("it fits");
        let token = format!("Authorization: {}", sign_on::token(SCHEME, &user, 300));
        let (claims, label) = (format!("X-Claims: {user}"), format!("X-Client: {client}"));
        let answers = site
            .curl(lab, lab.campus())
            .from(campus_v4(1000 + number))
            .http2()
            .options(&["--header", &claims, "--header", &label])
            .transfer(&[&url(PUBLIC)])
            .transfer(&["--header", &token, &url("/")])
            .transfer(&[&url("/")])
            .run();
        for (place, answer) in answers.iter().enumerate() {
            witness.answered(client, &user, place == 1, |name| {
                answer.header(name).map(str::to_owned)
            });
        }
        let found: Vec<_> = answers
            .iter()
            .map(|answer| {
                let version = answer.http_version.as_str();
                (answer.status, version, answer.header("x-user"))
            })
            .collect();
        let expected = [
            (200, "2", None),
            (200, "1.1", Some(user.as_str())),
            (200, "1.1", Some(user.as_str())),
        ];
        // The third may go on with either of the connections that curl has.
        let fine = found[..2] == expected[..2] && (found[2] == expected[2] || found[2].0 == 401);
        if !fine && !witness.storm.load(Ordering::Relaxed) {
            witness.accuse(format!("over HTTP/2: {answers:?}"));
        }
        count += 1;
    }
    count
}

#[test]
fn a_connection_that_has_seen_the_schemes_is_never_given_to_another_client() {
    let lab = Lab::one_arm().clients(2).gateways(1).build();
    let site = WebSite::start(&lab);
    let configuration = site.configuration(&lab).node("workers = 1");
    let _daemon = Daemon::start(&lab, &configuration);
    site.origins[0].answer(|request| {
        let lines = match request.path().strip_prefix("/offers/")? {
            "list" => "WWW-Authenticate: Basic realm=\"a, b\" , nEGOTIATE\r\n",
            "ntlm" => "www-authenticate: ntlm\r\n",
            "second" => "WWW-Authenticate: Basic realm=\"x\"\r\nWWW-AUTHENTICATE: Negotiate\r\n",
            "token" => "WWW-Authenticate: Negotiate oRQwEqADCgEA\r\n",
            "nego2" => "WWW-Authenticate: Nego2\r\n",
            "basic" => "WWW-Authenticate: Basic realm=\"negotiate\"\r\n",
            _ => return None,
        };
        let status = if request.target().contains("refused") {
            401
        } else {
            200
        };
        let lines = format!("{lines}X-Number: {}\r\n", request.connection);
        Some(Response::status(status).raw_headers(lines.as_bytes()))
    });
    let number =
        |raw: &mut Raw| raw.get(PORTAL, "/x", "").expect("an answer").json()["connection"].clone();

    for (target, headers, private) in [
        ("/offers/list", "", true),
        ("/offers/list?refused", "", true),
        ("/offers/ntlm?refused", "", true),
        ("/offers/second", "", true),
        ("/offers/token", "", true),
        ("/offers/nego2?refused", "", true),
        ("/y", "Authorization: nEgOtIaTe YII=\r\n", true),
        ("/y", "authorization: NTLM TlRM\r\n", true),
        (
            "/y",
            "Connection: authorization\r\nAuthorization: Negotiate YII=\r\n",
            true,
        ),
        ("/y", "Authorization: Basic YTpi\r\n", false),
        ("/offers/basic?refused", "", false),
        ("/y", "", false),
    ] {
        let (mut one, mut other) = (site.raw(lab.client(1)), site.raw(lab.client(2)));
        one.get(PORTAL, target, headers).expect("an answer");
        let its_own = number(&mut one);
        assert_eq!(number(&mut one), its_own, "{target} {headers}");
        let others = number(&mut other);
        assert_eq!(others != its_own, private, "{target} {headers}");
        // Nor after its client has gone.
        drop(one);
        eventually(BOUND, "the backend's connection ends", || {
            !private || number(&mut other) == others
        });
        assert_eq!(
            number(&mut site.raw(lab.client(2))) == its_own,
            !private,
            "{target} {headers}"
        );
    }
}

#[test]
fn a_clients_connection_and_its_backends_end_together() {
    let lab = Lab::one_arm().gateways(1).build();
    let mut site = WebSite::start_with(&lab, |origin| origin.sign_on(SCHEME));
    let _daemon = Daemon::start(&lab, &site.configuration(&lab));
    let token = format!("Authorization: {}\r\n", sign_on::token(SCHEME, "ann", 0));
    let signed_on = |site: &WebSite| {
        let mut raw = site.raw(lab.client(1));
        for headers in [token.as_str(), "", ""] {
            let answer = raw.get(PORTAL, "/", headers).expect("an answer");
            assert_eq!(answer.header("x-user"), Some("ann"));
        }
        raw
    };

    for end in [End::Close, End::Fin, End::Reset] {
        let mut raw = signed_on(&site);
        site.origins[0].end_connections(end);
        let found = raw.await_end(Duration::from_secs(3)).expect("an end");
        assert_eq!(found, End::Close, "after {end:?}");

        let raw = signed_on(&site);
        raw.end(end);
        // Beside a probe's.
        eventually(BOUND, "the backend's connection ends", || {
            site.origins[0].open_connections() == 0
        });
    }
    // One that is offered to sign on and goes.
    let mut raw = site.raw(lab.client(1));
    assert_eq!(raw.get(PORTAL, "/", "").expect("an answer").status, 401);
    raw.end(End::Close);
    eventually(BOUND, "the backend's connection ends", || {
        site.origins[0].open_connections() == 0
    });

    // The answer that announces the end is whole, and announces it to the client.
    site.origins[0].answer(|request| {
        let last = request.path() == "/last";
        last.then(|| {
            Response::status(200)
                .header("Connection", "close")
                .body("bye")
                .end(End::Close)
        })
    });
    let mut raw = signed_on(&site);
    let answer = raw.get(PORTAL, "/last", "").expect("an answer");
    assert_eq!(
        (answer.text().as_str(), answer.header("connection")),
        ("bye", Some("close"))
    );
    assert_eq!(raw.await_end(BOUND).expect("an end"), End::Close);

    // The backend dies: nobody is left with half of a sign-on.
    let mut raw = signed_on(&site);
    site.origins[0].stop(End::Reset);
    assert_eq!(
        raw.await_end(Duration::from_secs(3)).expect("an end"),
        End::Close
    );
}

#[test]
fn a_request_whose_sign_on_is_lost_is_not_asked_again_as_nobody() {
    let lab = Lab::one_arm().build();
    let site = WebSite::start_with(&lab, |origin| origin.sign_on(SCHEME));
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let token = format!("Authorization: {}\r\n", sign_on::token(SCHEME, "ann", 0));
    for origin in &site.origins {
        origin.answer(|request| {
            let dies = request.path() == "/dies";
            dies.then(|| Response::none(End::Close))
        });
    }

    let mut raw = site.raw(lab.client(1));
    assert_eq!(raw.get(PORTAL, "/", &token).expect("an answer").status, 200);
    let lost = raw.get(PORTAL, "/dies", "");

    assert!(lost.is_err(), "{lost:?}");
    let asked: Vec<_> = site
        .origins
        .iter()
        .flat_map(|origin| origin.records())
        .filter(|record| record.path() == "/dies")
        .map(|record| record.request.user)
        .collect();
    assert_eq!(asked, [Some("ann".to_owned())]);
    let status = daemon.cli(&["status", "--json"]).ok();
    assert!(status.contains("sign_on_lost"), "{status}");

    // A client that is not signed on has another backend's answer, or a page.
    let mut raw = site.raw(lab.client(1));
    assert_eq!(raw.get(PORTAL, PUBLIC, "").expect("an answer").status, 200);
}

#[test]
fn a_challenge_that_comes_before_the_body_is_over_leaves_the_connection() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    site.origins[0].answer(|request| {
        let challenge = Response::status(401).header("WWW-Authenticate", "NTLM TlRM");
        (request.path() == "/challenge").then(|| challenge.early())
    });
    let mut raw = site.raw(lab.client(1));
    raw.send(format!(
        "POST /challenge HTTP/1.1\r\nHost: {PORTAL}\r\nAuthorization: NTLM TlRM\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    ))
    .expect("sent");
    let challenge = raw.answer("POST").expect("a challenge");
    assert_eq!(challenge.status, 401, "{}", daemon.log());
    assert_eq!(challenge.header("connection"), None);
    raw.send("0\r\n\r\n").expect("sent");

    let next = raw
        .get(PORTAL, "/next", "Authorization: NTLM TlRM\r\n")
        .expect("an answer");
    assert_eq!(next.status, 200, "{}", daemon.log());
    let records = site.origins[0].requests();
    let used: Vec<_> = records.iter().map(|record| record.connection).collect();
    assert_eq!(used, [used[0]; 2], "{records:?}");
}

#[test]
fn a_slow_client_has_its_whole_answer_after_its_backend_has_gone() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start_with(&lab, |origin| origin.sign_on(SCHEME));
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    // What the kernels keep is little beside what the balancer does.
    lab.client(1)
        .net()
        .sysctl("net/ipv4/tcp_rmem", "4096 32768 32768");
    lab.balancer()
        .net()
        .sysctl("net/ipv4/tcp_wmem", "4096 32768 32768");
    let (pieces, piece) = (12, 50_000);
    let body = filling((pieces + 2) * piece);
    let whole = body.clone();
    site.origins[0].answer(move |request| {
        let last = request.path() == "/last";
        last.then(|| Response::status(200).body(body.clone()).end(End::Close))
    });
    let mut raw = site.raw(lab.client(1));
    let token = format!("Authorization: {}\r\n", sign_on::token(SCHEME, "ann", 0));
    assert_eq!(raw.get(PORTAL, "/", &token).expect("an answer").status, 200);
    raw.send(format!("GET /last HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"))
        .expect("sent");
    let (_, head) = raw.answer_head().expect("a head");
    assert!(head.starts_with(b"HTTP/1.1 200"));

    let mut read = Vec::new();
    // For longer than a connection that ends has otherwise.
    for _ in 0..pieces {
        always(
            Duration::from_secs(1),
            "the rest of the answer waits",
            || daemon.status().service(SERVICE).proxy("connections_open") == 1,
        );
        read.extend(raw.read_exactly(piece).expect("a piece"));
    }
    // The kernels keep about one piece: the balancer may be done with it before it is read.
    read.extend(raw.read_exactly(2 * piece).expect("the rest"));
    assert!(read == whole);
    assert_eq!(raw.await_end(BOUND).expect("an end"), End::Close);
}

#[test]
fn a_backend_out_of_service_ends_what_is_bound_to_it_at_once() {
    let lab = Lab::one_arm().clients(40).build();
    let site = WebSite::start_with(&lab, |origin| origin.sign_on(SCHEME));
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let sign_on = |client: &Host| {
        let mut raw = site.raw(client);
        let token = sign_on::token(SCHEME, client.name(), 0);
        let answer = raw
            .get(PORTAL, "/", &format!("Authorization: {token}\r\n"))
            .expect("an answer");
        let backend = answer.header("x-backend").expect("a name").to_owned();
        (raw, backend)
    };
    let websocket = |raw: &mut Raw| {
        raw.send(format!(
            "GET /websocket HTTP/1.1\r\nHost: {PORTAL}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ))
        .expect("sent");
        assert_eq!(raw.answer_head().expect("an answer").0, 101);
        Frame::text("x")
            .write(raw.wire(), Some([1; 4]))
            .expect("sent");
        assert_eq!(Frame::read(raw.wire()).expect("an echo").payload, b"x");
    };

    // Each time clients that nobody has moved before.
    for (clients, by_health) in lab.clients().chunks(20).zip([false, true]) {
        let mut bound: Vec<(Raw, String)> = clients.iter().map(sign_on).collect();
        for (raw, _) in bound.iter_mut().step_by(2) {
            websocket(raw);
        }
        let out = bound[0].1.clone();
        assert!(bound.iter().any(|(_, backend)| *backend != out));
        if by_health {
            site.origin(&out)
                .answer(|request| (request.path() == PUBLIC).then(|| Response::status(503)));
            eventually(BOUND, "the backend is found down", || {
                !daemon.status().backend(&out).is_up()
            });
        } else {
            daemon.cli(&["halt", &out]).ok();
        }
        for (number, (raw, backend)) in bound.iter_mut().enumerate() {
            if *backend == out {
                raw.await_end(Duration::from_secs(3)).expect("an end");
            } else if number % 2 == 0 {
                Frame::text("y")
                    .write(raw.wire(), Some([1; 4]))
                    .expect("sent");
                assert_eq!(Frame::read(raw.wire()).expect("an echo").payload, b"y");
            } else {
                let answer = raw.get(PORTAL, "/", "").expect("an answer");
                assert_eq!(
                    (answer.status, answer.header("x-backend")),
                    (200, Some(backend.as_str()))
                );
            }
        }
        // They sign on elsewhere.
        for client in clients {
            assert_ne!(sign_on(client).1, out);
        }
        site.origin(&out).answer_by_path();
        daemon.cli(&["enable", &out]).ok();
        eventually(BOUND, "the backend takes clients again", || {
            daemon.status().backend(&out).is_eligible()
        });
    }
}

#[test]
fn a_bound_client_asks_another_pool_on_another_connection() {
    let lab = Lab::one_arm().build();
    let site = WebSite::start_with(&lab, |origin| origin.sign_on(SCHEME));
    let backends = site.backends(&lab);
    let configuration = Configuration::new()
        .pool(POOL, &backends[..1], HEALTH)
        .pool("other", &backends[1..], HEALTH)
        .text(&site.service(
            SERVICE,
            vip(443),
            POOL,
            "routes = [{ host = \"b.apps.lab.example\", pool = \"other\" }]",
        ));
    let _daemon = Daemon::start(&lab, &configuration);
    let token = format!("Authorization: {}", sign_on::token(SCHEME, "ann", 0));
    // No name in TLS, so that it is the host's alone.
    let bare = format!("https://{}/", vip(443).ip());

    let answers = Curl::on(&lab, lab.client(1))
        .http1()
        .options(&["--insecure"])
        .transfer(&[
            "--header",
            "Host: a.apps.lab.example",
            "--header",
            &token,
            &bare,
        ])
        .transfer(&["--header", "Host: b.apps.lab.example", &bare])
        .transfer(&["--header", "Host: a.apps.lab.example", &bare])
        .run();

    let found: Vec<_> = answers
        .iter()
        .map(|answer| (answer.status, answer.header("x-user")))
        .collect();
    assert_eq!(found, [(200, Some("ann")), (421, None), (200, Some("ann"))]);
}

#[test]
fn clients_of_http2_that_sign_on_are_sent_to_http1_and_remembered() {
    let lab = Lab::one_arm().clients(3).build();
    let site = WebSite::start_with(&lab, |origin| origin.sign_on(SCHEME));
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let agreed = |client: &Host| {
        let raw = Raw::tcp(client, vip(443))
            .and_then(|raw| raw.tls(&site.client(&["h2", "http/1.1"]), PORTAL))
            .expect("a connection");
        raw.agreed().and_then(|agreed| agreed.alpn)
    };
    assert_eq!(agreed(lab.client(1)).as_deref(), Some("h2"));

    let token = format!("Authorization: {}", sign_on::token("ntlm", "ann", 0));
    let answers = site
        .curl(&lab, lab.client(1))
        .http2()
        .transfer(&[&url(PUBLIC)])
        .transfer(&["--header", &token, &url("/")])
        .run();
    let found: Vec<_> = answers
        .iter()
        .map(|answer| (answer.status, answer.http_version.as_str()))
        .collect();
    // The wrong scheme is refused, over HTTP/1.1.
    assert_eq!(found, [(200, "2"), (401, "1.1")], "{}", daemon.log());
    // Who is offered to sign on, with a body as well.
    let answer = site
        .curl(&lab, lab.client(2))
        .http2()
        .post(&url("/"), "a body")
        .one();
    assert_eq!((answer.status, answer.http_version.as_str()), (401, "1.1"));

    for client in [1, 2] {
        assert_eq!(agreed(lab.client(client)).as_deref(), Some("http/1.1"));
    }
    assert_eq!(agreed(lab.client(3)).as_deref(), Some("h2"));
}

#[test]
fn heads_of_seventy_kilobytes_pass_on_both_versions_of_http() {
    let lab = Lab::one_arm().build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let narrow = site.service(
        "narrow",
        vip(8443),
        POOL,
        "limits = { header_size = \"16KiB\" }\nbackend_port = 443",
    );
    daemon.reload(&site.configuration(&lab).text(&narrow));
    let narrow = format!("https://{PORTAL}:8443/x");
    let ask = |url: &str, http2: bool, length: usize| {
        let curl = site.curl(&lab, lab.client(1)).resolve(PORTAL, vip(8443));
        let curl = if http2 { curl.http2() } else { curl.http1() };
        let line = format!("X-Ticket: {}", "t".repeat(length));
        curl.header(&line).get(url).one().status
    };

    // Of 72 KiB, 73,728 bytes, curl's own headers take some hundred; of HTTP/2 it sends 64 KiB.
    for (length, http2, status) in [
        (48_000, false, 200),
        (48_000, true, 200),
        (72_800, false, 200),
        (64_000, true, 200),
        (73_728, false, 431),
    ] {
        assert_eq!(ask(&url("/x"), http2, length), status, "{length} {http2}");
    }
    for http2 in [false, true] {
        assert_eq!(ask(&narrow, http2, 15_000), 200, "{http2}");
        assert_eq!(ask(&narrow, http2, 16_384), 431, "{http2}");
    }
    let tickets: Vec<usize> = site
        .origins
        .iter()
        .flat_map(|origin| origin.records())
        .filter_map(|record| record.header("x-ticket").map(str::len))
        .collect();
    assert_eq!(tickets, [48_000, 48_000, 72_800, 64_000, 15_000, 15_000]);
}

/// A real site, and what its users see of it through the balancer.
struct Real<'lab> {
    lab: &'lab Lab,
    authority: Authority,
    site: Kerberos,
}

const USERS: usize = 12;

impl<'lab> Real<'lab> {
    fn start(lab: &'lab Lab) -> Self {
        let authority = Authority::new(lab.directory(), "ca");
        let backends = [lab.gateway(1), lab.gateway(2)];
        let site = Kerberos::start(lab, &authority, lab.router(), USERS, &backends);
        Self {
            lab,
            authority,
            site,
        }
    }

    fn configuration(&self) -> Configuration {
        let certificate = self.authority.certificate(&[PORTAL]);
        let backends: Vec<String> = self
            .lab
            .gateways()
            .iter()
            .map(lb_tests::lab::configuration::backend)
            .collect();
        // Apache asks for a sign-on, and so it is there.
        let health = HEALTH.replace("/healthcheck\"", "/\", expect_status = [401]");
        Configuration::new()
            .pool(POOL, &backends, &health)
            .text(&format!(
                "[[service]]\nname = \"{SERVICE}\"\nvip = \"{}\"\nport = 443\nprotocol = \"tcp\"\n\
             forwarding = \"http\"\npool = \"{POOL}\"\n\
             tls = {{ certificates = [{{ certificate = \"{}\", key = \"{}\" }}] }}\n\
             backend_tls = {{ verify = \"ca\", ca = \"{}\", server_name = \"{PORTAL}\" }}\n\
             persistence = {{ key = \"source-ip\", timeout = \"30m\" }}\n",
                vip(443).ip(),
                certificate.certificate.display(),
                certificate.key.display(),
                self.authority.file().display(),
            ))
    }

    fn curl(&self, source: SocketAddr) -> Curl {
        Curl::on(self.lab, self.lab.campus())
            .from(source)
            .resolve(PORTAL, vip(443))
            .trust(&self.authority.file())
    }

    fn negotiate(&self, source: SocketAddr, environment: &[(String, String)]) -> Curl {
        self.curl(source)
            .options(&["--negotiate", "--user", ":"])
            .environment(environment)
    }

    #[track_caller]
    fn assert_is(&self, answer: &Fetched, name: &str) {
        assert_eq!(
            (answer.status, answer.header("x-user")),
            (200, Some(name)),
            "{answer:?}; {}{}",
            self.site.log(1),
            self.site.log(2)
        );
    }
}

#[test]
fn users_sign_on_by_kerberos_through_the_balancer() {
    let lab = Lab::one_arm().campus().build();
    let mut real = Real::start(&lab);
    let daemon = Daemon::start(&lab, &real.configuration());
    let page = url("/");
    let from = campus_v4;

    // Over HTTP/1.1, many requests, each with a token.
    let mut command = real.negotiate(from(1), &real.site.user(1)).http1();
    for _ in 0..20 {
        command = command.get(&page);
    }
    for answer in command.run() {
        real.assert_is(&answer, &real.site.name(1));
    }

    // The second request brings no token, and is the user's for the connection alone.
    let answers = real
        .curl(from(1))
        .http1()
        .environment(&real.site.user(2))
        .transfer(&["--negotiate", "--user", ":", &page])
        .transfer(&[&page])
        .run();
    for answer in &answers {
        real.assert_is(answer, &real.site.name(2));
    }
    assert_eq!(answers[1].connections, 0);
    assert_eq!(
        answers[0].header("x-connection"),
        answers[1].header("x-connection")
    );
    let stranger = real.curl(from(1)).http1().get(&page).one();
    assert_eq!((stranger.status, stranger.header("x-user")), (401, None));
    assert_ne!(
        stranger.header("x-connection"),
        answers[1].header("x-connection")
    );

    // From HTTP/2: the stream is reset and the request repeated; afterwards HTTP/1.1 is all there is.
    for (round, reset) in [(0, true), (1, false)] {
        let answer = real
            .negotiate(from(9), &real.site.user(3))
            .http2()
            .options(&["--verbose"])
            .get(&page)
            .one();
        real.assert_is(&answer, &real.site.name(3));
        assert_eq!(answer.http_version, "1.1", "{round}");
        assert_eq!(answer.connections, if reset { 2 } else { 1 }, "{answer:?}");
    }

    // A large ticket, on both ways.
    for curl in [
        real.negotiate(from(1), &real.site.large_user()).http1(),
        real.negotiate(from(10), &real.site.large_user()).http2(),
    ] {
        let large = curl.get(&page).one();
        real.assert_is(&large, &real.site.large_name());
    }

    // The servers are restarted, and what was bound to them is forgotten.
    for server in [1, 2] {
        real.site.restart(server);
        eventually(BOUND, "the servers are up", || {
            daemon.status().backends().all(|backend| backend.is_up())
        });
        let answer = real
            .negotiate(from(1), &real.site.user(4))
            .http1()
            .get(&page)
            .one();
        real.assert_is(&answer, &real.site.name(4));
    }
}

#[test]
fn many_users_of_kerberos_are_each_themselves() {
    let lab = Lab::one_arm().campus().build();
    let real = Real::start(&lab);
    let _daemon = Daemon::start(&lab, &real.configuration());
    let page = url("/");
    // 180 answers each.
    let rounds = asked_for("LB_SIGN_ON_ROUNDS", 6);

    let answers: usize = thread::scope(|scope| {
        let users: Vec<_> = (1..=USERS)
            .map(|user| {
                let (real, page) = (&real, &page);
                scope.spawn(move || {
                    let mut count = 0;
                    for round in 0..rounds {
                        let source = campus_v4([1, 2, 3][round as usize % 3]);
                        let mut curl = real.curl(source).http1().environment(&real.site.user(user));
                        // One in four requests brings a token; a stranger's come between.
                        for request in 0..12 {
                            curl = match request % 4 {
                                0 => curl.transfer(&["--negotiate", "--user", ":", page]),
                                _ => curl.transfer(&[page]),
                            };
                        }
                        for answer in curl.run() {
                            real.assert_is(&answer, &real.site.name(user));
                            count += 1;
                        }
                        // The page that needs nobody's name leaves connections in the pool.
                        let public = url(PUBLIC);
                        let strangers = real.curl(source).get(&public).get(page).get(&public).run();
                        for (stranger, status) in strangers.iter().zip([404, 401, 404]) {
                            let found = (stranger.status, stranger.header("x-user"));
                            assert_eq!(found, (status, None), "{stranger:?}");
                            count += 1;
                        }
                    }
                    count
                })
            })
            .collect();
        users
            .into_iter()
            .map(|user| user.join().expect("no user is mistaken"))
            .sum()
    });

    let mut log = String::new();
    for number in [1, 2] {
        let _ = write!(log, "{}", real.site.log(number));
    }
    println!("{answers} answers, {} lines of log", log.lines().count());
}
