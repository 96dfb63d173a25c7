//! Settings below `/proc/sys/net`, of this process' network namespace.

use super::{KernelError, NetlinkError};
use crate::objects::{DeviceSetting, Exemption};
use cps_peering_config::net::InterfaceName;
use nix::libc;
use std::{ffi::OsStr, fs, io, os::unix::ffi::OsStrExt, path::PathBuf};

const IPV6_FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Whether the host forwards IPv6. A kernel without IPv6 has nothing to enable.
pub(super) fn ipv6_forwarding() -> Result<bool, KernelError> {
    match fs::read_to_string(IPV6_FORWARDING) {
        Ok(value) => Ok(value.trim() != "0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(KernelError::Sysctl { path: IPV6_FORWARDING.to_owned(), source }),
    }
}

/// Whether the kernel reports with routes through next hop objects where these lead (`nexthop_compat_mode`). A kernel
/// without the setting does.
pub(super) fn routes_tell_next_hops() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/nexthop_compat_mode").map_or(true, |value| value.trim() != "0")
}

/// Which ARP requests the host ignores on all devices (`net.ipv4.conf.all.arp_ignore`).
pub(super) fn arp_ignore() -> i32 {
    let value = fs::read_to_string("/proc/sys/net/ipv4/conf/all/arp_ignore");
    value.ok().and_then(|value| value.trim().parse().ok()).unwrap_or_default()
}

pub(super) fn enable_ipv6_forwarding() -> Result<(), NetlinkError> {
    fs::write(IPV6_FORWARDING, "1").map_err(|error| refusal(&error))
}

fn path(device: &[u8], setting: DeviceSetting) -> PathBuf {
    let (family, file) = setting.path();
    ["/proc/sys/net", family, "conf"].iter().collect::<PathBuf>().join(OsStr::from_bytes(device)).join(file)
}

/// Whether an exemption is one of all devices. One that cannot be read is not.
pub(super) fn is_for_all(exemption: Exemption) -> bool {
    let (family, file) = exemption.path();
    fs::read_to_string(format!("/proc/sys/net/{family}/conf/all/{file}")).is_ok_and(|value| value.trim() != "0")
}

pub(super) fn set(device: &InterfaceName, setting: DeviceSetting, value: i32) -> Result<(), NetlinkError> {
    fs::write(path(device.as_bytes(), setting), value.to_string()).map_err(|error| refusal(&error))
}

pub(super) fn reset(device: &InterfaceName, setting: DeviceSetting) -> Result<(), NetlinkError> {
    let default = fs::read_to_string(path(b"default", setting)).map_err(|error| refusal(&error))?;
    fs::write(path(device.as_bytes(), setting), default).map_err(|error| refusal(&error))
}

fn refusal(error: &io::Error) -> NetlinkError {
    NetlinkError { errno: error.raw_os_error().unwrap_or(libc::EIO), explanation: None }
}
