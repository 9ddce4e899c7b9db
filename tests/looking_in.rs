//! What the daemon tells: `explain`, `flows`, `status`.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab,
    configuration::SERVICE,
    eventually::eventually,
    process::Process,
    site::{campus_v4, vip},
    status::{explanations, flows},
};

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn explain_says_what_the_backend_saw_for_a_hundred_clients() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let sources: Vec<SocketAddr> = (1..=100).map(campus_v4).collect();
    let clients = lab.campus().udp_from_each(&sources, vip(443));

    for (client, source) in clients.iter().zip(&sources) {
        let explain = || {
            let output = daemon
                .cli(&["explain", &source.ip().to_string(), "--json"])
                .ok();
            explanations(&output).remove(0)
        };
        let before = explain();
        let answer = client.ask("hello");
        let after = explain();

        assert_eq!(
            (before.service.as_str(), before.because.as_str()),
            (SERVICE, "source_hash")
        );
        assert_eq!(before.backend.as_deref(), Some(answer.backend.as_str()));
        assert_eq!(after.because, "affinity");
        assert_eq!(after.backend.as_deref(), Some(answer.backend.as_str()));
        assert_eq!(after.snat, [answer.source]);
    }
}

#[test]
fn explain_tells_people_the_backend_and_why() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let client = lab.client(1).udp(vip(443));
    let answer = client.ask("hello");

    let text = daemon
        .cli(&["explain", &lab.client(1).v4().to_string()])
        .ok();

    assert!(text.contains(&answer.backend), "{text}");
    assert!(text.contains(&answer.source.to_string()), "{text}");
    assert!(text.contains(SERVICE), "{text}");
}

#[test]
fn flows_are_listed_with_both_sides_of_their_translation() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let sources: Vec<SocketAddr> = (1..=30).map(campus_v4).collect();
    let clients = lab.campus().udp_from_each(&sources, vip(443));
    let seen: BTreeMap<SocketAddr, (String, SocketAddr)> = clients
        .iter()
        .map(|client| (client.local(), client.ask("hello")))
        .map(|(local, answer)| (local, (answer.backend, answer.source)))
        .collect();

    let listed = flows(&daemon.cli(&["flows", "--json"]).ok());

    assert_eq!(listed.len(), 30);
    for flow in &listed {
        let (backend, source) = &seen[&flow.client];
        assert_eq!((flow.backend.as_ref(), &flow.snat), (Some(backend), source));
        assert_eq!(
            (flow.vip, flow.endpoint.port(), flow.replied),
            (vip(443), 443, true)
        );
    }
    let text = daemon.cli(&["flows"]).ok();
    assert!(text.contains(&clients[0].local().to_string()), "{text}");
}

#[test]
fn the_status_for_people_shows_services_backends_and_the_data_path() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    lab.client(1).udp(vip(443)).ask("hello");

    let text = daemon.cli(&["status"]).ok();

    for expected in [
        SERVICE,
        "10.20.90.105",
        "gateway1",
        "gateway2",
        "up",
        "active",
        "native",
        "eth0",
    ] {
        assert!(text.contains(expected), "no {expected} in\n{text}");
    }
}

#[test]
fn the_status_can_be_watched_through_a_pipe() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));

    let watch = Process::start(
        "vipd status --watch",
        daemon.cli_command(&["status", "--watch"]),
        &lab.directory().join("watch.log"),
    );

    eventually(BOUND, "it is printed again", || {
        watch.log().matches(SERVICE).count() >= 3
    });
}

#[test]
fn flows_end_after_their_time() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let configuration = Configuration::ras(&lab)
        .node("flow_timeout = \"2s\"")
        .node("flow_timeout_unreplied = \"1s\"");
    let daemon = Daemon::start(&lab, &configuration);
    lab.client(1).udp(vip(443)).ask("hello");

    eventually(BOUND, "the flow is counted", || {
        daemon.status().flows() == 1
    });
    eventually(Duration::from_secs(30), "the flow has ended", || {
        daemon.status().flows() == 0
    });
    let output = daemon.cli(&["flows", "--json"]).ok();
    assert!(flows(&output).is_empty(), "{output}");
}
