//! `cargo xtask run`: the demonstration, or the daemon on this machine.

mod demonstration;
mod signals;

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process;
use crate::setup::{self, Needs};
use crate::workspace::{Workspace, is_root};
use signals::Signals;

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Shows a gateway's failure and return, then ends; for a look without hands
    #[arg(long)]
    once: bool,

    /// The demonstration itself: a child of `cargo xtask run`
    #[arg(long, hide = true)]
    site: bool,

    /// Arguments of `vipd run`, after `--`: then it runs on this machine, in the foreground
    #[arg(last = true)]
    vipd: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    if !is_root() {
        bail!("vipd loads a program into the kernel: run `cargo xtask run` as root");
    }
    if options.site {
        return demonstration::command(options.once);
    }
    if options.vipd.is_empty() {
        return at_a_site(workspace, options.once);
    }
    on_this_machine(workspace, &options.vipd)
}

/// Builds the daemon for speed and becomes it.
fn on_this_machine(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    setup::ensure(workspace, Needs::Build)?;
    process::run(workspace.cargo("build").args([
        "--release",
        "--package",
        "lb-userspace",
        "--bin",
        "vipd",
    ]))?;
    let vipd = workspace.release_vipd()?;
    // Returns only if it fails.
    let error = Command::new(&vipd).arg("run").args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", vipd.display()))
}

/// Builds the daemon and shows it at the demonstration site.
fn at_a_site(workspace: &Workspace, once: bool) -> Result<()> {
    setup::ensure(workspace, Needs::Lab)?;
    process::run(
        workspace
            .cargo("build")
            .args(["--package", "lb-userspace", "--bin", "vipd"]),
    )?;

    // A terminal sends Ctrl-C to everything in its foreground. Servers and clients of the site must
    // not die of it one by one in the middle of their work, so all of them stand in the background
    // below one child, and this process tells that child when it is time to clean up.
    let signals = Signals::block(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD])?;
    let mut site = Command::new(env::current_exe().context("the path of xtask is not known")?);
    site.args(["run", "--site"]).process_group(0);
    if once {
        site.arg("--once");
    }
    site.env("VIPD_BIN", workspace.vipd()?);
    let mut site = site.spawn().context("cannot start the demonstration")?;
    let status = wait(&mut site, &signals)?;
    if !status.success() {
        bail!("the demonstration failed ({status})");
    }
    Ok(())
}

/// Waits for the end of the demonstration, and asks for it on the first signal.
fn wait(site: &mut Child, signals: &Signals) -> Result<ExitStatus> {
    loop {
        if let Some(status) = site
            .try_wait()
            .context("cannot wait for the demonstration")?
        {
            return Ok(status);
        }
        if signals.wait(None)? != Some(libc::SIGCHLD) {
            signals::send(site.id(), libc::SIGTERM)?;
        }
    }
}
