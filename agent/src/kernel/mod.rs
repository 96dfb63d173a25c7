//! The kernel: the only place that reads and changes it.
//!
//! [`Netlink`] is the real one. [`memory::Memory`] is its twin for tests, with faults on demand.

mod change;
mod egress;
mod events;
mod foreign;
mod interest;
mod local;
pub mod memory;
mod message;
pub mod neighbours;
mod netfilter;
mod observe;
mod rules;
mod socket;
mod sockopt;
mod sysctl;
mod tc;
mod traffic;
mod uapi;
mod wire;

use crate::{
    dirty_set::DirtySet,
    objects::{Link, Observed, Operation},
    traffic::Reading,
};
use cps_peering_config::net::{InterfaceName, Vni};
use socket::Socket;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
};
use thiserror::Error;

pub use events::{Event, watch};
pub use interest::Interest;

/// What the agent needs of a kernel.
pub trait Kernel: Send {
    /// Reads all that concerns us within a dirty set. Gives up with [`KernelError::Abandoned`] some time after `stop` has
    /// become true.
    fn observe(&mut self, dirty: &DirtySet, stop: &dyn Fn() -> bool) -> Result<Observed, KernelError>;

    /// Reads all that concerns us.
    fn observe_all(&mut self) -> Result<Observed, KernelError> {
        self.observe(&DirtySet::Everything, &|| false)
    }

    /// Whether the rules of the host's packet filters are others than when everything was observed last. The kernel does not
    /// announce all of them.
    fn filters_changed(&mut self) -> bool {
        false
    }

    /// The counters of every device of a side, by the side's VNI.
    fn traffic(&mut self) -> Result<BTreeMap<Vni, Reading>, KernelError>;

    /// Reads the devices only: for a hundred of them that takes a fraction of a millisecond.
    fn devices(&mut self) -> Result<BTreeMap<InterfaceName, Link>, KernelError>;

    /// Carries out operations in order, all of them, also after one was refused. Removing what is already gone is no
    /// failure. Returns the places of those that were refused.
    fn apply(&mut self, operations: &[Operation]) -> Result<Vec<(usize, NetlinkError)>, KernelError>;
}

/// The conversation with the kernel failed; what it was about is unknown. The next call begins a new one.
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
        /// The kernel's words.
        refusal: NetlinkError,
    },
    /// The list was not read to its end, as was asked for.
    #[error("netlink: given up because something else is more urgent")]
    Abandoned,
    /// A file below `/proc/sys` could not be read.
    #[error("cannot read {path}: {source}")]
    Sysctl {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// The kernel's no to one operation.
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
    /// Devices whose filters could not be put in place since the last look.
    unfiltered: BTreeSet<InterfaceName>,
    /// Rules of packet filters as last seen.
    filters: netfilter::Cache,
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
    /// Takes a device for present with this index until the next look. For stand-ins on kernels that lack a kind of
    /// device; index 0 is "no device", so enslaving to it does nothing.
    pub fn assume(&mut self, device: InterfaceName, index: u32) {
        self.indexes.insert(device, index);
    }
}

impl Kernel for Netlink {
    fn observe(&mut self, dirty: &DirtySet, stop: &dyn Fn() -> bool) -> Result<Observed, KernelError> {
        self.unfiltered.clear();
        let mut observed = self.with_socket(|socket, indexes| match dirty {
            DirtySet::Everything => {
                let observed = observe::everything(socket, stop)?;
                *indexes = observed.links.iter().map(|(name, link)| (*name, link.index)).collect();
                Ok(observed)
            }
            DirtySet::Parts(parts) => {
                let observed = observe::parts(socket, parts)?;
                for device in &parts.devices {
                    match observed.links.get(device) {
                        Some(link) => drop(indexes.insert(*device, link.index)),
                        None => drop(indexes.remove(device)),
                    }
                }
                Ok(observed)
            }
        })?;
        if *dirty == DirtySet::Everything {
            observe::go_on(stop)?;
            observed.firewall = self.filters.look(&observed.links);
        }
        Ok(observed)
    }

    fn filters_changed(&mut self) -> bool {
        self.filters.changed()
    }

    fn traffic(&mut self) -> Result<BTreeMap<Vni, Reading>, KernelError> {
        self.with_socket(|socket, _| traffic::traffic(socket))
    }

    fn devices(&mut self) -> Result<BTreeMap<InterfaceName, Link>, KernelError> {
        self.with_socket(|socket, _| observe::links(socket))
    }

    fn apply(&mut self, operations: &[Operation]) -> Result<Vec<(usize, NetlinkError)>, KernelError> {
        let mut unfiltered = std::mem::take(&mut self.unfiltered);
        let result = self
            .with_socket(|socket, indexes| change::Changer::new(socket, indexes, &mut unfiltered, operations).apply());
        self.unfiltered = unfiltered;
        result
    }
}
