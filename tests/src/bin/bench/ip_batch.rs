//! `ip -batch` of iproute2.

use crate::ground;
use anyhow::Result;
use cps_peering_tests::{command, netns::Netns};
use ipnet::IpNet;
use std::{
    fmt::Write,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// Adds routes by next hop id; timed from the start of the program to its end.
pub(crate) fn add(netns: &Netns, prefixes: &[IpNet], nexthop: u32, file: &Path) -> Result<Duration> {
    let mut lines = format!("nexthop add id {nexthop} via fe80::2 dev p onlink\n");
    for prefix in prefixes {
        writeln!(lines, "route add {prefix} nhid {nexthop} table {} proto {}", ground::table(), crate::raw::PROTOCOL)?;
    }
    fs::write(file, lines)?;
    let begin = Instant::now();
    command::run(Command::new("ip").args(["-n", netns.name(), "-batch"]).arg(file))?.ok()?;
    Ok(begin.elapsed())
}

/// Lists all routes of the table; timed from the start of the program to its end.
pub(crate) fn show(netns: &Netns) -> Result<Duration> {
    let table = ground::table().to_string();
    let begin = Instant::now();
    let mut ip = Command::new("ip");
    ip.args(["-n", netns.name(), "route", "show", "table", &table]).stdout(std::process::Stdio::null());
    let status = ip.status()?;
    anyhow::ensure!(status.success(), "ip route show failed");
    Ok(begin.elapsed())
}
