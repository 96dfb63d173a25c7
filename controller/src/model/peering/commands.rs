//! Commands about peerings, and checks of them that need no state.

use super::{CommandError, Locator, PrefixLists, Tag};
use cps_peering_config::{
    id::{AccountId, RegionId, VpcId},
    text,
};
use serde::Serialize;

/// The longest name, in characters.
pub const MAX_NAME: usize = 32;

/// The longest description, in characters.
pub const MAX_DESCRIPTION: usize = 256;

/// The most tags.
pub const MAX_TAGS: usize = 10;

/// The longest key or value of a tag, in characters.
pub const MAX_TAG: usize = 127;

/// The most bytes of a character in UTF-8 (RFC 3629).
pub(in crate::model) const MAX_UTF8: usize = 4;

/// Request to create a peering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Create {
    /// The peering's name.
    pub name: String,
    /// The initiator's description, for itself.
    pub description: String,
    /// The initiator's message to the receiver.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The initiator's tags.
    pub tags: Vec<Tag>,
    /// The initiator's VPC.
    pub vpc: VpcId,
    /// The region that the initiator's VPC must be in; none for operators, who need not name it.
    pub region: Option<RegionId>,
    /// The receiver's VPC.
    pub peer_vpc: VpcId,
    /// The region that the receiver's VPC must be in; none if any will do.
    pub peer_region: Option<RegionId>,
    /// The account that the receiver's VPC must be of; none if any will do.
    pub peer_account: Option<AccountId>,
    /// The bandwidth in each direction, in Mbit/s.
    pub bandwidth: Option<u32>,
    /// The initiator's prefix lists (rule C9).
    pub prefixes: PrefixLists,
    /// The receiver's, if an operator acts for it.
    pub peer_prefixes: PrefixLists,
}

/// Acceptance of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accept {
    /// The peering.
    pub which: Locator,
    /// The receiver's prefix lists (rule C9).
    pub prefixes: PrefixLists,
}

impl Accept {
    /// Acceptance without prefix lists.
    pub fn in_full(which: Locator) -> Self {
        Self { which, prefixes: PrefixLists::default() }
    }
}

impl Create {
    /// Checks that need no state.
    pub(in crate::model) fn check_texts(&self) -> Result<(), CommandError> {
        check_name(&self.name)?;
        check_description(&self.description)?;
        check_message(&self.message)?;
        check_tags(&self.tags)?;
        self.prefixes.check()?;
        self.peer_prefixes.check()
    }
}

/// Changed texts of a peering; none for what stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Modify {
    /// The peering.
    pub which: Locator,
    /// Its name.
    pub name: Option<String>,
    /// The initiator's description.
    pub description: Option<String>,
    /// The caller's own tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<Tag>>,
    /// The caller's deletion protection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
}

impl Modify {
    /// Whether it only makes a deletion possible.
    pub(in crate::model) fn only_ends_protection(&self) -> bool {
        let Self { which: _, name, description, tags, protected } = self;
        *protected == Some(false) && name.is_none() && description.is_none() && tags.is_none()
    }

    /// Names and descriptions that were once valid stay valid: an unchanged value is not checked again, unless it is
    /// longer than any can be.
    pub(in crate::model) fn check_texts(&self) -> Result<(), CommandError> {
        self.name.as_deref().filter(|name| name.len() > MAX_NAME * MAX_UTF8).map_or(Ok(()), check_name)?;
        let long = self.description.as_deref().filter(|text| text.len() > MAX_DESCRIPTION * MAX_UTF8);
        long.map_or(Ok(()), check_description)?;
        let tags = self.tags.as_deref().unwrap_or_default();
        let long = |tag: &Tag| tag.key.len().max(tag.value.len()) > MAX_TAG * MAX_UTF8;
        if tags.len() > MAX_TAGS || tags.iter().any(long) { check_tags(tags) } else { Ok(()) }
    }
}

/// A new bandwidth of a peering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetBandwidth {
    /// The peering.
    pub which: Locator,
    /// The bandwidth in each direction, in Mbit/s.
    pub bandwidth: u32,
}

pub(super) fn check_name(name: &str) -> Result<(), CommandError> {
    text::check_name(name, MAX_NAME)
        .or_else(|error| CommandError::invalid("vpcPeeringName", error.to_string(), "InvalidName"))
}

/// Refuses invalid descriptions.
pub(in crate::model) fn check_description(description: &str) -> Result<(), CommandError> {
    let checked = text::check_lines(description, MAX_DESCRIPTION);
    checked.or_else(|error| CommandError::invalid("description", error.to_string(), "InvalidDescription"))
}

pub(super) fn check_message(message: &str) -> Result<(), CommandError> {
    let checked = text::check_lines(message, MAX_DESCRIPTION);
    checked.or_else(|error| CommandError::invalid("message", error.to_string(), "InvalidMessage"))
}

pub(super) fn check_tags(tags: &[Tag]) -> Result<(), CommandError> {
    if tags.len() > MAX_TAGS {
        return CommandError::invalid(
            "userTags",
            format!("{} tags: at most {MAX_TAGS} are allowed", tags.len()),
            "InvalidTag",
        );
    }
    for (place, tag) in tags.iter().enumerate() {
        let entry = format!("userTags[{place}]");
        if let Err(error) = text::check_name(&tag.key, MAX_TAG) {
            return CommandError::invalid(&format!("{entry}.key"), error.to_string(), "InvalidTag");
        }
        if let Err(error) = text::check_line(&tag.value, MAX_TAG) {
            return CommandError::invalid(&format!("{entry}.value"), error.to_string(), "InvalidTag");
        }
        if tags[..place].iter().any(|other| other.key == tag.key) {
            return CommandError::invalid(
                &entry,
                format!("the key {} is there twice", text::quote(&tag.key)),
                "InvalidTag",
            );
        }
    }
    Ok(())
}
