//! Ingress filters as netlink messages: `flower` on an IPv6 source, with the action to take or to drop.

use super::{
    KernelError,
    socket::Socket,
    uapi::{rtm, tc},
    wire::{attributes, i32_at, put, text, u32_at},
};
use crate::{
    objects::{FilterHandle, Ingress, Link, SourceFilter},
    ownership::{ACCEPT_PRIORITY, DROP_PRIORITY},
};
use cps_peering_config::net::InterfaceName;
use ipnet::{Ipv6Net, ipv6_mask_to_prefix};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

/// A queueing discipline of a device.
#[derive(Debug, Clone)]
pub(super) struct Qdisc {
    /// The index of the device.
    pub(super) index: u32,
    /// Its handle; 0 is what the kernel puts there by itself.
    pub(super) handle: u32,
    /// What it hangs on.
    pub(super) parent: u32,
    /// Its kind, for instance `htb`.
    pub(super) kind: String,
    /// Its options, as its kind writes them.
    pub(super) options: Option<Vec<u8>>,
}

impl Qdisc {
    /// A qdisc as the kernel tells of it.
    pub(super) fn read(payload: &[u8]) -> Option<Qdisc> {
        let find =
            |wanted| attributes(payload, tc::HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        Some(Qdisc {
            index: u32_at(payload, 4)?,
            handle: u32_at(payload, 8)?,
            parent: u32_at(payload, 12)?,
            kind: text(find(tc::TCA_KIND)?)?.to_owned(),
            options: find(tc::TCA_OPTIONS).map(<[u8]>::to_vec),
        })
    }
}

/// All of them, in order of their devices.
pub(super) fn qdiscs(socket: &mut Socket) -> Result<Vec<Qdisc>, KernelError> {
    let mut qdiscs = socket.dump(
        "qdiscs",
        rtm::GET_QDISC,
        |body| body.extend([0; tc::HEADER_LEN]),
        Vec::new,
        |qdiscs, payload| qdiscs.extend(Qdisc::read(payload)),
    )?;
    qdiscs.sort_by_key(|qdisc| qdisc.index);
    Ok(qdiscs)
}

/// What looks at arriving packets on the devices that `concerns` names.
pub(super) fn ingress(
    socket: &mut Socket,
    qdiscs: &[Qdisc],
    links: &BTreeMap<InterfaceName, Link>,
    concerns: impl Fn(&InterfaceName, &Link) -> bool,
) -> Result<BTreeMap<InterfaceName, Ingress>, KernelError> {
    let looking: BTreeSet<u32> =
        qdiscs.iter().filter(|qdisc| qdisc.parent == tc::CLSACT).map(|qdisc| qdisc.index).collect();
    let mut found = BTreeMap::new();
    for (name, link) in links.iter().filter(|(name, link)| looking.contains(&link.index) && concerns(name, link)) {
        found.insert(*name, filters(socket, link.index)?);
    }
    Ok(found)
}

/// What looks at arriving packets on one device.
pub(super) fn ingress_of(socket: &mut Socket, index: u32) -> Result<Option<Ingress>, KernelError> {
    let found = socket.get(rtm::GET_QDISC, |body| put_header(body, index, tc::CLSACT_HANDLE, tc::CLSACT, 0))?;
    match found {
        Ok(_) => filters(socket, index).map(Some),
        // There is none, or another than one of these two.
        Err(_) => Ok(None),
    }
}

fn filters(socket: &mut Socket, index: u32) -> Result<Ingress, KernelError> {
    socket.dump(
        "filters",
        rtm::GET_FILTER,
        |body| put_header(body, index, 0, tc::INGRESS, 0),
        Ingress::default,
        |ingress, payload| {
            let (Some(handle), Some(info)) = (u32_at(payload, 8), u32_at(payload, 16)) else { return };
            let priority = u16::try_from(info >> 16).unwrap_or_default();
            if !matches!(priority, ACCEPT_PRIORITY | DROP_PRIORITY) {
                ingress.foreign = true;
            } else if handle != 0 {
                // Handle 0 is the priority as a whole.
                ingress.filters.insert(FilterHandle { priority, handle }, read_filter(payload, info));
            }
        },
    )
}

/// A filter, if it is one that we would make.
fn read_filter(payload: &[u8], info: u32) -> Option<SourceFilter> {
    let find = |wanted| attributes(payload, tc::HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if text(find(tc::TCA_KIND)?) != Some("flower") || info & 0xffff != u32::from(tc::ETH_P_IPV6.to_be()) {
        return None;
    }
    let (mut source, mut mask, mut action) = (None, None, None);
    for (kind, value) in attributes(find(tc::TCA_OPTIONS)?, 0) {
        match kind {
            tc::FLOWER_IPV6_SRC => source = ipv6(value),
            tc::FLOWER_IPV6_SRC_MASK => mask = ipv6(value),
            tc::FLOWER_ACT => action = read_action(value),
            tc::FLOWER_ETH_TYPE | tc::FLOWER_FLAGS | tc::FLOWER_IN_HW_COUNT => {}
            _ => return None,
        }
    }
    match (source.zip(mask), action?) {
        (Some((source, mask)), tc::ACT_OK) => {
            let length = ipv6_mask_to_prefix(mask).ok()?;
            Ipv6Net::new(source, length).ok().map(SourceFilter::Accept)
        }
        (None, tc::ACT_SHOT) => Some(SourceFilter::DropRest),
        _ => None,
    }
}

fn ipv6(bytes: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from)
}

/// What the only action does, if it is a plain one.
fn read_action(actions: &[u8]) -> Option<i32> {
    let mut actions = attributes(actions, 0);
    let (Some((_, action)), None) = (actions.next(), actions.next()) else { return None };
    let find = |wanted| attributes(action, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if text(find(tc::ACT_KIND)?) != Some("gact") {
        return None;
    }
    let (_, parameters) = attributes(find(tc::ACT_OPTIONS)?, 0).find(|(kind, _)| *kind == tc::GACT_PARMS)?;
    i32_at(parameters, 8)
}

pub(super) fn put_header(body: &mut Vec<u8>, index: u32, handle: u32, parent: u32, info: u32) {
    body.extend([0; 4]);
    for number in [index, handle, parent, info] {
        body.extend(number.to_ne_bytes());
    }
}

/// Appends an attribute that holds attributes.
pub(super) fn put_nested(body: &mut Vec<u8>, kind: u16, inner: impl FnOnce(&mut Vec<u8>)) {
    let mut value = Vec::new();
    inner(&mut value);
    put(body, kind, &value);
}

pub(super) fn put_clsact(body: &mut Vec<u8>, index: u32) {
    put_header(body, index, tc::CLSACT_HANDLE, tc::CLSACT, 0);
    put(body, tc::TCA_KIND, b"clsact\0");
}

pub(super) fn put_filter_place(body: &mut Vec<u8>, index: u32, place: FilterHandle) {
    let info = u32::from(place.priority) << 16 | u32::from(tc::ETH_P_IPV6.to_be());
    put_header(body, index, place.handle, tc::INGRESS, info);
}

pub(super) fn put_filter(body: &mut Vec<u8>, index: u32, place: FilterHandle, filter: SourceFilter) {
    put_filter_place(body, index, place);
    put(body, tc::TCA_KIND, b"flower\0");
    put_nested(body, tc::TCA_OPTIONS, |options| {
        put(options, tc::FLOWER_ETH_TYPE, &tc::ETH_P_IPV6.to_be_bytes());
        let action = match filter {
            SourceFilter::Accept(prefix) => {
                put(options, tc::FLOWER_IPV6_SRC, &prefix.network().octets());
                put(options, tc::FLOWER_IPV6_SRC_MASK, &prefix.netmask().octets());
                tc::ACT_OK
            }
            SourceFilter::DropRest => tc::ACT_SHOT,
        };
        put_nested(options, tc::FLOWER_ACT, |actions| put_nested(actions, 1, |first| put_action(first, action)));
    });
}

fn put_action(body: &mut Vec<u8>, action: i32) {
    put(body, tc::ACT_KIND, b"gact\0");
    put_nested(body, tc::ACT_OPTIONS, |options| {
        let mut parameters = [0; 20];
        parameters[8..12].copy_from_slice(&action.to_ne_bytes());
        put(options, tc::GACT_PARMS, &parameters);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_reads_back_as_it_was_written() {
        for filter in ["fd00:1::/48", "fe80::/10", "::/128"]
            .map(|prefix| SourceFilter::Accept(prefix.parse().unwrap()))
            .into_iter()
            .chain([SourceFilter::DropRest])
        {
            let mut body = Vec::new();
            put_filter(&mut body, 7, FilterHandle { priority: DROP_PRIORITY, handle: 3 }, filter);
            let info = u32_at(&body, 16).unwrap();
            assert_eq!((u32_at(&body, 8), info >> 16), (Some(3), u32::from(DROP_PRIORITY)));
            assert_eq!(read_filter(&body, info), Some(filter));
        }
    }
}
