//! Commands to the controller that runs on this machine, and to agents.

use crate::setup::read_token;
use anyhow::{Context, anyhow, bail};
use cps_peering_config::{
    inventory::Inventory,
    settings::{ControllerSettings, tls_files},
    tls::CONTROLLER,
};
use cps_peering_controller::hosts::client::{self, AgentClients};
use cps_peering_http::{
    chain,
    tls::{self, Identity},
};
use futures_util::{StreamExt as _, stream};
use reqwest::{Client, Method};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

/// A backup of a large store takes its time.
const WITHIN: Duration = Duration::from_mins(10);
/// How many agents are asked at a time.
const AT_ONCE: usize = 64;

/// Releases the controller, or with `dry_run` shows what would change on the hosts. Returns the output.
pub(crate) fn run(settings: &ControllerSettings, dry_run: bool) -> anyhow::Result<String> {
    let result = if dry_run {
        ask(settings, Method::GET, "/admin/v1/cluster")?
    } else {
        ask(settings, Method::POST, "/admin/v1/cluster/release")?
    };
    Ok(told(&result, dry_run))
}

/// Calls the controller that runs on this machine, with the operators' token. Returns the result.
pub(crate) fn ask(settings: &ControllerSettings, method: Method, path: &str) -> anyhow::Result<Value> {
    let token = read_token(&settings.operator_token_file).context("setting `operator_token_file`")?;
    let identity = tls_files(settings.tls.as_ref())?.map(Identity::open).transpose().context("setting `tls`")?;
    let scheme = if identity.is_some() { "https" } else { "http" };
    let tls = identity.as_ref().map_or_else(tls::no_client, |identity| identity.client_of(CONTROLLER));
    let url = format!("{scheme}://{}{path}", here(settings.listen));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        let client = Client::builder().timeout(WITHIN).no_proxy().tls_backend_preconfigured(tls).build()?;
        let answer = client.request(method, url).bearer_auth(&token).send().await?;
        let status = answer.status();
        Ok::<_, reqwest::Error>((status, answer.text().await?))
    });
    let (status, text) = answer.map_err(|error| {
        anyhow!("the controller on this machine does not answer: {}; is it running?", chain(&error))
    })?;
    let mut answer: Value = serde_json::from_str(&text).unwrap_or_default();
    if !status.is_success() {
        bail!("the controller refuses ({status}): {}", answer["error"]["message"].as_str().unwrap_or(&text));
    }
    Ok(answer["result"].take())
}

/// Asks the agents of an inventory for their clusters and revisions.
pub(crate) fn ask_agents(settings: &ControllerSettings, inventory: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(inventory).with_context(|| format!("cannot read {}", inventory.display()))?;
    let inventory: Inventory = toml::from_str(&text).with_context(|| format!("inventory {}", inventory.display()))?;
    let identity = tls_files(settings.tls.as_ref())?.map(Identity::open).transpose().context("setting `tls`")?;
    let clients = AgentClients::new(identity, WITHIN);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answers = runtime.block_on(async {
        let asked = inventory.hosts.iter().map(async |host| {
            let answer = match clients.own(&host.id) {
                Ok(client) => client::whose(&client, &host.agent).await,
                Err(error) => Err(chain(&error)),
            };
            (host, answer)
        });
        stream::iter(asked).buffered(AT_ONCE).collect::<Vec<_>>().await
    });
    let mut lines = Vec::new();
    let (mut highest, mut clusters) = (0, BTreeSet::new());
    for (host, answer) in answers {
        lines.push(match answer {
            Ok((cluster, revision)) => {
                highest = highest.max(revision.map_or(0, |revision| revision.epoch));
                clusters.extend(cluster);
                let cluster = cluster.map_or("no cluster".to_owned(), |cluster| format!("cluster {cluster}"));
                let revision =
                    revision.map_or("no configuration".to_owned(), |revision| format!("revision {revision}"));
                format!("{}: {cluster}, {revision}", host.id)
            }
            Err(error) => format!("{}: {error}", host.id),
        });
    }
    let cluster = match clusters.len() {
        1 => clusters.first().map_or_else(String::new, ToString::to_string),
        _ => "CLUSTER".to_owned(),
    };
    let next = highest + 1;
    lines.push(format!("\nnext: cps-peering-controller new-store --cluster {cluster} --epoch {next}"));
    Ok(lines.join("\n"))
}

fn told(result: &Value, dry_run: bool) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let (cluster, revision) = (word(&result["cluster"]), word(&result["revision"]));
    let mut lines = vec![match (dry_run, result["held"] == true) {
        (true, true) => format!("cluster {cluster}, revision {revision}, is held. When it is released:"),
        (true, false) => format!("cluster {cluster}, revision {revision}, is not held"),
        (false, _) => format!("cluster {cluster}, revision {revision}, is released: hosts are being configured"),
    }];
    for host in result["hostsOutOfSync"].as_array().into_iter().flatten().filter(|_| dry_run) {
        let reason = host["reason"].as_str().unwrap_or("it has not been asked yet");
        lines.push(format!("  {}: {reason}", word(&host["hostId"])));
    }
    lines.join("\n")
}

/// The local address of a server that listens on all addresses.
fn here(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}
