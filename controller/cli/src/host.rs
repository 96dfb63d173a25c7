//! Hosts: their state, and taking them out of and back into service. For operators.

use super::{
    CliError,
    client::{Call, admin},
    inventory::differences,
    output::{cell, elements, rows as table},
    session::Session,
};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

#[derive(Subcommand, Clone)]
pub(super) enum Command {
    /// List all hosts and the state of their agents.
    List,
    /// Drain a host before maintenance: it takes no new ports, and new peerings do not wait for it. Its ports stay, and forward
    /// for as long as it runs.
    Drain {
        /// The host.
        host: String,
    },
    /// Return a drained host to service.
    Uncordon {
        /// The host.
        host: String,
    },
    /// Announce a maintenance window: from then on new peerings do not wait for the hosts, and alerts leave them out, until it ends by
    /// itself. They are pushed to all the same.
    Maintenance(Maintenance),
    /// Pause pushes to hosts, deletes and shares of bandwidth included: they keep their current configuration. They are still polled,
    /// and still get revocation lists.
    Pause(Which),
    /// Resume pushes to hosts.
    Resume(Which),
    /// Remove a host with its ports. Its agent cleans up its kernel first; with --dead nothing waits for that. Remove its
    /// entries from the inventory file, too, or the next `apply` brings it back.
    Remove {
        /// The host.
        host: String,
        #[command(flatten)]
        removal: Removal,
    },
    /// Move a host's ports to another host, under the same interface names, and remove it. Change the inventory file
    /// likewise.
    Replace {
        /// The host to remove
        host: String,
        /// The host that takes over: in the inventory, in the same region.
        #[arg(long, value_name = "HOST")]
        by: String,
        #[command(flatten)]
        removal: Removal,
    },
}

/// Some hosts, or all of a region.
#[derive(Args, Clone)]
#[group(id = "which", required = true, multiple = false)]
pub(super) struct Which {
    /// The hosts.
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
    /// All hosts of this region.
    #[arg(long, value_name = "REGION")]
    all_of: Option<String>,
}

/// The maintenance window of some hosts.
#[derive(Args, Clone)]
#[group(id = "ends", required = true, multiple = false)]
pub(super) struct Maintenance {
    #[command(flatten)]
    which: Which,
    /// When it begins, for instance 2026-01-31T22:00:00+08:00; at most 90 days ahead. By default, now.
    #[arg(long, value_name = "TIME", conflicts_with = "end")]
    from: Option<String>,
    /// When it ends; at most 7 days after it begins.
    #[arg(long, value_name = "TIME", group = "ends")]
    until: Option<String>,
    /// How long it lasts, for instance 90m, 2h or 1d.
    #[arg(long = "for", value_name = "TIME", group = "ends", value_parser = seconds)]
    lasts: Option<u64>,
    /// End it now, or call off one that has not begun.
    #[arg(long, group = "ends")]
    end: bool,
}

/// A length of time in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let found = units.iter().find_map(|(unit, length)| Some((text.strip_suffix(unit)?, *length)));
    let number = found.and_then(|(number, length)| number.parse::<u32>().ok().map(|it| u64::from(it) * length));
    number.filter(|it| *it > 0).ok_or_else(|| "expected a number and a unit, such as 90m, 2h or 1d".to_owned())
}

/// How a host is removed.
#[derive(Args, Clone)]
pub(super) struct Removal {
    /// The host is dead: do not wait for its agent. Make sure that it stays off the underlay.
    #[arg(long)]
    dead: bool,
    /// Confirm that this many entries are removed or stop traffic, as counted by the dry run
    #[arg(long, value_name = "NUMBER")]
    confirm: Option<usize>,
    /// Show what would change without changing it.
    #[arg(long)]
    dry_run: bool,
}

impl Removal {
    fn say<'a>(&self, call: Call<'a>) -> Call<'a> {
        call.with("dead", &self.dead).with("dryRun", &self.dry_run).with_some("confirm", self.confirm)
    }
}

impl Command {
    /// Whether it changes nothing and can be repeated.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::List)
    }
}

pub(super) async fn run(session: &Session, command: Command) -> Result<(), CliError> {
    let call = match &command {
        Command::List => return list(session).await,
        Command::Maintenance(asked) => {
            let method = if asked.end { Method::DELETE } else { Method::POST };
            let (from, until) = (asked.from.as_ref(), asked.until.as_ref());
            return each(session, &asked.which, |host| {
                let call = Call::new(method.clone(), admin(&["hosts", host, "maintenance"]));
                call.with_some("from", from).with_some("until", until).with_some("forSeconds", asked.lasts)
            })
            .await;
        }
        Command::Pause(which) => return each(session, which, |host| said_of(host, "pause")).await,
        Command::Resume(which) => return each(session, which, |host| said_of(host, "resume")).await,
        Command::Drain { host } => Call::new(Method::POST, admin(&["hosts", host, "drain"])),
        Command::Uncordon { host } => Call::new(Method::POST, admin(&["hosts", host, "uncordon"])),
        Command::Remove { host, removal } => removal.say(Call::new(Method::DELETE, admin(&["hosts", host]))),
        Command::Replace { host, by, removal } => {
            removal.say(Call::new(Method::POST, admin(&["hosts", host, "replace"])).with("by", by))
        }
    };
    let result = session.call(call).await?;
    session.print(&result, || differences(&result));
    Ok(())
}

fn said_of<'a>(host: &'a str, word: &'static str) -> Call<'a> {
    Call::new(Method::POST, admin(&["hosts", host, word]))
}

/// Makes the same call for each of some hosts. If one is refused, the calls before it remain in effect.
async fn each(session: &Session, which: &Which, call: impl for<'a> Fn(&'a str) -> Call<'a>) -> Result<(), CliError> {
    let hosts = match &which.all_of {
        None => which.hosts.clone(),
        Some(region) => {
            let known = session.call(Call::get(admin(&["hosts"]))).await?;
            let here = elements(&known["hosts"]).iter();
            let here = here.filter(|it| it["regionId"] == region.as_str() && it["retiring"] != true);
            let here: Vec<String> = here.filter_map(|it| it["host"].as_str().map(str::to_owned)).collect();
            if here.is_empty() {
                return Err(CliError::Refused(format!("there is no host in region {region}")));
            }
            here
        }
    };
    let mut results = Vec::new();
    for host in &hosts {
        results.push(session.call(call(host)).await?);
    }
    let (result, changed) =
        (json!({ "hosts": hosts }), results.iter().filter(|it| it["changes"][0].is_object()).count());
    session.print(&result, || format!("{changed} of {} hosts changed: {}", hosts.len(), hosts.join(", ")));
    Ok(())
}

/// The state of a host in words, most important first.
fn state(host: &Value) -> String {
    let is = |field: &str| host[field] == true;
    let answers = is("answers");
    let words = [
        (is("dead") && answers, "removed, answers"),
        (is("dead") && !answers, "removed"),
        (is("retiring") && !is("dead"), "removing"),
        (is("paused"), "paused"),
        (host["rollout"] == "canary", "canary"),
        (host["rollout"] == "heldBack", "held back"),
        (is("drained"), "drained"),
        (is("maintenance"), "maintenance"),
    ];
    let window = &host["maintenanceWindow"];
    let mut words: Vec<String> =
        words.into_iter().filter_map(|(holds, word)| holds.then_some(word.to_owned())).collect();
    if window["begun"] == true {
        words.push(format!("maintenance until {}", cell(&window["until"])));
    } else if words.is_empty() {
        words.push("in use".to_owned());
    }
    if window["begun"] == false {
        words.push(format!("maintenance from {} until {}", cell(&window["from"]), cell(&window["until"])));
    }
    words.join(", ")
}

/// How long ago something was, for people.
fn age(seconds: &Value) -> String {
    match seconds.as_u64() {
        None => "never".to_owned(),
        Some(seconds @ ..120) => format!("{seconds}s ago"),
        Some(seconds @ ..7200) => format!("{}m ago", seconds / 60),
        Some(seconds @ ..172_800) => format!("{}h ago", seconds / 3600),
        Some(seconds) => format!("{}d ago", seconds / 86_400),
    }
}

/// Why a host's certificate, which is due, has not been renewed; none if it is not due.
fn not_renewed(host: &Value) -> Option<String> {
    let reason = match host["certificateNotRenewed"].as_str()? {
        "unreachable" => "the agent was not reached".to_owned(),
        "unsupported" => "agents before 0.3.0 are not renewed".to_owned(),
        "agent_refused" => "the agent does not create a request, or refuses the certificate".to_owned(),
        "request_refused" => "the agent's request, or its certificate, is not as it must be".to_owned(),
        "not_issued" => "the controller's issuer cannot be used".to_owned(),
        _ => cell(&host["certificateNotRenewed"]),
    };
    Some(format!("certificate renewal failed: {reason} (see the controller's journal)"))
}

/// The least MTU of an IPv4 underlay that needs no fragments, in bytes: IPv6 takes 1280 (RFC 8200 section 5), and VXLAN adds 50.
const LEAST_MTU: u64 = 1330;

async fn list(session: &Session) -> Result<(), CliError> {
    let result = session.call(Call::get(admin(&["hosts"]))).await?;
    let heading = [
        "HOST",
        "REGION",
        "UNDERLAY",
        "MTU",
        "STATE",
        "IN SYNC",
        "DESIRED",
        "APPLIED",
        "HEARD",
        "CERTIFICATE UNTIL",
        "TROUBLE",
    ];
    let most = elements(&result["hosts"]).iter().filter_map(|host| host["underlayMtu"].as_u64()).max();
    let row = |host: &Value| {
        let of = |field: &str| cell(&host[field]);
        let problems = elements(&host["problems"]).iter();
        let problems = problems.map(|it| format!("{}: {}", cell(&it["object"]), cell(&it["reason"])));
        let error = host["lastError"].as_str().map(|_| of("lastError"));
        let own = host["underlayMtu"].as_u64();
        let less = own.zip(most).filter(|(own, most)| own < most).map(|(own, most)| {
            format!("underlay MTU {own}, {most} on other hosts: packets to and from here are limited to {own} less encapsulation")
        });
        // If the underlay is IPv6, the host reports it itself.
        let small = own.filter(|own| *own < LEAST_MTU && !of("underlay").contains(':')).map(|own| {
            format!("underlay MTU {own}, less than {LEAST_MTU}: longer packets between hosts go in fragments")
        });
        let trouble: Vec<String> =
            error.into_iter().chain(problems).chain(less).chain(small).chain(not_renewed(host)).collect();
        let trouble = if trouble.is_empty() { "-".to_owned() } else { trouble.join("; ") };
        let heard = age(&host["reportAgeSeconds"]);
        let [name, region, underlay, mtu, sync, desired, applied, certificate] =
            ["host", "regionId", "underlay", "underlayMtu", "inSync", "desired", "applied", "certificateExpires"]
                .map(of);
        vec![name, region, underlay, mtu, state(host), sync, desired, applied, heard, certificate, trouble]
    };
    let rows: Vec<Vec<String>> = elements(&result["hosts"]).iter().map(row).collect();
    session.print(&result, || table(&heading, &rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_for_people() {
        for (host, expected) in [
            (json!({}), "in use"),
            (json!({ "maintenance": true }), "maintenance"),
            (json!({ "maintenance": true, "drained": true }), "drained, maintenance"),
            (json!({ "maintenanceWindow": null }), "in use"),
            (
                json!({ "maintenanceWindow": { "from": "A", "until": "B", "begun": false } }),
                "in use, maintenance from A until B",
            ),
            (
                json!({ "paused": true, "maintenanceWindow": { "from": "A", "until": "B", "begun": true } }),
                "paused, maintenance until B",
            ),
            (json!({ "paused": true }), "paused"),
            (json!({ "rollout": "heldBack" }), "held back"),
            (json!({ "rollout": "canary", "drained": true }), "canary, drained"),
            (json!({ "retiring": true }), "removing"),
            (json!({ "retiring": true, "dead": true }), "removed"),
            (json!({ "retiring": true, "dead": true, "answers": true }), "removed, answers"),
        ] {
            assert_eq!(state(&host), expected);
        }
        assert_eq!(not_renewed(&json!({ "certificateNotRenewed": null })), None);
        let said = not_renewed(&json!({ "certificateNotRenewed": "unreachable" })).unwrap();
        assert!(said.contains("the agent was not reached"), "{said}");
        let newer = not_renewed(&json!({ "certificateNotRenewed": "moon" })).unwrap();
        assert!(newer.contains("moon"), "{newer}");
        for (seconds, expected) in
            [(json!(null), "never"), (json!(0), "0s ago"), (json!(7199), "119m ago"), (json!(200_000), "2d ago")]
        {
            assert_eq!(age(&seconds), expected);
        }
    }
}
