//! The kernel: the only place that reads and changes it.
//!
//! [`Netlink`] is the real one. [`memory::Memory`] is its twin for tests, with faults on demand.

mod bpf;
mod change;
mod ebpf;
mod egress;
mod events;
mod foreign;
mod interest;
mod links;
mod local;
pub mod memory;
mod message;
pub mod neighbours;
mod netfilter;
mod observe;
mod police;
pub mod probe;
mod rules;
mod socket;
mod sockopt;
mod sysctl;
mod tc;
pub mod trace;
mod traffic;
mod uapi;
mod udev;
mod underlay;
mod wire;

use crate::{
    dirty_set::DirtySet,
    objects::{FilterHandle, Link, Observed, Operation},
    ownership::DeviceName,
    traffic::Reading,
};
use cps_peering_config::{
    net::{InterfaceName, Vni},
    settings::AgentSettings,
};
use socket::Socket;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
};
use thiserror::Error;
use udev::Udev;
use underlay::{Keeper, Parameters};

pub use events::{Event, watch};
pub use interest::Interest;
pub use underlay::UnderlayView;

/// What the agent needs from a kernel.
pub trait Kernel: Send {
    /// Reads all that concerns us within a dirty set. Gives up with [`KernelError::Abandoned`] some time after `stop`
    /// has become true.
    fn observe(&mut self, dirty: &DirtySet, stop: &dyn Fn() -> bool) -> Result<Observed, KernelError>;

    /// Reads all that concerns us.
    fn observe_all(&mut self) -> Result<Observed, KernelError> {
        self.observe(&DirtySet::Everything, &|| false)
    }

    /// Whether the rules of the host's packet filters, or host-wide settings, have changed since everything was last
    /// observed. The kernel does not announce all such changes.
    fn has_unannounced_changes(&mut self) -> bool {
        false
    }

    /// The counters of every device of a side, by the side's VNI.
    fn traffic(&mut self) -> Result<BTreeMap<Vni, Reading>, KernelError>;

    /// Reads the devices only: for a hundred of them that takes a fraction of a millisecond.
    fn devices(&mut self) -> Result<BTreeMap<InterfaceName, Link>, KernelError>;

    /// The underlay filter that this process maintains, for readers on other threads.
    fn underlay_view(&self) -> UnderlayView {
        UnderlayView::default()
    }

    /// Carries out all operations in order, also after one was refused. Removing what is already gone is not an error.
    /// Returns the positions of those that were refused.
    fn apply(&mut self, operations: &[Operation]) -> Result<Vec<(usize, NetlinkError)>, KernelError>;
}

/// The conversation with the kernel failed; its result is unknown. The next call starts a new one.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The netlink socket failed.
    #[error("netlink: cannot {what}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A list kept changing while it was read.
    #[error("netlink: the list of {what} kept changing while it was read")]
    Interrupted {
        /// The list.
        what: &'static str,
    },
    /// The kernel refused to list something.
    #[error("netlink: the kernel does not list {what}: {refusal}")]
    Refused {
        /// The list.
        what: &'static str,
        /// The kernel's error.
        refusal: NetlinkError,
    },
    /// The list was abandoned on request.
    #[error("netlink: abandoned because something else is more urgent")]
    Abandoned,
    /// A file below `/proc/sys` could not be read.
    #[error("cannot read {path}: {source}")]
    Sysctl {
        /// The file.
        path: String,
        /// The error.
        source: io::Error,
    },
}

/// Abandons reading that consists of many requests, between two of them.
fn check_stop(stop: &dyn Fn() -> bool) -> Result<(), KernelError> {
    if stop() { Err(KernelError::Abandoned) } else { Ok(()) }
}

/// The kernel's refusal of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetlinkError {
    /// The `errno` code.
    pub errno: i32,
    /// The kernel's explanation (`NLMSGERR_ATTR_MSG`), where it gave one.
    pub explanation: Option<String>,
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = io::Error::from_raw_os_error(self.errno);
        match &self.explanation {
            Some(explanation) => write!(f, "{explanation} ({name})"),
            None => name.fmt(f),
        }
    }
}

/// The kernel that this process runs on, in this process' network namespace.
#[derive(Default)]
pub struct Netlink {
    /// None before the first use and after a failure.
    socket: Option<Socket>,
    /// Device indexes as last seen.
    indexes: BTreeMap<InterfaceName, u32>,
    /// Positions of dropping filters that could not be installed so far. Their devices stay down. A full observation
    /// starts over.
    unfiltered: BTreeSet<(InterfaceName, FilterHandle)>,
    /// Devices that could not be put into their VRF so far. A full observation starts over.
    outside: BTreeSet<InterfaceName>,
    /// Rules of packet filters as last seen.
    filters: netfilter::Cache,
    /// `net.ipv4.conf.all.arp_ignore` as last seen.
    arp_ignore: i32,
    udev: Udev,
    /// The underlay filter, if this process is to maintain it.
    underlay: Keeper,
}

impl Netlink {
    /// Runs `work` with the socket, which is opened if need be and dropped when it fails.
    fn with_socket<T>(
        &mut self,
        work: impl FnOnce(&mut Socket, &mut BTreeMap<InterfaceName, u32>) -> Result<T, KernelError>,
    ) -> Result<T, KernelError> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::open()?,
        };
        let result = work(&mut socket, &mut self.indexes)?;
        self.socket = Some(socket);
        Ok(result)
    }
}

impl Netlink {
    /// The same, for the process that maintains the underlay filter: for VXLAN on this UDP port, with room for this
    /// many VNIs and VTEPs that may send with them.
    pub fn with_underlay_filter(vxlan_port: u16, max_entries: u32) -> Self {
        Self { underlay: Keeper::new(Parameters { vxlan_port, max_entries }), ..Self::default() }
    }

    /// The kernel for an agent with these settings.
    pub fn of_agent(settings: &AgentSettings) -> Self {
        Self::with_underlay_filter(settings.vxlan_port, settings.underlay_filter_entries)
    }

    /// Assumes that a device exists with this index until the next observation. For stand-ins on kernels that lack a
    /// kind of device; index 0 is "no device", so enslaving to it does nothing.
    pub fn assume(&mut self, device: InterfaceName, index: u32) {
        self.indexes.insert(device, index);
    }
}

impl Kernel for Netlink {
    fn observe(&mut self, dirty: &DirtySet, stop: &dyn Fn() -> bool) -> Result<Observed, KernelError> {
        if *dirty == DirtySet::Everything {
            self.unfiltered.clear();
            self.outside.clear();
        }
        let mut observed = self.with_socket(|socket, indexes| match dirty {
            DirtySet::Everything => {
                let observed = observe::everything(socket, stop)?;
                *indexes = observed.links.iter().map(|(name, link)| (*name, link.index)).collect();
                Ok(observed)
            }
            DirtySet::Parts(parts) => {
                let observed = observe::parts(socket, parts, &|| false)?;
                for device in &parts.devices {
                    match observed.links.get(device) {
                        Some(link) => drop(indexes.insert(*device, link.index)),
                        None => drop(indexes.remove(device)),
                    }
                }
                Ok(observed)
            }
        })?;
        let devices = match dirty {
            DirtySet::Everything => None,
            DirtySet::Parts(parts) => Some(&parts.devices),
        };
        if *dirty == DirtySet::Everything {
            let there: BTreeSet<u32> = observed.links.values().map(|link| link.index).collect();
            self.udev.retain(|index| there.contains(&index));
        }
        // A member of a VRF, or a device of ours, keeps its name.
        let new =
            observed.links.iter_mut().filter(|(name, link)| link.master.is_none() && DeviceName::parse(name).is_none());
        new.for_each(|(_, link)| link.may_be_renamed = !self.udev.has_finished(link.index));
        observed.underlay = self.underlay.observe(&observed.ingress, |name| observed.links.contains_key(name), devices);
        if *dirty == DirtySet::Everything {
            check_stop(stop)?;
            observed.firewall = self.filters.look(&observed.links);
            self.arp_ignore = observed.arp_ignore;
        }
        Ok(observed)
    }

    fn has_unannounced_changes(&mut self) -> bool {
        self.filters.changed() || sysctl::arp_ignore() != self.arp_ignore
    }

    fn underlay_view(&self) -> UnderlayView {
        self.underlay.view()
    }

    fn traffic(&mut self) -> Result<BTreeMap<Vni, Reading>, KernelError> {
        self.with_socket(|socket, _| traffic::traffic(socket))
    }

    fn devices(&mut self) -> Result<BTreeMap<InterfaceName, Link>, KernelError> {
        self.with_socket(|socket, _| links::links(socket))
    }

    fn apply(&mut self, operations: &[Operation]) -> Result<Vec<(usize, NetlinkError)>, KernelError> {
        let (mut unfiltered, mut outside) = (std::mem::take(&mut self.unfiltered), std::mem::take(&mut self.outside));
        let mut underlay = std::mem::take(&mut self.underlay);
        let result = self.with_socket(|socket, indexes| {
            change::Changer::new(socket, indexes, &mut unfiltered, &mut outside, &mut underlay, operations).apply()
        });
        (self.unfiltered, self.outside, self.underlay) = (unfiltered, outside, underlay);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use std::{fs, thread};

    #[test]
    fn a_change_of_arp_ignore_is_noticed_without_an_announcement() {
        let check = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            let mut kernel = Netlink::default();
            assert_eq!(kernel.observe_all().unwrap().arp_ignore, 0);
            assert!(!kernel.has_unannounced_changes());
            fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "8").unwrap();
            assert!(kernel.has_unannounced_changes());
            assert_eq!(kernel.observe_all().unwrap().arp_ignore, 8);
            assert!(!kernel.has_unannounced_changes());
        };
        thread::scope(|scope| scope.spawn(check).join().unwrap());
    }
}
