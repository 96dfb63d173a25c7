//! What shells are given to complete commands with.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::{
    io::Read,
    process::{Command, Stdio},
};

#[test]
fn shells_complete_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cps-peering"));
        let script = String::from_utf8(command.args(["completion", shell]).output().unwrap().stdout).unwrap();
        assert!(script.contains("set-bandwidth") && script.contains("cps-peering"), "{shell}");
    }
    // Nobody reads to the end: no complaint.
    let mut command = Command::new(env!("CARGO_BIN_EXE_cps-peering"));
    let mut child = command.args(["completion", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    child.wait().unwrap();
    assert_eq!(err, "");
}
