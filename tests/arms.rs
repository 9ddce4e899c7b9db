//! One interface or two, on the link or behind routers.

use std::net::{IpAddr, SocketAddr};

use lb_tests::lab::{
    Configuration, Daemon, Gateway, Gateways, Lab, Load,
    configuration::{HEALTH, POOL, SERVICE, SIX_HOURS, backend},
    dtls::{DtlsServer, DtlsSession},
    eventually::eventually,
    site::{campus_v4, vip},
};
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn with_two_arms_backends_see_the_inner_address() {
    let lab = Lab::two_arm().build();
    let _gateways = Gateways::start(&lab);
    let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));

    let answer = lab.client(1).udp(vip(443)).ask("hello");

    assert_eq!(answer.source.ip(), IpAddr::from([10, 11, 20, 2]));
}

#[test]
fn with_two_arms_a_dtls_session_runs_end_to_end() {
    let lab = Lab::two_arm().gateways(1).build();
    let _server = DtlsServer::start(&lab, lab.gateway(1), 443);
    let health = r#"{ type = "ping", interval = "500ms", timeout = "500ms" }"#;
    let configuration = Configuration::new()
        .pool(POOL, &[backend(lab.gateway(1))], health)
        .udp(SERVICE, vip(443), POOL, SIX_HOURS);
    let _daemon = Daemon::start(&lab, &configuration);

    let mut session = DtlsSession::open(&lab, lab.client(1), vip(443));

    session.echo("across both arms");
    assert_eq!(session.peer(), "gateway1");
}

#[test]
fn with_two_arms_traffic_loses_nothing() {
    let lab = Lab::two_arm().campus().build();
    let _gateways = Gateways::start(&lab);
    let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let sources: Vec<SocketAddr> = (1..=20).map(campus_v4).collect();

    let load = Load::start(lab.campus().udp_from_each(&sources, vip(443)), 5000);
    load.await_answers(10_000, BOUND);
    let report = load.finish();

    report.assert_nothing_lost();
    report.assert_nothing_moved();
}

#[test]
fn clients_behind_a_router_are_answered_through_it() {
    for lab in [
        Lab::one_arm().campus().build(),
        Lab::two_arm().campus().build(),
    ] {
        let _gateways = Gateways::start(&lab);
        // Nothing but the frames themselves says where the answers go.
        lab.balancer().net().ip(&["route del default"]);
        let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));

        lab.campus()
            .udp_from(campus_v4(7), vip(443))
            .ask("from afar");
        lab.client(1).udp(vip(443)).ask("from the link");
    }
}

#[test]
fn a_backend_behind_a_router_serves_like_one_on_the_link() {
    for lab in [
        Lab::one_arm().far_gateway().build(),
        Lab::two_arm().far_gateway().build(),
    ] {
        let _far = Gateway::start(lab.far_gateway());
        let configuration = Configuration::new()
            .pool(POOL, &[backend(lab.far_gateway())], HEALTH)
            .udp(SERVICE, vip(443), POOL, SIX_HOURS);
        let daemon = Daemon::start(&lab, &configuration);

        eventually(BOUND, "the way to it is known", || {
            daemon.status().backend("far-gateway").is_eligible()
        });
        let answer = lab.client(1).udp(vip(443)).ask("hello");

        assert_eq!(answer.backend, "far-gateway");
        let ours = lab.address_towards_backends(answer.source.ip());
        assert_eq!(answer.source.ip(), ours);
    }
}
