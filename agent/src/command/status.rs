//! `cps-peering-agent status`: how the running agent stands, asked over its own HTTP interface.

use super::Output;
use anyhow::Context;
use cps_peering_config::{
    HostReport, Revision,
    agent_api::STATUS_PATH,
    report::{ProblemKind, Scope},
};
use cps_peering_terminal::{show, table};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, time::timeout};

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows the report of the agent that listens on `address`. True when the host is in sync.
pub async fn run(address: SocketAddr, output: Output) -> anyhow::Result<bool> {
    let answer = timeout(PATIENCE, fetch(address)).await;
    let report = answer.with_context(|| format!("the agent on {address} does not answer"))??;
    match output {
        Output::Json => show(&serde_json::to_string(&report)?),
        Output::Table => show(&as_text(&report)),
    }
    Ok(report.in_sync())
}

async fn fetch(address: SocketAddr) -> anyhow::Result<HostReport> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("no agent listens on {address}; is cps-peering-agent running?"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(STATUS_PATH).header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
    serde_json::from_slice(&body).context("the answer is no report of an agent")
}

fn as_text(report: &HostReport) -> String {
    let revision = |revision: Option<Revision>| revision.map_or_else(|| "none".to_owned(), |it| it.to_string());
    let host = report.host.as_ref().map_or("not configured yet", |host| host.as_str());
    let counters = report.counters;
    let mut lines = vec![
        format!("host      {host}, {}", if report.in_sync() { "in sync" } else { "not in sync" }),
        format!("revision  desired {}, applied {}", revision(report.desired), revision(report.applied)),
        format!(
            "kernel    {} passes, {} operations, {} refused, {} drift repaired",
            counters.passes, counters.operations, counters.failures, counters.drift_repaired
        ),
    ];
    if let Some(pass) = report.last_pass {
        lines.push(format!("last pass {} µs, {} operations", pass.duration_us, pass.operations));
    }
    if !report.problems.is_empty() {
        let rows = report.problems.iter().map(|problem| {
            vec![scope(&problem.scope), kind(problem.kind).to_owned(), problem.object.clone(), problem.reason.clone()]
        });
        lines.push(table(&["SCOPE", "KIND", "OBJECT", "REASON"], &rows.collect::<Vec<_>>()));
    }
    lines.join("\n")
}

fn scope(scope: &Scope) -> String {
    match scope {
        Scope::Host => "host".to_owned(),
        Scope::Vpc(vpc) => format!("VPC {vpc}"),
        Scope::Side(vni) => format!("side {vni}"),
    }
}

fn kind(kind: ProblemKind) -> &'static str {
    match kind {
        ProblemKind::Failed => "failed",
        ProblemKind::Conflict => "conflict",
        ProblemKind::Missing => "missing",
    }
}
