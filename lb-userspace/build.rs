//! Builds the kernel object from `lb-ebpf`, so that the daemon can carry it inside.
//!
//! The compiler, its cargo and the linker are those that `cargo xtask setup` wrote into
//! `.toolchain/env`. The object is `$OUT_DIR/vipd.bpf.o`; the daemon finds it by the environment
//! variable `VIPD_BPF_OBJECT` at compile time. Beside it is `bench.bpf.o`, which the benchmark
//! measures with.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

/// The tier 3 target of the kernel's virtual machine, little-endian as the hosts are.
const TARGET: &str = "bpfel-unknown-none";

/// The package.
const PACKAGE: &str = "lb-ebpf";

/// Its programs: the name there, the object's name here, and the variable that tells where it is.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("lb-ebpf", "vipd.bpf.o", "VIPD_BPF_OBJECT"),
    ("bench-ebpf", "bench.bpf.o", "VIPD_BENCH_OBJECT"),
];

/// Whatever changes the object.
const INPUTS: [&str; 8] = [
    ".toolchain/env",
    "Cargo.toml",
    "Cargo.lock",
    "lb-common/Cargo.toml",
    "lb-common/src",
    "lb-ebpf/Cargo.toml",
    "lb-ebpf/bench",
    "lb-ebpf/src",
];

/// Beginnings of the names of variables that cargo sets for this script, or that the user set for
/// the host build. The child is another build, by another compiler.
const FOREIGN: [&str; 13] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_",
    "CARGO_FEATURE_",
    "CARGO_INCREMENTAL",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CLIPPY_",
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
];

/// The same, whole names.
const FOREIGN_NAMES: [&str; 10] = [
    "CARGO",
    "DEBUG",
    "HOST",
    "LD_LIBRARY_PATH",
    "NUM_JOBS",
    "OPT_LEVEL",
    "OUT_DIR",
    "PROFILE",
    "RUSTUP_TOOLCHAIN",
    "TARGET",
];

fn main() {
    if let Err(error) = build() {
        println!("cargo::error={error}");
        // Only with a code does cargo show the compiler's messages too.
        if error.is::<DoesNotCompile>() {
            std::process::exit(1);
        }
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = package.parent().ok_or("the package has no workspace")?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    for input in INPUTS {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(input).display()
        );
    }

    let tools = Tools::read(&workspace.join(".toolchain/env"))?;
    let output = compile(&tools, workspace, &out)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{said}");
        return Err(DoesNotCompile(output.status).into());
    }
    pass_warnings_on(&said);

    for (program, name, variable) in PROGRAMS {
        let object = out.join(name);
        fs::rename(out.join(program), &object)
            .map_err(|error| format!("cannot make {}: {error}", object.display()))?;
        println!("cargo::rustc-env={variable}={}", object.display());
    }
    Ok(())
}

/// The compiler ran, and its messages are already printed.
#[derive(Debug)]
struct DoesNotCompile(ExitStatus);

impl Error for DoesNotCompile {}

impl fmt::Display for DoesNotCompile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(status) = self;
        write!(
            f,
            "{PACKAGE} does not compile ({status}): see its messages below"
        )
    }
}

/// What `cargo xtask setup` found.
struct Tools {
    cargo: PathBuf,
    rustc: PathBuf,
    bpf_linker: PathBuf,
    /// Where compiler and cargo find their libraries; empty if the system knows.
    library_path: String,
}

impl Tools {
    /// Reads `key=value` lines and makes sure that each program is there.
    fn read(path: &Path) -> Result<Self, String> {
        let missing = |what: String| format!("run `cargo xtask setup`: {what} is missing");
        let text = fs::read_to_string(path).map_err(|_| missing(path.display().to_string()))?;
        let values: HashMap<_, _> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let program = |key: &str| {
            let value = values
                .get(key)
                .ok_or_else(|| missing(format!("`{key}` in {}", path.display())))?;
            let program = PathBuf::from(value);
            if !program.is_file() {
                return Err(missing(program.display().to_string()));
            }
            Ok(program)
        };
        Ok(Self {
            cargo: program("cargo")?,
            rustc: program("rustc")?,
            bpf_linker: program("bpf_linker")?,
            library_path: values.get("ld_library_path").unwrap_or(&"").to_string(),
        })
    }
}

/// Compiles the kernel object and lets cargo copy it into `out`.
fn compile(tools: &Tools, workspace: &Path, out: &Path) -> Result<Output, Box<dyn Error>> {
    let arch = variable("CARGO_CFG_TARGET_ARCH")?.into_string();
    let arch = arch.map_err(|_| "the architecture has no name")?;
    // BTF is made from debug information by the linker. Compare-and-swap needs the third version of
    // the instruction set (Linux 5.12). The kernel lets programs read headers at any address where
    // the processor can; without the feature LLVM reads them byte by byte, with more temporaries
    // than the stack of a program holds.
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2",
        "-Ctarget-cpu=v3",
        "-Clink-arg=--btf",
        "-Ctarget-feature=+allows-misaligned-mem-access",
    ];

    let mut command = Command::new(&tools.cargo);
    for (name, _) in env::vars_os() {
        if is_foreign(&name) {
            command.env_remove(name);
        }
    }
    if !tools.library_path.is_empty() {
        command.env("LD_LIBRARY_PATH", &tools.library_path);
    }
    command
        .current_dir(workspace)
        .args(["build", "--locked", "--release", "--color=never"])
        .args(["--package", PACKAGE, "--target", TARGET])
        .args(["-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(target_folder(out)?)
        // A copy made under cargo's own lock: other checkouts may share the target folder.
        .args(["-Z", "unstable-options", "--artifact-dir"])
        .arg(out)
        .env("PATH", search_path(&tools.bpf_linker)?)
        .env("RUSTC", &tools.rustc)
        // Allows `-Z` on a stable compiler, and for this child only.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .output()
        .map_err(|error| format!("cannot start {}: {error}", tools.cargo.display()).into())
}

/// A target folder of its own, the same for every profile and feature of the daemon, so that
/// `core` is built once.
fn target_folder(out: &Path) -> Result<PathBuf, String> {
    out.ancestors()
        // Cargo marks the top of every target folder with this file.
        .find(|folder| folder.join("CACHEDIR.TAG").exists())
        .map(|top| top.join("ebpf"))
        .ok_or_else(|| format!("{} is in no target folder", out.display()))
}

/// `PATH` with the folder of the linker in front: rustc finds it by name.
fn search_path(linker: &Path) -> Result<OsString, Box<dyn Error>> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = linker.parent().map(Path::to_owned);
    Ok(env::join_paths(
        folders.into_iter().chain(env::split_paths(&path)),
    )?)
}

fn is_foreign(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    FOREIGN_NAMES.contains(&name.as_ref()) || FOREIGN.iter().any(|start| name.starts_with(start))
}

/// Cargo hides what a build script prints, except for warnings in this form.
fn pass_warnings_on(said: &str) {
    let mut inside = false;
    for line in said.lines() {
        if line.starts_with("warning") {
            // The feature is asked for on purpose; see `compile`.
            inside =
                !line.contains("allows-misaligned-mem-access") && !line.contains(" generated ");
        } else if line.trim().is_empty() {
            inside = false;
        }
        if inside {
            println!("cargo::warning={line}");
        }
    }
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}
