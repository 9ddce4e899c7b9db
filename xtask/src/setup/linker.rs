//! bpf-linker: turns the LLVM bitcode of the compiler into a BPF object with BTF.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};

use super::packages::LLVM_MAJOR;
use super::{doing, done, ok};
use crate::process;
use crate::workspace::Workspace;

/// The only version used: another one may want another LLVM.
const VERSION: &str = "0.13.0";

/// A linker that has been started once.
pub(super) struct Linker {
    /// The program.
    pub(super) path: PathBuf,
    /// What it calls itself.
    pub(super) version: String,
}

/// Makes sure that this checkout has its bpf-linker.
pub(super) fn ensure(workspace: &Workspace, llvm: &Path) -> Result<Linker> {
    let folder = workspace.toolchain();
    let path = folder.join("bin/bpf-linker");
    if let Ok(version) = version(&path) {
        ok(&version);
        return Ok(Linker { path, version });
    }
    doing(&format!(
        "bpf-linker {VERSION} with LLVM {LLVM_MAJOR} (a minute or two)"
    ));
    build(&folder, llvm)?;
    let version = version(&path)?;
    done(&version);
    Ok(Linker { path, version })
}

/// Starts the linker, which also finds a missing libLLVM.
fn version(path: &Path) -> Result<String> {
    let version = process::output(Command::new(path).arg("--version"))?;
    let version = version.trim();
    if version != format!("bpf-linker {VERSION}") {
        bail!("{} is `{version}`, not version {VERSION}", path.display());
    }
    Ok(version.to_owned())
}

fn build(folder: &Path, llvm: &Path) -> Result<()> {
    // The build looks for libLLVM.so in one folder and needs nothing else of LLVM: neither
    // headers nor llvm-config.
    let prefix = folder.join("llvm");
    let library = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib"))
        .with_context(|| format!("cannot make {}", prefix.display()))?;
    if library.symlink_metadata().is_ok() {
        fs::remove_file(&library)
            .with_context(|| format!("cannot replace {}", library.display()))?;
    }
    symlink(llvm, &library).with_context(|| format!("cannot make {}", library.display()))?;

    let jobs = thread::available_parallelism().map_or(2, usize::from);
    process::run(
        Command::new("cargo")
            .args([
                "install",
                "bpf-linker",
                "--version",
                VERSION,
                "--locked",
                "--force",
            ])
            .args(["--no-default-features", "--features"])
            .arg(format!("llvm-{LLVM_MAJOR}"))
            .args(["--quiet", "--jobs", &jobs.to_string(), "--root"])
            .arg(folder)
            // Its build is no part of this workspace's.
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTFLAGS")
            .env("LLVM_PREFIX", &prefix),
    )
}
