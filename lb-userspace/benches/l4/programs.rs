//! The generator and the baselines, loaded.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{
        ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode, xdp::XdpLinkId,
    },
};
use lb_common::measure::{Generator, MAX_MEASURED_FLOWS};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("VIPD_BENCH_OBJECT"));

/// A program that packets are handed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Baseline {
    /// Sends the frame back.
    Reflect,
    /// Drops it.
    Discard,
    /// Looks the flow up in a table of the same key and size, and sends the frame back.
    Lookup,
    /// Puts the flow into such a table, and sends the frame back.
    Insert,
    /// Leaves it to the kernel: the far end of a pair needs a program to be reached from XDP.
    Pass,
}

impl Baseline {
    fn name(self) -> &'static str {
        match self {
            Self::Reflect => "reflect",
            Self::Discard => "discard",
            Self::Lookup => "lookup",
            Self::Insert => "insert",
            Self::Pass => "pass",
        }
    }
}

/// The generator and the baselines.
pub(crate) struct Programs {
    ebpf: Ebpf,
    generator: Array<MapData, Generator>,
    order: Array<MapData, u32>,
    target: ProgramArray<MapData>,
    /// Where in the order the next packet stands.
    position: u32,
}

impl Programs {
    /// Loads them, with a table for so many flows.
    pub(crate) fn load(flows: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("table", flows)
            .load(OBJECT)
            .context("cannot load the generator")?;
        for name in ["generate", "reflect", "discard", "lookup", "insert", "pass"] {
            program(&mut ebpf, name)?.load()?;
        }
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .with_context(|| format!("no map {name}"))
        };
        Ok(Self {
            generator: take("generator")?.try_into()?,
            order: take("order")?.try_into()?,
            target: take("target")?.try_into()?,
            ebpf,
            position: 0,
        })
    }

    /// Hands packets to a baseline from now on.
    pub(crate) fn target(&mut self, baseline: Baseline) -> Result<()> {
        let fd = program(&mut self.ebpf, baseline.name())?
            .fd()?
            .try_clone()?;
        self.target_program(&fd)
    }

    /// Hands packets to this program from now on.
    pub(crate) fn target_program(&mut self, program: &ProgramFd) -> Result<()> {
        Ok(self.target.set(0, program, 0)?)
    }

    /// Sets which flow each packet belongs to, and begins with the first.
    pub(crate) fn order(&mut self, numbers: &[u32]) -> Result<()> {
        self.rewind();
        for (place, number) in (0..MAX_MEASURED_FLOWS).zip(numbers) {
            self.order.set(place, number, 0)?;
        }
        Ok(())
    }

    /// Begins with the first packet of the order.
    pub(crate) fn rewind(&mut self) {
        self.position = 0;
    }

    /// Generates packets and hands them to the target; returns nanoseconds for each, and the
    /// action of the last.
    pub(crate) fn run(&mut self, generator: Generator, packets: u32) -> Result<(f64, u32)> {
        self.set(generator, packets)?;
        let mut out = [0; 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&[0; 60]);
        options.data_out = Some(&mut out);
        options.repeat = packets;
        let result = program(&mut self.ebpf, "generate")?.test_run(options)?;
        // The kernel says the average in whole nanoseconds.
        Ok((result.duration.as_nanos() as f64, result.return_value))
    }

    /// Generates packets and sends them out of the generator's interface.
    pub(crate) fn send(&mut self, generator: Generator, packets: u32) -> Result<()> {
        self.set(generator, packets)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&[0; 60]);
        options.repeat = packets;
        options.attrs = TestRunAttrs::new().xdp_live_frames(64);
        program(&mut self.ebpf, "generate")?.test_run(options)?;
        Ok(())
    }

    /// Sets what is generated next: it goes on in the order where the last run has stopped.
    fn set(&mut self, mut generator: Generator, packets: u32) -> Result<()> {
        generator.position = self.position % generator.count;
        self.position = generator.position.wrapping_add(packets);
        Ok(self.generator.set(0, generator, 0)?)
    }

    /// Attaches a baseline to an interface.
    pub(crate) fn attach(&mut self, baseline: Baseline, interface: &str) -> Result<XdpLinkId> {
        program(&mut self.ebpf, baseline.name())?
            .attach(interface, XdpMode::Driver)
            .with_context(|| format!("cannot attach {} to {interface}", baseline.name()))
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?
        .try_into()?)
}
