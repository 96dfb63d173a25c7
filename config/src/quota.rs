//! What quotas count: the words shared by the HTTP interface, its clients and stored records.

use serde::{Deserialize, Serialize};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Live peerings that the account initiated from the region (rule L9).
    VpcPeering,
    /// VPCs of the account in the region.
    Vpc,
    /// CIDRs of those VPCs beside their first ones.
    SecondaryCidr,
    /// Tags of the account on live peerings of its VPCs in the region.
    Tag,
    /// Client tokens that are remembered for the account, in whatever region they were used.
    ClientToken,
    /// Accounts that the account has blocked, in whatever region they are.
    BlockedAccount,
    /// Requests that the account has sent to one other account within the last hour, from all regions.
    PeeringRequest,
    /// Bandwidths between regions that the account has set or changed within the last hour, from all regions.
    BandwidthChange,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::VpcPeering,
        Kind::Vpc,
        Kind::SecondaryCidr,
        Kind::Tag,
        Kind::ClientToken,
        Kind::BlockedAccount,
        Kind::PeeringRequest,
        Kind::BandwidthChange,
    ];

    /// The word for it in the HTTP interface.
    pub fn word(self) -> &'static str {
        match self {
            Kind::VpcPeering => "vpcpeering",
            Kind::Vpc => "vpc",
            Kind::SecondaryCidr => "secondarycidr",
            Kind::Tag => "tag",
            Kind::ClientToken => "clienttoken",
            Kind::BlockedAccount => "blockedaccount",
            Kind::PeeringRequest => "peeringrequest",
            Kind::BandwidthChange => "bandwidthchange",
        }
    }

    /// What it counts, for display.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::VpcPeering => "peerings",
            Kind::Vpc => "VPCs",
            Kind::SecondaryCidr => "secondary CIDRs",
            Kind::Tag => "tags",
            Kind::ClientToken => "client tokens",
            Kind::BlockedAccount => "blocked accounts",
            Kind::PeeringRequest => "requests within an hour",
            Kind::BandwidthChange => "bandwidths set or changed within an hour",
        }
    }

    /// The kind with this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}
