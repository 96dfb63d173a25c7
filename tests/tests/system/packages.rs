//! The packages of what was built.

use crate::tree;
use anyhow::{Context, Result, ensure};
use cps_peering_tests::command::run;
use std::{fs, path::Path, process::Command};

/// Builds each version of them, into a folder that does not exist yet.
pub(crate) fn make(folder: &Path, versions: &[&str]) -> Result<()> {
    let program = tree::target().with_file_name("systemd").join("packages");
    for version in versions {
        let made = run(Command::new(&program).args(["--debug", "--version", version]).arg(folder))?;
        made.ok().context("making the packages")?;
    }
    let count = fs::read_dir(folder)?.count();
    ensure!(count == 3 * versions.len(), "{count} files in {}", folder.display());
    Ok(())
}

/// The same files in another folder.
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for file in fs::read_dir(from)? {
        let file = file?;
        fs::hard_link(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}
