//! Two machines with systemd as their first process, on which the packages are installed, used, upgraded,
//! killed, rebooted and removed. The guide's commands are run here.

#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "what was seen, beside the test's result")]

mod etcd;
mod guide;
mod installed;
mod machine;
mod packages;
mod ping;
mod practised;
mod story;
mod tree;

use anyhow::{Context, Result};
use cps_peering_tests::command::run;
use machine::Machine;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};
use tempfile::TempDir;

/// Versions of the packages: the second one replaces the first.
const VERSIONS: [&str; 2] = ["0.1.0", "0.1.0+upgraded"];

/// Two machines and the cable between them.
struct Site {
    folder: TempDir,
    image: PathBuf,
    /// A machine that is restarted is plugged in again.
    cable: [OwnedFd; 2],
    h1: Machine,
    h2: Machine,
    began: Instant,
}

impl Site {
    fn boot() -> Result<Site> {
        let began = Instant::now();
        let target = tree::target();
        fs::create_dir_all(&target)?;
        let image = tree::image()?;
        let folder = tempfile::Builder::new().prefix("system.").tempdir_in(&target)?;
        let made = folder.path().join("packages");
        packages::make(&made, &VERSIONS)?;
        for (host, _) in tree::HOSTS {
            packages::link(&made, &folder.path().join(host).join("packages"))?;
        }
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let cable = [one, other];
        let boot = |place: usize| boot(folder.path(), &image, &cable, place);
        let (mut h1, mut h2) = (boot(0)?, boot(1)?);
        h1.up()?;
        h2.up()?;
        Ok(Site { folder, image, cable, h1, h2, began })
    }

    /// Shuts h2 down and starts it again.
    fn reboot_h2(&mut self) -> Result<()> {
        self.h2.power_off()?;
        self.h2 = boot(self.folder.path(), &self.image, &self.cable, 1)?;
        self.h2.up()
    }

    /// A chapter of the story.
    fn chapter(&mut self, what: &str, tell: impl FnOnce(&mut Site) -> Result<()>) -> Result<()> {
        tell(self).with_context(|| what.to_owned())?;
        println!("{:6.1} s: {what}", self.began.elapsed().as_secs_f64());
        Ok(())
    }
}

fn boot(folder: &Path, image: &Path, cable: &[OwnedFd; 2], place: usize) -> Result<Machine> {
    Machine::boot(&folder.join(tree::HOSTS[place].0), image, cable[place].try_clone()?)
}

#[test]
fn system_packages_are_as_debian_wants_them() {
    let target = tree::target();
    fs::create_dir_all(&target).unwrap();
    let folder = tempfile::Builder::new().prefix("lintian.").tempdir_in(target).unwrap();
    packages::make(folder.path(), &VERSIONS[..1]).unwrap();
    let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
    let mut lintian = Command::new("lintian");
    lintian.env("TMPDIR", folder.path());
    let told = run(lintian.args(["--allow-root", "--fail-on", "error,warning"]).args(files)).unwrap().ok().unwrap();
    assert_eq!(told, "");
}

#[test]
fn system_from_the_packages_to_their_purge() {
    let mut site = Site::boot().unwrap();
    println!("{:6.1} s: two machines are up", site.began.elapsed().as_secs_f64());
    if let Err(error) = story::tell(&mut site) {
        println!("{}{}", site.h1.journal(), site.h2.journal());
        panic!("{error:#}");
    }
}
