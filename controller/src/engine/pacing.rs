//! Which hosts get a change first, if it concerns many. Pure.
//!
//! What an operator's document adds on many hosts goes to a few of them first, the canaries. A host waits only if its kernel is known
//! to have everything planned so far, if the change only adds to that, and if nothing of the VPCs concerned is removed from any host or moved
//! between hosts: removals are never delayed, and what moves would be nowhere while one end waits. Tenants' commands go to each host
//! that they change immediately, with everything that the host waits for.

use super::HostTarget;
use crate::digest::sha256;
use crate::model::{
    Command, Transaction,
    host::{Change as HostChange, What},
    record::Rollout,
    record::{Host, Pacing, Peering},
    state::{Change, Meta, State},
};
use cps_peering_config::{
    Revision, SharedHostConfig,
    host_config::{Limit, PortConfig, Remotes, SideConfig, VrfConfig},
    id::{HostId, RegionId, VpcId},
    net::Vni,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

/// How changes reach many hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushes {
    /// How many hosts get a change first; 0: all get it immediately.
    pub canary_hosts: usize,
    /// A change goes to canaries first if it adds something on more than this many hosts.
    pub canary_above: usize,
    /// How long the canaries must be healthy with it before the others get it.
    pub canary_watch: Duration,
    /// How long that may take before the rollout is stopped.
    pub canary_patience: Duration,
}

impl Default for Pushes {
    fn default() -> Self {
        Self {
            canary_hosts: 3,
            canary_above: 20,
            canary_watch: Duration::from_secs(15),
            canary_patience: Duration::from_mins(2),
        }
    }
}

/// How a command's changes reach hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PushMode {
    /// Canaries first, if there are many.
    Paced,
    /// Hosts that wait continue to wait.
    KeepHeld,
    /// Immediately, and no host waits any more: what is known of hosts is of another store.
    ReleaseAll,
    /// Immediately.
    AtOnce,
}

impl PushMode {
    pub(super) fn of(command: &Command) -> Self {
        match command {
            Command::Apply(_) => Self::Paced,
            Command::Release => Self::ReleaseAll,
            Command::Host(HostChange {
                what:
                    What::Drain | What::Uncordon | What::Maintain(_) | What::EndMaintenance | What::Pause | What::Resume,
                ..
            })
            | Command::Activate(_)
            | Command::Drained(_)
            | Command::Forget(_)
            | Command::LearnMtu(..)
            | Command::ConfirmClock
            | Command::Rollout(_)
            | Command::RecordSignature => Self::KeepHeld,
            Command::CreatePeering(_)
            | Command::AcceptPeering(_)
            | Command::RejectPeering(_)
            | Command::ModifyPeering(_)
            | Command::SetBandwidth(_)
            | Command::SetPrefixes(_)
            | Command::DeletePeering(_)
            | Command::CreateVpc(_)
            | Command::ModifyVpc(_)
            | Command::AddCidr(_)
            | Command::RemoveCidr(_)
            | Command::DeleteVpc(_)
            | Command::Account(_)
            | Command::Host(_)
            | Command::Webhook(_)
            | Command::Tick => Self::AtOnce,
        }
    }
}

/// The pacing of a commit.
pub(super) struct Pace<'a> {
    pub(super) manner: PushMode,
    pub(super) pushes: Pushes,
    /// Whether it is an operator's change of configurations. Measurements, and what follows from time, add nothing that operators
    /// would have to review.
    pub(super) is_decision: bool,
    /// Whether the kernel of a host is known to have everything planned before, and its worker is running.
    pub(super) has_all: &'a dyn Fn(&Host) -> bool,
    pub(super) now_ms: u64,
}

/// The digest of a configuration, which does not depend on its revision.
fn digest(config: &SharedHostConfig) -> u64 {
    let SharedHostConfig { revision: _, host: _, underlay, vrfs, sides } = config;
    let vrfs: BTreeMap<_, _> = vrfs.iter().map(|(id, vrf)| (id, &**vrf)).collect();
    let sides: BTreeMap<_, _> = sides.iter().map(|(vni, side)| (vni.get(), &**side)).collect();
    let json = serde_json::to_vec(&(underlay, vrfs, sides)).unwrap_or_default();
    sha256(&json).first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// A host whose configuration changes.
pub(super) struct Replanned {
    pub(super) before: Option<Arc<SharedHostConfig>>,
    pub(super) after: Arc<SharedHostConfig>,
}

/// The differences between two configurations of a host.
#[derive(Debug, Default)]
struct Differs {
    /// The VPCs of which a part is removed or moved.
    lost: BTreeSet<VpcId>,
    /// The VPCs with any difference.
    changed: BTreeSet<VpcId>,
    /// Whether anything is reduced without a removal: a share of a bandwidth.
    less: bool,
}

fn covers(new: &[IpNet], old: &[IpNet]) -> bool {
    let new: HashSet<&IpNet> = new.iter().collect();
    old.iter().all(|prefix| new.contains(prefix))
}

fn reaches(new: &Remotes, old: &Remotes) -> bool {
    old.iter().all(|(vtep, prefixes)| new.get(vtep).is_some_and(|new| covers(new, prefixes)))
}

fn has_all_of_vrf(new: &VrfConfig, old: &VrfConfig) -> bool {
    let VrfConfig { vni, ports, remotes, path_mtu, shared_gateways } = old;
    let port = |new: &PortConfig, old: &PortConfig| {
        covers(&new.gateways, &old.gateways) && covers(&new.prefixes, &old.prefixes)
    };
    (new.vni, new.path_mtu) == (*vni, *path_mtu)
        && ports.iter().all(|(name, old)| new.ports.get(name).is_some_and(|new| port(new, old)))
        && reaches(&new.remotes, remotes)
        && shared_gateways.iter().all(|gateway| new.shared_gateways.contains(gateway))
}

/// Apart from the limit.
fn has_all_of_side(new: &SideConfig, old: &SideConfig) -> bool {
    // Gateways only matter to probes.
    let SideConfig { peering, vpc, peer_vni, peer_cidrs, own_prefixes, remotes, gateways: _, path_mtu, limit: _ } = old;
    (&new.peering, &new.vpc, new.peer_vni, &new.own_prefixes, new.path_mtu)
        == (peering, vpc, *peer_vni, own_prefixes, *path_mtu)
        && covers(&new.peer_cidrs, peer_cidrs)
        && reaches(&new.remotes, remotes)
}

fn is_less(new: Option<Limit>, old: Option<Limit>) -> bool {
    match (new, old) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(new), Some(old)) => new.bandwidth_mbit < old.bandwidth_mbit || new.share < old.share,
    }
}

impl Differs {
    fn between(states: [&State; 2], before: Option<&SharedHostConfig>, after: &SharedHostConfig) -> Self {
        let mut differs = Self::default();
        let (no_vrfs, no_sides) = (BTreeMap::new(), BTreeMap::new());
        let (vrfs, sides) = before.map_or((&no_vrfs, &no_sides), |before| (&before.vrfs, &before.sides));
        // With a new address everything of the host moves.
        let moved = before.is_some_and(|before| before.underlay != after.underlay);
        for (vpc, old) in vrfs {
            match after.vrfs.get(vpc) {
                Some(new) if !moved && Arc::ptr_eq(new, old) => {}
                Some(new) if !moved && has_all_of_vrf(new, old) => {
                    if new != old {
                        differs.changed.insert(vpc.clone());
                    }
                }
                _ => drop(differs.lost.insert(vpc.clone())),
            }
        }
        differs.changed.extend(after.vrfs.keys().filter(|vpc| !vrfs.contains_key(*vpc)).cloned());
        let vpcs_of = |side: &SideConfig| -> BTreeSet<VpcId> {
            let peering = states.iter().find_map(|state| state.peerings().get(&side.peering));
            peering.into_iter().flat_map(Peering::sides).map(|side| side.vpc.clone()).collect()
        };
        for (vni, old) in sides {
            match after.sides.get(vni) {
                Some(new) if Arc::ptr_eq(new, old) || new == old => {}
                Some(new) if has_all_of_side(new, old) => {
                    differs.less |= is_less(new.limit, old.limit);
                    differs.changed.append(&mut vpcs_of(new));
                }
                _ => differs.lost.append(&mut vpcs_of(old)),
            }
        }
        let new = after.sides.iter().filter(|(vni, _): &(&Vni, _)| !sides.contains_key(*vni));
        differs.changed.extend(new.flat_map(|(_, side)| vpcs_of(side)));
        differs
    }
}

/// Some of the candidates, from each region in turn. Deterministic.
fn canaries(candidates: &BTreeMap<HostId, RegionId>, count: usize) -> BTreeSet<HostId> {
    let mut kinds: BTreeMap<&RegionId, Vec<&HostId>> = BTreeMap::new();
    for (host, region) in candidates {
        kinds.entry(region).or_default().push(host);
    }
    let per_kind = count.div_ceil(kinds.len().max(1));
    // Spread over the names: neighbours are often in the same rack.
    let spread = |hosts: Vec<&HostId>| -> Vec<HostId> {
        let taken = per_kind.min(hosts.len());
        (0..taken).map(|place| hosts[place * hosts.len() / taken].clone()).collect()
    };
    let mut kinds: Vec<_> = kinds.into_values().map(|hosts| spread(hosts).into_iter()).collect();
    let mut chosen = BTreeSet::new();
    while chosen.len() < count {
        let round: Vec<HostId> = kinds.iter_mut().filter_map(Iterator::next).take(count - chosen.len()).collect();
        if round.is_empty() {
            break;
        }
        chosen.extend(round);
    }
    chosen
}

/// The target of a host's worker.
pub(super) fn target(host: &Host, config: Arc<SharedHostConfig>) -> Arc<HostTarget> {
    let pacing = host.pacing.filter(|pacing| *pacing == Pacing::Canary || host.is_held_back());
    Arc::new(HostTarget { agent: host.agent.clone(), config, paused: host.paused, pacing })
}

impl Transaction<'_> {
    /// Decides which hosts wait. `replanned` are those whose configurations change.
    pub(super) fn pace(&mut self, number: u64, replanned: &BTreeMap<HostId, Replanned>, pace: &Pace<'_>) {
        let before = self.before();
        let was_held = before.meta().held;
        // None if this very command has ended it.
        let rollout = self.state.meta().rollout;
        // In a store that was released before, nothing is new.
        let manner = if was_held || pace.manner != PushMode::ReleaseAll { pace.manner } else { PushMode::KeepHeld };
        let differences: BTreeMap<&HostId, Differs> = {
            // Only then hosts wait.
            let matters = manner == PushMode::Paced || rollout.is_some();
            let states = [&*self.state, before];
            let of = |it: &Replanned| Differs::between(states, it.before.as_deref(), &it.after);
            replanned.iter().filter(|_| matters).map(|(id, it)| (id, of(it))).collect()
        };
        let lost: BTreeSet<&VpcId> = differences.values().flat_map(|it| &it.lost).collect();
        let may_wait = |id: &HostId| {
            let differs = differences.get(id);
            differs.is_none_or(|it| !it.less && it.lost.is_empty() && it.changed.iter().all(|vpc| !lost.contains(vpc)))
        };
        // A host that is removed is emptied now.
        let in_use = |id: &HostId| self.state.hosts().get(id).filter(|host| !host.retiring);
        // The configurations that waiting hosts have.
        let held = before.hosts().values().filter(|_| rollout.is_some());
        let held: BTreeMap<&HostId, (u64, u64)> = held.filter_map(|host| Some((&host.id, host.held_with()?))).collect();
        let at_once = |id: &HostId| match manner {
            PushMode::ReleaseAll => true,
            PushMode::AtOnce => differences.contains_key(id),
            PushMode::Paced | PushMode::KeepHeld => false,
        };
        let stays: BTreeMap<HostId, (u64, u64)> = held
            .iter()
            .filter(|(id, _)| !at_once(id) && may_wait(id) && in_use(id).is_some())
            .map(|(id, has)| ((*id).clone(), *has))
            .collect();
        // A document that leaves all waiting hosts with what they have withdraws the rollout. One that removes something else from all of them
        // gives them what they waited for.
        let is_as_before = |id: &HostId, (_, had): (u64, u64)| {
            let loses = differences.get(id).is_some_and(|it| it.less || !it.lost.is_empty());
            in_use(id).is_none() || loses && replanned.get(id).is_some_and(|it| digest(&it.after) == had)
        };
        let withdrawn = manner == PushMode::Paced
            && held.keys().any(|id| in_use(id).is_some())
            && held.iter().all(|(id, has)| is_as_before(id, *has));
        let gets = differences.iter().filter(|(id, it)| !it.changed.is_empty() && may_wait(id) && in_use(id).is_some());
        let has = |id: &HostId| {
            let host = before.hosts().get(id)?;
            stays.get(id).copied().or_else(|| (pace.has_all)(host).then_some((host.config_number, 0)))
        };
        let new: BTreeMap<HostId, (u64, u64)> = match manner {
            PushMode::Paced => gets.filter_map(|(id, _)| Some(((*id).clone(), has(id)?))).collect(),
            PushMode::KeepHeld | PushMode::ReleaseAll | PushMode::AtOnce => BTreeMap::new(),
        };
        let begins = pace.pushes.canary_hosts > 0 && new.len() > pace.pushes.canary_above;
        // The canaries of a rollout that continues are still watched.
        let former = before.hosts().values().filter(|host| host.pacing == Some(Pacing::Canary) && rollout.is_some());
        let former: BTreeSet<HostId> = former
            .filter(|host| !at_once(&host.id) && in_use(&host.id).is_some())
            .map(|host| host.id.clone())
            .collect();
        let stopped = rollout.is_some_and(|rollout| rollout.stopped && !rollout.withdrawn && !withdrawn);
        let mut first = former.clone();
        if begins {
            let kind = |id: &HostId| in_use(id).map(|host| (id.clone(), host.region.clone()));
            let others = |waiting: bool| -> BTreeMap<HostId, RegionId> {
                let others = new.keys().filter(|id| !former.contains(*id) && stays.contains_key(*id) == waiting);
                others.filter_map(kind).collect()
            };
            let missing =
                pace.pushes.canary_hosts.saturating_sub(former.iter().filter(|id| new.contains_key(*id)).count());
            let mut chosen = canaries(&others(false), missing);
            // Hosts that wait for an operator continue to do so.
            if chosen.is_empty() && !stopped {
                chosen = canaries(&others(true), missing);
            }
            first.append(&mut chosen);
        }
        let mut roles: BTreeMap<HostId, Option<Pacing>> = BTreeMap::new();
        let paced = before.hosts().values().filter(|host| host.pacing.is_some());
        roles.extend(paced.map(|host| (host.id.clone(), None)));
        let waiting = new.iter().filter(|_| begins).chain(&stays);
        roles.extend(waiting.filter_map(|(id, (has, _))| {
            let plan = in_use(id)?.config_number;
            // A host that begins to wait has what was planned before.
            let had = || replanned.get(id)?.before.as_deref().map(digest);
            let digest = stays.get(id).map_or_else(|| had().unwrap_or_default(), |(_, had)| *had);
            Some((id.clone(), Some(Pacing::Held { has: *has, plan, digest })))
        }));
        roles.extend(first.into_iter().map(|id| (id, Some(Pacing::Canary))));
        for (id, pacing) in roles {
            if let Some(host) = self.state.hosts().get(&id).filter(|host| host.pacing != pacing).cloned() {
                self.change(Change::Host(id, Some(Host { pacing, ..host })));
            }
        }
        let meta = self.state.meta();
        let revision = Revision { epoch: meta.epoch, number };
        // An operator's change of waiting hosts is something newer to review.
        let is_newer = pace.is_decision && stays.keys().any(|id| differences.contains_key(id));
        let rollout = match (begins, manner) {
            (true, _) => Some(Rollout { number, begun_ms: pace.now_ms, revision, stopped, withdrawn: false }),
            (false, PushMode::ReleaseAll) => None,
            (false, _) => meta.rollout.map(|it| {
                let revision = if is_newer { revision } else { it.revision };
                Rollout { withdrawn: it.withdrawn || withdrawn, revision, ..it }
            }),
        };
        if rollout != meta.rollout {
            self.change(Change::Meta(Meta { rollout, ..meta }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::net::InterfaceName;
    use serde_json::json;

    fn chosen(hosts: &[(&str, &str)], count: usize) -> Vec<String> {
        let candidate = |(host, region): &(&str, &str)| (host.parse().unwrap(), region.parse().unwrap());
        canaries(&hosts.iter().map(candidate).collect(), count).iter().map(ToString::to_string).collect()
    }

    /// P1.
    #[test]
    fn the_first_hosts_are_of_each_region_and_apart() {
        let hosts = [("a1", "north"), ("a2", "north"), ("a3", "north"), ("a4", "north"), ("b1", "east")];
        assert_eq!(chosen(&hosts, 1), ["b1"]);
        assert_eq!(chosen(&hosts, 2), ["a1", "b1"]);
        assert_eq!(chosen(&hosts, 4), ["a1", "a3", "b1"]);
        assert_eq!(chosen(&hosts[..4], 2), ["a1", "a3"]);
        assert_eq!(chosen(&hosts[..2], 5), ["a1", "a2"]);
        assert_eq!(chosen(&[], 3), [""; 0]);
    }

    /// P3. Each part that a VRF or a side has lost, or that has changed, is detected.
    #[test]
    fn nothing_that_is_taken_away_or_moves_is_taken_for_more() {
        let [one, two] = ["10.0.0.0/24", "10.0.1.0/24"].map(|it| it.parse().unwrap());
        let ports = [("eth1".parse().unwrap(), PortConfig { gateways: vec![one], prefixes: vec![one] })];
        let whole = VrfConfig {
            vni: 7.try_into().unwrap(),
            ports: ports.into_iter().collect(),
            remotes: [("192.0.2.1".parse().unwrap(), vec![one, two])].into_iter().collect(),
            path_mtu: Some(1400),
            shared_gateways: vec!["10.0.0.1".parse().unwrap()],
        };
        let more = {
            let mut more = whole.clone();
            more.remotes.insert("192.0.2.2".parse().unwrap(), vec!["10.0.3.0/24".parse().unwrap()]);
            more.ports.insert("eth2".parse().unwrap(), PortConfig { gateways: vec![], prefixes: vec![] });
            more.shared_gateways.push("10.0.0.2".parse().unwrap());
            more
        };
        assert!(has_all_of_vrf(&whole, &whole) && has_all_of_vrf(&more, &whole) && !has_all_of_vrf(&whole, &more));
        let less: [fn(&mut VrfConfig); 7] = [
            |it| it.vni = 8.try_into().unwrap(),
            |it| it.path_mtu = None,
            |it| it.shared_gateways.clear(),
            |it| drop(it.remotes.remove(&"192.0.2.1".parse::<std::net::IpAddr>().unwrap())),
            |it| it.remotes.get_mut(&"192.0.2.1".parse::<std::net::IpAddr>().unwrap()).unwrap().truncate(1),
            |it| it.ports.get_mut(&"eth1".parse::<InterfaceName>().unwrap()).unwrap().gateways.clear(),
            |it| it.ports.get_mut(&"eth1".parse::<InterfaceName>().unwrap()).unwrap().prefixes.clear(),
        ];
        for (place, change) in less.into_iter().enumerate() {
            let mut less = whole.clone();
            change(&mut less);
            assert!(!has_all_of_vrf(&less, &whole), "{place}");
        }
        let side: SideConfig = serde_json::from_value(json!({
            "peering": "vpcpr-0a1b2c3d4e", "vpc": "a", "peer_vni": 9, "peer_cidrs": ["10.1.0.0/16", "10.2.0.0/16"],
            "remotes": {},
        }))
        .unwrap();
        let less: [fn(&mut SideConfig); 6] = [
            |it| it.vpc = "b".parse().unwrap(),
            |it| it.peer_vni = 8.try_into().unwrap(),
            |it| it.own_prefixes = Some(vec![]),
            |it| it.path_mtu = Some(1400),
            |it| it.peer_cidrs.truncate(1),
            |it| it.peering = "vpcpr-0a1b2c3d4f".parse().unwrap(),
        ];
        for (place, change) in less.into_iter().enumerate() {
            let mut less = side.clone();
            change(&mut less);
            assert!(!has_all_of_side(&less, &side), "{place}");
        }
        let limit = |mbit: u32, millionths| {
            let share = cps_peering_config::host_config::Share::of_millionths(millionths).unwrap();
            Some(Limit { bandwidth_mbit: mbit.try_into().unwrap(), share })
        };
        for (new, old, expected) in [
            (limit(10, 500), limit(10, 500), false),
            (limit(20, 500), limit(10, 500), false),
            (None, limit(10, 500), false),
            (limit(10, 500), None, true),
            (limit(9, 500), limit(10, 500), true),
            (limit(10, 499), limit(10, 500), true),
        ] {
            assert_eq!(is_less(new, old), expected, "{new:?} {old:?}");
        }
    }
}
