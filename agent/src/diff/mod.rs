//! What must be done so that a host has what it should have. Pure: the same input gives the same plan.
//!
//! Only objects that [`ownership`](crate::ownership) calls ours are ever changed or removed. What other programs have
//! put in our way is a [`Conflict`]: it stays, is reported, and everything that does not depend on it goes on.

mod beneath;
mod devices;
mod doubts;
mod egress;
mod firewall;
mod forwarding;
mod ingress;
mod interference;
mod rules;
mod survey;
mod underlay;

use crate::objects::{Desired, Effect, KernelRoute, Observed, Operation, Remote, RouteTo, Via};
use cps_peering_config::{net::InterfaceName, report::ProblemKind};
use std::{cmp::Ordering, collections::BTreeMap};
use survey::Survey;

pub use beneath::Beneath;
pub use doubts::{doubts, programs_beneath};
pub use firewall::{Flow, touched_by};

/// The operations to carry out, in order, and what prevents others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The operations, in the order in which they must be carried out.
    pub operations: Vec<Operation>,
    /// What is in the way.
    pub conflicts: Vec<Conflict>,
    /// Objects of others in the path of packets.
    pub interference: Vec<Interference>,
}

/// A [`Plan`] whose routes are expanded only while it is carried out, if none exist yet that they could conflict with:
/// there may be a million of them.
#[derive(Debug)]
pub struct LazyPlan<'a> {
    before: Vec<Operation>,
    coming: Coming<'a>,
    after: Vec<Operation>,
    /// What is in the way.
    pub conflicts: Vec<Conflict>,
    /// Objects of others in the path of packets.
    pub interference: Vec<Interference>,
}

impl LazyPlan<'_> {
    /// The number of operations.
    pub fn len(&self) -> usize {
        self.before.len() + self.coming.len() + self.after.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes operations from the plan, but none of the routes that are added in bulk. Returns the removed ones.
    pub fn take_out(&mut self, wanted: impl Fn(&Operation) -> bool) -> Vec<Operation> {
        let mut taken: Vec<Operation> = self.before.extract_if(.., |operation| wanted(operation)).collect();
        taken.extend(self.after.extract_if(.., |operation| wanted(operation)));
        taken
    }

    /// The operations, in the order in which they must be carried out.
    pub fn operations(&self) -> impl Iterator<Item = Operation> {
        self.before.iter().cloned().chain(self.coming.operations()).chain(self.after.iter().cloned())
    }

    fn written_out(self) -> Plan {
        let Self { before: mut operations, coming, after, conflicts, interference } = self;
        operations.extend(coming.operations());
        operations.extend(after);
        Plan { operations, conflicts, interference }
    }
}

/// Routes through next hops that are all to be added, after the last one of [`Phase::Routes`].
#[derive(Debug, Default)]
struct Coming<'a> {
    routes: Option<&'a Remote>,
    /// The id of each desired next hop; none for those that cannot be created.
    ids: Vec<Option<u32>>,
    /// The longest IPv4 packet for each next hop, in bytes.
    ipv4_mtus: Vec<u16>,
}

impl Coming<'_> {
    fn len(&self) -> usize {
        let all = self.ids.iter().all(Option::is_some);
        if all { self.routes.map_or(0, Remote::len) } else { self.operations().count() }
    }

    fn operations(&self) -> impl Iterator<Item = Operation> {
        self.routes.into_iter().flat_map(Remote::iter).filter_map(|route| match route.to {
            RouteTo::Nexthop(place) => {
                let via = Via::Nexthop(self.ids[place as usize]?);
                Some(Operation::AddRoute(KernelRoute::new(&route, via, &self.ipv4_mtus)))
            }
            RouteTo::Unreachable | RouteTo::Device(_) => None,
        })
    }
}

/// Something that keeps a device from being as it should be and that is not ours to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The desired device that is affected.
    pub device: InterfaceName,
    /// Whether something is in the way or missing.
    pub kind: ProblemKind,
    /// What it is, with the name of the conflicting object.
    pub reason: String,
}

/// The kind of object that an [`Interference`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterferenceKind {
    /// A route in a table of ours, or to a device of ours.
    Route,
    /// An address on a port or on a device of ours.
    Address,
    /// An XDP program.
    Xdp,
    /// A neighbour of a port that is entered by hand.
    Neighbour,
    /// A MACVLAN or IPVLAN.
    Stacked,
    /// A port is kept down.
    Protodown,
    /// A port has an MTU that is too small for IPv6.
    Mtu,
    /// A port resolves no neighbours, and answers no ARP request.
    NoArp,
    /// A host-wide setting that keeps the host from answering some or all ARP requests.
    ArpIgnore,
    /// A `tc` filter on what the device receives.
    IngressFilter,
    /// A `tc` filter on what the device sends.
    EgressFilter,
    /// A queueing discipline on what the device sends.
    Qdisc,
    /// A policy rule before `l3mdev`.
    Rule,
    /// A UDP port of FOU or GUE.
    Fou,
    /// A packet filter of the host, or one that could not be read.
    Firewall,
}

/// Something of another program in the path of VPC packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interference {
    /// The device of ours, or the port, whose packets are affected; none if it concerns the whole host.
    pub device: Option<InterfaceName>,
    /// What kind of object it is.
    pub kind: InterferenceKind,
    /// What it does to packets that reach it.
    pub effect: Effect,
    /// What it is, in the terms of `ip`, `tc` or the program that made it.
    pub object: String,
    /// What it does to packets, and what to do about it.
    pub reason: String,
}

/// The order of a plan. What carries traffic goes first and comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Devices that must carry nothing go down.
    Close,
    /// Next hops and routes are removed: traffic stops here.
    Stop,
    /// Whatever would conflict with something new is removed.
    Clear,
    /// Policy rules and host-wide settings.
    Host,
    /// VRFs are created.
    Vrfs,
    /// Unreachable routes are added, before anything could fall through the VRFs.
    Backstops,
    /// Filters are added to existing devices: before these enter a VRF or go up.
    Filters,
    /// VXLAN devices and ports enter their VRFs.
    Devices,
    /// Gateway addresses are added. IPv6 ones would not survive the change of VRF.
    Addresses,
    /// Devices go up.
    Up,
    /// Neighbours and forwarding entries are added.
    Neighbours,
    /// Next hops are added.
    Nexthops,
    /// Routes are added: traffic starts here.
    Routes,
    /// Objects that no route uses any more are removed.
    Tidy,
    /// Tunnels are removed.
    Remove,
    /// Ports leave their VRF, after all of ours on them is gone: outside, nothing marks them as ours any more. They
    /// have been down for a while by then, so that what they received before is not processed outside.
    Release,
    /// VRFs are removed.
    RemoveVrfs,
    /// What kept packets within their VRF is removed once nothing is in it any more.
    Afterwards,
}

/// The operations of a plan, sorted into phases as they are found.
#[derive(Default)]
struct Phases(BTreeMap<Phase, Vec<Operation>>);

impl Phases {
    fn push(&mut self, phase: Phase, operation: Operation) {
        self.0.entry(phase).or_default().push(operation);
    }

    fn extend(&mut self, phase: Phase, operations: impl IntoIterator<Item = Operation>) {
        self.0.entry(phase).or_default().extend(operations);
    }

    /// Sets all operations of a phase.
    fn put(&mut self, phase: Phase, operations: Vec<Operation>) {
        let before = self.0.insert(phase, operations);
        debug_assert!(before.is_none_or(|before| before.is_empty()), "the phase has operations already");
    }

    /// The operations up to the routes to be added, and those after them.
    fn around_routes(mut self) -> (Vec<Operation>, Vec<Operation>) {
        let after = self.0.split_off(&Phase::Tidy);
        (self.into_operations(), Phases(after).into_operations())
    }

    /// All of them in order. There may be a million in one phase: these are not copied.
    fn into_operations(self) -> Vec<Operation> {
        let largest = self.0.iter().max_by_key(|(_, operations)| operations.len()).map(|(phase, _)| *phase);
        let (mut before, mut all) = (Vec::new(), Vec::new());
        for (phase, operations) in self.0 {
            match Some(phase).cmp(&largest) {
                Ordering::Less => before.extend(operations),
                Ordering::Equal => {
                    all = operations;
                    all.splice(0..0, before.drain(..));
                }
                Ordering::Greater => all.extend(operations),
            }
        }
        all
    }
}

/// The plan that leads from `observed` to `desired`. If it is carried out without failure, the next one is empty,
/// unless the kernel removed further objects along with what the plan changed; then the one after it is.
pub fn diff(desired: &Desired, observed: &Observed) -> Plan {
    lazy_diff(desired, observed).written_out()
}

/// The same, with the routes to be added still to be expanded.
pub fn lazy_diff<'a>(desired: &'a Desired, observed: &Observed) -> LazyPlan<'a> {
    let mut survey = Survey::new(desired, observed);
    let in_front = underlay::conflicts(&survey);
    survey.conflicts.extend(in_front);
    let mut phases = Phases::default();
    rules::diff(&survey, &mut phases);
    devices::diff(&survey, &mut phases);
    ingress::diff(&survey, &mut phases);
    egress::diff(&survey, &mut phases);
    let ids = forwarding::diff(&survey, &mut phases);
    // Senders are revoked after traffic has ended.
    underlay::diff(&survey, &mut phases);
    let coming = ids.map_or_else(Coming::default, |ids| {
        let ipv4_mtus = desired.ipv4_mtus();
        Coming { routes: Some(&desired.remote), ids, ipv4_mtus }
    });
    let (before, after) = phases.around_routes();
    let mut interference = interference::find(&survey);
    interference.extend(rules::ahead(&survey));
    LazyPlan { before, coming, after, conflicts: survey.conflicts, interference }
}

/// Makes devices of ours stop sending: without forwarding entries a device is mute, however many routes point to it.
pub fn quiesce(observed: &Observed) -> Vec<Operation> {
    let ours = observed.fdb.keys().filter(|key| observed.owns(&key.device));
    ours.map(|key| Operation::RemoveFdb(*key)).collect()
}
