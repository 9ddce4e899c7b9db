//! Which pool and which backend a request meets, and what is said to both sides about it.

use std::{collections::BTreeMap, fs, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, Lab,
    curl::Curl,
    eventually,
    origin::Response,
    raw::Raw,
    site::{campus_v4, vip},
    stream::End,
    web_site::{HEALTH, POOL, PORTAL, SERVICE, WebSite, url},
};

const BOUND: Duration = Duration::from_secs(10);

/// A second product on the same address.
const STORE: &str = "store.apps.lab.example";

fn backend_of(curl: Curl, target: &str) -> String {
    let answer = curl.get(target).one();
    assert_eq!(answer.status, 200, "{answer:?}");
    let name = answer.json()["backend"].as_str().map(str::to_owned);
    name.expect("a name")
}

#[test]
fn a_host_leads_to_its_pool_and_a_connection_for_another_is_misdirected() {
    let lab = Lab::one_arm().gateways(2).build();
    let site = WebSite::start(&lab);
    let backends = site.backends(&lab);
    let routes = r#"routes = [{ host = "*.apps.lab.example", pool = "apps" }]"#;
    let configuration = Configuration::new()
        .pool(POOL, &backends[..1], HEALTH)
        .pool("apps", &backends[1..], HEALTH)
        .text(&site.service(SERVICE, vip(443), POOL, routes));
    let daemon = Daemon::start(&lab, &configuration);
    let client = lab.client(1);

    assert_eq!(
        backend_of(site.curl(&lab, client), &url("/")),
        "gateway1",
        "{}",
        daemon.log()
    );
    let store = || site.curl(&lab, client).resolve(STORE, vip(443));
    assert_eq!(
        backend_of(store(), &format!("https://{STORE}/")),
        "gateway2"
    );
    for curl in [store().http1(), store().http2()] {
        // The name in TLS leads to one pool, the host to another.
        let crossed = curl
            .header(&format!("Host: {PORTAL}"))
            .get(&format!("https://{STORE}/"))
            .one();
        assert_eq!(crossed.status, 421, "{crossed:?}");
    }
    let other = store()
        .header("Host: b.apps.lab.example")
        .get(&format!("https://{STORE}/"))
        .one();
    assert_eq!(other.status, 200, "names of one pool share connections");
    let misdirected = daemon.status().service(SERVICE).failures("misdirected");
    assert_eq!(misdirected, 2);
}

#[test]
fn a_cookie_leads_to_its_backend_and_is_no_concern_of_that() {
    let lab = Lab::one_arm().gateways(3).clients(2).build();
    let site = WebSite::start(&lab);
    let more = r#"persistence = { key = "cookie", cookie = { name = "lb" } }"#;
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, more));
    let first = site.curl(&lab, lab.client(1)).get(&url("/")).one();
    assert_eq!(first.status, 200, "{}", daemon.log());
    let cookies = first.headers("set-cookie");
    let [cookie] = cookies.as_slice() else {
        panic!("{cookies:?}");
    };
    for part in ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let value = cookie.split(';').next().expect("a pair").to_owned();
    assert!(value.starts_with("lb="), "{value}");
    assert!(
        !value.contains("gateway") && !value.contains("10."),
        "{value}"
    );
    let home = first.json()["backend"].as_str().map(str::to_owned);
    let home = home.expect("a name");

    for number in 0..8 {
        let client = lab.client(1 + number % 2);
        let answer = site
            .curl(&lab, client)
            .header(&format!("Cookie: a=1; {value}; b=2"))
            .get(&url("/cookie"))
            .one();
        assert_eq!(answer.json()["backend"], *home);
        assert!(answer.headers("set-cookie").is_empty(), "{answer:?}");
    }
    let seen = site
        .origin(&home)
        .await_record("a request with cookies", |record| {
            record.path() == "/cookie"
        });
    assert_eq!(seen.headers("cookie"), ["a=1; b=2"]);

    let strange = site
        .curl(&lab, lab.client(1))
        .header("Cookie: lb=0123456789abcdef")
        .get(&url("/"))
        .one();
    assert_eq!(strange.headers("set-cookie").len(), 1, "{strange:?}");
    // Halted: chosen anew, and told so.
    daemon.cli(&["halt", &home]).ok();
    eventually(BOUND, "it is halted", || {
        !daemon.status().backend(&home).is_eligible()
    });
    let moved = site
        .curl(&lab, lab.client(1))
        .header(&format!("Cookie: {value}"))
        .get(&url("/"))
        .one();
    assert_ne!(moved.json()["backend"], *home);
    assert_eq!(moved.headers("set-cookie").len(), 1, "{moved:?}");
}

#[test]
fn new_clients_are_spread_in_turn_or_to_the_least_busy() {
    for algorithm in ["round-robin", "least-connections"] {
        let lab = Lab::one_arm().gateways(3).build();
        let site = WebSite::start(&lab);
        let backends = site.backends(&lab).join(",");
        let configuration = Configuration::new()
            .node("workers = 1")
            .text(&format!(
                "[[pool]]\nname = \"{POOL}\"\nalgorithm = \"{algorithm}\"\n\
                 backends = [{backends}]\nhealth = {HEALTH}\n"
            ))
            .text(&site.service(SERVICE, vip(443), POOL, "persistence = { key = \"none\" }"));
        let daemon = Daemon::start(&lab, &configuration);
        let gate = lb_tests::lab::gate::Gate::new();
        for origin in &site.origins {
            let gate = gate.clone();
            origin.answer(move |request| {
                (request.path() == "/busy").then(|| Response::identity().after(&gate))
            });
        }
        let mut clients: Vec<Raw> = (0..12).map(|_| site.raw(lab.client(1))).collect();
        for client in &mut clients {
            client
                .send(format!("GET /busy HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"))
                .expect("sent");
        }
        let mut counts = Vec::new();
        eventually(BOUND, "all are under way", || {
            counts = site
                .origins
                .iter()
                .map(|origin| {
                    let records = origin.records();
                    records.iter().filter(|it| it.path() == "/busy").count()
                })
                .collect();
            counts.iter().sum::<usize>() == 12
        });
        assert_eq!(counts, [4, 4, 4], "{algorithm}\n{}", daemon.log());
        gate.open();
        for client in &mut clients {
            assert_eq!(client.answer("GET").expect("an answer").status, 200);
        }
    }
}

#[test]
fn clients_stay_at_their_backend_and_it_knows_them() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let site = WebSite::start(&lab);
    let more = "trusted_proxies = [\"10.30.0.7/32\"]\nhsts = \"365d\"";
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, more));
    let mut homes = BTreeMap::new();
    for number in 1..=12 {
        let source = campus_v4(number);
        let answers: Vec<_> = (0..2)
            .map(|_| {
                site.curl(&lab, lab.campus())
                    .from(source)
                    .header("X-Forwarded-For: 1.2.3.4")
                    .header("X-Forwarded-Proto: http")
                    .get(&url("/"))
                    .one()
            })
            .collect();
        for answer in &answers {
            assert_eq!(answer.status, 200, "{answer:?}\n{}", daemon.log());
            let origin = match number {
                7 => format!("1.2.3.4, {}", source.ip()),
                _ => source.ip().to_string(),
            };
            assert_eq!(answer.json()["client"], *origin);
            assert_eq!(
                answer.header("strict-transport-security"),
                Some("max-age=31536000")
            );
        }
        assert_eq!(answers[0].json()["backend"], answers[1].json()["backend"]);
        homes.insert(answers[0].json()["backend"].to_string(), number);
    }
    assert!(homes.len() > 1, "{homes:?}");
}

#[test]
fn failures_have_the_sites_own_pages() {
    let lab = Lab::one_arm().gateways(1).build();
    let mut site = WebSite::start(&lab);
    let mut errors = Vec::new();
    for status in [502, 503, 504] {
        let file = lab.directory().join(format!("{status}.html"));
        fs::write(&file, format!("<p>our page for {status}</p>")).expect("written");
        errors.push(format!("{status} = \"{}\"", file.display()));
    }
    let more = format!(
        "errors = {{ {} }}\ntimeouts = {{ response = \"1s\" }}",
        errors.join(", ")
    );
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, &more));
    let never = lb_tests::lab::gate::Gate::new();
    site.origins[0].answer(move |request| match request.path().as_str() {
        "/502" => Some(Response::none(End::Reset)),
        "/504" => Some(Response::status(200).after(&never)),
        _ => None,
    });
    let expect = |status: u16| {
        let answer = site
            .curl(&lab, lab.client(1))
            .post(&url(&format!("/{status}")), "x")
            .one();
        assert_eq!(answer.status, status, "{answer:?}\n{}", daemon.log());
        assert_eq!(answer.text(), format!("<p>our page for {status}</p>"));
    };
    expect(502);
    expect(504);
    // What the backend itself says of a failure is its own.
    let own = site
        .curl(&lab, lab.client(1))
        .get(&url("/status/503"))
        .one();
    assert_eq!((own.status, own.text().as_str()), (503, ""));
    site.origins[0].stop(End::Reset);
    eventually(BOUND, "the backend is found down", || {
        !daemon.status().backend("gateway1").is_up()
    });
    let answer = site.curl(&lab, lab.client(1)).get(&url("/503")).one();
    assert_eq!(answer.text(), "<p>our page for 503</p>");
    assert!(answer.header("retry-after").is_some());
}
