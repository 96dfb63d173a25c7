//! Which parties accept each other, with certificates made by `cps-peering pki`.

use crate::{a_and_b, reach_each_other};
use anyhow::{Context, Result, ensure};
use cps_peering_config::{HostReport, agent_api, tls};
use cps_peering_http::tls::Identity;
use cps_peering_tests::{
    Lab,
    http::Endpoint,
    lab::binary,
    wait::{self, SOON},
};
use serde_json::Value;
use std::{fs, sync::Arc};

/// The API of a host's agent, for a client with a certificate of the lab.
fn agent_for(lab: &Lab, host: &str, client: &str) -> Result<Endpoint> {
    let identity = Identity::open(&lab.pki().files(client))?;
    let tls = Arc::new(identity.client_of(&tls::host(&host.parse()?)));
    Ok(Endpoint { tls, ..lab.host(host).endpoint() })
}

#[test]
fn agents_obey_the_controller_alone() -> Result<()> {
    let lab = Lab::in_sync(a_and_b())?;
    let before = lab.ledger("h1")?;
    let mut other = before.clone();
    other["revision"]["number"] = 1_000_000.into();
    other["vrfs"] = serde_json::json!({});
    // Another host, and a client for metrics: both have certificates of the same CA.
    lab.pki().run(&["issue", "monitoring"])?;
    for client in ["host-h2", "monitoring"] {
        let agent = agent_for(&lab, "h1", client)?;
        let answers = [
            agent.call::<Value>("PUT", agent_api::CONFIG_PATH, Some(&other)),
            agent.call::<Value>("PATCH", agent_api::CONFIG_PATH, Some(&other)),
            agent.call::<Value>("GET", agent_api::STATUS_PATH, None),
        ];
        for answer in answers {
            let refused = format!("{:#}", answer.err().context("it was not refused")?);
            ensure!(refused.contains("answered 403") && refused.contains(tls::CONTROLLER), "{refused}");
        }
    }
    let figures = |client: &str| agent_for(&lab, "h1", client)?.text(agent_api::METRICS_PATH);
    ensure!(
        figures("monitoring").is_ok() && figures("host-h2").is_err(),
        "metrics are for monitoring, not for other hosts"
    );
    // A client without a certificate does not get that far.
    let nobody = Endpoint { tls: lab.pki().as_client()?, ..lab.host("h1").endpoint() };
    ensure!(nobody.text(agent_api::HEALTH_PATH).is_err(), "an agent answers who has no certificate");
    ensure!(lab.ledger("h1")? == before, "what was refused has changed something");
    // The host queries its own agent, as `status` does.
    let own: HostReport = agent_for(&lab, "h1", "host-h1")?.call("GET", agent_api::STATUS_PATH, None)?;
    ensure!(own.in_sync(), "{own:?}");
    for command in ["status", "diff"] {
        let program = binary("cps-peering-agent")?;
        let settings = lab.dir().join("hosts/h1/agent.toml");
        lab.exec("h1", &format!("{} {command} --settings {}", program.display(), settings.display()))?.ok()?;
    }
    Ok(())
}

#[test]
fn the_controller_wants_the_host_that_it_means() -> Result<()> {
    let lab = Lab::in_sync(a_and_b())?;
    let (own, other) = (lab.pki().files("host-h1"), lab.pki().files("host-h2"));
    let kept = [fs::read(&own.key)?, fs::read(&own.cert)?];
    fs::write(&own.key, fs::read(&other.key)?)?;
    fs::write(&own.cert, fs::read(&other.cert)?)?;
    wait::until("the controller has noticed", SOON, || {
        let hosts: Value = lab.controller().endpoint().call("GET", "/admin/v1/hosts", None)?;
        let text = hosts.to_string();
        ensure!(text.contains("spiffe://cps-peering/host/h2") && text.contains("is meant"), "{text}");
        Ok(Some(()))
    })?;
    fs::write(&own.key, &kept[0])?;
    fs::write(&own.cert, &kept[1])?;
    lab.peer("vpc-a", "vpc-b")?;
    lab.wait_in_sync()?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}

#[test]
fn a_new_ca_takes_over_without_a_restart_and_metrics_tell() -> Result<()> {
    let lab = Lab::in_sync(a_and_b())?;
    let pki = lab.pki();
    pki.run(&["issue", "monitoring"])?;
    let expiry = |host: &str| -> Result<String> {
        let text = agent_for(&lab, host, "monitoring")?.text("/metrics")?;
        let name = "cps_agent_certificate_expiry_timestamp_seconds{certificate=\"ca\"}";
        let line = text.lines().find(|line| line.starts_with(name));
        Ok(line.with_context(|| text.clone())?.to_owned())
    };
    let before = expiry("h1")?;
    // Both CAs are trusted until all have a certificate of the new one.
    let old = fs::read_to_string(pki.ca())?;
    pki.run(&["init", "--force", "--days", "100"])?;
    let new = fs::read_to_string(pki.ca())?;
    fs::write(pki.ca(), format!("{old}{new}"))?;
    for host in ["h1", "h2"] {
        wait::until("both CAs are taken up", SOON, || {
            let now = expiry(host)?;
            ensure!(now != before, "{now}");
            Ok(Some(()))
        })?;
    }
    // `pki` signs with the first certificate in the file.
    fs::write(pki.ca(), format!("{new}{old}"))?;
    pki.run(&["issue", "host", "h1", "h2", "--force"])?;
    pki.run(&["issue", "controller", "--force", "--address", "100.64.0.1"])?;
    pki.run(&["issue", "monitoring", "--force"])?;
    fs::write(pki.ca(), &new)?;
    // The CLI trusts the new CA alone, and accepts the controller once that has its new certificate.
    wait::until("the controller has its new certificate", SOON, || {
        lab.controller().cli(&["peering", "list"])?.ok()?;
        Ok(Some(()))
    })?;
    let create = ["peering", "create", "--name", "a-b", "--vpc", "vpc-a", "--peer-vpc", "vpc-b", "--wait"];
    lab.controller().cli(&create)?.ok()?;
    reach_each_other(lab.server("h1", "eth1"), lab.server("h2", "eth1"))
}
