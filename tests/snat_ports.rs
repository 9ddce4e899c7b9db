//! The budget of source ports towards each backend.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab, UdpClient,
    eventually::eventually,
    site::{campus_v4, vip},
};

const BOUND: Duration = Duration::from_secs(5);
/// Freed ports rest for ten seconds, and whoever sweeps comes by only now and then.
const REST: Duration = Duration::from_secs(40);

#[test]
fn of_64_ports_the_65th_flow_is_refused_and_the_others_do_not_notice() {
    let lab = Lab::one_arm().gateways(1).campus().build();
    let _gateways = Gateways::start(&lab);
    let configuration = Configuration::ras(&lab).node("snat_ports = \"20000-20063\"");
    let daemon = Daemon::start(&lab, &configuration);
    let backend = SocketAddr::new(lab.gateway(1).v4().into(), 443);

    let clients = flows(&lab, 1..=64);
    let sources: Vec<SocketAddr> = clients
        .iter()
        .map(|client| client.ask("hello").source)
        .collect();
    let late = lab.campus().udp_from(campus_v4(65), vip(443));
    assert_eq!(late.backend_within(Duration::from_millis(300)), None);

    let ports: BTreeSet<u16> = sources.iter().map(SocketAddr::port).collect();
    assert_eq!(ports, (20_000..=20_063).collect());
    eventually(BOUND, "the refused flow is counted", || {
        daemon.status().drops() == [("snat_ports_exhausted".to_owned(), 1)]
    });
    eventually(BOUND, "the budget is shown as spent", || {
        daemon.status().endpoint_ports(backend) == (64, 64)
    });
    eventually(BOUND, "the kernel program says so in the log", || {
        daemon.log().contains("no free SNAT port towards a backend")
    });
    for (client, source) in clients.iter().zip(&sources) {
        assert_eq!(client.ask("again").source, *source);
    }
}

#[test]
fn a_range_that_fills_up_is_told_of_before_it_is_full_and_when_it_is() {
    let lab = Lab::one_arm().gateways(1).campus().build();
    let _gateways = Gateways::start(&lab);
    let configuration = Configuration::ras(&lab)
        .node("snat_ports = \"20000-20063\"")
        .node("flow_timeout = \"8s\"");
    let daemon = Daemon::start(&lab, &configuration);
    let backend = SocketAddr::new(lab.gateway(1).v4().into(), 443);
    let fill = || daemon.status().endpoint_fill(backend).to_owned();
    let logged = |level: &str, part: &str| {
        let range = format!("to {backend} {part}");
        let log = daemon.log();
        log.lines()
            .any(|line| line.contains(level) && line.contains(&range))
    };
    assert_eq!(fill(), "ok");

    // 52 of 64 are 81%.
    let early = flows(&lab, 1..=52);
    early.iter().for_each(|client| drop(client.ask("hello")));
    eventually(BOUND, "nearly full", || fill() == "high");
    assert!(
        logged("WARN", "is nearly full: 52 of 64 (81%)"),
        "{}",
        daemon.log()
    );
    let text = daemon.cli(&["status"]).text();
    assert!(text.contains("81% nearly full"), "{text}");
    assert_eq!(daemon.status().fills(), ("ok", "ok"));

    let late = flows(&lab, 53..=64);
    late.iter().for_each(|client| drop(client.ask("hello")));
    eventually(BOUND, "full", || fill() == "full");
    assert!(
        logged("ERROR", "is full: 64 of 64 (100%)"),
        "{}",
        daemon.log()
    );
    let text = daemon.cli(&["status"]).text();
    assert!(text.contains("100% full"), "{text}");

    drop((early, late));
    eventually(REST, "there is room again", || fill() == "ok");
    assert!(logged("INFO", "has room again"), "{}", daemon.log());
}

#[test]
fn a_port_is_given_again_after_its_flow_has_ended_and_rested() {
    let lab = Lab::one_arm().gateways(1).campus().build();
    let _gateways = Gateways::start(&lab);
    let configuration = Configuration::ras(&lab)
        .node("snat_ports = \"20000-20003\"")
        .node("flow_timeout = \"1s\"")
        .node("flow_timeout_unreplied = \"1s\"");
    let daemon = Daemon::start(&lab, &configuration);
    for client in flows(&lab, 1..=4) {
        client.ask("hello");
    }
    let late = lab.campus().udp_from(campus_v4(5), vip(443));
    assert_eq!(late.backend_within(Duration::from_millis(300)), None);

    let backend = SocketAddr::new(lab.gateway(1).v4().into(), 443);
    eventually(REST, "every flow has ended", || {
        daemon.status().endpoint_ports(backend).0 == 0
    });

    eventually(REST, "a new flow gets a port", || {
        late.backend_within(Duration::from_millis(300)).is_some()
    });
}

#[test]
fn each_backend_has_a_budget_of_its_own() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let gateways = Gateways::start(&lab);
    let configuration = Configuration::ras(&lab).node("snat_ports = \"20000-20063\"");
    let _daemon = Daemon::start(&lab, &configuration);

    // More flows than one backend has ports, far fewer than both have.
    for client in flows(&lab, 1..=90) {
        client.ask("hello");
    }

    for gateway in gateways.all() {
        assert!(
            gateway.service.seen().len() > 20,
            "{} has few flows",
            gateway.service.name()
        );
    }
}

#[test]
fn several_snat_addresses_multiply_the_budget() {
    let lab = Lab::one_arm().gateways(1).campus().build();
    let gateways = Gateways::start(&lab);
    let configuration = Configuration::ras(&lab)
        .node("snat_ports = \"20000-20063\"")
        .node("snat_addresses = [\"10.20.90.110\", \"10.20.90.111\"]");
    let _daemon = Daemon::start(&lab, &configuration);

    let clients = flows(&lab, 1..=128);
    for client in &clients {
        client.ask("hello");
    }

    let seen = gateways.all()[0].service.seen();
    let addresses: BTreeSet<IpAddr> = seen.keys().map(SocketAddr::ip).collect();
    let configured: BTreeSet<IpAddr> = ["10.20.90.110", "10.20.90.111"]
        .map(|text| text.parse().expect("an address"))
        .into();
    assert_eq!((addresses, seen.len()), (configured, 128));
}

#[test]
fn the_range_is_kept_from_the_hosts_own_sockets() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let name = "net/ipv4/ip_local_reserved_ports";
    lab.balancer().net().sysctl(name, "9999");

    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    assert_eq!(lab.balancer().net().read_sysctl(name), "9999,20000-32767");

    daemon.cli(&["detach"]).ok();
    assert_eq!(lab.balancer().net().read_sysctl(name), "9999");
}

fn flows(lab: &Lab, numbers: std::ops::RangeInclusive<u16>) -> Vec<UdpClient> {
    let sources: Vec<SocketAddr> = numbers.map(campus_v4).collect();
    lab.campus().udp_from_each(&sources, vip(443))
}
