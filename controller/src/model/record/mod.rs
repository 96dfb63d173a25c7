//! What the controller remembers: the records of its store.

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

/// Who manages a record. Pruning removes what the same inventory made, and nothing of anybody else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Manager {
    /// It was made by a release that did not say.
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
    /// Whose it is that somebody makes now.
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
    /// The region it stands in.
    pub region: RegionId,
    /// Its VTEP address.
    pub underlay: IpAddr,
    /// The base URL of its agent.
    pub agent: String,
    /// The number of the commit that last changed what the host must have.
    pub config_number: u64,
    /// Whether it was removed from the inventory. It is forgotten once its agent has confirmed that nothing is left.
    #[serde(default)]
    pub retiring: bool,
    /// Whether it is being worked on: peerings then become active without waiting for it.
    #[serde(default)]
    pub maintenance: bool,
    /// Whether an operator has drained it: it gets no new ports, and counts as being worked on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// When it is going to be worked on, or is. Release 0.2.0 knows of no windows, and keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Whether nothing is pushed to it until an operator says otherwise. It is asked how it stands all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Whether it was removed without waiting for its agent: nothing waits for it. The record stays so that its kernel is cleaned,
    /// and it is seen, should its agent answer again. Such a host is `retiring`, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dead: bool,
    /// Its part in a change that reaches some hosts before the others. Release 0.2.0 does not know of that, and tells all hosts at
    /// once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pacing: Option<Pacing>,
    /// Who manages it.
    #[serde(default, skip_serializing_if = "Manager::is_unknown")]
    pub managed_by: Manager,
    /// The MTU of the underlay at its end in bytes, as its agent last said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay_mtu: Option<u32>,
}

/// A change that has reached some hosts, and not yet the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The number of the commit that began it.
    pub number: u64,
    /// When that was, in milliseconds since 1970-01-01 UTC.
    pub begun_ms: u64,
    /// The commit with which operators last gave something to hosts that wait.
    #[serde(default)]
    pub revision: Revision,
    /// Whether it goes on only when an operator says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// Whether a document has taken back what hosts waited for, so that it is about to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}

/// A time in which a host is worked on. It begins and ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When it begins, in milliseconds since 1970-01-01 UTC.
    pub from_ms: u64,
    /// When it ends, likewise.
    pub until_ms: u64,
    /// Whether it has begun.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begun: bool,
    /// Whether it was given by its length, beginning when it was asked for: then it lasts so long, whatever becomes of the clock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_length: bool,
}

impl Window {
    /// When something is to be done about it, in milliseconds since 1970-01-01 UTC.
    pub fn due_ms(&self) -> u64 {
        if self.begun { self.until_ms } else { self.from_ms }
    }
}

/// What a host is to a change that reaches some hosts before the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pacing {
    /// One of the first.
    Canary,
    /// One that waits for them.
    Held {
        /// The number of the configuration that it has.
        has: u64,
        /// The number of the one that it waits for. Where its record has another, a release that knows of no rollouts has planned it since, and it
        /// waits no more.
        plan: u64,
        /// What the one that it has says, as a digest.
        #[serde(default)]
        digest: u64,
    },
}

impl Host {
    /// Whether it is being worked on, by its inventory, because it was drained, or in a window: nothing that begins waits for it.
    pub fn in_maintenance(&self) -> bool {
        self.maintenance || self.drained || self.window.is_some_and(|window| window.begun)
    }

    /// The number of the configuration that it has, and goes on to have while others get theirs first, and its digest; none where it does
    /// not wait.
    pub fn held_with(&self) -> Option<(u64, u64)> {
        match self.pacing {
            Some(Pacing::Held { has, plan, digest }) if plan == self.config_number => Some((has, digest)),
            _ => None,
        }
    }

    /// Whether it does not get yet what it must have, because others get theirs first.
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
    /// Under which its ports on different hosts reach each other.
    pub vni: Vni,
    /// What its owner says about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When it was created, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub created_ms: u64,
    /// Who manages it.
    #[serde(default, skip_serializing_if = "Manager::is_unknown")]
    pub managed_by: Manager,
    /// Whether its account has to end the protection before it can delete it.
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

/// A secret key as it is kept: sealed (see [`vault`](crate::access::vault)). A version before this one kept it in clear.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedKey(String);

impl SealedKey {
    /// As it is kept.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// As it is kept.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealedKey")
    }
}

/// An account. One that is mentioned by VPCs alone has no record: it is as [`Account::new`] makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// The secret keys with which its clients sign requests, by access key.
    pub keys: BTreeMap<String, SealedKey>,
    /// The SHA-256 of its bearer tokens in hexadecimal, by the tokens' ids.
    pub tokens: BTreeMap<String, String>,
    /// How it stands with the billing system.
    pub charge: Charge,
    /// How many peerings it may have in a region, where that is not the default.
    pub quotas: BTreeMap<RegionId, u32>,
    /// The accounts from which it wants no requests.
    pub blocked: BTreeSet<AccountId>,
    /// How many of other things it may have in a region, where that is not the default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<Kind, BTreeMap<RegionId, u32>>,
    /// The same for [`Kind::BandwidthChange`]. Release 0.2.0 does not know that word, and would refuse the record with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bandwidth_changes: BTreeMap<RegionId, u32>,
    /// VPCs (by id) and secondary CIDRs (by VPC and CIDR, see [`cidr_key`](super::vpc::cidr_key)) that it had: to delete one again
    /// is no error.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deleted: BTreeMap<String, Deleted>,
}

/// Something that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The region it was in.
    pub region: RegionId,
    /// When that it was there is forgotten, in milliseconds since 1970-01-01 UTC.
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

/// How an account stands with the billing system (`chargeStatus`, rule B5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    /// Nothing is owed.
    Normal,
    /// Something is owed; everything keeps running.
    Overdue,
    /// 欠费停服: what it pays for is suspended.
    Arrear {
        /// Since when, in milliseconds since 1970-01-01 UTC.
        since_ms: u64,
        /// When what is suspended will be deleted, in milliseconds since 1970-01-01 UTC; none once that was done.
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

    /// When what is suspended will be deleted, in milliseconds since 1970-01-01 UTC.
    pub fn delete_ms(self) -> Option<u64> {
        match self {
            Charge::Arrear { delete_ms, .. } => delete_ms,
            Charge::Normal | Charge::Overdue => None,
        }
    }

    /// The same after what was suspended has been deleted.
    #[must_use]
    pub fn without_deadline(self) -> Self {
        match self {
            Charge::Arrear { since_ms, .. } => Charge::Arrear { since_ms, delete_ms: None },
            other => other,
        }
    }

    /// Whether what the account pays for is suspended.
    pub fn in_arrear(self) -> bool {
        matches!(self, Charge::Arrear { .. })
    }
}

/// Where events are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// The account, and the region in which it is told what happens; none for operators, who are told everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(AccountId, RegionId)>,
    /// Where to.
    pub url: String,
    /// Which types of events; all where there are none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub types: BTreeSet<String>,
    /// What requests are signed with, as it is kept.
    pub secret: SealedKey,
    /// Behind which place between events it begins.
    pub after: String,
    /// Whether anything is sent.
    pub enabled: bool,
    /// When it was created, in milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
}

impl Webhook {
    /// For whom and for what its secret is sealed. No access key is called so.
    pub fn seal(owner: Option<&AccountId>, id: &str) -> (AccountId, String) {
        let account = owner.cloned().unwrap_or_else(|| "operators".parse().expect("a legal id"));
        (account, format!("webhook/{id}"))
    }

    /// The same of this one.
    pub fn sealed_for(&self) -> (AccountId, String) {
        Self::seal(self.owner.as_ref().map(|(account, _)| account), &self.id)
    }
}

/// What a client token (`clientToken`) was used for, so that the same request does nothing twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// What was asked: a request with the same token must ask the same.
    pub request: String,
    /// What it led to.
    pub result: Made,
    /// When it is forgotten, in milliseconds since 1970-01-01 UTC.
    pub forget_ms: u64,
}

/// What a command made or was about.
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
    /// Whose it is.
    pub account: AccountId,
    /// The token, 1 to 36 characters.
    pub token: String,
}
