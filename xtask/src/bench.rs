//! `cargo xtask bench`: what vipd costs, beside what the same machine takes for less or for the same.

use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::process;
use crate::setup::{self, Needs};
use crate::workspace::{Workspace, is_root};

/// What to measure.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The UDP path: nanoseconds per packet, beside a bare reflector, a bare lookup and nftables
    L4 {
        /// Prints the targets as JSON: name, measured, bound, met
        #[arg(long)]
        json: bool,
        /// Rounds of each measurement
        #[arg(long)]
        rounds: Option<usize>,
        /// Only numbers of flows up to this
        #[arg(long)]
        flows: Option<u32>,
    },
}

/// Runs the command.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    if !is_root() {
        bail!("the benchmark loads programs into the kernel: run `cargo xtask bench` as root");
    }
    let What::L4 {
        json,
        rounds,
        flows,
    } = options.what;
    setup::ensure(workspace, Needs::Lab)?;
    let mut command = workspace.cargo("bench");
    command.args(["--package", "lb-userspace", "--bench", "l4", "--"]);
    if json {
        command.arg("--json");
    }
    number(&mut command, "--rounds", rounds);
    number(&mut command, "--flows", flows);
    process::run(&mut command)
}

fn number(command: &mut Command, name: &str, value: Option<impl ToString>) {
    if let Some(value) = value {
        command.args([name, &value.to_string()]);
    }
}
