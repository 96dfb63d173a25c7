//! The records of the controller's store.

mod hourly;
mod peering;

pub use hourly::{Hourly, HourlyKey};
pub use peering::{Absence, End, Meter, Peering, PeeringState, Role, Side, Tag};

use super::Actor;
use cps_peering_config::{
    Revision,
    id::{AccountId, HostId, PeeringId, RegionId, VpcId},
    net::{InterfaceName, Vni},
    quota::Kind,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// The manager of a record. Pruning removes only what the same inventory created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Manager {
    /// Created by a release that did not record it.
    #[default]
    Unknown,
    /// The account that it belongs to.
    Account,
    /// An operator, by a command.
    Operator,
    /// An inventory, by its name.
    Inventory(String),
}

impl Manager {
    /// The manager of what this actor creates.
    pub(super) fn of(actor: &Actor) -> Self {
        match actor {
            Actor::Account(_) => Manager::Account,
            Actor::Operator | Actor::System => Manager::Operator,
        }
    }

    fn is_unknown(&self) -> bool {
        *self == Manager::Unknown
    }
}

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Its id.
    pub id: RegionId,
    /// Who manages it.
    #[serde(default, skip_serializing_if = "Manager::is_unknown")]
    pub managed_by: Manager,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// Its region.
    pub region: RegionId,
    /// Its VTEP address.
    pub underlay: IpAddr,
    /// The base URL of its agent.
    pub agent: String,
    /// The number of the commit that last changed the host's configuration.
    pub config_number: u64,
    /// Whether it was removed from the inventory. It is forgotten once its agent has confirmed that nothing is left.
    #[serde(default)]
    pub retiring: bool,
    /// Whether the inventory says that it is in maintenance: peerings then become active without waiting for it.
    #[serde(default)]
    pub maintenance: bool,
    /// Whether it is drained: it gets no new ports, and counts as in maintenance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// Its maintenance window, now or later. Release 0.2.0 does not know windows, and keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Whether pushes to it are paused. It is still polled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Whether it was removed as dead: nothing waits for it. The record stays so that its kernel is cleaned up,
    /// visibly, should its agent answer again. Such a host is `retiring`, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dead: bool,
    /// Its part in a rollout. Release 0.2.0 does not know rollouts, and configures all hosts
    /// immediately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pacing: Option<Pacing>,
    /// Who manages it.
    #[serde(default, skip_serializing_if = "Manager::is_unknown")]
    pub managed_by: Manager,
    /// The MTU of the underlay at its end in bytes, as its agent last reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay_mtu: Option<u32>,
}

/// A rollout: a change that some hosts have, and the others do not have yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The number of the commit that began it.
    pub number: u64,
    /// When that was, in milliseconds since 1970-01-01 UTC.
    pub begun_ms: u64,
    /// The commit with which operators last added something for hosts that wait.
    #[serde(default)]
    pub revision: Revision,
    /// Whether it is stopped until an operator continues it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// Whether a document has reverted what hosts waited for, so that it is about to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}

/// A maintenance window of a host. It begins and ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When it begins, in milliseconds since 1970-01-01 UTC.
    pub from_ms: u64,
    /// When it ends, likewise.
    pub until_ms: u64,
    /// Whether it has begun.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begun: bool,
    /// Whether it was given by its length, beginning immediately: then it lasts that long, whatever happens to the clock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_length: bool,
}

impl Window {
    /// Its next deadline, in milliseconds since 1970-01-01 UTC.
    pub fn due_ms(&self) -> u64 {
        if self.begun { self.until_ms } else { self.from_ms }
    }
}

/// The part of a host in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pacing {
    /// It is a canary.
    Canary,
    /// It waits for the canaries.
    Held {
        /// The number of the configuration that it has.
        has: u64,
        /// The number of the one that it waits for. If its record has another, a release without rollouts has planned it since, and it
        /// does not wait any more.
        plan: u64,
        /// The digest of the one that it has.
        #[serde(default)]
        digest: u64,
    },
}

impl Host {
    /// Whether it is in maintenance, by its inventory, a drain, or a window: changes do not wait for it.
    pub fn in_maintenance(&self) -> bool {
        self.maintenance || self.drained || self.window.is_some_and(|window| window.begun)
    }

    /// The number and digest of the configuration that it has while it is held back; none if it
    /// is not.
    pub fn held_with(&self) -> Option<(u64, u64)> {
        match self.pacing {
            Some(Pacing::Held { has, plan, digest }) if plan == self.config_number => Some((has, digest)),
            _ => None,
        }
    }

    /// Whether it is held back in a rollout.
    pub fn is_held_back(&self) -> bool {
        self.held_with().is_some()
    }
}

/// A VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vpc {
    /// Its id.
    pub id: VpcId,
    /// Its name for people.
    pub name: String,
    /// The account that owns it.
    pub account: AccountId,
    /// The region it lives in.
    pub region: RegionId,
    /// Its address space.
    pub cidrs: Vec<IpNet>,
    /// The VNI for traffic between its ports on different hosts.
    pub vni: Vni,
    /// Its owner's description.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When it was created, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub created_ms: u64,
    /// Who manages it.
    #[serde(default, skip_serializing_if = "Manager::is_unknown")]
    pub managed_by: Manager,
    /// Deletion protection: its account must end it before it can delete the VPC.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
}

/// What identifies a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortKey {
    /// The host.
    pub host: HostId,
    /// The interface on it.
    pub interface: InterfaceName,
}

impl std::fmt::Display for PortKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.host, self.interface)
    }
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The VPC.
    pub key: PortKey,
    /// The VPC that it belongs to.
    pub vpc: VpcId,
    /// Its gateway addresses with the length of their subnet.
    pub gateways: Vec<IpNet>,
    /// The prefixes behind it.
    pub prefixes: Vec<IpNet>,
    /// Who manages it.
    #[serde(default, skip_serializing_if = "Manager::is_unknown")]
    pub managed_by: Manager,
}

/// A secret key in stored form: sealed (see [`vault`](crate::access::vault)). An earlier version stored it in clear.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedKey(String);

impl SealedKey {
    /// From the stored form.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The stored form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealedKey")
    }
}

/// An account. One that is only mentioned by VPCs has no record: it is as [`Account::new`] makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// The secret keys with which its clients sign requests, by access key.
    pub keys: BTreeMap<String, SealedKey>,
    /// The SHA-256 of its bearer tokens in hexadecimal, by the tokens' ids.
    pub tokens: BTreeMap<String, String>,
    /// Its charge status.
    pub charge: Charge,
    /// Its quotas of peerings by region, if not the default.
    pub quotas: BTreeMap<RegionId, u32>,
    /// The accounts that it blocks.
    pub blocked: BTreeSet<AccountId>,
    /// Its other quotas by region and type, if not the default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<Kind, BTreeMap<RegionId, u32>>,
    /// The same for [`Kind::BandwidthChange`]. Release 0.2.0 does not know that kind, and would refuse a record with it in `limits`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bandwidth_changes: BTreeMap<RegionId, u32>,
    /// VPCs (by id) and secondary CIDRs (by VPC and CIDR, see [`cidr_key`](super::vpc::cidr_key)) that it had: deleting one again
    /// is no error.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deleted: BTreeMap<String, Deleted>,
}

/// A deleted object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The region it was in.
    pub region: RegionId,
    /// When this is forgotten, in milliseconds since 1970-01-01 UTC.
    pub forget_ms: u64,
}

impl Account {
    /// An account in good standing, without any credentials.
    pub fn new(id: AccountId) -> Self {
        Self {
            id,
            keys: BTreeMap::new(),
            tokens: BTreeMap::new(),
            charge: Charge::Normal,
            quotas: BTreeMap::new(),
            blocked: BTreeSet::new(),
            limits: BTreeMap::new(),
            bandwidth_changes: BTreeMap::new(),
            deleted: BTreeMap::new(),
        }
    }
}

/// The charge status of an account (`chargeStatus`, rule B5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    /// Nothing is owed.
    Normal,
    /// Something is owed; everything keeps running.
    Overdue,
    /// 欠费停服: the peerings that it pays for are suspended.
    Arrear {
        /// Since when, in milliseconds since 1970-01-01 UTC.
        since_ms: u64,
        /// When these are deleted, in milliseconds since 1970-01-01 UTC; none once that was done.
        delete_ms: Option<u64>,
    },
}

impl Charge {
    /// The billing system's word.
    pub fn word(self) -> &'static str {
        match self {
            Charge::Normal => "normal",
            Charge::Overdue => "overdue",
            Charge::Arrear { .. } => "arrear",
        }
    }

    /// When suspended peerings are deleted, in milliseconds since 1970-01-01 UTC.
    pub fn delete_ms(self) -> Option<u64> {
        match self {
            Charge::Arrear { delete_ms, .. } => delete_ms,
            Charge::Normal | Charge::Overdue => None,
        }
    }

    /// The same after suspended peerings have been deleted.
    #[must_use]
    pub fn without_deadline(self) -> Self {
        match self {
            Charge::Arrear { since_ms, .. } => Charge::Arrear { since_ms, delete_ms: None },
            other => other,
        }
    }

    /// Whether the peerings that the account pays for are suspended.
    pub fn in_arrear(self) -> bool {
        matches!(self, Charge::Arrear { .. })
    }
}

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// The account, and the region whose events are sent; none for operators, who get all events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(AccountId, RegionId)>,
    /// Its URL.
    pub url: String,
    /// The types of events to send; empty for all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub types: BTreeSet<String>,
    /// The secret that requests are signed with, sealed.
    pub secret: SealedKey,
    /// The position between events at which it begins.
    pub after: String,
    /// Whether events are sent.
    pub enabled: bool,
    /// When it was created, in milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
}

impl Webhook {
    /// The account and access key that its secret is sealed for. No real access key has this name.
    pub fn seal(owner: Option<&AccountId>, id: &str) -> (AccountId, String) {
        let account = owner.cloned().unwrap_or_else(|| "operators".parse().expect("a legal id"));
        (account, format!("webhook/{id}"))
    }

    /// The same of this one.
    pub fn sealed_for(&self) -> (AccountId, String) {
        Self::seal(self.owner.as_ref().map(|(account, _)| account), &self.id)
    }
}

/// The use of a client token (`clientToken`), so that a repeated request has no further effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// The command: a request with the same token must have the same.
    pub request: String,
    /// Its result.
    pub result: Made,
    /// When it is forgotten, in milliseconds since 1970-01-01 UTC.
    pub forget_ms: u64,
}

/// The object that a command created or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    /// A peering.
    Peering(PeeringId),
    /// A VPC.
    Vpc(VpcId),
}

/// What identifies the use of a client token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TokenKey {
    /// The account.
    pub account: AccountId,
    /// The token, 1 to 36 characters.
    pub token: String,
}
