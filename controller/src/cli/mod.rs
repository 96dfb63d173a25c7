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
pub struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Who one is: the token of --token-file, else the certificate of --cert, else the token in the environment variable \
CPS_PEERING_TOKEN, else the profile's token or certificate, else the token in /etc/cps-peering/operator.token.

Exit codes: 0 done, 1 refused, 2 wrong usage, 3 no controller, 4 not confirmed in time.";

/// What may be said with every command.
#[derive(Args)]
#[command(next_help_heading = "With every command")]
struct Global {
    // Not as documentation, which wants marks around addresses.
    #[arg(help = "The base URL of the controller [default: the profile's, else https://127.0.0.1:7400]")]
    #[arg(long, global = true, env = "CPS_PEERING_CONTROLLER", value_name = "URL")]
    controller: Option<String>,
    /// The certificates, in PEM, of those who sign for the controller [default: the profile's, else those of
    /// /etc/cps-peering/tls/ca.pem, else those that the system trusts]
    #[arg(long, global = true, env = "CPS_PEERING_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A file with a client certificate in PEM, as `pki issue operator` makes them, and with --key its key: who one is, without
    /// a token.
    #[arg(long, global = true, env = "CPS_PEERING_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of --cert.
    #[arg(long, global = true, env = "CPS_PEERING_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// A file that holds the bearer token.
    #[arg(long, global = true, env = "CPS_PEERING_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The region that a tenant's command is about [default: the profile's, else the only one there is]
    #[arg(long, global = true, env = "CPS_PEERING_REGION")]
    region: Option<String>,
    /// The profile to use [default: the one named `default`, if there is one]
    #[arg(long, global = true, env = "CPS_PEERING_PROFILE", value_name = "NAME")]
    profile: Option<String>,
    /// How to show the result.
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Output,
}

/// How a result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Peerings: an account's own in a region; for operators, all.
    #[command(subcommand)]
    Peering(peering::Command),
    /// VPCs of an account.
    #[command(subcommand)]
    Vpc(vpc::Command),
    /// Route tables of an account's VPCs. They follow the peerings.
    #[command(subcommand)]
    RouteTable(vpc::Tables),
    /// How many peerings the account may initiate from the region, and how many it has.
    Quota,
    /// Who one is.
    Whoami,
    /// What was done, and by whom; the newest first.
    Audit(audit::Query),
    /// What an account is charged for: its peerings between regions, by bandwidth.
    Metering(metering::Query),
    /// Want no requests from an account.
    Block {
        /// The account.
        account: String,
    },
    /// Want requests from an account again.
    Unblock {
        /// The account.
        account: String,
    },
    /// The accounts from which no requests are wanted.
    Blocked,
    /// For operators: bring the inventory to what a file says, all or nothing.
    Apply(inventory::Apply),
    /// For operators: show the inventory as it is.
    Inventory,
    /// For operators: hosts.
    #[command(subcommand)]
    Host(inventory::Host),
    /// For operators: everything that only they may do.
    #[command(subcommand)]
    Admin(admin::Command),
    /// Controllers and tokens that are kept under a name.
    #[command(subcommand)]
    Profile(profile::Command),
    /// Certificates for controller, agents and clients: a CA in a folder.
    Pki(pki::Arguments),
    /// Print a script that lets a shell complete commands.
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
    /// Wait until every host concerned has confirmed it from its kernel, at most so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30")]
    wait: Option<u64>,
}

/// Why a command did not do what was asked.
#[derive(Debug, Error)]
enum CliError {
    /// It was refused, or something in it is wrong.
    #[error("{0}")]
    Refused(String),
    /// It was said in a way that means nothing.
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

/// Runs the command line and returns the exit code: 0 done, 1 refused, 2 wrong usage, 3 no controller, 4 not confirmed in
/// time.
pub async fn main(arguments: Arguments) -> ExitCode {
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            error.exit_code().into()
        }
    }
}

/// Says on standard error what the program has to say beside its result.
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
