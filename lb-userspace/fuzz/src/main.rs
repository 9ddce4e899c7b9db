//! One target of `lb_userspace::fuzz`, fed by libFuzzer. `cargo xtask fuzz` builds and starts it.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod target {
    use std::sync::LazyLock;

    use lb_userspace::fuzz::{TARGETS, Target};

    /// Names the target.
    const VARIABLE: &str = "VIPD_FUZZ_TARGET";

    static TARGET: LazyLock<&Target> = LazyLock::new(|| {
        let name = std::env::var(VARIABLE).unwrap_or_default();
        TARGETS
            .iter()
            .find(|target| target.name == name)
            .unwrap_or_else(|| panic!("{VARIABLE} = {name:?} names no target"))
    });

    libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.run)(data));
}

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("error: this needs instrumented code: run `cargo xtask fuzz`");
    std::process::exit(2);
}
