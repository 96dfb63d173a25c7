//! Routes through next hops: there may be a million of them, so they stay where they are, in the configuration.

use super::{DesiredRoute, RouteKey, RouteTo};
use cps_peering_config::host_config::{SideConfig, VrfConfig};
use ipnet::IpNet;
use std::{net::IpAddr, sync::Arc};

/// The prefixes behind one next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The routing table.
    pub table: u32,
    /// The next hop's index in [`Desired::nexthops`](super::Desired::nexthops).
    pub nexthop: u32,
    /// Where the prefixes are.
    pub source: Source,
    /// The other host's VTEP address.
    pub vtep: IpAddr,
}

/// The part of a configuration that lists prefixes by host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A VPC.
    Vrf(Arc<VrfConfig>),
    /// A side of a peering.
    Side(Arc<SideConfig>),
}

impl Run {
    fn prefixes(&self) -> &[IpNet] {
        let remotes = match &self.source {
            Source::Vrf(vrf) => &vrf.remotes,
            Source::Side(side) => &side.remotes,
        };
        remotes.get(&self.vtep).map(Vec::as_slice).unwrap_or_default()
    }

    fn routes(&self) -> impl Iterator<Item = DesiredRoute> {
        let (table, to) = (self.table, RouteTo::Nexthop(self.nexthop));
        self.prefixes().iter().map(move |prefix| DesiredRoute { key: RouteKey::unicast(table, *prefix), to })
    }

    /// The first prefix and the last one, with the table in front of them.
    fn ends(&self) -> Option<((u32, IpNet), (u32, IpNet))> {
        let prefixes = self.prefixes();
        Some(((self.table, *prefixes.first()?), (self.table, *prefixes.last()?)))
    }
}

/// Routes through next hops, sorted by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// One run after the other.
    Runs(Vec<Run>),
    /// Runs that were not sorted, or that overlap.
    List(Vec<DesiredRoute>),
}

impl Default for Remote {
    fn default() -> Self {
        Self(Form::Runs(Vec::new()))
    }
}

impl Remote {
    /// All routes of these runs.
    pub fn new(mut runs: Vec<Run>) -> Self {
        runs.retain(|run| !run.prefixes().is_empty());
        runs.sort_by_key(Run::ends);
        let apart =
            runs.windows(2).all(|pair| pair[0].ends().map(|(_, last)| last) < pair[1].ends().map(|(first, _)| first));
        if apart && runs.iter().all(|run| run.prefixes().is_sorted()) {
            return Self(Form::Runs(runs));
        }
        let mut list = Vec::with_capacity(runs.iter().map(|run| run.prefixes().len()).sum());
        list.extend(runs.iter().flat_map(Run::routes));
        // They come in long sorted runs: this sort exploits that.
        list.sort();
        Self(Form::List(list))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Runs(runs) => runs.iter().map(|run| run.prefixes().len()).sum(),
            Form::List(list) => list.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = DesiredRoute> {
        let (runs, list) = match &self.0 {
            Form::Runs(runs) => (runs.as_slice(), [].as_slice()),
            Form::List(list) => ([].as_slice(), list.as_slice()),
        };
        runs.iter().flat_map(Run::routes).chain(list.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::host_config::{Ports, Remotes};
    use proptest::prelude::*;

    fn run(table: u32, nexthop: u32, prefixes: &[&str]) -> Run {
        let vtep = IpAddr::from([192, 0, 2, 2]);
        let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
        let vrf = VrfConfig {
            vni: 10.try_into().unwrap(),
            ports: Ports::default(),
            remotes: Remotes::from_iter([(vtep, prefixes)]),
            path_mtu: None,
            shared_gateways: Vec::new(),
        };
        Run { table, nexthop, source: Source::Vrf(Arc::new(vrf)), vtep }
    }

    fn is_listed(remote: &Remote) -> bool {
        matches!(remote.0, Form::List(_))
    }

    #[test]
    fn runs_behind_each_other_are_not_copied() {
        let remote = Remote::new(vec![
            run(7, 2, &["10.2.0.0/24", "fd00::/64"]),
            run(8, 3, &["10.0.0.0/24"]),
            run(8, 5, &[]),
            run(7, 1, &["10.1.0.0/24", "10.1.1.0/24"]),
        ]);
        let found: Vec<(u32, RouteTo)> = remote.iter().map(|route| (route.key.table, route.to)).collect();
        let expected = [(7, 1), (7, 1), (7, 2), (7, 2), (8, 3)].map(|(table, place)| (table, RouteTo::Nexthop(place)));
        assert_eq!((found.as_slice(), remote.len(), is_listed(&remote)), (expected.as_slice(), 5, false));
        assert!(is_listed(&Remote::new(vec![run(7, 1, &["10.2.0.0/24", "10.1.0.0/24"])])));
        assert!(is_listed(&Remote::new(vec![run(7, 1, &["10.1.0.0/24", "10.3.0.0/24"]), run(7, 2, &["10.2.0.0/24"])])));
        assert!(is_listed(&Remote::new(vec![run(7, 1, &["10.1.0.0/24", "fd00::/64"]), run(7, 2, &["10.2.0.0/24"])])));
    }

    proptest! {
        #[test]
        fn they_are_sorted_and_complete(runs in proptest::collection::vec((0u32..3, proptest::collection::vec(any::<u8>(), 0..6)), 0..6)) {
            let runs: Vec<Run> = runs.into_iter().enumerate().map(|(place, (table, numbers))| {
                let texts: Vec<String> = numbers.iter().map(|number| format!("10.{number}.0.0/16")).collect();
                run(table, place.try_into().unwrap(), &texts.iter().map(String::as_str).collect::<Vec<_>>())
            }).collect();
            let mut expected: Vec<DesiredRoute> = runs.iter().flat_map(Run::routes).collect();
            expected.sort();
            let remote = Remote::new(runs);
            prop_assert_eq!(remote.len(), expected.len());
            let found: Vec<RouteKey> = remote.iter().map(|route| route.key).collect();
            prop_assert_eq!(found, expected.iter().map(|route| route.key).collect::<Vec<_>>());
        }
    }
}
