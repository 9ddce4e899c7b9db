//! `vipd check --live`: whether the kernel's state agrees with the daemon's.

use std::net::{IpAddr, SocketAddr};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab, Load, UdpClient,
    process::Outcome,
    site::{VIP, campus_v4, vip},
    status::audit,
};

const PINS: &str = "/sys/fs/bpf/vipd";

fn check(daemon: &Daemon<'_>) -> Outcome {
    daemon.cli(&["check", "--live"])
}

/// Returns one client for each of these numbers of the campus.
fn clients(lab: &Lab, numbers: std::ops::RangeInclusive<u16>) -> Vec<UdpClient> {
    let sources: Vec<SocketAddr> = numbers.map(campus_v4).collect();
    lab.campus().udp_from_each(&sources, vip(443))
}

/// Returns numbers as `bpftool` reads them.
fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("hex {}", bytes.join(" "))
}

/// Returns the key of the IPv4 VIP's service on UDP 443 in `services`.
fn service_key() -> String {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&VIP.to_ipv6_mapped().octets());
    key[16..18].copy_from_slice(&443_u16.to_ne_bytes());
    key[18] = 17;
    hex(&key)
}

/// Returns the key of a client's flow to that service in `flows`.
fn flow_key(client: SocketAddr) -> String {
    let IpAddr::V4(address) = client.ip() else {
        panic!("{client} is not in flows");
    };
    let mut key = [0; 16];
    key[..4].copy_from_slice(&address.octets());
    key[4..8].copy_from_slice(&VIP.octets());
    key[8..10].copy_from_slice(&client.port().to_ne_bytes());
    key[10..12].copy_from_slice(&443_u16.to_ne_bytes());
    key[12] = 17;
    hex(&key)
}

#[test]
fn a_site_under_traffic_that_changes_is_consistent() {
    let lab = Lab::one_arm().campus().build();
    let _gateways = Gateways::start(&lab);
    let configuration = Configuration::ras(&lab)
        .node("flow_timeout = \"2s\"")
        .node("flow_timeout_unreplied = \"1s\"");
    let mut daemon = Daemon::start(&lab, &configuration);
    let load = Load::start(clients(&lab, 1..=50), 1000);
    load.await_answers(500, std::time::Duration::from_secs(10));

    // Flows begin, move, end and are begun again meanwhile.
    for round in 0..3 {
        for client in clients(&lab, 100..=150) {
            client.ask("hello");
        }
        let state = if round % 2 == 0 { "halt" } else { "enable" };
        daemon.cli(&[state, "gateway1"]).ok();
        let said = check(&daemon).ok();
        assert!(said.contains("agrees with the daemon's"), "{said}");
    }
    daemon.kill9();
    daemon.start_again();
    check(&daemon).ok();

    let said = audit(&daemon.cli(&["check", "--live", "--json"]).ok());
    assert!(said.consistent && said.flows >= 50, "{said:?}");
    load.finish().assert_nothing_lost();
}

#[test]
fn what_somebody_else_damaged_is_named_and_a_restart_mends_it() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let mut daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    check(&daemon).ok();
    let key = service_key();

    lab.balancer()
        .run(&format!(
            "bpftool map delete pinned {PINS}/services key {key}"
        ))
        .ok();

    let found = check(&daemon);
    assert_eq!(found.code, Some(1), "{}", found.text());
    for part in [
        "services: 10.20.90.105:443 is missing",
        "a restart of vipd writes it again",
        "does not agree with the daemon's",
    ] {
        assert!(found.stdout.contains(part), "{part:?} in {}", found.text());
    }
    let json = daemon.cli(&["check", "--live", "--json"]);
    assert_eq!(json.code, Some(1), "{}", json.text());
    let finding = ("missing".to_owned(), "services".to_owned());
    assert_eq!(audit(&json.stdout).findings, [finding]);
    daemon.terminate();
    daemon.start_again();
    check(&daemon).ok();
    lab.client(1).udp(vip(443)).ask("hello");
}

#[test]
fn a_flow_that_lost_a_half_is_named() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let client = lab.client(1).udp(vip(443));
    client.ask("hello");
    let key = flow_key(client.local());

    lab.balancer()
        .run(&format!("bpftool map delete pinned {PINS}/flows key {key}"))
        .ok();

    let found = check(&daemon);
    assert_eq!(found.code, Some(1), "{}", found.text());
    let said = format!("({} to {}) is live", client.local(), vip(443));
    assert!(found.stdout.contains(&said), "{}", found.text());
}

#[test]
fn an_interface_without_the_program_is_named() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let link = daemon
        .pins()
        .into_iter()
        .find(|pin| pin.contains("/link_"))
        .expect("a pinned link");

    lab.balancer()
        .run(&format!("bpftool link detach pinned {link}"))
        .ok();

    let found = check(&daemon);
    assert_eq!(found.code, Some(1), "{}", found.text());
    let said = "link: eth0 has a pinned link that is attached to nothing";
    assert!(found.stdout.contains(said), "{}", found.text());
}

#[test]
fn without_a_daemon_there_is_no_audit() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let mut daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    daemon.terminate();

    let outcome = check(&daemon);

    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains("no daemon answers"),
        "{}",
        outcome.stderr
    );
}
