//! Programs beside the controller's own.

use std::{path::Path, process::Command};

/// `cps-peering`, of a package of its own.
pub fn cli() -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_cps-peering-controller")).with_file_name("cps-peering");
    assert!(program.exists(), "{} is missing: cargo build --workspace --bins", program.display());
    Command::new(program)
}

/// Runs `cps-peering pki` in a folder. It must not fail.
pub fn pki(dir: &Path, arguments: &[&str]) {
    let mut command = cli();
    let ended = command.args(["pki", "--dir", dir.to_str().unwrap()]).args(arguments).output().unwrap();
    assert!(ended.status.success(), "{arguments:?}: {ended:?}");
}
