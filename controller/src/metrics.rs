//! Metrics for Prometheus. Those derived from the state are collected at each scrape; those recorded as things happen are in
//! [`instruments`](crate::instruments).

use crate::{
    engine::{Engine, Health, traffic::Totals},
    model::{
        peering::{STATE_WORDS, state_word},
        record::{Host, Peering},
        state::State,
    },
};
use cps_peering_config::{
    id::{HostId, PeeringId, VpcId},
    settings::EtcdSettings,
};
use cps_peering_http::{
    Places,
    metrics::{Certificates, Connections, Own, counters, gauge, gauges, seconds},
    tls::Identity,
};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Registry};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Weak},
};

/// All metrics of an engine.
pub fn registry(engine: &Arc<Engine>, identity: Option<Identity>) -> Registry {
    let metrics = engine.metrics();
    let mut registry = Registry::default();
    let help = "Pushes to agents and polls of their status, by outcome";
    registry.register("cps_controller_pushes", help, metrics.pushes.clone());
    let help = "Attempts to renew agents' certificates, by outcome";
    registry.register("cps_controller_certificate_renewals", help, metrics.renewals.clone());
    let help = "Requests refused because an account sent too many, or too many credentials from an address were wrong";
    registry.register("cps_controller_rate_limited", help, metrics.limited.clone());
    let help = "From a host's new configuration to the confirmation that its kernel has it";
    registry.register("cps_controller_convergence_seconds", help, metrics.convergence.clone());
    let help = "Time to commit a batch of commands to the store";
    registry.register("cps_controller_store_commit_seconds", help, metrics.commits.clone());
    let help = "Entries of the audit trail that were dropped, the oldest refusals first, for lack of space";
    registry.register("cps_controller_audit_dropped", help, metrics.audit_dropped.clone());
    let help = "Duration of requests, by method, route and code";
    registry.register("cps_controller_http_request_seconds", help, metrics.requests.clone());
    engine.traces().recorder().register(&mut registry, "cps_controller_trace_spans");
    let version = env!("CARGO_PKG_VERSION");
    registry.register_collector(Box::new(Own::new("cps_controller", version, identity)));
    registry.register_collector(Box::new(Figures(Arc::downgrade(engine))));
    registry
}

/// Adds the connections of clients.
pub fn connections(registry: &mut Registry, places: &Arc<Places>) {
    registry.register_collector(Box::new(Connections::new("cps_controller", Arc::clone(places))));
}

/// Adds the expiry of certificates for etcd; nothing if the store is a file.
pub fn store_certificates(registry: &mut Registry, etcd: Option<&EtcdSettings>) {
    registry.register_collector(Box::new(Certificates::new("cps_controller", certificates_for_store(etcd))));
}

/// The files of certificates for etcd, with their names; none if the store is a file.
pub fn certificates_for_store(etcd: Option<&EtcdSettings>) -> Vec<(&'static str, PathBuf)> {
    let tls = etcd.and_then(|etcd| etcd.tls.as_ref());
    let own = tls.and_then(|tls| Some(("own", tls.cert.clone()?)));
    tls.map(|tls| ("ca", tls.ca.clone())).into_iter().chain(own).collect()
}

/// The traffic of one side of a peering.
struct Passed {
    peering: String,
    vpc: String,
    totals: Totals,
}

impl Passed {
    fn labels(&self, direction: &'static str) -> [(&'static str, String); 3] {
        [("peering", self.peering.clone()), ("vpc", self.vpc.clone()), ("direction", direction.to_owned())]
    }
}

/// The metrics derived from the state.
struct Figures(Weak<Engine>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(engine) = self.0.upgrade() else { return Ok(()) };
        store(&engine, &mut out)?;
        hosts(&engine, &mut out)?;
        peerings(&engine, &mut out)?;
        traffic(&engine, &mut out)
    }
}

fn is(it: bool) -> f64 {
    f64::from(u8::from(it))
}

fn store(engine: &Engine, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    #[expect(clippy::cast_precision_loss, reason = "a figure of many bytes")]
    let bytes = |bytes: u64| bytes as f64;
    let help = "Size of the audit trail, in bytes";
    gauge(out, "cps_controller_audit_bytes", help, bytes(engine.trail_bytes()))?;
    let help = "Maximum size of the audit trail, in bytes; 0 for no limit";
    gauge(out, "cps_controller_audit_limit_bytes", help, bytes(engine.trail_limit_bytes()))?;
    let health = engine.health();
    let help = "Whether the store takes no writes; it is retried every second";
    gauge(out, "cps_controller_store_failed", help, is(matches!(health, Health::Failing(_))))?;
    let help = "Whether the store has so little space that only deletes, rejects and suspensions are accepted";
    gauge(out, "cps_controller_store_low_space", help, is(matches!(health, Health::Low(_))))?;
    if let Some(space) = engine.space() {
        let help = "Free space of the store, in bytes: on its disk, or in the quota of etcd";
        gauge(out, "cps_controller_store_free_bytes", help, bytes(space.free))?;
        let help = "Space reserved for deletes, rejects and suspensions, in bytes";
        gauge(out, "cps_controller_store_reserve_bytes", help, bytes(space.reserve))?;
    }
    // Followers export how recent their copies are.
    let help = "The number of the last commit in this controller's copy of the store";
    #[expect(clippy::cast_precision_loss, reason = "commits are far fewer than 2^52")]
    gauge(out, "cps_controller_copied_commit", help, engine.read(|state, _| state.meta().number) as f64)?;
    let help =
        "Whether nothing is sent to hosts, because the store was restored from a backup and has not been released";
    gauge(out, "cps_controller_held", help, is(engine.is_held()))?;
    let leap = engine.leap();
    let help =
        "Whether the machine's clock has jumped without being confirmed, so that nothing is deleted at its deadline";
    gauge(out, "cps_controller_clock_unconfirmed", help, is(leap.is_some()))?;
    #[allow(clippy::cast_precision_loss, reason = "seconds of some years")]
    let ahead_s = leap.map_or(0.0, |leap| (leap.by_ms / 1000) as f64);
    let help = "How far the machine's clock is ahead of the elapsed time while a jump is unconfirmed, in seconds";
    gauge(out, "cps_controller_clock_ahead_seconds", help, ahead_s)?;
    let help = "When the newest backup in the folder `backups` was made, in seconds since 1970; 0 if there is none";
    gauge(out, "cps_controller_last_backup_timestamp_seconds", help, engine.store().last_backup().map_or(0.0, seconds))
}

fn hosts(engine: &Engine, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    // In sync, reachable, in maintenance, held back.
    let hosts: Vec<(String, [bool; 4])> = engine.read(|state, agents| {
        let of = |host: &Host| {
            let waits = agents.is_only_held_back(host);
            (host.id.to_string(), [agents.in_sync(host), agents.is_current(&host.id), host.in_maintenance(), waits])
        };
        state.hosts().values().filter(|host| !host.dead).map(of).collect()
    });
    let mut counts = BTreeMap::from([("in_sync", 0_u32), ("out_of_sync", 0), ("held_back", 0), ("maintenance", 0)]);
    for (_, [in_sync, _, maintained, waits]) in &hosts {
        let word = match (*in_sync, *waits, *maintained) {
            (true, _, _) => "in_sync",
            (false, true, _) => "held_back",
            // Hosts in maintenance do not count against the objective (P5).
            (false, false, true) => "maintenance",
            (false, false, false) => "out_of_sync",
        };
        *counts.entry(word).or_default() += 1;
    }
    let values = counts.into_iter().map(|(word, count)| ([("state", word)], f64::from(count)));
    gauges(
        out,
        "cps_controller_hosts",
        "Hosts by state: in sync, held back by a rollout, in maintenance (and not in sync), or out of sync",
        values,
    )?;
    let help = "Whether a rollout is stopped, so that the hosts that do not have the change wait for an operator";
    let stopped = engine.read(|state, _| state.meta().rollout.is_some_and(|rollout| rollout.stopped));
    gauge(out, "cps_controller_rollout_stopped", help, is(stopped))?;
    let help = "Hosts that were removed as dead and answer again";
    let answering =
        engine.read(|state, agents| state.retiring().filter(|host| host.dead && agents.is_current(&host.id)).count());
    gauge(
        out,
        "cps_controller_removed_hosts_answering",
        help,
        f64::from(u32::try_from(answering).unwrap_or(u32::MAX)),
    )?;
    let not_renewed: Vec<(String, &'static str)> = {
        let all = engine.metrics().not_renewed();
        all.iter().map(|(host, result)| (host.to_string(), result.word())).collect()
    };
    let live: HashSet<&str> = hosts.iter().map(|(host, _)| host.as_str()).collect();
    let not_renewed = not_renewed.into_iter().filter(|(host, _)| live.contains(host.as_str()));
    let not_renewed = not_renewed.map(|(host, reason)| ([("host", host), ("reason", reason.to_owned())], 1.0));
    let help = "Hosts whose certificates are due and whose last renewal attempt failed, by reason";
    gauges(out, "cps_controller_certificate_not_renewed", help, not_renewed)?;
    let mut each = |name, help, which: usize| {
        gauges(out, name, help, hosts.iter().map(|(host, facts)| ([("host", host.as_str())], is(facts[which]))))
    };
    each("cps_controller_host_in_sync", "Whether the host's kernel is known to match its configuration", 0)?;
    each("cps_controller_host_reached", "Whether the host's agent answered the last poll", 1)?;
    each("cps_controller_host_maintenance", "Whether the host is in maintenance", 2)?;
    each("cps_controller_host_held_back", "Whether the host is held back by a rollout", 3)
}

fn peerings(engine: &Engine, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    // Exported from the start, also if there are none.
    let mut counts = BTreeMap::from(STATE_WORDS.map(|word| (word, 0_u32)));
    engine.read(|state, _| {
        for peering in state.peerings().values() {
            *counts.entry(state_word(&peering.state)).or_default() += 1;
        }
    });
    let values = counts.into_iter().map(|(word, count)| ([("state", word)], f64::from(count)));
    gauges(out, "cps_controller_peerings", "Peerings by state", values)?;
    let help = "Share of a peering's paths between hosts with an end in maintenance, if there is such a path";
    let shares = engine.read(|state, _| in_maintenance(state));
    let shares = shares.into_iter().map(|(peering, share)| ([("peering", peering)], share));
    gauges(out, "cps_controller_peering_maintenance_ratio", help, shares)
}

/// For peerings with hosts in maintenance, the share of the paths between hosts that have such an end.
fn in_maintenance(state: &State) -> BTreeMap<String, f64> {
    let worked_on = state.hosts().values().filter(|host| host.in_maintenance());
    let vpcs: BTreeSet<&VpcId> = worked_on.flat_map(|host| state.ports_on(&host.id)).map(|port| &port.vpc).collect();
    let peerings: BTreeMap<&PeeringId, &Peering> =
        vpcs.iter().flat_map(|vpc| state.peerings_of(vpc)).map(|it| (&it.id, it)).collect();
    let peerings: Vec<&Peering> = peerings.into_values().filter(|peering| peering.forwards()).collect();
    // Each VPC's hosts once, however many peerings it has, and whether they are in maintenance.
    let mut hosts: HashMap<&VpcId, BTreeMap<&HostId, bool>> = HashMap::new();
    for side in peerings.iter().flat_map(|peering| peering.sides()) {
        let in_use = |id: &HostId| !state.hosts().get(id).is_some_and(Host::in_maintenance);
        let of = |vpc| state.ports_of(vpc).map(|port| (&port.key.host, in_use(&port.key.host))).collect();
        hosts.entry(&side.vpc).or_insert_with(|| of(&side.vpc));
    }
    // No path leads from a host to itself.
    #[expect(clippy::cast_precision_loss, reason = "hosts are far fewer than 2^26")]
    let paths = |one: usize, two: usize, both: usize| (one * two - both) as f64;
    let share = |peering: &Peering| {
        let [one, two] = peering.sides().map(|side| &hosts[&side.vpc]);
        let both = || one.iter().filter(|(id, _)| two.contains_key(*id)).map(|(_, in_use)| *in_use);
        let left = |hosts: &BTreeMap<&HostId, bool>| hosts.values().filter(|in_use| **in_use).count();
        let all = paths(one.len(), two.len(), both().count());
        let left = paths(left(one), left(two), both().filter(|in_use| *in_use).count());
        (all > 0.0).then(|| 1.0 - left / all)
    };
    peerings.into_iter().filter_map(|it| Some((it.id.to_string(), share(it)?))).collect()
}

fn traffic(engine: &Engine, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let counted = engine.traffic().all();
    let counted: Vec<Passed> = engine.read(|state, _| {
        let passed = counted.into_iter().filter_map(|(id, vni, totals)| {
            let side = state.peerings().get(&id)?.sides().into_iter().find(|side| side.vni == Some(vni))?;
            Some(Passed { peering: id.to_string(), vpc: side.vpc.to_string(), totals })
        });
        passed.collect()
    });
    let both = |passed: &Passed, count: fn(&Totals) -> [u64; 2]| {
        let [sent, received] = count(&passed.totals);
        [(passed.labels("sent"), sent), (passed.labels("received"), received)]
    };
    let help = "Traffic of a VPC's hosts with its peer, in bytes of Ethernet frames";
    let bytes = counted.iter().flat_map(|it| both(it, |totals| [totals.sent.bytes, totals.received.bytes]));
    counters(out, "cps_controller_peering_bytes", help, bytes)?;
    let help = "Traffic of a VPC's hosts with its peer, in packets";
    let packets = counted.iter().flat_map(|it| both(it, |totals| [totals.sent.packets, totals.received.packets]));
    counters(out, "cps_controller_peering_packets", help, packets)?;
    let help = "Packets of a VPC's hosts to its peer that were dropped because they exceeded the bandwidth";
    let dropped = counted.iter().map(|it| (it.labels("sent"), it.totals.dropped));
    counters(out, "cps_controller_peering_dropped_packets", help, dropped)
}
