//! The daemon is killed a hundred times, at any moment: while it starts, while it changes tables,
//! while it sweeps. Packets do not notice, the next daemon mends what was left, nothing leaks.

use std::{
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Daemon, Gateways, Lab, Load, Random, Traces,
    churn::{Administrator, NewFlows, Variant, amends, configuration, steady_clients},
    eventually::{eventually, holds_within},
    traces::Entries,
};

const KILLS: usize = 100;
/// Kills between two looks at the tables.
const LOOK_EVERY: usize = 20;
/// Datagrams in a second, over all steady flows.
const RATE: u32 = 1000;
/// How long a daemon may live after a change began.
const LIFE: Duration = Duration::from_millis(60);
/// The same, now and then: long enough to find a backend down.
const LONG_LIFE: Duration = Duration::from_millis(1200);
/// How soon the tables are in order after a start.
const MENDED: Duration = Duration::from_secs(10);
/// How soon everything has been forgotten: a flow timeout, and 16 s for what is remembered.
const FORGOTTEN: Duration = Duration::from_secs(60);
const BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_daemon_killed_a_hundred_times_loses_no_packet_and_leaks_nothing() {
    let mut random = Random::of_the_run();
    let lab = Lab::one_arm().campus().gateways(4).build();
    let gateways = Gateways::start(&lab);
    let before = Traces::of(lab.balancer());
    let launched = Instant::now();
    let mut daemon = Daemon::start(&lab, &configuration(&lab, Variant::default()));
    let start_up = launched.elapsed();
    let running = Traces::of(lab.balancer());
    let at_first = Entries::of(lab.balancer());
    let load = Load::start(steady_clients(&lab), RATE);
    let new_flows = NewFlows::start(&lab, random.clone());
    let mut administrator = Administrator::new(random.clone());
    load.await_answers(u64::from(RATE), BOUND);

    daemon.kill9();
    for kill in 1..KILLS {
        administrator.flap(&gateways);
        daemon.write_configuration(&configuration(&lab, administrator.variant()));
        daemon.launch_again();
        if kill % LOOK_EVERY == 0 {
            daemon.await_ready();
            await_agreement(&daemon);
        } else if random.one_in(8) {
            daemon.await_ready();
            daemon.write_configuration(&configuration(&lab, administrator.variant()));
            let mut changes: Vec<Child> = (0..2)
                .map(|_| begin(&daemon, &administrator.command()))
                .collect();
            let life = if random.one_in(6) { LONG_LIFE } else { LIFE };
            live(random.time(life));
            daemon.kill9();
            // What was said to a daemon that died failed, or did not: both are right.
            for change in &mut changes {
                change.wait().expect("a command ends");
            }
            continue;
        } else {
            // Most of a start happens at its beginning.
            let part = if random.one_in(4) { 1 } else { 6 };
            live(random.time(start_up / part));
        }
        daemon.kill9();
    }

    daemon.write_configuration(&configuration(&lab, Variant::default()));
    daemon.start_again();
    await_agreement(&daemon);
    load.await_answers(u64::from(RATE), BOUND);
    let new_flows = new_flows.finish();
    let load = load.finish();
    eprintln!(
        "{} datagrams of steady flows; new flows: {new_flows:?}; a start took {start_up:?}",
        load.sent
    );
    load.assert_nothing_lost();
    load.assert_nothing_moved();
    new_flows.assert_answered();

    for gateway in gateways.all() {
        gateway.page.answer(200, "ok");
    }
    for command in amends() {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let outcome = daemon.cli(&words);
        // Of a prefix that nothing was said of, nothing can be forgotten.
        let nothing_said = words[0] == "forget" && outcome.text().contains("nothing was said");
        assert!(
            nothing_said || outcome.code == Some(0),
            "{}",
            outcome.text()
        );
    }
    // Clients of a backend that is no more are forgotten, and so is the backend.
    let without_fourth = Variant {
        without_fourth: true,
        ..Variant::default()
    };
    daemon.reload(&configuration(&lab, without_fourth));
    await_agreement(&daemon);
    daemon.reload(&configuration(&lab, Variant::default()));
    await_quiet(&lab, &daemon, &at_first);
    assert_eq!(Traces::of(lab.balancer()), running);

    daemon.cli(&["detach"]).ok();
    assert!(daemon.wait().success(), "{}", daemon.log());
    let gone = holds_within(BOUND, || Traces::of(lab.balancer()) == before);
    assert!(gone, "{:#?}\nis left", Traces::of(lab.balancer()));
}

/// Lets the daemon live for a time that was drawn: when it is killed is what the test is about.
fn live(time: Duration) {
    thread::sleep(time);
}

fn begin(daemon: &Daemon<'_>, command: &[String]) -> Child {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    daemon
        .cli_command(&words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("vipd starts")
}

/// Waits until `vipd check --live` finds nothing.
#[track_caller]
fn await_agreement(daemon: &Daemon<'_>) {
    let mut said = String::new();
    let agrees = holds_within(MENDED, || {
        let outcome = daemon.cli(&["check", "--live"]);
        said = outcome.text();
        outcome.code == Some(0)
    });
    assert!(agrees, "within {MENDED:?}: {said}\n{}", daemon.log());
}

/// Waits until no flow, port or client is left, by the daemon's word and by the tables.
#[track_caller]
fn await_quiet(lab: &Lab, daemon: &Daemon<'_>, at_first: &Entries) {
    eventually(FORGOTTEN, "flows, ports and clients are gone", || {
        let status = daemon.status();
        status.flows() == 0 && status.ports_in_use() == 0 && status.remembered() == 0
    });
    let as_at_first = holds_within(BOUND, || Entries::of(lab.balancer()) == *at_first);
    assert!(
        as_at_first,
        "{:#?}\nis left, where there was\n{at_first:#?}",
        Entries::of(lab.balancer())
    );
    await_agreement(daemon);
    let status = daemon.status();
    assert!(
        status.backends().all(|backend| backend.is_eligible()),
        "not every backend serves: {}",
        daemon.cli(&["status"]).text()
    );
}
