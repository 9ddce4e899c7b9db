//! `cargo xtask setup`: makes a machine that has rustup's toolchains, a C compiler and apt able to
//! build, test and demonstrate vipd.
//!
//! Every step looks first and does only what is missing, so it is safe to repeat. What no package
//! of the system offers goes into `.toolchain/` in the checkout and belongs to this checkout alone.

mod compiler;
mod debian;
mod kernel;
mod linker;
mod packages;
mod toolchain;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::workspace::Workspace;
use toolchain::Toolchain;

/// What to set up.
#[derive(Args)]
pub(crate) struct Options {
    /// Where the compiler of the kernel object comes from
    #[arg(long, value_enum, default_value_t = Route::Auto)]
    compiler: Route,
}

/// Where the compiler of the kernel object comes from.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Route {
    /// The first that works
    Auto,
    /// A toolchain of rustup, with its rust-src
    Rustup,
    /// The distribution's compiler and library source, unpacked privately
    Debian,
}

/// What a job needs of the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Compilers and linker.
    Build,
    /// The same, and the programs that the demonstration starts.
    Lab,
    /// The same, and the programs that tests alone start.
    Tests,
    /// What the demonstration needs, and the proxies that vipd is measured beside.
    Peers,
    /// Compilers and linker, one for C++ among them.
    Fuzz,
}

/// Runs the command.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    prepare(workspace, Needs::Tests, options.compiler)?;
    println!("setup: ready; next: `cargo xtask test` or `cargo xtask run`");
    Ok(())
}

/// Makes sure that the machine has what a job needs.
///
/// # Errors
///
/// The machine lacks something that cannot be installed here; the message says what, and how to
/// get it by hand.
pub(crate) fn ensure(workspace: &Workspace, needs: Needs) -> Result<()> {
    prepare(workspace, needs, Route::Auto)
}

fn prepare(workspace: &Workspace, needs: Needs, route: Route) -> Result<()> {
    if std::env::consts::OS != "linux" {
        bail!("vipd needs Linux, this is {}", std::env::consts::OS);
    }
    packages::install(packages::BUILD)?;
    let llvm = packages::llvm()?;
    match needs {
        Needs::Build => {}
        Needs::Lab => packages::install(packages::LAB)?,
        Needs::Tests => {
            packages::install(packages::LAB)?;
            packages::install(packages::TESTS)?;
        }
        Needs::Peers => {
            packages::install(packages::LAB)?;
            packages::install(packages::PEERS)?;
        }
        Needs::Fuzz => packages::install(packages::FUZZ)?,
    }
    let linker = linker::ensure(workspace, &llvm)?;
    let compiler = compiler::ensure(workspace, route)?;
    Toolchain::new(compiler, linker).write(workspace)?;
    kernel::look();
    Ok(())
}

/// Says that a step found everything in place.
fn ok(what: &str) {
    println!("setup: ok    {what}");
}

/// Says that a step begins, since it may take a while.
fn doing(what: &str) {
    println!("setup: doing {what}");
}

/// Says that a step has changed something.
fn done(what: &str) {
    println!("setup: done  {what}");
}

/// Says what an operator should know although nothing has failed.
fn note(what: &str) {
    println!("setup: note  {what}");
}
