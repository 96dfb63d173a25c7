//! Which hosts get a change first, where it concerns many. Pure.
//!
//! What an operator's document or the release of a restored store gives to many hosts goes to a few of them first, the canaries. A host
//! waits only where it gets more than it had, and where nothing of the VPCs concerned is taken from any host or moves between them: what
//! is taken away is never late, and what moves would be nowhere while one end waits. What a tenant commands goes at once to each host that
//! it changes, with all that the host waits for.

use super::HostTarget;
use crate::model::{
    Command, Transaction,
    host::{Change as HostChange, What},
    record::{Host, Pacing},
    rollout::Rollout,
    state::{Change, Meta, State},
};
use cps_peering_config::{
    SharedHostConfig,
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
    /// How many hosts get a change first; 0: all get it at once.
    pub canary_hosts: usize,
    /// A change goes to some hosts first where it gives something to more than so many.
    pub canary_above: usize,
    /// For how long these must be well with it before the others get it.
    pub canary_watch: Duration,
    /// How long that may take before the others wait for an operator.
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
pub(super) enum Manner {
    /// Some hosts first, where they are many.
    Paced,
    /// The same, for every host there is, whether its plan changes or not.
    AllPaced,
    /// Hosts that wait go on waiting.
    Unhurried,
    /// At once.
    AtOnce,
}

impl Manner {
    pub(super) fn of(command: &Command) -> Self {
        match command {
            Command::Apply(_) => Self::Paced,
            Command::Release => Self::AllPaced,
            Command::Host(HostChange { what: What::Remove(_) | What::Replace { .. }, .. }) => Self::AtOnce,
            Command::Host(_)
            | Command::Activate(_)
            | Command::Drained(_)
            | Command::Forget(_)
            | Command::LearnMtu(..)
            | Command::ConfirmClock
            | Command::Rollout(_)
            | Command::RecordSignature => Self::Unhurried,
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
            | Command::Webhook(_)
            | Command::Tick => Self::AtOnce,
        }
    }
}

/// What paces a commit.
pub(super) struct Pace<'a> {
    pub(super) manner: Manner,
    pub(super) pushes: Pushes,
    /// Whether a host that gets a change first would tell anything: it is well, or new.
    pub(super) tells: &'a dyn Fn(&Host) -> bool,
    pub(super) now_ms: u64,
}

/// A host that must have something else than before.
pub(super) struct Replanned {
    pub(super) before: Option<Arc<SharedHostConfig>>,
    pub(super) after: Arc<SharedHostConfig>,
}

/// What differs between two configurations of a host.
#[derive(Debug, Default)]
struct Differs {
    /// The VPCs of which anything is there no more, or elsewhere.
    lost: BTreeSet<VpcId>,
    /// The VPCs of which anything differs.
    changed: BTreeSet<VpcId>,
    /// Whether anything is less, though nothing is gone: a share of a bandwidth.
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

/// But for how much may be sent.
fn has_all_of_side(new: &SideConfig, old: &SideConfig) -> bool {
    // Gateways are what probes are sent to, and nothing else.
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
        // With its address everything of the host is elsewhere.
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
            peering.into_iter().flat_map(|peering| peering.sides()).map(|side| side.vpc.clone()).collect()
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

/// Some of those who could be the first, from each kind in turn: hosts of different regions, those that had something before and those
/// that had nothing. The same for the same hosts.
fn canaries(candidates: &BTreeMap<HostId, (RegionId, bool)>, count: usize) -> BTreeSet<HostId> {
    let mut kinds: BTreeMap<&(RegionId, bool), Vec<&HostId>> = BTreeMap::new();
    for (host, kind) in candidates {
        kinds.entry(kind).or_default().push(host);
    }
    let per_kind = count.div_ceil(kinds.len().max(1));
    // Spread over the names: neighbours often stand in one rack.
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

/// How a host's target is told to its worker.
pub(super) fn target(host: &Host, config: Arc<SharedHostConfig>) -> Arc<HostTarget> {
    Arc::new(HostTarget { agent: host.agent.clone(), config, paused: host.paused, pacing: host.pacing })
}

impl Transaction<'_> {
    /// Says which hosts wait for others. `replanned` are those that must have something else than before.
    pub(super) fn pace(&mut self, number: u64, replanned: &BTreeMap<HostId, Replanned>, pace: &Pace<'_>) {
        let differences: BTreeMap<&HostId, Differs> = {
            // Only then anybody waits.
            let matters = pace.manner != Manner::AtOnce || self.state.meta().rollout.is_some();
            let states = [&*self.state, self.before()];
            let of = |it: &Replanned| Differs::between(states, it.before.as_deref(), &it.after);
            replanned.iter().filter(|_| matters).map(|(id, it)| (id, of(it))).collect()
        };
        let lost: BTreeSet<&VpcId> = differences.values().flat_map(|it| &it.lost).collect();
        let may_wait = |id: &HostId| {
            let differs = differences.get(id);
            differs.is_none_or(|it| !it.less && it.lost.is_empty() && it.changed.iter().all(|vpc| !lost.contains(vpc)))
        };
        let held: BTreeSet<HostId> = match self.state.meta().rollout {
            Some(_) => self.state.hosts().values().filter(|it| it.is_held_back()).map(|it| it.id.clone()).collect(),
            None => BTreeSet::new(),
        };
        let new: BTreeSet<HostId> = match pace.manner {
            Manner::AtOnce | Manner::Unhurried => BTreeSet::new(),
            Manner::Paced => {
                let gets = differences.iter().filter(|(id, it)| !it.changed.is_empty() && may_wait(id));
                gets.map(|(id, _)| (*id).clone()).collect()
            }
            Manner::AllPaced => self.state.hosts().keys().cloned().collect(),
        };
        let in_use = |id: &HostId| self.state.hosts().get(id).filter(|host| !host.retiring);
        let new: BTreeSet<HostId> = new.into_iter().filter(|id| in_use(id).is_some()).collect();
        let at_once = |id: &HostId| pace.manner == Manner::AtOnce && differences.contains_key(id);
        // One that goes is emptied now.
        let stay = |id: &&HostId| !at_once(id) && may_wait(id) && in_use(id).is_some();
        let stays: BTreeSet<HostId> = held.iter().filter(stay).cloned().collect();
        let begins = pace.pushes.canary_hosts > 0 && new.difference(&stays).count() > pace.pushes.canary_above;
        let before = self.before().hosts().clone();
        let mut roles: BTreeMap<HostId, Option<Pacing>> = BTreeMap::new();
        if begins {
            let all: BTreeSet<HostId> = new.union(&stays).cloned().collect();
            let had_something = |id: &HostId| before.get(id).is_some_and(|host| host.config_number > 0);
            let kind = |id: &HostId| in_use(id).map(|host| (id.clone(), (host.region.clone(), !had_something(id))));
            let (fit, other): (Vec<&HostId>, Vec<&HostId>) =
                all.iter().partition(|id| in_use(id).is_some_and(|host| (pace.tells)(host)));
            // One that is away tells nothing; where all are, the others wait.
            let candidates = if fit.is_empty() { other } else { fit };
            let first = canaries(&candidates.into_iter().filter_map(kind).collect(), pace.pushes.canary_hosts);
            let former = self.state.hosts().values().filter(|host| host.pacing.is_some());
            roles.extend(former.map(|host| (host.id.clone(), None)));
            roles.extend(all.into_iter().map(|id| {
                let role = if first.contains(&id) { Pacing::Canary } else { Pacing::Held };
                (id, Some(role))
            }));
        } else {
            roles.extend(held.into_iter().filter(|id| !stays.contains(id)).map(|id| (id, None)));
            if pace.manner == Manner::AllPaced {
                let former = self.state.hosts().values().filter(|host| host.pacing.is_some());
                roles.extend(former.map(|host| (host.id.clone(), None)));
            }
        }
        for (id, pacing) in roles {
            if let Some(host) = self.state.hosts().get(&id).filter(|host| host.pacing != pacing).cloned() {
                self.change(Change::Host(id, Some(Host { pacing, ..host })));
            }
        }
        let meta = self.state.meta();
        let rollout = match (begins, pace.manner) {
            (true, _) => Some(Rollout { number, begun_ms: pace.now_ms, stopped: false }),
            (false, Manner::AllPaced) => None,
            (false, _) => meta.rollout,
        };
        if rollout != meta.rollout {
            self.change(Change::Meta(Meta { rollout, ..meta }));
        }
    }
}
