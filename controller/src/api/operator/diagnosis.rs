//! Diagnosis of the controller and its hosts.

use crate::{
    api::{
        request::RequestContext,
        response::{Envelope, Errors, Failure, Reply, reply},
    },
    diagnosis::{Finding, HostFacts, Own, findings},
    engine::Health,
    hosts::diagnosis::{ask_all, snapshot as ask_for_snapshot},
};
use axum::{Extension, extract::Path};
use cps_peering_config::{id::HostId, text::quote};
use cps_peering_http::tls::expiry;
use prometheus_client::registry::Registry;
use serde::Serialize;
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::SystemTime};
use utoipa::ToSchema;

/// The findings.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct Diagnosis {
    /// The controller's time, in milliseconds since 1970-01-01 UTC.
    time_ms: u64,
    /// All findings, the most severe first.
    findings: Vec<Finding>,
}

fn own(context: &RequestContext) -> Own {
    let (engine, diagnosed) = (&context.api.engine, &context.api.diagnosed);
    let now_s = i64::try_from(engine.wall_ms() / 1000).unwrap_or(i64::MAX);
    let identity = diagnosed.identity.as_ref();
    let facts = identity.map(cps_peering_http::tls::Identity::facts);
    let mut certificates: Vec<(String, Option<i64>)> = Vec::new();
    if let Some(facts) = facts {
        certificates.push(("the controller's certificate".to_owned(), Some(facts.not_after.saturating_sub(now_s))));
        certificates.push(("the CA's certificate".to_owned(), Some(facts.ca_not_after.saturating_sub(now_s))));
    }
    for (name, file) in &diagnosed.store_certificates {
        let left = expiry(file).ok().map(|end| end.saturating_sub(now_s));
        certificates.push((format!("certificate for etcd ({name})"), left));
    }
    if let Some(file) = &diagnosed.agent_issuer {
        let left = expiry(file).ok().map(|end| end.saturating_sub(now_s));
        certificates.push(("the issuer of agents' certificates".to_owned(), left));
    }
    let health = engine.health();
    let backup = engine.store().last_backup();
    Own {
        store_fails: if let Health::Failing(why) = &health { Some(why.clone()) } else { None },
        store_low: if let Health::Low(why) = &health { Some(why.clone()) } else { None },
        space: engine.space().map(|space| (space.free, space.reserve)),
        leap_ms: engine.leap().map(|leap| leap.by_ms),
        trail: (engine.trail_bytes(), engine.trail_limit_bytes()),
        backup_age_s: backup.map(|at| SystemTime::now().duration_since(at).unwrap_or_default().as_secs()),
        certificates,
        tls: identity.is_some(),
    }
}

fn hosts(context: &RequestContext) -> Vec<(HostFacts, String)> {
    context.api.engine.read(|state, agents| {
        let facts = state.hosts().values().map(|host| {
            let contact = agents.contact(&host.id);
            let report = contact.and_then(|contact| contact.report.as_ref());
            let problems = report.into_iter().flat_map(|report| &report.problems);
            let silent = || match contact.and_then(|contact| contact.error.clone()) {
                Some(error) => error,
                None if report.is_some() => "its last report is too old".to_owned(),
                None => "it has never reported".to_owned(),
            };
            let facts = HostFacts {
                id: host.id.clone(),
                ipv6: host.underlay.is_ipv6(),
                maintenance: host.in_maintenance(),
                paused: host.paused,
                held_back: host.is_held_back(),
                removed: (host.retiring, host.dead),
                unreachable: (!agents.is_current(&host.id)).then(silent),
                in_sync: agents.in_sync(host),
                problems: problems.map(|it| format!("{}: {}", it.object, it.reason)).collect(),
                answer: None,
            };
            (facts, host.agent.clone())
        });
        facts.collect()
    })
}

/// Diagnose the controller and its hosts, with a fix for each finding. Reachable agents are asked about their hosts.
#[utoipa::path(get, path = "/admin/v1/diagnosis", tag = "operators", operation_id = "diagnose",
    responses((status = 200, body = Envelope<Diagnosis>), Errors))]
pub(in crate::api) async fn diagnose(context: RequestContext) -> Reply {
    let known = hosts(&context);
    let asked = known.iter().filter(|(facts, _)| facts.unreachable.is_none() && !facts.removed.0);
    let asked = asked.map(|(facts, agent)| (facts.id.clone(), agent.clone())).collect();
    let mut answers: BTreeMap<HostId, _> = ask_all(&context.api.diagnosed.agents, asked).await.into_iter().collect();
    let hosts: Vec<HostFacts> =
        known.into_iter().map(|(facts, _)| HostFacts { answer: answers.remove(&facts.id), ..facts }).collect();
    let own = own(&context);
    reply(Diagnosis { time_ms: context.api.engine.wall_ms(), findings: findings(&own, &hosts) })
}

/// The agent's view of a host, including the kernel. `snapshot` is null if the agent does not answer; `failure` says why.
#[utoipa::path(get, path = "/admin/v1/hosts/{host}/snapshot", tag = "operators", operation_id = "hostSnapshot",
    params(("host" = String, Path)), responses((status = 200, body = Envelope<serde_json::Value>), Errors))]
pub(in crate::api) async fn snapshot(context: RequestContext, Path(host): Path<String>) -> Reply {
    let missing = || Failure::not_found(format!("there is no host {}", quote(&host)));
    let id: HostId = host.parse().map_err(|_| missing())?;
    let agent = context.api.engine.read(|state, _| state.hosts().get(&id).map(|host| host.agent.clone()));
    let told = ask_for_snapshot(&context.api.diagnosed.agents, &id, &agent.ok_or_else(missing)?).await;
    reply(match told {
        Ok(snapshot) => json!({ "host": id, "snapshot": snapshot }),
        Err(failure) => json!({ "host": id, "snapshot": null, "failure": failure }),
    })
}

/// The metrics that `/metrics` serves to monitoring, as text.
#[utoipa::path(get, path = "/admin/v1/metrics", tag = "operators", operation_id = "metrics",
    responses((status = 200, body = Envelope<serde_json::Value>), Errors))]
pub(in crate::api) async fn metrics(Extension(registry): Extension<Arc<Registry>>, _: RequestContext) -> Reply {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .map_err(|error| Failure::internal(error.to_string()))?;
    reply(json!({ "metrics": text }))
}
