//! `cargo xtask`: every job of the project by name.

fn main() {}
