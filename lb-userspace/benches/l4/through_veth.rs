//! The way through virtual Ethernet pairs: the generator sends out of one end, what is measured
//! works at the other, and what comes back is dropped where it came from.
//!
//! A figure is the processor time of all of it, generator and sink included, for each packet.

use std::{path::Path, thread, time::Instant};

use anyhow::{Context as _, Result};
use lb_common::measure::Generator;

use crate::{
    Options,
    by_test_run::shuffled,
    machine::{self, processor_time, run, sysctl},
    programs::{Baseline, Programs},
    report::{Pairs, Report, Sample},
    site::{self, FIRST_PORT, OTHERS_MAC, PORTS, SNAT, Site, VIP, backend},
};

/// Packets of one measurement, and at most so many before it: they bring back what the measurement
/// before has driven out of the caches. The kernel's NAT takes many times as long.
const PACKETS: u32 = 40_000;
const PACKETS_OF_NAT: u32 = 20_000;
const MOST_TO_WARM_UP: u32 = 30_000;
const NEW_FLOWS: u32 = 2_000;

/// Ratio of each path to the reflector, by number of flows.
const MOST_OF_REFLECTOR: [(u32, f64); 2] = [(1, 1.3), (10_000, 1.6)];
/// A new flow of the kernel's NAT costs at least so many of ours.
const LEAST_OF_NAT: f64 = 4.0;

/// Measures everything that goes through a pair.
pub(crate) fn measure(options: &Options, bpffs: &Path, report: &mut Report) -> Result<()> {
    for setting in ["all", "default"] {
        sysctl(&format!("net.ipv6.conf.{setting}.disable_ipv6"), "1")?;
        sysctl(&format!("net.ipv4.conf.{setting}.rp_filter"), "0")?;
        sysctl(&format!("net.ipv4.conf.{setting}.send_redirects"), "0")?;
    }
    let mut programs = Programs::load(1024)?;
    let ours = Pair::make("vipd", &mut programs)?;
    let reflector = Pair::make("refl", &mut programs)?;
    let drop = Pair::make("drop", &mut programs)?;
    let nat = Pair::make("nat", &mut programs)?;
    programs.attach(Baseline::Reflect, &reflector.far)?;
    programs.attach(Baseline::Discard, &drop.far)?;
    programs.attach(Baseline::Pass, &nat.far)?;
    kernel_nat(&nat)?;
    let site = Site::open(
        &bpffs.join("veth"),
        10_000,
        ours.far_index,
        ours.far_mac,
        &[&ours.far],
    )?;
    for (flows, bound) in MOST_OF_REFLECTOR {
        let ways = Ways {
            site: &site,
            ours: &ours,
            reflector: &reflector,
            drop: &drop,
            nat: &nat,
        };
        ways.measure(options, flows, bound, &mut programs, report)?;
    }
    new_flows(options, &site, [&ours, &nat], &mut programs, report)?;
    two_processors(&site, &ours, report)
}

/// A virtual Ethernet pair whose near end drops what comes back.
struct Pair {
    near_index: u32,
    far: String,
    far_index: u32,
    far_mac: [u8; 6],
}

impl Pair {
    fn make(name: &str, programs: &mut Programs) -> Result<Self> {
        let (near, far) = (format!("{name}g"), format!("{name}b"));
        let queues = "numrxqueues 2 numtxqueues 2";
        run(
            "ip",
            &format!("link add {near} {queues} type veth peer name {far} {queues}"),
        )?;
        run(
            "ip",
            &format!("link set {near} address {}", text(OTHERS_MAC)),
        )?;
        run("ip", &format!("link set {near} up"))?;
        run("ip", &format!("link set {far} up"))?;
        // A checksum that is left to the card would be wrong behind XDP.
        run("ethtool", &format!("-K {near} tx off"))?;
        programs.attach(Baseline::Discard, &near)?;
        Ok(Self {
            near_index: index(&near)?,
            far_index: index(&far)?,
            far_mac: mac(&far)?,
            far,
        })
    }

    /// Returns `generator`, sending to the far end.
    fn towards(&self, generator: Generator) -> Generator {
        let mut generator = generator;
        generator.interface = self.near_index;
        generator.frame[..6].copy_from_slice(&self.far_mac);
        generator
    }
}

/// What is compared.
struct Ways<'a> {
    site: &'a Site,
    ours: &'a Pair,
    reflector: &'a Pair,
    drop: &'a Pair,
    nat: &'a Pair,
}

impl Ways<'_> {
    fn measure(
        &self,
        options: &Options,
        flows: u32,
        bound: f64,
        programs: &mut Programs,
        report: &mut Report,
    ) -> Result<()> {
        let clients = self.site.clients(flows, 0);
        let answers = self.site.answers(flows);
        let order = shuffled(flows);
        programs.order(&order)?;
        // The flows begin, and are not measured.
        programs.send(self.ours.towards(clients), flows)?;
        programs.send(self.nat.towards(clients), flows)?;
        let records = self.site.records();
        let ours: Vec<u32> = order
            .iter()
            .filter_map(|&place| records.get(place as usize).copied())
            .collect();
        // The kernel's NAT has one backend, and keeps the clients' ports.
        let first = 1024 - u32::from(FIRST_PORT);
        let nat: Vec<u32> = order.iter().map(|&number| number + first).collect();

        let mut samples: [Sample; 6] = Default::default();
        let [drop, reflector, forward, reply, nat_forward, nat_reply] = &mut samples;
        let (mut forward_pairs, mut reply_pairs) = (Pairs::default(), Pairs::default());
        for round in 0..options.rounds {
            programs.order(&order)?;
            drop.add(each(programs, self.drop.towards(clients), PACKETS)?);

            let base = each(programs, self.reflector.towards(clients), PACKETS)?;
            let measured = each(programs, self.ours.towards(clients), PACKETS)?;
            forward_pairs.add(base, measured);
            reflector.add(base);
            forward.add(measured);

            let base = each(programs, self.reflector.towards(clients), PACKETS)?;
            programs.order(&ours)?;
            let measured = each(programs, self.ours.towards(answers), PACKETS)?;
            reply_pairs.add(base, measured);
            reply.add(measured);

            if round % 4 == 0 {
                programs.order(&order)?;
                nat_forward.add(each(programs, self.nat.towards(clients), PACKETS_OF_NAT)?);
                programs.order(&nat)?;
                nat_reply.add(each(programs, self.nat.towards(answers), PACKETS_OF_NAT)?);
            }
        }

        report.section(&format!(
            "THROUGH VETH, {flows} FLOWS (generator and sink included)"
        ));
        for (what, sample) in [
            ("generator, drop at the far end", &*drop),
            ("reflector", reflector),
            ("forward", forward),
            ("reply", reply),
            ("nftables DNAT and SNAT, forward", nat_forward),
            ("nftables DNAT and SNAT, reply", nat_reply),
        ] {
            report.figure(what, sample, "ns");
        }
        let base = drop.median();
        for (what, ours, nat, pairs) in [
            (
                "forward",
                forward.median(),
                nat_forward.median(),
                &forward_pairs,
            ),
            ("reply", reply.median(), nat_reply.median(), &reply_pairs),
        ] {
            report.say(format!(
                "{what}: {:.2} million packets/s of a processor, net of the generator; nftables \
                 costs {:.1} times as much",
                1e3 / (ours - base),
                (nat - base) / (ours - base)
            ));
            report.at_most(
                format!("veth, {flows} flows: {what} / reflector"),
                &pairs.ratios(),
                bound,
                "",
            );
        }
        Ok(())
    }
}

/// New flows of new clients, each round others.
fn new_flows(
    options: &Options,
    site: &Site,
    [ours, nat]: [&Pair; 2],
    programs: &mut Programs,
    report: &mut Report,
) -> Result<()> {
    let mut pairs = Pairs::default();
    let (mut vipd, mut kernel) = (Sample::default(), Sample::default());
    for round in 0..options.rounds.min(40) as u32 {
        programs.order(&shuffled(NEW_FLOWS))?;
        let clients = site.clients(NEW_FLOWS, 100_000 + round * NEW_FLOWS);
        let base = once(programs, nat.towards(clients), NEW_FLOWS)?;
        let measured = once(programs, ours.towards(clients), NEW_FLOWS)?;
        pairs.add(base, measured);
        kernel.add(base);
        vipd.add(measured);
    }
    report.section("THROUGH VETH, NEW FLOWS (generator and sink included)");
    report.figure("vipd", &vipd, "ns");
    report.figure("nftables DNAT and SNAT", &kernel, "ns");
    report.at_most(
        "veth: a new flow / one of nftables".to_owned(),
        &pairs.ratios(),
        1.0 / LEAST_OF_NAT,
        "",
    );
    Ok(())
}

/// Two processors, each with a receive queue and flows of its own.
fn two_processors(site: &Site, pair: &Pair, report: &mut Report) -> Result<()> {
    let last = machine::processor();
    if last == 0 {
        return Ok(());
    }
    let flows = 1000;
    let generators = [0, 500_000].map(|first| pair.towards(site.clients(flows, first)));
    let mut loaded = Vec::new();
    for generator in generators {
        let mut programs = Programs::load(1024)?;
        programs.order(&shuffled(flows))?;
        programs.send(generator, flows)?;
        loaded.push((programs, generator));
    }
    let (mut one, mut both) = (Sample::default(), Sample::default());
    for _ in 0..5 {
        one.add(rate(&mut loaded[..1], last)?);
        both.add(rate(&mut loaded, last)?);
    }
    machine::pin(last)?;
    report.section("THROUGH VETH, RECEIVE QUEUES (wall time)");
    report.figure("one processor, one queue", &one, "Mpps");
    report.figure("two processors, two queues", &both, "Mpps");
    report.say(format!(
        "two carry {:.2} times what one does",
        both.median() / one.median()
    ));
    Ok(())
}

/// Sends with all of `loaded` at once, each on a processor of its own; returns the million packets
/// of a second.
fn rate(loaded: &mut [(Programs, Generator)], last: usize) -> Result<f64> {
    const PACKETS: u32 = 500_000;
    let count = loaded.len();
    let begun = Instant::now();
    thread::scope(|scope| {
        let senders: Vec<_> = loaded
            .iter_mut()
            .zip((0..=last).rev())
            .map(|((programs, generator), processor)| {
                scope.spawn(move || {
                    machine::pin(processor)?;
                    programs.send(*generator, PACKETS)
                })
            })
            .collect();
        for sender in senders {
            sender
                .join()
                .map_err(|_| anyhow::anyhow!("a sender failed"))??;
        }
        anyhow::Ok(())
    })?;
    Ok(f64::from(PACKETS) * count as f64 / begun.elapsed().as_secs_f64() / 1e6)
}

/// Sends packets of the flows that are next; returns the nanoseconds of processor time for each.
fn each(programs: &mut Programs, generator: Generator, packets: u32) -> Result<f64> {
    programs.send(generator, (3 * generator.count).min(MOST_TO_WARM_UP))?;
    once(programs, generator, packets)
}

/// The same, and nothing before them.
fn once(programs: &mut Programs, generator: Generator, packets: u32) -> Result<f64> {
    let before = processor_time()?;
    programs.send(generator, packets)?;
    let spent = processor_time()? - before;
    Ok(spent.as_nanos() as f64 / f64::from(packets))
}

/// The kernel's own NAT at the far end, towards one backend: less work than ours.
fn kernel_nat(pair: &Pair) -> Result<()> {
    let far = &pair.far;
    let address = |bytes: [u8; 4]| std::net::Ipv4Addr::from(bytes);
    sysctl("net.ipv4.ip_forward", "1")?;
    for line in [
        format!("address add 10.0.0.2/24 dev {far}"),
        format!("address add {}/32 dev {far}", address(SNAT)),
        format!(
            "neighbour add 10.0.0.1 lladdr {} dev {far} nud permanent",
            text(OTHERS_MAC)
        ),
        format!("route add 10.64.0.0/10 via 10.0.0.1 dev {far}"),
        format!("route add 10.200.0.0/24 via 10.0.0.1 dev {far}"),
    ] {
        run("ip", &line)?;
    }
    let rules = format!(
        "table ip bench {{\n\
         chain pre {{ type nat hook prerouting priority dstnat; \
         ip daddr {} udp dport {} dnat to {}; }}\n\
         chain post {{ type nat hook postrouting priority srcnat; \
         ip daddr 10.200.0.0/24 meta l4proto udp snat to {}:{}-{}; }}\n}}\n",
        address(VIP),
        site::SERVICE_PORT,
        address(backend(0)),
        address(SNAT),
        FIRST_PORT,
        FIRST_PORT + PORTS - 1,
    );
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), rules)?;
    run("nft", &format!("-f {}", file.path().display()))
}

fn index(interface: &str) -> Result<u32> {
    link(interface, "ifindex")?
        .parse()
        .context("an interface index is a number")
}

fn mac(interface: &str) -> Result<[u8; 6]> {
    let text = link(interface, "address")?;
    let mut bytes = [0; 6];
    for (byte, part) in bytes.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(part, 16).context("a MAC address is hexadecimal")?;
    }
    Ok(bytes)
}

/// Asks `ip` and not `/sys`, which shows another network namespace's interfaces.
fn link(interface: &str, what: &str) -> Result<String> {
    let output = std::process::Command::new("ip")
        .args(["-j", "link", "show", interface])
        .output()
        .context("cannot start ip")?;
    let links: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("ip says no JSON")?;
    let value = &links[0][what];
    Ok(value
        .as_str()
        .map_or_else(|| value.to_string(), ToOwned::to_owned))
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
