//! nftables over netlink (`include/uapi/linux/netfilter/nf_tables.h`), read-only. All numbers are big-endian.

mod attribute;
mod registers;
mod rules;
mod sets;
#[cfg(test)]
mod tests;

use super::Cache;
use crate::{
    kernel::{
        KernelError,
        socket::Socket,
        wire::{self, attributes},
    },
    objects::{
        Firewall,
        firewall::{Backend, Chain, Hook, Pattern, Scope},
    },
};
use attribute::{HEADER_LEN, SUBSYSTEM, family, find, number};
use cps_peering_config::net::InterfaceName;
use rules::read_rules;
use sets::Sets;
use std::collections::{BTreeMap, BTreeSet};

const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_GENERATION: u16 = SUBSYSTEM | 16;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
/// `NFT_TABLE_F_DORMANT`.
const TABLE_DORMANT: u32 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const HOOK_DEVICE: u16 = 3;
const HOOK_DEVICES: u16 = 4;
const GENERATION_ID: u16 = 1;

/// How often they are read again because they changed meanwhile.
const ATTEMPTS: usize = 8;

/// Changes with every change of the rules.
pub(super) type Generation = u32;

/// All chains and rules. They are read again only when they have changed.
pub(super) fn rules(cache: &mut Cache, names: &BTreeMap<u32, InterfaceName>) -> Result<Firewall, KernelError> {
    let mut socket = Socket::netfilter()?;
    let generation = generation(&mut socket)?;
    if let Some((known, with, firewall)) = &cache.nft
        && Some(*known) == generation
        && with == names
    {
        return Ok(firewall.clone());
    }
    let (mut generation, mut firewall) = (generation, read(&mut socket, names)?);
    // Chains and rules are listed one after the other: they are consistent only if nothing changed in between.
    for _ in 0..ATTEMPTS {
        let now = self::generation(&mut socket)?;
        if now == generation {
            cache.nft = generation.map(|generation| (generation, names.clone(), firewall.clone()));
            return Ok(firewall);
        }
        (generation, firewall) = (now, read(&mut socket, names)?);
    }
    Err(KernelError::Interrupted { what: "rules of nftables" })
}

/// None if the kernel does not report it.
fn generation(socket: &mut Socket) -> Result<Option<Generation>, KernelError> {
    let answer = socket.get(GET_GENERATION, |body| body.extend([0; HEADER_LEN]))?;
    Ok(answer.ok().and_then(|payload| number(find(&payload, HEADER_LEN, GENERATION_ID)?)))
}

fn read(socket: &mut Socket, names: &BTreeMap<u32, InterfaceName>) -> Result<Firewall, KernelError> {
    let all = |body: &mut Vec<u8>| body.extend([0; HEADER_LEN]);
    // The kernel evaluates nothing in a dormant table.
    let dormant = socket.dump("tables of nftables", GET_TABLE, all, BTreeSet::new, |dormant, payload| {
        let flags = find(payload, HEADER_LEN, TABLE_FLAGS).and_then(number).unwrap_or_default();
        if flags & TABLE_DORMANT != 0
            && let (Some((family, _)), Some(table)) =
                (family(payload), find(payload, HEADER_LEN, TABLE_NAME).and_then(wire::name))
        {
            dormant.insert((family, table));
        }
    })?;
    let mut chains: Vec<Chain> = socket.dump("chains of nftables", GET_CHAIN, all, Vec::new, |chains, payload| {
        chains.extend(read_chain(payload));
    })?;
    chains.retain(|chain| !dormant.contains(&(chain.family, chain.table.clone())));
    let mut sets = Sets::read(socket, |family, table| dormant.contains(&(family, table.to_owned())))?;
    let rules = loop {
        let start = || {
            sets.begin();
            (Vec::new(), BTreeSet::new())
        };
        let (rules, changing) =
            socket.dump("rules of nftables", GET_RULE, all, start, |(rules, changing), payload| {
                if let Some((key, mut read)) = read_rules(payload, names, &sets, changing) {
                    rules.extend(read.drain(..).map(|rule| (key.clone(), rule)));
                }
            })?;
        // If a rule lets packets change a set, all rules are read again without that set.
        if !sets.remove(&changing) {
            break rules;
        }
    };
    let mut places: BTreeMap<(&'static str, String, String), usize> = BTreeMap::new();
    for (place, chain) in chains.iter().enumerate() {
        places.insert((chain.family, chain.table.clone(), chain.name.clone()), place);
    }
    for (key, rule) in rules {
        if let Some(place) = places.get(&key) {
            chains[*place].rules.push(rule);
        }
    }
    Ok(Firewall { chains, ..Firewall::default() })
}

fn read_chain(payload: &[u8]) -> Option<Chain> {
    let (family, mut scope) = family(payload)?;
    let hook = find(payload, HEADER_LEN, CHAIN_HOOK);
    let at = hook.and_then(|hook| number(find(hook, 0, HOOK_NUMBER)?));
    let hook_is = match (at, family) {
        (Some(0), "netdev") | (Some(5), "inet") => Some(Hook::Ingress),
        (Some(1), "netdev") => Some(Hook::Egress),
        (Some(1), "arp") | (Some(3), _) => Some(Hook::Output),
        (Some(0), "arp") | (Some(1), _) => Some(Hook::Input),
        (Some(0), _) => Some(Hook::Prerouting),
        (Some(2), _) => Some(Hook::Forward),
        (Some(4), _) => Some(Hook::Postrouting),
        _ => None,
    };
    let mut devices = Vec::new();
    if let Some(hook) = hook {
        let one = find(hook, 0, HOOK_DEVICE).into_iter();
        let many = find(hook, 0, HOOK_DEVICES).into_iter().flat_map(|list| attributes(list, 0).map(|(_, name)| name));
        devices.extend(one.chain(many).map(|name| Pattern { name: wire::bytes_of_name(name), open: false }));
    }
    // A single device is reported in both ways.
    devices.sort_unstable();
    devices.dedup();
    if family == "netdev" || hook_is == Some(Hook::Ingress) {
        scope = Scope::Devices(devices);
    }
    Some(Chain {
        backend: Backend::Nftables,
        scope,
        family,
        table: wire::name(find(payload, HEADER_LEN, CHAIN_TABLE)?)?,
        name: wire::name(find(payload, HEADER_LEN, CHAIN_NAME)?)?,
        hook: hook_is,
        drops: find(payload, HEADER_LEN, CHAIN_POLICY).and_then(number) == Some(0),
        rules: Vec::new(),
    })
}
