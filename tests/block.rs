//! Who may come: clients that are blocked at run time, and how much one of them may ask for.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Daemon, Family, Gateways, Lab, Load, UdpClient,
    eventually::{always, eventually, holds_within},
    web_site::{PORTAL, SERVICE, WebSite, url},
};

const BOUND: Duration = Duration::from_secs(5);
/// A block ends running flows within about two seconds; the machine may be busy.
const CUT_OFF: Duration = Duration::from_secs(4);
const SHORT: Duration = Duration::from_millis(200);
/// The number of the client that is blocked.
const BAD: u16 = 200;

#[test]
fn a_blocked_client_is_cut_off_within_seconds_and_others_do_not_notice() {
    for family in Family::BOTH {
        let lab = Lab::one_arm().campus().build();
        let _gateways = Gateways::start(&lab);
        let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
        let load = Load::start(others(&lab, family), 1000);
        let running = client(&lab, family, BAD);
        let source = running.ask("hello").source;
        let prefix = family.campus(BAD).ip().to_string();

        daemon
            .cli(&["block", &prefix, "--reason", "port scan"])
            .ok();
        await_cut_off(&running);

        assert_refused(&client(&lab, family, BAD));
        let status = daemon.status();
        assert!(status.drops_of("blocked") > 0);
        assert_eq!(status.dropped(), status.drops_of("blocked"));
        let explained = daemon.cli(&["explain", &prefix]).ok();
        assert!(
            explained.contains("blocked") && explained.contains("port scan"),
            "{explained}"
        );

        daemon.cli(&["forget", &prefix]).ok();
        await_answer(&running);
        await_answer(&client(&lab, family, BAD));
        // The port of the flow that was ended rests.
        assert_ne!(running.ask("again").source, source);
        load.await_answers(500, BOUND);
        let report = load.finish();
        report.assert_nothing_lost();
        report.assert_nothing_moved();
    }
}

#[test]
fn a_blocked_network_may_have_exceptions() {
    for family in Family::BOTH {
        let lab = Lab::one_arm().campus().build();
        let _gateways = Gateways::start(&lab);
        let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
        let network = match family {
            Family::V4 => "10.30.0.0/16",
            Family::V6 => "fd00:30::/64",
        };
        let (one, other) = (client(&lab, family, 1), client(&lab, family, 2));
        let outside = lab.client(1).udp(family.vip(443));
        one.ask("hello");
        other.ask("hello");

        daemon.cli(&["block", network]).ok();
        await_cut_off(&one);
        await_cut_off(&other);
        outside.ask("from elsewhere");

        daemon
            .cli(&["allow", &family.campus(1).ip().to_string()])
            .ok();
        await_answer(&one);
        assert_refused(&other);

        daemon.cli(&["allow", network]).ok();
        await_answer(&other);
    }
}

#[test]
fn a_block_outlives_the_daemon_and_is_in_force_while_there_is_none() {
    for family in Family::BOTH {
        let lab = Lab::one_arm().campus().build();
        let _gateways = Gateways::start(&lab);
        let mut daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
        let load = Load::start(others(&lab, family), 500);
        let prefix = family.campus(BAD).ip().to_string();
        daemon.cli(&["block", &prefix]).ok();
        assert_refused(&client(&lab, family, BAD));

        daemon.kill9();
        assert_refused(&client(&lab, family, BAD));
        daemon.start_again();
        assert_refused(&client(&lab, family, BAD));
        daemon.terminate();
        daemon.start_again();
        assert_refused(&client(&lab, family, BAD));

        let listed = daemon.cli(&["clients"]).ok();
        assert!(listed.contains(&prefix), "{listed}");
        daemon.cli(&["forget", &prefix]).ok();
        await_answer(&client(&lab, family, BAD));
        load.finish().assert_nothing_lost();
    }
}

#[test]
fn a_block_in_a_reloaded_configuration_ends_flows_too() {
    let lab = Lab::one_arm().campus().build();
    let _gateways = Gateways::start(&lab);
    let family = Family::V4;
    let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
    let load = Load::start(others(&lab, family), 500);
    let running = client(&lab, family, BAD);
    running.ask("hello");
    let block = format!(
        "persistence = {{ timeout = \"6h\" }}\nblock = [\"{}\"]",
        family.campus(BAD).ip()
    );

    daemon.reload(&family.configuration_with(lab.gateways(), &block));
    await_cut_off(&running);
    daemon.reload(&family.configuration(lab.gateways()));
    await_answer(&running);

    load.finish().assert_nothing_lost();
}

#[test]
fn a_blocked_client_of_the_proxy_loses_its_connections_and_others_do_not() {
    let lab = Lab::one_arm().clients(2).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let (bad, other) = (lab.client(1), lab.client(2));
    let mut idle = site.raw(bad);
    let mut others = site.raw(other);
    for client in [&mut idle, &mut others] {
        let answer = client.get(PORTAL, "/x", "").expect("an answer");
        assert_eq!(answer.status, 200);
    }
    let code = |host| site.curl(&lab, host).get(&url("/x")).run()[0].exit_code;

    let prefix = bad.v4().to_string();
    daemon.cli(&["block", &prefix, "--service", SERVICE]).ok();

    idle.await_end(CUT_OFF).expect("the connection ends");
    assert_ne!(code(bad), 0, "a new connection is refused");
    let answer = others.get(PORTAL, "/y", "").expect("an answer");
    assert_eq!((answer.status, code(other)), (200, 0));
    let status = daemon.cli(&["status"]).ok();
    assert!(status.contains("refused"), "{status}");

    daemon.cli(&["forget", &prefix, "--service", SERVICE]).ok();
    eventually(BOUND, "the client may come again", || code(bad) == 0);
}

#[test]
fn a_source_that_begins_too_many_flows_is_refused_and_others_are_not() {
    for family in Family::BOTH {
        let lab = Lab::one_arm().campus().build();
        let _gateways = Gateways::start(&lab);
        let configuration =
            family.configuration_with(lab.gateways(), "limits = { new_flows_per_source = 20 }");
        let daemon = Daemon::start(&lab, &configuration);
        let living = client(&lab, family, 1);
        let source = living.ask("hello").source;
        // One IPv4 address, or many of one IPv6 /64: that is one source.
        let sources: Vec<SocketAddr> = (0..400)
            .map(|number| match family {
                Family::V4 => family.campus(1),
                Family::V6 => family.campus(2 + number),
            })
            .collect();
        let flood = lab.campus().udp_from_each(&sources, family.vip(443));

        let start = Instant::now();
        let mut answered = 0;
        for (number, flow) in flood.iter().enumerate() {
            flow.socket().send(b"flood").expect("it can be sent");
            if number % 40 == 0 {
                // On another source, in the middle of it.
                lab.client(1).udp(family.vip(443)).ask("hello");
                assert_eq!(living.ask("a flow that lives").source, source);
            }
        }
        let allowed = 20.0 * (1.0 + start.elapsed().as_secs_f64()) + 1.0;
        eventually(BOUND, "the rest is counted", || {
            let refused = daemon.status().drops_of("source_limited");
            refused as f64 >= 400.0 - allowed
        });
        for flow in &flood {
            flow.socket()
                .set_nonblocking(true)
                .expect("a socket may be asked without waiting");
            answered += u32::from(flow.socket().recv(&mut [0; 128]).is_ok());
        }

        let status = daemon.status();
        assert!(answered >= 10, "only {answered} flows were let in");
        assert_eq!(status.drops_of("source_limited"), 400 - u64::from(answered));
        assert_eq!(status.dropped(), status.drops_of("source_limited"));
        assert_eq!(living.ask("again").source, source);
        // The bucket fills again.
        await_answer(&client(&lab, family, 1));
    }
}

#[test]
fn a_service_with_too_many_new_flows_keeps_those_that_live() {
    let lab = Lab::one_arm().campus().build();
    let _gateways = Gateways::start(&lab);
    let family = Family::V4;
    let configuration =
        family.configuration_with(lab.gateways(), "limits = { new_flows_per_second = 50 }");
    let daemon = Daemon::start(&lab, &configuration);
    let load = Load::start(others(&lab, family), 500);
    load.await_answers(200, BOUND);

    let sources: Vec<SocketAddr> = (1000..1400).map(|number| family.campus(number)).collect();
    let flood = lab.campus().udp_from_each(&sources, family.vip(443));
    for flow in &flood {
        flow.socket().send(b"flood").expect("it can be sent");
    }

    eventually(BOUND, "the rest is counted", || {
        daemon.status().drops_of("service_limited") >= 200
    });
    let report = load.finish();
    report.assert_nothing_lost();
    report.assert_nothing_moved();
    await_answer(&client(&lab, family, 1));
}

/// Returns a socket of client `number` at a port of its own.
fn client(lab: &Lab, family: Family, number: u16) -> UdpClient {
    lab.campus()
        .udp_from(family.campus(number), family.vip(443))
}

fn others(lab: &Lab, family: Family) -> Vec<UdpClient> {
    let sources: Vec<SocketAddr> = (1..=20).map(|number| family.campus(number)).collect();
    lab.campus().udp_from_each(&sources, family.vip(443))
}

#[track_caller]
fn await_cut_off(client: &UdpClient) {
    eventually(CUT_OFF, "the flow has ended", || {
        client.backend_within(SHORT).is_none()
    });
    always(Duration::from_secs(1), "the client is cut off", || {
        client.backend_within(SHORT).is_none()
    });
}

#[track_caller]
fn assert_refused(client: &UdpClient) {
    assert_eq!(client.backend_within(SHORT), None, "a client was let in");
}

#[track_caller]
fn await_answer(client: &UdpClient) {
    assert!(
        holds_within(BOUND, || client.backend_within(SHORT).is_some()),
        "{} is not let in again",
        client.local()
    );
}
