//! `.toolchain/env`: what set-up found, for the build script of `lb-userspace`.

use std::fs;

use anyhow::{Context, Result};

use super::compiler::Compiler;
use super::linker::Linker;
use super::ok;
use crate::workspace::Workspace;

/// Everything that builds the kernel object.
pub(super) struct Toolchain {
    compiler: Compiler,
    linker: Linker,
}

impl Toolchain {
    pub(super) fn new(compiler: Compiler, linker: Linker) -> Self {
        Self { compiler, linker }
    }

    /// Writes the file if it would change: its date makes the build script run again.
    pub(super) fn write(&self, workspace: &Workspace) -> Result<()> {
        let path = workspace.toolchain().join("env");
        let text = self.text();
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            return Ok(());
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        ok(&format!("wrote {}", path.display()));
        Ok(())
    }

    /// The compiler's route that an earlier set-up wrote down.
    pub(super) fn recorded_route(workspace: &Workspace) -> Option<String> {
        let text = fs::read_to_string(workspace.toolchain().join("env")).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("route="))
            .map(str::to_owned)
    }

    fn text(&self) -> String {
        let Self { compiler, linker } = self;
        let library_path = compiler
            .library_path
            .as_ref()
            .map_or_else(String::new, |path| path.display().to_string());
        format!(
            "# Written by cargo xtask setup.\n\
             route={}\n\
             cargo={}\n\
             rustc={}\n\
             rustc_version={}\n\
             llvm_version={}\n\
             ld_library_path={library_path}\n\
             bpf_linker={}\n\
             bpf_linker_version={}\n",
            compiler.route,
            compiler.cargo.display(),
            compiler.rustc.display(),
            compiler.release,
            compiler.llvm,
            linker.path.display(),
            linker.version,
        )
    }
}
