//! `cargo xtask fuzz`: the targets of `lb_userspace::fuzz`, fed by coverage for as long as one likes.
//!
//! Any compiler can instrument the code, so no nightly is needed, and libFuzzer comes with the
//! crate `libfuzzer-sys`. What is found on the way is kept in `target/fuzz/corpus`, inputs that
//! break a promise in `target/fuzz/findings`. The corpus in the tree is read and not written.

use std::env::consts::ARCH;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process;
use crate::setup::{self, Needs};
use crate::workspace::Workspace;

/// Which target, and for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// The target, or `all`
    target: Option<String>,
    /// How long to feed it
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

/// The package, and its place from the top of the checkout.
const PACKAGE: &str = "lb-fuzz";
const FOLDER: &str = "lb-userspace/fuzz";

/// Seconds that one input may take.
const INPUT_SECONDS: u32 = 10;
/// Memory that the whole program may take, in MiB: nothing may grow with what a peer sends.
const MEMORY_MIB: u32 = 1024;
/// Longest input, in bytes: what a reader does with more, it does with this much.
const INPUT_BYTES: u32 = 8192;

/// What libFuzzer needs in the code: a counter for each edge, and the operands of comparisons.
const INSTRUMENTED: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // The tables of counters are found by the names of sections, which merging units would part.
    "-Ccodegen-units=1",
    "-Cforce-frame-pointers=yes",
];

/// Runs the command.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    let targets = targets(workspace)?;
    let chosen: Vec<&String> = match options.target.as_deref() {
        None => {
            println!(
                "targets, for `cargo xtask fuzz TARGET` (or `all`):\n  {}",
                targets.join("\n  ")
            );
            return Ok(());
        }
        Some("all") => targets.iter().collect(),
        Some(name) => targets.iter().filter(|target| *target == name).collect(),
    };
    if chosen.is_empty() {
        bail!("there is no such target; there are {}", targets.join(", "));
    }
    setup::ensure(workspace, Needs::Fuzz)?;
    let program = build(workspace)?;
    for target in chosen {
        println!("\n== {target} ==");
        feed(workspace, &program, target, options.seconds)?;
    }
    Ok(())
}

/// The names of the targets: each has a corpus.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let corpus = workspace.root().join(FOLDER).join("corpus");
    let entries =
        fs::read_dir(&corpus).with_context(|| format!("cannot read {}", corpus.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Everything that fuzzing makes.
fn output(workspace: &Workspace) -> PathBuf {
    workspace.root().join("target/fuzz")
}

/// Builds the program with instrumented code, in a target folder of its own.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let triple = format!("{ARCH}-unknown-linux-gnu");
    let folder = output(workspace);
    process::run(
        workspace
            .cargo("build")
            .args(["--package", PACKAGE, "--profile", "fuzz"])
            // With a target named, build scripts and macros are not instrumented.
            .args(["--target", &triple])
            .arg("--target-dir")
            .arg(&folder)
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTED.join("\x1f")),
    )?;
    Ok(folder.join(triple).join("fuzz").join(PACKAGE))
}

/// Feeds one target.
fn feed(workspace: &Workspace, program: &PathBuf, target: &str, seconds: u32) -> Result<()> {
    let kept = output(workspace).join("corpus").join(target);
    let findings = output(workspace).join("findings").join(target);
    for folder in [&kept, &findings] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let sources = workspace.root().join(FOLDER);
    let dictionary = sources.join("dictionaries").join(target);
    process::run(
        Command::new(program)
            .env("VIPD_FUZZ_TARGET", target)
            // New inputs go into the first folder.
            .arg(&kept)
            .arg(sources.join("corpus").join(target))
            .arg(format!("-dict={}", dictionary.display()))
            .arg(format!("-artifact_prefix={}/", findings.display()))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_SECONDS}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .arg(format!("-max_len={INPUT_BYTES}"))
            .arg("-print_final_stats=1"),
    )
    .with_context(|| {
        format!(
            "{target} broke a promise; the input is in {}: put it into {FOLDER}/corpus/{target} \
             with a name that says what it is, so that `cargo xtask test` replays it, and repair \
             what it shows",
            findings.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_dictionary() {
        let workspace = Workspace::find().expect("the checkout");
        let targets = targets(&workspace).expect("a corpus");

        assert!(!targets.is_empty());
        for target in targets {
            let dictionary = workspace
                .root()
                .join(FOLDER)
                .join("dictionaries")
                .join(&target);
            assert!(dictionary.is_file(), "{}", dictionary.display());
        }
    }
}
