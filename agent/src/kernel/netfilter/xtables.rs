//! The older interface of iptables (`include/uapi/linux/netfilter_ipv4/ip_tables.h` and its IPv6 counterpart),
//! read-only.

use super::matches::{self, target};
use crate::{
    kernel::wire,
    objects::{
        Family,
        firewall::{Backend, Chain, FilterRule, Hook, Match, Pattern, Scope, Sense, Verdict},
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

/// Tables, and the module of each family that provides it.
pub(super) const TABLES: [([(Family, &str); 2], &str); 5] = [
    ([(Family::V4, "iptable_raw"), (Family::V6, "ip6table_raw")], "raw"),
    ([(Family::V4, "iptable_mangle"), (Family::V6, "ip6table_mangle")], "mangle"),
    ([(Family::V4, "iptable_nat"), (Family::V6, "ip6table_nat")], "nat"),
    ([(Family::V4, "iptable_filter"), (Family::V6, "ip6table_filter")], "filter"),
    ([(Family::V4, "iptable_security"), (Family::V6, "ip6table_security")], "security"),
];

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`, the same numbers for IPv6.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// `struct ipt_getinfo`.
const INFO_LEN: usize = 84;
const NAME_LEN: usize = 32;
/// `struct ipt_get_entries` without its entries.
const ENTRIES_AT: usize = 40;
/// A larger table is not read, in bytes.
const MAX_SIZE: usize = 64 << 20;
const HOOKS: usize = 5;

/// Offsets within an entry.
struct Layout {
    address: usize,
    in_name: usize,
    /// `invflags`.
    inverted: usize,
    flags: usize,
    protocol: usize,
    target_offset: usize,
    len: usize,
}

const V4: Layout =
    Layout { address: 4, in_name: 16, protocol: 80, flags: 82, inverted: 83, target_offset: 88, len: 112 };
const V6: Layout =
    Layout { address: 16, in_name: 64, protocol: 128, flags: 131, inverted: 132, target_offset: 140, len: 168 };

/// All chains of a table in this network namespace.
pub(super) fn table(family: Family, name: &'static str) -> io::Result<Vec<Chain>> {
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let socket = match UdpSocket::bind((address, 0)) {
        Ok(socket) => OwnedFd::from(socket),
        // Without the family nothing is filtered.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // The table may grow between the two calls.
    for _ in 0..8 {
        let mut info = vec![0; INFO_LEN];
        info[..name.len()].copy_from_slice(name.as_bytes());
        match get(&socket, family, GET_INFO, &mut info) {
            Ok(()) => {}
            // The kernel does not have it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        }
        let size = number(&info, INFO_LEN - 4) as usize;
        if size > MAX_SIZE {
            return Err(io::Error::other(format!("{size} bytes of rules are more than are read")));
        }
        let mut answer = vec![0; ENTRIES_AT + size];
        answer[..name.len()].copy_from_slice(name.as_bytes());
        answer[NAME_LEN..NAME_LEN + 4].copy_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_ne_bytes());
        match get(&socket, family, GET_ENTRIES, &mut answer) {
            Ok(()) => return chains(family, name, &info, &answer[ENTRIES_AT..]).ok_or_else(unknown),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the table kept changing while it was read"))
}

fn unknown() -> io::Error {
    io::Error::other("the kernel's answer is not understood")
}

fn get(socket: &OwnedFd, family: Family, option: libc::c_int, value: &mut [u8]) -> io::Result<()> {
    let level = match family {
        Family::V4 => libc::IPPROTO_IP,
        Family::V6 => libc::IPPROTO_IPV6,
    };
    super::super::sockopt::get(socket.as_raw_fd(), level, option, value)
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

fn chains(family: Family, table: &'static str, info: &[u8], all: &[u8]) -> Option<Vec<Chain>> {
    let layout = match family {
        Family::V4 => V4,
        Family::V6 => V6,
    };
    let entries = entries(&layout, all)?;
    let valid = number(info, NAME_LEN);
    let hook = |hook: usize| (number(info, 36 + 4 * hook) as usize, number(info, 56 + 4 * hook) as usize);
    // Names of chains by the offset of their first rule; the policies of base chains.
    let mut names: BTreeMap<usize, (String, Option<usize>)> = BTreeMap::new();
    let mut policies = BTreeSet::new();
    for number in (0..HOOKS).filter(|number| valid >> number & 1 == 1) {
        let (first, policy) = hook(number);
        let name = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"][number];
        names.insert(first, (name.to_owned(), Some(number)));
        policies.insert(policy);
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
        if let Some((name, number)) = names.get(&entry.at) {
            let hook = match number {
                Some(0) => Some(Hook::Prerouting),
                Some(1) => Some(Hook::Input),
                Some(2) => Some(Hook::Forward),
                Some(3) => Some(Hook::Output),
                Some(4) => Some(Hook::Postrouting),
                _ => None,
            };
            chains.push(Chain {
                backend: Backend::Legacy,
                scope: Scope::Ip(family),
                family: if family == Family::V4 { "ip" } else { "ip6" },
                table: table.to_owned(),
                name: name.clone(),
                hook,
                drops: false,
                rules: Vec::new(),
            });
        }
        let chain = chains.last_mut()?;
        let verdict = verdict(entry, &names, layout_flags(&layout, entry))?;
        if policies.contains(&entry.at) {
            chain.drops = matches!(verdict, Verdict::Drop(_));
            continue;
        }
        if name_at(entry.target, 2, 29)? == "ERROR" {
            continue;
        }
        let label = format!("rule {}", chain.rules.len() + 1);
        let marks = matches::marks(&name_at(entry.target, 2, 29)?);
        chain.rules.push(FilterRule { label, matches: conditions(family, &layout, entry)?, marks, verdict });
    }
    Some(chains)
}

/// Whether the rule does not return to its chain (`IPT_F_GOTO`).
fn layout_flags(layout: &Layout, entry: &Entry<'_>) -> bool {
    // For IPv6 the bit is another one (`IP6T_F_GOTO`).
    let goto = if layout.len == V4.len { 0x02 } else { 0x04 };
    entry.bytes.get(layout.flags).is_some_and(|flags| flags & goto != 0)
}

fn verdict(entry: &Entry<'_>, names: &BTreeMap<usize, (String, Option<usize>)>, goes: bool) -> Option<Verdict> {
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

fn conditions(family: Family, layout: &Layout, entry: &Entry<'_>) -> Option<Vec<Match>> {
    let bytes = entry.bytes;
    let inverted = *bytes.get(layout.inverted)?;
    let sense = |bit: u8| if inverted & bit == 0 { Sense::Is } else { Sense::IsNot };
    let mut found = Vec::new();
    for (at, bit, incoming) in [(layout.in_name, 0x01, true), (layout.in_name + 16, 0x02, false)] {
        let mask = bytes.get(at + 32..at + 48)?;
        let length = mask.iter().take_while(|byte| **byte == 0xff).count();
        if length > 0 {
            let name = bytes.get(at..at + length)?;
            let open = !name.contains(&0);
            let pattern = Pattern { name: wire::bytes_of_name(name), open };
            found.push(if incoming {
                Match::In(vec![pattern], sense(bit))
            } else {
                Match::Out(vec![pattern], sense(bit))
            });
        }
    }
    for (place, bit) in [(0, 0x08), (1, 0x10)] {
        let address = bytes.get(place * layout.address..(place + 1) * layout.address)?;
        let mask = bytes.get((place + 2) * layout.address..(place + 3) * layout.address)?;
        if mask.iter().all(|byte| *byte == 0) {
            continue;
        }
        found.push(match (network(family, address, mask), place) {
            (Some(net), 0) => Match::Source(net.into(), sense(bit)),
            (Some(net), _) => Match::Destination(net.into(), sense(bit)),
            (None, _) => Match::Other,
        });
    }
    // Only for IPv4: second and later fragments (`IPT_F_FRAG`).
    if layout.len == V4.len && bytes.get(layout.flags).is_some_and(|flags| flags & 0x01 != 0) {
        found.push(Match::Other);
    }
    match u8::try_from(short(bytes, layout.protocol)) {
        Ok(0) => {}
        Ok(protocol) => found.push(Match::Protocol(vec![protocol], sense(0x40))),
        Err(_) => found.push(Match::Other),
    }
    // Matches of modules.
    let mut at = layout.len;
    let end = short(bytes, layout.target_offset);
    while at < end {
        let length = short(bytes, at);
        if length < 32 {
            return None;
        }
        let (name, revision) = (name_at(bytes, at + 2, 29)?, *bytes.get(at + 31)?);
        found.extend(matches::conditions(&name, revision.into(), bytes.get(at + 32..at + length)?));
        at += length;
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
