//! Settings below `/proc/sys/net`, of this process' network namespace.

use super::{KernelError, NetlinkError};
use crate::objects::DeviceSetting;
use cps_peering_config::net::InterfaceName;
use nix::libc;
use std::{fs, io};

const IPV6_FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Whether the host forwards IPv6. A kernel without IPv6 has nothing to switch on.
pub(super) fn ipv6_forwarding() -> Result<bool, KernelError> {
    match fs::read_to_string(IPV6_FORWARDING) {
        Ok(value) => Ok(value.trim() != "0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(KernelError::Sysctl { path: IPV6_FORWARDING.to_owned(), source }),
    }
}

pub(super) fn enable_ipv6_forwarding() -> Result<(), NetlinkError> {
    fs::write(IPV6_FORWARDING, "1").map_err(|error| refusal(&error))
}

fn path(device: &str, setting: DeviceSetting) -> String {
    let (family, file) = setting.path();
    format!("/proc/sys/net/{family}/conf/{device}/{file}")
}

pub(super) fn set(device: &InterfaceName, setting: DeviceSetting, value: i32) -> Result<(), NetlinkError> {
    fs::write(path(device.as_str(), setting), value.to_string()).map_err(|error| refusal(&error))
}

pub(super) fn reset(device: &InterfaceName, setting: DeviceSetting) -> Result<(), NetlinkError> {
    let default = fs::read_to_string(path("default", setting)).map_err(|error| refusal(&error))?;
    fs::write(path(device.as_str(), setting), default).map_err(|error| refusal(&error))
}

fn refusal(error: &io::Error) -> NetlinkError {
    NetlinkError { errno: error.raw_os_error().unwrap_or(libc::EIO), explanation: None }
}
