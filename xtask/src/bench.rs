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
    L4(L4),
    /// The HTTPS path: processor time per request, connection and gigabyte, beside HAProxy and nginx
    L7(L7),
}

#[derive(Args)]
struct L4 {
    /// Prints the targets as JSON: name, measured, bound, met
    #[arg(long)]
    json: bool,
    /// Rounds of each measurement
    #[arg(long)]
    rounds: Option<usize>,
    /// Only numbers of flows up to this
    #[arg(long)]
    flows: Option<u32>,
}

#[derive(Args)]
struct L7 {
    /// Prints everything as JSON as well
    #[arg(long)]
    json: bool,
    /// Rounds of each measurement
    #[arg(long)]
    rounds: Option<usize>,
    /// Only scenarios whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Gives each proxy one thread, and a processor that clients and servers do not use
    #[arg(long)]
    alone: bool,
}

/// Runs the command.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    if !is_root() {
        bail!("the benchmark loads programs into the kernel: run `cargo xtask bench` as root");
    }
    match &options.what {
        What::L4(options) => l4(workspace, options),
        What::L7(options) => l7(workspace, options),
    }
}

fn l4(workspace: &Workspace, options: &L4) -> Result<()> {
    setup::ensure(workspace, Needs::Lab)?;
    let mut command = workspace.cargo("bench");
    command.args(["--package", "lb-userspace", "--bench", "l4", "--"]);
    flag(&mut command, "--json", options.json);
    value(&mut command, "--rounds", options.rounds.as_ref());
    value(&mut command, "--flows", options.flows.as_ref());
    process::run(&mut command)
}

fn l7(workspace: &Workspace, options: &L7) -> Result<()> {
    setup::ensure(workspace, Needs::Peers)?;
    process::run(workspace.cargo("build").args([
        "--release",
        "--package",
        "lb-userspace",
        "--bin",
        "vipd",
    ]))?;
    let mut command = workspace.cargo("bench");
    command
        .args(["--package", "lb-tests", "--bench", "l7", "--"])
        .env("VIPD_BIN", workspace.release_vipd()?);
    flag(&mut command, "--json", options.json);
    value(&mut command, "--rounds", options.rounds.as_ref());
    value(&mut command, "--only", options.only.as_ref());
    flag(&mut command, "--alone", options.alone);
    process::run(&mut command)
}

fn flag(command: &mut Command, name: &str, given: bool) {
    if given {
        command.arg(name);
    }
}

fn value(command: &mut Command, name: &str, value: Option<&impl ToString>) {
    if let Some(value) = value {
        command.args([name, &value.to_string()]);
    }
}
