//! apt and dpkg: packages installed, or only downloaded and unpacked.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::doing;
use crate::process;
use crate::workspace::is_root;

/// Packages and the services that they would start with the machine. The tests start programs of
/// their own; the machine's ports are not theirs.
const SERVICES: &[(&str, &str)] = &[
    ("krb5-admin-server", "krb5-admin-server.service"),
    ("haproxy", "haproxy.service"),
    ("krb5-kdc", "krb5-kdc.service"),
    ("nginx-light", "nginx.service"),
];

/// Asked by Debian's maintainer scripts before they start a service (invoke-rc.d(8)).
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// The answer "not allowed" (invoke-rc.d(8)), and how to know the file for ours.
const NO_SERVICES: &str =
    "#!/bin/sh\n# Made by cargo xtask setup while it installs packages.\nexit 101\n";

/// Installs packages, without what they only recommend and without starting their services.
///
/// # Errors
///
/// This is no Debian, or not root, or apt fails: the message says what to install by hand.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let line = format!(
        "apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if !has_apt() {
        bail!("{}", by_hand(packages));
    }
    if !is_root() {
        bail!(
            "missing {}: run as root `{line}`, then this again",
            packages.join(", ")
        );
    }
    update_if_unknown(packages)?;
    for package in packages {
        if candidate(package)?.is_none() {
            bail!("{}", by_hand(&[package]));
        }
    }
    doing(&line);
    let _policy = ServicePolicy::refuse()?;
    let install = || {
        process::quietly(
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["install", "-y", "-q", "--no-install-recommends"])
                .args(packages),
        )
    };
    if install().is_err() {
        // Lists that are weeks old name versions that the servers no longer have.
        update()?;
        install()?;
    }
    if Path::new("/run/systemd/system").exists() {
        for (_, service) in SERVICES
            .iter()
            .filter(|(package, _)| packages.contains(package))
        {
            process::quietly(Command::new("systemctl").args(["disable", service]))?;
        }
    }
    Ok(())
}

/// The version that apt would install; `None` if it knows no such package.
pub(super) fn candidate(package: &str) -> Result<Option<String>> {
    let policy = process::output(Command::new("apt-cache").args(["policy", package]))?;
    Ok(candidate_in(&policy))
}

/// Refreshes apt's lists if they do not know one of `packages`.
pub(super) fn update_if_unknown(packages: &[&str]) -> Result<()> {
    for package in packages {
        if candidate(package)?.is_none() && is_root() {
            return update();
        }
    }
    Ok(())
}

fn update() -> Result<()> {
    doing("apt-get update");
    process::quietly(Command::new("apt-get").args(["update", "-q"]))
}

/// The packages that `apt-get install` would add to this machine for `packages`, themselves
/// included. Nothing is installed.
pub(super) fn would_install(packages: &[&str]) -> Result<Vec<String>> {
    let plan = process::output(
        Command::new("apt-get")
            .env("LC_ALL", "C")
            .args(["install", "--simulate", "--no-install-recommends"])
            .args(packages),
    )?;
    Ok(planned_in(&plan))
}

/// Downloads packages into `folder` and returns the files.
pub(super) fn download(packages: &[String], folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    process::output(
        Command::new("apt-get")
            .current_dir(folder)
            // apt's own user may not write into a checkout.
            .args(["-o", "APT::Sandbox::User=root", "download"])
            .args(packages),
    )?;
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Unpacks a package file below `folder`; runs none of its scripts.
pub(super) fn unpack(package: &Path, folder: &Path) -> Result<()> {
    process::output(Command::new("dpkg-deb").arg("-x").arg(package).arg(folder)).map(drop)
}

/// Whether this machine has what the functions here call.
pub(super) fn has_apt() -> bool {
    ["apt-get", "apt-cache", "dpkg-deb"]
        .iter()
        .all(|program| process::find(program).is_some())
}

fn by_hand(packages: &[&str]) -> String {
    format!(
        "cannot install {} here: install by hand what these Debian 12 packages hold \
         (libllvm22 is the shared library of LLVM 22, libLLVM.so.22.1; apt.llvm.org has it for \
         other releases), then run `cargo xtask setup` again",
        packages.join(", ")
    )
}

/// The `Candidate:` of `apt-cache policy`.
fn candidate_in(policy: &str) -> Option<String> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
}

/// The names in the `Inst NAME (...)` lines of a simulated installation.
fn planned_in(plan: &str) -> Vec<String> {
    plan.lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// While it lives, packages that are installed start no service.
///
/// A policy that the machine already has is its owner's decision and is left alone.
struct ServicePolicy {
    ours: bool,
}

impl ServicePolicy {
    fn refuse() -> Result<Self> {
        let made = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(SERVICE_POLICY);
        match made {
            Ok(mut file) => {
                file.write_all(NO_SERVICES.as_bytes())
                    .with_context(|| format!("cannot write {SERVICE_POLICY}"))?;
                Ok(Self { ours: true })
            }
            // One that an interrupted run of ours left behind goes at the end of this run.
            Err(_) => Ok(Self {
                ours: fs::read_to_string(SERVICE_POLICY).is_ok_and(|text| text == NO_SERVICES),
            }),
        }
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(SERVICE_POLICY)
        {
            eprintln!("cannot remove {SERVICE_POLICY}: {error}; remove it by hand");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_a_version_or_nothing() {
        let known = "bpftool:\n  Installed: (none)\n  Candidate: 7.1.0+6.1.192-2\n";
        assert_eq!(candidate_in(known).as_deref(), Some("7.1.0+6.1.192-2"));
        assert_eq!(
            candidate_in("x:\n  Installed: (none)\n  Candidate: (none)\n"),
            None
        );
        assert_eq!(candidate_in(""), None);
    }

    #[test]
    fn the_plan_is_read_from_its_inst_lines() {
        let plan = "The following NEW packages will be installed:\n  a b\n\
            Inst libgit2-1.5 (1.5.1 Debian:12 [amd64])\n\
            Inst rustc-web (1.96.0 Debian-Security:12 [amd64])\n\
            Conf rustc-web (1.96.0 Debian-Security:12 [amd64])\n";
        assert_eq!(planned_in(plan), ["libgit2-1.5", "rustc-web"]);
    }
}
