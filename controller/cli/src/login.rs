//! `cps-peering login`: verifies a token and saves it in a profile.

use super::{
    CliError, Output, complain,
    output::{cell, print},
    profile::{Config, Overrides, token_from_input},
    session::{Session, is_operator},
};
use clap::Args;
use serde_json::json;
use std::{
    io::{self, IsTerminal, Write},
    process::{Command, Stdio},
};

/// Save a bearer token in the profile of --profile (by default `default`), with --controller, --ca and --region if they are
/// given. The token is read from the terminal, or from standard input if that is not a terminal, and verified first: one that
/// the controller does not accept is not saved.
#[derive(Args, Clone)]
pub(super) struct Login {}

/// Turns the terminal's echo off until it is dropped.
struct NoEcho;

impl NoEcho {
    fn set(word: &str) {
        // Without `stty` the token is echoed: still better than being unable to sign in.
        let _ = Command::new("stty").arg(word).stdin(Stdio::inherit()).stderr(Stdio::null()).status();
    }

    fn begin() -> Self {
        Self::set("-echo");
        Self
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        Self::set("echo");
    }
}

fn ask() -> Result<String, CliError> {
    if !io::stdin().is_terminal() {
        return token_from_input();
    }
    let cannot = |error: io::Error| CliError::Refused(format!("cannot ask for a token: {error}"));
    let mut output = io::stderr().lock();
    write!(output, "token: ").and_then(|()| output.flush()).map_err(cannot)?;
    let mut token = String::new();
    {
        let _silent = NoEcho::begin();
        io::stdin().read_line(&mut token).map_err(cannot)?;
    }
    writeln!(output).map_err(cannot)?;
    match token.trim() {
        "" => Err(CliError::Usage(
            "a token is needed: operators create them with `cps-peering admin account add-token`".to_owned(),
        )),
        token => Ok(token.to_owned()),
    }
}

pub(super) async fn run(
    config: &Config,
    Login {}: &Login,
    told: Overrides,
    output: Output,
    debug: bool,
) -> Result<(), CliError> {
    let name = told.profile_name().to_owned();
    let token = ask()?;
    let resolved = told.clone().with_token(&token).resolve_new()?;
    let controller = resolved.controller.clone();
    if controller.starts_with("http://") {
        complain("over http:// the token is sent unencrypted: use https:// unless the controller is on this machine");
    }
    let session = Session::new(resolved, output, debug)?;
    let whoami = session.whoami().await?;
    config.set(&name, told.without_credentials(), Some(token))?;
    let who = if is_operator(&whoami) {
        let operator = cell(&whoami["operator"]);
        if operator == "-" { "operator".to_owned() } else { format!("operator {operator}") }
    } else {
        format!("account {}", cell(&whoami["accountId"]))
    };
    let json = json!({ "profile": name, "file": config.path(), "controller": controller, "whoami": whoami });
    print(output, &json, || {
        format!("signed in to {controller} as {who}; profile {name} keeps the token in {}", config.path().display())
    });
    Ok(())
}
