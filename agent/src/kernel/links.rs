//! Devices, as the kernel lists them.

use super::{
    KernelError, foreign,
    socket::Socket,
    uapi::{link, rtm},
    wire::{address, attributes, i32_at, put, put_name, text, u8_at, u16_at, u32_at},
};
use crate::{
    filter::Vlan,
    objects::{DeviceSetting, Exemption, Link, LinkKind, Mac, Tunnel},
};
use cps_peering_config::net::{InterfaceName, Vni};
use nix::libc;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

pub(super) fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

pub(super) type Links = BTreeMap<InterfaceName, Link>;

/// One device, if it is there.
pub(super) fn one_link(
    socket: &mut Socket,
    name: &InterfaceName,
) -> Result<Option<(InterfaceName, Link)>, KernelError> {
    let found = socket.get(rtm::GET_LINK, |body| {
        body.extend([0; link::HEADER_LEN]);
        put_name(body, link::IFLA_IFNAME, name);
        put(body, link::IFLA_EXT_MASK, &link::RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    })?;
    match found {
        Ok(payload) => Ok(read_link(&payload)),
        Err(refusal) if refusal.errno == libc::ENODEV => Ok(None),
        Err(refusal) => Err(KernelError::Refused { what: "devices", refusal }),
    }
}

pub(super) fn links(socket: &mut Socket) -> Result<Links, KernelError> {
    socket.dump(
        "devices",
        rtm::GET_LINK,
        |body| {
            body.extend([0; link::HEADER_LEN]);
            put(body, link::IFLA_EXT_MASK, &link::RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        },
        Links::new,
        |links, payload| links.extend(read_link(payload)),
    )
}

/// A device; none if the kernel reported too little about it.
pub(super) fn read_link(payload: &[u8]) -> Option<(InterfaceName, Link)> {
    let kind = u16_at(payload, 2)?;
    let mut name = None;
    let mut link = Link {
        index: u32_at(payload, 4)?,
        kind: match kind {
            link::ARPHRD_LOOPBACK => LinkKind::Loopback,
            link::ARPHRD_ETHER => LinkKind::Other,
            _ => LinkKind::NotEthernet,
        },
        mac: None,
        mtu: 0,
        up: u32_at(payload, 8)? & link::IFF_UP != 0,
        carrier: u32_at(payload, 8)? & link::IFF_LOWER_UP != 0,
        master: None,
        group: 0,
        alias: None,
        arp: u32_at(payload, 8)? & link::IFF_NOARP == 0,
        protodown: false,
        xdp: None,
        generates_link_local: true,
        alternative_names: BTreeSet::new(),
        permanent_mac: None,
        may_be_renamed: false,
        takes_from: None,
        vlan: None,
        settings: BTreeMap::new(),
        exempt: BTreeSet::new(),
    };
    // The kernel reports the lower device after the kind.
    let (mut parent, mut vlan, mut takes) = (None, None, false);
    let mut elsewhere = false;
    for (kind, value) in attributes(payload, link::HEADER_LEN) {
        match kind {
            link::IFLA_IFNAME => name = InterfaceName::of_kernel(value),
            link::IFLA_ADDRESS => link.mac = mac(value),
            link::IFLA_MTU => link.mtu = u32_at(value, 0)?,
            link::IFLA_MASTER => link.master = u32_at(value, 0),
            link::IFLA_GROUP => link.group = u32_at(value, 0)?,
            link::IFLA_IFALIAS => link.alias = text(value).map(ToOwned::to_owned),
            link::IFLA_LINK => parent = u32_at(value, 0),
            link::IFLA_LINKINFO => {
                link.kind = read_kind(value).unwrap_or(link.kind);
                vlan = read_vlan(value);
                takes = takes_from_another(value);
            }
            // The lower device is in another network namespace, and the index is of that one.
            link::IFLA_LINK_NETNSID => elsewhere = true,
            link::IFLA_PROTO_DOWN => link.protodown = u8_at(value, 0) == Some(1),
            link::IFLA_XDP => link.xdp = foreign::xdp(value),
            link::IFLA_AF_SPEC => read_families(value, &mut link),
            link::IFLA_PERM_ADDRESS => link.permanent_mac = mac(value),
            link::IFLA_PROP_LIST => {
                let names = attributes(value, 0).filter(|(kind, _)| *kind == link::IFLA_ALT_IFNAME);
                link.alternative_names = names.filter_map(|(_, value)| text(value)?.parse().ok()).collect();
            }
            _ => {}
        }
    }
    let parent = parent.filter(|_| !elsewhere);
    link.vlan = parent.zip(vlan);
    link.takes_from = parent.filter(|_| takes);
    Some((name?, link))
}

fn read_kind(info: &[u8]) -> Option<LinkKind> {
    let kind = attributes(info, 0).find(|(kind, _)| *kind == link::INFO_KIND).and_then(|(_, value)| text(value))?;
    let data = attributes(info, 0).find(|(kind, _)| *kind == link::INFO_DATA).map(|(_, value)| value);
    let find =
        |wanted| attributes(data.unwrap_or_default(), 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    match kind {
        "vrf" => find(link::VRF_TABLE).and_then(|value| u32_at(value, 0)).map(LinkKind::Vrf),
        "vxlan" => {
            let vni = find(link::VXLAN_ID).and_then(|value| Vni::try_from(u32_at(value, 0)?).ok());
            let port = find(link::VXLAN_PORT).and_then(|value| u16_at(value, 0)).map(u16::from_be);
            let local = find(link::VXLAN_LOCAL).or_else(|| find(link::VXLAN_LOCAL6)).and_then(address);
            let local = local.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            // A kernel that does not report whether it learns has one that does.
            let altered = find(link::VXLAN_LEARNING).is_none() || foreign::is_altered(data.unwrap_or_default());
            let tunnel = vni.zip(port).map(|(vni, port)| Tunnel { vni, port, local });
            foreign::external(data.unwrap_or_default()).or(Some(LinkKind::Vxlan { tunnel, altered }))
        }
        "bridge" => Some(LinkKind::Bridge),
        "bond" | "team" => Some(LinkKind::Aggregate),
        _ => None,
    }
}

/// Whether it is a kind that takes frames of the lower device before IP sees them there.
fn takes_from_another(info: &[u8]) -> bool {
    let kind = attributes(info, 0).find(|(kind, _)| *kind == link::INFO_KIND).and_then(|(_, value)| text(value));
    matches!(kind, Some("macvlan" | "macvtap" | "ipvlan" | "ipvtap"))
}

/// The VLAN of a VLAN device.
fn read_vlan(info: &[u8]) -> Option<Vlan> {
    let find = |bytes, wanted| attributes(bytes, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if text(find(info, link::INFO_KIND)?) != Some("vlan") {
        return None;
    }
    let data = find(info, link::INFO_DATA)?;
    let tpid = find(data, link::VLAN_PROTOCOL).and_then(|value| u16_at(value, 0))?;
    Some(Vlan { tpid: u16::from_be(tpid), id: u16_at(find(data, link::VLAN_ID)?, 0)? })
}

/// Settings below `net/ipv4/conf` are counted from 1, those below `net/ipv6/conf` from 0 (`ip.h`, `ipv6.h`).
fn read_families(families: &[u8], link: &mut Link) {
    let mut set = |setting, value: Option<i32>| link.settings.extend(value.map(|value| (setting, value)));
    let on = |value: &[u8], at: usize| i32_at(value, at * 4).is_some_and(|value| value != 0);
    for (family, value) in attributes(families, 0) {
        for (kind, value) in attributes(value, 0) {
            match (family, kind) {
                (link::AF_INET, link::INET_CONF) => {
                    link.exempt.extend(on(value, 14).then_some(Exemption::Ipv4Leaving));
                    link.exempt.extend(on(value, 15).then_some(Exemption::Ipv4Arriving));
                    set(DeviceSetting::Ipv4Forwarding, i32_at(value, 0));
                    set(DeviceSetting::Ipv4AcceptRedirects, i32_at(value, 3 * 4));
                    set(DeviceSetting::Ipv4SendRedirects, i32_at(value, 5 * 4));
                    set(DeviceSetting::Ipv4RpFilter, i32_at(value, 7 * 4));
                    set(DeviceSetting::Ipv4ArpIgnore, i32_at(value, 18 * 4));
                }
                (link::AF_INET6, link::INET6_CONF) => {
                    link.exempt.extend(on(value, 48).then_some(Exemption::Ipv6Arriving));
                    set(DeviceSetting::Ipv6AcceptRa, i32_at(value, 3 * 4));
                    set(DeviceSetting::Ipv6AcceptRedirects, i32_at(value, 4 * 4));
                    set(DeviceSetting::Ipv6Disable, i32_at(value, 26 * 4));
                    set(DeviceSetting::Ipv6AcceptDad, i32_at(value, 27 * 4));
                }
                (link::AF_INET6, link::INET6_ADDR_GEN_MODE) => {
                    link.generates_link_local = u8_at(value, 0) != Some(link::ADDR_GEN_MODE_NONE);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{objects::Observed, ownership};
    use nix::sched::{CloneFlags, unshare};
    use std::{process::Command, thread};

    /// A device as a future kernel may report it.
    fn device(more: impl FnOnce(&mut Vec<u8>)) -> Option<(InterfaceName, Link)> {
        let mut payload = vec![0; link::HEADER_LEN];
        payload[2..4].copy_from_slice(&link::ARPHRD_ETHER.to_ne_bytes());
        payload[4..8].copy_from_slice(&9u32.to_ne_bytes());
        put(&mut payload, link::IFLA_IFNAME, b"cpspeer7\0");
        put(&mut payload, link::IFLA_GROUP, &ownership::GROUP.to_ne_bytes());
        more(&mut payload);
        read_link(&payload)
    }

    #[test]
    fn a_device_with_an_unknown_attribute_is_not_hidden() {
        let (name, link) = device(|payload| put(payload, 0x3ffe, &[1, 2, 3])).unwrap();
        assert_eq!((&*name.as_str(), link.index, link.group), ("cpspeer7", 9, ownership::GROUP));
    }

    /// Writes a part of a message.
    type Put<'a> = &'a dyn Fn(&mut Vec<u8>);

    #[test]
    fn a_vlan_is_known_whatever_comes_first() {
        let below = |payload: &mut Vec<u8>| put(payload, link::IFLA_LINK, &3u32.to_ne_bytes());
        let info = |payload: &mut Vec<u8>| {
            let (mut info, mut data) = (Vec::new(), Vec::new());
            put(&mut data, link::VLAN_ID, &7u16.to_ne_bytes());
            put(&mut data, link::VLAN_PROTOCOL, &0x8100u16.to_be_bytes());
            put(&mut info, link::INFO_KIND, b"vlan\0");
            put(&mut info, link::INFO_DATA, &data);
            put(payload, link::IFLA_LINKINFO, &info);
        };
        let orders: [[Put<'_>; 2]; 2] = [[&below, &info], [&info, &below]];
        for order in orders {
            let (_, link) = device(|payload| order.iter().for_each(|put| put(payload))).unwrap();
            assert_eq!(link.vlan, Some((3, Vlan { tpid: 0x8100, id: 7 })));
        }
    }

    #[test]
    fn a_device_that_takes_frames_of_another_is_known() {
        let on_top = |kind: &[u8], elsewhere: bool| {
            let device = device(|payload| {
                let mut info = Vec::new();
                put(&mut info, link::INFO_KIND, kind);
                put(payload, link::IFLA_LINK, &3u32.to_ne_bytes());
                put(payload, link::IFLA_LINKINFO, &info);
                if elsewhere {
                    put(payload, link::IFLA_LINK_NETNSID, &[0; 4]);
                }
            });
            device.unwrap().1.takes_from
        };
        for kind in [&b"macvlan\0"[..], b"macvtap\0", b"ipvlan\0", b"ipvtap\0"] {
            assert_eq!((on_top(kind, false), on_top(kind, true)), (Some(3), None));
        }
        assert_eq!(on_top(b"veth\0", false), None, "that one is its other end");
    }

    /// The values that `sysctl` has set, as the kernel reports them.
    #[test]
    fn exemptions_from_ipsec_are_read() {
        let read = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            let run = |line: &str| {
                assert!(Command::new("sh").args(["-c", line]).status().expect("sh").success(), "{line}");
            };
            run("ip link add one type veth peer name other");
            for (device, exemption) in
                [("one", Exemption::Ipv4Arriving), ("one", Exemption::Ipv6Arriving), ("other", Exemption::Ipv4Leaving)]
            {
                let (family, file) = exemption.path();
                run(&format!("sysctl -qw net.{family}.conf.{device}.{file}=1"));
            }
            let exempt = |name: &str| {
                let link = one_link(&mut Socket::open().unwrap(), &name.parse().unwrap()).unwrap();
                link.unwrap().1.exempt.into_iter().collect::<Vec<_>>()
            };
            assert_eq!(exempt("one"), [Exemption::Ipv4Arriving, Exemption::Ipv6Arriving]);
            assert_eq!(exempt("other"), [Exemption::Ipv4Leaving]);
        };
        thread::scope(|scope| scope.spawn(read).join().unwrap());
    }

    #[test]
    fn a_device_of_an_unknown_kind_is_there_and_is_not_ours() {
        let kinds: [&[u8]; 3] = [b"vxlan-ng\0", b"vxlan\0", &[0xff, 0xfe, 0]];
        for kind in kinds {
            let (name, link) = device(|payload| {
                let mut info = Vec::new();
                put(&mut info, link::INFO_KIND, kind);
                put(&mut info, link::INFO_DATA, &[4, 0, 0xfe, 0x3f]);
                put(payload, link::IFLA_LINKINFO, &info);
            })
            .unwrap();
            let observed = Observed { links: [(name, link)].into(), ..Observed::default() };
            assert!(observed.links.contains_key(&name) && !observed.owns(&name), "{kind:?}");
        }
    }
}
