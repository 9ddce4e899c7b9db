//! One backend for a client, whatever it speaks: HTTPS, TCP passed through, UDP in the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Configuration, Daemon, IdentityServer, Lab,
    eventually::{always, eventually},
    origin::Origin,
    raw::Raw,
    site::{campus_v4, vip},
    status::explanations,
    stream::End,
    web_site::{HEALTH, POOL, PORTAL, WebSite},
};

const BOUND: Duration = Duration::from_secs(10);
/// TCP that is passed through.
const PLAIN_PORT: u16 = 80;
/// TCP that is passed through to the backends' HTTPS.
const THROUGH_PORT: u16 = 8443;

/// Backends with HTTPS on TCP 443, HTTP on TCP 80 and an answer on UDP 443.
struct Site<'lab> {
    lab: &'lab Lab,
    web: WebSite,
    plain: Vec<Origin>,
    _udp: Vec<IdentityServer>,
}

fn persistence(timeout: &str) -> String {
    format!("persistence = {{ key = \"source-ip\", timeout = \"{timeout}\" }}")
}

/// One way to meet a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Https,
    Plain,
    Through,
    Udp,
}

const WAYS: [Way; 4] = [Way::Https, Way::Plain, Way::Through, Way::Udp];

impl<'lab> Site<'lab> {
    fn start(lab: &'lab Lab) -> Self {
        Self {
            lab,
            web: WebSite::start(lab),
            plain: lab
                .gateways()
                .iter()
                .map(|host| Origin::on(host, PLAIN_PORT).start())
                .collect(),
            _udp: lab
                .gateways()
                .iter()
                .map(|host| IdentityServer::start(host, 443))
                .collect(),
        }
    }

    /// Every service with an affinity of `timeout`; `plain` are further lines of TCP 80.
    fn configuration(&self, timeout: &str, plain: &str) -> Configuration {
        self.checked(HEALTH, timeout, plain)
    }

    /// The same with another check of the backends.
    fn checked(&self, health: &str, timeout: &str, plain: &str) -> Configuration {
        Configuration::new()
            .pool(POOL, &self.web.backends(self.lab), health)
            .udp("udp", vip(443), POOL, &persistence(timeout))
            .text(&self.proxied(timeout, plain))
    }

    /// The services of the proxy.
    fn proxied(&self, timeout: &str, plain: &str) -> String {
        let persistence = persistence(timeout);
        let tcp = |name: &str, port: u16, more: &str| {
            format!(
                "[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = {port}\nprotocol = \"tcp\"\n\
                 forwarding = \"tcp\"\npool = \"{POOL}\"\n{persistence}\n{more}\n",
                vip(port).ip()
            )
        };
        [
            self.web.service("https", vip(443), POOL, &persistence),
            tcp("plain", PLAIN_PORT, plain),
            tcp("through", THROUGH_PORT, "backend_port = 443"),
        ]
        .join("\n")
    }

    fn connect(&self, way: Way, source: SocketAddr) -> Raw {
        let (port, alpn) = match way {
            Way::Https => (443, "http/1.1"),
            Way::Plain => (PLAIN_PORT, ""),
            Way::Through => (THROUGH_PORT, ""),
            Way::Udp => unreachable!("it has no connections"),
        };
        let raw = Raw::tcp_from(self.lab.campus(), source, vip(port)).expect("a connection");
        match way {
            Way::Https => raw.tls(&self.web.client(&[alpn]), PORTAL).expect("TLS"),
            Way::Through => raw
                .tls(&self.web.client(&[]), lb_tests::lab::web_site::INSIDE)
                .expect("TLS"),
            Way::Plain | Way::Udp => raw,
        }
    }

    /// Returns the backend that a client meets.
    #[track_caller]
    fn met(&self, way: Way, source: SocketAddr) -> String {
        if way == Way::Udp {
            return self.lab.campus().udp_from(source, vip(443)).backend();
        }
        backend(&mut self.connect(way, source))
    }

    /// Returns the one backend that a client meets on every way, the first of them first.
    #[track_caller]
    fn one(&self, source: SocketAddr, first: usize) -> String {
        let met: Vec<(Way, String)> = (0..WAYS.len())
            .map(|place| WAYS[(first + place) % WAYS.len()])
            .map(|way| (way, self.met(way, source)))
            .collect();
        assert!(met.iter().all(|of| of.1 == met[0].1), "{source}: {met:?}");
        met[0].1.clone()
    }

    fn plain(&mut self, name: &str) -> &mut Origin {
        let found = self.plain.iter_mut().find(|origin| origin.name() == name);
        found.expect("each backend has one")
    }

    fn https(&mut self, name: &str) -> &mut Origin {
        let found = self
            .web
            .origins
            .iter_mut()
            .find(|origin| origin.name() == name);
        found.expect("each backend has one")
    }
}

#[track_caller]
fn backend(raw: &mut Raw) -> String {
    let answer = raw.get(PORTAL, "/", "").expect("an answer");
    answer.header("x-backend").expect("a name").to_owned()
}

fn await_eligible(daemon: &Daemon<'_>, name: &str) {
    eventually(BOUND, "the backend takes clients again", || {
        daemon.status().backend(name).is_eligible()
    });
}

/// Returns whether `client` belongs somewhere, by what `explain` says of the UDP service.
fn belongs(daemon: &Daemon<'_>, client: SocketAddr) -> bool {
    let output = daemon
        .cli(&["explain", &client.ip().to_string(), "--json"])
        .ok();
    let all = explanations(&output);
    let udp = all.iter().find(|one| one.service == "udp");
    udp.expect("it is explained").because == "affinity"
}

#[test]
fn two_hundred_clients_meet_one_backend_each_on_every_service() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let site = Site::start(&lab);
    let configuration = site.configuration("30m", "").node("workers = 2");
    let mut daemon = Daemon::start(&lab, &configuration);
    let mut of: BTreeMap<u16, String> = BTreeMap::new();

    for number in 1..=200 {
        let met = site.one(campus_v4(number), usize::from(number));
        of.insert(number, met);
    }

    let mut clients: BTreeMap<&String, usize> = BTreeMap::new();
    for name in of.values() {
        *clients.entry(name).or_default() += 1;
    }
    println!("{clients:?}");
    assert_eq!(clients.len(), 3);
    // It is counted about once a second.
    eventually(BOUND, "each client is remembered once", || {
        daemon.status().remembered() == 200
    });

    // One that is moved away from its hash shows that the table survives the daemon, not the hash.
    let moved = of[&1].clone();
    daemon.cli(&["halt", &moved]).ok();
    for (number, name) in &mut of {
        if *name == moved {
            let source = campus_v4(*number);
            let now = site.one(source, usize::from(*number));
            assert_ne!(now, moved);
            *name = now;
        }
    }
    daemon.cli(&["enable", &moved]).ok();
    await_eligible(&daemon, &moved);
    for killed in [false, true] {
        if killed {
            daemon.kill9();
        } else {
            daemon.terminate();
        }
        daemon.start_again();
        eventually(BOUND, "every backend is eligible", || {
            daemon
                .status()
                .backends()
                .all(|backend| backend.is_eligible())
        });
        for (number, name) in of.iter().step_by(3) {
            let met = site.one(campus_v4(*number), usize::from(*number) + 1);
            assert_eq!(met, *name, "client {number}");
        }
    }
}

#[test]
fn clients_of_a_backend_out_of_service_are_moved_together_and_once() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let mut site = Site::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration("30m", ""));

    for (base, by_health) in [(1, true), (101, false)] {
        let before: Vec<(u16, String)> = (base..base + 60)
            .map(|number| (number, site.one(campus_v4(number), usize::from(number))))
            .collect();
        let out = before[0].1.clone();
        if by_health {
            site.https(&out).stop(End::Reset);
            eventually(BOUND, "the backend is found down", || {
                !daemon.status().backend(&out).is_up()
            });
        } else {
            daemon.cli(&["halt", &out]).ok();
        }

        let mut elsewhere = BTreeSet::new();
        let mut after = Vec::new();
        for (number, name) in &before {
            let met = site.one(campus_v4(*number), usize::from(*number) + 1);
            if *name == out {
                assert_ne!(met, out, "client {number}");
                elsewhere.insert(met.clone());
            } else {
                assert_eq!(met, *name, "client {number} had no reason to move");
            }
            after.push((*number, met));
        }
        assert_eq!(elsewhere.len(), 2, "they are spread over the others");

        if by_health {
            site.https(&out).resume();
        } else {
            daemon.cli(&["enable", &out]).ok();
        }
        await_eligible(&daemon, &out);
        for (number, name) in &after {
            let met = site.one(campus_v4(*number), usize::from(*number) + 2);
            assert_eq!(met, *name, "client {number} is moved once");
        }
    }
}

#[test]
fn a_port_that_refuses_detours_its_own_services_and_nobody_is_moved() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let mut site = Site::start(&lab);
    let http = HEALTH
        .replace("\"https\"", "\"http\", port = 80")
        .replace(", verify = \"none\"", "");
    let daemon = Daemon::start(&lab, &site.configuration("30m", ""));

    for (base, health, refuse) in [
        (1, HEALTH, &[Way::Plain][..]),
        (101, http.as_str(), &[Way::Https, Way::Through]),
    ] {
        daemon.reload(&site.checked(health, "30m", ""));
        let old: Vec<(u16, String)> = (base..base + 40)
            .map(|number| (number, site.one(campus_v4(number), usize::from(number))))
            .collect();
        let refusing = old[0].1.clone();
        let origin = match refuse {
            [Way::Plain] => site.plain(&refusing),
            _ => site.https(&refusing),
        };
        origin.stop(End::Reset);

        for (number, name) in &old {
            for way in WAYS.iter().chain(&WAYS) {
                let met = site.met(*way, campus_v4(*number));
                let expected = !refuse.contains(way) || *name != refusing;
                assert_eq!(met == *name, expected, "client {number} {way:?} met {met}");
            }
        }
        // New clients that come by a refusing port first belong where their address says.
        let mut all = old;
        for number in base + 1000..base + 1040 {
            let source = campus_v4(number);
            assert_ne!(site.met(refuse[0], source), refusing);
            all.push((number, site.met(Way::Udp, source)));
        }
        assert!(
            all[40..].iter().any(|(_, name)| *name == refusing),
            "{all:?}"
        );
        assert!(daemon.status().backend(&refusing).is_up());

        let origin = match refuse {
            [Way::Plain] => site.plain(&refusing),
            _ => site.https(&refusing),
        };
        origin.resume();
        for (number, name) in &all {
            let met = site.one(campus_v4(*number), usize::from(*number));
            assert_eq!(met, *name, "client {number}");
        }
    }
}

#[test]
fn a_services_own_check_detours_it_alone() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let mut site = Site::start(&lab);
    let check = r#"health = { type = "http", path = "/healthcheck", port = 80, interval = "300ms", timeout = "300ms", rise = 1, fall = 2 }"#;
    let daemon = Daemon::start(&lab, &site.configuration("30m", check));
    let own: Vec<(u16, String)> = (1..=30)
        .map(|number| (number, site.one(campus_v4(number), usize::from(number))))
        .collect();
    let failing = own[0].1.clone();

    site.plain(&failing).answer(|request| {
        let asked = request.path() == "/healthcheck";
        asked.then(|| lb_tests::lab::origin::Response::status(500))
    });
    eventually(BOUND, "the service's own check fails", || {
        site.met(Way::Plain, campus_v4(own[0].0)) != failing
    });
    for (number, name) in &own {
        let source = campus_v4(*number);
        let met = site.met(Way::Plain, source);
        assert_eq!(met == *name, *name != failing, "client {number} met {met}");
        for way in [Way::Udp, Way::Https, Way::Through] {
            assert_eq!(site.met(way, source), *name, "client {number} {way:?}");
        }
    }
    assert!(daemon.status().backend(&failing).is_up());

    site.plain(&failing).answer_by_path();
    eventually(BOUND, "the service's own check passes", || {
        site.met(Way::Plain, campus_v4(own[0].0)) == failing
    });
    for (number, name) in &own {
        assert_eq!(site.met(Way::Plain, campus_v4(*number)), *name);
    }
}

#[test]
fn an_entry_ages_only_when_the_last_connection_has_gone_and_a_drain_waits_for_it() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let site = Site::start(&lab);
    // With the 16 s that are given to each: 18 s.
    let configuration = site
        .configuration("2s", "")
        .node("flow_timeout = \"1s\"")
        .node("flow_timeout_unreplied = \"1s\"")
        .node("workers = 2");
    let daemon = Daemon::start(&lab, &configuration);
    let lifetime = Duration::from_secs(18);
    let mut on: BTreeMap<String, Vec<SocketAddr>> = BTreeMap::new();
    for number in 1..=20 {
        let source = campus_v4(number);
        on.entry(site.one(source, 0)).or_default().push(source);
    }
    let drained = on.keys().next().expect("a backend").clone();
    let clients = on[&drained].clone();
    let ways = [Way::Https, Way::Plain, Way::Through];
    let mut connections: Vec<(SocketAddr, Raw)> = clients
        .iter()
        .copied()
        .zip(ways)
        .map(|(source, way)| (source, site.connect(way, source)))
        .collect();
    for (_, raw) in &mut connections {
        assert_eq!(backend(raw), drained);
    }
    let alone = *clients.get(3).expect("four of twenty clients");
    assert_eq!(site.met(Way::Udp, alone), drained);

    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let outcome = daemon.cli(&["drain", &drained, "--wait", "--timeout", "100s"]);
            (outcome, Instant::now())
        });
        eventually(
            lifetime + BOUND,
            "a client without connections is forgotten",
            || !belongs(&daemon, alone),
        );
        always(Duration::from_secs(10), "the others are not", || {
            connections
                .iter()
                .all(|(source, _)| belongs(&daemon, *source))
        });
        assert!(!waiting.is_finished(), "somebody is still connected");
        // Where they belong they are served, though nobody else is.
        for (source, raw) in &mut connections {
            assert_eq!(backend(raw), drained);
            assert_eq!(site.met(Way::Udp, *source), drained);
        }
        assert_ne!(site.met(Way::Udp, alone), drained);

        let closed = Instant::now();
        connections
            .drain(..)
            .for_each(|(_, raw)| raw.end(End::Close));
        let (outcome, ended) = waiting.join().expect("no panic");
        outcome.ok();
        let took = ended - closed;
        println!("the drain ended {took:?} after the last connection");
        assert!(
            took > Duration::from_secs(5) && took < lifetime + BOUND,
            "{took:?}"
        );
    });
}

#[test]
fn connections_that_begin_together_meet_one_backend_however_clients_are_spread() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let site = Site::start(&lab);
    for algorithm in ["round-robin", "least-connections"] {
        let health = format!("{HEALTH}\nalgorithm = \"{algorithm}\"");
        let configuration = Configuration::new()
            .node("workers = 2")
            .pool(POOL, &site.web.backends(&lab), &health)
            .text(&site.proxied("30m", ""));
        let daemon = Daemon::start(&lab, &configuration);
        let mut all = BTreeSet::new();
        let base = if algorithm == "round-robin" { 1 } else { 501 };
        for number in base..base + 12 {
            let source = campus_v4(number);
            let met: BTreeSet<String> = thread::scope(|scope| {
                let all: Vec<_> = (0..8)
                    .map(|place| {
                        let way = if place % 2 == 0 {
                            Way::Https
                        } else {
                            Way::Plain
                        };
                        let site = &site;
                        scope.spawn(move || site.met(way, source))
                    })
                    .collect();
                all.into_iter()
                    .map(|one| one.join().expect("an answer"))
                    .collect()
            });
            assert_eq!(met.len(), 1, "{algorithm}: client {number} met {met:?}");
            let met = met.into_iter().next().expect("one");
            all.insert(met);
        }
        assert_eq!(all.len(), 3, "{algorithm}");
        drop(daemon);
    }
}

#[test]
fn a_backend_out_of_service_ends_its_tunnels_at_once_and_nobody_elses() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let mut site = Site::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration("30m", ""));

    for (base, by_health) in [(1, false), (101, true)] {
        let mut tunnels: Vec<(String, Raw)> = (base..base + 20)
            .map(|number| {
                let way = if number % 2 == 0 {
                    Way::Plain
                } else {
                    Way::Through
                };
                let mut raw = site.connect(way, campus_v4(number));
                (backend(&mut raw), raw)
            })
            .collect();
        let out = tunnels[0].0.clone();
        assert!(tunnels.iter().any(|(name, _)| *name != out));
        if by_health {
            // The page is broken; the connections are not.
            site.https(&out).answer(|request| {
                let asked = request.path() == "/healthcheck";
                asked.then(|| lb_tests::lab::origin::Response::status(503))
            });
            eventually(BOUND, "the backend is found down", || {
                !daemon.status().backend(&out).is_up()
            });
        } else {
            daemon.cli(&["halt", &out]).ok();
        }
        for (name, raw) in &mut tunnels {
            if *name == out {
                raw.await_end(Duration::from_secs(3)).expect("an end");
            } else {
                assert_eq!(backend(raw), *name);
            }
        }
        site.https(&out).answer_by_path();
        daemon.cli(&["enable", &out]).ok();
        await_eligible(&daemon, &out);
    }
}
