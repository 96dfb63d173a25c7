//! BIRD 2 with static routes that its kernel protocol exports.

use crate::{ground, raw::Raw};
use anyhow::{Context, Result};
use cps_peering_tests::{command, netns::Netns};
use ipnet::IpNet;
use std::{
    fmt::Write,
    fs,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A running BIRD. It is stopped when this is dropped.
struct Bird(Child);

impl Drop for Bird {
    fn drop(&mut self) {
        // It has ended already, or ends now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The time from the command that loads the configuration with the routes until they are in the kernel, and BIRD's
/// memory then, in MB.
pub(crate) fn add(netns: &Netns, prefixes: &[IpNet], folder: &Path) -> Result<(Duration, f64)> {
    let (config, socket) = (folder.join("bird.conf"), folder.join("bird.ctl"));
    fs::write(&config, text(&[])?)?;
    let mut command = netns.command("bird");
    command.arg("-f").arg("-c").arg(&config).arg("-s").arg(&socket).arg("-P").arg(folder.join("bird.pid"));
    let bird = Bird(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    for _ in 0..500 {
        if socket.exists() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(300));
    fs::write(&config, text(prefixes)?)?;
    let mut raw = netns.within(Raw::open)?;
    let begin = Instant::now();
    let mut control = netns.command("birdc");
    command::run(control.arg("-s").arg(&socket).arg("configure"))?.ok()?;
    let end = ground::wait_for_routes(&mut raw, prefixes, Duration::from_mins(3))?;
    let memory = crate::agent::peak_memory(bird.0.id()).context("BIRD has ended")?;
    Ok((end - begin, memory))
}

fn text(prefixes: &[IpNet]) -> Result<String> {
    let table = ground::table();
    let mut text = format!(
        "router id 192.0.2.1;\nipv4 table t;\nprotocol device {{}}\n\
         protocol kernel {{ kernel table {table}; ipv4 {{ table t; import none; export all; }}; }}\n\
         protocol static {{ ipv4 {{ table t; }};\n"
    );
    for prefix in prefixes {
        writeln!(text, "route {prefix} via 192.0.2.2;")?;
    }
    text.push_str("}\n");
    Ok(text)
}
