//! The older interface of iptables and arptables (`include/uapi/linux/netfilter_ipv4/ip_tables.h`, its IPv6 counterpart,
//! and `include/uapi/linux/netfilter_arp/arp_tables.h`), read-only.

use super::matches::{self, target};
use crate::{
    kernel::wire,
    objects::{
        Family,
        firewall::{Backend, Chain, FilterRule, Hook, Match, Pattern, Scope, Sense, Verdict, ethertype},
    },
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net, ip_mask_to_prefix};
use nix::libc;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

/// Tables: the module that provides each, whose it is, and its name.
pub(super) const TABLES: [(&str, &Program, &str); 11] = [
    ("iptable_raw", &IPTABLES, "raw"),
    ("iptable_mangle", &IPTABLES, "mangle"),
    ("iptable_nat", &IPTABLES, "nat"),
    ("iptable_filter", &IPTABLES, "filter"),
    ("iptable_security", &IPTABLES, "security"),
    ("ip6table_raw", &IP6TABLES, "raw"),
    ("ip6table_mangle", &IP6TABLES, "mangle"),
    ("ip6table_nat", &IP6TABLES, "nat"),
    ("ip6table_filter", &IP6TABLES, "filter"),
    ("ip6table_security", &IP6TABLES, "security"),
    ("arptable_filter", &ARPTABLES, "filter"),
];

/// One of the programs, and how the kernel encodes its tables.
pub(super) struct Program {
    pub(super) name: &'static str,
    family: &'static str,
    scope: Scope,
    /// `SOL_IP` or `SOL_IPV6`.
    level: libc::c_int,
    /// `IPT_SO_GET_INFO`; the next number is `IPT_SO_GET_ENTRIES`.
    get_info: libc::c_int,
    /// In the kernel's order.
    hooks: &'static [(&'static str, Hook)],
    layout: Layout,
}

const IP_HOOKS: [(&str, Hook); 5] = [
    ("PREROUTING", Hook::Prerouting),
    ("INPUT", Hook::Input),
    ("FORWARD", Hook::Forward),
    ("OUTPUT", Hook::Output),
    ("POSTROUTING", Hook::Postrouting),
];
const ARP_HOOKS: [(&str, Hook); 3] = [("INPUT", Hook::Input), ("OUTPUT", Hook::Output), ("FORWARD", Hook::Forward)];

const IPTABLES: Program = Program {
    name: "iptables",
    family: "ip",
    scope: Scope::Ip(Family::V4),
    level: libc::IPPROTO_IP,
    get_info: 64,
    hooks: &IP_HOOKS,
    layout: Layout { in_name: 16, flags: 82, goto: 0x02, target_offset: 88, len: 112 },
};
const IP6TABLES: Program = Program {
    name: "ip6tables",
    family: "ip6",
    scope: Scope::Ip(Family::V6),
    level: libc::IPPROTO_IPV6,
    get_info: 64,
    hooks: &IP_HOOKS,
    layout: Layout { in_name: 64, flags: 131, goto: 0x04, target_offset: 140, len: 168 },
};
const ARPTABLES: Program = Program {
    name: "arptables",
    family: "arp",
    scope: Scope::Arp,
    level: libc::IPPROTO_IP,
    get_info: 96,
    hooks: &ARP_HOOKS,
    layout: Layout { in_name: 94, flags: 158, goto: 0, target_offset: 164, len: 192 },
};

const NAME_LEN: usize = 32;
/// `struct ipt_get_entries` without its entries.
const ENTRIES_AT: usize = 40;
/// A larger table is not read, in bytes.
const MAX_SIZE: usize = 64 << 20;

/// Offsets within an entry.
struct Layout {
    in_name: usize,
    flags: usize,
    /// The flag of a rule that does not return to its chain (`IPT_F_GOTO`).
    goto: u8,
    target_offset: usize,
    len: usize,
}

/// All chains of a table in this network namespace.
pub(super) fn table(program: &Program, name: &'static str) -> io::Result<Vec<Chain>> {
    let address = match program.level {
        libc::IPPROTO_IPV6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    // `struct ipt_getinfo`: two offsets for each hook.
    let info_len = NAME_LEN + 4 + 8 * program.hooks.len() + 8;
    let socket = match UdpSocket::bind((address, 0)) {
        Ok(socket) => OwnedFd::from(socket),
        // Without the family nothing is filtered.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // The table may grow between the two calls.
    for _ in 0..8 {
        let mut info = vec![0; info_len];
        info[..name.len()].copy_from_slice(name.as_bytes());
        match get(&socket, program, program.get_info, &mut info) {
            Ok(()) => {}
            // The kernel does not have it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        }
        let size = number(&info, info_len - 4) as usize;
        if size > MAX_SIZE {
            return Err(io::Error::other(format!("{size} bytes of rules are more than are read")));
        }
        let mut answer = vec![0; ENTRIES_AT + size];
        answer[..name.len()].copy_from_slice(name.as_bytes());
        answer[NAME_LEN..NAME_LEN + 4].copy_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_ne_bytes());
        match get(&socket, program, program.get_info + 1, &mut answer) {
            Ok(()) => return chains(program, name, &info, &answer[ENTRIES_AT..]).ok_or_else(unknown),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the table kept changing while it was read"))
}

fn unknown() -> io::Error {
    io::Error::other("the kernel's answer is not understood")
}

fn get(socket: &OwnedFd, program: &Program, option: libc::c_int, value: &mut [u8]) -> io::Result<()> {
    super::super::sockopt::get(socket.as_raw_fd(), program.level, option, value)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn short(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes).into()
}

fn name_at(bytes: &[u8], at: usize, len: usize) -> Option<String> {
    wire::name(bytes.get(at..at + len)?)
}

/// An entry of a table: its offset, and the rule.
struct Entry<'a> {
    at: usize,
    bytes: &'a [u8],
    target: &'a [u8],
}

fn entries<'a>(layout: &Layout, all: &'a [u8]) -> Option<Vec<Entry<'a>>> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at < all.len() {
        let bytes = all.get(at..)?;
        let (target, next) = (short(bytes, layout.target_offset), short(bytes, layout.target_offset + 2));
        if target < layout.len || next < target + 32 || next > bytes.len() {
            return None;
        }
        entries.push(Entry { at, bytes: &bytes[..next], target: &bytes[target..next] });
        at += next;
    }
    Some(entries)
}

fn chains(program: &Program, table: &'static str, info: &[u8], all: &[u8]) -> Option<Vec<Chain>> {
    let entries = entries(&program.layout, all)?;
    let valid = number(info, NAME_LEN);
    // The offset of each hook's first rule, and then that of each hook's policy.
    let offset = |place: usize| number(info, NAME_LEN + 4 + 4 * place) as usize;
    // Names of chains by the offset of their first rule; the policies of base chains.
    let mut names: BTreeMap<usize, (String, Option<Hook>)> = BTreeMap::new();
    let mut policies = BTreeSet::new();
    for (place, (name, hook)) in program.hooks.iter().enumerate().filter(|(place, _)| valid >> place & 1 == 1) {
        names.insert(offset(place), ((*name).to_owned(), Some(*hook)));
        policies.insert(offset(program.hooks.len() + place));
    }
    for entry in &entries {
        if name_at(entry.target, 2, 29)? == "ERROR" {
            let next = entry.at + entry.bytes.len();
            // The last one marks the end of the table.
            if next < all.len() {
                names.insert(next, (name_at(entry.target, 32, 30)?, None));
            }
        }
    }
    let mut chains: Vec<Chain> = Vec::new();
    for entry in &entries {
        if let Some((name, hook)) = names.get(&entry.at) {
            chains.push(Chain {
                backend: Backend::Legacy,
                scope: program.scope.clone(),
                family: program.family,
                table: table.to_owned(),
                name: name.clone(),
                hook: *hook,
                drops: false,
                rules: Vec::new(),
            });
        }
        let chain = chains.last_mut()?;
        let goes = entry.bytes.get(program.layout.flags).is_some_and(|flags| flags & program.layout.goto != 0);
        let verdict = verdict(entry, &names, goes)?;
        if policies.contains(&entry.at) {
            chain.drops = matches!(verdict, Verdict::Drop(_));
            continue;
        }
        if name_at(entry.target, 2, 29)? == "ERROR" {
            continue;
        }
        let label = format!("rule {}", chain.rules.len() + 1);
        let marks = matches::marks(&name_at(entry.target, 2, 29)?);
        chain.rules.push(FilterRule { label, matches: conditions(program, entry)?, marks, verdict });
    }
    Some(chains)
}

fn verdict(entry: &Entry<'_>, names: &BTreeMap<usize, (String, Option<Hook>)>, goes: bool) -> Option<Verdict> {
    let name = name_at(entry.target, 2, 29)?;
    if !name.is_empty() {
        return Some(if name == "ERROR" { Verdict::Continue } else { target(&name) });
    }
    let code = number(entry.target, 32).cast_signed();
    Some(match code {
        // −1 less the verdict; −5 is return.
        -1 => Verdict::Drop("-j DROP".to_owned()),
        -2 => Verdict::Accept,
        -4 => Verdict::Unclear("-j QUEUE".to_owned()),
        -5 => Verdict::Return,
        code if code >= 0 => {
            let to = usize::try_from(code).ok()?;
            match names.get(&to) {
                Some((chain, _)) if goes => Verdict::Goto(chain.clone()),
                Some((chain, _)) => Verdict::Jump(chain.clone()),
                // To the next rule: it only counts.
                None => Verdict::Continue,
            }
        }
        other => Verdict::Unclear(format!("verdict {other}")),
    })
}

fn sense(inverted: u8, bit: u8) -> Sense {
    if inverted & bit == 0 { Sense::Is } else { Sense::IsNot }
}

fn conditions(program: &Program, entry: &Entry<'_>) -> Option<Vec<Match>> {
    let layout = &program.layout;
    let mut found = match program.scope {
        Scope::Ip(Family::V4) => of_devices(layout, entry.bytes, *entry.bytes.get(83)?)?,
        Scope::Ip(Family::V6) => of_devices(layout, entry.bytes, *entry.bytes.get(132)?)?,
        // Two bytes; the lower bits are the same.
        _ => of_devices(layout, entry.bytes, short(entry.bytes, 160).to_ne_bytes()[0])?,
    };
    match program.scope {
        Scope::Ip(family) => found.extend(of_ip(family, entry.bytes)?),
        _ => found.extend(of_arp(entry.bytes)?),
    }
    // Matches of modules.
    let mut at = layout.len;
    let end = short(entry.bytes, layout.target_offset);
    while at < end {
        let length = short(entry.bytes, at);
        if length < 32 {
            return None;
        }
        let (name, revision) = (name_at(entry.bytes, at + 2, 29)?, *entry.bytes.get(at + 31)?);
        found.extend(matches::conditions(&name, revision.into(), entry.bytes.get(at + 32..at + length)?));
        at += length;
    }
    Some(found)
}

/// Conditions on devices, which all entries have in the same form.
fn of_devices(layout: &Layout, bytes: &[u8], inverted: u8) -> Option<Vec<Match>> {
    let mut found = Vec::new();
    for (at, bit, incoming) in [(layout.in_name, 0x01, true), (layout.in_name + 16, 0x02, false)] {
        let mask = bytes.get(at + 32..at + 48)?;
        let length = mask.iter().take_while(|byte| **byte == 0xff).count();
        if length > 0 {
            let name = bytes.get(at..at + length)?;
            let open = !name.contains(&0);
            let pattern = Pattern { name: wire::bytes_of_name(name), open };
            let sense = sense(inverted, bit);
            found.push(if incoming { Match::In(vec![pattern], sense) } else { Match::Out(vec![pattern], sense) });
        }
    }
    Some(found)
}

/// Conditions on addresses and protocols (`struct ipt_ip`, `struct ip6t_ip6`).
fn of_ip(family: Family, bytes: &[u8]) -> Option<Vec<Match>> {
    let (length, protocol_at, inverted_at) = match family {
        Family::V4 => (4, 80, 83),
        Family::V6 => (16, 128, 132),
    };
    let inverted = *bytes.get(inverted_at)?;
    let mut found = Vec::new();
    for (place, bit) in [(0, 0x08), (1, 0x10)] {
        let address = bytes.get(place * length..(place + 1) * length)?;
        let mask = bytes.get((place + 2) * length..(place + 3) * length)?;
        if mask.iter().all(|byte| *byte == 0) {
            continue;
        }
        found.push(match (network(family, address, mask), place) {
            (Some(net), 0) => Match::Source(net.into(), sense(inverted, bit)),
            (Some(net), _) => Match::Destination(net.into(), sense(inverted, bit)),
            (None, _) => Match::Other,
        });
    }
    // Only for IPv4: second and later fragments (`IPT_F_FRAG`).
    if family == Family::V4 && bytes.get(IPTABLES.layout.flags).is_some_and(|flags| flags & 0x01 != 0) {
        found.push(Match::Other);
    }
    match u8::try_from(short(bytes, protocol_at)) {
        Ok(0) => {}
        Ok(protocol) => found.push(Match::Protocol(vec![protocol], sense(inverted, 0x40))),
        Err(_) => found.push(Match::Other),
    }
    Some(found)
}

/// Conditions on the content of an ARP message (`struct arpt_arp`). arptables always writes those that hold for each message
/// on Ethernet: 6 bytes of address, hardware type 1.
fn of_arp(bytes: &[u8]) -> Option<Vec<Match>> {
    const INVERTED: usize = 0x3fc;
    const OPERATION: usize = 0x40;
    let inverted = short(bytes, 160) & INVERTED;
    let is_any = |from: usize, to: usize| Some(bytes.get(from..to)?.iter().all(|byte| *byte == 0));
    // Masks of both IP addresses, and of both Ethernet addresses.
    let any_address = is_any(8, 16)? && is_any(34, 50)? && is_any(66, 82)?;
    let field = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let usual = |at: usize, value: u16| Some(field(at + 2)? == 0 || field(at)? == value);
    let any_header = (*bytes.get(17)? == 0 || *bytes.get(16)? == 6) && usual(86, 1)? && usual(90, ethertype::IPV4)?;
    let mut found = Vec::new();
    if !any_address || !any_header || inverted & !OPERATION != 0 {
        found.push(Match::Other);
    }
    match field(84)? {
        0 => {}
        u16::MAX => {
            let sense = if inverted & OPERATION == 0 { Sense::Is } else { Sense::IsNot };
            found.push(Match::ArpOperation(vec![field(82)?], sense));
        }
        _ => found.push(Match::Other),
    }
    Some(found)
}

fn network(family: Family, address: &[u8], mask: &[u8]) -> Option<IpNet> {
    match family {
        Family::V4 => {
            let [address, mask] = [address, mask].map(|bytes| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from));
            let length = ip_mask_to_prefix(IpAddr::V4(mask?)).ok()?;
            Some(IpNet::V4(Ipv4Net::new(address?, length).ok()?.trunc()))
        }
        Family::V6 => {
            let [address, mask] = [address, mask].map(|bytes| <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from));
            let length = ip_mask_to_prefix(IpAddr::V6(mask?)).ok()?;
            Some(IpNet::V6(Ipv6Net::new(address?, length).ok()?.trunc()))
        }
    }
}
