//! The `vipd` binary.

fn main() {}
