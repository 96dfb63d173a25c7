//! Devices of others that an interface's packets pass through below it: the lower devices of VLANs, MACVLANs and
//! IPVLANs, and the members of bonds and bridges.

use crate::objects::{Link, LinkKind};
use cps_peering_config::net::InterfaceName;
use std::collections::{BTreeMap, BTreeSet};

/// All devices, and what is below each.
pub struct Beneath<'a> {
    pub(super) links: &'a BTreeMap<InterfaceName, Link>,
    names: BTreeMap<u32, InterfaceName>,
    /// The members of each bridge, bond and team, by its index.
    members: BTreeMap<u32, Vec<InterfaceName>>,
}

impl<'a> Beneath<'a> {
    /// All devices of a host.
    pub fn new(links: &'a BTreeMap<InterfaceName, Link>) -> Self {
        let names = links.iter().map(|(name, link)| (link.index, *name)).collect();
        let takes_in = links.values().filter(|link| matches!(link.kind, LinkKind::Bridge | LinkKind::Aggregate));
        let mut members: BTreeMap<u32, Vec<InterfaceName>> = takes_in.map(|link| (link.index, Vec::new())).collect();
        for (name, link) in links {
            if let Some(of) = link.master.and_then(|master| members.get_mut(&master)) {
                of.push(*name);
            }
        }
        Self { links, names, members }
    }

    /// All that is below a device, not including it.
    pub fn of(&self, device: &InterfaceName) -> BTreeSet<InterfaceName> {
        let (mut found, mut left) = (BTreeSet::from([*device]), vec![*device]);
        while let Some(link) = left.pop().and_then(|name| self.links.get(&name)) {
            let carries = link.vlan.map(|(on, _)| on).or(link.takes_from).and_then(|on| self.names.get(&on));
            let members = self.members.get(&link.index).into_iter().flatten();
            left.extend(carries.into_iter().chain(members).copied().filter(|name| found.insert(*name)));
        }
        found.remove(device);
        found
    }

    /// The bridge members at or below a device.
    pub fn bridged(&self, device: &InterfaceName) -> BTreeSet<InterfaceName> {
        let all = self.of(device).into_iter().chain([*device]);
        let bridges = all.filter_map(|name| self.links.get(&name)).filter(|link| link.kind == LinkKind::Bridge);
        bridges.flat_map(|link| self.members.get(&link.index).into_iter().flatten()).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{filter::Vlan, kernel::memory};

    #[test]
    fn what_is_below_is_found_through_vlans_macvlans_bonds_and_bridges() {
        let name = |text: &str| text.parse::<InterfaceName>().unwrap();
        let link = |index, kind, master, on: Option<u32>| Link {
            kind,
            master,
            vlan: on.map(|on| (on, Vlan { tpid: 0x8100, id: 7 })),
            ..memory::plain_link(index)
        };
        let links = BTreeMap::from([
            (name("eth0"), link(1, LinkKind::Other, Some(3), None)),
            (name("eth1"), link(2, LinkKind::Other, Some(3), None)),
            (name("bond0"), link(3, LinkKind::Aggregate, Some(5), None)),
            (name("tap0"), link(4, LinkKind::Other, Some(5), None)),
            (name("br0"), link(5, LinkKind::Bridge, None, None)),
            (name("br0.7"), link(6, LinkKind::Other, None, Some(5))),
            (name("eth9"), link(7, LinkKind::Other, Some(8), None)),
            (name("cpsvrf1"), link(8, LinkKind::Vrf(1), None, None)),
            // Two devices on top of each other, which no kernel has.
            (name("one"), link(9, LinkKind::Other, None, Some(10))),
            (name("other"), link(10, LinkKind::Other, None, Some(9))),
            (name("macvlan0"), Link { takes_from: Some(6), ..memory::plain_link(11) }),
        ]);
        let beneath = Beneath::new(&links);
        let shown =
            |found: BTreeSet<InterfaceName>| found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(shown(beneath.of(&name("br0.7"))), "bond0 br0 eth0 eth1 tap0");
        assert_eq!(shown(beneath.bridged(&name("br0.7"))), "bond0 tap0");
        assert_eq!(shown(beneath.bridged(&name("br0"))), "bond0 tap0");
        assert_eq!(shown(beneath.of(&name("macvlan0"))), "bond0 br0 br0.7 eth0 eth1 tap0");
        assert_eq!(shown(beneath.bridged(&name("macvlan0"))), "bond0 tap0");
        assert_eq!(
            (shown(beneath.of(&name("bond0"))), shown(beneath.bridged(&name("bond0")))),
            ("eth0 eth1".into(), String::new())
        );
        assert_eq!(shown(beneath.of(&name("cpsvrf1"))), "", "a member of a VRF is not below it");
        assert_eq!(
            (shown(beneath.of(&name("one"))), shown(beneath.of(&name("gone")))),
            ("other".into(), String::new())
        );
    }
}
