//! What only operators may do.

use super::{
    CliError, audit,
    client::{self, Call},
    inventory,
    output::{cell, columns, elements, lines},
    peering,
    session::Session,
};
use clap::{Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Accounts: credentials, standing with the billing system, quotas.
    #[command(subcommand)]
    Account(Account),
    /// Hosts.
    #[command(subcommand)]
    Host(Host),
    /// All peerings, with what each host has of them.
    #[command(subcommand)]
    Peering(peering::OperatorCommand),
    /// What was done, and by whom; the newest first.
    Audit(audit::OperatorQuery),
    /// Copy the controller's store as it is now into a new file on its machine, beside the store. To bring one back:
    /// `cps-peering-controller restore`.
    Backup,
}

#[derive(Subcommand)]
pub(super) enum Host {
    /// List all hosts, and how their agents stand.
    List,
    /// Take a host out that will not come back: its ports go with it, and nothing waits for it any more.
    Remove {
        /// The host.
        host: String,
    },
}

#[derive(Subcommand)]
pub(super) enum Account {
    /// Make an account.
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
    /// Give an account a key with which to sign requests. The secret key is shown this once.
    AddKey {
        /// The account.
        account: String,
    },
    /// Take a key from an account.
    RemoveKey {
        /// The account.
        account: String,
        /// The access key.
        access_key: String,
    },
    /// Give an account a bearer token. It is shown this once.
    AddToken {
        /// The account.
        account: String,
    },
    /// Take a bearer token from an account.
    RemoveToken {
        /// The account.
        account: String,
        /// The token's id.
        token_id: String,
    },
    /// Say how an account stands with the billing system. In arrear, what it pays for stops.
    Charge {
        /// The account.
        account: String,
        /// How it stands.
        status: Charge,
    },
    /// How many live peerings an account may initiate from a region.
    #[command(subcommand)]
    Quota(Quota),
}

/// How an account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Charge {
    Normal,
    Overdue,
    Arrear,
}

#[derive(Subcommand)]
pub(super) enum Quota {
    /// Set it.
    Set {
        /// The account.
        account: String,
        /// The region, which is the initiator's.
        #[arg(id = "quota_region", value_name = "REGION")]
        region: String,
        /// How many.
        limit: u32,
    },
    /// Let the default hold again.
    Reset {
        /// The account.
        account: String,
        /// The region.
        #[arg(id = "quota_region", value_name = "REGION")]
        region: String,
    },
}

pub(super) async fn run(session: &Session, command: Command) -> Result<(), CliError> {
    match command {
        Command::Account(command) => account(session, command).await,
        Command::Host(Host::List) => inventory::hosts(session).await,
        Command::Host(Host::Remove { host }) => inventory::remove_host(session, &host).await,
        Command::Peering(command) => peering::run_as_operator(session, command.into()).await,
        Command::Audit(query) => audit::run_as_operator(session, &query).await,
        Command::Backup => {
            let result = session.call(Call::new(Method::POST, client::admin(&["backups"]))).await?;
            session.print(&result, || cell(&result["file"]));
            let key = cell(&result["storeKeyFile"]);
            cps_peering_terminal::complain(&format!(
                "its access keys are of use with {key} alone: keep a copy of that elsewhere"
            ));
            Ok(())
        }
    }
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
        Account::Quota(Quota::Set { account, region, limit }) => {
            let body = json!({ "maxLimit": limit });
            show(session, call(Method::PUT, &[&account, "quotas", &region]).body(body)).await
        }
        Account::Quota(Quota::Reset { account, region }) => {
            show(session, call(Method::DELETE, &[&account, "quotas", &region])).await
        }
    }
}

/// Makes a call that answers with an account, and shows it.
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
            ("blocks", cell(&account["blockedAccounts"])),
        ])
    });
    Ok(())
}

/// Makes a call that answers with a secret, and shows it.
async fn secret(session: &Session, call: Call<'_>, labels: &[(&str, &str)]) -> Result<(), CliError> {
    let answer: Value = session.call(call).await?;
    session.print(&answer, || {
        let labelled: Vec<_> = labels.iter().map(|(label, field)| (*label, cell(&answer[*field]))).collect();
        lines(&labelled)
    });
    Ok(())
}
