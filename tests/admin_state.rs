//! Drain, halt and enable: what the administrator wants of a backend.

use std::{net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab, Load,
    configuration::{HEALTH, POOL, SERVICE, backend},
    eventually::eventually,
    process::{Outcome, Process},
    site::{campus_v4, vip},
};

const BOUND: Duration = Duration::from_secs(5);

#[test]
fn a_draining_backend_keeps_its_clients_and_gets_no_new_ones() {
    let lab = Lab::one_arm().campus().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let old: Vec<SocketAddr> = (1..=20).map(campus_v4).collect();
    let old_clients = lab.campus().udp_from_each(&old, vip(443));
    let homes: Vec<String> = old_clients.iter().map(|client| client.backend()).collect();
    assert!(homes.iter().any(|home| home == "gateway1"));

    daemon
        .cli(&["drain", "gateway1", "--reason", "new certificate"])
        .ok();

    let status = daemon.status();
    assert_eq!(status.backend("gateway1").admin_state(), "drain");
    assert_eq!(
        status.backend("gateway1").admin_reason(),
        Some("new certificate")
    );
    assert!(
        status.backend("gateway1").is_up(),
        "health is another matter"
    );
    // The flows of old clients stay, and so do the new flows of old clients.
    let again = lab.campus().udp_from_each(&old, vip(443));
    for ((client, new_flow), home) in old_clients.iter().zip(&again).zip(&homes) {
        assert_eq!((&client.backend(), &new_flow.backend()), (home, home));
    }
    let new: Vec<SocketAddr> = (1000..1050).map(campus_v4).collect();
    for client in lab.campus().udp_from_each(&new, vip(443)) {
        assert_eq!(client.backend(), "gateway2");
    }
}

#[test]
fn halt_moves_everybody_at_once_and_loses_nothing() {
    let lab = Lab::one_arm().campus().build();
    let mut gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let sources: Vec<SocketAddr> = (1..=40).map(campus_v4).collect();
    let load = Load::start(lab.campus().udp_from_each(&sources, vip(443)), 2000);
    load.await_answers(1000, BOUND);

    daemon.cli(&["halt", "ras-gateways/gateway1"]).ok();
    // What was on its way may still arrive; then nothing does.
    load.await_answers(200, BOUND);
    let before = gateways.named("gateway1").service.received();
    load.await_answers(1000, BOUND);
    let report = load.finish();

    assert!(before > 0);
    assert_eq!(gateways.named("gateway1").service.received(), before);
    report.assert_nothing_lost();
    for flow in report.flows {
        assert!(flow.backends.contains("gateway2"), "{flow:?}");
    }
    assert_eq!(daemon.status().backend("gateway1").admin_state(), "halt");
}

#[test]
fn enable_takes_a_backend_into_service_again() {
    let lab = Lab::one_arm().campus().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    daemon.cli(&["halt", "gateway1"]).ok();
    let sources: Vec<SocketAddr> = (1..=20).map(campus_v4).collect();
    for client in lab.campus().udp_from_each(&sources, vip(443)) {
        assert_eq!(client.backend(), "gateway2");
    }

    daemon.cli(&["enable", "gateway1"]).ok();

    eventually(BOUND, "gateway1 takes clients", || {
        daemon.status().service(SERVICE).eligible() == 2
    });
    let others: Vec<SocketAddr> = (1000..1040).map(campus_v4).collect();
    let clients = lab.campus().udp_from_each(&others, vip(443));
    assert!(clients.iter().any(|client| client.backend() == "gateway1"));
}

#[test]
fn what_the_administrator_wants_survives_a_killed_daemon() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let mut daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    daemon.cli(&["halt", "gateway1", "--reason", "disk"]).ok();

    daemon.kill9();
    daemon.start_again();

    let status = daemon.status();
    assert_eq!(status.backend("gateway1").admin_state(), "halt");
    assert_eq!(status.backend("gateway1").admin_reason(), Some("disk"));
    assert_eq!(lab.client(1).udp(vip(443)).backend(), "gateway2");
}

#[test]
fn drain_can_wait_until_the_last_client_has_gone() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let configuration = Configuration::new()
        .node("flow_timeout = \"2s\"")
        .ras_pool(&lab)
        .udp(
            SERVICE,
            vip(443),
            POOL,
            r#"persistence = { key = "source-ip", timeout = "2s" }"#,
        );
    let daemon = Daemon::start(&lab, &configuration);
    let client = lab.client(1).udp(vip(443));
    let home = client.backend();
    let load = Load::start(vec![client], 20);

    let impatient = daemon.cli(&["drain", &home, "--wait", "--timeout", "2s"]);
    assert_eq!(impatient.code, Some(1), "{}", impatient.text());
    assert!(
        impatient.text().contains('1'),
        "it says how many remain: {}",
        impatient.text()
    );

    let mut waiting = Process::start(
        "vipd drain",
        daemon.cli_command(&["drain", &home, "--wait", "--timeout", "1m"]),
        &lab.directory().join("drain.log"),
    );
    load.await_answers(20, BOUND);
    assert!(
        waiting.is_running(),
        "a client is still there: {}",
        waiting.log()
    );
    let report = load.finish();
    report.assert_nothing_lost();
    report.assert_nothing_moved();
    let status = waiting.wait(Duration::from_secs(30));
    assert!(status.success(), "{}", waiting.log());
    assert_eq!(daemon.status().backend(&home).flows(), 0);
    assert_eq!(daemon.status().backend(&home).clients(), 0);
}

#[test]
fn a_name_that_is_unknown_or_means_two_backends_is_refused() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let configuration = Configuration::ras(&lab)
        .pool("other", &[backend(lab.gateway(1))], HEALTH)
        .udp("other", vip(4443), "other", "backend_port = 443");
    let daemon = Daemon::start(&lab, &configuration);
    let refused = |arguments: &[&str]| {
        let outcome: Outcome = daemon.cli(arguments);
        assert_eq!(outcome.code, Some(1), "{}", outcome.text());
        outcome.stderr
    };

    let ambiguous = refused(&["halt", "gateway1"]);
    assert!(
        ambiguous.contains("ras-gateways/gateway1") && ambiguous.contains("other/gateway1"),
        "{ambiguous}"
    );
    let unknown = refused(&["halt", "gateway9"]);
    assert!(unknown.contains("gateway9"), "{unknown}");
    assert_eq!(daemon.status().service(SERVICE).eligible(), 2);
    daemon.cli(&["halt", "other/gateway1"]).ok();
    eventually(BOUND, "one pool's backend is halted", || {
        let status = daemon.status();
        (
            status.service(SERVICE).eligible(),
            status.service("other").eligible(),
        ) == (2, 0)
    });
}
