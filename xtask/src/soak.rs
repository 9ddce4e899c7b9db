//! `cargo xtask soak`: a site under churn for as long as one likes, and what the daemon uses meanwhile.

use anyhow::{Result, bail};
use clap::Args;

use crate::process;
use crate::setup::{self, Needs};
use crate::workspace::{Workspace, is_root};

/// The black-box test that the command runs; by itself it takes a short while.
const SOAK: &str = "soak::a_site_under_churn_grows_nowhere_and_is_as_it_was_in_the_end";
/// Shorter than that there is no time for changes between two restarts.
const LEAST_MINUTES: f64 = 0.5;

/// For how long.
#[derive(Args)]
pub(crate) struct Options {
    /// How long the churn lasts; the quiet end takes half a minute more
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
    process::run(
        workspace
            .cargo("test")
            .args(["--package", "lb-tests", "--test", "blackbox", "--"])
            .args(["--exact", SOAK, "--nocapture"])
            .env("VIPD_BIN", workspace.vipd()?)
            .env("LB_TESTS_REQUIRE_ROOT", "1")
            .env("LB_SOAK_MINUTES", options.minutes.to_string()),
    )
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
    fn the_test_that_is_run_exists() {
        // A filter that matches nothing would be a soak that cannot fail.
        let workspace = Workspace::find().expect("the checkout");
        let file = fs::read_to_string(workspace.root().join("tests/soak.rs")).expect("the file");
        let name = SOAK.strip_prefix("soak::").expect("it is in that file");
        assert!(file.contains(&format!("fn {name}()")));
    }

    #[test]
    fn minutes_are_a_length_of_time() {
        assert_eq!(minutes("2.5"), Ok(2.5));
        for wrong in ["0", "-1", "inf", "NaN", "ten"] {
            assert!(minutes(wrong).is_err(), "{wrong}");
        }
    }
}
