//! The network changes while packets flow: they come back without a restart, and what is lost was
//! lost while there was no way.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Configuration, Daemon, Family, Gateway, Gateways, Host, Lab, Load, UdpClient,
    capture::Capture,
    configuration::{HEALTH, POOL, SERVICE, SIX_HOURS, backend},
    eventually::eventually,
    host::Mac,
    load::LoadReport,
    site::{VIP, campus_v4, vip},
};

const BOUND: Duration = Duration::from_secs(20);
const NEW_MAC: Mac = [0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0x01];
const RATE: u32 = 500;
/// From the moment that there is a way again until every packet takes it.
const NOTICED: Duration = Duration::from_secs(2);

#[test]
fn a_backend_that_announces_a_new_mac_loses_nothing_more() {
    let lab = Lab::one_arm().gateways(1).campus().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let load = traffic(&lab);
    let gateway = lab.gateway(1);

    let gone = Instant::now();
    gateway.set_mac("eth0", NEW_MAC);
    announce(gateway, NEW_MAC);
    let away = gone.elapsed();
    eventually(BOUND, "the new address is known", || {
        daemon.status().backend("gateway1").next_hop_mac() == Some("02:aa:bb:cc:dd:01")
    });
    let report = finish(load);

    assert_lost_while(&report, away);
    report.assert_nothing_moved();
}

#[test]
fn a_route_that_moves_to_a_gateway_that_is_there_loses_nothing() {
    let lab = Lab::one_arm().far_gateway().campus().build();
    let _far = Gateway::start(lab.far_gateway());
    let configuration = Configuration::new()
        .pool(POOL, &[backend(lab.far_gateway())], HEALTH)
        .udp(SERVICE, vip(443), POOL, SIX_HOURS);
    let daemon = Daemon::start(&lab, &configuration);
    // The same machine under another address and MAC, as a pair of routers would be.
    let router = lab.inner_router().net();
    router.ip(&[
        "link add second link eth0 type macvlan mode bridge",
        "link set second address 02:aa:bb:cc:dd:01 up",
        "address add 10.20.90.4/32 dev second",
    ]);
    router.sysctl("net/ipv4/conf/all/arp_ignore", "1");
    let load = traffic(&lab);

    lab.balancer()
        .net()
        .ip(&["route replace 10.40.0.0/24 via 10.20.90.4"]);
    eventually(BOUND, "the new gateway is known", || {
        daemon.status().backend("far-gateway").next_hop_mac() == Some("02:aa:bb:cc:dd:01")
    });
    let report = finish(load);

    report.assert_nothing_lost();
    report.assert_nothing_moved();
}

#[test]
fn an_interface_that_was_down_serves_as_before() {
    for family in Family::BOTH {
        let lab = Lab::one_arm().gateways(2).build();
        let _gateways = Gateways::start(&lab);
        // Down means: no probe gets through. That is not what is looked at.
        let mut daemon = Daemon::start(&lab, &patient(family, &lab));
        let sources: Vec<SocketAddr> = (0..10)
            .map(|_| SocketAddr::new(family.address(lab.client(1)), 0))
            .collect();
        let load = Load::start(lab.client(1).udp_from_each(&sources, family.vip(443)), RATE);
        load.await_answers(u64::from(RATE), BOUND);
        let pid = daemon.pid();
        let host = lab.balancer();

        let gone = Instant::now();
        host.net().ip(&["link set eth0 down"]);
        let before = load.received();
        eventually(BOUND, "packets are lost", || {
            load.sent() > before + u64::from(RATE) / 4
        });
        // The kernel forgets what IPv6 address an interface had; vipd puts back its own.
        host.net().ip(&[
            "link set eth0 up",
            &format!("address replace {}/64 dev eth0 nodad", host.v6()),
        ]);
        let down = gone.elapsed();
        load.await_answers(u64::from(RATE), BOUND);
        let report = finish(load);

        assert_lost_while(&report, down);
        report.assert_nothing_moved();
        assert!(daemon.is_running() && daemon.pid() == pid);
        assert!(has_address(host, family.vip(443)), "the VIP is missing");
        assert_eq!(daemon.status().interface("eth0").0, "native");
    }
}

#[test]
fn a_cable_that_was_out_serves_as_before() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &patient(Family::V4, &lab));
    let load = traffic(&lab);

    let gone = Instant::now();
    lab.set_cable(lab.balancer(), false);
    let before = load.sent();
    eventually(BOUND, "packets are lost", || {
        load.sent() > before + u64::from(RATE) / 4
    });
    lab.set_cable(lab.balancer(), true);
    let out = gone.elapsed();
    load.await_answers(u64::from(RATE), BOUND);
    let report = finish(load);

    assert_lost_while(&report, out);
    report.assert_nothing_moved();
    assert_eq!(daemon.status().interface("eth0").0, "native");
}

#[test]
fn a_vip_that_somebody_removes_is_put_back_before_a_client_notices() {
    for family in Family::BOTH {
        let lab = Lab::one_arm().gateways(2).campus().build();
        let _gateways = Gateways::start(&lab);
        let _daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
        let sources: Vec<SocketAddr> = (1..=10).map(|number| family.campus(number)).collect();
        let load = Load::start(lab.campus().udp_from_each(&sources, family.vip(443)), RATE);
        load.await_answers(u64::from(RATE), BOUND);
        let address = family.vip(443).ip();
        let length = if address.is_ipv4() { 32 } else { 128 };

        for _ in 0..3 {
            lab.balancer()
                .net()
                .ip(&[&format!("address del {address}/{length} dev eth0")]);
            eventually(BOUND, "the VIP is back", || {
                has_address(lab.balancer(), family.vip(443))
            });
        }
        // Whoever asks for it now is answered.
        lab.router().net().ip(&["neigh flush all"]);
        let report = finish(load);

        let few = u64::from(RATE) / 10;
        assert!(
            (report.lost.len() as u64) < few,
            "{} datagrams were lost",
            report.lost.len()
        );
        report.assert_nothing_moved();
    }
}

#[test]
fn a_balancer_whose_own_mac_changes_serves_by_the_new_one() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let _gateways = Gateways::start(&lab);
    let _daemon = Daemon::start(&lab, &patient(Family::V4, &lab));
    let load = traffic(&lab);

    let gone = Instant::now();
    lab.balancer().set_mac("eth0", NEW_MAC);
    announce(lab.balancer(), NEW_MAC);
    announce_address(lab.balancer(), VIP, NEW_MAC);
    let away = gone.elapsed();
    load.await_answers(u64::from(RATE), BOUND);
    let report = finish(load);

    assert_lost_while(&report, away);
    report.assert_nothing_moved();
}

/// Returns the usual configuration, where no backend goes down in the time of a test.
fn patient(family: Family, lab: &Lab) -> Configuration {
    let backends: Vec<String> = lab
        .gateways()
        .iter()
        .map(|gateway| family.backend(gateway))
        .collect();
    Configuration::new()
        .pool(POOL, &backends, &HEALTH.replace("fall = 3", "fall = 1000"))
        .udp(SERVICE, family.vip(443), POOL, SIX_HOURS)
}

fn traffic(lab: &Lab) -> Load {
    let sources: Vec<SocketAddr> = (1..=10).map(campus_v4).collect();
    let clients: Vec<UdpClient> = lab.campus().udp_from_each(&sources, vip(443));
    let load = Load::start(clients, RATE);
    load.await_answers(u64::from(RATE), BOUND);
    load
}

/// Ends the traffic after it has flowed for a while.
#[track_caller]
fn finish(load: Load) -> LoadReport {
    load.await_answers(u64::from(RATE), BOUND);
    load.finish()
}

/// Checks that no more was lost than was sent in `span`, while there was no way, and until the way
/// back was noticed.
#[track_caller]
fn assert_lost_while(report: &LoadReport, span: Duration) {
    let lost = report.lost.len() as f64;
    let most = f64::from(RATE) * (span + NOTICED).as_secs_f64();
    assert!(
        lost <= most,
        "{lost} of {} datagrams were lost; there was no way for {span:?}",
        report.sent
    );
    assert_eq!(report.duplicated, 0);
    // One loss after the other: none once the way was back.
    for flow in 0..report.flows.len() {
        let numbers: Vec<u64> = report
            .lost
            .iter()
            .filter(|(of, _)| *of == flow)
            .map(|(_, number)| *number)
            .collect();
        let in_a_row = numbers
            .first()
            .zip(numbers.last())
            .is_none_or(|(first, last)| last - first + 1 == numbers.len() as u64);
        assert!(in_a_row, "flow {flow} lost {numbers:?}");
    }
}

fn has_address(host: &Host, address: SocketAddr) -> bool {
    host.run("ip -oneline address show dev eth0")
        .ok()
        .contains(&format!(" {}/", address.ip()))
}

fn announce(host: &Host, mac: Mac) {
    announce_address(host, host.v4(), mac);
}

/// Tells everybody on the link that `mac` has `address` (RFC 5227 section 3).
fn announce_address(host: &Host, address: Ipv4Addr, mac: Mac) {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06]);
    // Ethernet, IPv4, lengths of their addresses, request.
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    Capture::open(host, "eth0").send_bytes(&frame);
}
