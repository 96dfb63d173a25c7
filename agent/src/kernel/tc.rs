//! Ingress filters as netlink messages: `cls_bpf` with programs in classic BPF, which need no privilege beyond changing
//! filters.

use super::{
    KernelError, check_stop,
    police::{put_limit, read_limit},
    socket::Socket,
    uapi::{rtm, tc},
    underlay::NAME,
    wire::{attributes, put, put_nested, text, u8_at, u16_at, u32_at},
};
use crate::{
    filter::{Instruction, Program},
    objects::{Effect, FilterHandle, Ingress, IngressFilter, Link},
    ownership::{ACCEPT_PRIORITY, UNDERLAY_PRIORITY, owns_filter},
};
use cps_peering_config::net::InterfaceName;
use std::{collections::BTreeMap, os::fd::RawFd};

/// A queueing discipline of a device.
#[derive(Debug, Clone)]
pub(super) struct Qdisc {
    /// The index of the device.
    pub(super) index: u32,
    /// Its handle; 0 for the kernel's default.
    pub(super) handle: u32,
    /// Its parent.
    pub(super) parent: u32,
    /// Its kind, for instance `htb`.
    pub(super) kind: String,
    /// Its options, in the format of its kind.
    pub(super) options: Option<Vec<u8>>,
}

impl Qdisc {
    /// A qdisc as the kernel reports it.
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

/// All of them, sorted by device.
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

/// The ingress filters of each device that has a qdisc for them.
pub(super) fn ingress(
    socket: &mut Socket,
    stop: &dyn Fn() -> bool,
    qdiscs: &[Qdisc],
    links: &BTreeMap<InterfaceName, Link>,
) -> Result<BTreeMap<InterfaceName, Ingress>, KernelError> {
    let looking = qdiscs.iter().filter(|qdisc| qdisc.parent == tc::CLSACT);
    let looking: BTreeMap<u32, &str> = looking.map(|qdisc| (qdisc.index, &*qdisc.kind)).collect();
    let mut found = BTreeMap::new();
    for (name, link) in links {
        let Some(kind) = looking.get(&link.index) else { continue };
        check_stop(stop)?;
        found.insert(*name, Ingress { is_foreign: *kind != "clsact", ..filters(socket, link.index)? });
    }
    Ok(found)
}

/// The ingress filters of one device.
pub(super) fn ingress_of(socket: &mut Socket, index: u32) -> Result<Option<Ingress>, KernelError> {
    let found = socket.get(rtm::GET_QDISC, |body| put_header(body, index, tc::CLSACT_HANDLE, tc::CLSACT, 0))?;
    match found {
        Ok(_) => filters(socket, index).map(Some),
        // There is none, or a kind other than these two.
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
            let chain = attributes(payload, tc::HEADER_LEN).find(|(kind, _)| *kind == tc::TCA_CHAIN);
            let in_chain = chain.and_then(|(_, value)| u32_at(value, 0)).is_some_and(|chain| chain != 0);
            if !in_chain && priority == UNDERLAY_PRIORITY && handle <= UNDERLAY_FILTER.handle && is_bpf(payload) {
                // Handle 0 is the priority as a whole.
                if handle != 0 {
                    ingress.underlay_program = Some(read_underlay_program(payload, info).unwrap_or_default());
                }
            } else if !owns_filter(priority) || in_chain {
                let effect =
                    if in_chain || priority > ACCEPT_PRIORITY { Effect::MayDrop } else { effect(payload, info) };
                note(&mut ingress.foreign, payload, priority, effect);
                if !in_chain {
                    ingress.foreign_from = Some(ingress.foreign_from.map_or(priority, |known| known.min(priority)));
                }
            } else if handle != 0 {
                // Handle 0 is the priority as a whole.
                ingress.filters.insert(FilterHandle { priority, handle }, read_filter(payload, info));
            }
        },
    )
}

/// Filters at a place where none is ours, at any priority, in the terms of `tc`.
pub(super) fn foreign_filters(
    socket: &mut Socket,
    index: u32,
    parent: u32,
) -> Result<BTreeMap<String, Effect>, KernelError> {
    socket.dump(
        "filters",
        rtm::GET_FILTER,
        |body| put_header(body, index, 0, parent, 0),
        BTreeMap::new,
        |found, payload| {
            let Some(info) = u32_at(payload, 16) else { return };
            note(found, payload, u16::try_from(info >> 16).unwrap_or_default(), effect(payload, info));
        },
    )
}

/// Notes a filter of another program. The kernel reports each priority once more as a whole. What a filter behind
/// another one still sees is unknown.
fn note(found: &mut BTreeMap<String, Effect>, payload: &[u8], priority: u16, effect: Effect) {
    let Some(name) = filter_name(payload, priority) else { return };
    let is_first = found.keys().all(|other| *other == name);
    let effect = if is_first { effect } else { Effect::MayDrop };
    found.entry(name).and_modify(|known| *known = effect.max(*known)).or_insert(effect);
}

/// The effect of another program's filter: `matchall` with the action `drop` leaves nothing.
fn effect(payload: &[u8], info: u32) -> Effect {
    let drops_all = || {
        let find = |from, wanted| attributes(payload, from).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let nested = |value, wanted| attributes(value, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let all = info & 0xffff == u32::from(tc::ETH_P_ALL.to_be());
        let chain = find(tc::HEADER_LEN, tc::TCA_CHAIN).and_then(|value| u32_at(value, 0)).unwrap_or_default();
        if text(find(tc::HEADER_LEN, tc::TCA_KIND)?) != Some("matchall") || !all || chain != 0 {
            return None;
        }
        let options = find(tc::HEADER_LEN, tc::TCA_OPTIONS)?;
        let in_software = nested(options, tc::MATCHALL_FLAGS).and_then(|value| u32_at(value, 0)).unwrap_or_default();
        if in_software & tc::SKIP_SW != 0 {
            return None;
        }
        // The first of its actions.
        let action = nested(nested(options, tc::MATCHALL_ACT)?, 1)?;
        let is_gact = text(nested(action, tc::ACT_KIND)?) == Some("gact");
        let parameters = nested(nested(action, tc::ACT_OPTIONS)?, tc::GACT_PARMS)?;
        (is_gact && u32_at(parameters, 8) == Some(tc::ACT_SHOT)).then_some(())
    };
    if drops_all().is_some() { Effect::DropsAll } else { Effect::MayDrop }
}

/// Priority and kind of a filter. The kernel reports each priority once more as a whole.
fn filter_name(payload: &[u8], priority: u16) -> Option<String> {
    let (_, kind) = attributes(payload, tc::HEADER_LEN).find(|(kind, _)| *kind == tc::TCA_KIND)?;
    Some(format!("pref {priority} {}", text(kind)?))
}

fn is_bpf(payload: &[u8]) -> bool {
    let kind = attributes(payload, tc::HEADER_LEN).find(|(kind, _)| *kind == tc::TCA_KIND);
    kind.and_then(|(_, value)| text(value)) == Some("bpf")
}

/// The id of the program, if it is the underlay's by name, sees all packets and is in direct-action mode.
fn read_underlay_program(payload: &[u8], info: u32) -> Option<u32> {
    let find = |wanted| attributes(payload, tc::HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let options = find(tc::TCA_OPTIONS)?;
    let option = |wanted| attributes(options, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let flags = |wanted| option(wanted).and_then(|value| u32_at(value, 0)).unwrap_or_default();
    let works = info & 0xffff == u32::from(tc::ETH_P_ALL.to_be())
        && flags(tc::BPF_FLAGS) & tc::BPF_ACT_DIRECT != 0
        && is_in_software(flags(tc::BPF_FLAGS_GEN));
    (text(option(tc::BPF_NAME)?) == Some(NAME) && works).then(|| flags(tc::BPF_ID))
}

/// Whether a filter has the flags that ours have. The kernel refuses to change them in place.
fn is_in_software(flags: u32) -> bool {
    flags & (tc::SKIP_SW | tc::SKIP_HW) == tc::SKIP_HW
}

/// The underlay's filter.
pub(super) const UNDERLAY_FILTER: FilterHandle = FilterHandle { priority: UNDERLAY_PRIORITY, handle: 1 };

pub(super) fn put_underlay_filter(body: &mut Vec<u8>, index: u32, program: RawFd) {
    let info = u32::from(UNDERLAY_PRIORITY) << 16 | u32::from(tc::ETH_P_ALL.to_be());
    put_header(body, index, UNDERLAY_FILTER.handle, tc::INGRESS, info);
    put(body, tc::TCA_KIND, b"bpf\0");
    put_nested(body, tc::TCA_OPTIONS, |options| {
        put(options, tc::BPF_FD, &program.to_ne_bytes());
        put(options, tc::BPF_NAME, format!("{NAME}\0").as_bytes());
        put(options, tc::BPF_FLAGS, &tc::BPF_ACT_DIRECT.to_ne_bytes());
        put(options, tc::BPF_FLAGS_GEN, &tc::SKIP_HW.to_ne_bytes());
    });
}

/// A filter, if it is one that we would make.
fn read_filter(payload: &[u8], info: u32) -> Option<IngressFilter> {
    let find = |wanted| attributes(payload, tc::HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if text(find(tc::TCA_KIND)?) != Some("bpf") || info & 0xffff != u32::from(tc::ETH_P_ALL.to_be()) {
        return None;
    }
    let (mut program, mut direct, mut in_software, mut limit) = (None, false, false, None);
    for (kind, value) in attributes(find(tc::TCA_OPTIONS)?, 0) {
        match kind {
            tc::BPF_OPS => program = Some(read_program(value)?),
            tc::BPF_FLAGS => direct = u32_at(value, 0)? & tc::BPF_ACT_DIRECT != 0,
            tc::BPF_FLAGS_GEN => in_software = is_in_software(u32_at(value, 0)?),
            tc::BPF_OPS_LEN => {}
            tc::BPF_ACT => limit = Some(read_limit(value)?),
            _ => return None,
        }
    }
    Some(match (program.filter(|_| in_software)?, limit, direct) {
        (program, Some(rate), false) => IngressFilter::Limit(program, rate),
        (_, Some(_), true) => return None,
        (program, None, false) => IngressFilter::Accept(program),
        (program, None, true) if program == dropping() => IngressFilter::DropRest,
        (program, None, true) => IngressFilter::Reject(program),
    })
}

fn read_program(bytes: &[u8]) -> Option<Program> {
    let read =
        |it: &[u8]| Some(Instruction { code: u16_at(it, 0)?, jt: u8_at(it, 2)?, jf: u8_at(it, 3)?, k: u32_at(it, 4)? });
    bytes.chunks(tc::BPF_INSTRUCTION_LEN).map(read).collect()
}

/// Returns an action.
fn dropping() -> Program {
    [Instruction { code: tc::BPF_RETURN, jt: 0, jf: 0, k: tc::ACT_SHOT }].into_iter().collect()
}

pub(super) fn put_header(body: &mut Vec<u8>, index: u32, handle: u32, parent: u32, info: u32) {
    body.extend([0; 4]);
    for number in [index, handle, parent, info] {
        body.extend(number.to_ne_bytes());
    }
}

pub(super) fn put_clsact(body: &mut Vec<u8>, index: u32) {
    put_header(body, index, tc::CLSACT_HANDLE, tc::CLSACT, 0);
    put(body, tc::TCA_KIND, b"clsact\0");
}

/// Without a protocol, whatever is there is removed.
pub(super) fn put_filter_place(body: &mut Vec<u8>, index: u32, place: FilterHandle) {
    put_header(body, index, place.handle, tc::INGRESS, u32::from(place.priority) << 16);
}

pub(super) fn put_filter(body: &mut Vec<u8>, index: u32, place: FilterHandle, filter: &IngressFilter) {
    let info = u32::from(place.priority) << 16 | u32::from(tc::ETH_P_ALL.to_be());
    put_header(body, index, place.handle, tc::INGRESS, info);
    put(body, tc::TCA_KIND, b"bpf\0");
    put_nested(body, tc::TCA_OPTIONS, |options| {
        let dropping = dropping();
        let (program, flags) = match filter {
            // What it selects is handed to its action; without one, it is accepted.
            IngressFilter::Limit(program, _) | IngressFilter::Accept(program) => (program, 0),
            // What it returns is the action.
            IngressFilter::Reject(program) => (program, tc::BPF_ACT_DIRECT),
            IngressFilter::DropRest => (&dropping, tc::BPF_ACT_DIRECT),
        };
        if let IngressFilter::Limit(_, rate) = filter {
            put_nested(options, tc::BPF_ACT, |actions| put_limit(actions, *rate));
        }
        let instructions = program.instructions();
        let length = u16::try_from(instructions.len()).expect("a program has some thousand instructions");
        put(options, tc::BPF_OPS_LEN, &length.to_ne_bytes());
        let mut bytes = Vec::with_capacity(instructions.len() * tc::BPF_INSTRUCTION_LEN);
        for it in instructions {
            bytes.extend(it.code.to_ne_bytes());
            bytes.extend([it.jt, it.jf]);
            bytes.extend(it.k.to_ne_bytes());
        }
        put(options, tc::BPF_OPS, &bytes);
        put(options, tc::BPF_FLAGS, &flags.to_ne_bytes());
        put(options, tc::BPF_FLAGS_GEN, &tc::SKIP_HW.to_ne_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{NEIGHBOURS, Vlan, vlan_program};
    use crate::ownership::DROP_PRIORITY;

    #[test]
    fn a_filter_reads_back_as_it_was_written() {
        let vlans = vlan_program(&[Vlan { tpid: 0x8100, id: 7 }].into());
        let limit = IngressFilter::Limit(vlans.clone(), NEIGHBOURS);
        for filter in
            [limit, IngressFilter::Accept(vlans.clone()), IngressFilter::Reject(vlans), IngressFilter::DropRest]
        {
            let mut body = Vec::new();
            put_filter(&mut body, 7, FilterHandle { priority: DROP_PRIORITY, handle: 3 }, &filter);
            let info = u32_at(&body, 16).unwrap();
            assert_eq!((u32_at(&body, 8), info >> 16), (Some(3), u32::from(DROP_PRIORITY)));
            assert_eq!(read_filter(&body, info), Some(filter));
        }
    }

    #[test]
    fn only_a_filter_that_drops_everything_is_reported_as_such() {
        let filter = |priority: u16, protocol: u16, kind: &str, action: u32| {
            let mut body = Vec::new();
            let info = u32::from(priority) << 16 | u32::from(protocol.to_be());
            put_header(&mut body, 7, 1, tc::EGRESS, info);
            put(&mut body, tc::TCA_KIND, format!("{kind}\0").as_bytes());
            put_nested(&mut body, tc::TCA_OPTIONS, |options| {
                put_nested(options, tc::MATCHALL_ACT, |actions| {
                    put_nested(actions, 1, |one| {
                        put(one, tc::ACT_KIND, b"gact\0");
                        put_nested(one, tc::ACT_OPTIONS, |options| {
                            let numbers = [1, 0, action, 1, 1].map(u32::to_ne_bytes).concat();
                            put(options, tc::GACT_PARMS, &numbers);
                        });
                    });
                });
            });
            body
        };
        let found = |filters: &[Vec<u8>]| {
            let mut found = BTreeMap::new();
            for body in filters {
                let info = u32_at(body, 16).unwrap();
                note(&mut found, body, u16::try_from(info >> 16).unwrap(), effect(body, info));
            }
            found.into_values().collect::<Vec<_>>()
        };
        let drop = filter(1, tc::ETH_P_ALL, "matchall", tc::ACT_SHOT);
        // The priority as a whole, which has no options.
        let whole = [&drop[..20], &drop[20..32]].concat();
        assert_eq!(found(&[whole, drop.clone()]), [Effect::DropsAll]);
        assert_eq!(found(&[filter(1, tc::ETH_P_ALL, "matchall", 0)]), [Effect::MayDrop], "lets pass");
        assert_eq!(found(&[filter(1, 0x0800, "matchall", tc::ACT_SHOT)]), [Effect::MayDrop], "one family only");
        assert_eq!(found(&[filter(1, tc::ETH_P_ALL, "flower", tc::ACT_SHOT)]), [Effect::MayDrop]);
        let before = filter(2, tc::ETH_P_ALL, "u32", 0);
        assert_eq!(found(&[before, filter(3, tc::ETH_P_ALL, "matchall", tc::ACT_SHOT)]), [Effect::MayDrop; 2]);
    }
}
