//! Why one address reaches another, or does not.

use super::{
    CliError,
    client::{Call, admin, regional},
    complete,
    output::{cell, elements, printable, rows as table},
    session::{Session, is_operator, said},
};
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use std::net::IpAddr;

/// Which path.
#[derive(Args, Clone)]
pub(super) struct Query {
    /// Source address: that of a server behind a port of a VPC
    source: IpAddr,
    /// Destination address
    destination: IpAddr,
    /// VPC of the source; needed only where several have it.
    #[arg(long, add = complete::vpcs())]
    vpc: Option<String>,
    /// Protocol and destination port of the packets, for instance tcp/443, udp/53, icmp.
    #[arg(long, value_name = "PROTOCOL/PORT", value_parser = protocol)]
    port: Option<Service>,
    /// Also show the steps without problems
    #[arg(long)]
    all: bool,
    /// Also send probe packets from the source's host to the destination's host, and show what comes back
    #[arg(long)]
    probe: bool,
}

/// A protocol and, where it has ports, a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Service {
    protocol: String,
    port: Option<u16>,
}

fn protocol(text: &str) -> Result<Service, String> {
    let rule = || format!("{} is not tcp/PORT, udp/PORT, tcp, udp or icmp", printable(text));
    let (protocol, port) = text.split_once('/').map_or((text, None), |(protocol, port)| (protocol, Some(port)));
    let port = match (protocol, port) {
        ("tcp" | "udp", Some(port)) => Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(rule)?),
        ("tcp" | "udp" | "icmp", None) => None,
        _ => return Err(rule()),
    };
    Ok(Service { protocol: protocol.to_owned(), port })
}

pub(super) async fn run(session: &Session, query: &Query) -> Result<(), CliError> {
    let whoami = session.whoami().await?;
    let region = if is_operator(&whoami) { None } else { Some(session.region_of(&whoami)?) };
    let path = match &region {
        None => admin(&["paths"]),
        Some(region) => regional(region, &["paths"]),
    };
    let vpc = match (&region, &query.vpc) {
        (Some(region), Some(vpc)) => Some(session.own_vpc(region, vpc).await?),
        (_, vpc) => vpc.clone(),
    };
    let service = query.port.as_ref();
    let body = said(json!({
        "source": query.source,
        "destination": query.destination,
        "vpcId": vpc,
        "protocol": service.map(|it| &it.protocol),
        "port": service.and_then(|it| it.port),
        // Controllers of the previous version refuse unknown fields.
        "probe": query.probe.then_some(true),
    }));
    let answer = session.call(Call::new(Method::POST, path).body(body)).await?;
    let path = &answer["path"];
    session.print(&answer, || shown(path, query.all));
    match path["reaches"].as_bool() {
        Some(true) => Ok(()),
        // What stops it was shown.
        Some(false) | None => Err(CliError::Different),
    }
}

const HEADINGS: [&str; 9] = ["#", "", "WAY", "SIDE", "HOST", "STEP", "FOUND", "REASON", "FIX BY"];

fn shown(path: &Value, all: bool) -> String {
    let row = |(place, step): (usize, &Value)| {
        let verdict = match step["verdict"].as_str() {
            Some("ok") => "ok".to_owned(),
            Some(other) => other.to_uppercase(),
            None => "-".to_owned(),
        };
        let way = match step["direction"].as_str() {
            Some("forward") => "->",
            Some("return") => "<-",
            _ => "",
        };
        let [side, title, host, object, observed] =
            ["side", "title", "host", "object", "observed"].map(|field| cell(&step[field]));
        let what = if observed == "-" { object } else { format!("{object}: {observed}") };
        let mut reason = cell(&step["reason"]);
        if step["expected"].is_string() {
            reason = format!("{reason} (wanted: {})", cell(&step["expected"]));
        }
        let fixable_by = cell(&step["fixableBy"]);
        vec![(place + 1).to_string(), verdict, way.to_owned(), side, host, title, what, reason, fixable_by]
    };
    let steps = elements(&path["steps"]);
    let shown = steps.iter().enumerate().filter(|(_, step)| all || step["verdict"] != "ok");
    let rows: Vec<Vec<String>> = shown.map(row).collect();
    let [source, destination] = ["source", "destination"].map(|field| cell(&path[field]));
    let sum = match (path["reaches"].as_bool(), path["firstWrong"].as_u64()) {
        (Some(true), None) => {
            let (number, are) = (steps.len(), if steps.len() == 1 { "step is as it" } else { "steps are as they" });
            format!("{source} reaches {destination}: {number} {are} should be")
        }
        (Some(true), Some(_)) => format!("{source} reaches {destination}, but not all is as it should be"),
        (Some(false), place) => format!("{source} does not reach {destination}: {}", first(steps, place)),
        (None, place) => format!("it is not known whether {source} reaches {destination}: {}", first(steps, place)),
    };
    let probe = if path["probe"].is_object() { format!("{}\n", probed(&path["probe"])) } else { String::new() };
    if rows.is_empty() { format!("{probe}{sum}") } else { format!("{}\n{probe}{sum}", table(&HEADINGS, &rows)) }
}

/// The result of the probe in words.
fn probed(probe: &Value) -> String {
    let reason = if probe["reason"].is_string() { format!(": {}", cell(&probe["reason"])) } else { String::new() };
    let sent = probe["sent"].as_u64().unwrap_or_default();
    if sent == 0 {
        return format!("probe: not sent{reason}");
    }
    let times = &probe["roundTripMs"];
    let times = if times.is_object() {
        format!(" in {} ms (median {} ms)", cell(&times["min"]), cell(&times["median"]))
    } else {
        String::new()
    };
    let mtu = match (probe["pathMtu"].as_u64(), probe["expectedMtu"].as_u64()) {
        (Some(mtu), Some(expected)) if mtu < expected => format!(", path MTU {mtu} instead of {expected}"),
        (Some(mtu), _) => format!(", path MTU {mtu}"),
        (None, _) => String::new(),
    };
    format!("probe: {} of {sent} came back{times}{mtu}{reason}", cell(&probe["received"]))
}

/// The first step with a problem.
fn first(steps: &[Value], place: Option<u64>) -> String {
    let step = place.and_then(|place| steps.get(usize::try_from(place).ok()?));
    step.map_or_else(String::new, |step| format!("{}, {}", cell(&step["title"]), cell(&step["reason"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_ports_where_they_can() {
        let tcp = Service { protocol: "tcp".to_owned(), port: Some(443) };
        assert_eq!(protocol("tcp/443"), Ok(tcp));
        assert_eq!(protocol("icmp"), Ok(Service { protocol: "icmp".to_owned(), port: None }));
        for wrong in ["tcp/0", "tcp/65536", "tcp/", "icmp/1", "443", "", "sctp/1", "tcp/4/4"] {
            assert!(protocol(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_shown_and_the_first_of_it_named() {
        let ok = json!({ "step": "vpc", "title": "VPC of the source", "verdict": "ok", "object": "vpc-a" });
        let bad = json!({ "step": "fdb", "title": "forwarding entry", "verdict": "stops", "direction": "forward", "side": "source",
            "host": "h1", "object": "fdb", "observed": "not there", "expected": "dst 192.0.2.2", "reason": "no way", "fixableBy": "operator" });
        let path = |steps: Vec<Value>, reaches: Option<bool>, first: Option<u64>| json!({ "source": "10.1.0.5", "destination": "10.2.0.5", "reaches": reaches, "firstWrong": first, "steps": steps });
        let stopped = shown(&path(vec![ok.clone(), bad], Some(false), Some(1)), false);
        assert!(stopped.contains("STOPS") && stopped.contains("wanted: dst 192.0.2.2"), "{stopped}");
        assert!(stopped.ends_with("10.1.0.5 does not reach 10.2.0.5: forwarding entry, no way"), "{stopped}");
        assert!(!stopped.contains("vpc-a"), "{stopped}");
        let fine = shown(&path(vec![ok], Some(true), None), true);
        let lost = json!({ "verdict": "stops", "sent": 3, "received": 0, "expectedMtu": 1450, "reason": "no way" });
        assert_eq!(probed(&lost), "probe: 0 of 3 came back: no way");
        let hole = json!({ "verdict": "differs", "sent": 3, "received": 3, "roundTripMs": { "min": 0.5, "median": 1.25 },
            "pathMtu": 1300, "expectedMtu": 1450, "reason": "a hole" });
        let said = "probe: 3 of 3 came back in 0.5 ms (median 1.25 ms), path MTU 1300 instead of 1450: a hole";
        assert_eq!(probed(&hole), said);
        assert_eq!(
            probed(&json!({ "verdict": "unknown", "sent": 0, "reason": "too old" })),
            "probe: not sent: too old"
        );
        let mut with = path(vec![], Some(true), None);
        with["probe"] = hole;
        assert!(shown(&with, false).starts_with("probe: 3 of 3"), "{with}");
        assert!(fine.contains("vpc-a") && fine.ends_with("reaches 10.2.0.5: 1 step is as it should be"), "{fine}");
    }
}
