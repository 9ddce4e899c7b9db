//! Which backend a client belongs to, across ports, services and time.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab,
    configuration::{POOL, SERVICE, SIX_HOURS},
    eventually::eventually,
    site::{campus_v4, vip},
    status::{Explanation, explanations},
};

const BOUND: Duration = Duration::from_secs(5);

#[test]
fn a_client_meets_one_backend_whatever_its_port() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let _gateways = Gateways::start(&lab);
    let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let mut all = BTreeSet::new();

    for number in 1..=20 {
        let sources = [campus_v4(number); 10];
        let clients = lab.campus().udp_from_each(&sources, vip(443));
        let backends: BTreeSet<String> = clients.iter().map(|client| client.backend()).collect();
        assert_eq!(
            backends.len(),
            1,
            "{} met {backends:?}",
            campus_v4(number).ip()
        );
        all.extend(backends);
    }

    assert_eq!(all.len(), 3, "twenty clients met {all:?}");
}

#[test]
fn a_client_that_was_moved_is_moved_on_every_service_of_its_group() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let own_group = r#"persistence = { key = "source-ip", timeout = "6h", group = "alone" }"#;
    let configuration = Configuration::ras(&lab)
        .udp(
            "shared",
            vip(4443),
            POOL,
            &format!("backend_port = 443\n{SIX_HOURS}"),
        )
        .udp(
            "apart",
            vip(5443),
            POOL,
            &format!("backend_port = 443\n{own_group}"),
        );
    let daemon = Daemon::start(&lab, &configuration);
    let client = lab.client(1);

    let by_hash = client.udp(vip(443)).backend();
    daemon.cli(&["halt", &by_hash]).ok();
    let moved_to = client.udp(vip(443)).backend();
    daemon.cli(&["enable", &by_hash]).ok();
    eventually(BOUND, "the backend takes clients again", || {
        daemon.status().backend(&by_hash).is_eligible()
    });

    assert_ne!(moved_to, by_hash);
    assert_eq!(client.udp(vip(443)).backend(), moved_to);
    // The hash alone would send a first packet to the service's other backend.
    assert_eq!(client.udp(vip(4443)).backend(), moved_to);
    assert_eq!(client.udp(vip(5443)).backend(), by_hash);
}

#[test]
fn a_client_belongs_to_nobody_after_its_time() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let configuration = Configuration::new()
        .node("flow_timeout = \"1s\"")
        .node("flow_timeout_unreplied = \"1s\"")
        .ras_pool(&lab)
        .udp(
            SERVICE,
            vip(443),
            POOL,
            r#"persistence = { key = "source-ip", timeout = "3s" }"#,
        );
    let daemon = Daemon::start(&lab, &configuration);
    let client = lab.client(1);
    let by_hash = client.udp(vip(443)).backend();
    daemon.cli(&["halt", &by_hash]).ok();
    let moved_to = client.udp(vip(443)).backend();
    daemon.cli(&["enable", &by_hash]).ok();
    eventually(BOUND, "the backend takes clients again", || {
        daemon.status().backend(&by_hash).is_eligible()
    });

    assert_ne!(moved_to, by_hash);
    assert_eq!(explain(&daemon, client.v4().into()).because, "affinity");
    // Up to 16 seconds more than was asked for are given.
    eventually(Duration::from_secs(30), "the affinity ends", || {
        explain(&daemon, client.v4().into()).because == "source_hash"
    });
    assert_eq!(client.udp(vip(443)).backend(), by_hash);
}

#[test]
fn clients_of_one_prefix_are_one_client() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let _gateways = Gateways::start(&lab);
    let by_24 =
        r#"persistence = { key = "source-ip", timeout = "6h", ipv4_prefix = 24, group = "by-24" }"#;
    let configuration = Configuration::ras(&lab).udp(
        "by-24",
        vip(4443),
        POOL,
        &format!("backend_port = 443\n{by_24}"),
    );
    let _daemon = Daemon::start(&lab, &configuration);
    // 10.30.1.0/24
    let sources: Vec<SocketAddr> = (256..=295).map(campus_v4).collect();
    let met = |port: u16| -> BTreeSet<String> {
        let clients = lab.campus().udp_from_each(&sources, vip(port));
        clients.iter().map(|client| client.backend()).collect()
    };

    assert_eq!(met(4443).len(), 1);
    assert_eq!(met(443).len(), 3);
}

#[test]
fn without_affinity_each_flow_is_chosen_by_itself() {
    let lab = Lab::one_arm().gateways(3).build();
    let _gateways = Gateways::start(&lab);
    let configuration = Configuration::new().ras_pool(&lab).udp(
        SERVICE,
        vip(443),
        POOL,
        r#"persistence = { key = "none" }"#,
    );
    let _daemon = Daemon::start(&lab, &configuration);

    let mut met = BTreeSet::new();
    for _ in 0..40 {
        let flow = lab.client(1).udp(vip(443));
        let backend = flow.backend();
        assert_eq!(flow.backend(), backend, "a flow stays where it is");
        met.insert(backend);
    }

    assert_eq!(met.len(), 3);
}

fn explain(daemon: &Daemon<'_>, client: std::net::IpAddr) -> Explanation {
    let output = daemon.cli(&["explain", &client.to_string(), "--json"]).ok();
    explanations(&output).remove(0)
}
