//! The authenticated identity, quotas, and the accounts that an account blocks.

use super::{
    CliError,
    client::{Call, regional},
    output::{cell, columns, elements, lines},
    session::{Session, is_operator},
};
use cps_peering_config::quota::Kind;
use reqwest::Method;
use serde_json::json;

pub(super) async fn whoami(session: &Session) -> Result<(), CliError> {
    let whoami = session.whoami().await?;
    session.print(&whoami, || {
        let regions = ("regions", cell(&whoami["regions"]));
        if is_operator(&whoami) {
            let name = ("name", cell(&whoami["operator"]));
            let may = ("may", cell(&whoami["operatorRole"]));
            return lines(&[("role", "operator".to_owned()), name, may, regions]);
        }
        let charge = ("charge", cell(&whoami["chargeStatus"]));
        lines(&[("account", cell(&whoami["accountId"])), charge, regions])
    });
    Ok(())
}

pub(super) async fn quota(session: &Session) -> Result<(), CliError> {
    let region = session.region().await?;
    let mut quotas = Vec::new();
    for kind in Kind::ALL {
        let call = Call::get(regional(&region, &["quotas"])).with("type", &kind.word());
        quotas.push(session.call(call).await?["quota"].take());
    }
    let peerings = quotas.first().cloned().unwrap_or_default();
    let mut json = peerings.clone();
    json["quotas"] = quotas.clone().into();
    session.print(&json, || {
        let (used, most) = (cell(&peerings["count"]), cell(&peerings["maxLimit"]));
        let table = columns(&[("TYPE", "/type"), ("USED", "/count"), ("LIMIT", "/maxLimit")], &quotas);
        format!("{used} of at most {most} peerings are initiated from {region}\n\n{table}")
    });
    Ok(())
}

async fn set_blocked(session: &Session, method: Method, account: &str) -> Result<(), CliError> {
    let blocks = method == Method::PUT;
    session.call(Call::new(method, ["v1", "blockedAccounts", account])).await?;
    session.print(&json!({ "accountId": account, "blocked": blocks }), || {
        if blocks {
            format!("{account} is blocked: this account's VPCs are not visible to it")
        } else {
            format!("{account} is not blocked")
        }
    });
    Ok(())
}

pub(super) async fn block(session: &Session, account: &str) -> Result<(), CliError> {
    set_blocked(session, Method::PUT, account).await
}

pub(super) async fn unblock(session: &Session, account: &str) -> Result<(), CliError> {
    set_blocked(session, Method::DELETE, account).await
}

pub(super) async fn blocked(session: &Session) -> Result<(), CliError> {
    let result = session.call(Call::get(["v1", "blockedAccounts"])).await?;
    session.print(&result, || {
        let blocked: Vec<String> = elements(&result["blockedAccounts"]).iter().map(cell).collect();
        if blocked.is_empty() { "no account is blocked".to_owned() } else { blocked.join("\n") }
    });
    Ok(())
}
