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

/// A key and a value that users put on a peering.
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
    /// What the initiator says about it, to itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What the initiator says to the receiver.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What the initiator put on it; within an account, what the account did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// What the receiver put on it, where it is another account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receiver_tags: Vec<Tag>,
    /// The side that asked.
    pub initiator: Side,
    /// The side that was asked.
    pub receiver: Side,
    /// The most that may pass in each direction, in Mbit/s; none for no limit. Only between regions (rule B1).
    #[serde(default)]
    pub bandwidth: Option<u32>,
    /// How far it is.
    pub state: PeeringState,
    /// When it was created, in milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// When a request that nobody answers expires, in milliseconds since 1970-01-01 UTC; none if it needed no answer.
    #[serde(default)]
    pub expires_ms: Option<u64>,
    /// When it first became active, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub activated_ms: Option<u64>,
    /// When it stopped for good, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub ended_ms: Option<u64>,
    /// The number of the commit that gave it its state: what hosts must have applied to confirm it.
    pub since: u64,
    /// When it got its state, in milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub since_ms: u64,
    /// Hosts that were told to have it and have no port of its VPCs any more. They may have it still, if they did not hear.
    #[serde(rename = "left", default, skip_serializing_if = "BTreeSet::is_empty")]
    pub former_hosts: BTreeSet<HostId>,
    /// Up to where it was charged, and for what it is charged since; none before it was first.
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
    /// The VNI of what arrives for this side; none before hosts have had it, and none after.
    #[serde(default)]
    pub vni: Option<Vni>,
    /// The VPC's CIDRs, kept here because a peering's record may outlive the VPC.
    pub cidrs: Vec<IpNet>,
    /// What of its VPC it shows to the other side, sorted; all where there are none (rule C9).
    #[serde(rename = "export", default, skip_serializing_if = "Vec::is_empty")]
    pub export_prefixes: Vec<IpNet>,
    /// What of the other side's VPC it takes, sorted; all where there are none (rule C9).
    #[serde(rename = "import", default, skip_serializing_if = "Vec::is_empty")]
    pub import_prefixes: Vec<IpNet>,
    /// Whether its account has deleted or rejected the peering, and sees it no more.
    #[serde(rename = "gone", default)]
    pub deleted_by_owner: bool,
    /// Whether its account has to end the protection before it can delete the peering. It holds nobody else up (rule L5).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
}

/// How far a peering is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeeringState {
    /// The receiver has not answered.
    Pending,
    /// Hosts are told to have it.
    Provisioning,
    /// All hosts concerned have confirmed it, or had time enough.
    Active,
    /// 欠费停服: hosts are told to have it no more until the initiator's account has paid. It counts as if it were there.
    Suspended {
        /// The hosts that had it.
        hosts: Vec<HostId>,
    },
    /// Hosts are told to have it no more, for good. It still counts for overlap, and its VNIs are not given to others.
    Draining {
        /// The hosts that had it.
        hosts: Vec<HostId>,
    },
    /// It is over. The record is kept for those who have not deleted theirs, and to know its id.
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
    /// 对端已拒绝: the receiver said no.
    Rejected,
    /// 已过期: the receiver said nothing.
    Expired,
    /// 对端已删除: a party deleted it.
    Deleted,
}

/// What an account is in a peering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// 发起端: it asked.
    Initiator,
    /// 接收端: it was asked.
    Receiver,
}

impl Role {
    /// The word for users.
    pub fn word(self) -> &'static str {
        match self {
            Role::Initiator => "initiator",
            Role::Receiver => "receiver",
        }
    }
}

impl Side {
    /// What of its VPC it shows, whatever the other side takes: its CIDRs, as far as it exports them.
    pub fn offered(&self) -> Cow<'_, [IpNet]> {
        narrowed(Cow::Borrowed(&self.cidrs), &self.export_prefixes)
    }

    /// What of its VPC the other side reaches: what it shows and the other side takes (rule C9).
    pub fn effective(&self, peer: &Side) -> Cow<'_, [IpNet]> {
        narrowed(self.offered(), &peer.import_prefixes)
    }
}

/// What of some prefixes is in a list, where there is a list.
fn narrowed<'a>(prefixes: Cow<'a, [IpNet]>, list: &[IpNet]) -> Cow<'a, [IpNet]> {
    if list.is_empty() { prefixes } else { Cow::Owned(intersection(&*prefixes, list)) }
}

impl Peering {
    /// Whether a side shows or takes only a part.
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

    /// Whether hosts must have it.
    pub fn forwards(&self) -> bool {
        matches!(self.state, PeeringState::Provisioning | PeeringState::Active)
    }

    /// Whether the owner of a side sees it: not what it has deleted or rejected, unless that is still being taken off hosts.
    pub fn is_seen_from(&self, side: &Side) -> bool {
        matches!(self.state, PeeringState::Draining { .. }) || !side.deleted_by_owner
    }

    /// Whether it was asked for and has not stopped for good: what names, pairs and quotas are about.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, PeeringState::Draining { .. } | PeeringState::Ended { .. })
    }

    /// Whether it is a request whose time is up, also before that was written down (rule L3).
    pub fn has_expired(&self, now_ms: u64) -> bool {
        self.state == PeeringState::Pending && self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    /// Whether the receiver has agreed to it, as far as its record tells: from then on both sides see each other's CIDRs
    /// (rule L11).
    pub fn was_accepted(&self) -> bool {
        match self.state {
            PeeringState::Pending => false,
            PeeringState::Ended { .. } => self.activated_ms.is_some(),
            _ => true,
        }
    }

    /// Whether it is over, on hosts too.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, PeeringState::Ended { .. })
    }

    /// Whether its CIDRs count for what else a VPC may be peered with. A request counts for its initiator only: a
    /// stranger's must not stand in the receiver's way (rule L7).
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

    /// When its time is up for what it is, in milliseconds since 1970-01-01 UTC.
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
    /// The bandwidth that it is charged for, in Mbit/s; none while it is charged for nothing.
    pub bandwidth: Option<u32>,
    /// Since when, in milliseconds since 1970-01-01 UTC. What was before is in closed periods.
    pub at_ms: u64,
    /// The highest bandwidth within the first second, which is charged for it; none where that is `bandwidth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<u32>,
    /// What it was charged for when an absence of the controller began of which it is not known yet how long it was; none where that
    /// is still so, or there is no such absence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absence: Option<Absence>,
}

/// What a peering was charged for when an absence of the controller began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// When that was, in milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// The bandwidth in Mbit/s; none where it was charged for nothing.
    pub bandwidth: Option<u32>,
}
