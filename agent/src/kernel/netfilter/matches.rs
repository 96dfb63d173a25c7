//! Matches and targets of iptables, as encoded in rules of either interface (`include/uapi/linux/netfilter/xt_*.h`).
//! Numbers are in host byte order.

use crate::objects::firewall::{Match, Sense, Verdict, state};
use std::ops::RangeInclusive;

/// The conditions of a match, all of which must be true, by its name, its revision and its data.
pub(super) fn conditions(name: &str, revision: u32, told: &[u8]) -> Vec<Match> {
    let known = match (name, revision) {
        ("comment", _) => return Vec::new(),
        ("udp", 0) => return udp(told).unwrap_or_else(|| vec![Match::Other]),
        ("multiport", 1) => multiport(told),
        ("icmp6", 0) => return icmpv6(told).unwrap_or_else(|| vec![Match::Other]),
        // `struct xt_state_info`
        ("state", 0) => word(told, 0).map(|states| Match::State(states, Sense::Is)),
        ("conntrack", 1..=3) => conntrack(told, revision),
        _ => None,
    };
    vec![known.unwrap_or(Match::Other)]
}

/// A target of iptables, by its name.
pub(super) fn target(name: &str) -> Verdict {
    match name {
        "ACCEPT" => Verdict::Accept,
        "RETURN" => Verdict::Return,
        "DROP" | "REJECT" | "SYNPROXY" | "TARPIT" | "DELUDE" | "STEAL" => Verdict::Drop(format!("-j {name}")),
        "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" | "TPROXY" | "SNPT" | "DNPT" | "CLUSTERIP" => {
            Verdict::Translate(format!("-j {name}"))
        }
        // These count, mark, log or change what no route depends on.
        "LOG" | "NFLOG" | "ULOG" | "MARK" | "CONNMARK" | "CONNSECMARK" | "SECMARK" | "TRACE" | "CT" | "NOTRACK"
        | "TCPMSS" | "DSCP" | "TOS" | "CLASSIFY" | "CHECKSUM" | "TEE" | "SET" | "AUDIT" | "RATEEST" | "IDLETIMER"
        | "LED" | "ECN" | "TCPOPTSTRIP" | "HMARK" => Verdict::Continue,
        other => Verdict::Unclear(format!("-j {other}")),
    }
}

/// Whether a target may change a packet's mark.
pub(super) fn marks(target: &str) -> bool {
    matches!(target, "MARK" | "CONNMARK" | "HMARK" | "TPROXY" | "SET")
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn sense(inverted: bool) -> Sense {
    if inverted { Sense::IsNot } else { Sense::Is }
}

/// `struct xt_udp`: source ports, destination ports, and which of the two are inverted.
fn udp(told: &[u8]) -> Option<Vec<Match>> {
    let inverted = *told.get(8)?;
    let from = half(told, 0)?..=half(told, 2)?;
    let to = half(told, 4)?..=half(told, 6)?;
    let mut conditions = vec![Match::DestinationPort(vec![to], sense(inverted & 0x02 != 0))];
    if from != (0..=u16::MAX) || inverted & 0x01 != 0 {
        conditions.push(Match::Other);
    }
    Some(conditions)
}

/// `struct ip6t_icmp`: the type, the first and the last code, and whether the match is inverted.
fn icmpv6(told: &[u8]) -> Option<Vec<Match>> {
    let [kind, first, last, inverted, ..] = *told else { return None };
    if (first, last) == (0, u8::MAX) {
        return Some(vec![Match::IcmpType(vec![kind], sense(inverted & 1 != 0))]);
    }
    // With a code it matches some of that type, and inverted also some of it.
    let of_type = (inverted & 1 == 0).then(|| Match::IcmpType(vec![kind], Sense::Is));
    Some(of_type.into_iter().chain([Match::Other]).collect())
}

/// `struct xt_multiport_v1`: whether source ports are meant, how many there are, 15 of them, which of those begin a
/// range, and whether the match is inverted.
fn multiport(told: &[u8]) -> Option<Match> {
    const DESTINATION: u8 = 1;
    let count = usize::from(*told.get(1)?);
    if *told.first()? != DESTINATION {
        return None;
    }
    let mut ports: Vec<RangeInclusive<u16>> = Vec::new();
    let mut place = 0;
    while place < count.min(15) {
        let first = half(told, 2 + 2 * place)?;
        let is_range = *told.get(32 + place)? != 0;
        let last = if is_range { half(told, 4 + 2 * place)? } else { first };
        ports.push(first..=last);
        place += if is_range { 2 } else { 1 };
    }
    Some(Match::DestinationPort(ports, sense(*told.get(47)? != 0)))
}

/// `struct xt_conntrack_mtinfo1` to `3`, if only the state is matched.
fn conntrack(told: &[u8], revision: u32) -> Option<Match> {
    /// Behind eight addresses, two times and five ports.
    const FLAGS: usize = 8 * 16 + 2 * 4 + 5 * 2;
    const STATE: u16 = 1;
    /// Only records that it was written as `-m state` (`XT_CONNTRACK_STATE_ALIAS`).
    const ALIAS: u16 = 1 << 13;
    /// Whether an address was changed (`XT_CONNTRACK_STATE_SNAT`, `XT_CONNTRACK_STATE_DNAT`).
    const SNAT: u16 = 1 << 6;
    const DNAT: u16 = 1 << 7;
    /// `XT_CONNTRACK_STATE_UNTRACKED`, which has another number elsewhere.
    const UNTRACKED: u16 = 1 << 8;
    let (asked, inverted) = (half(told, FLAGS)?, half(told, FLAGS + 2)?);
    let states = if revision == 1 { u16::from(*told.get(FLAGS + 4)?) } else { half(told, FLAGS + 4)? };
    if asked & !ALIAS != STATE || states & SNAT != 0 {
        return None;
    }
    let untracked = if states & UNTRACKED == 0 { 0 } else { state::UNTRACKED };
    let changed = if states & DNAT == 0 { 0 } else { state::DNAT };
    let states = u32::from(states & !(UNTRACKED | DNAT)) | untracked | changed;
    Some(Match::State(states, sense(inverted & STATE != 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_that_are_not_understood_may_hold_or_not() {
        assert_eq!(conditions("comment", 0, b"why"), []);
        for (name, revision, told) in [("mark", 1, &[0u8; 12][..]), ("udp", 0, &[0; 3]), ("udp", 7, &[0; 10])] {
            assert_eq!(conditions(name, revision, told), [Match::Other], "{name}");
        }
    }

    #[test]
    fn icmp_types_are_read() {
        let of = |told: [u8; 4]| conditions("icmp6", 0, &told);
        assert_eq!(of([135, 0, 255, 0]), [Match::IcmpType(vec![135], Sense::Is)]);
        assert_eq!(of([135, 0, 255, 1]), [Match::IcmpType(vec![135], Sense::IsNot)]);
        assert_eq!(of([1, 4, 4, 0]), [Match::IcmpType(vec![1], Sense::Is), Match::Other]);
        assert_eq!(of([1, 4, 4, 1]), [Match::Other]);
        assert_eq!(conditions("icmp6", 0, &[1]), [Match::Other]);
    }

    #[test]
    fn ports_and_states_are_read() {
        let udp = |from: [u16; 2], to: [u16; 2], inverted| {
            let mut told: Vec<u8> = [from, to].concat().iter().flat_map(|port| port.to_ne_bytes()).collect();
            told.extend([inverted, 0]);
            conditions("udp", 0, &told)
        };
        assert_eq!(udp([0, u16::MAX], [4789, 4790], 2), [Match::DestinationPort(vec![4789..=4790], Sense::IsNot)]);
        assert_eq!(udp([7, 7], [68, 68], 0), [Match::DestinationPort(vec![68..=68], Sense::Is), Match::Other]);
        let mut told = vec![1, 3];
        told.extend([22u16, 4789, 4800].iter().flat_map(|port| port.to_ne_bytes()));
        told.resize(48, 0);
        told[33] = 1;
        let ports = Match::DestinationPort(vec![22..=22, 4789..=4800], Sense::Is);
        assert_eq!(conditions("multiport", 1, &told), [ports]);
        for revision in [1, 3] {
            let mut told = vec![0; 160];
            told[146] = 1;
            told[148] = 1;
            told[150] = 8;
            let expected = Match::State(state::NEW, Sense::IsNot);
            // In host byte order the low byte comes first on all supported platforms.
            assert_eq!(conditions("conntrack", revision, &told), [expected], "{revision}");
            told[146] = 3;
            assert_eq!(conditions("conntrack", revision, &told), [Match::Other]);
        }
        // What iptables calls untracked has another number than in nftables; a translated address is no state.
        let mut told = vec![0; 160];
        (told[146], told[150], told[151]) = (1, 6, 1);
        assert_eq!(conditions("conntrack", 3, &told), [Match::State(6 | state::UNTRACKED, Sense::Is)]);
        told[150] = 64;
        assert_eq!(conditions("conntrack", 3, &told), [Match::Other]);
        (told[150], told[151]) = (128 | 6, 0);
        assert_eq!(conditions("conntrack", 3, &told), [Match::State(6 | state::DNAT, Sense::Is)]);
        assert_eq!(conditions("state", 0, &6u32.to_ne_bytes()), [Match::State(6, Sense::Is)]);
    }
}
