//! What a device of a VRF accepts. Pure.
//!
//! One program decides about every frame that arrives on a port or a VXLAN device of ours, before the kernel processes
//! it. It depends on no setting of the host: a frame is accepted only if
//!
//! - it has no VLAN tag of any kind. The kernel strips tags of VID 0 and routes what is in them;
//! - it is IPv4 or IPv6, or on a port ARP: nothing else is routed, whatever may be inside;
//! - its source is within the prefixes behind the device (rule C7); on ports also what neighbour discovery and DHCP
//!   need, which the kernel never forwards;
//! - it is not an encapsulated packet for the host itself. A tunnel of the host would take it out of the VRF: the
//!   kernel looks tunnels up without regard to VRFs. That means every protocol but TCP, UDP, ICMP and IGMP, and UDP to
//!   tunnel ports;
//! - it is not an ICMP error about a packet that cannot have been sent to where the error comes from, and no error to
//!   the host itself about a path's MTU: the kernel's handlers look in table `main` for the route that they change
//!   (`ipv4_update_pmtu` without a device). Nor is it a redirect or a router advertisement.
//!
//! Before it, separate programs ([`pairs`]) drop traffic between parts of VPCs that a peering does not join (rule C9),
//! and others select what is accepted at a limited rate ([`NEIGHBOURS`], [`FRAGMENTS`], rule C10).
//!
//! Packets that are only forwarded may contain anything: what tenants encapsulate among themselves is their affair.

mod assembler;
mod ingress;
mod limit;
mod packet;
mod pairs;
#[cfg(test)]
mod tests;

pub use assembler::{Instruction, Program};
pub use ingress::{IngressPolicy, LocalAddresses, Vlan, vlan_program};
pub use limit::{FRAGMENTS, Limit, NEIGHBOURS, PacketRate};
pub use pairs::REJECTED;
