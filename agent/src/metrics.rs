//! Metrics for Prometheus. Most are read from the report and the configuration at scrape time.

use crate::{
    kernel::neighbours::neighbour_table,
    objects::Family,
    probe::{OfPeering, SharedFigures},
    reconcile::Handle,
};
use cps_peering_config::{id::PeeringId, report::ProblemKind};
use cps_peering_http::{
    metrics::{Own, counter, counters, gauge, gauges},
    tls::Identity,
};
use cps_peering_otlp::Recorder;
use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{counter::Counter, family::Family as Labelled},
    registry::Registry,
};
use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Instant, UNIX_EPOCH},
};

/// What the handlers count, and everything that is exported.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pushes: Labelled<[(&'static str, &'static str); 1], Counter>,
    pub(crate) registry: Arc<Registry>,
}

impl Metrics {
    pub(crate) fn new(
        reconciler: Handle,
        probes: SharedFigures,
        identity: Option<Identity>,
        recorder: &Recorder,
    ) -> Self {
        let pushes = Labelled::default();
        // Exported from the start: to Prometheus, the first appearance of a counter is no increase.
        for outcome in ["accepted", "refused"] {
            drop(pushes.get_or_create(&[("outcome", outcome)]));
        }
        let mut registry = Registry::default();
        registry.register("cps_agent_pushes", "Configurations that were pushed, by outcome", pushes.clone());
        recorder.register(&mut registry, "cps_agent_trace_spans");
        let version = env!("CARGO_PKG_VERSION");
        registry.register_collector(Box::new(Own::new("cps_agent", version, identity)));
        registry.register_collector(Box::new(Figures { reconciler, probes }));
        Self { pushes, registry: Arc::new(registry) }
    }

    pub(crate) fn pushed(&self, accepted: bool) {
        self.pushes.get_or_create(&[("outcome", if accepted { "accepted" } else { "refused" })]).inc();
    }
}

/// The metrics from the report, and from probes.
struct Figures {
    reconciler: Handle,
    probes: SharedFigures,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    #[expect(clippy::cast_precision_loss, reason = "what is counted stays far below 2^52")]
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut out;
        let report = self.reconciler.report().borrow().clone();
        let counters = report.counters;
        counter(out, "cps_agent_passes", "How often the kernel was read and compared", counters.passes)?;
        counter(out, "cps_agent_operations", "Operations that the kernel carried out", counters.operations)?;
        counter(out, "cps_agent_failures", "Operations that the kernel refused", counters.failures)?;
        let help = "Operations that repaired changes by other programs";
        counter(out, "cps_agent_drift_repaired", help, counters.drift_repaired)?;
        let help = "How often the kernel dropped events because the buffer was full";
        counter(out, "cps_agent_events_lost", help, counters.events_lost)?;
        if let Some(pass) = report.last_pass {
            let help = "How long the last pass took";
            gauge(out, "cps_agent_last_pass_duration_seconds", help, pass.duration_us as f64 / 1e6)?;
            let help = "When the last pass ended, in seconds since 1970";
            gauge(out, "cps_agent_last_pass_timestamp_seconds", help, pass.ended_ms as f64 / 1e3)?;
        }
        let kinds = [ProblemKind::Failed, ProblemKind::Conflict, ProblemKind::Missing];
        let problems = kinds.map(|kind| {
            let count = report.problems.iter().filter(|problem| problem.kind == kind).count();
            ([("kind", kind.word())], count as f64)
        });
        gauges(out, "cps_agent_problems", "What is not as it should be, by kind", problems)?;
        let in_sync = if report.in_sync() { 1.0 } else { 0.0 };
        gauge(out, "cps_agent_in_sync", "Whether the kernel matches the configuration", in_sync)?;
        let revisions = [("desired", report.desired), ("applied", report.applied)];
        let revisions = revisions.into_iter().filter_map(|(which, it)| Some(([("state", which)], it?.number as f64)));
        gauges(out, "cps_agent_revision", "The number of the configuration's revision", revisions)?;
        let tables = Family::ALL.into_iter().filter_map(|family| neighbour_table(family).ok());
        let tables: Vec<_> =
            tables.map(|table| (if table.family == Family::V4 { "ipv4" } else { "ipv6" }, table)).collect();
        let entries = tables.iter().map(|(family, table)| ([("family", *family)], f64::from(table.entries)));
        gauges(out, "cps_agent_neighbours", "Entries of the kernel's neighbour table", entries)?;
        let limits = tables.iter().map(|(family, table)| ([("family", *family)], f64::from(table.limit)));
        let help = "Maximum number of entries of the kernel's neighbour table";
        gauges(out, "cps_agent_neighbours_limit", help, limits)?;
        let throttled = self.reconciler.throttled().load(Ordering::Relaxed);
        let help = "Ports, by family, that are throttled because too many neighbours behind them do not answer";
        gauge(out, "cps_agent_neighbours_throttled", help, throttled as f64)?;
        let help = "Age of the oldest pending write of a file to disk, 0 if there is none";
        gauge(out, "cps_agent_write_seconds", help, self.reconciler.writes().oldest().as_secs_f64())?;
        probes(out, &self.probes)?;
        let Some(config) = self.reconciler.config() else { return Ok(()) };
        gauge(out, "cps_agent_vrfs", "VPCs that this host is configured with", config.vrfs.len() as f64)?;
        gauge(out, "cps_agent_sides", "Sides of peerings that this host is configured with", config.sides.len() as f64)
    }
}

/// For how many peerings probe metrics are exported, in order of their names: each has six.
const MAX_PEERINGS: usize = 1000;

/// Probe metrics of peerings. Unknown values are absent.
#[expect(clippy::cast_precision_loss, reason = "what is counted stays far below 2^52")]
fn probes(out: &mut DescriptorEncoder<'_>, figures: &SharedFigures) -> fmt::Result {
    let (known, every, coverage) = {
        let figures = figures.lock();
        (figures.by_peering(MAX_PEERINGS), figures.every, figures.coverage(Instant::now()))
    };
    if let Some(every) = every {
        let help = "How often each path to a host of a peering is probed where there is room for it";
        gauge(out, "cps_agent_probe_interval_seconds", help, every.as_secs_f64())?;
    }
    if let Some(coverage) = coverage {
        let help = "Paths to hosts of peerings, by family, that are to be probed";
        gauge(out, "cps_agent_probe_paths", help, coverage.wanted as f64)?;
        let help =
            "Paths to hosts of peerings, by family, whose newest probe ended within five minutes and three intervals";
        gauge(out, "cps_agent_probe_paths_known", help, coverage.known as f64)?;
    }
    let of = |id: &PeeringId| [("peering", id.to_string())];
    let sent = known.iter().map(|(id, it)| (of(id), it.sent));
    counters(out, "cps_agent_probe_packets", "Probe packets sent to other hosts, by peering", sent)?;
    let lost = known.iter().map(|(id, it)| (of(id), it.lost));
    counters(
        out,
        "cps_agent_probe_lost",
        "Probe packets to other hosts that were lost and not too long, by peering",
        lost,
    )?;
    let worst = known.iter().filter_map(|(id, it)| Some((of(id), it.worst_loss?)));
    let help = "The part of the newest probe packets that is lost on the worst path of a peering, 0 to 1";
    gauges(out, "cps_agent_probe_worst_loss_ratio", help, worst)?;
    let times = known.iter().filter_map(|(id, it)| Some((of(id), it.round_trip?.as_secs_f64())));
    let help = "Round-trip time of the newest probe, of the slowest host of a peering";
    gauges(out, "cps_agent_probe_round_trip_seconds", help, times)?;
    let holes = known.iter().filter_map(|(id, it)| Some((of(id), f64::from(it.black_holes?))));
    let help = "Paths to hosts of a peering, by family, on which long packets are lost while short ones pass";
    gauges(out, "cps_agent_probe_mtu_black_holes", help, holes)?;
    let since = |it: &OfPeering| Some(it.at?.duration_since(UNIX_EPOCH).ok()?.as_secs_f64());
    let at = known.iter().filter_map(|(id, it)| Some((of(id), since(it)?)));
    let help = "When the oldest of a peering's probe values was measured, in seconds since 1970";
    gauges(out, "cps_agent_probe_timestamp_seconds", help, at)
}
