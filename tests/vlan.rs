//! Tagged frames. The kernels that the tests must run on may have no VLAN devices, so a client here
//! is a packet socket.

use std::{net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab,
    backends::Answer,
    capture::Capture,
    configuration::{HEALTH, POOL, SERVICE, SIX_HOURS, backend6},
    frames::UdpFrame,
    site::{VIP6, vip},
};

const BOUND: Duration = Duration::from_secs(5);

#[test]
fn a_client_in_a_vlan_is_answered_in_its_vlan() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let source = SocketAddr::new(lab.client(1).v4().into(), 40_000);

    for vlans in [vec![20], vec![20, 30], vec![]] {
        ask_in_vlan(&lab, source, vip(443), &vlans);
    }
}

#[test]
fn a_client_in_a_vlan_is_answered_in_its_vlan_over_ipv6() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let backends: Vec<String> = lab.gateways().iter().map(backend6).collect();
    let server = SocketAddr::new(VIP6.into(), 443);
    let configuration = Configuration::new()
        .pool(POOL, &backends, HEALTH)
        .udp(SERVICE, server, POOL, SIX_HOURS);
    let _daemon = Daemon::start(&lab, &configuration);
    let source = SocketAddr::new(lab.client(1).v6().into(), 40_000);

    for vlans in [vec![20], vec![20, 30]] {
        ask_in_vlan(&lab, source, server, &vlans);
    }
}

fn ask_in_vlan(lab: &Lab, source: SocketAddr, server: SocketAddr, vlans: &[u16]) {
    let wire = Capture::open(lab.client(1), "eth0");
    let question = UdpFrame {
        to_mac: lab.balancer().mac("eth0"),
        from_mac: lab.client(1).mac("eth0"),
        vlans: vlans.to_vec(),
        source,
        destination: server,
        ttl: 64,
        payload: format!("in {vlans:?}").into_bytes(),
    };

    wire.send(&question);

    let answer = wire.next(BOUND, |frame| {
        frame.source == server && frame.destination == source
    });
    assert_eq!(answer.vlans, vlans);
    assert_eq!(
        (answer.to_mac, answer.from_mac),
        (question.from_mac, question.to_mac)
    );
    let said = Answer::parse(&answer.payload).expect("backends are identity servers");
    assert_eq!(said.payload.as_bytes(), question.payload);
    assert_eq!(said.source.ip(), lab.address_towards_backends(source.ip()));
}
