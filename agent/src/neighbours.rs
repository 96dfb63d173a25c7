//! Keeps a tenant from filling the kernel's neighbour tables, which all tenants share.
//!
//! Each destination address takes an entry, whether it answers or not, and a scan of a prefix takes thousands. The
//! kernel evicts failed entries as soon as it needs room, but not those that it is still soliciting: three seconds
//! each. So
//!
//! 1. the tables are as large as what the host carries may need, and a good deal larger;
//! 2. a port behind which very many addresses do not answer solicits once, and for a tenth of a second: servers answer
//!    much faster, and a scan takes a thirtieth of the room;
//! 3. a port where that is not enough resolves no new addresses for a while. Those already known stay reachable.
//!
//! Nor does the kernel evict for five seconds what a server's own messages have entered: a filter limits the rate of
//! these ([`NEIGHBOURS`]), and the tables have room for those of all ports.
//!
//! Only the port that has too many is affected. [`Throttle`] is pure.

use crate::{
    filter::NEIGHBOURS,
    kernel::{
        Interest, KernelError,
        neighbours::{self, NeighbourTable, Solicitation, Unresolved},
    },
    objects::Family,
    reassembly,
    reconcile::Handle,
};
use cps_peering_config::SharedHostConfig;
use ipnet::IpNet;
use nix::net::if_::if_indextoname;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

/// How often the tables' fill level is read. A scan of 5 000 addresses per second takes 1 000 entries between two
/// readings.
const EVERY: Duration = Duration::from_millis(200);
/// How often the size of the tables is compared with what the host carries.
const RESIZE_EVERY: Duration = Duration::from_secs(5);
/// The smallest limit of a table that the agent leaves, in entries: some 30 MB of kernel memory when full.
const SMALLEST: u32 = 1 << 16;
/// The largest limit that it sets.
const LARGEST: u32 = 1 << 20;
/// At most this many servers are counted for one prefix.
const MOST_OF_A_PREFIX: u32 = 4096;
/// The most entries of one port that its servers' own messages create and the kernel does not evict for others.
const ENTERED: u32 = NEIGHBOURS.burst + 5 * NEIGHBOURS.per_second;
/// How long a port stays throttled after it was last seen to have too many.
const HOLD: Duration = Duration::from_secs(5);
/// Lists of neighbours take at most one part in this many of the time.
const SHARE_OF_TIME: u32 = 20;
/// The longest time between two lists while a table fills.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The limit of a family's table for what a host carries.
pub fn limit(config: &SharedHostConfig, family: Family) -> u32 {
    let ports = || config.vrfs.values().flat_map(|vrf| vrf.ports.values());
    let prefixes = ports().flat_map(|port| &port.prefixes);
    let servers = prefixes.filter(|prefix| Family::of(prefix) == family).map(servers);
    let servers = servers.fold(0u32, u32::saturating_add);
    let entered = ports().fold(0u32, |entered, _| entered.saturating_add(ENTERED));
    SMALLEST.saturating_add(servers.saturating_mul(2)).saturating_add(entered).min(LARGEST)
}

fn servers(prefix: &IpNet) -> u32 {
    let bits = u32::from(prefix.max_prefix_len() - prefix.prefix_len());
    1u32.checked_shl(bits).unwrap_or(MOST_OF_A_PREFIX).min(MOST_OF_A_PREFIX)
}

/// How a port may solicit neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Usual,
    Brief,
    None,
}

impl Level {
    /// `usual` is that of devices without settings of their own.
    fn solicitation(self, usual: Solicitation) -> Solicitation {
        match self {
            Level::Usual => usual,
            Level::Brief => Solicitation { probes: 1, interval_ms: 100 },
            Level::None => Solicitation { probes: 0, interval_ms: 100 },
        }
    }
}

/// A port and a family.
type Place = (u32, Family);

/// Decides how ports may solicit.
#[derive(Debug, Default)]
struct Throttle {
    held: BTreeMap<Place, Held>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    level: Level,
    until: Instant,
}

/// How many neighbours of a port do not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    incomplete: u32,
    failed: u32,
}

/// A change for a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    place: Place,
    level: Level,
}

/// Whether a table is so full that it matters who fills it.
fn is_filling(table: &NeighbourTable) -> bool {
    table.entries > table.limit / 4
}

impl Throttle {
    /// The changes that follow from a table's content. `counts` covers the ports that have something in it; it is empty
    /// if the table is not filling.
    fn decide(&mut self, table: &NeighbourTable, counts: &BTreeMap<u32, Count>, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        // Failed entries make room as soon as it is needed. The less room there is, the sooner a port has too many,
        // also if many ports contribute.
        let failed = counts.values().map(|count| count.failed).fold(0, u32::saturating_add);
        let room = table.limit.saturating_sub(table.entries.saturating_sub(failed));
        let most = (room / 4).max(table.limit / 64);
        let most_incomplete = (room / 2).max(table.limit / 32);
        for (port, count) in counts {
            let place = (*port, table.family);
            let held = self.held.get(&place).copied();
            let level = held.map_or(Level::Usual, |held| held.level);
            let many = count.incomplete.saturating_add(count.failed) > most;
            let wanted = match level {
                Level::Usual if count.incomplete > most_incomplete && room < table.limit / 4 => Level::None,
                // With brief solicitation a scan takes a thirtieth: if there are still so many, they arrive thirty
                // times as fast.
                Level::Brief if count.incomplete > most_incomplete => Level::None,
                Level::Usual if many => Level::Brief,
                level => level,
            };
            if wanted > level {
                steps.push(Step { place, level: wanted });
            }
            if wanted > Level::Usual && (wanted > level || many) {
                self.held.insert(place, Held { level: wanted, until: now + HOLD });
            }
        }
        let over: Vec<Place> = self
            .held
            .iter()
            .filter(|((_, family), held)| *family == table.family && held.until <= now)
            .map(|(place, _)| *place)
            .collect();
        for place in over {
            self.held.remove(&place);
            steps.push(Step { place, level: Level::Usual });
        }
        steps
    }
}

fn usual(family: Family) -> Solicitation {
    neighbours::solicitation("default", family).unwrap_or(Solicitation::USUAL)
}

/// Starts the thread.
pub fn start(reconciler: Handle) -> io::Result<()> {
    let watch = move || {
        let interest = reconciler.interest();
        let mut throttle = Throttle::default();
        let mut tables = Tables::default();
        loop {
            if tables.resize(&reconciler) {
                tables.take_over(&interest.ports(), &mut throttle);
            }
            for family in Family::ALL {
                if let Err(error) = tables.check(family, &interest, &mut throttle) {
                    tracing::debug!(%error, "the neighbour table could not be read");
                }
            }
            reconciler.throttled().store(throttle.held.len(), Ordering::Relaxed);
            thread::sleep(EVERY);
        }
    };
    thread::Builder::new().name("neighbours".into()).spawn(watch).map(drop)
}

#[derive(Default)]
struct Tables {
    resized: Option<Instant>,
    told: bool,
    told_fragments: bool,
    /// When each family's list may be read again.
    next: BTreeMap<Family, Instant>,
    /// Ports that have been checked for throttling by a previous agent.
    known: BTreeSet<u32>,
}

impl Tables {
    /// False if it is not time yet.
    fn resize(&mut self, reconciler: &Handle) -> bool {
        if self.resized.is_some_and(|before| before.elapsed() < RESIZE_EVERY) {
            return false;
        }
        let Some(config) = reconciler.config() else { return false };
        self.resized = Some(Instant::now());
        for family in Family::ALL {
            let limit = limit(&config, family);
            let problem = match neighbours::raise(family, limit) {
                Ok(true) => continue,
                Ok(false) => "only the kernel's first network namespace may".to_owned(),
                Err(error) => error.to_string(),
            };
            if !std::mem::replace(&mut self.told, true) {
                tracing::warn!(?family, limit, problem, "the neighbour table is not enlarged");
            }
        }
        let threshold = reassembly::threshold(&config);
        for family in Family::ALL {
            if let Err(error) = reassembly::raise(family, threshold)
                && !std::mem::replace(&mut self.told_fragments, true)
            {
                tracing::warn!(?family, threshold, %error, "the memory for fragments is not enlarged");
            }
        }
        true
    }

    /// Ports that a previous agent has throttled stay so for a while, and are then released.
    fn take_over(&mut self, ports: &BTreeSet<u32>, throttle: &mut Throttle) {
        self.known.retain(|port| ports.contains(port));
        for port in ports {
            if !self.known.insert(*port) {
                continue;
            }
            let Ok(name) = if_indextoname(*port) else { continue };
            for family in Family::ALL {
                let Some(found) = neighbours::solicitation(&name.to_string_lossy(), family) else { continue };
                let levels = [Level::Brief, Level::None];
                let level = levels.into_iter().find(|level| found == level.solicitation(usual(family)));
                throttle
                    .held
                    .extend(level.map(|level| ((*port, family), Held { level, until: Instant::now() + HOLD })));
            }
        }
    }

    fn check(&mut self, family: Family, interest: &Interest, throttle: &mut Throttle) -> Result<(), KernelError> {
        let now = Instant::now();
        let table = neighbours::neighbour_table(family)?;
        let mut list = Vec::new();
        if is_filling(&table) && self.next.get(&family).is_none_or(|next| *next <= now) {
            let ports = interest.ports();
            list = neighbours::unresolved(family)?;
            list.retain(|entry| ports.contains(&entry.device));
            self.next.insert(family, now + (now.elapsed() * SHARE_OF_TIME).min(LONGEST_PAUSE));
        }
        let steps = throttle.decide(&table, &count(&list), now);
        for step in steps {
            let (port, family) = step.place;
            // It may be gone.
            let Ok(name) = if_indextoname(port) else { continue };
            let name = name.to_string_lossy();
            match neighbours::set_solicitation(&name, family, step.level.solicitation(usual(family))) {
                Ok(()) if step.level == Level::Usual => {
                    tracing::info!(port = %name, ?family, "neighbours: solicited as usual again");
                }
                Ok(()) => {
                    tracing::warn!(port = %name, ?family, level = ?step.level, "neighbours: too many do not answer");
                }
                Err(error) => tracing::warn!(port = %name, %error, "the port cannot be kept from filling the table"),
            }
            if step.level > Level::Usual {
                // They would be solicited as before.
                let of_port: Vec<Unresolved> = list.iter().filter(|entry| entry.device == port).copied().collect();
                neighbours::forget(&of_port)?;
            }
        }
        Ok(())
    }
}

fn count(list: &[Unresolved]) -> BTreeMap<u32, Count> {
    let mut counts: BTreeMap<u32, Count> = BTreeMap::new();
    for entry in list {
        let count = counts.entry(entry.device).or_default();
        if entry.incomplete {
            count.incomplete += 1;
        } else {
            count.failed += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::HostConfig;

    const SCANNED: Place = (7, Family::V4);

    fn table(entries: u32) -> NeighbourTable {
        NeighbourTable { family: Family::V4, entries, limit: 1024 }
    }

    fn counts(incomplete: u32, failed: u32) -> BTreeMap<u32, Count> {
        [(7, Count { incomplete, failed }), (8, Count { incomplete: 20, failed: 0 })].into()
    }

    #[test]
    fn the_port_that_fills_the_table_is_throttled_and_others_are_not() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut throttle = Throttle::default();
        assert_eq!(throttle.decide(&table(400), &counts(100, 20), at(0)), []);
        let brief = Step { place: SCANNED, level: Level::Brief };
        assert_eq!(throttle.decide(&table(400), &counts(300, 0), at(0)), [brief]);
        assert_eq!(throttle.decide(&table(1000), &counts(200, 700), at(1)), [], "what has failed is given up anyway");
        let none = Step { place: SCANNED, level: Level::None };
        assert_eq!(throttle.decide(&table(1000), &counts(600, 300), at(2)), [none]);
        assert_eq!(throttle.decide(&table(1000), &counts(0, 900), at(3)), []);
    }

    #[test]
    fn many_ports_that_fill_the_table_together_are_all_found() {
        let begin = Instant::now();
        let mut throttle = Throttle::default();
        let counts: BTreeMap<u32, Count> =
            (1..=20).map(|port| (port, Count { incomplete: 45, failed: 0 })).chain([(21, Count::default())]).collect();
        let steps = throttle.decide(&table(950), &counts, begin);
        assert!(steps.len() == 20 && steps.iter().all(|step| step.level == Level::None), "{steps:?}");
    }

    #[test]
    fn a_port_is_released_when_it_is_quiet() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let usual = Step { place: SCANNED, level: Level::Usual };
        let mut throttle = Throttle::default();
        throttle.decide(&table(400), &counts(300, 0), at(0));
        for second in 1..20 {
            assert_eq!(throttle.decide(&table(1000), &counts(60, 900), at(second)), [], "it goes on");
        }
        assert_eq!(throttle.decide(&table(10), &BTreeMap::new(), at(23)), []);
        assert_eq!(throttle.decide(&table(10), &BTreeMap::new(), at(25)), [usual]);
        assert!(throttle.held.is_empty());
    }

    #[test]
    fn what_a_host_carries_makes_its_table_larger() {
        let of = |prefixes: &str| -> HostConfig {
            let text = format!(
                r#"{{ "revision": {{ "epoch": 1, "number": 1 }}, "host": "h1", "underlay": "192.0.2.1", "sides": {{}},
                     "vrfs": {{ "vpc-a": {{ "vni": 10, "ports": {{ "eth1": {{ "gateways": [], "prefixes": [{prefixes}] }} }} }} }} }}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let limits = |prefixes: &str| Family::ALL.map(|family| limit(&of(prefixes).into(), family) - SMALLEST - 4500);
        assert_eq!(limits(""), [0, 0]);
        assert_eq!(limits(r#""10.1.0.0/24""#), [512, 0]);
        assert_eq!(limits(r#""10.0.0.0/8", "10.1.0.0/24", "fd00::/64", "fd01::1/128""#), [8704, 8194]);
    }
}
