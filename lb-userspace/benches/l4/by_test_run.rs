//! The program alone: `BPF_PROG_TEST_RUN`, one packet after another, the flows in random order.
//!
//! Every figure contains the generator and what the kernel needs for a run; the reflector's figure
//! is just that and a swap of two addresses.

use std::{path::Path, time::Instant};

use anyhow::{Result, ensure};
use lb_common::measure::Generator;

use crate::{
    Options,
    programs::{Baseline, Programs},
    report::{Pairs, Report, Sample},
    site::Site,
};

/// `enum xdp_action` of the kernel's `include/uapi/linux/bpf.h`.
const XDP_DROP: u32 = 1;
const XDP_TX: u32 = 3;

/// Numbers of flows.
const FLOWS: [u32; 4] = [1, 10_000, 131_000, 1_000_000];
/// Packets of one measurement, and at most so many before it: they bring back what the measurement
/// before has driven out of the caches.
const PACKETS: u32 = 40_000;
const MOST_TO_WARM_UP: u32 = 30_000;
/// Packets of one measurement of more flows than that.
const PACKETS_OF_MANY: u32 = 200_000;
/// New flows are measured in so many parts, of at least so many flows; where those of one site are
/// too few, in several sites.
const NEW_FLOW_PARTS: u32 = 20;
const NEW_FLOWS: u32 = 5_000;
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
        report.section(&format!("BY TEST RUN, {flows} FLOWS (with the generator)"));
        let pins = bpffs.join(format!("flows{flows}"));
        let (mut site, mut programs) = filled(&pins, flows, report)?;
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

/// What was measured while flows began.
#[derive(Default)]
struct Beginnings {
    insert: Pairs,
    new: Pairs,
}

/// Lets flows begin in one site after another, as often as a figure needs; returns the last site.
fn filled(pins: &Path, flows: u32, report: &mut Report) -> Result<(Site, Programs)> {
    let part = flows.div_ceil(NEW_FLOW_PARTS).max(NEW_FLOWS).min(flows);
    let sites = match flows {
        1 => 1,
        _ => NEW_FLOW_PARTS.div_ceil(flows.div_ceil(part)),
    };
    let mut beginnings = Beginnings::default();
    let mut last = fill(pins, flows, part, &mut beginnings)?;
    for _ in 1..sites {
        drop(last);
        lb_userspace::dataplane::kernel::remove_pins(pins)?;
        last = fill(pins, flows, part, &mut beginnings)?;
    }
    let Beginnings { insert, new } = beginnings;
    report.figure("bare insertion", &insert.measured_at_rest(), "ns");
    report.figure("new flow of a new client", &new.measured_at_rest(), "ns");
    if (2..=NEW_FLOWS_UP_TO).contains(&flows) {
        report.at_most(
            format!("test run, {flows} flows: a new flow"),
            &new.measured_at_rest(),
            MOST_OF_NEW_FLOW,
            "ns",
        );
    }
    Ok(last)
}

/// Lets every flow begin in a new site.
fn fill(
    pins: &Path,
    flows: u32,
    part: u32,
    beginnings: &mut Beginnings,
) -> Result<(Site, Programs)> {
    let mut site = Site::open(pins, flows, LOOPBACK, MAC, &[])?;
    let mut programs = Programs::load(site.max_flows())?;
    programs.order(&shuffled(flows))?;
    programs.target(Baseline::Insert)?;
    each_once(flows, part, &site, &mut programs, &mut beginnings.insert)?;
    programs.target_program(&site.kernel.program_fd()?)?;
    each_once(flows, part, &site, &mut programs, &mut beginnings.new)?;
    Ok((site, programs))
}

fn packets(
    options: &Options,
    flows: u32,
    site: &mut Site,
    programs: &mut Programs,
    report: &mut Report,
) -> Result<()> {
    let vipd = site.kernel.program_fd()?;
    let records = site.records();
    ensure!(
        records.len() == flows as usize,
        "{} of {flows} flows began",
        records.len()
    );

    // Tables hand out their elements one after the other: packets in the order in which their flows
    // began would meet each element just after its neighbour, and find it fetched.
    let order = reshuffled(shuffled(flows));
    programs.order(&order)?;
    // Answers come by indexes of records, and so from a generator of their own.
    let mut answers = Programs::load(1024)?;
    let order: Vec<u32> = order.iter().map(|&place| records[place as usize]).collect();
    answers.order(&order)?;
    answers.target_program(&vipd)?;
    let mut samples: [Sample; 4] = Default::default();
    let [reflect, lookup, forward, reply] = &mut samples;
    let (mut forward_pairs, mut reply_pairs) = (Pairs::default(), Pairs::default());
    for _ in 0..options.rounds {
        let (clients, from_backends) = (site.clients(flows, 0), site.answers(flows));
        programs.target(Baseline::Reflect)?;
        reflect.add(each(programs, clients, XDP_TX)?);

        programs.target(Baseline::Lookup)?;
        let base = each(programs, clients, XDP_TX)?;
        programs.target_program(&vipd)?;
        let measured = each(programs, clients, XDP_TX)?;
        forward_pairs.add(base, measured);
        lookup.add(base);
        forward.add(measured);

        programs.target(Baseline::Lookup)?;
        let base = each(programs, clients, XDP_TX)?;
        let measured = each(&mut answers, from_backends, XDP_TX)?;
        reply_pairs.add(base, measured);
        reply.add(measured);
    }

    report.figure("reflector", reflect, "ns");
    report.figure("bare lookup", lookup, "ns");
    report.figure("forward", forward, "ns");
    report.figure("reply", reply, "ns");
    for (what, pairs) in [("forward", &forward_pairs), ("reply", &reply_pairs)] {
        report.at_most(
            format!("test run, {flows} flows: {what} / bare lookup"),
            &pairs.ratios(),
            MOST_OF_LOOKUP,
            "",
        );
    }
    Ok(())
}

/// Lets every flow come once, in parts; adds what each costs beside the reflector.
fn each_once(
    flows: u32,
    part: u32,
    site: &Site,
    programs: &mut Programs,
    pairs: &mut Pairs,
) -> Result<()> {
    let mut beside = Programs::load(1024)?;
    beside.order(&[0])?;
    beside.target(Baseline::Reflect)?;
    for _ in 0..flows.div_ceil(part) {
        let base = each(&mut beside, site.clients(1, 0), XDP_TX)?;
        let (measured, action) = programs.run(site.clients(flows, 0), part)?;
        ensure!(action == XDP_TX, "a new flow met action {action}");
        pairs.add(base, measured);
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
        let mut pairs = Pairs::default();
        for _ in 0..options.rounds {
            programs.target(Baseline::Discard)?;
            let base = each(programs, strangers, XDP_DROP)?;
            programs.target_program(&vipd)?;
            pairs.add(base, each(programs, strangers, XDP_DROP)?);
        }
        let above = pairs.differences_at_rest();
        report.figure(
            &format!("blocked, {prefixes} prefixes"),
            &pairs.measured_at_rest(),
            "ns",
        );
        report.at_most(
            format!("test run: a packet of a blocked prefix of {prefixes}, above a bare drop"),
            &above,
            bound,
            "ns",
        );
    }
    Ok(())
}

/// Runs what `programs` are aimed at; returns nanoseconds for each packet.
///
/// Few flows come again and again. Of many, each measurement has the same ones once: they come so
/// often, seen by the clock, as if nothing else were measured meanwhile.
fn each(programs: &mut Programs, generator: Generator, wanted: u32) -> Result<f64> {
    let packets = if generator.count <= PACKETS {
        programs.run(generator, (3 * generator.count).min(MOST_TO_WARM_UP))?;
        PACKETS
    } else {
        programs.rewind();
        generator.count.min(PACKETS_OF_MANY)
    };
    let (ns, action) = programs.run(generator, packets)?;
    ensure!(
        action == wanted,
        "the last packet met action {action} instead of {wanted}"
    );
    Ok(ns)
}

/// What tables take that are made for a million flows.
fn memory(bpffs: &Path, report: &mut Report) -> Result<()> {
    const MILLION: u32 = 1_000_000;
    let pins = bpffs.join("memory");
    let site = Site::sized(&pins, MILLION, LOOPBACK, MAC, &[], MILLION)?;
    let memory = site.kernel.memory()?;
    let mut total = 0;
    for name in ["flows", "flows6", "records", "cache", "exact"] {
        let bytes = memory.get(name).copied().unwrap_or_default();
        report.say(format!("{name}: {:.1} MB", bytes as f64 / 1e6));
        total += bytes;
    }
    drop(site);
    lb_userspace::dataplane::kernel::remove_pins(&pins)?;
    let mut sample = Sample::default();
    sample.add(total as f64 / 1e6);
    report.at_most(
        "memory of a million flows".to_owned(),
        &sample,
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
    for _ in 0..options.rounds.min(15) {
        let sweep = sweeper.sweep(&settings)?;
        sample.add(sweep.took.as_secs_f64() * 1e3);
    }
    let records = site.max_flows();
    report.figure(&format!("a sweep of {records} records"), &sample, "ms");
    report.at_most(
        "a sweep of a million flows".to_owned(),
        &sample,
        MOST_OF_SWEEP,
        "ms",
    );
    Ok(())
}

/// Returns the numbers below `count` in an order that no cache foresees, the same each time.
pub(crate) fn shuffled(count: u32) -> Vec<u32> {
    reshuffled((0..count).collect())
}

/// Returns the numbers in an order that has nothing to do with the one they had.
fn reshuffled(mut numbers: Vec<u32>) -> Vec<u32> {
    let mut random = 0x1234_5678_9abc_def1_u64;
    for place in (1..numbers.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        numbers.swap(place, (random % (place as u64 + 1)) as usize);
    }
    numbers
}
