//! Which operations fail only because another one has failed: without a device no operation on it can succeed, and its error
//! would hide the cause. Pure.

use crate::objects::{LinkChange, Operation, Via};
use cps_peering_config::net::InterfaceName;
use std::collections::BTreeMap;

/// The stages of setting up a device. Each needs those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// The device exists.
    Device,
    /// It has an ingress qdisc (`clsact`).
    Ingress,
    /// It has its filters.
    Filters,
    /// It is in its VRF.
    Vrf,
    /// It is up.
    Up,
}

/// Operations that were not done, in the order of their plan.
#[derive(Debug, Clone)]
pub(super) struct Causes<'a> {
    /// Devices by index, as routes name them.
    names: &'a BTreeMap<u32, InterfaceName>,
    /// The first stage that each device lacks, and the object that is the cause.
    devices: BTreeMap<InterfaceName, (Stage, String)>,
    /// Devices without a shaper, and next hops that are not there; each with the cause.
    shapers: BTreeMap<InterfaceName, String>,
    nexthops: BTreeMap<u32, (InterfaceName, String)>,
}

/// Why an operation was not done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// The object of the operation that was not done before.
    pub(super) object: String,
    /// The device whose scope the operation has, if the operation itself does not name it.
    pub(super) device: Option<InterfaceName>,
}

impl<'a> Causes<'a> {
    /// `names` are those of ports and VRFs by index; `left` are operations that are suspended for now.
    pub(super) fn new(names: &'a BTreeMap<u32, InterfaceName>, left: &[Operation]) -> Self {
        let (devices, shapers, nexthops) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut causes = Self { names, devices, shapers, nexthops };
        for operation in left {
            causes.take(operation);
        }
        causes
    }

    /// Adds the next operation that was not done, and returns the cause if that is an earlier one.
    pub(super) fn take(&mut self, operation: &Operation) -> Option<Cause> {
        if let Operation::AddRoute(route) | Operation::ReplaceRoute(route) = operation {
            return match route.via {
                Via::Nexthop(id) => {
                    let (device, object) = self.nexthops.get(&id)?;
                    Some(Cause { object: object.clone(), device: Some(*device) })
                }
                Via::Device(index) => {
                    let object = self.lacks(self.names.get(&index)?, Stage::Up)?.clone();
                    Some(Cause { object, device: None })
                }
                Via::Unreachable | Via::Other => None,
            };
        }
        let (device, needs) = needs(operation)?;
        let on_device = needs.and_then(|stage| self.lacks(device, stage));
        let cause = match operation {
            Operation::AddVxlan(_, vxlan) => self.lacks(&vxlan.vrf, Stage::Device),
            Operation::ChangeLink(_, LinkChange::Enslave(vrf)) => on_device.or_else(|| self.lacks(vrf, Stage::Device)),
            Operation::SetRate(..) | Operation::SetQueue(..) => on_device.or_else(|| self.shapers.get(device)),
            _ => on_device,
        };
        let cause = cause.cloned();
        let object = || cause.clone().unwrap_or_else(|| operation.to_string());
        match operation {
            Operation::AddNexthop(id, _) => drop(self.nexthops.insert(*id, (*device, object()))),
            Operation::AddShaper(_) | Operation::SetRate(..) => {
                self.shapers.entry(*device).or_insert_with(object);
            }
            _ => {
                if let Some(stage) = gives(operation) {
                    let object = object();
                    let lacks = self.devices.entry(*device).or_insert_with(|| (stage, object.clone()));
                    if stage < lacks.0 {
                        *lacks = (stage, object);
                    }
                }
            }
        }
        cause.map(|object| Cause { object, device: None })
    }

    /// Why a device has not reached a stage.
    fn lacks(&self, device: &InterfaceName, stage: Stage) -> Option<&String> {
        self.devices.get(device).filter(|(first, _)| *first <= stage).map(|(_, object)| object)
    }
}

/// The device of an operation, and the stage that it must have reached. None if the operation needs no device; the stage is
/// none if it needs nothing of this device.
fn needs(operation: &Operation) -> Option<(&InterfaceName, Option<Stage>)> {
    Some(match operation {
        Operation::AddVrf(name, _) | Operation::AddVxlan(name, _) => (name, None),
        Operation::AddIngress(name)
        | Operation::AddShaper(name)
        | Operation::SetRate(name, _)
        | Operation::SetQueue(name, _)
        | Operation::Set(name, ..)
        | Operation::ResetToDefault(name, _) => (name, Some(Stage::Device)),
        Operation::SetFdb(key, _) => (&key.device, Some(Stage::Device)),
        Operation::SetFilter(name, ..) => (name, Some(Stage::Ingress)),
        Operation::ChangeLink(name, change) => match change {
            LinkChange::Enslave(_) => (name, Some(Stage::Filters)),
            LinkChange::Up(true) => (name, Some(Stage::Vrf)),
            _ => (name, Some(Stage::Device)),
        },
        Operation::AddAddress(address) => (&address.device, Some(Stage::Vrf)),
        Operation::SetNeighbour(key, _) => (&key.device, Some(Stage::Up)),
        Operation::AddNexthop(_, nexthop) => (&nexthop.device, Some(Stage::Up)),
        _ => return None,
    })
}

/// The stage that a device reaches through an operation.
fn gives(operation: &Operation) -> Option<Stage> {
    match operation {
        Operation::AddVrf(..) | Operation::AddVxlan(..) => Some(Stage::Device),
        Operation::AddIngress(_) => Some(Stage::Ingress),
        Operation::SetFilter(..) => Some(Stage::Filters),
        Operation::ChangeLink(_, LinkChange::Enslave(_)) => Some(Stage::Vrf),
        Operation::ChangeLink(_, LinkChange::Up(true)) => Some(Stage::Up),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        filter::Vlan,
        objects::{Address, FilterHandle, IngressFilter, KernelRoute, Nexthop, RouteKey, VrfDevice},
        ownership::DeviceName,
    };

    fn name(text: &str) -> InterfaceName {
        text.parse().unwrap()
    }

    /// The cause of each operation, if it is another one.
    fn causes(operations: &[Operation]) -> Vec<Option<String>> {
        let names = BTreeMap::from([(7, name("eth1"))]);
        let mut causes = Causes::new(&names, &[]);
        operations.iter().map(|operation| causes.take(operation).map(|cause| cause.object)).collect()
    }

    fn vrf() -> Operation {
        let vni = 10.try_into().unwrap();
        Operation::AddVrf(DeviceName::vrf(vni), Box::new(VrfDevice { table: 5, alias: String::new() }))
    }

    fn link(device: &str, change: LinkChange) -> Operation {
        Operation::ChangeLink(name(device), change)
    }

    fn enslave(device: &str) -> Operation {
        link(device, LinkChange::Enslave(name("cpsvrf10")))
    }

    fn nexthop(id: u32, device: &str) -> Operation {
        Operation::AddNexthop(id, Nexthop { device: name(device), gateway: "fe80::1".parse().unwrap() })
    }

    fn route(via: Via) -> Operation {
        let key = RouteKey::unicast(5, "10.2.0.0/16".parse().unwrap());
        Operation::AddRoute(KernelRoute { key, tos: 0, via, mtu: 0 })
    }

    #[test]
    fn operations_that_depend_on_a_vrf_have_it_as_their_cause() {
        let address = Operation::AddAddress(Address { device: name("eth1"), net: "10.1.0.1/24".parse().unwrap() });
        let filter = |device| {
            let place = FilterHandle { priority: 1, handle: 1 };
            let program = crate::filter::vlan_program(&[Vlan { tpid: 0x8100, id: 7 }].into());
            Operation::SetFilter(name(device), place, IngressFilter::Reject(program))
        };
        let of_vrf = Some("link cpsvrf10".to_owned());
        let operations = [
            vrf(),
            filter("eth1"),
            enslave("eth1"),
            address.clone(),
            link("eth1", LinkChange::Up(true)),
            route(Via::Device(7)),
            link("cpsvrf10", LinkChange::Up(true)),
            // Nothing is missing for these.
            route(Via::Unreachable),
            route(Via::Device(8)),
            link("eth1", LinkChange::Mtu(1400)),
        ];
        let filters = Some(filter("eth1").to_string());
        assert_eq!(
            causes(&operations),
            [None, None, filters.clone(), filters.clone(), filters.clone(), filters, of_vrf.clone(), None, None, None]
        );
        let without_filter: Vec<Operation> = [&operations[..1], &operations[2..6]].concat();
        assert_eq!(causes(&without_filter), [None, of_vrf.clone(), of_vrf.clone(), of_vrf.clone(), of_vrf]);
        assert_eq!(causes(&[address.clone(), route(Via::Device(7))]), [None, None], "an address brings nothing up");
        let ingress = Operation::AddIngress(name("eth1"));
        let of_ingress = Some(ingress.to_string());
        assert_eq!(
            causes(&[ingress, filter("eth1"), enslave("eth1"), address]),
            [None, of_ingress.clone(), of_ingress.clone(), of_ingress]
        );
    }

    #[test]
    fn routes_have_their_next_hop_or_its_device_as_their_cause() {
        let of_hop = Some(nexthop(3, "cpspeer7").to_string());
        assert_eq!(
            causes(&[nexthop(3, "cpspeer7"), route(Via::Nexthop(3)), route(Via::Nexthop(4))]),
            [None, of_hop, None]
        );
        let down = Some("link cpspeer7".to_owned());
        let up = link("cpspeer7", LinkChange::Up(true));
        assert_eq!(
            causes(&[up, nexthop(3, "cpspeer7"), nexthop(4, "cpspeer8"), route(Via::Nexthop(3))]),
            [None, down.clone(), None, down]
        );
    }
}
