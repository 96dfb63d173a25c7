//! Commands that only operators can run.

use super::{
    CliError, audit,
    client::{self, Call},
    host,
    output::{cell, columns, elements, lines},
    peering,
    session::Session,
};
use clap::{Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

#[derive(Subcommand, Clone)]
pub(super) enum Command {
    /// Manage accounts: credentials, charge status, quotas.
    #[command(subcommand)]
    Account(Account),
    /// The same as `cps-peering host`.
    #[command(subcommand)]
    Host(host::Command),
    /// Manage all peerings, with their state on each host.
    #[command(subcommand)]
    Peering(peering::OperatorCommand),
    /// Show the audit trail, newest entries first.
    Audit(audit::OperatorQuery),
    /// Show the controller's clock, or confirm it after it has jumped.
    #[command(subcommand)]
    Clock(Clock),
    /// Show the cluster's identity, or release a controller that is held after its store was restored from a backup.
    #[command(subcommand)]
    Cluster(Cluster),
    /// Back up the controller's store into a new file on its machine, beside the store. To restore one:
    /// `cps-peering-controller restore`.
    Backup,
}

impl Command {
    /// Whether it changes nothing and can be repeated.
    pub(super) fn is_read_only(&self) -> bool {
        match self {
            Self::Account(command) => matches!(command, Account::List | Account::Show { .. }),
            Self::Host(command) => command.is_read_only(),
            Self::Peering(command) => command.is_read_only(),
            Self::Audit(_) => true,
            Self::Clock(command) => matches!(command, Clock::Show),
            Self::Cluster(command) => matches!(command, Cluster::Show),
            Self::Backup => false,
        }
    }
}

#[derive(Subcommand, Clone)]
pub(super) enum Clock {
    /// Show the machine's clock, the time that the controller uses, and how far they differ.
    Show,
    /// Confirm that the clock is right after it has jumped: expiry and deletion resume.
    Confirm,
}

#[derive(Subcommand, Clone)]
pub(super) enum Cluster {
    /// Show its identity, and whether it is held; while it is, what a release would change on each host.
    Show,
    /// Release the controller: let it configure hosts.
    Release,
}

#[derive(Subcommand, Clone)]
pub(super) enum Account {
    /// Create an account.
    Create {
        /// Its id.
        account: String,
    },
    /// List the accounts.
    List,
    /// Show an account.
    Show {
        /// Its id.
        account: String,
    },
    /// Create an access key for signing requests. The secret key is shown only once.
    AddKey {
        /// The account.
        account: String,
    },
    /// Delete an access key.
    RemoveKey {
        /// The account.
        account: String,
        /// The access key.
        access_key: String,
    },
    /// Create a bearer token. It is shown only once.
    AddToken {
        /// The account.
        account: String,
    },
    /// Delete a bearer token.
    RemoveToken {
        /// The account.
        account: String,
        /// The token's id.
        token_id: String,
    },
    /// Set the charge status of an account. In arrear, its cross-region peerings are suspended.
    Charge {
        /// The account.
        account: String,
        /// Charge status.
        status: Charge,
    },
    /// Set or reset quotas of an account in a region.
    #[command(subcommand)]
    Quota(Quota),
}

/// Charge status of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Charge {
    Normal,
    Overdue,
    Arrear,
}

#[derive(Subcommand, Clone)]
pub(super) enum Quota {
    /// Set the quota.
    Set {
        /// The account.
        account: String,
        /// The region, that of the initiator
        #[arg(id = "quota_region", value_name = "REGION")]
        region: String,
        /// The limit.
        limit: u32,
        /// What is limited.
        #[arg(long = "type", value_name = "TYPE", default_value = "vpcpeering", value_parser = KINDS)]
        kind: String,
    },
    /// Reset the quota to the default.
    Reset {
        /// The account.
        account: String,
        /// The region.
        #[arg(id = "quota_region", value_name = "REGION")]
        region: String,
        /// What is limited.
        #[arg(long = "type", value_name = "TYPE", default_value = "vpcpeering", value_parser = KINDS)]
        kind: String,
    },
}

/// The kinds of quotas.
const KINDS: [&str; 7] =
    ["vpcpeering", "vpc", "secondarycidr", "tag", "clienttoken", "blockedaccount", "bandwidthchange"];

pub(super) async fn run(session: &Session, command: Command) -> Result<(), CliError> {
    match command {
        Command::Account(command) => account(session, command).await,
        Command::Host(command) => host::run(session, command).await,
        Command::Peering(command) => peering::run_as_operator(session, command.into()).await,
        Command::Clock(command) => clock(session, &command).await,
        Command::Cluster(command) => cluster(session, &command).await,
        Command::Audit(query) => audit::run_as_operator(session, &query).await,
        Command::Backup => {
            let result = session.call(Call::new(Method::POST, client::admin(&["backups"]))).await?;
            session.print(&result, || cell(&result["file"]));
            let key = cell(&result["storeKeyFile"]);
            cps_peering_terminal::complain(&format!(
                "its access keys can be decrypted only with {key}: keep a copy of that file elsewhere"
            ));
            Ok(())
        }
    }
}

async fn cluster(session: &Session, command: &Cluster) -> Result<(), CliError> {
    let call = match command {
        Cluster::Show => Call::new(Method::GET, client::admin(&["cluster"])),
        Cluster::Release => Call::new(Method::POST, client::admin(&["cluster", "release"])),
    };
    let result = session.call(call).await?;
    session.print(&result, || {
        let held = if result["held"] == true { "held: nothing is sent to hosts" } else { "hosts are configured" };
        let mut rows = vec![
            ("cluster", cell(&result["cluster"])),
            ("version", cell(&result["version"])),
            ("revision", cell(&result["revision"])),
            ("state", held.to_owned()),
            ("rollout", cell(&result["rollout"])),
        ];
        for host in result["hostsOutOfSync"].as_array().into_iter().flatten() {
            rows.push(("out of sync", format!("{}: {}", cell(&host["hostId"]), cell(&host["reason"]))));
        }
        lines(&rows)
    });
    Ok(())
}

async fn clock(session: &Session, command: &Clock) -> Result<(), CliError> {
    let call = match command {
        Clock::Show => Call::new(Method::GET, client::admin(&["clock"])),
        Clock::Confirm => Call::new(Method::POST, client::admin(&["clock", "confirm"])),
    };
    let result = session.call(call).await?;
    session.print(&result, || {
        let said = if result["confirmed"] == true { "it agrees with the elapsed time" } else { "it has jumped" };
        lines(&[
            ("clock", cell(&result["time"])),
            ("elapsed time", cell(&result["passed"])),
            ("ahead", format!("{} s", result["leapSeconds"])),
            ("state", said.to_owned()),
        ])
    });
    Ok(())
}

fn call<'a>(method: Method, rest: &[&'a str]) -> Call<'a> {
    Call::new(method, client::admin(&[&["accounts"], rest].concat()))
}

async fn account(session: &Session, command: Account) -> Result<(), CliError> {
    const ACCOUNTS: [(&str, &str); 6] = [
        ("ACCOUNT", "/accountId"),
        ("CHARGE", "/chargeStatus"),
        ("ACCESS KEYS", "/accessKeys"),
        ("TOKENS", "/tokenIds"),
        ("QUOTAS", "/quotas"),
        ("BLOCKS", "/blockedAccounts"),
    ];
    match command {
        Account::Create { account } => {
            show(session, call(Method::POST, &[]).body(json!({ "accountId": account }))).await
        }
        Account::List => {
            let result = session.call(call(Method::GET, &[])).await?;
            session.print(&result, || columns(&ACCOUNTS, elements(&result["accounts"])));
            Ok(())
        }
        Account::Show { account } => show(session, call(Method::GET, &[&account])).await,
        Account::AddKey { account } => {
            let labels = [("access key", "accessKey"), ("secret key", "secretKey")];
            secret(session, call(Method::POST, &[&account, "keys"]), &labels).await
        }
        Account::RemoveKey { account, access_key } => {
            session.call(call(Method::DELETE, &[&account, "keys", &access_key])).await?;
            show(session, call(Method::GET, &[&account])).await
        }
        Account::AddToken { account } => {
            let labels = [("token id", "tokenId"), ("token", "token")];
            secret(session, call(Method::POST, &[&account, "tokens"]), &labels).await
        }
        Account::RemoveToken { account, token_id } => {
            session.call(call(Method::DELETE, &[&account, "tokens", &token_id])).await?;
            show(session, call(Method::GET, &[&account])).await
        }
        Account::Charge { account, status } => {
            let status = match status {
                Charge::Normal => "normal",
                Charge::Overdue => "overdue",
                Charge::Arrear => "arrear",
            };
            let body = json!({ "chargeStatus": status });
            show(session, call(Method::PUT, &[&account, "chargeStatus"]).body(body)).await
        }
        Account::Quota(Quota::Set { account, region, limit, kind }) => {
            let body = json!({ "maxLimit": limit, "type": kind });
            show(session, call(Method::PUT, &[&account, "quotas", &region]).body(body)).await
        }
        Account::Quota(Quota::Reset { account, region, kind }) => {
            show(session, call(Method::DELETE, &[&account, "quotas", &region]).with("type", &kind)).await
        }
    }
}

/// Makes a call whose response is an account, and shows it.
async fn show(session: &Session, call: Call<'_>) -> Result<(), CliError> {
    let answer = session.call(call).await?;
    let account = &answer["account"];
    session.print(account, || {
        lines(&[
            ("account", cell(&account["accountId"])),
            ("charge", cell(&account["chargeStatus"])),
            ("access keys", cell(&account["accessKeys"])),
            ("tokens", cell(&account["tokenIds"])),
            ("quotas", cell(&account["quotas"])),
            ("more quotas", cell(&account["limits"])),
            ("blocks", cell(&account["blockedAccounts"])),
        ])
    });
    Ok(())
}

/// Makes a call whose response is a secret, and shows it.
async fn secret(session: &Session, call: Call<'_>, labels: &[(&str, &str)]) -> Result<(), CliError> {
    let answer: Value = session.call(call).await?;
    session.print(&answer, || {
        let labelled: Vec<_> = labels.iter().map(|(label, field)| (*label, cell(&answer[*field]))).collect();
        lines(&labelled)
    });
    Ok(())
}
