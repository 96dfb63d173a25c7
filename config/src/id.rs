//! Ids of the objects that the controller manages.

use crate::text::quote;
use serde::{Deserialize, Serialize};
use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};
use thiserror::Error;

/// The longest id, in bytes.
pub const MAX_ID_LEN: usize = 63;

/// A text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{} is not a legal {kind}: expected 1 to {MAX_ID_LEN} characters of [A-Za-z0-9._-] that begin with a letter or digit",
    quote(.value)
)]
pub struct InvalidId {
    /// The kind of id expected, for instance `host id`.
    pub kind: &'static str,
    /// The text.
    pub value: String,
}

fn is_id(text: &str) -> bool {
    text.len() <= MAX_ID_LEN
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 63 characters of `[A-Za-z0-9._-]`, the first one a letter or digit.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        // Ids are copied into many places, and a controller holds millions of them: copies share their text.
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(value: String) -> Result<Self, InvalidId> {
                if is_id(&value) { Ok(Self(value.into())) } else { Err(InvalidId { kind: $kind, value }) }
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

id_type!(
    /// An account (账户): owns VPCs and peerings.
    AccountId, "account id"
);
id_type!(
    /// A region (地域), for instance `cn-north-1`.
    RegionId, "region id"
);
id_type!(
    /// A host (云物理服务器): a bare-metal server that runs the agent.
    HostId, "host id"
);
id_type!(
    /// A VPC (私有网络).
    VpcId, "VPC id"
);
id_type!(
    /// A peering (对等连接), for instance `vpcpr-0a1b2c3d4e`.
    PeeringId, "peering id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_legal_ids_and_names_the_rule_for_others() {
        for legal in ["a", "cn-north-1", "vpcpr-0a1b2c3d4e", "H.1_b", &"x".repeat(63)] {
            assert_eq!(legal.parse::<HostId>().unwrap().as_str(), legal);
        }
        for illegal in ["", "-a", ".", "a b", "a/b", "私有", &"x".repeat(64)] {
            let error = illegal.parse::<HostId>().unwrap_err().to_string();
            assert!(error.contains("host id") && error.contains(&format!("{illegal:?}")), "{error}");
        }
    }
}
