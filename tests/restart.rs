//! The daemon dies, stops, comes back and is replaced: the packets do not notice.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab, Load,
    daemon::pins,
    eventually::eventually,
    load::LoadReport,
    site::{campus_v4, vip},
};

/// Datagrams in a second, over all flows.
const RATE: u32 = 10_000;
const FLOWS: u16 = 50;
const BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_killed_daemon_and_its_successor_lose_no_packet_and_no_flow() {
    under_traffic(|daemon, load| {
        daemon.kill9();
        load.await_answers(u64::from(RATE), BOUND);
        daemon.start_again();
        assert!(daemon.status().is_adopted());
    });
}

#[test]
fn a_daemon_that_is_stopped_and_started_loses_no_packet_and_no_flow() {
    under_traffic(|daemon, load| {
        daemon.terminate();
        load.await_answers(u64::from(RATE), BOUND);
        daemon.start_again();
        assert!(daemon.status().is_adopted());
    });
}

#[test]
fn upgrades_lose_no_packet_and_no_flow() {
    under_traffic(|daemon, load| {
        for _ in 0..3 {
            daemon.terminate();
            daemon.start_upgraded();
            load.await_answers(u64::from(RATE) / 4, BOUND);
        }
    });
}

/// Sends [`RATE`] datagrams a second while `act` does something to the daemon, and checks that each
/// was answered, by the same backend and with the same source port all the time.
fn under_traffic(act: impl FnOnce(&mut Daemon<'_>, &Load)) {
    // One at a time: several would not reach the rate on a small machine.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::one_arm().campus().build();
    let _gateways = Gateways::start(&lab);
    let mut daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let sources: Vec<SocketAddr> = (1..=FLOWS).map(campus_v4).collect();
    let load = Load::start(lab.campus().udp_from_each(&sources, vip(443)), RATE);
    load.await_answers(u64::from(RATE), BOUND);

    act(&mut daemon, &load);

    load.await_answers(u64::from(RATE) / 2, BOUND);
    let report: LoadReport = load.finish();
    report.assert_nothing_lost();
    report.assert_nothing_moved();
    let least = f64::from(RATE) * 0.8;
    assert!(
        report.rate() > least,
        "only {:.0} datagrams a second were sent",
        report.rate()
    );
}

#[test]
fn new_clients_are_served_while_no_daemon_runs() {
    let lab = Lab::one_arm().campus().build();
    let _gateways = Gateways::start(&lab);
    let mut daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let early = lab.campus().udp_from(campus_v4(1), vip(443));
    let home = early.ask("hello");

    daemon.kill9();

    assert_eq!(early.ask("again").source, home.source);
    let sources: Vec<SocketAddr> = (2..=100).map(campus_v4).collect();
    let clients = lab.campus().udp_from_each(&sources, vip(443));
    let met: Vec<(String, SocketAddr)> = clients
        .iter()
        .map(|client| client.ask("hello"))
        .map(|answer| (answer.backend, answer.source))
        .collect();

    daemon.start_again();
    for (client, (backend, source)) in clients.iter().zip(&met) {
        let answer = client.ask("again");
        assert_eq!((&answer.backend, &answer.source), (backend, source));
    }
    eventually(BOUND, "every flow is counted", || {
        daemon.status().flows() == 100
    });
}

#[test]
fn health_that_changed_while_no_daemon_ran_is_found_at_the_next_start() {
    let lab = Lab::one_arm().build();
    let mut gateways = Gateways::start(&lab);
    let mut daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let client = lab.client(1).udp(vip(443));
    let home = client.backend();
    daemon.kill9();
    gateways.named(&home).die();

    daemon.start_again();
    eventually(BOUND, "the dead backend is found down", || {
        !daemon.status().backend(&home).is_up()
    });

    assert_ne!(client.backend(), home);
}

#[test]
fn pins_of_another_layout_are_refused_and_left_alone() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    lab.balancer().run("mkdir /sys/fs/bpf/vipd").ok();
    lab.balancer()
        .run("bpftool map create /sys/fs/bpf/vipd/flows type hash key 4 value 4 entries 16 name flows")
        .ok();
    let before = pins(lab.balancer());

    let mut daemon = Daemon::launch(&lab, &Configuration::ras(&lab));
    let status = daemon.wait();

    assert_eq!(status.code(), Some(1), "{}", daemon.log());
    let log = daemon.log();
    assert!(
        log.contains("flows") && log.contains("vipd detach"),
        "{log}"
    );
    assert_eq!(pins(lab.balancer()), before);
    daemon.cli(&["detach"]).ok();
    assert!(pins(lab.balancer()).is_empty());
    daemon.start_again();
    lab.client(1).udp(vip(443)).ask("hello");
}
