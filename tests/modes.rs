//! Native, generic, and what the status says about it.

use std::{net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab, Load,
    daemon::pins,
    site::{campus_v4, vip},
};

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_driver_that_can_runs_the_program_natively() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);

    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));

    assert_eq!(daemon.status().interface("eth0").0, "native");
    assert!(!daemon.log().contains("generic"), "{}", daemon.log());
}

#[test]
fn generic_mode_does_the_same_work() {
    for lab in [
        Lab::one_arm().campus().build(),
        Lab::two_arm().campus().build(),
    ] {
        let _gateways = Gateways::start(&lab);
        let configuration = Configuration::ras(&lab).node("xdp_mode = \"generic\"");
        let mut daemon = Daemon::start(&lab, &configuration);
        assert_eq!(daemon.status().interface("eth0").0, "generic");
        let sources: Vec<SocketAddr> = (1..=20).map(campus_v4).collect();

        let load = Load::start(lab.campus().udp_from_each(&sources, vip(443)), 2000);
        load.await_answers(2000, BOUND);
        daemon.kill9();
        daemon.start_again();
        load.await_answers(2000, BOUND);
        let report = load.finish();

        report.assert_nothing_lost();
        report.assert_nothing_moved();
    }
}

#[test]
fn a_driver_that_cannot_is_served_in_generic_mode_with_one_warning() {
    let lab = lab_with_macvlan();
    let _gateways = Gateways::start(&lab);

    let daemon = Daemon::start(&lab, &on_macvlan(&lab, "auto"));

    let status = daemon.status();
    let (mode, why) = status.interface("mac0");
    assert_eq!(mode, "generic");
    assert!(!why.is_empty());
    let log = daemon.log();
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("WARN") && line.contains("generic"))
        .collect();
    assert_eq!(warnings.len(), 1, "{log}");
    lab.client(1).udp(vip(443)).ask("hello");
}

#[test]
fn native_mode_is_refused_where_the_driver_cannot() {
    let lab = lab_with_macvlan();
    let _gateways = Gateways::start(&lab);

    let mut daemon = Daemon::launch(&lab, &on_macvlan(&lab, "native"));

    assert_eq!(daemon.wait().code(), Some(1), "{}", daemon.log());
    let log = daemon.log();
    assert!(
        log.contains("mac0") && log.contains("native") && log.contains("xdp_mode"),
        "{log}"
    );
    assert!(
        pins(lab.balancer()).is_empty(),
        "a failed start leaves nothing"
    );
}

/// A site whose balancer has its address on a macvlan device: its driver has no XDP of its own.
fn lab_with_macvlan() -> Lab {
    let lab = Lab::one_arm().build();
    // Each of the two devices answers for its own addresses only.
    lab.balancer()
        .net()
        .sysctl("net/ipv4/conf/all/arp_ignore", "1");
    lab.balancer().net().ip(&[
        "address flush dev eth0",
        "link add mac0 link eth0 type macvlan mode bridge",
        "link set mac0 up",
        "address add 10.20.90.2/24 dev mac0",
    ]);
    lab
}

fn on_macvlan(lab: &Lab, mode: &str) -> Configuration {
    Configuration::ras(lab)
        .node("interfaces = [\"mac0\"]")
        .node(&format!("xdp_mode = \"{mode}\""))
}
