//! Accounts, hosts and the inventory, as operators see them.

use super::{last_error, seconds, time_of};
use crate::{
    engine::Agents,
    model::{
        record::{Account, Host, Pacing, PeeringState},
        state::State,
    },
};
use cps_peering_config::{
    Revision,
    inventory::{self, Inventory},
    quota::Kind,
    report::Problem,
    time::timestamp,
};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// An account, as operators see it. Secrets are shown once, when they are created.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountView {
    /// The id.
    pub account_id: String,
    /// `normal`, `overdue` or `arrear`.
    pub charge_status: &'static str,
    /// Its access keys.
    pub access_keys: Vec<String>,
    /// The ids of its tokens.
    pub token_ids: Vec<String>,
    /// Its quota of live peerings that it initiates from a region, where it differs from the default.
    #[schema(value_type = Object)]
    pub quotas: Value,
    /// Its other quotas by region and type, where they differ from the default.
    #[schema(value_type = Object)]
    pub limits: Value,
    /// Accounts whose peering requests it blocks.
    pub blocked_accounts: Vec<String>,
}

fn limits(account: &Account) -> Value {
    let own = Some((Kind::BandwidthChange, &account.bandwidth_changes)).filter(|(_, own)| !own.is_empty());
    let all: BTreeMap<_, _> = account.limits.iter().map(|(kind, quotas)| (*kind, quotas)).chain(own).collect();
    serde_json::to_value(all).unwrap_or_default()
}

/// An account, as operators see it.
pub fn account(account: &Account) -> AccountView {
    AccountView {
        account_id: account.id.to_string(),
        charge_status: account.charge.word(),
        access_keys: account.keys.keys().cloned().collect(),
        token_ids: account.tokens.keys().cloned().collect(),
        quotas: serde_json::to_value(&account.quotas).unwrap_or_default(),
        limits: limits(account),
        blocked_accounts: account.blocked.iter().map(ToString::to_string).collect(),
    }
}

/// A period in which a host is in maintenance.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WindowView {
    /// When it begins, or has begun.
    pub from: String,
    /// When it ends.
    pub until: String,
    /// Whether it has begun.
    pub begun: bool,
}

/// A host, and the state of its agent.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostView {
    /// The host.
    pub host: String,
    /// Its region.
    pub region_id: String,
    /// Its VTEP address.
    #[schema(value_type = String)]
    pub underlay: std::net::IpAddr,
    /// The URL of its agent.
    pub agent: String,
    /// Whether it was removed and its agent has not confirmed the cleanup yet.
    pub retiring: bool,
    /// Whether the inventory says that it is in maintenance.
    pub maintenance: bool,
    /// Whether it is drained: it takes no new ports, and counts as in maintenance.
    pub drained: bool,
    /// The maintenance window, now or later.
    pub maintenance_window: Option<WindowView>,
    /// Whether an operator has paused pushes to it.
    pub paused: bool,
    /// Its part in a staged rollout: `canary` where it is one of the first hosts, `heldBack` where it waits for them.
    pub rollout: Option<&'static str>,
    /// Whether it was removed as dead: nothing waits for it. It is forgotten when its agent answers again and confirms the cleanup, or
    /// when it is removed again.
    pub dead: bool,
    /// Whether its agent is reachable: it has answered recently, and no poll has failed since.
    pub answers: bool,
    /// The MTU of its underlay interface in bytes, as its agent last reported.
    pub underlay_mtu: Option<u32>,
    /// The revision that it should have.
    #[schema(value_type = Object)]
    pub desired: Revision,
    /// The revision that its kernel was last brought to.
    #[schema(value_type = Option<Object>)]
    pub applied: Option<Revision>,
    /// Whether its kernel is known to match its configuration: the last report says so, is not too old, and its agent has
    /// not failed to answer since.
    pub in_sync: bool,
    /// The problems that its agent reports, with the kernel's error messages.
    #[schema(value_type = Vec<Object>)]
    pub problems: Vec<Problem>,
    /// Number of kernel objects that the agent has repaired since it started.
    pub drift_repaired: Option<u64>,
    /// When its agent last answered.
    pub last_report: Option<String>,
    /// Age of that report, in seconds.
    pub report_age_seconds: Option<u64>,
    /// Why polling its agent has failed since, why the agent refused, or why its last report no longer counts.
    pub last_error: Option<String>,
    /// When its agent's certificate expires, as last seen; none without TLS, and before the agent has answered.
    pub certificate_expires: Option<String>,
    /// Why a certificate that is due was not renewed: the result of the last attempt (`unreachable`, `unsupported`,
    /// `agent_refused`, `request_refused` or `not_issued`); none where nothing is wrong, or the controller does not renew
    /// certificates.
    pub certificate_not_renewed: Option<&'static str>,
}

/// A host, and the state of its agent, with its certificate as the client for agents has seen it.
pub fn host(state: &State, agents: &Agents<'_>, host: &Host) -> HostView {
    let contact = agents.contact(&host.id).cloned().unwrap_or_default();
    let report = contact.report.as_ref();
    HostView {
        host: host.id.to_string(),
        region_id: host.region.to_string(),
        underlay: host.underlay,
        agent: host.agent.clone(),
        retiring: host.retiring,
        maintenance: host.maintenance,
        drained: host.drained,
        maintenance_window: host.window.map(|window| WindowView {
            from: timestamp(window.from_ms),
            until: timestamp(window.until_ms),
            begun: window.begun,
        }),
        paused: host.paused,
        rollout: match host.pacing {
            Some(Pacing::Canary) => Some("canary"),
            Some(Pacing::Held { .. }) => host.is_held_back().then_some("heldBack"),
            None => None,
        },
        dead: host.dead,
        answers: agents.is_current(&host.id),
        underlay_mtu: host.underlay_mtu,
        desired: state.revision_of(host),
        applied: report.and_then(|report| report.applied),
        in_sync: agents.in_sync(host),
        problems: report.map(|report| report.problems.clone()).unwrap_or_default(),
        drift_repaired: report.map(|report| report.counters.drift_repaired),
        last_report: time_of(agents.last_report(&host.id)),
        report_age_seconds: seconds(agents.last_report(&host.id)),
        last_error: last_error(agents, &host.id),
        certificate_expires: None,
        certificate_not_renewed: None,
    }
}

/// A list of prefixes in an inventory; none for all.
fn listed(prefixes: &[ipnet::IpNet]) -> Option<Vec<ipnet::IpNet>> {
    (!prefixes.is_empty()).then(|| prefixes.to_vec())
}

/// The current inventory, as a document that can be applied.
pub fn inventory(state: &State) -> Inventory {
    Inventory {
        name: None,
        regions: state.regions().values().map(|region| inventory::Region { id: region.id.clone() }).collect(),
        accounts: state
            .accounts()
            .values()
            .filter(|account| !account.quotas.is_empty())
            .map(|account| inventory::Account { id: account.id.clone(), quotas: account.quotas.clone() })
            .collect(),
        hosts: state
            .hosts()
            .values()
            .filter(|host| !host.retiring)
            .map(|host| inventory::Host {
                id: host.id.clone(),
                region: host.region.clone(),
                underlay: host.underlay,
                agent: host.agent.clone(),
                maintenance: host.maintenance,
            })
            .collect(),
        vpcs: state
            .vpcs()
            .values()
            .map(|vpc| inventory::Vpc {
                id: vpc.id.clone(),
                name: Some(vpc.name.clone()),
                account: vpc.account.clone(),
                region: vpc.region.clone(),
                cidrs: vpc.cidrs.clone(),
            })
            .collect(),
        ports: state
            .ports()
            .values()
            .map(|port| inventory::Port {
                vpc: port.vpc.clone(),
                host: port.key.host.clone(),
                interface: port.key.interface,
                gateways: port.gateways.clone(),
                prefixes: Some(port.prefixes.clone()),
            })
            .collect(),
        peerings: state
            .peerings()
            .values()
            // An unanswered request is not a peering that an operator would declare.
            .filter(|peering| peering.is_live() && peering.state != PeeringState::Pending)
            .map(|peering| inventory::Peering {
                name: peering.name.clone(),
                vpc: peering.initiator.vpc.clone(),
                peer_vpc: peering.receiver.vpc.clone(),
                bandwidth: peering.bandwidth,
                export_prefixes: listed(&peering.initiator.export_prefixes),
                import_prefixes: listed(&peering.initiator.import_prefixes),
                peer_export_prefixes: listed(&peering.receiver.export_prefixes),
                peer_import_prefixes: listed(&peering.receiver.import_prefixes),
            })
            .collect(),
    }
}
