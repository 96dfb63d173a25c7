//! Request bodies for accounts' peerings.

use crate::{api::json::not_empty, model::record::Tag};
use cps_peering_config::{
    id::{AccountId, RegionId, VpcId},
    net::prefix,
    number,
};
use ipnet::IpNet;
use serde::Deserialize;
use utoipa::ToSchema;

/// Request to create a peering.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct CreatePeeringBody {
    /// 1 to 32 printable characters, unique among the account's live peerings from the region.
    #[schema(min_length = 1, max_length = 32)]
    pub(super) vpc_peering_name: String,
    /// The account's VPC, in the region of the path.
    #[schema(value_type = String)]
    pub(super) vpc_id: VpcId,
    /// The peer VPC.
    #[schema(value_type = String)]
    pub(super) remote_vpc_id: VpcId,
    /// The other VPC's region; by default the region of the path.
    #[schema(value_type = Option<String>)]
    #[serde(default, deserialize_with = "not_empty")]
    pub(super) remote_region_id: Option<RegionId>,
    /// The other VPC's account; by default the caller's.
    #[schema(value_type = Option<String>)]
    #[serde(default, deserialize_with = "not_empty")]
    pub(super) remote_account_id: Option<AccountId>,
    /// Mbit/s in each direction: needed between regions, not allowed within one. 0 means the same as no value.
    #[serde(default, deserialize_with = "number::optional_not_zero")]
    pub(super) bandwidth: Option<u32>,
    /// At most 256 characters, shown to the caller's account only.
    #[schema(max_length = 256)]
    pub(super) description: Option<String>,
    /// At most 256 characters, for the receiver.
    #[schema(max_length = 256)]
    pub(super) message: Option<String>,
    /// At most 10.
    pub(super) user_tags: Option<Vec<TagBody>>,
    /// Prefixes of the account's VPC that are exported to the other side, within its CIDRs; empty for all.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default, deserialize_with = "prefix::optional_list")]
    pub(super) export_prefixes: Option<Vec<IpNet>>,
    /// Prefixes of the other VPC that are imported; empty for all.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default, deserialize_with = "prefix::optional_list")]
    pub(super) import_prefixes: Option<Vec<IpNet>>,
    /// A request with a token that was used before returns the first result.
    #[schema(min_length = 1, max_length = 36)]
    pub(super) client_token: Option<String>,
    /// Run all checks without changing anything, and return what would be reachable.
    pub(super) dry_run: Option<bool>,
}

/// A tag.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct TagBody {
    /// The key.
    pub(super) key: String,
    /// The value.
    pub(super) value: Option<String>,
}

/// Request to change the name, description, tags or deletion protection of a peering.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct ModifyPeeringBody {
    /// 1 to 32 printable characters.
    pub(super) vpc_peering_name: Option<String>,
    /// At most 256 characters.
    pub(super) description: Option<String>,
    /// Replaces all tags of the caller; at most 10. Each account has its own.
    pub(super) user_tags: Option<Vec<TagBody>>,
    /// Deletion protection: the caller must end it before it can delete the peering. It does not keep the other account from deleting.
    pub(super) deletion_protection: Option<bool>,
    /// A request with a token that was used before returns the first result.
    pub(super) client_token: Option<String>,
}

pub(super) fn tags(said: Vec<TagBody>) -> Vec<Tag> {
    said.into_iter().map(|tag| Tag { key: tag.key, value: tag.value.unwrap_or_default() }).collect()
}

/// Request to change the bandwidth.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct BandwidthBody {
    /// Bandwidth in Mbit/s per direction.
    #[serde(deserialize_with = "number::whole")]
    pub(super) bandwidth: u32,
    /// A request with a token that was used before returns the first result.
    pub(super) client_token: Option<String>,
}

/// A body about the prefixes of the caller's side: its own fields, and those common to all such bodies.
macro_rules! prefix_body {
    ($(#[$about:meta])* $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug, Deserialize, ToSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub(in crate::api) struct $name {
            $($own)*
            /// Prefixes of the caller's VPC that are exported to the other side, within its CIDRs; empty for all.
            #[schema(value_type = Option<Vec<String>>)]
            #[serde(default, deserialize_with = "prefix::optional_list")]
            pub(super) export_prefixes: Option<Vec<IpNet>>,
            /// Prefixes of the other VPC that are imported; empty for all that it exports.
            #[schema(value_type = Option<Vec<String>>)]
            #[serde(default, deserialize_with = "prefix::optional_list")]
            pub(super) import_prefixes: Option<Vec<IpNet>>,
            /// A request with a token that was used before returns the first result.
            pub(super) client_token: Option<String>,
            /// Run all checks without changing anything, and return what would be reachable.
            pub(super) dry_run: Option<bool>,
        }
    };
}

prefix_body! {
    /// Request to accept a peering.
    AcceptBody {}
}

prefix_body! {
    /// Request to change the prefixes of the caller's side; a list that is not given stays.
    PrefixesBody {
        /// The VPC whose side to change, where both belong to the account; by default the one in the region of the path.
        #[schema(value_type = Option<String>)]
        #[serde(default, deserialize_with = "not_empty")]
        pub(super) vpc_id: Option<VpcId>,
    }
}

/// A body without required fields.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct EmptyBody {
    /// A request with a token that was used before returns the first result.
    pub(super) client_token: Option<String>,
}
