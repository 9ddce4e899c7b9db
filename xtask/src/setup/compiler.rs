//! The compiler of the kernel object, with the source of its `core`: nobody ships `core` built for
//! the BPF target, and source and compiler must be of the same version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::packages::LLVM_MAJOR;
use super::toolchain::Toolchain;
use super::{Route, debian, doing, done, note, ok};
use crate::process;
use crate::workspace::Workspace;

/// How long rustup may take to fetch rust-src before the next route is tried. Behind some
/// firewalls it waits for ever.
const RUSTUP_LIMIT: Duration = Duration::from_secs(20);

/// The names of the routes in `.toolchain/env`.
const RUSTUP: &str = "rustup";
const DEBIAN: &str = "debian";

/// What the distribution's compiler consists of.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// A compiler that has been started once and has its library source.
pub(super) struct Compiler {
    /// How it came here, in a word.
    pub(super) route: &'static str,
    /// The cargo that belongs to it.
    pub(super) cargo: PathBuf,
    /// The compiler.
    pub(super) rustc: PathBuf,
    /// Where both find their shared libraries, unless the system knows.
    pub(super) library_path: Option<PathBuf>,
    /// The compiler's version.
    pub(super) release: String,
    /// The version of its LLVM.
    pub(super) llvm: String,
}

/// Makes sure that a compiler is there, by the first route that works.
pub(super) fn ensure(workspace: &Workspace, route: Route) -> Result<Compiler> {
    let private = workspace.toolchain().join("deb");
    let mut obstacles = Vec::new();
    if route == Route::Auto
        && Toolchain::recorded_route(workspace).as_deref() == Some(DEBIAN)
        && let Ok(compiler) = debian_ready(&private)
    {
        // Chosen before: another compiler would build everything anew for nothing.
        return Ok(found(compiler));
    }
    if route != Route::Debian {
        // A look at both first: what is there already costs nothing.
        match rustup_ready() {
            Ok(compiler) => return Ok(found(compiler)),
            Err(error) => obstacles.push(error),
        }
    }
    if route != Route::Rustup
        && let Ok(compiler) = debian_ready(&private)
    {
        return Ok(found(compiler));
    }
    if route != Route::Debian {
        match rustup_fetch() {
            Ok(compiler) => return Ok(found(compiler)),
            Err(error) => {
                note(&format!("{error:#}"));
                obstacles.push(error);
            }
        }
    }
    if route != Route::Rustup {
        match debian_fetch(&workspace.toolchain(), &private) {
            Ok(compiler) => return Ok(found(compiler)),
            Err(error) => obstacles.push(error),
        }
    }
    Err(by_hand(&obstacles))
}

fn found(compiler: Compiler) -> Compiler {
    ok(&format!(
        "rustc {} for the kernel object (LLVM {}, {})",
        compiler.release, compiler.llvm, compiler.route
    ));
    compiler
}

/// A toolchain of rustup that has its library source and an LLVM that the linker can read: the
/// nightly, else the one in use.
fn rustup_ready() -> Result<Compiler> {
    let toolchains = rustup_toolchains()?;
    let mut last = anyhow!("rustup has no toolchain");
    for toolchain in &toolchains {
        match rustup_compiler(toolchain) {
            Ok(compiler) => return Ok(compiler),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Lets rustup add the library source to the first toolchain whose LLVM the linker can read.
fn rustup_fetch() -> Result<Compiler> {
    for toolchain in rustup_toolchains()? {
        if usable_llvm(&rustup_sysroot(&toolchain)?.join("bin/rustc"), None).is_err() {
            continue;
        }
        doing(&format!(
            "rustup component add rust-src --toolchain {toolchain} (at most {} s)",
            RUSTUP_LIMIT.as_secs()
        ));
        let mut rustup = Command::new("rustup");
        rustup.args(["component", "add", "rust-src", "--toolchain", &toolchain]);
        if !process::succeeds_within(&mut rustup, RUSTUP_LIMIT)? {
            bail!("rustup could not fetch rust-src for {toolchain}");
        }
        let compiler = rustup_compiler(&toolchain)?;
        done(&format!("added rust-src to {toolchain}"));
        return Ok(compiler);
    }
    bail!("no toolchain of rustup has LLVM {LLVM_MAJOR} or older");
}

/// The toolchains of rustup that are worth a look, the best first.
fn rustup_toolchains() -> Result<Vec<String>> {
    let list = process::output(Command::new("rustup").args(["toolchain", "list"]))?;
    Ok(worth_a_look(&list))
}

/// Picks from the output of `rustup toolchain list`: `NAME`, then words in brackets.
fn worth_a_look(list: &str) -> Vec<String> {
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let nightly = list.lines().filter(|line| line.starts_with("nightly"));
    let in_use = list
        .lines()
        .filter(|line| line.contains("active") && !line.starts_with("nightly"));
    nightly.chain(in_use).filter_map(name).collect()
}

fn rustup_sysroot(toolchain: &str) -> Result<PathBuf> {
    let sysroot = process::output(
        Command::new("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"]),
    )?;
    Ok(PathBuf::from(sysroot.trim()))
}

fn rustup_compiler(toolchain: &str) -> Result<Compiler> {
    check(RUSTUP, &rustup_sysroot(toolchain)?, None)
}

/// The distribution's compiler, unpacked earlier.
fn debian_ready(private: &Path) -> Result<Compiler> {
    let sysroot = private.join("usr");
    let library_path = sysroot.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH));
    check(DEBIAN, &sysroot, Some(library_path))
}

/// Downloads and unpacks the distribution's compiler. Installed, it would put itself in the place
/// of a `rustc` in `PATH` and push out Debian's `rustup`; and this needs no root.
fn debian_fetch(toolchain: &Path, private: &Path) -> Result<Compiler> {
    if !debian::has_apt() {
        bail!("this is no Debian: apt is missing");
    }
    debian::update_if_unknown(&DEBIAN_PACKAGES)?;
    for package in DEBIAN_PACKAGES {
        if debian::candidate(package)?.is_none() {
            bail!("the distribution has no package {package}");
        }
    }
    let mut packages = debian::would_install(&DEBIAN_PACKAGES)?;
    // Besides the three themselves only libraries: a linker and a C compiler are there.
    packages.retain(|name| name.starts_with("lib"));
    packages.extend(DEBIAN_PACKAGES.map(str::to_owned));
    doing(&format!(
        "downloading and unpacking {} (116 MB)",
        packages.join(", ")
    ));

    let downloads = toolchain.join("debs");
    let partial = toolchain.join("deb.partial");
    remove(&partial)?;
    for package in debian::download(&packages, &downloads)? {
        debian::unpack(&package, &partial)?;
    }
    remove(&downloads)?;
    slim(&partial)?;
    remove(private)?;
    fs::rename(&partial, private)
        .with_context(|| format!("cannot move {} into place", partial.display()))?;
    done(&format!("unpacked into {}", private.display()));
    debian_ready(private)
}

/// Removes what is large and never read: the source of the compiler itself, and manuals.
fn slim(unpacked: &Path) -> Result<()> {
    remove(&unpacked.join("usr/share"))?;
    let source = unpacked.join("usr/src");
    let releases =
        fs::read_dir(&source).with_context(|| format!("cannot read {}", source.display()))?;
    for release in releases {
        let release = release?.path();
        for part in ["compiler", "src", "tests", "vendor"] {
            remove(&release.join(part))?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// A compiler below `sysroot` that starts, fits the linker and has its library source.
fn check(route: &'static str, sysroot: &Path, library_path: Option<PathBuf>) -> Result<Compiler> {
    let rustc = sysroot.join("bin/rustc");
    let cargo = sysroot.join("bin/cargo");
    let source = sysroot.join("lib/rustlib/src/rust/library/Cargo.lock");
    let (release, llvm) = usable_llvm(&rustc, library_path.as_deref())?;
    if !source.exists() {
        bail!("{} has no library source (rust-src)", rustc.display());
    }
    let mut version = Command::new(&cargo);
    version.arg("--version");
    process::output(with_libraries(&mut version, library_path.as_deref()))?;
    Ok(Compiler {
        route,
        cargo,
        rustc,
        library_path,
        release,
        llvm,
    })
}

/// The versions of a compiler and of its LLVM, which must not be newer than the linker's.
fn usable_llvm(rustc: &Path, library_path: Option<&Path>) -> Result<(String, String)> {
    let mut command = Command::new(rustc);
    command.arg("-vV");
    let text = process::output(with_libraries(&mut command, library_path))?;
    let (release, llvm) = versions_in(&text)
        .with_context(|| format!("`{} -vV` names no LLVM version", rustc.display()))?;
    let major: u32 = llvm.split('.').next().unwrap_or_default().parse()?;
    if major > LLVM_MAJOR {
        bail!(
            "{} has LLVM {llvm}, newer than the {LLVM_MAJOR} of bpf-linker",
            rustc.display()
        );
    }
    Ok((release, llvm))
}

fn with_libraries<'a>(command: &'a mut Command, library_path: Option<&Path>) -> &'a mut Command {
    match library_path {
        Some(path) => command.env("LD_LIBRARY_PATH", path),
        None => command.env_remove("LD_LIBRARY_PATH"),
    }
}

/// `release` and `LLVM version` of `rustc -vV`.
fn versions_in(text: &str) -> Option<(String, String)> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|value| value.trim().to_owned())
    };
    Some((field("release:")?, field("LLVM version:")?))
}

fn by_hand(obstacles: &[anyhow::Error]) -> anyhow::Error {
    let obstacles: Vec<_> = obstacles
        .iter()
        .map(|error| format!("  - {error:#}"))
        .collect();
    anyhow!(
        "no compiler for the kernel object:\n{}\n\
         install by hand a nightly of Rust with its library source, \
         `rustup toolchain install nightly --component rust-src`, whose LLVM \
         (`rustc +nightly -vV`) is {LLVM_MAJOR} or older, then run `cargo xtask setup` again",
        obstacles.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nightly_comes_before_the_toolchain_in_use() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\n\
            nightly-x86_64-unknown-linux-gnu\n1.95.0-x86_64-unknown-linux-gnu\n";
        assert_eq!(
            worth_a_look(list),
            [
                "nightly-x86_64-unknown-linux-gnu",
                "stable-x86_64-unknown-linux-gnu"
            ]
        );
        let only = "nightly-x86_64-unknown-linux-gnu (active, default)\n";
        assert_eq!(worth_a_look(only), ["nightly-x86_64-unknown-linux-gnu"]);
        assert!(worth_a_look("no installed toolchains\n").is_empty());
    }

    #[test]
    fn versions_are_read_from_the_verbose_output() {
        let text = "rustc 1.96.0\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(
            versions_in(text),
            Some(("1.96.0".to_owned(), "22.1.8".to_owned()))
        );
        assert_eq!(versions_in("rustc 1.96.0\n"), None);
    }
}
