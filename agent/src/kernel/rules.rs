//! Policy rules: the two that the agent manages, and those of others that the kernel evaluates before `l3mdev`.

use super::{
    KernelError,
    socket::Socket,
    uapi::{route, rtm, rule},
    wire::{address, attributes, u8_at, u16_at, u32_at, u64_at},
};
use crate::{
    objects::{Family, Lookup, Rule, RuleAhead},
    ownership::{self, L3MDEV_RULE_PRIORITY},
};
use cps_peering_config::net::InterfaceName;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The rules of one family, or of both.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Those that send everything to `local` or `l3mdev`.
    pub(super) plain: Vec<Rule>,
    /// Those in front of the first plain `l3mdev` rule that have an effect.
    pub(super) ahead: Vec<RuleAhead>,
    /// Those that look up a table of ours, at any priority.
    pub(super) into: Vec<RuleAhead>,
}

/// Those of both families.
pub(super) fn both(socket: &mut Socket) -> Result<Rules, KernelError> {
    let (mut rules, six) = (rules(socket, Family::V4)?, rules(socket, Family::V6)?);
    rules.plain.extend(six.plain);
    rules.plain.sort_unstable();
    rules.ahead.extend(six.ahead);
    rules.into.extend(six.into);
    Ok(rules)
}

fn rules(socket: &mut Socket, family: Family) -> Result<Rules, KernelError> {
    let all = socket.dump(
        "rules",
        rtm::GET_RULE,
        |body| {
            body.push(family.number());
            body.extend([0; rule::HEADER_LEN - 1]);
        },
        Vec::new,
        |rules, payload| rules.extend(Parsed::read(payload, family)),
    )?;
    Ok(sorted(all))
}

/// The kernel lists rules in the order in which it evaluates them.
fn sorted(all: Vec<Parsed>) -> Rules {
    let is_l3mdev = |parsed: &Parsed| parsed.plain.is_some_and(|rule| rule.lookup == Lookup::L3mdev);
    let first = all.iter().position(is_l3mdev);
    // If there is none, ours comes behind rules that have its priority already.
    let limit = first.map_or(L3MDEV_RULE_PRIORITY, |place| all[place].ahead.priority);
    let place = first.unwrap_or_else(|| all.iter().take_while(|parsed| parsed.ahead.priority <= limit).count());
    let mut rules = Rules::default();
    for (at, parsed) in all.into_iter().enumerate() {
        rules.plain.extend(parsed.plain);
        // The `local` rule at 0 is the kernel's own, and moved away by the agent.
        let kernels = parsed.plain.is_some_and(|rule| rule.lookup == Lookup::Local && rule.priority == 0);
        let passes = parsed.nothing || parsed.jump.is_some_and(|to| to <= limit);
        rules.into.extend(parsed.into_ours.then(|| parsed.ahead.clone()));
        if at < place && !kernels && !passes {
            rules.ahead.push(parsed.ahead);
        }
    }
    rules
}

/// One rule as the kernel reports it.
#[derive(Debug)]
struct Parsed {
    plain: Option<Rule>,
    ahead: RuleAhead,
    /// It has no effect, or the same as our own.
    nothing: bool,
    /// The target of a goto.
    jump: Option<u32>,
    /// It looks up a table of ours for packets of any sender.
    into_ours: bool,
}

impl Parsed {
    fn read(payload: &[u8], family: Family) -> Option<Parsed> {
        let (to_len, from_len) = (u8_at(payload, 1)?, u8_at(payload, 2)?);
        let (tos, action, flags) = (u8_at(payload, 3)?, u8_at(payload, 7)?, u32_at(payload, 8)?);
        let mut table = u32::from(u8_at(payload, 4)?);
        let (mut priority, mut protocol, mut l3mdev, mut jump) = (0, 0, false, None);
        let (mut from, mut to) = (unspecified(family), unspecified(family));
        let mut of_service = tos != 0;
        let (mut mark, mut mask) = (0, u32::MAX);
        let mut ahead = RuleAhead { family, inverted: flags & rule::FIB_RULE_INVERT != 0, ..RuleAhead::default() };
        let mut selectors = Vec::new();
        let mut selective = to_len != 0 || from_len != 0 || tos != 0 || flags & !rule::FIB_RULE_PERMANENT != 0;
        for (kind, value) in attributes(payload, rule::HEADER_LEN) {
            // The kernel reports it even if there is none.
            if kind == rule::FRA_SUPPRESS_PREFIXLEN && u32_at(value, 0) == Some(u32::MAX) {
                continue;
            }
            selective |= !matches!(
                kind,
                rule::FRA_PRIORITY | rule::FRA_TABLE | rule::FRA_L3MDEV | rule::FRA_PROTOCOL | rule::FRA_PAD
            );
            match kind {
                rule::FRA_PRIORITY => priority = u32_at(value, 0)?,
                rule::FRA_TABLE => table = u32_at(value, 0)?,
                rule::FRA_L3MDEV => l3mdev = u8_at(value, 0)? == 1,
                rule::FRA_PROTOCOL => protocol = u8_at(value, 0)?,
                rule::FRA_GOTO => jump = u32_at(value, 0),
                rule::FRA_SRC => from = address(value)?,
                rule::FRA_DST => to = address(value)?,
                rule::FRA_IIFNAME => ahead.iif = InterfaceName::of_kernel(value),
                rule::FRA_OIFNAME => ahead.oif = InterfaceName::of_kernel(value),
                rule::FRA_FWMARK => mark = u32_at(value, 0)?,
                rule::FRA_FWMASK => mask = u32_at(value, 0)?,
                rule::FRA_TUN_ID => ahead.tunnel = u64_at(value, 0) != Some(0),
                rule::FRA_UID_RANGE => ahead.root = u32_at(value, 0) == Some(0),
                rule::FRA_PAD => {}
                _ => {
                    of_service |=
                        !matches!(kind, rule::FRA_SUPPRESS_PREFIXLEN | rule::FRA_SUPPRESS_IFGROUP | rule::FRA_FLOW);
                    selectors.extend(selector(kind, value));
                }
            }
        }
        ahead.priority = priority;
        ahead.of_service = of_service;
        ahead.marked = mark & mask != 0;
        ahead.from = (from_len != 0).then(|| IpNet::new(from, from_len).ok()).flatten();
        let to = (to_len != 0).then(|| IpNet::new(to, to_len).ok()).flatten();
        let lookup = match (l3mdev, table) {
            (true, _) => Some(Lookup::L3mdev),
            (false, route::RT_TABLE_LOCAL) => Some(Lookup::Local),
            _ => None,
        };
        let plain = action == rule::FR_ACT_TO_TBL && !selective;
        let plain = lookup.filter(|_| plain).map(|lookup| Rule { family, priority, lookup, protocol });
        let mut words = vec![if ahead.inverted { "not from".to_owned() } else { "from".to_owned() }];
        words.push(ahead.from.map_or_else(|| "all".to_owned(), |from| from.to_string()));
        words.extend(to.map(|to| format!("to {to}")));
        words.extend(ahead.iif.iter().map(|iif| format!("iif {iif}")));
        words.extend(ahead.oif.iter().map(|oif| format!("oif {oif}")));
        words.extend((mark != 0).then(|| format!("fwmark {mark:#x}/{mask:#x}")));
        words.extend((tos != 0).then(|| format!("tos {tos:#x}")));
        words.extend(selectors);
        words.push(match action {
            rule::FR_ACT_TO_TBL if l3mdev => "lookup [l3mdev-table]".to_owned(),
            rule::FR_ACT_TO_TBL => match table {
                route::RT_TABLE_LOCAL => "lookup local".to_owned(),
                route::RT_TABLE_MAIN => "lookup main".to_owned(),
                table => format!("lookup {table}"),
            },
            rule::FR_ACT_GOTO => format!("goto {}", jump.unwrap_or_default()),
            rule::FR_ACT_NOP => "nop".to_owned(),
            rule::FR_ACT_BLACKHOLE => "blackhole".to_owned(),
            rule::FR_ACT_UNREACHABLE => "unreachable".to_owned(),
            rule::FR_ACT_PROHIBIT => "prohibit".to_owned(),
            other => format!("action {other}"),
        });
        ahead.text = words.join(" ");
        let jump = jump.filter(|_| action == rule::FR_ACT_GOTO);
        let nothing = action == rule::FR_ACT_NOP || (action == rule::FR_ACT_TO_TBL && l3mdev);
        let into_ours = action == rule::FR_ACT_TO_TBL && !l3mdev && ownership::table_vni(table).is_some();
        Some(Parsed { plain, ahead, nothing, jump, into_ours })
    }
}

/// A selector in the terms of `ip rule`.
fn selector(kind: u16, value: &[u8]) -> Option<String> {
    let range = || Some((u16_at(value, 0)?, u16_at(value, 2)?));
    let ports = |name: &str| range().map(|(first, last)| format!("{name} {first}-{last}"));
    match kind {
        rule::FRA_IP_PROTO => u8_at(value, 0).map(|number| format!("ipproto {number}")),
        rule::FRA_SPORT_RANGE => ports("sport"),
        rule::FRA_DPORT_RANGE => ports("dport"),
        rule::FRA_SUPPRESS_PREFIXLEN => u32_at(value, 0).map(|length| format!("suppress_prefixlength {length}")),
        rule::FRA_SUPPRESS_IFGROUP | rule::FRA_FLOW => None,
        other => Some(format!("attribute {other}")),
    }
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::wire::put;

    /// A rule as the kernel reports it: action, flags, and attributes besides the priority.
    fn rule(priority: u32, action: u8, flags: u32, attributes: &[(u16, &[u8])]) -> Parsed {
        let has = |kind| attributes.iter().any(|(other, _)| *other == kind);
        let length = |kind| if has(kind) { 24 } else { 0 };
        let mut payload = vec![2, length(rule::FRA_DST), length(rule::FRA_SRC), 0, 0, 0, 0, action];
        payload.extend(flags.to_ne_bytes());
        put(&mut payload, rule::FRA_SUPPRESS_PREFIXLEN, &u32::MAX.to_ne_bytes());
        put(&mut payload, rule::FRA_PRIORITY, &priority.to_ne_bytes());
        for (kind, value) in attributes {
            put(&mut payload, *kind, value);
        }
        Parsed::read(&payload, Family::V4).unwrap()
    }

    fn table(number: u32) -> [u8; 4] {
        number.to_ne_bytes()
    }

    fn texts(rules: Vec<Parsed>) -> Vec<String> {
        sorted(rules).ahead.iter().map(|rule| format!("{} {}", rule.priority, rule.text)).collect()
    }

    #[test]
    fn effective_rules_before_l3mdev_are_reported_in_the_terms_of_ip() {
        const L3MDEV: (u16, &[u8]) = (rule::FRA_L3MDEV, &[1]);
        let (local, main) = (table(route::RT_TABLE_LOCAL), table(route::RT_TABLE_MAIN));
        let all = vec![
            rule(0, rule::FR_ACT_TO_TBL, 0, &[(rule::FRA_TABLE, &local)]),
            rule(5, rule::FR_ACT_NOP, 0, &[]),
            rule(6, rule::FR_ACT_GOTO, 0, &[(rule::FRA_GOTO, &table(900))]),
            rule(7, rule::FR_ACT_GOTO, 0, &[(rule::FRA_GOTO, &table(2000))]),
            rule(10, rule::FR_ACT_TO_TBL, 0, &[(rule::FRA_TABLE, &local)]),
            rule(20, rule::FR_ACT_TO_TBL, 0, &[L3MDEV, (rule::FRA_IIFNAME, b"eth7\0")]),
            rule(500, rule::FR_ACT_TO_TBL, 2, &[(rule::FRA_TABLE, &main), (rule::FRA_SRC, &[10, 1, 2, 0])]),
            rule(600, rule::FR_ACT_PROHIBIT, 0, &[(rule::FRA_DPORT_RANGE, &[80, 0, 80, 0])]),
            rule(1000, rule::FR_ACT_BLACKHOLE, 0, &[]),
            rule(1000, rule::FR_ACT_TO_TBL, 0, &[L3MDEV]),
            rule(1000, rule::FR_ACT_BLACKHOLE, 0, &[]),
        ];
        let expected = [
            "7 from all goto 2000",
            "10 from all lookup local",
            "500 not from 10.1.2.0/24 lookup main",
            "600 from all dport 80-80 prohibit",
            "1000 from all blackhole",
        ];
        assert_eq!(texts(all), expected);
    }

    #[test]
    fn rules_that_look_up_a_table_of_ours_are_reported_at_any_priority() {
        let ours = table(ownership::table(7.try_into().unwrap()));
        let to = |priority, table: &[u8]| rule(priority, rule::FR_ACT_TO_TBL, 0, &[(rule::FRA_TABLE, table)]);
        let l3mdev = rule(1000, rule::FR_ACT_TO_TBL, 0, &[(rule::FRA_L3MDEV, &[1])]);
        let main = table(route::RT_TABLE_MAIN);
        let found = sorted(vec![to(900, &ours), l3mdev, to(3000, &ours), to(32766, &main)]).into;
        assert_eq!(found.iter().map(|rule| rule.priority).collect::<Vec<_>>(), [900, 3000]);
    }

    #[test]
    fn without_an_l3mdev_rule_those_that_would_precede_ours_are_reported() {
        let main = table(route::RT_TABLE_MAIN);
        let to_main = |priority| rule(priority, rule::FR_ACT_TO_TBL, 0, &[(rule::FRA_TABLE, &main)]);
        let expected = ["999 from all lookup main", "1000 from all lookup main"];
        assert_eq!(texts(vec![to_main(999), to_main(1000), to_main(1001), to_main(32766)]), expected);
    }

    #[test]
    fn the_plain_ones_are_those_without_a_selector() {
        let local = table(route::RT_TABLE_LOCAL);
        let rules = sorted(vec![
            rule(0, rule::FR_ACT_TO_TBL, 0, &[(rule::FRA_TABLE, &local)]),
            rule(1, rule::FR_ACT_TO_TBL, 0, &[(rule::FRA_TABLE, &local), (rule::FRA_FWMARK, &[1, 0, 0, 0])]),
            rule(2, rule::FR_ACT_TO_TBL, rule::FIB_RULE_INVERT, &[(rule::FRA_TABLE, &local)]),
        ]);
        let plain: Vec<u32> = rules.plain.iter().map(|rule| rule.priority).collect();
        assert_eq!(plain, [0]);
        assert!(rules.ahead[0].marked && !rules.ahead[0].inverted && rules.ahead[1].inverted);
        assert!(!rules.ahead[0].of_service);
        let of_a_port = rule(1, rule::FR_ACT_BLACKHOLE, 0, &[(rule::FRA_DPORT_RANGE, &[80, 0, 80, 0])]);
        assert!(of_a_port.ahead.of_service);
    }
}
