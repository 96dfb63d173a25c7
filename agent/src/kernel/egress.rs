//! Shapers as netlink messages: HTB with one class, and behind it a queue that can segment packets.
//!
//! The queue is a TBF with unlimited rate: of all that it can do, only the segmentation of packets longer than its
//! burst (`tbf_segment`) is wanted. At that rate no packet takes time, so that none is stuck in the queue when the
//! burst becomes shorter than it is.

use super::{
    KernelError, check_stop,
    socket::Socket,
    tc::{Qdisc, put_header},
    uapi::{rtm, tc},
    wire::{attributes, put, put_nested, text, u8_at, u32_at, u64_at},
};
use crate::{
    objects::{Egress, Link, Queue, Rate},
    ownership::{DeviceName, QUEUE_HANDLE, Role, SHAPER_CLASS, SHAPER_HANDLE},
};
use cps_peering_config::net::InterfaceName;
use std::collections::BTreeMap;

/// `struct tc_htb_opt`: two `tc_ratespec` of 12 bytes, then burst, burst at the ceiling, quantum, level and priority.
const OPTION_LEN: usize = 44;
const RATESPEC_LEN: usize = 12;
/// `struct tc_tbf_qopt`: rate and peak rate, limit, buffer and MTU.
const TBF_LEN: usize = 36;
/// The rate of the queue, in bytes per second: 64 KiB take less than the nanosecond that the kernel counts in.
const UNLIMITED: u64 = 1 << 60;
/// What a class may send per turn, in bytes. There is only one.
const QUANTUM: u32 = 60_000;

/// What shapes the egress of all devices of sides. `qdiscs` is sorted by device.
pub(super) fn egress(
    socket: &mut Socket,
    stop: &dyn Fn() -> bool,
    qdiscs: &[Qdisc],
    links: &BTreeMap<InterfaceName, Link>,
) -> Result<BTreeMap<InterfaceName, Egress>, KernelError> {
    let names: BTreeMap<u32, InterfaceName> =
        links.iter().filter(|(name, _)| is_peer(name)).map(|(name, link)| (link.index, *name)).collect();
    let mut found = BTreeMap::new();
    for root in qdiscs.iter().filter(|qdisc| qdisc.parent == tc::ROOT && qdisc.handle != 0) {
        let Some(name) = names.get(&root.index) else { continue };
        check_stop(stop)?;
        let mut egress = of_root(socket, root)?;
        let first = qdiscs.partition_point(|qdisc| qdisc.index < root.index);
        let mut of_device = qdiscs[first..].iter().take_while(|qdisc| qdisc.index == root.index);
        let queue = of_device.find(|qdisc| qdisc.parent == SHAPER_CLASS);
        egress.queue = queue.and_then(read_queue);
        found.insert(*name, egress);
    }
    Ok(found)
}

/// What shapes the egress of one device, if it is one that can have a limit.
pub(super) fn egress_of(socket: &mut Socket, name: &InterfaceName, index: u32) -> Result<Option<Egress>, KernelError> {
    if !is_peer(name) {
        return Ok(None);
    }
    let mut get = |handle, parent| -> Result<Option<Qdisc>, KernelError> {
        let found = socket.get(rtm::GET_QDISC, |body| put_header(body, index, handle, parent, 0))?;
        Ok(found.ok().and_then(|payload| Qdisc::read(&payload)))
    };
    let Some(root) = get(0, tc::ROOT)?.filter(|root| root.handle != 0) else { return Ok(None) };
    let queue = if is_ours(&root) { get(QUEUE_HANDLE, SHAPER_CLASS)? } else { None };
    let mut egress = of_root(socket, &root)?;
    egress.queue = queue.as_ref().and_then(read_queue);
    Ok(Some(egress))
}

/// Only the sides of peerings have limits.
fn is_peer(name: &InterfaceName) -> bool {
    DeviceName::parse(name).is_some_and(|device| device.role == Role::Peer)
}

fn is_ours(root: &Qdisc) -> bool {
    let default_class = || {
        let glob = attributes(root.options.as_deref()?, 0).find(|(kind, _)| *kind == tc::HTB_INIT)?.1;
        u32_at(glob, 8)
    };
    root.kind == "htb" && root.handle == SHAPER_HANDLE && default_class() == Some(SHAPER_CLASS & 0xffff)
}

/// The queue, if it is one that we could have set. The kernel does not report the burst: it is also in a field that has
/// no effect without a peak rate, which any other change of the queue would change.
fn read_queue(queue: &Qdisc) -> Option<Queue> {
    let ours = queue.kind == "tbf" && queue.handle == QUEUE_HANDLE;
    let options = queue.options.as_deref().filter(|_| ours)?;
    let find = |wanted| attributes(options, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let (parameters, rate) = (find(tc::TBF_PARMS)?, u64_at(find(tc::TBF_RATE64)?, 0)?);
    let (peak, limit, longest) =
        (u32_at(parameters, RATESPEC_LEN + 8)?, u32_at(parameters, 24)?, u32_at(parameters, 32)?);
    (rate == UNLIMITED && peak == 0).then_some(Queue { limit, longest })
}

/// Classes and filters of a root; the queue is left to the caller.
fn of_root(socket: &mut Socket, root: &Qdisc) -> Result<Egress, KernelError> {
    if !is_ours(root) {
        return Ok(Egress::default());
    }
    let classes = socket.dump(
        "classes",
        rtm::GET_CLASS,
        |body| put_header(body, root.index, 0, 0, 0),
        || Egress { ours: true, ..Egress::default() },
        |egress, payload| match (u32_at(payload, 8), u32_at(payload, 12)) {
            (Some(SHAPER_CLASS), Some(tc::ROOT)) => egress.rate = read_rate(payload),
            (Some(handle), _) if handle & 0xffff_0000 == SHAPER_HANDLE => egress.bypassed = true,
            _ => {}
        },
    )?;
    let filtered = socket.dump(
        "filters",
        rtm::GET_FILTER,
        |body| put_header(body, root.index, 0, SHAPER_HANDLE, 0),
        || false,
        |filtered, _| *filtered = true,
    )?;
    Ok(Egress { bypassed: classes.bypassed || filtered, ..classes })
}

/// The rate of a class, if it is one that we could have set: the ceiling equal to the rate, no overhead per frame.
fn read_rate(payload: &[u8]) -> Option<Rate> {
    let find = |wanted| attributes(payload, tc::HEADER_LEN).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if text(find(tc::TCA_KIND)?) != Some("htb") {
        return None;
    }
    let options = find(tc::TCA_OPTIONS)?;
    let wide = |wanted| {
        let (_, value) = attributes(options, 0).find(|(kind, _)| *kind == wanted)?;
        u64_at(value, 0)
    };
    let (_, parameters) = attributes(options, 0).find(|(kind, _)| *kind == tc::HTB_PARMS)?;
    let (rate, ceiling) = parameters.get(..2 * RATESPEC_LEN)?.split_at(RATESPEC_LEN);
    let narrow = |spec: &[u8]| u32_at(spec, 8).map(u64::from);
    let bytes_per_second = wide(tc::HTB_RATE64).or_else(|| narrow(rate))?;
    let at_most = wide(tc::HTB_CEIL64).or_else(|| narrow(ceiling))?;
    let (burst_ticks, ceiling_ticks) = (u32_at(parameters, 24)?, u32_at(parameters, 28)?);
    let plain = |spec: &[u8]| {
        u8_at(spec, 1).is_some_and(|layer| layer & 0xf == tc::LINKLAYER_ETHERNET) && spec.get(2..4) == Some(&[0; 2])
    };
    let usual = at_most == bytes_per_second && burst_ticks == ceiling_ticks && plain(rate) && plain(ceiling);
    usual.then_some(Rate { bytes_per_second, burst_ticks })
}

/// An HTB whose class does not exist yet. Until it does, everything passes.
pub(super) fn put_shaper(body: &mut Vec<u8>, index: u32) {
    put_header(body, index, SHAPER_HANDLE, tc::ROOT, 0);
    put(body, tc::TCA_KIND, b"htb\0");
    put_nested(body, tc::TCA_OPTIONS, |options| {
        // `struct tc_htb_glob`: version, rate to quantum, default class, and two that are only reported.
        let glob = [tc::HTB_VERSION, 10, SHAPER_CLASS & 0xffff, 0, 0];
        put(options, tc::HTB_INIT, &glob.map(u32::to_ne_bytes).concat());
    });
}

pub(super) fn put_shaper_place(body: &mut Vec<u8>, index: u32) {
    put_header(body, index, SHAPER_HANDLE, tc::ROOT, 0);
}

pub(super) fn put_rate(body: &mut Vec<u8>, index: u32, rate: Rate) {
    put_header(body, index, SHAPER_CLASS, tc::ROOT, 0);
    put(body, tc::TCA_KIND, b"htb\0");
    put_nested(body, tc::TCA_OPTIONS, |options| {
        let narrow = u32::try_from(rate.bytes_per_second).unwrap_or(u32::MAX);
        let mut spec = [0; RATESPEC_LEN];
        spec[1] = tc::LINKLAYER_ETHERNET;
        spec[8..].copy_from_slice(&narrow.to_ne_bytes());
        let mut parameters = [spec, spec].concat();
        for number in [rate.burst_ticks, rate.burst_ticks, QUANTUM, 0, 0] {
            parameters.extend(number.to_ne_bytes());
        }
        debug_assert_eq!(parameters.len(), OPTION_LEN);
        // The kernel reads these two only if the narrow fields are saturated.
        if rate.bytes_per_second > u64::from(u32::MAX) {
            put(options, tc::HTB_RATE64, &rate.bytes_per_second.to_ne_bytes());
            put(options, tc::HTB_CEIL64, &rate.bytes_per_second.to_ne_bytes());
        }
        put(options, tc::HTB_PARMS, &parameters);
    });
}

pub(super) fn put_queue(body: &mut Vec<u8>, index: u32, queue: Queue) {
    put_header(body, index, QUEUE_HANDLE, SHAPER_CLASS, 0);
    put(body, tc::TCA_KIND, b"tbf\0");
    put_nested(body, tc::TCA_OPTIONS, |options| {
        let mut parameters = vec![0; TBF_LEN];
        parameters[1] = tc::LINKLAYER_ETHERNET;
        parameters[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
        parameters[24..28].copy_from_slice(&queue.limit.to_ne_bytes());
        parameters[32..].copy_from_slice(&queue.longest.to_ne_bytes());
        put(options, tc::TBF_PARMS, &parameters);
        put(options, tc::TBF_RATE64, &UNLIMITED.to_ne_bytes());
        put(options, tc::TBF_BURST, &queue.longest.to_ne_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_reads_back_as_it_was_written() {
        for bytes_per_second in [1, 125_000, u64::from(u32::MAX), u64::from(u32::MAX) + 1, 12_500_000_000] {
            let rate = Rate { bytes_per_second, burst_ticks: 156_250 };
            let mut body = Vec::new();
            put_rate(&mut body, 7, rate);
            assert_eq!((u32_at(&body, 4), u32_at(&body, 8)), (Some(7), Some(SHAPER_CLASS)));
            assert_eq!(read_rate(&body), Some(rate));
        }
    }

    #[test]
    fn a_class_with_a_higher_ceiling_or_an_overhead_is_not_as_we_set_it() {
        let mut body = Vec::new();
        put_rate(&mut body, 7, Rate { bytes_per_second: 125_000, burst_ticks: 183_000 });
        // Behind the header, the kind ("htb" with its header is 8 bytes) and two headers of 4.
        let parameters = tc::HEADER_LEN + 8 + 4 + 4;
        let with = |at: usize, value: u8| {
            let mut body = body.clone();
            body[parameters + at] = value;
            read_rate(&body)
        };
        assert!(with(RATESPEC_LEN + 8, 0xff).is_none(), "ceiling");
        assert!(with(2, 1).is_none(), "overhead");
        assert!(with(1, 2).is_none(), "link layer");
        assert!(with(28, 0).is_none(), "burst at the ceiling");
    }

    #[test]
    fn only_the_htb_that_we_make_is_ours() {
        let mut body = Vec::new();
        put_shaper(&mut body, 7);
        let ours = Qdisc::read(&body).unwrap();
        assert!(is_ours(&ours) && ours.parent == tc::ROOT);
        assert!(!is_ours(&Qdisc { kind: "hfsc".into(), ..ours.clone() }));
        assert!(!is_ours(&Qdisc { handle: 0x1_0000, ..ours.clone() }));
        assert!(!is_ours(&Qdisc { options: None, ..ours }));
        let mut body = Vec::new();
        let wanted = Queue { limit: 4711, longest: 1464 };
        put_queue(&mut body, 7, wanted);
        let queue = Qdisc::read(&body).unwrap();
        assert_eq!((read_queue(&queue), queue.parent), (Some(wanted), SHAPER_CLASS));
        assert_eq!(read_queue(&Qdisc { kind: "pfifo".into(), ..queue.clone() }), None);
        // Behind two headers of 4 bytes: a peak rate.
        let mut options = queue.options.clone().unwrap();
        options[4 + RATESPEC_LEN + 8] = 1;
        assert_eq!(read_queue(&Qdisc { options: Some(options), ..queue }), None);
    }
}
