//! MAC addresses change: of backends, of routers, of the way to them.

use std::time::Duration;

use lb_tests::lab::{
    Configuration, Daemon, Gateway, Gateways, Lab,
    configuration::{HEALTH, POOL, SERVICE, SIX_HOURS, backend},
    eventually::eventually,
    site::{campus_v4, vip},
};

const BOUND: Duration = Duration::from_secs(20);
const NEW_MAC: [u8; 6] = [0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0x01];
const SHORT: Duration = Duration::from_millis(200);

#[test]
fn a_backend_whose_mac_changes_is_followed() {
    let lab = Lab::one_arm().gateways(1).build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let client = lab.client(1).udp(vip(443));
    let source = client.ask("hello").source;

    lab.gateway(1).set_mac("eth0", NEW_MAC);

    eventually(BOUND, "the backend answers again", || {
        client.backend_within(SHORT).is_some()
    });
    assert_eq!(client.ask("the same flow").source, source);
    let status = daemon.status();
    assert_eq!(
        status.backend("gateway1").next_hop_mac(),
        Some("02:aa:bb:cc:dd:01")
    );
}

#[test]
fn a_router_to_backends_whose_mac_changes_is_followed() {
    let lab = Lab::one_arm().far_gateway().build();
    let _far = Gateway::start(lab.far_gateway());
    let configuration = Configuration::new()
        .pool(POOL, &[backend(lab.far_gateway())], HEALTH)
        .udp(SERVICE, vip(443), POOL, SIX_HOURS);
    let _daemon = Daemon::start(&lab, &configuration);
    let client = lab.client(1).udp(vip(443));
    client.ask("hello");

    lab.inner_router().set_mac("eth0", NEW_MAC);

    eventually(BOUND, "the backend answers again", || {
        client.backend_within(SHORT).is_some()
    });
}

#[test]
fn answers_follow_the_router_that_the_clients_packets_come_from() {
    let lab = Lab::one_arm().campus().build();
    let _gateways = Gateways::start(&lab);
    let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let client = lab.campus().udp_from(campus_v4(1), vip(443));
    let source = client.ask("by the first router").source;

    lab.router().set_mac("eth0", NEW_MAC);

    assert_eq!(client.ask("by the second").source, source);
}

#[test]
fn a_route_that_moves_to_another_gateway_is_followed() {
    let lab = Lab::one_arm().far_gateway().build();
    let _far = Gateway::start(lab.far_gateway());
    let configuration = Configuration::new()
        .pool(POOL, &[backend(lab.far_gateway())], HEALTH)
        .udp(SERVICE, vip(443), POOL, SIX_HOURS);
    let daemon = Daemon::start(&lab, &configuration);
    let client = lab.client(1).udp(vip(443));
    client.ask("hello");
    // The same machine under another address and MAC, as a pair of routers would be.
    lab.inner_router().net().ip(&[
        "link add second link eth0 type macvlan mode bridge",
        "link set second address 02:aa:bb:cc:dd:01 up",
        "address add 10.20.90.4/32 dev second",
    ]);
    lab.inner_router()
        .net()
        .sysctl("net/ipv4/conf/all/arp_ignore", "1");

    lab.balancer()
        .net()
        .ip(&["route replace 10.40.0.0/24 via 10.20.90.4"]);

    eventually(BOUND, "the new gateway is known", || {
        daemon.status().backend("far-gateway").next_hop_mac() == Some("02:aa:bb:cc:dd:01")
    });
    client.ask("by the new gateway");
}

#[test]
fn a_backend_without_a_route_is_not_eligible_and_says_so() {
    let lab = Lab::two_arm().far_gateway().build();
    let _far = Gateway::start(lab.far_gateway());
    let _gateways = Gateways::start(&lab);
    let patient = HEALTH.replace("fall = 3", "fall = 1000");
    let configuration = Configuration::new()
        .pool(
            POOL,
            &[backend(lab.far_gateway()), backend(lab.gateway(1))],
            &patient,
        )
        .udp(SERVICE, vip(443), POOL, r#"persistence = { key = "none" }"#);
    let daemon = Daemon::start(&lab, &configuration);
    eventually(BOUND, "both are eligible", || {
        daemon.status().service(SERVICE).eligible() == 2
    });

    lab.balancer()
        .net()
        .ip(&["route del 10.40.0.0/24", "route del default"]);

    eventually(BOUND, "the far gateway is not reachable", || {
        !daemon.status().backend("far-gateway").is_reachable()
    });
    let status = daemon.status();
    assert!(status.backend("far-gateway").is_up() && !status.backend("far-gateway").is_eligible());
    let reason = status.backend("far-gateway").reachable_reason();
    assert!(reason.contains("no route to 10.40.0.11"), "{reason}");
    for _ in 0..10 {
        assert_eq!(lab.client(1).udp(vip(443)).backend(), "gateway1");
    }
}
