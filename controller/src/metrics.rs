//! Figures for Prometheus. What the state says is counted when somebody asks.

use crate::{
    engine::Engine,
    model::record::{End, PeeringState},
    traffic::Totals,
};
use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use cps_peering_http::{
    metrics::{Own, counters, gauges},
    tls::Identity,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The host has all of it in its kernel.
    Confirmed,
    /// The agent has it, and the kernel not yet.
    Behind,
    /// The agent could not be reached, or refused.
    Failed,
}

impl Pushed {
    fn word(self) -> &'static str {
        match self {
            Pushed::Confirmed => "confirmed",
            Pushed::Behind => "behind",
            Pushed::Failed => "failed",
        }
    }
}

/// Which requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: String,
    /// The template, such as `/v1/regions/{regionId}/vpcs`: one value, however many VPCs there are.
    route: String,
    code: u16,
}

/// What is measured while it happens. Clones share it.
#[derive(Debug, Clone)]
pub struct Metrics {
    pushes: Family<[(&'static str, &'static str); 1], Counter>,
    convergence: Histogram,
    commits: Histogram,
    requests: Family<Asked, Histogram>,
}

/// From a millisecond to half a minute.
const SECONDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

impl Default for Metrics {
    fn default() -> Self {
        let pushes = Family::default();
        // Shown from the start: an increase from nothing is no increase to Prometheus.
        for outcome in [Pushed::Confirmed, Pushed::Behind, Pushed::Failed] {
            drop(pushes.get_or_create(&[("outcome", outcome.word())]));
        }
        Self {
            pushes,
            convergence: histogram(),
            commits: histogram(),
            requests: Family::new_with_constructor(histogram as fn() -> Histogram),
        }
    }
}

impl Metrics {
    pub(crate) fn pushed(&self, outcome: Pushed) {
        self.pushes.get_or_create(&[("outcome", outcome.word())]).inc();
    }

    pub(crate) fn converged(&self, lag: Duration) {
        self.convergence.observe(lag.as_secs_f64());
    }

    pub(crate) fn committed(&self, took: Duration) {
        self.commits.observe(took.as_secs_f64());
    }

    /// Everything that is shown of an engine.
    pub fn registry(engine: &Arc<Engine>, identity: Option<Identity>) -> Registry {
        let metrics = engine.metrics();
        let mut registry = Registry::default();
        let help = "Pushes to agents, and questions how they stand, by outcome";
        registry.register("cps_controller_pushes", help, metrics.pushes.clone());
        let help = "From a host's new configuration to the confirmation that its kernel has it";
        registry.register("cps_controller_convergence_seconds", help, metrics.convergence.clone());
        let help = "How long the store took to make a command's changes durable";
        registry.register("cps_controller_store_commit_seconds", help, metrics.commits.clone());
        let help = "How long requests took, by method, route and code";
        registry.register("cps_controller_http_request_seconds", help, metrics.requests.clone());
        let version = env!("CARGO_PKG_VERSION");
        registry.register_collector(Box::new(Own { prefix: "cps_controller", version, identity }));
        registry.register_collector(Box::new(Figures(Arc::downgrade(engine))));
        registry
    }
}

/// Measures a request.
pub(crate) async fn measure(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().as_str().to_owned();
    // Paths and methods that nobody serves are the client's choice, and could be any number.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let method = if route == "other" { "other".to_owned() } else { method };
    let answer = next.run(request).await;
    let asked = Asked { method, route, code: answer.status().as_u16() };
    metrics.requests.get_or_create(&asked).observe(began.elapsed().as_secs_f64());
    answer
}

/// All that [`word`] says.
const STATES: [&str; 8] =
    ["pending", "provisioning", "active", "suspended", "draining", "rejected", "expired", "peer_deleted"];

fn word(state: &PeeringState) -> &'static str {
    match state {
        PeeringState::Pending => "pending",
        PeeringState::Provisioning => "provisioning",
        PeeringState::Active => "active",
        PeeringState::Suspended { .. } => "suspended",
        PeeringState::Draining { .. } => "draining",
        PeeringState::Ended { how: End::Rejected, .. } => "rejected",
        PeeringState::Ended { how: End::Expired, .. } => "expired",
        PeeringState::Ended { how: End::Deleted, .. } => "peer_deleted",
    }
}

/// What has passed for one side of a peering.
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

/// What the state says.
struct Figures(Weak<Engine>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(engine) = self.0.upgrade() else { return Ok(()) };
        let (hosts, peerings) = engine.read(|state, agents| {
            let (all, in_sync) = (state.hosts().len(), agents.count_in_sync());
            let mut peerings = BTreeMap::from(STATES.map(|word| (word, 0_u32)));
            for peering in state.peerings().values() {
                *peerings.entry(word(&peering.state)).or_default() += 1;
            }
            ([("in_sync", in_sync), ("out_of_sync", all - in_sync)], peerings)
        });
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).into();
        let values = hosts.into_iter().map(|(word, hosts)| ([("state", word)], count(hosts)));
        gauges(&mut out, "cps_controller_hosts", "Hosts, by whether they have what they must have", values)?;
        let values = peerings.into_iter().map(|(word, count)| ([("state", word)], f64::from(count)));
        gauges(&mut out, "cps_controller_peerings", "Peerings by state", values)?;
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
        let help = "What a VPC's hosts have sent to its peer and received, in bytes of Ethernet frames";
        let bytes = counted.iter().flat_map(|it| both(it, |totals| [totals.sent.bytes, totals.received.bytes]));
        counters(&mut out, "cps_controller_peering_bytes", help, bytes)?;
        let help = "What a VPC's hosts have sent to its peer and received, in packets";
        let packets = counted.iter().flat_map(|it| both(it, |totals| [totals.sent.packets, totals.received.packets]));
        counters(&mut out, "cps_controller_peering_packets", help, packets)?;
        let help = "Packets of a VPC's hosts to its peer that were more than the bandwidth";
        let dropped = counted.iter().map(|it| (it.labels("sent"), it.totals.dropped));
        counters(&mut out, "cps_controller_peering_dropped_packets", help, dropped)
    }
}
