//! `cargo xtask check`: format, house rules, dependencies, lints and documentation.

use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::dependencies;
use crate::process;
use crate::setup::{self, Needs};
use crate::tidy;
use crate::workspace::Workspace;

/// Runs the command.
pub(crate) fn command(workspace: &Workspace) -> Result<()> {
    process::run(workspace.cargo_plain("fmt").args(["--all", "--check"]))?;
    let findings = tidy::findings(workspace.root())?;
    if !findings.is_empty() {
        bail!("house rules are broken:\n{}", findings.join("\n"));
    }
    setup::ensure(workspace, Needs::Build)?;
    let (findings, packages) = dependencies::findings(workspace)?;
    if !findings.is_empty() {
        bail!(
            "dependencies are not as they shall be:\n{}",
            findings.join("\n")
        );
    }
    lints(workspace)?;
    process::run(
        workspace
            .cargo("doc")
            .args(["--no-deps", "--document-private-items"])
            // Inside pages link to private items, since they are for those who read the code.
            .env(
                "RUSTDOCFLAGS",
                "-D warnings -A rustdoc::private_intra_doc_links",
            ),
    )?;
    println!(
        "check: format, house rules, {packages} packages, lints and documentation are good; \
         published advisories were not looked up, since their list is on the network"
    );
    Ok(())
}

/// Lints everything that runs on the host, and the kernel object as its build script reports it.
fn lints(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo("clippy");
    command.args(["--all-targets", "--color=never", "--", "-D", "warnings"]);
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", process::render(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    eprint!("{said}");
    if !output.status.success() {
        bail!("`{}` failed ({})", process::render(&command), output.status);
    }
    if said.lines().any(is_kernel_object_warning) {
        bail!("the kernel object compiles with warnings");
    }
    Ok(())
}

/// The build script of `lb-userspace` passes the warnings of the kernel object on, and cargo puts
/// the package in front of them.
fn is_kernel_object_warning(line: &str) -> bool {
    line.starts_with("warning: lb-userspace@")
}
