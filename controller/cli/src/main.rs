//! The command line interface `cps-peering`, for tenants and for operators.
//!
//! | module | what it is about |
//! |---|---|
//! | [`profile`] | which controller is asked, and with which token |
//! | [`connection`], [`url`] | where the controller is, and who calls |
//! | [`client`] | calls of its HTTP interface |
//! | [`session`] | what commands share: the controller, the region, how results are shown |
//! | [`peering`], [`vpc`], [`account`], [`audit`], [`metering`], [`inventory`], [`admin`], [`pki`] | the commands |
//! | [`output`] | answers as tables |

mod account;
mod admin;
mod audit;
mod client;
mod connection;
mod inventory;
mod metering;
mod output;
mod peering;
mod pki;
mod profile;
mod session;
mod url;
mod vpc;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::aot;
use profile::{Config, Told};
use session::Session;
use std::{path::PathBuf, process::ExitCode};
use thiserror::Error;

/// The program's name.
const NAME: &str = "cps-peering";

/// Manages VPC peerings between bare-metal hosts, as a tenant or as an operator: the token decides.
#[derive(Parser)]
#[command(name = NAME, version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Credentials, the first one that is given: --token-file, --cert with --key, the environment variable CPS_PEERING_TOKEN, \
the profile's token or certificate, /etc/cps-peering/operator.token.

Exit codes: 0 success, 1 request refused, 2 usage error, 3 controller unreachable, 4 not confirmed in time.";

/// Options of every command.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    // Not as documentation, which wants marks around addresses.
    #[arg(help = "The base URL of the controller [default: the profile's, else https://127.0.0.1:7400]")]
    #[arg(long, global = true, env = "CPS_PEERING_CONTROLLER", value_name = "URL")]
    controller: Option<String>,
    /// CA certificates (PEM) that the controller's certificate is verified against [default: the profile's, else
    /// /etc/cps-peering/tls/ca.pem, else the system's trust store]
    #[arg(long, global = true, env = "CPS_PEERING_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Client certificate (PEM) to authenticate with instead of a token, such as one of `pki issue operator`; requires --key.
    #[arg(long, global = true, env = "CPS_PEERING_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key (PEM) of --cert.
    #[arg(long, global = true, env = "CPS_PEERING_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// File that holds the bearer token.
    #[arg(long, global = true, env = "CPS_PEERING_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Region of the command, for tenants [default: the profile's, else the only region there is]
    #[arg(long, global = true, env = "CPS_PEERING_REGION")]
    region: Option<String>,
    /// Profile to use [default: `default`, if it exists]
    #[arg(long, global = true, env = "CPS_PEERING_PROFILE", value_name = "NAME")]
    profile: Option<String>,
    /// Output format.
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Output,
}

/// How a result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table, for people.
    Table,
    /// JSON, for programs.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Manage peerings: the account's own in a region; for operators, all.
    #[command(subcommand)]
    Peering(peering::Command),
    /// Manage the account's VPCs.
    #[command(subcommand)]
    Vpc(vpc::Command),
    /// Show route tables of the account's VPCs. Routes are managed automatically.
    #[command(subcommand)]
    RouteTable(vpc::Tables),
    /// Show the account's quotas in the region, and how much of them is used.
    Quota,
    /// Show the authenticated identity.
    Whoami,
    /// Show the audit trail, newest entries first.
    Audit(audit::Query),
    /// Show metered usage and charges: cross-region peerings, by bandwidth and time.
    Metering(metering::Query),
    /// Block peering requests from an account.
    Block {
        /// The account.
        account: String,
    },
    /// Unblock an account: accept peering requests from it again.
    Unblock {
        /// The account.
        account: String,
    },
    /// List the blocked accounts.
    Blocked,
    /// For operators: apply an inventory file, all or nothing.
    Apply(inventory::Apply),
    /// For operators: show the current inventory.
    Inventory,
    /// For operators: manage hosts.
    #[command(subcommand)]
    Host(inventory::Host),
    /// For operators: accounts, quotas, backups and the whole audit trail.
    #[command(subcommand)]
    Admin(admin::Command),
    /// Manage profiles: a controller and credentials under a name.
    #[command(subcommand)]
    Profile(profile::Command),
    /// Manage certificates: a CA in a directory, for controllers, agents and clients.
    Pki(pki::Arguments),
    /// Print a shell completion script.
    Completion {
        /// The shell.
        shell: Shell,
    },
}

/// A shell that can complete commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Args, Default)]
struct Wait {
    /// Wait until every host concerned has confirmed from its kernel, for at most this many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30")]
    wait: Option<u64>,
}

/// Why a command failed.
#[derive(Debug, Error)]
enum CliError {
    /// The controller refused it, or a local file is wrong.
    #[error("{0}")]
    Refused(String),
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The controller cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// It was done, but the hosts have not confirmed it in time.
    #[error("{0}")]
    Unconfirmed(String),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            CliError::Refused(_) => 1,
            // Also clap's.
            CliError::Usage(_) => 2,
            CliError::Unreachable(_) => 3,
            CliError::Unconfirmed(_) => 4,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            error.exit_code().into()
        }
    }
}

/// Writes a message to standard error, apart from the result.
fn complain(text: &str) {
    cps_peering_terminal::complain(&format!("{NAME}: {text}"));
}

async fn run(Arguments { global, command }: Arguments) -> Result<(), CliError> {
    let output = global.output;
    let told = Told::read(global);
    match command {
        Command::Completion { shell } => {
            completion(shell);
            return Ok(());
        }
        Command::Pki(arguments) => return pki::run(arguments, output),
        Command::Profile(command) => return profile::run(&Config::find()?, command, told, output),
        _ => {}
    }
    let session = Session::new(told.resolve()?, output)?;
    match command {
        Command::Peering(command) => peering::run(&session, command).await,
        Command::Vpc(command) => vpc::run(&session, command).await,
        Command::RouteTable(command) => vpc::tables(&session, command).await,
        Command::Quota => account::quota(&session).await,
        Command::Whoami => account::whoami(&session).await,
        Command::Audit(query) => audit::run(&session, &query).await,
        Command::Metering(query) => metering::run(&session, &query).await,
        Command::Block { account } => account::block(&session, &account).await,
        Command::Unblock { account } => account::unblock(&session, &account).await,
        Command::Blocked => account::blocked(&session).await,
        Command::Apply(apply) => inventory::apply(&session, &apply).await,
        Command::Inventory => inventory::show(&session).await,
        Command::Host(inventory::Host::List) => inventory::hosts(&session).await,
        Command::Admin(command) => admin::run(&session, command).await,
        // These were done above.
        Command::Profile(_) | Command::Pki(_) | Command::Completion { .. } => Ok(()),
    }
}

fn completion(shell: Shell) {
    let shell = match shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    let mut script = Vec::new();
    aot::generate(shell, &mut Arguments::command(), NAME, &mut script);
    cps_peering_terminal::show(String::from_utf8_lossy(&script).trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }
}
