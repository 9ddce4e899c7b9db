//! The demonstration as a newcomer meets it, without hands: it builds its site, serves sessions,
//! survives the failure of a gateway and cleans up.

use std::env;
use std::fs;
use std::process::{self, Command};

#[test]
fn the_demonstration_shows_a_failure_and_leaves_nothing() {
    let folder = env::temp_dir().join(format!("xtask-demonstration-{}", process::id()));
    fs::create_dir(&folder).expect("a temporary folder can be made");
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["run", "--once"])
        .env("TMPDIR", &folder)
        .output()
        .expect("xtask starts");
    let shown = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);

    assert!(output.status.success(), "{shown}\n{said}");
    for line in [
        "client1: DTLS session with gateway",
        "client2: DTLS session with gateway",
        "answers 503 from now on",
        "client1: moved from gateway",
        "is up: ",
    ] {
        assert!(
            shown.contains(line),
            "`{line}` is missing in:\n{shown}\n{said}"
        );
    }
    // Refuses a folder that is not empty.
    fs::remove_dir(&folder).expect("the site has left nothing behind");
}
