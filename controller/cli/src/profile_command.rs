//! `cps-peering profile`: the profiles, listed and changed.

use super::{
    CliError, Output, complete,
    output::{columns, print},
    profile::{Config, Overrides, token_from_input},
};
use clap::Subcommand;
use serde_json::{Value, json};

#[derive(Subcommand, Clone)]
pub(super) enum Command {
    /// List the profiles, without tokens.
    List,
    /// Save --controller, --ca, --region, --token-file, and --cert with --key in a profile, from the command line or the environment.
    /// Options that are not given stay as they are. The file is rewritten: comments in it are lost.
    Set {
        /// The profile's name; `default` is used when none is named.
        name: String,
        /// Read a token from standard input, and keep it in the profile.
        #[arg(long)]
        token_stdin: bool,
    },
    /// Delete a profile.
    Remove {
        /// The profile's name.
        #[arg(add = complete::profiles())]
        name: String,
    },
}

pub(super) fn run(config: &Config, command: Command, told: Overrides, output: Output) -> Result<(), CliError> {
    let done = |name: &str, what: &str| {
        let json = json!({ "profile": name, "file": config.path });
        print(output, &json, || format!("profile {name} is {what} {}", config.path.display()));
    };
    match command {
        Command::List => list(&config.describe(told.profile_name())?, output),
        Command::Set { name, token_stdin } => {
            if name.is_empty() {
                return Err(CliError::Usage("a profile's name is not empty".to_owned()));
            }
            let token = token_stdin.then(token_from_input).transpose()?;
            config.set(&name, told, token)?;
            done(&name, "kept in");
        }
        Command::Remove { name } => {
            config.remove(&name)?;
            done(&name, "removed from");
        }
    }
    Ok(())
}

fn list(rows: &[Value], output: Output) {
    let heading = [
        ("PROFILE", "/profile"),
        ("USED", "/used"),
        ("CONTROLLER", "/controller"),
        ("REGION", "/region"),
        ("HAS TOKEN", "/hasToken"),
        ("TOKEN FILE", "/tokenFile"),
        ("CERTIFICATE", "/cert"),
    ];
    print(output, &json!({ "profiles": rows }), || columns(&heading, rows));
}
