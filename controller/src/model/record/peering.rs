//! Peerings and their sides.

use super::Manager;
use cps_peering_config::{
    id::{AccountId, HostId, PeeringId, RegionId, VpcId},
    net::Vni,
    prefix_set::intersection,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeSet};

/// A tag: a key and a value that users give to a peering.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tag {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

/// A peering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peering {
    /// Its id.
    pub id: PeeringId,
    /// Its name, unique per account and region of the initiator.
    pub name: String,
    /// The initiator's description, for itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The initiator's message to the receiver.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The initiator's tags; within an account, the account's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// The receiver's tags, if it is another account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receiver_tags: Vec<Tag>,
    /// The side that requested it.
    pub initiator: Side,
    /// The other side.
    pub receiver: Side,
    /// The bandwidth in each direction, in Mbit/s; none for no limit. Only between regions (rule B1).
    #[serde(default)]
    pub bandwidth: Option<u32>,
    /// Its state.
    pub state: PeeringState,
    /// When it was created, in milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// When an unanswered request expires, in milliseconds since 1970-01-01 UTC; none if it needed no answer.
    #[serde(default)]
    pub expires_ms: Option<u64>,
    /// When it first became active, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub activated_ms: Option<u64>,
    /// When it stopped for good, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub ended_ms: Option<u64>,
    /// The number of the commit that set its state: hosts must have applied it to confirm.
    pub since: u64,
    /// When its state was set, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub since_ms: u64,
    /// Hosts that had it and have no port of its VPCs any more. They may still have it, if they were not reached.
    #[serde(rename = "left", default, skip_serializing_if = "BTreeSet::is_empty")]
    pub former_hosts: BTreeSet<HostId>,
    /// How far it was charged, and for what; none before it was first charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<Meter>,
    /// Who manages it.
    #[serde(default, skip_serializing_if = "Manager::is_unknown")]
    pub managed_by: Manager,
}

/// One VPC's end of a peering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// The VPC.
    pub vpc: VpcId,
    /// Its account.
    pub account: AccountId,
    /// Its region.
    pub region: RegionId,
    /// The VNI of packets that arrive for this side; none before hosts have it, and none after.
    #[serde(default)]
    pub vni: Option<Vni>,
    /// The VPC's CIDRs, kept here because a peering's record may outlive the VPC.
    pub cidrs: Vec<IpNet>,
    /// The prefixes of its VPC that it exports, sorted; empty for all (rule C9).
    #[serde(rename = "export", default, skip_serializing_if = "Vec::is_empty")]
    pub export_prefixes: Vec<IpNet>,
    /// The prefixes of the other side's VPC that it imports, sorted; empty for all (rule C9).
    #[serde(rename = "import", default, skip_serializing_if = "Vec::is_empty")]
    pub import_prefixes: Vec<IpNet>,
    /// Whether its account has deleted or rejected the peering, and does not see it any more.
    #[serde(rename = "gone", default)]
    pub deleted_by_owner: bool,
    /// Deletion protection: its account must end it before it can delete the peering. It does not affect the other one (rule L5).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
}

/// The state of a peering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeeringState {
    /// The receiver has not answered.
    Pending,
    /// It is being installed on hosts.
    Provisioning,
    /// All hosts concerned have confirmed it, or had enough time.
    Active,
    /// 欠费停服: it is removed from hosts until the initiator's account has paid. For rules it counts as existing.
    Suspended {
        /// The hosts that had it.
        hosts: Vec<HostId>,
    },
    /// It is being removed from hosts, for good. It still counts for overlap, and its VNIs are not reused.
    Draining {
        /// The hosts that had it.
        hosts: Vec<HostId>,
    },
    /// It has ended. The record is kept for those who have not deleted theirs, and to know its id.
    Ended {
        /// How it ended.
        how: End,
        /// When the record is forgotten, in milliseconds since 1970-01-01 UTC.
        forget_ms: u64,
    },
}

/// How a peering ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// 对端已拒绝: the receiver rejected it.
    Rejected,
    /// 已过期: the receiver did not answer.
    Expired,
    /// 对端已删除: a party deleted it.
    Deleted,
}

/// The role of an account in a peering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// 发起端: it requested the peering.
    Initiator,
    /// 接收端: the request was for it.
    Receiver,
}

impl Role {
    /// Its name for users.
    pub fn word(self) -> &'static str {
        match self {
            Role::Initiator => "initiator",
            Role::Receiver => "receiver",
        }
    }
}

impl Side {
    /// What it exports, whatever the other side imports: its CIDRs, as far as they are in its list.
    pub fn offered(&self) -> Cow<'_, [IpNet]> {
        narrowed(Cow::Borrowed(&self.cidrs), &self.export_prefixes)
    }

    /// What the other side reaches: what it exports and the other side imports (rule C9).
    pub fn effective(&self, peer: &Side) -> Cow<'_, [IpNet]> {
        narrowed(self.offered(), &peer.import_prefixes)
    }
}

/// The part of some prefixes that is in a list, if there is a list.
fn narrowed<'a>(prefixes: Cow<'a, [IpNet]>, list: &[IpNet]) -> Cow<'a, [IpNet]> {
    if list.is_empty() { prefixes } else { Cow::Owned(intersection(&*prefixes, list)) }
}

impl Peering {
    /// Whether a side exports or imports only a part.
    pub fn is_scoped(&self) -> bool {
        self.sides().iter().any(|side| !side.export_prefixes.is_empty() || !side.import_prefixes.is_empty())
    }

    /// Both sides, the initiator's first.
    pub fn sides(&self) -> [&Side; 2] {
        [&self.initiator, &self.receiver]
    }

    /// Each side with the other.
    pub fn views(&self) -> [(&Side, &Side); 2] {
        [(&self.initiator, &self.receiver), (&self.receiver, &self.initiator)]
    }

    /// A role's side, and the other one.
    pub fn view(&self, role: Role) -> (&Side, &Side) {
        match role {
            Role::Initiator => (&self.initiator, &self.receiver),
            Role::Receiver => (&self.receiver, &self.initiator),
        }
    }

    /// A role's side.
    pub fn side_mut(&mut self, role: Role) -> &mut Side {
        match role {
            Role::Initiator => &mut self.initiator,
            Role::Receiver => &mut self.receiver,
        }
    }

    /// The tags of a role. Each account has its own.
    pub fn tags_of(&self, role: Role) -> &[Tag] {
        match role {
            Role::Receiver if self.is_cross_account() => &self.receiver_tags,
            Role::Initiator | Role::Receiver => &self.tags,
        }
    }

    /// The tags of a role, to be set.
    pub fn tags_of_mut(&mut self, role: Role) -> &mut Vec<Tag> {
        match role {
            Role::Receiver if self.is_cross_account() => &mut self.receiver_tags,
            Role::Initiator | Role::Receiver => &mut self.tags,
        }
    }

    /// Whether hosts should have it.
    pub fn forwards(&self) -> bool {
        matches!(self.state, PeeringState::Provisioning | PeeringState::Active)
    }

    /// Whether the owner of a side sees it: not what it has deleted or rejected, unless that is still draining.
    pub fn is_seen_from(&self, side: &Side) -> bool {
        matches!(self.state, PeeringState::Draining { .. }) || !side.deleted_by_owner
    }

    /// Whether it has been requested and has not stopped for good: names, pairs and quotas are about these.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, PeeringState::Draining { .. } | PeeringState::Ended { .. })
    }

    /// Whether it is a request whose deadline has passed, also if that has not been recorded (rule L3).
    pub fn has_expired(&self, now_ms: u64) -> bool {
        self.state == PeeringState::Pending && self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    /// Whether the receiver has accepted it, as far as its record tells: from then on both sides see each other's CIDRs
    /// (rule L11).
    pub fn was_accepted(&self) -> bool {
        match self.state {
            PeeringState::Pending => false,
            PeeringState::Ended { .. } => self.activated_ms.is_some(),
            _ => true,
        }
    }

    /// Whether it has ended, on hosts too.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, PeeringState::Ended { .. })
    }

    /// Whether its CIDRs count for what else a VPC can be peered with. A request counts for its initiator only: another
    /// account's must not block the receiver (rule L7).
    pub fn counts_for(&self, vpc: &VpcId) -> bool {
        match self.state {
            PeeringState::Ended { .. } => false,
            PeeringState::Pending => self.initiator.vpc == *vpc,
            _ => true,
        }
    }

    /// Whether its VPCs are in different regions: then it has a bandwidth, and the initiator pays for it.
    pub fn is_cross_region(&self) -> bool {
        self.initiator.region != self.receiver.region
    }

    /// Whether its VPCs are of different accounts.
    pub fn is_cross_account(&self) -> bool {
        self.initiator.account != self.receiver.account
    }

    /// The deadline of its state, in milliseconds since 1970-01-01 UTC.
    pub fn deadline_ms(&self) -> Option<u64> {
        match self.state {
            PeeringState::Pending => self.expires_ms,
            PeeringState::Ended { forget_ms, .. } => Some(forget_ms),
            _ => None,
        }
    }
}

/// How far a peering was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// The bandwidth that it is charged for, in Mbit/s; none while it is not charged.
    pub bandwidth: Option<u32>,
    /// Since when, in milliseconds since 1970-01-01 UTC. Earlier time is in closed periods.
    pub at_ms: u64,
    /// The highest bandwidth within the first second, which is charged for it; none if that is `bandwidth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<u32>,
    /// What it was charged for when a downtime of the controller of still unknown length began; none if that has not
    /// changed, or there is no such downtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absence: Option<Absence>,
}

/// What a peering was charged for when a downtime of the controller began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// When it began, in milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// The bandwidth in Mbit/s; none if it was not charged.
    pub bandwidth: Option<u32>,
}
