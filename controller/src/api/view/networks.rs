//! VPCs, their route tables, and the routes of peerings.

use super::{seconds, time_of};
use crate::{
    engine::Agents,
    model::{
        record::{Peering, Role, Side, Vpc},
        state::State,
    },
};
use cps_peering_config::time::timestamp;
use serde::Serialize;
use utoipa::ToSchema;

/// A route policy: traffic of a VPC to a CIDR goes over the peering (rule C4).
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteView {
    /// The destination.
    pub destination_cidr: String,
    /// `vpc_peering`.
    pub next_hop_type: &'static str,
    /// The peering.
    pub next_hop: String,
    /// The VPC of the traffic.
    pub vpc_id: String,
    /// Whether the kernels of all hosts with ports of that VPC are known to have it.
    pub installed: bool,
    /// Number of hosts that are known to have it.
    pub hosts: usize,
    /// The oldest of the last reports of the hosts with ports of that VPC; none if there are none, or one has not reported yet.
    pub last_report: Option<String>,
    /// Age, in seconds.
    pub report_age_seconds: Option<u64>,
}

/// The prefixes to which a side has route policies: what it reaches of the other, in the families in which it is reachable itself
/// (rules C4 and C9).
fn destinations(from: &Side, to: &Side) -> Vec<ipnet::IpNet> {
    let own = from.effective(to);
    let has = |v4: bool| own.iter().any(|prefix| prefix.addr().is_ipv4() == v4);
    to.effective(from).iter().filter(|prefix| has(prefix.addr().is_ipv4())).copied().collect()
}

/// The route policies of a peering, the caller's own first; none while it does not forward (rules C4, V2).
pub fn routes(state: &State, agents: &Agents<'_>, peering: &Peering, role: Role) -> Vec<RouteView> {
    if !peering.forwards() {
        return Vec::new();
    }
    let (own, other) = peering.view(role);
    let missing = agents.missing(peering);
    let of = |from: &Side, to: &Side| -> Vec<RouteView> {
        let hosts = state.hosts_of(&from.vpc);
        let confirmed = hosts.iter().filter(|host| !missing.contains(host)).count();
        let report = agents.oldest_report(&hosts);
        let route = |cidr: &ipnet::IpNet| RouteView {
            destination_cidr: cidr.to_string(),
            next_hop_type: "vpc_peering",
            next_hop: peering.id.to_string(),
            vpc_id: from.vpc.to_string(),
            installed: confirmed == hosts.len(),
            hosts: confirmed,
            last_report: time_of(report),
            report_age_seconds: seconds(report),
        };
        destinations(from, to).iter().map(route).collect()
    };
    [of(own, other), of(other, own)].concat()
}

/// A VPC, with the fields of both JD Cloud services that return one: `cps` (the first fields) and `vpc` (the last).
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VpcView {
    /// The region.
    pub region: String,
    /// The id.
    pub vpc_id: String,
    /// The name.
    pub name: String,
    /// The first IPv4 CIDR.
    pub cidr: Option<String>,
    /// The first IPv6 CIDR.
    pub ipv6_cidr: Option<String>,
    /// The owner's description.
    pub description: String,
    /// Deletion protection: the account must end it before it can delete the VPC.
    pub deletion_protection: bool,
    /// When it was created.
    pub create_time: String,
    /// All its CIDRs.
    pub cidrs: Vec<String>,
    /// The name.
    pub vpc_name: String,
    /// The first CIDR.
    pub address_prefix: String,
    /// Its route table.
    pub route_table_ids: Vec<String>,
    /// When it was created.
    pub created_time: String,
}

/// A VPC as its owner sees it.
pub fn vpc(vpc: &Vpc) -> VpcView {
    let first = |v4: bool| vpc.cidrs.iter().find(|cidr| cidr.addr().is_ipv4() == v4).map(ToString::to_string);
    VpcView {
        region: vpc.region.to_string(),
        vpc_id: vpc.id.to_string(),
        name: vpc.name.clone(),
        cidr: first(true),
        ipv6_cidr: first(false),
        description: vpc.description.clone(),
        deletion_protection: vpc.protected,
        create_time: timestamp(vpc.created_ms),
        cidrs: vpc.cidrs.iter().map(ToString::to_string).collect(),
        vpc_name: vpc.name.clone(),
        address_prefix: vpc.cidrs.first().map(ToString::to_string).unwrap_or_default(),
        route_table_ids: vec![route_table_id(vpc)],
        created_time: timestamp(vpc.created_ms),
    }
}

/// The id of a VPC's one route table.
pub fn route_table_id(vpc: &Vpc) -> String {
    format!("rtb-{}", vpc.id)
}

/// A rule of a route table.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleView {
    /// The destination.
    pub destination_cidr: String,
    /// `local` or `vpc_peering`.
    pub next_hop_type: &'static str,
    /// The peering; empty for what is local.
    pub next_hop: String,
}

/// The route table of a VPC, with the fields of both JD Cloud services that return one.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteTableView {
    /// The id.
    pub route_table_id: String,
    /// The region.
    pub region: String,
    /// The VPC.
    pub vpc_id: String,
    /// The VPC's name.
    pub vpc_name: String,
    /// The table's name.
    pub name: String,
    /// When it was created.
    pub create_time: String,
    /// Its rules.
    pub routes: Vec<RuleView>,
    /// The table's name.
    pub route_table_name: String,
    /// Its rules.
    pub route_table_rules: Vec<RuleView>,
    /// When it was created.
    pub created_time: String,
}

/// A VPC's route table as its owner sees it. Users never edit it (rule C4).
pub fn route_table(state: &State, vpc: &Vpc) -> RouteTableView {
    let local = vpc.cidrs.iter().map(|cidr| RuleView {
        destination_cidr: cidr.to_string(),
        next_hop_type: "local",
        next_hop: String::new(),
    });
    let forwarding = state.peerings_of(&vpc.id).filter(|peering| peering.forwards());
    let peered = forwarding.flat_map(|peering| {
        let views = peering.views().into_iter().filter(|(own, _)| own.vpc == vpc.id);
        views.flat_map(|(own, other)| destinations(own, other)).map(|cidr| RuleView {
            destination_cidr: cidr.to_string(),
            next_hop_type: "vpc_peering",
            next_hop: peering.id.to_string(),
        })
    });
    let rules: Vec<RuleView> = local.chain(peered).collect();
    RouteTableView {
        route_table_id: route_table_id(vpc),
        region: vpc.region.to_string(),
        vpc_id: vpc.id.to_string(),
        vpc_name: vpc.name.clone(),
        name: vpc.name.clone(),
        create_time: timestamp(vpc.created_ms),
        routes: rules.clone(),
        route_table_name: vpc.name.clone(),
        route_table_rules: rules,
        created_time: timestamp(vpc.created_ms),
    }
}
