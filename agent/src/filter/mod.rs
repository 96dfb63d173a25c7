//! What a device of a VRF takes in. Pure.
//!
//! One program decides about every frame that arrives at a port or a VXLAN device of ours, before the kernel looks at it.
//! It depends on no setting of the host: a frame is taken in only if
//!
//! - it has no VLAN tag of whatever kind. The kernel takes tags of VID 0 off and routes what is in them;
//! - it is IPv4 or IPv6, or at a port ARP: nothing else is routed, whatever may be inside;
//! - its source lies within the prefixes behind the device (rule C7); at ports also what neighbour discovery and DHCP need,
//!   which the kernel never forwards;
//! - it is not an encapsulated packet for the host itself. A tunnel of the host would take it out of the VRF: the kernel looks
//!   for tunnels without regard to VRFs. That is every protocol but TCP, UDP, ICMP and IGMP, and UDP to ports of tunnels;
//! - it is not an ICMP error about a packet that nobody can have sent to where it comes from, and no error to the host
//!   itself about a path's MTU: the kernel's handlers look in table `main` for the route that they change (`ipv4_update_pmtu`
//!   without a device). Nor is it a redirect or a router advertisement.
//!
//! Before it, programs of their own ([`pairs`]) drop what goes between parts of VPCs that a peering does not join (rule C9), and at ports
//! one selects what comes at a limited rate ([`NEIGHBOURS`], rule C10).
//!
//! Packets that are only routed on may hold anything: what tenants encapsulate among themselves is theirs.

mod assembler;
mod ingress;
mod limit;
mod packet;
mod pairs;
#[cfg(test)]
mod tests;

pub use assembler::{Instruction, Program};
pub use ingress::{IngressPolicy, LocalAddresses, Vlan, vlan_program};
pub use limit::{NEIGHBOURS, PacketRate};
pub use pairs::REJECTED;
