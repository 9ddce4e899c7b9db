//! The program alone: `BPF_PROG_TEST_RUN`, one packet after another, the flows in random order.
//!
//! Every figure contains the generator and what the kernel needs for a run; the reflector's figure
//! is just that and a swap of two addresses.

use std::{path::Path, time::Instant};

use anyhow::{Result, ensure};

use crate::{
    Options,
    programs::{Baseline, Programs},
    report::{Report, Sample},
    site::{BACKENDS, PORTS, Site},
};

/// `enum xdp_action` of the kernel's `include/uapi/linux/bpf.h`.
const XDP_DROP: u32 = 1;
const XDP_TX: u32 = 3;

/// Numbers of flows.
const FLOWS: [u32; 4] = [1, 10_000, 131_000, 1_000_000];
/// Packets of one measurement.
const PACKETS: u32 = 200_000;
/// The loopback, by which test runs come in.
const LOOPBACK: u32 = 1;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 5];

/// Ratio of the forward and of the reply path to a bare lookup.
const MOST_OF_LOOKUP: f64 = 1.25;
/// Nanoseconds of a new flow, up to [`NEW_FLOWS_UP_TO`].
const MOST_OF_NEW_FLOW: f64 = 800.0;
const NEW_FLOWS_UP_TO: u32 = 131_000;
/// Nanoseconds of a blocked packet above a bare drop, by number of prefixes.
const MOST_OF_BLOCKED: [(u32, f64); 2] = [(1, 40.0), (10_000, 200.0)];
/// Megabytes of kernel memory for a million flows.
const MOST_OF_MEMORY: f64 = 200.0;
/// Milliseconds of a sweep of a million flows.
const MOST_OF_SWEEP: f64 = 50.0;

/// Measures everything that test runs can.
pub(crate) fn measure(options: &Options, bpffs: &Path, report: &mut Report) -> Result<()> {
    for flows in FLOWS.into_iter().filter(|flows| *flows <= options.flows) {
        let pins = bpffs.join(format!("flows{flows}"));
        let mut site = Site::open(&pins, flows, LOOPBACK, MAC, &[])?;
        let mut programs = Programs::load(site.max_flows())?;
        report.section(&format!("BY TEST RUN, {flows} FLOWS (with the generator)"));
        packets(options, flows, &mut site, &mut programs, report)?;
        if flows == 10_000 {
            blocked(options, &mut site, &mut programs, report)?;
        }
        if flows == 1_000_000 {
            memory(bpffs, report)?;
            sweeps(options, &mut site, report)?;
        }
        drop(site);
        lb_userspace::dataplane::kernel::remove_pins(&pins)?;
    }
    Ok(())
}

fn packets(
    options: &Options,
    flows: u32,
    site: &mut Site,
    programs: &mut Programs,
    report: &mut Report,
) -> Result<()> {
    let vipd = site.kernel.program_fd()?;
    programs.fill_table(flows)?;
    let order = shuffled(flows);
    programs.order(&order)?;

    programs.target_program(&vipd)?;
    let mut new = Sample::default();
    let (ns, action) = programs.run(site.clients(flows, 0), flows)?;
    ensure!(action == XDP_TX, "a new flow was not forwarded: {action}");
    new.add(ns);
    let records = site.records();
    ensure!(
        records.len() == flows as usize,
        "{} of {flows} flows began",
        records.len()
    );

    let mut baselines = [Baseline::Reflect, Baseline::Discard, Baseline::Lookup]
        .map(|baseline| (baseline, Sample::default()));
    // Answers come in an order of their own, and so from a generator of their own.
    let mut answers = Programs::load(1024)?;
    let order: Vec<u32> = order.iter().map(|&place| records[place as usize]).collect();
    answers.order(&order)?;
    answers.target_program(&vipd)?;
    let (mut forward, mut reply) = (Sample::default(), Sample::default());
    for _ in 0..options.rounds {
        for (baseline, sample) in &mut baselines {
            programs.target(*baseline)?;
            sample.add(programs.run(site.clients(flows, 0), PACKETS)?.0);
        }
        programs.target_program(&vipd)?;
        let (ns, action) = programs.run(site.clients(flows, 0), PACKETS)?;
        ensure!(action == XDP_TX, "a packet was not forwarded: {action}");
        forward.add(ns);
        let (ns, action) = answers.run(site.answers(flows), PACKETS)?;
        ensure!(action == XDP_TX, "an answer was not forwarded: {action}");
        reply.add(ns);
    }

    for (baseline, sample) in &baselines {
        report.figure(&format!("{baseline:?}").to_lowercase(), sample, "ns");
    }
    report.figure("forward", &forward, "ns");
    report.figure("reply", &reply, "ns");
    report.figure("new flow of a new client", &new, "ns");
    let of = |wanted: Baseline| {
        let found = baselines.iter().find(|(baseline, _)| *baseline == wanted);
        found.map_or(f64::NAN, |(_, sample)| sample.median())
    };
    let (lookup, floor) = (of(Baseline::Lookup), of(Baseline::Reflect));
    report.say(format!(
        "above the reflector: lookup {:.1}, forward {:.1}, reply {:.1} ns",
        lookup - floor,
        forward.median() - floor,
        reply.median() - floor
    ));
    for (what, sample) in [("forward", &forward), ("reply", &reply)] {
        report.at_most(
            format!("test run, {flows} flows: {what} / bare lookup"),
            sample.median() / lookup,
            MOST_OF_LOOKUP,
            "",
        );
    }
    if (2..=NEW_FLOWS_UP_TO).contains(&flows) {
        report.at_most(
            format!("test run, {flows} flows: a new flow"),
            new.median(),
            MOST_OF_NEW_FLOW,
            "ns",
        );
    }
    Ok(())
}

/// Strangers whom the service does not take.
fn blocked(
    options: &Options,
    site: &mut Site,
    programs: &mut Programs,
    report: &mut Report,
) -> Result<()> {
    let vipd = site.kernel.program_fd()?;
    let strangers = site.clients(10_000, 2_000_000);
    programs.order(&shuffled(10_000))?;
    for (prefixes, bound) in MOST_OF_BLOCKED {
        site.block(prefixes)?;
        let (mut drop, mut blocked) = (Sample::default(), Sample::default());
        for _ in 0..options.rounds {
            programs.target(Baseline::Discard)?;
            drop.add(programs.run(strangers, PACKETS)?.0);
            programs.target_program(&vipd)?;
            let (ns, action) = programs.run(strangers, PACKETS)?;
            ensure!(
                action == XDP_DROP,
                "a blocked packet was not dropped: {action}"
            );
            blocked.add(ns);
        }
        report.figure(&format!("blocked, {prefixes} prefixes"), &blocked, "ns");
        report.at_most(
            format!("test run: a packet of a blocked prefix of {prefixes}, above a bare drop"),
            blocked.median() - drop.median(),
            bound,
            "ns",
        );
    }
    Ok(())
}

/// What tables take that are made for a million flows.
fn memory(bpffs: &Path, report: &mut Report) -> Result<()> {
    const MILLION: u32 = 1_000_000;
    let pins = bpffs.join("memory");
    let site = Site::sized(&pins, MILLION, LOOPBACK, MAC, &[], MILLION)?;
    let memory = site.kernel.memory()?;
    let mut total = 0;
    for name in ["flows", "flows6", "records", "cache"] {
        let bytes = memory.get(name).copied().unwrap_or_default();
        report.say(format!("{name}: {:.1} MB", bytes as f64 / 1e6));
        total += bytes;
    }
    drop(site);
    lb_userspace::dataplane::kernel::remove_pins(&pins)?;
    report.at_most(
        "memory of a million flows".to_owned(),
        total as f64 / 1e6,
        MOST_OF_MEMORY,
        "MB",
    );
    Ok(())
}

fn sweeps(options: &Options, site: &mut Site, report: &mut Report) -> Result<()> {
    let settings = site.sweep_settings();
    let mut sweeper = site.kernel.sweeper()?;
    // The first pass looks for flows that a crash has torn, and at every client.
    let begun = Instant::now();
    let first = sweeper.sweep(&settings)?;
    report.say(format!(
        "first pass after a start: {} ms, {} clients",
        begun.elapsed().as_millis(),
        first.affinity_entries
    ));
    let mut sample = Sample::default();
    for _ in 0..options.rounds {
        let sweep = sweeper.sweep(&settings)?;
        sample.add(sweep.took.as_secs_f64() * 1e3);
    }
    let records = u32::from(BACKENDS) * u32::from(PORTS);
    report.figure(&format!("a sweep of {records} records"), &sample, "ms");
    report.at_most(
        "a sweep of a million flows".to_owned(),
        sample.median(),
        MOST_OF_SWEEP,
        "ms",
    );
    Ok(())
}

/// Returns the numbers below `count` in an order that no cache foresees, the same each time.
pub(crate) fn shuffled(count: u32) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count).collect();
    let mut random = 0x1234_5678_9abc_def1_u64;
    for place in (1..numbers.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        numbers.swap(place, (random % (place as u64 + 1)) as usize);
    }
    numbers
}
