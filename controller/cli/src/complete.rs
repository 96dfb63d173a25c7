//! Shell completion: the program itself lists the candidates, including names of profiles, peerings and VPCs.

use super::{
    Arguments, Global, NAME, Output, Said,
    client::{Call, admin, regional},
    output::{cell, elements, printable},
    profile::{Config, Overrides},
    session::{Session, is_operator},
};
use clap::{CommandFactory as _, FromArgMatches as _};
use clap_complete::{
    CompleteEnv,
    engine::{ArgValueCandidates, CompletionCandidate},
    env::Shells,
};
use serde_json::Value;
use std::{ffi::OsString, time::Duration};

/// How long a shell waits for names.
const PATIENCE: Duration = Duration::from_secs(2);
/// The variable with which a shell asks for candidates.
const VARIABLE: &str = "COMPLETE";

/// Answers a shell that asks for candidates, and exits.
pub(super) fn answer() {
    CompleteEnv::with_factory(Arguments::command).var(VARIABLE).bin(NAME).completer(NAME).complete();
}

/// The script that enables completion in a shell; none for an unknown shell.
pub(super) fn script(shell: &str) -> Option<String> {
    let mut script = Vec::new();
    Shells::builtins().completer(shell)?.write_registration(VARIABLE, NAME, NAME, NAME, &mut script).ok()?;
    Some(String::from_utf8_lossy(&script).trim().to_owned())
}

/// Names of profiles.
pub(super) fn profiles() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let names = Config::find().and_then(|config| config.names()).unwrap_or_default();
        names.into_iter().filter(|name| is_plain(name)).map(CompletionCandidate::new).collect()
    })
}

/// Ids and names of peerings.
pub(super) fn peerings() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let found = asked(async |session| {
            let whoami = session.whoami().await.ok()?;
            if is_operator(&whoami) {
                let mut answer = session.call(Call::get(admin(&["peerings"]))).await.ok()?;
                return Some(elements(&answer["vpcPeerings"].take()).to_vec());
            }
            let region = session.region_of(&whoami).ok()?;
            let call = || Call::get(regional(&region, &["vpcPeerings"]));
            session.pages(call, "vpcPeerings", "vpcPeeringId").await.ok()
        });
        candidates(&found, "vpcPeeringId", "vpcPeeringName")
    })
}

/// Ids and names of the account's VPCs.
pub(super) fn vpcs() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let found = asked(async |session| {
            let region = session.region().await.ok()?;
            session.pages(|| Call::get(regional(&region, &["vpcs"])), "vpcs", "vpcId").await.ok()
        });
        candidates(&found, "vpcId", "name")
    })
}

/// Whether a shell takes a text for one word and nothing else: others choose names, and a completed line is run.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !text.is_empty() && !text.starts_with('-') && text.chars().all(plain)
}

fn candidates(found: &[Value], id: &str, name: &str) -> Vec<CompletionCandidate> {
    let of = |value: &Value| {
        let [id, name] = [id, name].map(|field| cell(&value[field]));
        let by_id = CompletionCandidate::new(&id).help(Some(printable(&name).into()));
        let by_name = Some(&name).filter(|name| is_plain(name) && **name != id).map(CompletionCandidate::new);
        std::iter::once(by_id).chain(by_name)
    };
    found.iter().flat_map(of).collect()
}

/// The controller's list; empty if it does not answer soon, or there are no credentials.
fn asked(ask: impl AsyncFnOnce(&Session) -> Option<Vec<Value>>) -> Vec<Value> {
    let found = || {
        let resolved = told()?.resolve().ok()?;
        let session = Session::new(resolved, Output::Json, false).ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(&session)).await.ok()? })
    };
    found().unwrap_or_default()
}

/// The options on the line that is being completed: the shell passes it after `--`.
fn told() -> Option<Overrides> {
    let line: Vec<OsString> = std::env::args_os().skip_while(|argument| argument != "--").skip(1).collect();
    let matches = Arguments::command().ignore_errors(true).try_get_matches_from(line).ok()?;
    Some(Overrides::read(Global::from_arg_matches(&matches).ok()?, Said::read(&matches)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_that_a_shell_would_run_are_not_completed() {
        let found = [
            json!({ "vpcId": "vpc-1", "name": "blue" }),
            json!({ "vpcId": "vpc-2", "name": "$(reboot)" }),
            json!({ "vpcId": "vpc-3", "name": "a b" }),
            json!({ "vpcId": "vpc-4", "name": "--force" }),
            json!({ "vpcId": "vpc-5", "name": "京东" }),
        ];
        let values: Vec<String> =
            candidates(&found, "vpcId", "name").iter().map(|it| it.get_value().display().to_string()).collect();
        assert_eq!(values, ["vpc-1", "blue", "vpc-2", "vpc-3", "vpc-4", "vpc-5"]);
    }
}
