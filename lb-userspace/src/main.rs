//! The `vipd` binary.

use std::process::ExitCode;

/// A request makes and frees dozens of small things, mostly on one thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lb_userspace::cli::main()
}
