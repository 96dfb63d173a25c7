//! Arguments of peering commands.

use crate::{Wait, complete};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

#[derive(Subcommand, Clone)]
pub(crate) enum Command {
    /// Create a peering between two VPCs. If the other VPC belongs to another account, this is a request, which that account
    /// accepts or rejects.
    Create {
        #[command(flatten)]
        wish: PeeringOptions,
        #[command(flatten)]
        wait: Wait,
        // Last, since its heading applies to all options that follow.
        #[command(flatten)]
        account: AccountOptions,
    },
    /// List peerings.
    List {
        #[command(flatten)]
        filters: Filters,
        /// For accounts: only those where the account is the initiator, or the receiver.
        #[arg(long, value_parser = ["initiator", "receiver"])]
        role: Option<String>,
        /// For accounts: only those with this tag of its own, as KEY or KEY=VALUE; repeatable.
        #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
        tags: Vec<(String, String)>,
        /// For accounts: in which order [default: the newest first]
        #[arg(long, value_parser = ["createdTime", "-createdTime", "name", "-name"], allow_hyphen_values = true)]
        sort: Option<String>,
    },
    /// Watch peerings until interrupted: their states, when hosts last confirmed them, and traffic in Mbit/s. On a terminal a table
    /// that is redrawn in place, elsewhere a line for each peering that has changed.
    Watch {
        /// Refresh interval, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=86400))]
        interval: u64,
    },
    /// Show one peering; for operators with the state on each host.
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Accept a peering request from another account.
    Accept {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        scope: Scope,
        /// Run all checks without changing anything, and show what would be reachable.
        #[arg(long, conflicts_with = "wait")]
        dry_run: bool,
        /// Do not ask for confirmation.
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Change which prefixes of the own VPC are exported to the other side, and which of the other VPC are imported. A list that is
    /// not given stays. Traffic between prefixes that stay reachable is not interrupted.
    SetPrefixes(SetPrefixes),
    /// Reject a peering request from another account.
    Reject {
        #[command(flatten)]
        which: Which,
    },
    /// Change the bandwidth of a cross-region peering. Only the initiator can.
    SetBandwidth {
        #[command(flatten)]
        which: Which,
        /// Bandwidth in Mbit/s per direction.
        bandwidth: u32,
    },
    /// Replace the account's own tags on a peering.
    SetTags {
        #[command(flatten)]
        which: Which,
        /// The tags as KEY=VALUE; without any, all are removed.
        #[arg(value_name = "KEY=VALUE", value_parser = parse_tag)]
        tags: Vec<(String, String)>,
    },
    /// Turn deletion protection of a peering on or off for the own account. The other account can still delete the peering.
    Protect {
        #[command(flatten)]
        which: Which,
        /// Whether it is protected.
        #[arg(value_parser = ["on", "off"], default_value = "on")]
        state: String,
    },
    /// Change the name or description. Only the initiator can.
    Rename {
        #[command(flatten)]
        which: Which,
        /// The new name, 1 to 32 characters.
        #[arg(required_unless_present = "description")]
        name: Option<String>,
        /// The new description, at most 256 characters.
        #[arg(long)]
        description: Option<String>,
    },
    #[command(flatten)]
    Look(Look),
    /// Delete a peering. Returns when all hosts have confirmed that traffic has stopped, or names those that have not.
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        wait: Wait,
    },
}

/// Read-only commands of accounts and operators alike.
#[derive(Subcommand, Clone)]
pub(crate) enum Look {
    /// Show the route policies of a peering.
    Routes {
        #[command(flatten)]
        which: Which,
    },
    /// Show the traffic between the peers: totals and history.
    Traffic {
        #[command(flatten)]
        which: Which,
        /// How far back to look: 1h, 24h, 7d or 30d.
        #[arg(long, value_name = "RANGE", default_value = "1h", value_parser = ["1h", "24h", "7d", "30d"])]
        range: String,
    },
}

/// Peering commands of operators.
#[derive(Subcommand, Clone)]
pub(crate) enum OperatorCommand {
    /// Peer two VPCs of any accounts, without acceptance.
    Create {
        #[command(flatten)]
        wish: PeeringOptions,
        #[command(flatten)]
        wait: Wait,
    },
    /// List all peerings.
    List {
        #[command(flatten)]
        filters: Filters,
    },
    /// Show one peering, with the state on each host.
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Change the bandwidth of a cross-region peering.
    SetBandwidth {
        #[command(flatten)]
        which: Which,
        /// Bandwidth in Mbit/s per direction.
        bandwidth: u32,
    },
    /// Change which prefixes of its VPC a side exports to the other one, and which of the other VPC it imports. A list that is not
    /// given stays.
    SetPrefixes(SetPrefixes),
    #[command(flatten)]
    Look(Look),
    /// Delete a peering for both accounts. Returns when all hosts have confirmed that traffic has stopped, or names those that have not.
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        wait: Wait,
    },
}

impl Command {
    /// Whether it changes nothing and can be repeated.
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self, Self::List { .. } | Self::Watch { .. } | Self::Show { .. } | Self::Look(_))
    }
}

impl OperatorCommand {
    /// Whether it changes nothing and can be repeated.
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self, Self::List { .. } | Self::Show { .. } | Self::Look(_))
    }
}

impl From<OperatorCommand> for Command {
    fn from(command: OperatorCommand) -> Self {
        match command {
            OperatorCommand::Create { wish, wait } => Self::Create { wish, account: AccountOptions::default(), wait },
            OperatorCommand::List { filters } => Self::List { filters, role: None, tags: Vec::new(), sort: None },
            OperatorCommand::Show { which } => Self::Show { which },
            OperatorCommand::SetBandwidth { which, bandwidth } => Self::SetBandwidth { which, bandwidth },
            OperatorCommand::SetPrefixes(set) => Self::SetPrefixes(set),
            OperatorCommand::Look(look) => Self::Look(look),
            OperatorCommand::Delete { which, wait } => Self::Delete { which, wait },
        }
    }
}

/// The peering that a command is about.
#[derive(Args, Clone)]
pub(crate) struct Which {
    /// Id of the peering, or its name if that is unique.
    #[arg(add = complete::peerings())]
    pub(crate) peering: String,
}

/// A peering to create.
#[derive(Args, Clone)]
pub(crate) struct PeeringOptions {
    /// The peering's name, 1 to 32 characters.
    #[arg(long)]
    pub(super) name: String,
    /// The initiator's VPC: its id or, for accounts, its name.
    #[arg(long, add = complete::vpcs())]
    pub(super) vpc: String,
    /// The receiver's VPC: its id or, for VPCs of the account itself, its name.
    #[arg(long, add = complete::vpcs())]
    pub(super) peer_vpc: String,
    /// Bandwidth in Mbit/s per direction; cross-region only.
    #[arg(long)]
    pub(super) bandwidth: Option<u32>,
    /// What it is for, at most 256 characters.
    #[arg(long)]
    pub(super) description: Option<String>,
    #[command(flatten)]
    pub(super) scope: Scope,
}

/// Which prefixes of a side to change, and how.
#[derive(Args, Clone)]
pub(crate) struct SetPrefixes {
    #[command(flatten)]
    pub(super) which: Which,
    #[command(flatten)]
    pub(super) scope: Scope,
    /// The VPC whose side to change, where both belong to the account; for operators by default the initiator's
    #[arg(long, add = complete::vpcs())]
    pub(super) vpc: Option<String>,
    /// Run all checks without changing anything, and show what would be reachable.
    #[arg(long, conflicts_with = "wait")]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) wait: Wait,
}

/// Which prefixes of two VPCs a side lets a peering connect.
#[derive(Args, Clone, Default)]
pub(crate) struct Scope {
    /// Prefixes of the own VPC to export to the other side: within its CIDRs, separated by commas, at most 64; `all` for all.
    #[arg(long, value_name = "PREFIXES", value_parser = parse_prefixes)]
    pub(super) export_prefixes: Option<Prefixes>,
    /// Prefixes of the other VPC to import: separated by commas, at most 64; `all` for all.
    #[arg(long, value_name = "PREFIXES", value_parser = parse_prefixes)]
    pub(super) import_prefixes: Option<Prefixes>,
}

/// A list of prefixes; empty for all. The controller validates them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefixes(Vec<String>);

impl Scope {
    /// Adds the lists that were given to a request body.
    pub(super) fn add_to(&self, body: &mut Value) {
        for (field, list) in [("exportPrefixes", &self.export_prefixes), ("importPrefixes", &self.import_prefixes)] {
            if let Some(Prefixes(list)) = list {
                body[field] = json!(list);
            }
        }
    }

    /// Whether neither list was given.
    pub(super) fn is_empty(&self) -> bool {
        self.export_prefixes.is_none() && self.import_prefixes.is_none()
    }
}

fn parse_prefixes(text: &str) -> Result<Prefixes, String> {
    if text == "all" {
        return Ok(Prefixes(Vec::new()));
    }
    let list: Vec<String> = text.split(',').map(|prefix| prefix.trim().to_owned()).collect();
    if list.iter().any(String::is_empty) {
        return Err("expected prefixes separated by commas, such as 10.1.0.0/24,fd00:1::/64, or `all`".to_owned());
    }
    Ok(Prefixes(list))
}

/// Options of a new peering that only accounts have.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "For accounts")]
pub(crate) struct AccountOptions {
    /// The region of the other VPC [default: the same]
    #[arg(long)]
    pub(super) peer_region: Option<String>,
    /// The account of the other VPC [default: the same]
    #[arg(long)]
    pub(super) peer_account: Option<String>,
    /// Message to the account of the other VPC, shown with the request, at most 256 characters
    #[arg(long)]
    pub(super) message: Option<String>,
    /// Tag as KEY=VALUE; repeatable.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
    pub(super) tags: Vec<(String, String)>,
    /// Idempotency token: of several requests with the same token only the first is executed.
    #[arg(long, value_name = "TOKEN")]
    pub(super) client_token: Option<String>,
    /// Run all checks without changing anything.
    #[arg(long, conflicts_with = "wait")]
    pub(super) dry_run: bool,
}

/// Filters of a list of peerings.
#[derive(Args, Clone)]
pub(crate) struct Filters {
    /// Only peerings in these states, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = STATES)]
    pub(super) state: Vec<String>,
    /// Only peerings of this VPC; for operators: of the initiator.
    #[arg(long, add = complete::vpcs())]
    pub(super) vpc: Option<String>,
    /// Only peerings with this remote VPC; for operators: of the receiver.
    #[arg(long, add = complete::vpcs())]
    pub(super) peer_vpc: Option<String>,
}

const STATES: [&str; 11] = [
    "pending",
    "provisioning",
    "active",
    "suspended",
    "draining",
    "rejected",
    "expired",
    "peer_deleted",
    "Initiated",
    "Connected",
    "Disconnected",
];

fn parse_tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() { Err("expected KEY=VALUE".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}

impl Filters {
    /// Filters that the operator API leaves to the client.
    pub(super) fn let_through(&self, peering: &Value) -> bool {
        let is = |wanted: &Option<String>, value: &Value| wanted.as_ref().is_none_or(|wanted| value == wanted);
        let in_state = |state: &String| peering["state"] == *state || peering["vpcPeeringState"] == *state;
        is(&self.vpc, &peering["vpcInfo"]["vpcId"])
            && is(&self.peer_vpc, &peering["remoteVpcInfo"]["vpcId"])
            && (self.state.is_empty() || self.state.iter().any(in_state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_a_list_or_all() {
        let list = |texts: &[&str]| Prefixes(texts.iter().map(|text| (*text).to_owned()).collect());
        assert_eq!(parse_prefixes("all"), Ok(list(&[])));
        assert_eq!(parse_prefixes("10.1.0.0/24, fd00:1::/64"), Ok(list(&["10.1.0.0/24", "fd00:1::/64"])));
        assert!(parse_prefixes("").is_err() && parse_prefixes("10.1.0.0/24,").is_err());
        let mut body = json!({});
        Scope::default().add_to(&mut body);
        assert_eq!(body, json!({}), "what is not said stays");
        Scope { export_prefixes: Some(list(&[])), import_prefixes: None }.add_to(&mut body);
        assert_eq!(body, json!({ "exportPrefixes": [] }));
    }

    #[test]
    fn tags_are_keys_with_or_without_values() {
        assert_eq!(parse_tag("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_tag("a"), Ok(("a".to_owned(), String::new())));
        assert!(parse_tag("=b").is_err());
    }

    #[test]
    fn operators_filter_by_state_and_vpc() {
        let peering = json!({ "state": "active", "vpcPeeringState": "Connected", "vpcInfo": { "vpcId": "a" },
            "remoteVpcInfo": { "vpcId": "b" } });
        let filters = |state: &[&str], vpc: Option<&str>| Filters {
            state: state.iter().map(|state| (*state).to_owned()).collect(),
            vpc: vpc.map(ToOwned::to_owned),
            peer_vpc: None,
        };
        assert!(filters(&[], None).let_through(&peering));
        assert!(filters(&["pending", "active"], Some("a")).let_through(&peering));
        assert!(filters(&["Connected"], None).let_through(&peering));
        assert!(!filters(&["pending"], None).let_through(&peering));
        assert!(!filters(&[], Some("b")).let_through(&peering));
    }
}
