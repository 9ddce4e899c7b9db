//! A site under churn for as long as one likes: nothing grows, and at the end all is as it was.
//!
//! The first half belongs to restarts: the daemon is killed, stopped and replaced by a new version
//! again and again. In the second half one daemon lives through everything else, and what it uses
//! at the end is compared with what it used at the beginning.

use std::{
    env,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Daemon, Gateways, Lab, Load, Random, Traces,
    churn::{Administrator, NewFlows, Variant, amends, configuration, steady_clients},
    eventually::{eventually, holds_within},
    traces::Entries,
    usage::Usage,
};

/// How long it takes without `LB_SOAK_MINUTES`, beside the quiet end.
const SHORT: Duration = Duration::from_secs(20);
/// Samples in each half; half as many where it is short, since each comes with a restart.
const SAMPLES: u32 = 12;
/// Datagrams in a second, over all steady flows.
const RATE: u32 = 500;
/// What the daemon's memory may grow by: its allocator keeps what was once in use, and the tables
/// of clients and numbers are as large as they once had to be.
const SLACK_KIB: u64 = 4096;
/// Descriptors that may be open at one moment and not at another: probes and requests.
const SLACK_DESCRIPTORS: usize = 16;
const BOUND: Duration = Duration::from_secs(20);
/// How soon everything has been forgotten: a flow timeout, and 16 s for what is remembered.
const FORGOTTEN: Duration = Duration::from_secs(60);

#[test]
fn a_site_under_churn_grows_nowhere_and_is_as_it_was_in_the_end() {
    let length = env::var("LB_SOAK_MINUTES").map_or(SHORT, |text| {
        let minutes: f64 = text
            .parse()
            .unwrap_or_else(|_| panic!("LB_SOAK_MINUTES is no number: {text}"));
        Duration::from_secs_f64(minutes * 60.0)
    });
    let samples = if length > SHORT { SAMPLES } else { SAMPLES / 2 };
    let mut random = Random::of_the_run();
    let lab = Lab::one_arm().campus().gateways(4).build();
    // The interface goes down and comes back with its addresses, as with any network manager.
    lab.balancer()
        .net()
        .sysctl("net/ipv6/conf/eth0/keep_addr_on_down", "1");
    let gateways = Gateways::start(&lab);
    let before = Traces::of(lab.balancer());
    let mut daemon = Daemon::start(&lab, &configuration(&lab, Variant::default()));
    let (running, at_first) = (Traces::of(lab.balancer()), Entries::of(lab.balancer()));
    let load = Load::start(steady_clients(&lab), RATE);
    let new_flows = NewFlows::start(&lab, random.clone());
    let mut administrator = Administrator::new(random.clone());
    let start = Instant::now();
    println!("{}", Sample::HEADING);

    let mut changes = Changes::default();
    for number in 0..samples {
        let end = start + length / 2 / samples * (number + 1);
        while Instant::now() < end {
            changes.make(&lab, &gateways, &daemon, &mut administrator, &mut random);
        }
        match number % 3 {
            0 => daemon.kill9(),
            _ => daemon.terminate(),
        }
        daemon.write_configuration(&configuration(&lab, administrator.variant()));
        match number % 3 {
            0 | 1 => daemon.start_again(),
            _ => daemon.start_upgraded(),
        }
        Sample::take(&lab, &daemon).print(start.elapsed(), "started anew");
    }
    let mut taken = Vec::new();
    for number in 0..samples {
        let end = start + length / 2 + length / 2 / samples * (number + 1);
        while Instant::now() < end {
            changes.make(&lab, &gateways, &daemon, &mut administrator, &mut random);
        }
        let sample = Sample::take(&lab, &daemon);
        sample.print(start.elapsed(), "");
        taken.push(sample);
    }

    load.await_answers(u64::from(RATE), BOUND);
    let (load, new_flows) = (load.finish(), new_flows.finish());
    println!(
        "{changes:?}; {} of {} datagrams of steady flows lost; \
         {} flows begun, {} questions, {} repeated, {} unanswered",
        load.lost.len(),
        load.sent,
        new_flows.begun,
        new_flows.asked,
        new_flows.repeated,
        new_flows.unanswered.len()
    );
    quieten(&lab, &gateways, &daemon);
    let as_at_first = holds_within(BOUND, || Entries::of(lab.balancer()) == at_first);
    assert!(as_at_first, "{:#?}", Entries::of(lab.balancer()));
    assert_eq!(Traces::of(lab.balancer()), running);
    daemon.cli(&["check", "--live"]).ok();
    Sample::take(&lab, &daemon).print(start.elapsed(), "quiet");
    assert_no_growth(&taken);
    assert_eq!(load.duplicated, 0);
    if changes.interface_down == 0 {
        load.assert_nothing_lost();
        new_flows.assert_answered();
    }

    daemon.cli(&["detach"]).ok();
    assert!(daemon.wait().success(), "{}", daemon.log());
    let gone = holds_within(BOUND, || Traces::of(lab.balancer()) == before);
    assert!(gone, "{:#?}\nis left", Traces::of(lab.balancer()));
}

/// What was done to the site.
#[derive(Debug, Default)]
struct Changes {
    made: u64,
    interface_down: u64,
}

impl Changes {
    /// Makes one change and waits for what it shall bring.
    #[track_caller]
    fn make(
        &mut self,
        lab: &Lab,
        gateways: &Gateways,
        daemon: &Daemon<'_>,
        administrator: &mut Administrator,
        random: &mut Random,
    ) {
        self.made += 1;
        match random.within(0..24) {
            0 => {
                self.interface_down += 1;
                let net = lab.balancer().net();
                net.ip(&["link set eth0 down"]);
                net.ip(&["link set eth0 up"]);
                // The kernel takes routes away with the link, and addresses need none for their own net.
                let (v4, v6) = (lab.router().v4(), lab.router().v6());
                net.ip(&[
                    &format!("route replace default via {v4}"),
                    &format!("route replace default via {v6}"),
                ]);
                eventually(BOUND, "the backends are reached again", || {
                    daemon.try_status().is_ok_and(|status| {
                        let mut steady = status.backends().take(2);
                        steady.all(|backend| backend.is_reachable() && backend.is_up())
                    })
                });
            }
            1..8 => administrator.flap(gateways),
            8..12 => daemon.reload(&configuration(lab, administrator.variant())),
            _ => {
                let command = administrator.command();
                let words: Vec<&str> = command.iter().map(String::as_str).collect();
                let outcome = daemon.cli(&words);
                // About a backend that is not configured, or a prefix that nothing was said of.
                let refused = ["no backend", "nothing was said", "no pool"];
                let refused = refused.iter().any(|why| outcome.text().contains(why));
                assert!(refused || outcome.code == Some(0), "{}", outcome.text());
            }
        }
    }
}

/// Takes back everything that was changed, and waits until no flow, port or client is left.
#[track_caller]
fn quieten(lab: &Lab, gateways: &Gateways, daemon: &Daemon<'_>) {
    for gateway in gateways.all() {
        gateway.page.answer(200, "ok");
    }
    daemon.reload(&configuration(lab, Variant::default()));
    for command in amends() {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let outcome = daemon.cli(&words);
        let nothing_said = words[0] == "forget" && outcome.text().contains("nothing was said");
        assert!(
            nothing_said || outcome.code == Some(0),
            "{}",
            outcome.text()
        );
    }
    eventually(FORGOTTEN, "flows, ports and clients are gone", || {
        let status = daemon.status();
        let served = status.backends().all(|backend| backend.is_eligible());
        let used = status.flows() + status.ports_in_use() + status.remembered();
        served && used == 0
    });
}

/// Compares the first third of the samples with the last one.
#[track_caller]
fn assert_no_growth(samples: &[Sample]) {
    let third = samples.len() / 3;
    let (first, last) = (&samples[..third], &samples[samples.len() - third..]);
    let memory = |samples: &[Sample]| median(samples.iter().map(|sample| sample.usage.pss_kib));
    let (at_first, at_last) = (memory(first), memory(last));
    println!("memory: {at_first} KiB in the first third, {at_last} KiB in the last");
    assert!(
        at_last <= at_first + SLACK_KIB,
        "the daemon grew from {at_first} to {at_last} KiB"
    );
    let descriptors = |samples: &[Sample]| {
        median(samples.iter().map(|sample| sample.usage.descriptors as u64)) as usize
    };
    let (at_first, at_last) = (descriptors(first), descriptors(last));
    assert!(
        at_last <= at_first + SLACK_DESCRIPTORS,
        "{at_first} descriptors became {at_last}"
    );
    let threads = |samples: &[Sample]| median(samples.iter().map(|of| of.usage.threads as u64));
    assert!(threads(last) <= threads(first) + 2, "threads: {samples:?}");
    let pins = samples[0].pins;
    assert!(
        samples.iter().all(|sample| sample.pins == pins),
        "{samples:?}"
    );
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// What is used at one moment.
#[derive(Clone, Debug)]
struct Sample {
    usage: Usage,
    pins: usize,
    entries: Entries,
    ports: u64,
}

impl Sample {
    const HEADING: &'static str = " seconds  PSS KiB  files  threads  pins  services  endpoints   flows  flows6  records  affinity   ports";

    #[track_caller]
    fn take(lab: &Lab, daemon: &Daemon<'_>) -> Self {
        Self {
            usage: Usage::of(daemon.pid()),
            pins: Traces::of(lab.balancer()).pins(),
            entries: Entries::of(lab.balancer()),
            ports: daemon.status().ports_in_use(),
        }
    }

    fn print(&self, at: Duration, what: &str) {
        let count = |name| self.entries.count(name);
        println!(
            "{:8.1} {:8} {:6} {:8} {:5} {:9} {:10} {:7} {:7} {:8} {:9} {:7}  {what}",
            at.as_secs_f64(),
            self.usage.pss_kib,
            self.usage.descriptors,
            self.usage.threads,
            self.pins,
            count("services"),
            count("endpoints"),
            count("flows"),
            count("flows6"),
            count("records"),
            count("affinity"),
            self.ports,
        );
    }
}
