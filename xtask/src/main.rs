//! `cargo xtask`: every job of the project by name. This file is the table of contents.

mod bench;
mod check;
mod dependencies;
mod fuzz;
mod process;
mod run;
mod setup;
mod soak;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Every job of the project by name.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Makes this machine able to build, test and demonstrate vipd; does only what is missing
    Setup(setup::Options),
    /// Runs every test there is, as root
    Test(test::Options),
    /// Measures what vipd costs, as root
    Bench(bench::Options),
    /// Checks format, house rules, dependencies, lints and documentation
    Check,
    /// Feeds changing inputs to what reads outside input, by coverage; without a name, lists targets
    Fuzz(fuzz::Options),
    /// Keeps sites under churn and fails if anything leaks or grows, as root
    Soak(soak::Options),
    /// Shows the demonstration site; with `-- --config FILE`, runs vipd on this machine
    Run(run::Options),
}

fn main() -> ExitCode {
    match run_job(Arguments::parse().job) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_job(job: Job) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match job {
        Job::Setup(options) => setup::command(&workspace, &options)?,
        Job::Test(options) => return test::command(&workspace, &options),
        Job::Fuzz(options) => fuzz::command(&workspace, &options)?,
        Job::Bench(options) => bench::command(&workspace, &options)?,
        Job::Soak(options) => soak::command(&workspace, &options)?,
        Job::Check => check::command(&workspace)?,
        Job::Run(options) => run::command(&workspace, &options)?,
    }
    Ok(ExitCode::SUCCESS)
}
