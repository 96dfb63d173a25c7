//! Records as the HTTP API shows them: peerings here, the rest in submodules.

mod networks;
mod operators;

pub use networks::{RouteTableView, RouteView, RuleView, VpcView, route_table, route_table_id, routes, vpc};
pub use operators::{AccountView, HostView, account, host, inventory};

use crate::{
    engine::{Agents, Confirmation, LastReport, PathHealth},
    model::{
        peering::{Create, side_of, state_word},
        record::{End, Peering, PeeringState, Role, Side, Tag},
        state::State,
    },
};
use cps_peering_config::{
    Revision,
    id::{AccountId, HostId},
    time::timestamp,
};
use serde::Serialize;
use utoipa::ToSchema;

/// All of JD Cloud's coarse words for states.
pub const COARSE_WORDS: [&str; 3] = ["Initiated", "Connected", "Disconnected"];

/// JD Cloud's coarse word for a state.
fn coarse(state: &PeeringState) -> &'static str {
    match state {
        PeeringState::Pending => "Initiated",
        PeeringState::Provisioning | PeeringState::Active => "Connected",
        _ => "Disconnected",
    }
}

/// One VPC's end of a peering.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SideView {
    /// The VPC.
    pub vpc_id: String,
    /// Its name; its id if its account has not accepted yet or it has been deleted.
    pub vpc_name: String,
    /// Its CIDRs, IPv4 and IPv6 together. For another account's VPC, only the part that it exports; the initiator sees none
    /// before the request is accepted.
    pub address_prefix: Vec<String>,
    /// Prefixes that are exported to the other side; empty for all. Not disclosed for another account's side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export_prefixes: Option<Vec<String>>,
    /// Prefixes of the other side's VPC that are imported; empty for all. Not disclosed for another account's side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import_prefixes: Option<Vec<String>>,
    /// Prefixes of the VPC that the other side can reach: those that this side exports and the other one imports. A packet
    /// is forwarded only if its source and its destination are both within effective prefixes.
    pub effective_prefixes: Vec<String>,
    /// Its region.
    pub region_id: String,
    /// Its account.
    pub account_id: String,
    /// For operators: the VNI of packets that arrive for this side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
}

/// How a peering is charged, and the payer's charge status. Peerings within a region are free of charge.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChargeView {
    /// `postpaid_by_duration`.
    pub charge_mode: &'static str,
    /// Charge status of the initiator's account: `normal`, `overdue` or `arrear`. The other account sees `arrear` only while
    /// the peering is suspended because of it.
    pub charge_status: &'static str,
    /// When charging started.
    pub charge_start_time: Option<String>,
    /// When charging ended.
    pub charge_retire_time: Option<String>,
}

/// A tag of an account on its side of a peering.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TagView {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

impl From<&Tag> for TagView {
    fn from(tag: &Tag) -> Self {
        Self { key: tag.key.clone(), value: tag.value.clone() }
    }
}

/// Health of the paths between the hosts of a peering, measured by probes that the hosts send to each other all the time:
/// the worst of all its paths.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathHealthView {
    /// Packet loss among the latest probes of the path that loses most, in percent, rounded up. Long packets that are lost
    /// while short ones pass do not count.
    pub loss_percent: u32,
    /// Round-trip time of the slowest path by its latest probe, in milliseconds; none where no reply arrives.
    pub round_trip_ms: Option<f64>,
    /// Whether on some path packets of the expected MTU are lost while short ones pass; none where that is not known.
    pub mtu_black_hole: Option<bool>,
    /// When the oldest of these values was measured.
    pub sampled_at: String,
}

impl PathHealthView {
    fn of(health: PathHealth, now_ms: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "far fewer microseconds than 2^52")]
        let ms = |us: u64| us as f64 / 1000.0;
        Self {
            loss_percent: health.loss_percent(),
            round_trip_ms: health.round_trip_us.map(ms),
            mtu_black_hole: health.mtu_black_hole,
            sampled_at: timestamp(now_ms.saturating_sub(health.age_ms)),
        }
    }
}

/// A peering, from the point of view of one of its sides.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeeringView {
    /// `vpcpr-` and ten characters.
    pub vpc_peering_id: String,
    /// The name.
    pub vpc_peering_name: String,
    /// `Initiated`, `Connected` or `Disconnected`.
    pub vpc_peering_state: &'static str,
    /// The initiator's description; empty for a receiver in another account.
    pub description: String,
    /// The initiator's message to the receiver.
    pub message: String,
    /// The caller's own side.
    pub vpc_info: SideView,
    /// The other side.
    pub remote_vpc_info: SideView,
    /// When it was created.
    pub created_time: String,
    /// The caller's own tags; the other account's are not shown.
    pub tags: Vec<TagView>,
    /// `pending`, `provisioning`, `active`, `suspended`, `draining`, `rejected`, `expired` or `peer_deleted`.
    pub state: &'static str,
    /// Explanation of the state, where there is one.
    pub state_reason: Option<String>,
    /// `initiator` or `receiver`.
    pub role: &'static str,
    /// When the request expires, or has expired, unless it is answered.
    pub expired_time: Option<String>,
    /// When it first became active.
    pub activated_time: Option<String>,
    /// Bandwidth limit in each direction, in Mbit/s; none for no limit.
    pub bandwidth: Option<u32>,
    /// Charge information; none within a region.
    pub charge: Option<ChargeView>,
    /// Deletion protection of the caller's side: the caller must end it before it can delete the peering.
    pub deletion_protection: bool,
    /// Whether every kernel concerned is known to have it: the last reports of all its hosts say so, none of them is too
    /// old, and no agent has failed to answer since.
    pub routes_in_sync: bool,
    /// The oldest of its hosts' last reports; none if there are no hosts, or one has not reported yet.
    pub last_report: Option<String>,
    /// Age of that report, in seconds.
    pub report_age_seconds: Option<u64>,
    /// The latest time at which all kernels concerned are known to have had it, by the last reports; none if one of them differs.
    pub last_confirmed: Option<String>,
    /// Health of the paths between its hosts, measured by probes; none where that is not known: the peering does not
    /// forward, there has been no sample yet or none for minutes, or it has no path from one host to another.
    pub path_health: Option<PathHealthView>,
    /// For operators: its state on each host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<PeeringHost>>,
}

/// A peering's state on one host.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeeringHost {
    /// The host.
    #[schema(value_type = String)]
    pub host: HostId,
    /// Whether the host has confirmed that its kernel has the peering or, when that is being deleted, no longer has it.
    pub confirmed: bool,
    /// The revision that the host should have.
    #[schema(value_type = Option<Object>)]
    pub desired: Option<Revision>,
    /// The revision that its kernel was last brought to.
    #[schema(value_type = Option<Object>)]
    pub applied: Option<Revision>,
    /// When its agent last answered.
    pub last_report: Option<String>,
    /// Age of that report, in seconds.
    pub report_age_seconds: Option<u64>,
    /// Why polling its agent has failed since, why the agent refused, or why its last report no longer counts.
    pub last_error: Option<String>,
    /// Health of the paths from it to the peer's hosts, by its own probes; none where that is not known.
    pub path_health: Option<PathHealthView>,
}

/// Who sees it.
#[derive(Debug, Clone, Copy)]
pub enum Viewer<'a> {
    /// An operator.
    Operator,
    /// One of the accounts.
    Account(&'a AccountId),
}

/// Whether a side is the viewer's own, or the viewer is an operator.
fn is_own(side: &Side, viewer: Viewer<'_>) -> bool {
    match viewer {
        Viewer::Operator => true,
        Viewer::Account(account) => side.account == *account,
    }
}

/// An initiator learns name and CIDRs of the other account's VPC when the request is accepted (L11).
fn is_hidden(peering: &Peering, side: &Side, viewer: Viewer<'_>) -> bool {
    !is_own(side, viewer) && side.vpc == peering.receiver.vpc && !peering.was_accepted()
}

/// Prefixes of a side's VPC that the other side can reach.
fn effective(side: &Side, peer: &Side) -> Vec<String> {
    side.effective(peer).iter().map(ToString::to_string).collect()
}

/// The prefixes that are reachable after a change of a peering's prefixes.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReachableView {
    /// Prefixes of the caller's VPC that the other side would reach.
    pub own_prefixes: Vec<String>,
    /// Prefixes of the other VPC that the caller's side would reach; none while the other account has not accepted.
    pub remote_prefixes: Option<Vec<String>>,
}

/// The same for a peering that an account would create; none where a VPC is gone.
pub fn reachable_if_created(state: &State, wish: &Create, account: &AccountId) -> Option<ReachableView> {
    let side = |id, lists| state.vpcs().get(id).and_then(|vpc| side_of(vpc, lists).ok());
    let (own, remote) = (side(&wish.vpc, &wish.prefixes)?, side(&wish.peer_vpc, &wish.peer_prefixes)?);
    let is_visible = remote.account == *account;
    Some(ReachableView {
        own_prefixes: effective(&own, &remote),
        remote_prefixes: is_visible.then(|| effective(&remote, &own)),
    })
}

/// Whether a side has prefix lists, or the other one reaches less than all of its VPC: `true` or `false`. What the other
/// side does not export is not disclosed (rule L11).
pub fn scoped_word(peering: &Peering, role: Role) -> &'static str {
    let (own, other) = peering.view(role);
    let has_lists = !own.export_prefixes.is_empty() || !own.import_prefixes.is_empty();
    if has_lists || *own.effective(other) != *own.cidrs { "true" } else { "false" }
}

/// What is reachable in a peering, as the side with this role sees it (rule L11).
pub fn reachable(peering: &Peering, role: Role, viewer: Viewer<'_>) -> ReachableView {
    let (own, remote) = peering.view(role);
    let is_visible = !is_hidden(peering, remote, viewer);
    ReachableView { own_prefixes: effective(own, remote), remote_prefixes: is_visible.then(|| effective(remote, own)) }
}

fn side(state: &State, peering: &Peering, (side, peer): (&Side, &Side), viewer: Viewer<'_>) -> SideView {
    let (own, hidden) = (is_own(side, viewer), is_hidden(peering, side, viewer));
    let vpc = state.vpcs().get(&side.vpc).filter(|_| !hidden);
    let cidrs = if own { side.cidrs.as_slice().into() } else { side.offered() };
    let cidrs = cidrs.iter().filter(|_| !hidden);
    let list = |prefixes: &[ipnet::IpNet]| own.then(|| prefixes.iter().map(ToString::to_string).collect());
    SideView {
        vpc_id: side.vpc.to_string(),
        vpc_name: vpc.map_or(side.vpc.as_str(), |vpc| vpc.name.as_str()).to_owned(),
        address_prefix: cidrs.map(ToString::to_string).collect(),
        export_prefixes: list(&side.export_prefixes),
        import_prefixes: list(&side.import_prefixes),
        effective_prefixes: if hidden { Vec::new() } else { effective(side, peer) },
        region_id: side.region.to_string(),
        account_id: side.account.to_string(),
        vni: side.vni.map(u32::from).filter(|_| matches!(viewer, Viewer::Operator)),
    }
}

/// The warning to receivers of a request (rule L11).
const WARNING: &str = "do not accept requests from accounts that you do not know: they may put your network at risk \
                       (请勿接受未知账户的对等连接申请，此类用户可能会给您的网络带来风险)";

/// Whether the viewer can see the payer's charge status: that of another account is not disclosed.
fn pays(peering: &Peering, viewer: Viewer<'_>) -> bool {
    match viewer {
        Viewer::Operator => true,
        Viewer::Account(account) => peering.initiator.account == *account,
    }
}

/// How many hosts have not confirmed, and when they last did.
fn unconfirmed(known: &Confirmation) -> String {
    let last = known.confirmed_ms.map(|at| format!("; it was last confirmed at {}", timestamp(at)));
    let word = if known.missing.len() == 1 { "host has" } else { "hosts have" };
    format!("{} {word} not confirmed it{}", known.missing.len(), last.unwrap_or_default())
}

fn seconds(report: Option<LastReport>) -> Option<u64> {
    report.map(|report| report.age_ms / 1000)
}

fn time_of(report: Option<LastReport>) -> Option<String> {
    report.map(|report| timestamp(report.time_ms))
}

/// Why nothing current is known of a host from its agent.
fn last_error(agents: &Agents<'_>, host: &HostId) -> Option<String> {
    let error = agents.contact(host).and_then(|contact| contact.error.clone());
    let too_old = || agents.last_report(host).is_some_and(|report| agents.is_too_old(report));
    error
        .or_else(|| too_old().then(|| format!("its last report is older than {} s", agents.max_report_age_ms() / 1000)))
}

fn reason(
    state: &State,
    peering: &Peering,
    (role, viewer): (Role, Viewer<'_>),
    known: &Confirmation,
) -> Option<String> {
    let initiator = &peering.initiator.account;
    Some(match &peering.state {
        PeeringState::Pending if role == Role::Receiver => WARNING.to_owned(),
        PeeringState::Pending => format!("account {} has not answered", peering.receiver.account),
        PeeringState::Provisioning => unconfirmed(known),
        PeeringState::Active if !known.missing.is_empty() => unconfirmed(known),
        PeeringState::Suspended { .. } if !pays(peering, viewer) => {
            format!("it is suspended: ask account {initiator}, which pays for it; it then resumes automatically")
        }
        PeeringState::Suspended { .. } => {
            let word = state.account(initiator).charge.word();
            format!(
                "AccountInArrear: account {initiator}, which pays for it, is in {word}; it resumes automatically after payment"
            )
        }
        PeeringState::Draining { .. } => {
            let known = Confirmation { confirmed_ms: None, ..known.clone() };
            format!("it forwards nothing on any host that can be reached; {}", unconfirmed(&known))
        }
        PeeringState::Ended { how: End::Rejected, .. } => {
            format!("account {} has rejected it", peering.receiver.account)
        }
        PeeringState::Ended { how: End::Expired, .. } => "the request was not answered in time".to_owned(),
        PeeringState::Ended { how: End::Deleted, .. } => "the other side has deleted it".to_owned(),
        PeeringState::Active => return None,
    })
}

fn charge(state: &State, peering: &Peering, viewer: Viewer<'_>) -> Option<ChargeView> {
    let suspended = matches!(peering.state, PeeringState::Suspended { .. });
    let charge_status = match state.account(&peering.initiator.account).charge.word() {
        word if pays(peering, viewer) || (suspended && word == "arrear") => word,
        _ => "normal",
    };
    peering.is_cross_region().then(|| ChargeView {
        charge_mode: "postpaid_by_duration",
        charge_status,
        charge_start_time: peering.activated_ms.map(timestamp),
        charge_retire_time: peering.activated_ms.and(peering.ended_ms).map(timestamp),
    })
}

/// The names of a peering's state: the product's, and JD Cloud's coarse one.
pub fn state_words(peering: &Peering, now_ms: u64) -> [&'static str; 2] {
    if peering.has_expired(now_ms) {
        return ["expired", coarse(&PeeringState::Ended { how: End::Expired, forget_ms: 0 })];
    }
    [state_word(&peering.state), coarse(&peering.state)]
}

/// A peering as one of its sides sees it. Operators see it as the initiator, with its hosts. A request whose deadline has passed
/// has expired, whether or not that has been recorded (rule L3).
pub fn peering(
    state: &State,
    agents: &Agents<'_>,
    peering: &Peering,
    role: Role,
    viewer: Viewer<'_>,
    now_ms: u64,
) -> PeeringView {
    let expired;
    let mut peering = peering;
    if peering.has_expired(now_ms) {
        let forget_ms = u64::MAX;
        expired = Peering { state: PeeringState::Ended { how: End::Expired, forget_ms }, ..peering.clone() };
        peering = &expired;
    }
    let known = agents.confirmation(peering);
    // An account's own texts about a peering are not shown to the other one.
    let is_for_itself = role == Role::Initiator || !peering.is_cross_account();
    let (own, other) = peering.view(role);
    let health = |health| PathHealthView::of(health, now_ms);
    let hosts = || {
        let concerned = state.hosts_concerned(peering).into_iter();
        let host = |id: HostId| PeeringHost {
            confirmed: !known.missing.contains(&id),
            desired: state.hosts().get(&id).map(|host| state.revision_of(host)),
            applied: agents.contact(&id).and_then(|contact| contact.report.as_ref()?.applied),
            last_report: time_of(agents.last_report(&id)),
            report_age_seconds: seconds(agents.last_report(&id)),
            last_error: last_error(agents, &id),
            path_health: agents.path_health_from(&id, peering).map(health),
            host: id,
        };
        concerned.map(host).collect()
    };
    PeeringView {
        vpc_peering_id: peering.id.to_string(),
        vpc_peering_name: peering.name.clone(),
        vpc_peering_state: coarse(&peering.state),
        description: if is_for_itself { peering.description.clone() } else { String::new() },
        message: peering.message.clone(),
        vpc_info: side(state, peering, (own, other), viewer),
        remote_vpc_info: side(state, peering, (other, own), viewer),
        created_time: timestamp(peering.created_ms),
        tags: peering.tags_of(role).iter().map(TagView::from).collect(),
        state: state_word(&peering.state),
        state_reason: reason(state, peering, (role, viewer), &known),
        role: role.word(),
        expired_time: peering.expires_ms.map(timestamp),
        activated_time: peering.activated_ms.map(timestamp),
        bandwidth: peering.bandwidth,
        charge: charge(state, peering, viewer),
        deletion_protection: own.protected,
        routes_in_sync: peering.forwards() && known.missing.is_empty(),
        last_report: time_of(known.report),
        report_age_seconds: seconds(known.report),
        last_confirmed: known.confirmed_ms.filter(|_| peering.forwards()).map(timestamp),
        path_health: agents.path_health(peering).map(health),
        hosts: matches!(viewer, Viewer::Operator).then(hosts),
    }
}
