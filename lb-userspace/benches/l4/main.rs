//! `cargo xtask bench l4`: what a packet costs, beside what the same machine takes for less.
//!
//! Machines differ, and a shared one differs from one moment to the next. So measurements are short
//! and many, each with its baseline just before it, and the targets are medians of ratios of such
//! pairs. Durations are those of the quarter of the pairs that had the fastest baselines.
//!
//! - [`by_test_run`]: the program alone, packet after packet, by `BPF_PROG_TEST_RUN`.
//! - [`through_veth`]: the way through a virtual Ethernet pair, beside a bare reflector and the
//!   kernel's own NAT.
//!
//! Both drive the program with the generator of `lb-ebpf/bench`.

mod by_test_run;
mod machine;
mod programs;
mod report;
mod site;
mod through_veth;

use anyhow::Result;
use clap::Parser;

use crate::report::Report;

/// What to measure and how to print it.
#[derive(Parser)]
pub(crate) struct Options {
    /// Prints the targets as JSON: name, measured, bound, met
    #[arg(long)]
    json: bool,
    /// Rounds of each measurement; the figures are their medians
    #[arg(long, default_value_t = 60)]
    rounds: usize,
    /// Only numbers of flows up to this
    #[arg(long, default_value_t = 1_000_000)]
    flows: u32,
    /// Ignored: cargo says it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut report = Report::new();
    let bpffs = machine::prepare()?;
    by_test_run::measure(&options, bpffs.path(), &mut report)?;
    through_veth::measure(&options, bpffs.path(), &mut report)?;
    report.print(options.json);
    Ok(())
}
