//! Client tokens (`clientToken`): a repeated request has no further effect, a different one with the same token is refused.
//!
//! The use of a token is stored, and a retry may come after an upgrade. So the words below are a stored form of
//! their own: they do not follow the names of fields in this program, and fields that are added to a command are left out unless
//! they are set.

use super::{
    Actor, Code, Command, CommandError, peering,
    peering::{Accept, role},
    record::{Made, Peering, PeeringState, Side, Tag, TokenKey},
    state::State,
    vpc,
};
use crate::digest::{hex, sha256};
use cps_peering_config::{
    id::{AccountId, PeeringId, RegionId, VpcId},
    text,
};
use ipnet::IpNet;
use serde::Serialize;

/// A peering or a VPC, as the caller names it.
#[derive(Serialize)]
struct Which<'a, Id> {
    #[serde(rename = "region")]
    region: Option<&'a RegionId>,
    #[serde(rename = "id")]
    id: &'a Id,
}

/// A command in its stored form and order.
#[derive(Serialize)]
enum Words<'a> {
    #[serde(rename = "CreatePeering")]
    CreatePeering {
        #[serde(rename = "name")]
        name: &'a str,
        #[serde(rename = "description")]
        description: &'a str,
        #[serde(rename = "tags")]
        tags: &'a [Tag],
        #[serde(rename = "vpc")]
        vpc: &'a VpcId,
        #[serde(rename = "region")]
        region: Option<&'a RegionId>,
        #[serde(rename = "peer_vpc")]
        peer_vpc: &'a VpcId,
        #[serde(rename = "peer_region")]
        peer_region: Option<&'a RegionId>,
        #[serde(rename = "peer_account")]
        peer_account: Option<&'a AccountId>,
        #[serde(rename = "bandwidth")]
        bandwidth: Option<u32>,
        #[serde(rename = "message", skip_serializing_if = "str::is_empty")]
        message: &'a str,
        #[serde(rename = "export", skip_serializing_if = "<[IpNet]>::is_empty")]
        export: &'a [IpNet],
        #[serde(rename = "import", skip_serializing_if = "<[IpNet]>::is_empty")]
        import: &'a [IpNet],
    },
    #[serde(rename = "AcceptPeering")]
    AcceptPeering {
        #[serde(rename = "region")]
        region: Option<&'a RegionId>,
        #[serde(rename = "id")]
        id: &'a PeeringId,
        #[serde(rename = "export", skip_serializing_if = "<[IpNet]>::is_empty")]
        export: &'a [IpNet],
        #[serde(rename = "import", skip_serializing_if = "<[IpNet]>::is_empty")]
        import: &'a [IpNet],
    },
    #[serde(rename = "SetPrefixes")]
    SetPrefixes {
        #[serde(rename = "which")]
        which: Which<'a, PeeringId>,
        #[serde(rename = "vpc", skip_serializing_if = "Option::is_none")]
        vpc: Option<&'a VpcId>,
        #[serde(rename = "export", skip_serializing_if = "Option::is_none")]
        export: Option<&'a [IpNet]>,
        #[serde(rename = "import", skip_serializing_if = "Option::is_none")]
        import: Option<&'a [IpNet]>,
    },
    #[serde(rename = "RejectPeering")]
    RejectPeering(Which<'a, PeeringId>),
    #[serde(rename = "ModifyPeering")]
    ModifyPeering {
        #[serde(rename = "which")]
        which: Which<'a, PeeringId>,
        #[serde(rename = "name")]
        name: Option<&'a str>,
        #[serde(rename = "description")]
        description: Option<&'a str>,
        #[serde(rename = "tags", skip_serializing_if = "Option::is_none")]
        tags: Option<&'a [Tag]>,
        #[serde(rename = "protected", skip_serializing_if = "Option::is_none")]
        protected: Option<bool>,
    },
    #[serde(rename = "SetBandwidth")]
    SetBandwidth {
        #[serde(rename = "which")]
        which: Which<'a, PeeringId>,
        #[serde(rename = "bandwidth")]
        bandwidth: u32,
    },
    #[serde(rename = "CreateVpc")]
    CreateVpc {
        #[serde(rename = "account")]
        account: &'a AccountId,
        #[serde(rename = "region")]
        region: &'a RegionId,
        #[serde(rename = "name")]
        name: &'a str,
        #[serde(rename = "description")]
        description: &'a str,
        #[serde(rename = "cidr")]
        cidr: IpNet,
        #[serde(rename = "ipv6")]
        ipv6: bool,
    },
    #[serde(rename = "ModifyVpc")]
    ModifyVpc {
        #[serde(rename = "which")]
        which: Which<'a, VpcId>,
        #[serde(rename = "name")]
        name: Option<&'a str>,
        #[serde(rename = "description")]
        description: Option<&'a str>,
        #[serde(rename = "protected", skip_serializing_if = "Option::is_none")]
        protected: Option<bool>,
    },
    #[serde(rename = "AddCidr")]
    AddCidr {
        #[serde(rename = "which")]
        which: Which<'a, VpcId>,
        #[serde(rename = "cidr")]
        cidr: IpNet,
    },
    #[serde(rename = "RemoveCidr")]
    RemoveCidr {
        #[serde(rename = "which")]
        which: Which<'a, VpcId>,
        #[serde(rename = "cidr")]
        cidr: IpNet,
    },
}

impl<'a> Words<'a> {
    /// None for commands without a result that a token can stand for.
    fn of(command: &'a Command) -> Option<Self> {
        fn peering(which: &peering::Locator) -> Which<'_, PeeringId> {
            Which { region: which.region.as_ref(), id: &which.id }
        }
        fn vpc(which: &vpc::Locator) -> Which<'_, VpcId> {
            Which { region: which.region.as_ref(), id: &which.id }
        }
        Some(match command {
            Command::CreatePeering(create) => Self::CreatePeering {
                name: &create.name,
                description: &create.description,
                tags: &create.tags,
                vpc: &create.vpc,
                region: create.region.as_ref(),
                peer_vpc: &create.peer_vpc,
                peer_region: create.peer_region.as_ref(),
                peer_account: create.peer_account.as_ref(),
                bandwidth: create.bandwidth,
                message: &create.message,
                export: &create.prefixes.export,
                import: &create.prefixes.import,
            },
            Command::AcceptPeering(Accept { which, prefixes }) => Self::AcceptPeering {
                region: which.region.as_ref(),
                id: &which.id,
                export: &prefixes.export,
                import: &prefixes.import,
            },
            Command::SetPrefixes(set) => Self::SetPrefixes {
                which: peering(&set.which),
                vpc: set.vpc.as_ref(),
                export: set.export.as_deref(),
                import: set.import.as_deref(),
            },
            Command::RejectPeering(which) => Self::RejectPeering(peering(which)),
            Command::ModifyPeering(modify) => Self::ModifyPeering {
                which: peering(&modify.which),
                name: modify.name.as_deref(),
                description: modify.description.as_deref(),
                tags: modify.tags.as_deref(),
                protected: modify.protected,
            },
            Command::SetBandwidth(set) => Self::SetBandwidth { which: peering(&set.which), bandwidth: set.bandwidth },
            Command::CreateVpc(create) => Self::CreateVpc {
                account: &create.account,
                region: &create.region,
                name: &create.name,
                description: &create.description,
                cidr: create.cidr,
                ipv6: create.ipv6,
            },
            Command::ModifyVpc(modify) => Self::ModifyVpc {
                which: vpc(&modify.which),
                name: modify.name.as_deref(),
                description: modify.description.as_deref(),
                protected: modify.protected,
            },
            Command::AddCidr(add) => Self::AddCidr { which: vpc(&add.which), cidr: add.cidr },
            Command::RemoveCidr(remove) => Self::RemoveCidr { which: vpc(&remove.which), cidr: remove.cidr },
            Command::Apply(_)
            | Command::DeletePeering(_)
            | Command::DeleteVpc(_)
            | Command::Account(_)
            | Command::Host(_)
            | Command::Webhook(_)
            | Command::Activate(_)
            | Command::Drained(_)
            | Command::Forget(_)
            | Command::LearnMtu(..)
            | Command::ConfirmClock
            | Command::Release
            | Command::Rollout(_)
            | Command::Tick
            | Command::RecordSignature => return None,
        })
    }
}

/// The stored form of a command; of a long one its SHA-256. Empty for commands that take no token.
pub(super) fn words(command: &Command) -> String {
    const LONG: usize = 1024;
    let words = Words::of(command).and_then(|words| serde_json::to_string(&words).ok()).unwrap_or_default();
    if words.len() <= LONG { words } else { format!("sha256:{}", hex(&sha256(words.as_bytes()))) }
}

/// What a client token resulted in, if the account no longer has it.
pub(super) fn gone(state: &State, command: &Command, result: &Made, actor: &Actor) -> Option<String> {
    match (result, command) {
        // The result is the rejection, which is final.
        (_, Command::RejectPeering(_)) => None,
        (Made::Peering(id), _) => {
            let sees = |peering: &Peering| {
                let draining = matches!(peering.state, PeeringState::Draining { .. });
                let deleted = |side: &Side| side.deleted_by_owner && actor.is(&side.account);
                let own = actor.account().is_none_or(|account| role(peering, account, None).is_some());
                own && !(draining && peering.sides().into_iter().any(deleted))
            };
            (!state.peerings().get(id).is_some_and(sees)).then(|| id.to_string())
        }
        (Made::Vpc(id), command) => match (state.vpcs().get(id), command) {
            (None, _) => Some(id.to_string()),
            (Some(vpc), Command::AddCidr(add)) if !vpc.cidrs.contains(&add.cidr) => {
                Some(format!("CIDR {} of {id}", add.cidr))
            }
            _ => None,
        },
    }
}

/// The longest token, in characters.
pub(crate) const MAX: usize = 36;

/// What identifies the use of a token.
pub(super) fn key(account: &AccountId, token: &str) -> Result<TokenKey, CommandError> {
    if let Err(error) = text::check_name(token, MAX) {
        return Err(CommandError::one(Code::InvalidArgument, "clientToken", error.to_string(), "InvalidClientToken"));
    }
    Ok(TokenKey { account: account.clone(), token: token.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::prefixes::{PrefixLists, SetPrefixes};

    /// Stored by releases before this one: a retry must find the same.
    #[test]
    fn the_stored_form_of_a_command_is_that_of_earlier_releases() {
        let region: RegionId = "north".parse().unwrap();
        let peering = peering::Locator { region: Some(region.clone()), id: "vpcpr-0a1b2c3d4e".parse().unwrap() };
        let vpc = vpc::Locator { region: None, id: "vpc-a".parse().unwrap() };
        let cidr: IpNet = "10.1.0.0/16".parse().unwrap();
        let (by_id, at) = (r#"{"region":"north","id":"vpcpr-0a1b2c3d4e"}"#, r#"{"region":null,"id":"vpc-a"}"#);
        let create = peering::Create {
            name: "n".to_owned(),
            description: "d".to_owned(),
            tags: vec![Tag { key: "k".to_owned(), value: "v".to_owned() }],
            vpc: "vpc-a".parse().unwrap(),
            region: Some(region.clone()),
            peer_vpc: "vpc-b".parse().unwrap(),
            peer_region: None,
            peer_account: Some("acme".parse().unwrap()),
            bandwidth: Some(100),
            message: String::new(),
            prefixes: PrefixLists::default(),
            peer_prefixes: PrefixLists::default(),
        };
        let create_vpc = vpc::Create {
            account: "acme".parse().unwrap(),
            region,
            name: "n".to_owned(),
            description: String::new(),
            cidr,
            ipv6: true,
        };
        let modify = peering::Modify {
            which: peering.clone(),
            name: Some("m".to_owned()),
            description: None,
            tags: None,
            protected: None,
        };
        let modify_vpc =
            vpc::Modify { which: vpc.clone(), name: None, description: Some("e".to_owned()), protected: None };
        let set = peering::SetBandwidth { which: peering.clone(), bandwidth: 7 };
        let with_cidr = vpc::Cidr { which: vpc, cidr };
        for (command, expected) in [
            (
                Command::CreatePeering(create.clone()),
                r#"{"CreatePeering":{"name":"n","description":"d","tags":[{"key":"k","value":"v"}],"vpc":"vpc-a","region":"north","peer_vpc":"vpc-b","peer_region":null,"peer_account":"acme","bandwidth":100}}"#.to_owned(),
            ),
            (
                Command::AcceptPeering(peering::Accept::in_full(peering.clone())),
                format!(r#"{{"AcceptPeering":{by_id}}}"#),
            ),
            (Command::RejectPeering(peering.clone()), format!(r#"{{"RejectPeering":{by_id}}}"#)),
            (
                Command::ModifyPeering(modify),
                format!(r#"{{"ModifyPeering":{{"which":{by_id},"name":"m","description":null}}}}"#),
            ),
            (Command::SetBandwidth(set), format!(r#"{{"SetBandwidth":{{"which":{by_id},"bandwidth":7}}}}"#)),
            (
                Command::CreateVpc(create_vpc),
                r#"{"CreateVpc":{"account":"acme","region":"north","name":"n","description":"","cidr":"10.1.0.0/16","ipv6":true}}"#.to_owned(),
            ),
            (
                Command::ModifyVpc(modify_vpc),
                format!(r#"{{"ModifyVpc":{{"which":{at},"name":null,"description":"e"}}}}"#),
            ),
            (Command::AddCidr(with_cidr.clone()), format!(r#"{{"AddCidr":{{"which":{at},"cidr":"10.1.0.0/16"}}}}"#)),
            (Command::RemoveCidr(with_cidr), format!(r#"{{"RemoveCidr":{{"which":{at},"cidr":"10.1.0.0/16"}}}}"#)),
            (Command::DeletePeering(peering.clone()), String::new()),
        ] {
            assert_eq!(words(&command), expected);
        }
        let said = peering::Create { message: "hello".to_owned(), ..create.clone() };
        assert!(words(&Command::CreatePeering(said)).ends_with(r#","bandwidth":100,"message":"hello"}}"#));
        let lists = PrefixLists { export: vec![cidr], import: Vec::new() };
        let part = peering::Create { prefixes: lists.clone(), ..create.clone() };
        assert!(words(&Command::CreatePeering(part)).ends_with(r#","bandwidth":100,"export":["10.1.0.0/16"]}}"#));
        let accept = Accept { which: peering.clone(), prefixes: lists };
        let expected = r#"{"AcceptPeering":{"region":"north","id":"vpcpr-0a1b2c3d4e","export":["10.1.0.0/16"]}}"#;
        assert_eq!(words(&Command::AcceptPeering(accept)), expected);
        let set = SetPrefixes { which: peering, vpc: None, export: None, import: Some(Vec::new()) };
        assert_eq!(words(&Command::SetPrefixes(set)), format!(r#"{{"SetPrefixes":{{"which":{by_id},"import":[]}}}}"#));
        let long = peering::Create { description: "x".repeat(2000), ..create };
        assert!(words(&Command::CreatePeering(long)).starts_with("sha256:"));
    }
}
