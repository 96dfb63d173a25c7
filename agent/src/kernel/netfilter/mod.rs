//! Reads the host's packet filters: nftables over netlink, the older interface of iptables over socket options, and
//! `IPsec` policies, and UDP ports that lead past filters.
//!
//! Neither needs a program of the host. What is not loaded in the kernel is not queried: the query alone would load it.

mod fou;
mod ipsec;
mod matches;
mod nft;
mod xtables;

use super::sysctl;
use crate::objects::{Exemption, Firewall, Link};
use cps_peering_config::net::InterfaceName;
use std::{collections::BTreeMap, fs, path::Path};

/// What is kept between two observations.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// What was seen last, with the names of devices by index.
    last: Option<(BTreeMap<u32, InterfaceName>, Firewall)>,
    /// The rules of nftables, with their generation and the names of devices at that time.
    nft: Option<(nft::Generation, BTreeMap<u32, InterfaceName>, Firewall)>,
}

impl Cache {
    /// Reads everything that may decide about IP packets.
    pub(super) fn look(&mut self, links: &BTreeMap<InterfaceName, Link>) -> Firewall {
        let names: BTreeMap<u32, InterfaceName> = links.iter().map(|(name, link)| (link.index, *name)).collect();
        let firewall = firewall(self, &names);
        self.last = Some((names, firewall.clone()));
        firewall
    }

    /// Whether that has changed since.
    pub(super) fn changed(&mut self) -> bool {
        let Some((names, last)) = self.last.take() else { return false };
        let changed = firewall(self, &names) != last;
        self.last = Some((names, last));
        changed
    }
}

/// `names` are devices by index.
fn firewall(cache: &mut Cache, names: &BTreeMap<u32, InterfaceName>) -> Firewall {
    let mut all = Firewall::default();
    if is_in_kernel("nf_tables") {
        match nft::rules(cache, names) {
            Ok(firewall) => all.chains.extend(firewall.chains),
            Err(error) => all.unread.push(format!("nftables: {error}")),
        }
    }
    for (module, program, table) in xtables::TABLES {
        if !is_in_kernel(module) {
            continue;
        }
        match xtables::table(program, table) {
            Ok(chains) => all.chains.extend(chains),
            Err(error) => all.unread.push(format!("{} -t {table}: {error}", program.name)),
        }
    }
    if is_in_kernel("fou") {
        match fou::ports() {
            Ok(ports) => all.fou = ports,
            Err(error) => all.unread.push(format!("ports of FOU: {error}")),
        }
    }
    // Through whichever of the two interfaces they were made.
    if ["xfrm_user", "af_key"].into_iter().any(is_in_kernel) {
        match ipsec::policies(names) {
            Ok(policies) if policies.is_empty() => {}
            Ok(policies) => {
                all.policies = policies;
                all.exempt = Exemption::ALL.into_iter().filter(|one| sysctl::is_for_all(*one)).collect();
            }
            // Without modules, that means a kernel without IPsec. With them, some may have been made through the older
            // interface.
            Err(error) if error.is_unsupported() && !Path::new("/proc/modules").exists() => {}
            Err(error) => all.unread.push(format!("policies of IPsec: {error}")),
        }
    }
    all
}

/// Whether a module is loaded or built in. If the kernel has no modules at all, it is queried directly: nothing is
/// loaded then.
fn is_in_kernel(module: &str) -> bool {
    let Ok(loaded) = fs::read_to_string("/proc/modules") else { return true };
    if loaded.lines().any(|line| line.split_whitespace().next() == Some(module)) {
        return true;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let builtin = fs::read_to_string(Path::new("/lib/modules").join(release.trim()).join("modules.builtin"));
    let file = format!("/{module}.ko");
    builtin.is_ok_and(|list| list.lines().any(|line| line.ends_with(&file)))
}
