//! A changed file, under traffic.

use std::{fs, net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab, Load,
    configuration::{HEALTH, POOL, SERVICE, SIX_HOURS, backend, backend_with},
    eventually::eventually,
    site::{campus_v4, vip},
};

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_reload_touches_no_flow_that_the_change_does_not_concern() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &with_gateways(&lab, &[1, 2]));
    let load = traffic(&lab);
    load.await_answers(2000, BOUND);

    daemon.reload(&with_gateways(&lab, &[1, 2, 3]));
    eventually(BOUND, "the new backend is eligible", || {
        daemon.status().service(SERVICE).eligible() == 3
    });
    load.await_answers(1000, BOUND);
    let heavier = [
        backend(lab.gateway(1)),
        backend_with(lab.gateway(2), "weight = 300"),
    ];
    let another = Configuration::new()
        .pool(POOL, &heavier, HEALTH)
        .udp(SERVICE, vip(443), POOL, SIX_HOURS)
        .udp("another", vip(4443), POOL, "backend_port = 443");
    daemon.reload(&another);
    load.await_answers(1000, BOUND);
    lab.client(1).udp(vip(4443)).ask("a service that was added");
    let report = load.finish();

    report.assert_nothing_lost();
    report.assert_nothing_moved();
    assert_eq!(daemon.status().generation(), 3);
}

#[test]
fn flows_of_a_backend_that_is_removed_move_and_none_is_lost() {
    let lab = Lab::one_arm().campus().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &with_gateways(&lab, &[1, 2]));
    let load = traffic(&lab);
    load.await_answers(2000, BOUND);

    daemon.reload(&with_gateways(&lab, &[2]));
    load.await_answers(2000, BOUND);
    let report = load.finish();

    report.assert_nothing_lost();
    let moved = report
        .flows
        .iter()
        .filter(|flow| flow.backends.contains("gateway1"))
        .count();
    assert!(moved > 0);
    for flow in &report.flows {
        assert!(flow.backends.contains("gateway2"), "{flow:?}");
    }
    lab.campus().udp_from(campus_v4(1), vip(443)).ask("hello");
}

#[test]
fn a_service_that_is_removed_is_served_no_more_and_others_are() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let two = Configuration::ras(&lab).udp("second", vip(4443), POOL, "backend_port = 443");
    let daemon = Daemon::start(&lab, &two);
    let second = lab.client(1).udp(vip(4443));
    second.ask("hello");

    daemon.reload(&Configuration::ras(&lab));

    assert_eq!(second.backend_within(Duration::from_millis(300)), None);
    assert_eq!(daemon.status().service_names(), [SERVICE]);
    lab.client(1).udp(vip(443)).ask("hello");
}

#[test]
fn a_file_with_a_fault_changes_nothing() {
    let lab = Lab::one_arm().campus().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let load = traffic(&lab);
    load.await_answers(1000, BOUND);
    let good = fs::read_to_string(daemon.configuration_file()).expect("the file is there");
    let faulty = good.replace("port = 443", "port = 44300000");
    assert_ne!(faulty, good);
    fs::write(daemon.configuration_file(), faulty).expect("the file is ours");

    let outcome = daemon.cli(&["reload"]);

    assert_eq!(outcome.code, Some(2), "{}", outcome.text());
    assert!(outcome.stderr.contains("44300000"), "{}", outcome.stderr);
    assert_eq!(daemon.status().generation(), 1);
    load.await_answers(1000, BOUND);
    let report = load.finish();
    report.assert_nothing_lost();
    report.assert_nothing_moved();
}

#[test]
fn sighup_reloads_and_survives_a_fault() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let mut daemon = Daemon::start(&lab, &with_gateways(&lab, &[1]));

    daemon.write_configuration(&with_gateways(&lab, &[1, 2]));
    daemon.signal(libc::SIGHUP);
    eventually(BOUND, "the file is in force", || {
        daemon.status().service(SERVICE).eligible() == 2
    });

    fs::write(daemon.configuration_file(), "interfaces = 7\n").expect("the file is ours");
    daemon.signal(libc::SIGHUP);
    eventually(BOUND, "the fault is logged", || {
        daemon.log().contains("interfaces")
    });
    assert!(daemon.is_running());
    lab.client(1).udp(vip(443)).ask("hello");
}

#[test]
fn what_cannot_change_while_packets_flow_is_refused_with_the_way_out() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));

    daemon.write_configuration(&Configuration::ras(&lab).node("snat_ports = \"21000-22000\""));
    let outcome = daemon.cli(&["reload"]);

    assert_ne!(outcome.code, Some(0));
    assert!(outcome.stderr.contains("snat_ports"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("detach"), "{}", outcome.stderr);
    assert_eq!(daemon.status().generation(), 1);
}

#[test]
fn a_backend_keeps_its_health_over_a_reload() {
    let lab = Lab::one_arm().build();
    let mut gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &with_gateways(&lab, &[1, 2]));
    gateways.named("gateway1").die();
    eventually(BOUND, "gateway1 is found down", || {
        !daemon.status().backend("gateway1").is_up()
    });

    daemon.reload(&with_gateways(&lab, &[1, 2]).udp(
        "another",
        vip(4443),
        POOL,
        "backend_port = 443",
    ));

    let status = daemon.status();
    assert!(!status.backend("gateway1").is_up() && status.backend("gateway2").is_up());
    assert_eq!(status.service("another").eligible(), 1);
}

fn with_gateways(lab: &Lab, numbers: &[usize]) -> Configuration {
    let backends: Vec<String> = numbers
        .iter()
        .map(|number| backend(lab.gateway(*number)))
        .collect();
    Configuration::new()
        .pool(POOL, &backends, HEALTH)
        .udp(SERVICE, vip(443), POOL, SIX_HOURS)
}

fn traffic(lab: &Lab) -> Load {
    let sources: Vec<SocketAddr> = (1..=40).map(campus_v4).collect();
    Load::start(lab.campus().udp_from_each(&sources, vip(443)), 2000)
}
