//! Backends that have as much as they may: new clients wait for room, and not for ever.

use std::time::Duration;

use lb_tests::lab::{
    Daemon, Lab,
    configuration::backend_with,
    eventually::eventually,
    gate::Gate,
    origin::Response,
    raw::Raw,
    site::{campus_v4, vip},
    web_site::{HEALTH, POOL, PORTAL, SERVICE, WebSite},
};

const BOUND: Duration = Duration::from_secs(10);

/// A site with one backend that takes two requests at a time, which hang on `/hang` until the gate
/// is opened.
fn site(lab: &Lab, more: &str) -> (WebSite, Gate, lb_tests::lab::Configuration) {
    let site = WebSite::start(lab);
    let gate = Gate::new();
    for origin in &site.origins {
        let gate = gate.clone();
        origin.answer(move |request| match request.path().as_str() {
            "/hang" => Some(Response::identity().after(&gate)),
            _ => None,
        });
    }
    let backend = backend_with(lab.gateway(1), "max_connections = 2");
    let configuration = lb_tests::lab::Configuration::new()
        .pool(POOL, &[backend], HEALTH)
        .text(&site.service(SERVICE, vip(443), POOL, more));
    (site, gate, configuration)
}

fn ask(lab: &Lab, site: &WebSite, number: u16) -> Raw {
    let mut client = Raw::tcp_from(lab.campus(), campus_v4(number), vip(443))
        .and_then(|client| client.tls(&site.client(&["http/1.1"]), PORTAL))
        .expect("a connection");
    client
        .send(format!("GET /hang HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"))
        .expect("sent");
    client
}

#[test]
fn a_new_client_waits_until_a_full_backend_has_room() {
    let lab = Lab::one_arm().gateways(1).campus().build();
    let (site, gate, configuration) = site(&lab, "timeouts = { connect = \"30s\" }\n");
    let _daemon = Daemon::start(&lab, &configuration);
    let origin = site.origin("gateway1");
    let hanging = || {
        let records = origin.records();
        records
            .iter()
            .filter(|record| record.path() == "/hang")
            .count()
    };

    let mut clients: Vec<Raw> = (1..=3).map(|number| ask(&lab, &site, number)).collect();
    eventually(BOUND, "two requests are at the backend", || hanging() == 2);
    clients[2].set_bound(Duration::from_millis(500));
    assert!(clients[2].answer_head().is_err(), "it has no room");
    assert_eq!(hanging(), 2);

    gate.open();
    for client in &mut clients {
        client.set_bound(BOUND);
        assert_eq!(client.answer("GET").expect("an answer").status, 200);
    }
}

#[test]
fn who_waits_too_long_for_a_full_backend_is_told() {
    let lab = Lab::one_arm().gateways(1).campus().build();
    let (site, gate, configuration) = site(&lab, "timeouts = { connect = \"1s\" }\n");
    let daemon = Daemon::start(&lab, &configuration);
    let origin = site.origin("gateway1");

    let mut clients: Vec<Raw> = (1..=2).map(|number| ask(&lab, &site, number)).collect();
    eventually(BOUND, "two requests are at the backend", || {
        let records = origin.records();
        records
            .iter()
            .filter(|record| record.path() == "/hang")
            .count()
            == 2
    });
    let mut late = ask(&lab, &site, 3);
    late.set_bound(BOUND);
    let answer = late.answer("GET").expect("an answer");

    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("backends_full"), "{}", answer.text());
    let status = daemon.status();
    assert_eq!(status.service(SERVICE).failures("backends_full"), 1);
    // The two that have room are not disturbed.
    gate.open();
    for client in &mut clients {
        client.set_bound(BOUND);
        assert_eq!(client.answer("GET").expect("an answer").status, 200);
    }
}
