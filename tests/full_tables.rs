//! Tables that are full: whoever is in them does not notice, whoever comes is refused, and the
//! administrator is told before.

use std::{net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab, Load, UdpClient,
    configuration::SERVICE,
    eventually::eventually,
    site::{campus_v4, vip},
    status::explanations,
};

const BOUND: Duration = Duration::from_secs(10);
/// Flows that are at work all the time.
const ACTIVE: u16 = 100;
const RATE: u32 = 1000;
/// Junk is sent in portions that the queues of a veth pair take.
const PORTION: usize = 64;

#[test]
fn a_full_flow_table_refuses_new_flows_and_no_packet_of_others() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let _gateways = Gateways::start(&lab);
    // Two endpoints of 512 ports each: all of the table.
    let configuration = Configuration::ras(&lab)
        .node("max_flows = 1024")
        .node("snat_ports = \"20000-20511\"");
    let daemon = Daemon::start(&lab, &configuration);
    let load = active(&lab);
    assert_eq!(daemon.status().fills().0, "ok");

    // 820 of 1024 are 80%.
    let mut junk = fill(&lab, 1000..1730);
    eventually(BOUND, "nearly full", || daemon.status().fills().0 == "high");
    assert_logged(&daemon, "WARN", "the flow table is nearly full");
    let text = daemon.cli(&["status"]).text();
    assert!(text.contains("nearly full"), "{text}");
    assert_eq!(daemon.drops(), []);

    junk.extend(fill(&lab, 2000..2600));
    eventually(BOUND, "full", || {
        let status = daemon.status();
        status.flows() == 1024 && status.fills().0 == "full"
    });
    assert_logged(&daemon, "ERROR", "the flow table is full");

    // 100, 730 and 600 flows have come.
    eventually(BOUND, "what came too late is counted", || {
        refusals(&daemon) >= 1430 - 1024
    });
    // Ten times as much again, while it is full.
    for _ in 0..5 {
        drop(fill(&lab, 3000..3600));
    }
    eventually(BOUND, "what came too late is counted", || {
        refusals(&daemon) >= 1430 - 1024 + 5 * 600
    });
    assert_eq!(daemon.status().flows(), 1024);
    assert_unharmed(load);
    drop(junk);
}

#[test]
fn a_full_range_of_snat_ports_refuses_new_flows_and_no_packet_of_others() {
    let lab = Lab::one_arm().gateways(1).campus().build();
    let _gateways = Gateways::start(&lab);
    let configuration = Configuration::ras(&lab).node("snat_ports = \"20000-20255\"");
    let daemon = Daemon::start(&lab, &configuration);
    let load = active(&lab);

    let _junk = fill(&lab, 1000..1300);
    let backend = SocketAddr::new(lab.gateway(1).v4().into(), 443);
    eventually(BOUND, "full", || {
        daemon.status().endpoint_ports(backend) == (256, 256)
    });
    for _ in 0..5 {
        drop(fill(&lab, 2000..2300));
    }

    eventually(BOUND, "what came too late is counted", || {
        daemon.status().drops_of("snat_ports_exhausted") >= 1500
    });
    let status = daemon.status();
    assert_eq!(status.dropped(), status.drops_of("snat_ports_exhausted"));
    assert_unharmed(load);
}

#[test]
fn a_full_affinity_table_serves_everybody_and_forgets_nobody() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let _gateways = Gateways::start(&lab);
    let configuration = Configuration::ras(&lab).node("max_affinity = 1024");
    let daemon = Daemon::start(&lab, &configuration);
    let load = active(&lab);
    assert_eq!(daemon.status().fills().1, "ok");

    drop(fill(&lab, 1000..1730));
    eventually(BOUND, "nearly full", || daemon.status().fills().1 == "high");
    assert_logged(&daemon, "WARN", "the affinity table is nearly full");

    drop(fill(&lab, 2000..2600));
    eventually(BOUND, "full", || daemon.status().fills().1 == "full");
    assert_logged(&daemon, "WARN", "the affinity table is full");
    eventually(BOUND, "who was not remembered is counted", || {
        daemon.status().service(SERVICE).affinity_full() >= 400
    });

    // New clients are served by their hash, and the old ones are remembered.
    lab.client(1).udp(vip(443)).ask("hello");
    let old = campus_v4(1).ip().to_string();
    let explained = explanations(&daemon.cli(&["explain", &old, "--json"]).ok());
    assert_eq!(explained[0].because, "affinity");
    assert_eq!(daemon.drops(), []);
    assert_unharmed(load);
}

fn active(lab: &Lab) -> Load {
    let sources: Vec<SocketAddr> = (1..=ACTIVE).map(campus_v4).collect();
    let load = Load::start(lab.campus().udp_from_each(&sources, vip(443)), RATE);
    load.await_answers(u64::from(RATE), BOUND);
    load
}

/// Begins a flow from each campus address of `numbers`, once, and waits for no answer.
fn fill(lab: &Lab, numbers: std::ops::Range<u16>) -> Vec<UdpClient> {
    let sources: Vec<SocketAddr> = numbers.map(campus_v4).collect();
    sources
        .chunks(PORTION)
        .flat_map(|portion| {
            let clients = lab.campus().udp_from_each(portion, vip(443));
            for client in &clients {
                client.socket().send(b"junk").expect("it can be sent");
            }
            // One that is answered says that the portion is through; a refused one takes the time.
            let _ = clients[clients.len() - 1].backend_within(Duration::from_millis(50));
            clients
        })
        .collect()
}

#[track_caller]
fn refusals(daemon: &Daemon<'_>) -> u64 {
    let status = daemon.status();
    let refused = status.drops_of("flow_table_full") + status.drops_of("snat_ports_exhausted");
    assert_eq!(status.dropped(), refused, "{:?}", status.drops());
    refused
}

#[track_caller]
fn assert_logged(daemon: &Daemon<'_>, level: &str, part: &str) {
    let log = daemon.log();
    let logged = log
        .lines()
        .any(|line| line.contains(level) && line.contains(part));
    assert!(logged, "the log does not say {level} {part:?}:\n{log}");
}

#[track_caller]
fn assert_unharmed(load: Load) {
    load.await_answers(u64::from(RATE), BOUND);
    let report = load.finish();
    report.assert_nothing_lost();
    report.assert_nothing_moved();
}
