//! `cargo xtask test`: every test there is, and one line that counts them.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process;
use crate::setup::{self, Needs};
use crate::workspace::{Workspace, is_root};

/// Which tests, and how many at once.
#[derive(Args)]
pub(crate) struct Options {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// How many laboratory tests run at once; each makes a site of network namespaces
    #[arg(long, default_value_t = 2)]
    lab_threads: usize,
}

/// The most tests of a package that run at once: some load a program into the kernel, and locked
/// memory and time are the machine's.
const MOST_THREADS: usize = 4;

/// Runs the command. Its last line counts what ran; the code is 0 if there was something and none of
/// it failed.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    if !is_root() {
        bail!(
            "the tests load programs into the kernel and make network namespaces: run `cargo xtask test` as root"
        );
    }
    setup::ensure(workspace, Needs::Tests)?;

    let mut tally = Tally::default();
    heading("format");
    tally.add_check(process::run(
        workspace.cargo_plain("fmt").args(["--all", "--check"]),
    ));

    heading("build");
    process::run(
        workspace
            .cargo("build")
            .args(["--package", "lb-userspace", "--bin", "vipd"]),
    )?;

    heading("units, house rules and data path");
    let packages = ["lb-common", "lb-userspace", "xtask"];
    let threads = thread::available_parallelism().map_or(2, usize::from);
    run_tests(
        workspace,
        &packages,
        threads.min(MOST_THREADS),
        options,
        &mut tally,
    )?;

    heading("black box");
    run_tests(
        workspace,
        &["lb-tests"],
        options.lab_threads,
        options,
        &mut tally,
    )?;

    if tally.tests == 0 {
        let filter = options.filter.as_deref().unwrap_or_default();
        println!("\nno test was run: none has `{filter}` in its name");
    }
    println!("\n{} passed, {} failed", tally.passed, tally.failed);
    if tally.tests == 0 || tally.failed > 0 {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn heading(what: &str) {
    println!("\n== {what} ==");
}

/// Runs the tests of some packages and adds up what they report.
fn run_tests(
    workspace: &Workspace,
    packages: &[&str],
    threads: usize,
    options: &Options,
    tally: &mut Tally,
) -> Result<()> {
    let mut command = workspace.cargo("test");
    command.arg("--no-fail-fast");
    for package in packages {
        command.args(["--package", package]);
    }
    command.arg("--").arg(format!("--test-threads={threads}"));
    command.args(&options.filter);
    command
        .env("VIPD_BIN", workspace.vipd()?)
        // A test that cannot run fails: here, everything it may want is there.
        .env("LB_TESTS_REQUIRE_ROOT", "1");
    let reported = count(&mut command)?;
    tally.add(reported);
    Ok(())
}

/// Runs cargo, shows what it prints and counts the results in it.
fn count(command: &mut Command) -> Result<Tally> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::render(command)))?;
    let stdout = child.stdout.take().context("no output of cargo")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read the output of cargo")?;
        println!("{line}");
        tally.add(Tally::of_line(&line).unwrap_or_default());
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && tally.failed == 0 {
        // A test program that died, or one that did not compile, reports no number.
        println!("`{}` ended with {status}", process::render(command));
        tally.failed = 1;
    }
    Ok(tally)
}

/// What ran and how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    /// Tests alone, without the checks of [`Tally::add_check`].
    tests: u64,
}

impl Tally {
    /// Reads a result line of a test program: `test result: ok. 3 passed; 1 failed; ...`.
    fn of_line(line: &str) -> Option<Self> {
        let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
        let number = |name: &str| {
            counts
                .split("; ")
                .find_map(|part| part.strip_suffix(name))
                .and_then(|number| number.trim().parse::<u64>().ok())
        };
        let (passed, failed) = (number("passed")?, number("failed")?);
        Some(Self {
            passed,
            failed,
            tests: passed + failed,
        })
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.tests += other.tests;
    }

    /// Counts a check that is no test.
    fn add_check(&mut self, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("{error:#}");
                self.failed += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s";
        assert_eq!(
            Tally::of_line(line),
            Some(Tally {
                passed: 12,
                failed: 3,
                tests: 15
            })
        );
        assert_eq!(Tally::of_line("test judge::tests::rises ... ok"), None);
        assert_eq!(
            Tally::of_line("test result: ok. many passed; 0 failed"),
            None
        );
    }

    #[test]
    fn a_program_that_dies_without_a_result_has_failed() {
        let died = count(Command::new("sh").args(["-c", "echo running 3 tests; exit 101"]));
        assert_eq!(died.expect("sh starts").failed, 1);
    }

    #[test]
    fn results_of_several_programs_are_added() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; \
            echo 'test result: FAILED. 3 passed; 1 failed; 0 ignored'; exit 101";
        let tally = count(Command::new("sh").args(["-c", script])).expect("sh starts");
        assert_eq!((tally.passed, tally.failed, tally.tests), (5, 1, 6));
    }
}
