//! The same over IPv6.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab, Load,
    capture::Capture,
    configuration::{HEALTH, POOL, SERVICE, SIX_HOURS, backend6},
    dtls::{DtlsServer, DtlsSession},
    site::{campus_v6, vip, vip6},
};

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn datagrams_are_translated_both_ways_with_one_arm_and_with_two() {
    for lab in [
        Lab::one_arm().campus().build(),
        Lab::two_arm().campus().build(),
    ] {
        let _gateways = Gateways::start(&lab);
        let daemon = Daemon::start(&lab, &configuration(&lab));
        let wire = Capture::open(lab.client(1), "eth0");

        for client in [
            lab.client(1).udp(vip6(443)),
            lab.campus().udp_from(campus_v6(7), vip6(443)),
        ] {
            let answer = client.ask("hello");
            assert_eq!(
                answer.source.ip(),
                lab.address_towards_backends(answer.source.ip())
            );
        }

        // The capture refuses datagrams whose checksum is wrong or absent.
        let answer = wire.next(BOUND, |frame| frame.source == vip6(443));
        assert!(answer.payload.ends_with(b"|hello"));
        assert_eq!(daemon.status().dropped(), 0);
    }
}

#[test]
fn a_dtls_session_runs_end_to_end() {
    let lab = Lab::one_arm().gateways(1).build();
    let _server = DtlsServer::start(&lab, lab.gateway(1), 443);
    let health = r#"{ type = "ping", interval = "500ms", timeout = "500ms" }"#;
    let configuration = Configuration::new()
        .pool(POOL, &[backend6(lab.gateway(1))], health)
        .udp(SERVICE, vip6(443), POOL, SIX_HOURS);
    let _daemon = Daemon::start(&lab, &configuration);

    let mut session = DtlsSession::open(&lab, lab.client(1), vip6(443));

    session.echo("over IPv6");
    assert_eq!(session.peer(), "gateway1");
}

#[test]
fn clients_spread_and_stay() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let _gateways = Gateways::start(&lab);
    let mut daemon = Daemon::start(&lab, &configuration(&lab));
    let sources: Vec<SocketAddr> = (1..=60).map(campus_v6).collect();
    let load = Load::start(lab.campus().udp_from_each(&sources, vip6(443)), 2000);
    load.await_answers(1000, BOUND);

    daemon.kill9();
    daemon.start_again();
    load.await_answers(1000, BOUND);
    let report = load.finish();

    report.assert_nothing_lost();
    report.assert_nothing_moved();
    let met: BTreeSet<String> = report
        .flows
        .into_iter()
        .flat_map(|flow| flow.backends)
        .collect();
    assert_eq!(met.len(), 3);
}

#[test]
fn both_families_live_side_by_side() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let both = Configuration::ras(&lab);
    let backends: Vec<String> = lab.gateways().iter().map(backend6).collect();
    let both = both
        .pool("six", &backends, HEALTH)
        .udp("six", vip6(443), "six", SIX_HOURS);
    let _daemon = Daemon::start(&lab, &both);

    let four = lab.client(1).udp(vip(443)).ask("hello");
    let six = lab.client(1).udp(vip6(443)).ask("hello");

    assert_eq!(four.source.ip(), IpAddr::from(lab.balancer().v4()));
    assert_eq!(six.source.ip(), IpAddr::from(lab.balancer().v6()));
}

fn configuration(lab: &Lab) -> Configuration {
    let backends: Vec<String> = lab.gateways().iter().map(backend6).collect();
    Configuration::new()
        .pool(POOL, &backends, HEALTH)
        .udp(SERVICE, vip6(443), POOL, SIX_HOURS)
}
