//! Where things are: the checkout, its private tools, what cargo built.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The checkout that this `cargo xtask` belongs to.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the checkout from the place of the `xtask` package.
    ///
    /// # Errors
    ///
    /// The package has no parent folder: it was moved after it was built.
    pub(crate) fn find() -> Result<Self> {
        // Cargo names the package that it runs. The compiled-in path serves a binary started by hand.
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package
            .parent()
            .with_context(|| format!("{} has no parent folder", package.display()))?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// The top folder of the checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of tools that belong to this checkout alone; git ignores it.
    pub(crate) fn toolchain(&self) -> PathBuf {
        self.root.join(".toolchain")
    }

    /// A cargo call in this checkout, with the versions of `Cargo.lock`.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut command = self.cargo_plain(verb);
        command.arg("--locked");
        command
    }

    /// A cargo call in this checkout, for what knows no `--locked`.
    pub(crate) fn cargo_plain(&self, verb: &str) -> Command {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.root).arg(verb);
        command
    }

    /// The debug build of the daemon: cargo puts it beside this program.
    ///
    /// # Errors
    ///
    /// The system does not tell where this program is.
    pub(crate) fn vipd(&self) -> Result<PathBuf> {
        let here = env::current_exe().context("the path of xtask itself is not known")?;
        Ok(here.with_file_name("vipd"))
    }

    /// The release build of the daemon, in the folder beside that of the debug build.
    ///
    /// # Errors
    ///
    /// The system does not tell where this program is.
    pub(crate) fn release_vipd(&self) -> Result<PathBuf> {
        let debug = self.vipd()?;
        let target = debug
            .parent()
            .and_then(Path::parent)
            .with_context(|| format!("{} is in no target folder", debug.display()))?;
        Ok(target.join("release/vipd"))
    }
}

/// Whether this process is root, read from `/proc` (proc(5), the effective user of `Uid:`).
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_user(&status) == Some(0)
}

/// The second number of the `Uid:` line: real, effective, saved, file system.
fn effective_user(status: &str) -> Option<u32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::effective_user;

    #[test]
    fn the_effective_user_is_the_second_number() {
        let status = "Name:\txtask\nUid:\t1000\t0\t1000\t1000\nGid:\t5\t6\t7\t8\n";
        assert_eq!(effective_user(status), Some(0));
        assert_eq!(effective_user("Name:\txtask\n"), None);
    }
}
