//! The action of a filter that limits what it selects (`act_police`), in packets per second.

use super::{
    uapi::tc,
    wire::{attributes, put, put_nested, text, u32_at, u64_at},
};
use crate::filter::PacketRate;

/// Longer packets would be dropped: there are none.
const MTU: u32 = u32::MAX;

/// The duration of a burst at its rate; none without a rate.
fn burst_ticks(rate: PacketRate) -> Option<u64> {
    let ns = (u64::from(rate.burst) * 1_000_000_000).checked_div(rate.per_second.into())?;
    Some(ns / tc::TICK_NS)
}

/// Appends the actions of a filter: one, which drops what exceeds the rate, and leaves the rest to the filters behind
/// it.
pub(super) fn put_limit(actions: &mut Vec<u8>, rate: PacketRate) {
    put_nested(actions, 1, |action| {
        put(action, tc::ACT_KIND, b"police\0");
        put_nested(action, tc::ACT_OPTIONS, |options| {
            // No limit in bytes.
            let mut parameters = [0, tc::ACT_SHOT, 0, 0, MTU].map(u32::to_ne_bytes).concat();
            parameters.resize(tc::POLICE_TBF_LEN, 0);
            put(options, tc::POLICE_TBF, &parameters);
            put(options, tc::POLICE_RESULT, &tc::ACT_UNSPEC.to_ne_bytes());
            put(options, tc::POLICE_PKTRATE64, &u64::from(rate.per_second).to_ne_bytes());
            let ticks = burst_ticks(rate).expect("a limit of ours has a rate");
            put(options, tc::POLICE_PKTBURST64, &ticks.to_ne_bytes());
        });
    });
}

/// The rate, if the actions are as we would make them.
pub(super) fn read_limit(actions: &[u8]) -> Option<PacketRate> {
    let mut each = attributes(actions, 0);
    let ((_, action), None) = (each.next()?, each.next()) else { return None };
    let find = |wanted| attributes(action, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if text(find(tc::ACT_KIND)?) != Some("police") {
        return None;
    }
    let (mut drops, mut goes_on, mut per_second, mut ticks) = (false, false, None, None);
    for (kind, value) in attributes(find(tc::ACT_OPTIONS)?, 0) {
        match kind {
            tc::POLICE_TBF => drops = u32_at(value, 4)? == tc::ACT_SHOT && u32_at(value, 16)? == MTU,
            tc::POLICE_RESULT => goes_on = u32_at(value, 0)? == tc::ACT_UNSPEC,
            tc::POLICE_PKTRATE64 => per_second = Some(u64_at(value, 0)?),
            tc::POLICE_PKTBURST64 => ticks = Some(u64_at(value, 0)?),
            tc::POLICE_TM | tc::POLICE_PAD => {}
            // It has a limit in bytes, too.
            _ => return None,
        }
    }
    let (per_second, ticks) = (per_second?, ticks?);
    let ns = ticks.checked_mul(tc::TICK_NS)?;
    let burst = ns.checked_mul(per_second)?.div_ceil(1_000_000_000);
    let rate = PacketRate { per_second: per_second.try_into().ok()?, burst: burst.try_into().ok()? };
    (drops && goes_on && burst_ticks(rate) == Some(ticks)).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::NEIGHBOURS;

    #[test]
    fn only_a_limit_as_we_make_it_is_read() {
        let of = |rate| {
            let mut actions = Vec::new();
            put_limit(&mut actions, rate);
            actions
        };
        let ours = of(NEIGHBOURS);
        for rate in [NEIGHBOURS, PacketRate { per_second: 7, burst: 3 }, PacketRate { per_second: 1, burst: 0 }] {
            assert_eq!(read_limit(&of(rate)), Some(rate));
        }
        // Behind the headers of action, kind, options and parameters.
        let parameters = 4 + 12 + 4 + 4;
        assert_eq!(ours[parameters + 4..][..4], tc::ACT_SHOT.to_ne_bytes());
        let result = parameters + tc::POLICE_TBF_LEN + 4;
        for (what, at) in [("drops", parameters + 4), ("its MTU", parameters + 16), ("goes on", result)] {
            let mut other = ours.clone();
            other[at] ^= 3;
            assert_eq!(read_limit(&other), None, "{what}");
        }
        let mut burst = ours.clone();
        let last = burst.len() - 8;
        burst[last] ^= 1;
        assert_eq!(read_limit(&burst), None, "a burst between two");
        assert_eq!(read_limit(&[&ours[..], &ours[..]].concat()), None, "two actions");
        let mut measured = ours;
        put_nested(&mut measured, 2, |_| {});
        assert_eq!(read_limit(&measured), None, "another behind it");
    }
}
