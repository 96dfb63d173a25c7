//! `cps-peering-agent status`: the status of the running agent, fetched over its HTTP interface.

use super::Output;
use crate::tls::kept_beside;
use anyhow::Context;
use cps_peering_config::{
    HostReport, Revision,
    agent_api::STATUS_PATH,
    format,
    report::{Scope, Standing},
    settings::{AgentSettings, tls_files},
};
use cps_peering_http::tls::Identity;
use cps_peering_terminal::{show, table};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many out-of-date parts the table lists.
const MOST_BEHIND: usize = 50;

/// Shows the report of the agent with these settings. True when the host is in sync.
pub async fn run(settings: &AgentSettings, output: Output) -> anyhow::Result<bool> {
    let address = settings.listen;
    let tls = match tls_files(settings.tls.as_ref())? {
        None => None,
        Some(files) => {
            let identity = Identity::open_with(files, kept_beside(&settings.ledger)).context("setting `tls`")?;
            let names = identity.facts().names;
            let own = names.first().with_context(|| format!("{} names no host", files.cert.display()))?;
            Some(identity.client_of(own))
        }
    };
    let answer = timeout(PATIENCE, fetch(address, tls)).await;
    let report = answer.with_context(|| format!("the agent on {address} does not answer"))??;
    match output {
        Output::Json => show(&serde_json::to_string(&report)?),
        Output::Table => show(&as_text(&report)),
    }
    Ok(report.in_sync())
}

async fn fetch(address: SocketAddr, tls: Option<ClientConfig>) -> anyhow::Result<HostReport> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("no agent listens on {address}; is cps-peering-agent running?"))?;
    match tls {
        None => request(stream, address).await,
        Some(tls) => {
            let connector = TlsConnector::from(Arc::new(tls));
            request(connector.connect(address.ip().into(), stream).await.context("TLS")?, address).await
        }
    }
}

async fn request<S>(stream: S, address: SocketAddr) -> anyhow::Result<HostReport>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(STATUS_PATH).header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    anyhow::ensure!(status.is_success(), "the agent responded with {status}: {}", String::from_utf8_lossy(&body));
    format::read(&body).context("the response is not an agent's report")
}

fn as_text(report: &HostReport) -> String {
    let revision = |revision: Option<Revision>| revision.map_or_else(|| "none".to_owned(), |it| it.to_string());
    let host = report.host.as_ref().map_or("not configured yet", |host| host.as_str());
    let counters = report.counters;
    let mut lines = vec![
        format!("host      {host}, {}", if report.in_sync() { "in sync" } else { "not in sync" }),
        format!("revision  desired {}, applied {}", revision(report.desired), revision(report.applied)),
        format!(
            "kernel    {} passes, {} operations, {} refused, {} drift repaired, {} times events lost",
            counters.passes, counters.operations, counters.failures, counters.drift_repaired, counters.events_lost
        ),
        format!("VRFs      {}", standings(report.vrfs.values())),
        format!("sides     {}", standings(report.sides.values())),
    ];
    if let Some(pass) = report.last_pass {
        lines.push(format!("last pass {} µs, {} operations", pass.duration_us, pass.operations));
    }
    let rows: Vec<_> = behind(report)
        .map(|(scope, standing)| vec![scope, standing.desired.to_string(), revision(standing.applied)])
        .collect();
    if !rows.is_empty() {
        lines.push(table(&["BEHIND", "DESIRED", "APPLIED"], &rows));
    }
    if !report.problems.is_empty() {
        let rows = report.problems.iter().map(|problem| {
            vec![scope(&problem.scope), problem.kind.word().to_owned(), problem.object.clone(), problem.reason.clone()]
        });
        lines.push(table(&["SCOPE", "KIND", "OBJECT", "REASON"], &rows.collect::<Vec<_>>()));
    }
    lines.join("\n")
}

/// How many there are and how many are behind. Each one is in the JSON output: a host may have thousands.
fn standings<'a>(standings: impl Iterator<Item = &'a Standing> + Clone) -> String {
    let behind = standings.clone().filter(|standing| is_behind(standing)).count();
    format!("{}, {behind} of them behind", standings.count())
}

fn is_behind(standing: &Standing) -> bool {
    standing.applied != Some(standing.desired)
}

/// The VRFs and sides that are behind the newest configuration, each with its status.
fn behind(report: &HostReport) -> impl Iterator<Item = (String, Standing)> {
    let vrfs = report.vrfs.iter().map(|(vpc, standing)| (Scope::Vpc(vpc.clone()), *standing));
    let sides = report.sides.iter().map(|(vni, standing)| (Scope::Side(*vni), *standing));
    let behind = vrfs.chain(sides).filter(|(_, standing)| is_behind(standing));
    behind.take(MOST_BEHIND).map(|(it, standing)| (scope(&it), standing))
}

fn scope(scope: &Scope) -> String {
    match scope {
        Scope::Host => "host".to_owned(),
        Scope::Vpc(vpc) => format!("VPC {vpc}"),
        Scope::Side(vni) => format!("side {vni}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_which_side_is_behind_and_how_far() {
        let text = r#"{ "version": "0", "host": "h1", "desired": { "epoch": 1, "number": 9 }, "applied": { "epoch": 1, "number": 9 },
            "last_pass": null, "counters": { "passes": 0, "operations": 0, "failures": 0, "drift_repaired": 0 },
            "problems": [{ "scope": { "side": 1001 }, "kind": "failed", "object": "route 10.2.0.0/24", "reason": "no room" }],
            "vrfs": { "vpc-a": { "desired": { "epoch": 1, "number": 9 }, "applied": { "epoch": 1, "number": 9 } } },
            "sides": { "1001": { "desired": { "epoch": 1, "number": 9 }, "applied": { "epoch": 1, "number": 4 } },
                       "1003": { "desired": { "epoch": 1, "number": 9 }, "applied": { "epoch": 1, "number": 9 } } } }"#;
        let report: HostReport = serde_json::from_str(text).unwrap();
        let text = as_text(&report);
        let old = Revision { epoch: 1, number: 4 }.to_string();
        let line = text.lines().find(|line| line.starts_with("side 1001") && line.contains(&old));
        assert!(line.is_some() && !text.contains("1003"), "{text}");
        assert!(
            text.contains("VRFs      1, 0 of them behind") && text.contains("sides     2, 1 of them behind"),
            "{text}"
        );
    }
}
