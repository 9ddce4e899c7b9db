//! `cargo xtask soak`: sites under churn for as long as one likes, and what the daemon uses meanwhile.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::process;
use crate::setup::{self, Needs};
use crate::workspace::{Workspace, is_root};

/// A path through vipd.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layer {
    /// UDP, in the kernel
    L4,
    /// TCP and HTTPS, in the proxy
    L7,
}

/// The black-box tests that the command runs; by themselves they take a short while.
const SOAKS: [(Layer, &str); 2] = [
    (
        Layer::L4,
        "soak::a_site_under_churn_grows_nowhere_and_is_as_it_was_in_the_end",
    ),
    (
        Layer::L7,
        "web_soak::a_web_site_under_churn_grows_nowhere_and_answers_nobody_wrongly",
    ),
];
/// Shorter than that there is no time for changes between two restarts.
const LEAST_MINUTES: f64 = 0.5;

/// Of what, and for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// Only one of the paths; both, one after the other, without it
    layer: Option<Layer>,
    /// How long the churn of each lasts; the quiet end takes half a minute more
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,
}

/// Runs the command.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    if !is_root() {
        bail!(
            "the soak loads a program into the kernel and makes network namespaces: run `cargo xtask soak` as root"
        );
    }
    setup::ensure(workspace, Needs::Lab)?;
    process::run(
        workspace
            .cargo("build")
            .args(["--package", "lb-userspace", "--bin", "vipd"]),
    )?;
    for (layer, soak) in SOAKS {
        if options.layer.is_some_and(|only| only != layer) {
            continue;
        }
        process::run(
            workspace
                .cargo("test")
                .args(["--package", "lb-tests", "--test", "blackbox", "--"])
                .args(["--exact", soak, "--nocapture"])
                .env("VIPD_BIN", workspace.vipd()?)
                .env("LB_TESTS_REQUIRE_ROOT", "1")
                .env("LB_SOAK_MINUTES", options.minutes.to_string()),
        )?;
    }
    Ok(())
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if f64::is_finite(minutes) && minutes >= LEAST_MINUTES => Ok(minutes),
        Ok(_) => Err(format!("at least {LEAST_MINUTES}")),
        Err(_) => Err("no number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    #[test]
    fn the_tests_that_are_run_exist() {
        // A filter that matches nothing would be a soak that cannot fail.
        let workspace = Workspace::find().expect("the checkout");
        for (_, soak) in SOAKS {
            let (file, name) = soak.split_once("::").expect("it is in a file");
            let path = workspace.root().join(format!("tests/{file}.rs"));
            let text = fs::read_to_string(path).expect("the file");
            assert!(text.contains(&format!("fn {name}()")), "{soak}");
        }
    }

    #[test]
    fn minutes_are_a_length_of_time() {
        assert_eq!(minutes("2.5"), Ok(2.5));
        for wrong in ["0", "-1", "inf", "NaN", "ten"] {
            assert!(minutes(wrong).is_err(), "{wrong}");
        }
    }
}
