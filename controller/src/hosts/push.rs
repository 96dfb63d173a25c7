//! Pushes configurations to agents: one worker per host, which knows only the newest target.

use crate::{
    engine::{Engine, HostTarget, NewHosts, Target, question_interval},
    hosts::{
        client::{AgentClients, AnswerError, read_answer, read_error},
        traffic,
    },
    instruments::Pushed,
    model::record::Pacing,
};
use cps_peering_config::{
    HostPatch, HostReport, Revision, SharedHostConfig,
    agent_api::{CLUSTER_HEADER, CLUSTER_PATH, CONFIG_PATH, ErrorBody, STATUS_PATH},
    cluster::ClusterId,
    id::{HostId, VpcId},
    net::Vni,
    retry::{Backoff, Retry, jitter},
};
use cps_peering_otlp::{SpanContext, TRACEPARENT};
use reqwest::{Client, Method, StatusCode};
use serde::Serialize;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tracing::Instrument as _;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
/// How long a held host is left alone.
const HELD_RETRY: Duration = Duration::from_secs(2);
/// How often a canary is polled.
const CANARY_POLL: Duration = Duration::from_secs(2);
/// How long an agent may take to leave the cluster.
const LEAVE_CLUSTER_TIMEOUT: Duration = Duration::from_secs(5);
/// How many times a host that has left the inventory is told so: within some ten seconds if it answers, half a minute if not.
const LEAVE_CLUSTER_TRIES: usize = 6;
/// How many agents are contacted at a time.
const AT_ONCE: usize = 256;
/// How long a contact counts. Slower ones are awaited in addition: hosts that are unreachable, or slow, must not
/// block the others.
const COUNTS_FOR: Duration = Duration::from_millis(500);

/// Why an agent did not do what was asked.
#[derive(Debug, Error)]
enum PushError {
    #[error(transparent)]
    NoAnswer(#[from] AnswerError),
    #[error("the agent's URL {0} begins with http://, and TLS is on: apply the host with https://")]
    Plain(String),
    #[error("the agent's URL {0} begins with https://, and TLS is off (setting `tls` of the controller)")]
    NoTls(String),
    #[error("the agent refused: {0}")]
    Refused(String),
    #[error(
        "the agent has revision {theirs}, newer than {ours} of this controller, and nothing is changed on this host. Either another \
         controller configures it: stop one of them. Or this controller's store is older than what hosts have: restore the copy \
         again with `--epoch {}`",
        .theirs.epoch + 1
    )]
    Newer { ours: Revision, theirs: Revision },
    #[error(
        "the host belongs to cluster {theirs}, and this is cluster {ours}; nothing is changed on it. If it is to change over, run \
         `cps-peering-agent join {ours}` on it. If this controller is to go on as {theirs}, restore the copy with `--same-cluster`"
    )]
    OtherCluster { ours: ClusterId, theirs: ClusterId },
    #[error("held, {0}: nothing is sent to hosts before `cps-peering-controller release`")]
    Held(Pending),
    #[error("lost leadership")]
    Deposed,
    #[error("the agent has other content under revision {0}; a new change of this host will be sent whole")]
    OtherContent(Revision),
}

/// What a release would change on a host while its controller is held.
#[derive(Debug)]
struct Pending {
    /// The VPCs and sides that it would lose, and those that it would get.
    changes: [Vec<String>; 2],
}

impl Pending {
    /// How many are named.
    const NAMED: usize = 10;

    fn between(report: &HostReport, config: &SharedHostConfig) -> Self {
        let named =
            |vpc: &VpcId, vni: Option<Vni>| vni.map_or(format!("VPC {vpc}"), |vni| format!("side {vni} of {vpc}"));
        let vpcs = report.vrfs.keys().filter(|vpc| !config.vrfs.contains_key(*vpc)).map(|vpc| format!("VPC {vpc}"));
        let sides = report.sides.keys().filter(|vni| !config.sides.contains_key(*vni)).map(|vni| format!("side {vni}"));
        let lost = vpcs.chain(sides).collect();
        let vpcs = config.vrfs.keys().filter(|vpc| !report.vrfs.contains_key(*vpc)).map(|vpc| named(vpc, None));
        let sides = config.sides.iter().filter(|(vni, _)| !report.sides.contains_key(*vni));
        let gained = vpcs.chain(sides.map(|(vni, side)| named(&side.vpc, Some(*vni)))).collect();
        Self { changes: [lost, gained] }
    }
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [lost, gained] = &self.changes;
        if lost.is_empty() && gained.is_empty() {
            return f.write_str(
                "and the host has the VPCs and sides that it would get, perhaps with other ports or addresses",
            );
        }
        for (verb, all) in [("would lose", lost), ("would get", gained)] {
            let more = all.len().saturating_sub(Self::NAMED);
            let named = all.iter().take(Self::NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            match all.len() {
                0 => write!(f, "{verb} nothing")?,
                _ if more > 0 => write!(f, "{verb} {named} and {more} more")?,
                _ => write!(f, "{verb} {named}")?,
            }
            if verb == "would lose" {
                f.write_str("; ")?;
            }
        }
        Ok(())
    }
}

/// Runs a worker for every new host, until the engine is gone. The workers end with the future.
pub async fn run(
    engine: Arc<Engine>,
    clients: AgentClients,
    mut hosts: NewHosts,
    poll: Duration,
) -> Result<(), reqwest::Error> {
    let mut workers = JoinSet::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        tokio::select! {
            new = hosts.recv() => {
                let Some((host, target)) = new else { return Ok(()) };
                let client = clients.own(&host)?;
                let clients = clients.clone();
                let engine = Arc::clone(&engine);
                let (sent, newest, behind_since) = (None, None, None);
                let reached = None;
                let (places, retry, settled) = (Arc::clone(&places), Retry::new(BACKOFF), false);
                let worker = Worker {
                    engine, clients, client, places, host, target, poll, sent, reached, settled, newest, behind_since, retry,
                    // Until it has confirmed that.
                    knows_scoped_sides: false,
                };
                workers.spawn(worker.run());
            }
            // A worker ends when its host is forgotten.
            Some(_) = workers.join_next() => {}
        }
    }
}

struct Worker {
    engine: Arc<Engine>,
    clients: AgentClients,
    /// With the connection that the last poll began.
    client: Client,
    places: Arc<Semaphore>,
    host: HostId,
    target: watch::Receiver<Target>,
    poll: Duration,
    /// What the agent is known to have, because it has confirmed having accepted it.
    sent: Option<Arc<SharedHostConfig>>,
    /// Whether the agent knew sides with prefix lists when it last answered.
    knows_scoped_sides: bool,
    /// The URL of its agent, if that had its configuration when it was last polled.
    reached: Option<Arc<HostTarget>>,
    /// Whether it was in sync already.
    settled: bool,
    /// The newest revision to push.
    newest: Option<Revision>,
    /// Since when the host has not matched its configuration.
    behind_since: Option<Instant>,
    retry: Retry,
}

impl Worker {
    async fn run(mut self) {
        loop {
            let target = self.target.borrow_and_update().clone();
            let Some(target) = target else { return self.leave_cluster().await };
            // While it is held back in a rollout, nothing is pushed whose time would count.
            let waits = matches!(target.pacing, Some(Pacing::Held { .. }));
            let again = waits || self.newest.replace(target.config.revision) == Some(target.config.revision);
            if !again {
                // A target that arrived before and is not in place yet counts from its own beginning.
                self.behind_since.get_or_insert_with(Instant::now);
            }
            let mut newer = self.target.clone();
            let revision = target.config.revision;
            let span = tracing::info_span!("push", host = %self.host, %revision, trace_id = tracing::field::Empty);
            let brought = tokio::select! {
                brought = self.bring_in_turn(&target).instrument(span.clone()) => brought,
                // An agent can take long to answer; a newer target, perhaps with a delete, must not wait for that.
                Ok(()) = newer.changed() => continue,
            };
            let mut counts = false;
            let pause = match brought {
                Ok(report) => {
                    let in_sync = report.in_sync() && report.applied == Some(target.config.revision);
                    self.reached = in_sync.then(|| Arc::clone(&target));
                    span.in_scope(|| self.measure(in_sync));
                    self.engine.on_report(&self.host, Ok(report));
                    // There is a connection to it, and nothing more urgent. It still reports sides that are gone.
                    counts = again && !target.config.vrfs.is_empty();
                    if in_sync {
                        self.retry.reset();
                        match target.pacing {
                            // Others wait for its report.
                            Some(Pacing::Canary) => jitter(self.poll.min(CANARY_POLL)),
                            _ => self.next_question(),
                        }
                    } else if waits {
                        self.next_question()
                    } else {
                        self.retry.failed()
                    }
                }
                Err(error) => {
                    self.reached = None;
                    let held = matches!(error, PushError::Held(_));
                    if !held {
                        span.in_scope(|| tracing::warn!(%error, "push failed"));
                        self.engine.metrics().pushed(Pushed::Failed);
                    }
                    self.engine.on_report(&self.host, Err(error.to_string()));
                    if held { jitter(HELD_RETRY) } else { self.retry.failed() }
                }
            };
            let left_alone = async {
                if counts {
                    traffic::count(&self.engine, &self.client, &self.host, &target.agent).await;
                }
                tokio::time::sleep(pause).await;
            };
            tokio::select! {
                changed = self.target.changed() => if changed.is_err() { return },
                () = left_alone => {}
            }
        }
    }

    /// The host is forgotten: if nothing is left on it, any cluster can use it. A host that does not get this needs an operator.
    async fn leave_cluster(&self) {
        let Some(target) = &self.reached else { return };
        if !target.config.vrfs.is_empty() || !target.config.sides.is_empty() {
            return;
        }
        let mut retry = Retry::new(BACKOFF);
        for _ in 0..LEAVE_CLUSTER_TRIES {
            // Whoever uses it next, this controller or a new leader, tells it its cluster.
            let is_back = self.engine.read(|state, _| state.hosts().contains_key(&self.host));
            if is_back || !self.engine.leadership().holds() {
                return;
            }
            let told = self.client.delete(url(target, CLUSTER_PATH)).timeout(LEAVE_CLUSTER_TIMEOUT).send().await;
            match told.map(|answer| answer.status()) {
                Ok(status) if status.is_success() => return,
                // It has a configuration again, or belongs to another cluster.
                Ok(status) if status.is_client_error() => {
                    return tracing::info!(host = %self.host, %status, "the host does not leave its cluster");
                }
                _ => tokio::time::sleep(retry.failed()).await,
            }
        }
        tracing::warn!(
            host = %self.host,
            "the host may still belong to this cluster: another one is let in by `cps-peering-agent join` on it"
        );
    }

    fn measure(&mut self, in_sync: bool) {
        let metrics = self.engine.metrics();
        metrics.pushed(if in_sync { Pushed::Confirmed } else { Pushed::Behind });
        if let Some(since) = self.behind_since.take_if(|_| in_sync) {
            let took = since.elapsed();
            tracing::info!(?took, "the host's kernel has the configuration");
            metrics.converged(took);
        }
    }

    /// The time until a host that is in sync is polled again.
    fn next_question(&mut self) -> Duration {
        let most = question_interval(self.poll, self.engine.hosts());
        if std::mem::replace(&mut self.settled, true) {
            return jitter(most);
        }
        // After the start all of them have just been polled: their turns are spread from the first one on.
        most.mul_f64(0.75 * fastrand::f64())
    }

    /// Waits for a permit and pushes the target.
    async fn bring_in_turn(&mut self, target: &HostTarget) -> Result<HostReport, PushError> {
        // It is never closed.
        let mut place = Arc::clone(&self.places).acquire_owned().await.ok();
        let mut brought = std::pin::pin!(self.bring(target));
        tokio::select! {
            brought = &mut brought => return brought,
            () = tokio::time::sleep(COUNTS_FOR) => drop(place.take()),
        }
        brought.await
    }

    /// Polls the agent, or pushes its target.
    async fn bring(&mut self, target: &HostTarget) -> Result<HostReport, PushError> {
        let config = &target.config;
        match target.agent.starts_with("https://") {
            false if self.clients.tls() => return Err(PushError::Plain(target.agent.clone())),
            true if !self.clients.tls() => return Err(PushError::NoTls(target.agent.clone())),
            _ => {}
        }
        if target.paused {
            return self.status(target).await;
        }
        if let Some(Pacing::Held { has, .. }) = target.pacing {
            let report = self.status(target).await?;
            // The epoch may be that of a previous controller.
            if report.desired.is_some_and(|theirs| theirs.number >= has) {
                return Ok(report);
            }
            // It has lost the configuration that it was to keep: without one it would be worse off than with the untested one.
        }
        if self.engine.is_held() {
            let report = self.status(target).await?;
            return match report.desired {
                Some(theirs) if theirs > config.revision => Err(PushError::Newer { ours: config.revision, theirs }),
                Some(theirs) if theirs == config.revision => Ok(report),
                _ => Err(PushError::Held(Pending::between(&report, config))),
            };
        }
        if let Some(sent) = self.sent.clone() {
            if sent.revision == config.revision {
                let report = self.status(target).await?;
                if report.desired == Some(config.revision) {
                    return Ok(report);
                }
            } else if self.takes_patches(&sent, config)
                && let Some(patch) = HostPatch::between(&sent, config)
            {
                self.sent = None;
                if let Some(report) = self.push(target, Method::PATCH, &patch).await? {
                    return Ok(report);
                }
            }
        } else {
            let report = self.status(target).await?;
            match report.desired {
                Some(theirs) if theirs > config.revision => {
                    return Err(PushError::Newer { ours: config.revision, theirs });
                }
                // It has it already, from an earlier run of this controller.
                Some(theirs) if theirs == config.revision => {
                    self.sent = Some(Arc::clone(config));
                    return Ok(report);
                }
                _ => {}
            }
        }
        self.sent = None;
        match self.push(target, Method::PUT, config.as_ref()).await? {
            Some(report) => Ok(report),
            None => Err(PushError::OtherContent(config.revision)),
        }
    }

    /// Whether the agent understands a patch from one configuration to another. Before 0.3.0 agents had no sides with prefix lists: a patch
    /// that adds or removes the lists names a side that they do not have as expected.
    fn takes_patches(&self, before: &SharedHostConfig, after: &SharedHostConfig) -> bool {
        let has_scoped = |config: &SharedHostConfig| config.sides.values().any(|side| side.own_prefixes.is_some());
        self.knows_scoped_sides || !has_scoped(before) && !has_scoped(after)
    }

    async fn status(&mut self, target: &HostTarget) -> Result<HostReport, PushError> {
        match self.clients.own(&self.host) {
            Ok(client) => self.client = client,
            Err(error) => {
                tracing::warn!(%error, "the open connection to the agent keeps its certificates");
            }
        }
        let asked = self.client.get(url(target, STATUS_PATH)).send().await.map_err(AnswerError::from)?;
        let answer = asked.error_for_status().map_err(AnswerError::from)?;
        self.belongs(&answer)?;
        self.report(answer).await
    }

    /// Reads an agent's report, which also tells what it supports.
    async fn report(&mut self, answer: reqwest::Response) -> Result<HostReport, PushError> {
        let report: HostReport = read_answer(answer).await?;
        self.knows_scoped_sides = report.knows_scoped_sides;
        Ok(report)
    }

    /// Checks that an agent belongs to this cluster, as far as it says so. Notes its certificate.
    fn belongs(&self, answer: &reqwest::Response) -> Result<(), PushError> {
        self.clients.certificates().note(&self.host, answer);
        let theirs = answer.headers().get(CLUSTER_HEADER).and_then(|it| it.to_str().ok()?.parse().ok());
        match (self.clients.cluster(), theirs) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(PushError::OtherCluster { ours, theirs }),
            _ => Ok(()),
        }
    }

    /// Sends a configuration or a patch, and traces that. None if the agent has something else than expected.
    async fn push(
        &mut self,
        target: &HostTarget,
        method: Method,
        body: &impl Serialize,
    ) -> Result<Option<HostReport>, PushError> {
        let engine = Arc::clone(&self.engine);
        let revision = target.config.revision;
        let recorded = engine.traces().pushing(&self.host, revision, method.as_str());
        let context = recorded.context();
        if let Some(context) = context {
            tracing::Span::current().record("trace_id", context.trace_id());
        }
        let pushed = self.send(target, method, body, context).await;
        match &pushed {
            Ok(Some(report)) if report.in_sync() && report.applied == Some(revision) => recorded.end("confirmed"),
            Ok(Some(_)) => recorded.end("behind"),
            Ok(None) => recorded.end("other_base"),
            Err(error) => recorded.fail(error),
        }
        pushed
    }

    /// Sends a configuration or a patch. None if the agent has something else than expected.
    async fn send(
        &mut self,
        target: &HostTarget,
        method: Method,
        body: &impl Serialize,
        context: Option<SpanContext>,
    ) -> Result<Option<HostReport>, PushError> {
        let mut request = self.client.request(method, url(target, CONFIG_PATH)).json(body);
        if let Some(context) = context {
            request = request.header(TRACEPARENT, context.to_string());
        }
        // What a new leader has changed meanwhile is not known here. (Agents refuse requests in flight: their epoch is older.)
        if !self.engine.leadership().holds() {
            return Err(PushError::Deposed);
        }
        let answer = request.send().await.map_err(AnswerError::from)?;
        self.belongs(&answer)?;
        let status = answer.status();
        if status.is_success() {
            self.sent = Some(Arc::clone(&target.config));
            return self.report(answer).await.map(Some);
        }
        let text = read_error(answer).await?;
        let error = serde_json::from_str(&text).unwrap_or(ErrorBody { message: text, desired: None });
        match error.desired {
            Some(theirs) if status == StatusCode::CONFLICT && theirs > target.config.revision => {
                Err(PushError::Newer { ours: target.config.revision, theirs })
            }
            _ if status == StatusCode::CONFLICT => Ok(None),
            _ => Err(PushError::Refused(format!("{status}: {}", error.message))),
        }
    }
}

fn url(target: &HostTarget, path: &str) -> String {
    format!("{}{path}", target.agent.trim_end_matches('/'))
}
