//! The `vipd` binary.

use std::process::ExitCode;

use lb_userspace::allocator::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    lb_userspace::cli::main()
}
