//! The command line interface `cps-peering`, for tenants and for operators.
//!
//! | module | content |
//! |---|---|
//! | [`profile`], [`login`] | which controller is called, and with which credentials |
//! | [`connection`], [`url`] | the controller's URL, and the caller's credentials |
//! | [`client`] | calls to its HTTP API |
//! | [`session`] | what commands share: the controller, the region, how results are shown |
//! | [`peering`], [`path`], [`vpc`], [`account`], [`audit`], [`events`], [`metering`], [`inventory`], [`host`], [`doctor`], [`bundle`], [`admin`], [`pki`] | the commands |
//! | [`output`], [`yaml`] | responses as tables, JSON, YAML |
//! | [`complete`] | shell completion |

mod account;
mod admin;
mod audit;
mod bundle;
mod client;
mod complete;
mod connection;
mod doctor;
mod events;
mod host;
mod inventory;
mod login;
mod metering;
mod output;
mod path;
mod peering;
mod pki;
mod profile;
mod profile_command;
mod rollout;
mod session;
mod url;
mod vpc;
mod webhook;
mod yaml;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches as _, Parser, Subcommand, ValueEnum, parser::ValueSource};
use profile::{Config, Overrides};
use serde_json::{Value, json};
use session::Session;
use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};
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
Credentials, the first one that is given: on the command line --token-file, --cert with --key, those of --profile; then the \
environment variables CPS_PEERING_TOKEN_FILE, CPS_PEERING_CERT with CPS_PEERING_KEY, CPS_PEERING_TOKEN; then the profile's; then \
/etc/cps-peering/operator.token. `cps-peering login` keeps a token in a profile.

Examples:
  cps-peering login --controller https://192.0.2.10:7400
  cps-peering peering list -o wide --watch
  cps-peering peering create --name a-b --vpc a --peer-vpc b --wait

Exit codes: 0 success, 1 request refused (`diff`: there are differences, `doctor`: there are problems, `path`: does not reach), 2 usage error, 3 controller unreachable, 4 not confirmed in time.";

/// Options of every command.
#[derive(Args, Clone)]
#[command(next_help_heading = "Global options")]
struct Global {
    // Not a doc comment, in which rustdoc would want the addresses in angle brackets.
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
    #[arg(long, global = true, env = "CPS_PEERING_PROFILE", value_name = "NAME", add = complete::profiles())]
    profile: Option<String>,
    /// Output format.
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Output,
    /// Omit table headers.
    #[arg(long, global = true)]
    no_headers: bool,
    /// Repeat the command every SECONDS [default: 2] until interrupted: a terminal is redrawn in place, elsewhere the output is
    /// printed again when it has changed. For read-only commands.
    #[arg(long, global = true, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86400))]
    watch: Option<u64>,
    /// Write each request and its answer to standard error, without secrets.
    #[arg(long, global = true)]
    debug: bool,
}

/// Which global options are given on the command line rather than in the environment.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    controller: bool,
    ca: bool,
    cert: bool,
    token_file: bool,
    region: bool,
    profile: bool,
}

impl Said {
    fn read(matches: &ArgMatches) -> Self {
        let said = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        Self {
            controller: said("controller"),
            ca: said("ca"),
            cert: said("cert"),
            token_file: said("token_file"),
            region: said("region"),
            profile: said("profile"),
        }
    }
}

/// How a result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table, for people.
    Table,
    /// A table with additional columns
    Wide,
    /// JSON, for programs.
    Json,
    /// YAML
    Yaml,
    /// Ids only, one per line
    Name,
}

#[derive(Subcommand, Clone)]
enum Command {
    /// Manage peerings: the account's own in a region; for operators, all.
    #[command(subcommand)]
    Peering(peering::Command),
    /// Check whether one address reaches another, and if not, what stops the packets: as seen in the hosts' kernels, not
    /// only in the configuration. Exit code 1 if it does not, or if that cannot be determined.
    Path(path::Query),
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
    /// Show events of the account's peerings in the region, in order; for operators, all events.
    Events(events::Query),
    /// Manage webhooks: URLs to which signed events of the region are sent; for operators, all events.
    #[command(subcommand)]
    Webhook(webhook::Command),
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
    /// For operators: show what applying an inventory file would change. Exit code 1 if there are differences.
    Diff(inventory::Diff),
    /// For operators: show the current inventory.
    Inventory,
    /// For operators: list, drain, pause, remove and replace hosts.
    #[command(subcommand)]
    Host(host::Command),
    /// For operators: show, continue and stop the rollout of a change.
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// For operators: diagnose the controller and its hosts, and suggest fixes. Exit code 1 if there are failures.
    Doctor(doctor::Doctor),
    /// For operators: collect troubleshooting data.
    #[command(subcommand)]
    Debug(bundle::Command),
    /// For operators: accounts, quotas, backups and the whole audit trail.
    #[command(subcommand)]
    Admin(admin::Command),
    /// Manage profiles: a controller and credentials, saved under a name.
    #[command(subcommand)]
    Profile(profile_command::Command),
    /// Manage certificates: a CA in a directory, for controllers, agents and clients.
    Pki(pki::Arguments),
    /// Sign in: verify a token and save it in a profile.
    Login(login::Login),
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

impl Shell {
    fn word(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }
}

impl Command {
    /// The refresh interval if the command refreshes by itself, in seconds.
    fn interval(&self) -> Option<u64> {
        match self {
            Self::Peering(peering::Command::Watch { interval }) => Some(*interval),
            _ => None,
        }
    }

    /// Whether it changes nothing and can be repeated.
    fn is_read_only(&self) -> bool {
        match self {
            Self::Peering(command) => command.is_read_only(),
            Self::Vpc(command) => matches!(command, vpc::Command::List | vpc::Command::Show { .. }),
            Self::Admin(command) => command.is_read_only(),
            Self::Host(command) => command.is_read_only(),
            Self::Rollout(command) => command.is_read_only(),
            Self::Events(query) => !query.follow,
            Self::Webhook(command) => command.is_read_only(),
            Self::Path(_)
            | Self::RouteTable(_)
            | Self::Quota
            | Self::Whoami
            | Self::Audit(_)
            | Self::Metering(_)
            | Self::Blocked
            | Self::Inventory
            | Self::Diff(_)
            | Self::Doctor(_) => true,
            Self::Block { .. }
            | Self::Unblock { .. }
            | Self::Apply(_)
            | Self::Debug(_)
            | Self::Profile(_)
            | Self::Pki(_)
            | Self::Login(_)
            | Self::Completion { .. } => false,
        }
    }
}

#[derive(Args, Clone, Default)]
struct Wait {
    /// Wait until every host concerned has confirmed the change in its kernel, for at most this many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "30")]
    wait: Option<u64>,
}

/// Joins a number after `--wait` or `--watch` to the option: `--wait 60` becomes `--wait=60`, while `--wait NAME` waits for the default time.
fn joined(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter().peekable();
    let mut joined: Vec<OsString> = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            joined.push(argument);
            joined.extend(arguments);
            break;
        }
        let is_number = |next: &OsString| next.to_str().is_some_and(|text| text.parse::<u64>().is_ok());
        let number = if argument == "--wait" || argument == "--watch" { arguments.next_if(is_number) } else { None };
        joined.push(match number {
            Some(number) => format!("{}={}", argument.display(), number.display()).into(),
            None => argument,
        });
    }
    joined
}

/// Why a command failed.
#[derive(Debug, Error)]
enum CliError {
    /// A local file is invalid, or the request makes no sense for what was found.
    #[error("{0}")]
    Refused(String),
    /// The controller refused the request.
    #[error("{message}")]
    Rejected {
        /// The message, for people.
        message: String,
        /// The error as received, with the request's id.
        answer: Value,
    },
    /// The command line is invalid.
    #[error("{0}")]
    Usage(String),
    /// The controller cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// A file and the inventory differ, and the differences were shown.
    #[error("there are differences")]
    Different,
    /// It was done, but not all hosts have confirmed it in time.
    #[error("{0}")]
    Unconfirmed(String),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            CliError::Refused(_) | CliError::Rejected { .. } | CliError::Different => 1,
            // The same as clap's.
            CliError::Usage(_) => 2,
            CliError::Unreachable(_) => 3,
            CliError::Unconfirmed(_) => 4,
        }
    }
}

fn main() -> ExitCode {
    complete::answer();
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(answered()),
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            1.into()
        }
    }
}

/// Runs the command line.
async fn answered() -> ExitCode {
    let matches = Arguments::command().get_matches_from(joined(std::env::args_os()));
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let output = arguments.global.output;
    match run(arguments, Said::read(&matches)).await {
        Ok(()) => ExitCode::SUCCESS,
        // The differences were shown.
        Err(error @ CliError::Different) => error.exit_code().into(),
        Err(error) => {
            match output {
                Output::Json => complain_as_json(&error),
                _ => complain(&error.to_string()),
            }
            error.exit_code().into()
        }
    }
}

/// Writes an error to standard error as JSON.
fn complain_as_json(error: &CliError) {
    let mut said = match error {
        CliError::Rejected { answer, .. } => answer.clone(),
        CliError::Refused(_) => json!({ "status": "FAILED" }),
        CliError::Different => json!({ "status": "DIFFERENT" }),
        CliError::Usage(_) => json!({ "status": "USAGE" }),
        CliError::Unreachable(_) => json!({ "status": "UNREACHABLE" }),
        CliError::Unconfirmed(_) => json!({ "status": "UNCONFIRMED" }),
    };
    if said["message"].is_null() {
        said["message"] = error.to_string().into();
    }
    let text = json!({ "error": said, "exitCode": error.exit_code() }).to_string();
    cps_peering_terminal::complain(&cps_peering_config::text::printable_json(&text).to_string());
}

/// Writes a message to standard error, apart from the result.
fn complain(text: &str) {
    cps_peering_terminal::complain(&format!("{NAME}: {text}"));
}

async fn run(Arguments { global, command }: Arguments, given: Said) -> Result<(), CliError> {
    let (output, debug) = (global.output, global.debug);
    let watch = global.watch.or(command.interval());
    output::set_headers(!global.no_headers);
    let told = Overrides::read(global, given);
    if watch.is_some() && !command.is_read_only() {
        return Err(CliError::Usage("--watch is for read-only commands".to_owned()));
    }
    match command {
        Command::Completion { shell } => {
            let script = complete::script(shell.word()).unwrap_or_default();
            cps_peering_terminal::show(&script);
            return Ok(());
        }
        Command::Pki(arguments) => return pki::run(arguments, output),
        Command::Profile(command) => return profile_command::run(&Config::find()?, command, told, output),
        Command::Login(login) => return login::run(&Config::find()?, &login, told, output, debug).await,
        _ => {}
    }
    let session = Session::new(told.resolve()?, output, debug)?;
    let Some(seconds) = watch else { return carry_out(&session, command).await };
    output::watch();
    let mut reached = false;
    loop {
        match carry_out(&session, command.clone()).await {
            // It was reachable before, and may be again.
            Err(CliError::Unreachable(text)) if reached => output::note(&text),
            done => done?,
        }
        reached = true;
        output::flush();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

async fn carry_out(session: &Session, command: Command) -> Result<(), CliError> {
    match command {
        Command::Peering(command) => peering::run(session, command).await,
        Command::Path(query) => path::run(session, &query).await,
        Command::Vpc(command) => vpc::run(session, command).await,
        Command::RouteTable(command) => vpc::tables(session, command).await,
        Command::Quota => account::quota(session).await,
        Command::Whoami => account::whoami(session).await,
        Command::Audit(query) => audit::run(session, &query).await,
        Command::Events(query) => events::run(session, &query).await,
        Command::Webhook(command) => webhook::run(session, command).await,
        Command::Metering(query) => metering::run(session, &query).await,
        Command::Block { account } => account::block(session, &account).await,
        Command::Unblock { account } => account::unblock(session, &account).await,
        Command::Blocked => account::blocked(session).await,
        Command::Apply(apply) => inventory::apply(session, &apply).await,
        Command::Inventory => inventory::show(session).await,
        Command::Diff(diff) => inventory::diff(session, &diff).await,
        Command::Host(command) => host::run(session, command).await,
        Command::Rollout(command) => rollout::run(session, &command).await,
        Command::Doctor(doctor) => doctor::run(session, &doctor).await,
        Command::Debug(command) => bundle::run(session, command).await,
        Command::Admin(command) => admin::run(session, command).await,
        // Handled by the caller.
        Command::Profile(_) | Command::Pki(_) | Command::Login(_) | Command::Completion { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_behind_an_option_that_may_have_one_is_its_own_and_a_name_is_not() {
        let of = |line: &str| {
            let joined = joined(line.split(' ').map(OsString::from));
            joined.iter().map(|it| it.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        for (line, same) in [
            ("p delete --wait 60 a", "p delete --wait=60 a"),
            ("p delete --wait a", "p delete --wait a"),
            ("p delete a --wait", "p delete a --wait"),
            ("p list --watch 5 --wait", "p list --watch=5 --wait"),
            ("p delete -- --wait 60", "p delete -- --wait 60"),
            ("p delete --wait=7 60", "p delete --wait=7 60"),
        ] {
            assert_eq!(of(line), same);
        }
        for line in ["peering delete --wait a", "peering delete a --wait", "peering delete a --wait=5"] {
            let line = format!("cps-peering {line}");
            let parsed = Arguments::try_parse_from(joined(line.split(' ').map(OsString::from))).ok().unwrap();
            let Command::Peering(peering::Command::Delete { which, wait }) = parsed.command else { panic!() };
            assert!(which.peering == "a" && wait.wait.is_some(), "{line}");
        }
    }

    #[test]
    fn what_the_environment_gives_is_not_what_is_said() {
        let said = |line: &str| {
            let matches = Arguments::command().try_get_matches_from(line.split(' ')).ok().unwrap();
            let Said { profile, region, controller, .. } = Said::read(&matches);
            (profile, region, controller)
        };
        // Before or behind the command.
        assert_eq!(said("cps-peering --profile p quota"), (true, false, false));
        assert_eq!(said("cps-peering peering list --profile p --region r"), (true, true, false));
        assert_eq!(said("cps-peering quota"), (false, false, false));
    }

    #[test]
    fn the_command_tree_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }
}
