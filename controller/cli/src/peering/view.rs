//! Peerings as tables.

use crate::output::{Column, cell, columns, elements, lines, printable};
use serde_json::{Value, json};

/// Columns of a list for operators.
pub(super) const OPERATOR_COLUMNS: [Column; 9] = [
    ("ID", "/vpcPeeringId"),
    ("NAME", "/vpcPeeringName"),
    ("STATE", "/state"),
    ("IN SYNC", "/routesInSync"),
    ("VPC", "/vpcInfo/vpcId"),
    ("REGION", "/vpcInfo/regionId"),
    ("PEER VPC", "/remoteVpcInfo/vpcId"),
    ("PEER REGION", "/remoteVpcInfo/regionId"),
    ("CREATED", "/createdTime"),
];

/// Columns of a list for accounts.
pub(super) const COLUMNS: [Column; 11] = [
    ("ID", "/vpcPeeringId"),
    ("NAME", "/vpcPeeringName"),
    ("STATE", "/state"),
    ("ROLE", "/role"),
    ("IN SYNC", "/routesInSync"),
    ("VPC", "/vpcInfo/vpcId"),
    ("PEER VPC", "/remoteVpcInfo/vpcId"),
    ("PEER REGION", "/remoteVpcInfo/regionId"),
    ("PEER ACCOUNT", "/remoteVpcInfo/accountId"),
    ("MBIT/S", "/bandwidth"),
    ("CREATED", "/createdTime"),
];

/// Columns of a wide list for operators.
pub(super) const WIDE_OPERATOR_COLUMNS: [Column; 16] = [
    ("ID", "/vpcPeeringId"),
    ("NAME", "/vpcPeeringName"),
    ("STATE", "/state"),
    ("IN SYNC", "/routesInSync"),
    ("LAST CONFIRMED", "/lastConfirmed"),
    ("VPC", "/vpcInfo/vpcId"),
    ("REGION", "/vpcInfo/regionId"),
    ("ACCOUNT", "/vpcInfo/accountId"),
    ("PEER VPC", "/remoteVpcInfo/vpcId"),
    ("PEER REGION", "/remoteVpcInfo/regionId"),
    ("PEER ACCOUNT", "/remoteVpcInfo/accountId"),
    ("MBIT/S", "/bandwidth"),
    ("LOSS %", "/pathHealth/lossPercent"),
    ("RTT MS", "/pathHealth/roundTripMs"),
    ("CREATED", "/createdTime"),
    ("REASON", "/stateReason"),
];

/// Columns of a wide list for accounts.
pub(super) const WIDE_COLUMNS: [Column; 18] = [
    ("ID", "/vpcPeeringId"),
    ("NAME", "/vpcPeeringName"),
    ("STATE", "/state"),
    ("ROLE", "/role"),
    ("IN SYNC", "/routesInSync"),
    ("LAST CONFIRMED", "/lastConfirmed"),
    ("VPC", "/vpcInfo/vpcId"),
    ("CIDRS", "/vpcInfo/addressPrefix"),
    ("PEER VPC", "/remoteVpcInfo/vpcId"),
    ("PEER CIDRS", "/remoteVpcInfo/addressPrefix"),
    ("PEER REGION", "/remoteVpcInfo/regionId"),
    ("PEER ACCOUNT", "/remoteVpcInfo/accountId"),
    ("MBIT/S", "/bandwidth"),
    ("LOSS %", "/pathHealth/lossPercent"),
    ("RTT MS", "/pathHealth/roundTripMs"),
    ("CREATED", "/createdTime"),
    ("TAGS", "/tags"),
    ("REASON", "/stateReason"),
];

fn heading(peering: &Value) -> [(&'static str, String); 2] {
    [
        ("peering", format!("{} ({})", cell(&peering["vpcPeeringId"]), cell(&peering["vpcPeeringName"]))),
        ("state", format!("{}, routes in sync: {}", cell(&peering["state"]), in_sync(peering))),
    ]
}

/// Whether hosts are known to have it, and how old that knowledge is.
fn in_sync(peering: &Value) -> String {
    let known = cell(&peering["routesInSync"]);
    match (&peering["lastConfirmed"], peering["reportAgeSeconds"].as_u64()) {
        (Value::String(_), Some(age)) if peering["routesInSync"] == true => format!("{known}, confirmed {age} s ago"),
        (at @ Value::String(_), _) => format!("{known}, last confirmed {}", cell(at)),
        _ => known,
    }
}

/// The health of the paths between its hosts, as probes measure it.
fn path(peering: &Value) -> (&'static str, String) {
    let health = &peering["pathHealth"];
    let Some(loss) = health["lossPercent"].as_u64() else { return ("path", "no sample".to_owned()) };
    let round_trip = match &health["roundTripMs"] {
        Value::Null => "no reply".to_owned(),
        ms => format!("round trip {} ms", cell(ms)),
    };
    let hole = if health["mtuBlackHole"] == true { ", MTU black hole: long packets are lost" } else { "" };
    ("path", format!("{loss} % lost, {round_trip}{hole}, sampled {}", cell(&health["sampledAt"])))
}

fn times(peering: &Value) -> (&'static str, String) {
    ("created", format!("{}, active since {}", cell(&peering["createdTime"]), cell(&peering["activatedTime"])))
}

fn side(info: &Value) -> String {
    let mut said = vec![format!(
        "{} of {} in {}, {}",
        cell(&info["vpcId"]),
        cell(&info["accountId"]),
        cell(&info["regionId"]),
        cell(&info["addressPrefix"])
    )];
    for (word, list) in [("exports", "exportPrefixes"), ("imports", "importPrefixes")] {
        if !elements(&info[list]).is_empty() {
            said.push(format!("{word} {}", cell(&info[list])));
        }
    }
    // If everything is reachable, or the other side has not accepted, there is nothing to add.
    if info["effectivePrefixes"].is_array() && info["effectivePrefixes"] != info["addressPrefix"] {
        said.push(format!("reachable: {}", reached(&info["effectivePrefixes"])));
    }
    said.join("; ")
}

fn reached(list: &Value) -> String {
    if elements(list).is_empty() { "nothing".to_owned() } else { cell(list) }
}

/// What would be reachable, as a dry run says.
pub(super) fn outlook(reachable: &Value) -> String {
    let mut said = vec!["dry run: nothing was changed, and the command would succeed".to_owned()];
    if reachable["ownPrefixes"].is_array() {
        said.push(format!("of the own VPC would be reachable: {}", reached(&reachable["ownPrefixes"])));
        let remote = &reachable["remotePrefixes"];
        let remote =
            if remote.is_null() { "what its account shows when it accepts".to_owned() } else { reached(remote) };
        said.push(format!("of the other VPC: {remote}"));
    }
    said.join("\n")
}

fn bandwidth(peering: &Value) -> Option<(&'static str, String)> {
    peering["bandwidth"].as_u64().map(|mbit| ("bandwidth", format!("{mbit} Mbit/s in each direction")))
}

/// One peering for operators.
pub(super) fn operator_details(peering: &Value) -> String {
    const HOSTS: [Column; 9] = [
        ("HOST", "/host"),
        ("CONFIRMED", "/confirmed"),
        ("DESIRED", "/desired"),
        ("APPLIED", "/applied"),
        ("LAST REPORT", "/lastReport"),
        ("LOSS %", "/pathHealth/lossPercent"),
        ("RTT MS", "/pathHealth/roundTripMs"),
        ("BLACK HOLE", "/pathHealth/mtuBlackHole"),
        ("TROUBLE", "/lastError"),
    ];
    let side = |info: &Value| format!("{}, VNI {}", side(info), cell(&info["vni"]));
    let mut said = heading(peering).to_vec();
    if !peering["stateReason"].is_null() {
        said.push(("reason", cell(&peering["stateReason"])));
    }
    said.push(("initiator", side(&peering["vpcInfo"])));
    said.push(("receiver", side(&peering["remoteVpcInfo"])));
    said.extend(bandwidth(peering));
    said.push(path(peering));
    said.push(times(peering));
    format!("{}\n{}", lines(&said), columns(&HOSTS, elements(&peering["hosts"])))
}

/// One peering for accounts.
pub(super) fn details(peering: &Value) -> String {
    let mut said = heading(peering).to_vec();
    let mut say = |label, value: &Value| {
        if !value.is_null() && value != "" {
            said.push((label, cell(value)));
        }
    };
    say("reason", &peering["stateReason"]);
    say("role", &peering["role"]);
    if peering["state"] == "pending" {
        say("expires", &peering["expiredTime"]);
    }
    say("description", &peering["description"]);
    say("message", &peering["message"]);
    let tags = elements(&peering["tags"]).iter();
    let tag = |tag: &Value| format!("{}={}", cell(&tag["key"]), printable(tag["value"].as_str().unwrap_or_default()));
    let tags: Vec<String> = tags.map(tag).collect();
    say("tags", &json!(tags.join(" ")));
    say("charge", &peering["charge"]["chargeStatus"]);
    said.push(("own VPC", side(&peering["vpcInfo"])));
    said.push(("peer VPC", side(&peering["remoteVpcInfo"])));
    said.extend(bandwidth(peering));
    said.push(path(peering));
    said.push(times(peering));
    lines(&said)
}

/// The traffic of one side: totals, and the rate per minute of the last hour, or per sample of longer ranges, where there was any.
pub(super) fn traffic(side: &str, traffic: &Value) -> String {
    let total = &traffic["total"];
    let mut said = vec![("side", side.to_owned())];
    said.extend(bandwidth(traffic));
    let count = |direction: &str| {
        let (bytes, packets) = (&total[format!("{direction}Bytes")], &total[format!("{direction}Packets")]);
        format!("{} bytes in {} packets", cell(bytes), cell(packets))
    };
    said.push(("sent", format!("{}, {} dropped by the limit", count("out"), cell(&total["outDrops"]))));
    said.push(("received", count("in")));
    let interval = traffic["interval"].as_u64().unwrap_or(1).max(1);
    // The number of samples in a minute.
    let minute = usize::try_from(60 / interval).unwrap_or(1).max(1);
    let sum = |samples: &[Value], field: &str| samples.iter().filter_map(|sample| sample[field].as_u64()).sum::<u64>();
    let mbit = |bytes: u64, samples: usize| {
        let thousandths = bytes * 8 / (1000 * interval * samples as u64).max(1);
        format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
    };
    let rows: Vec<Vec<String>> = elements(&traffic["samples"])
        .chunks(minute)
        .filter(|samples| sum(samples, "outBytes") + sum(samples, "inBytes") > 0)
        .map(|samples| {
            let until = samples.last().map(|sample| cell(&sample["time"])).unwrap_or_default();
            let (sent, received) = (sum(samples, "outBytes"), sum(samples, "inBytes"));
            let drops = sum(samples, "outDrops").to_string();
            vec![until, mbit(sent, samples.len()), mbit(received, samples.len()), drops]
        })
        .collect();
    if rows.is_empty() {
        return lines(&said);
    }
    format!("{}\n{}", lines(&said), crate::output::rows(&["UNTIL", "SENT MBIT/S", "RECEIVED MBIT/S", "DROPPED"], &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_for_people_and_what_is_not_known_is_said() {
        let at = "2026-01-01T09:41:00Z";
        for (health, expected) in [
            (json!(null), "no sample"),
            (
                json!({ "lossPercent": 0, "roundTripMs": 1.25, "mtuBlackHole": false, "sampledAt": at }),
                "0 % lost, round trip 1.25 ms, sampled 2026-01-01T09:41:00Z",
            ),
            (
                json!({ "lossPercent": 100, "roundTripMs": null, "mtuBlackHole": null, "sampledAt": at }),
                "100 % lost, no reply, sampled 2026-01-01T09:41:00Z",
            ),
            (
                json!({ "lossPercent": 0, "roundTripMs": 1.5, "mtuBlackHole": true, "sampledAt": at }),
                "0 % lost, round trip 1.5 ms, MTU black hole: long packets are lost, sampled 2026-01-01T09:41:00Z",
            ),
        ] {
            assert_eq!(path(&json!({ "pathHealth": health })).1, expected);
        }
        let health = json!({ "lossPercent": 15, "roundTripMs": 1.5, "mtuBlackHole": true, "sampledAt": at });
        let host =
            json!({ "host": "h1", "confirmed": true, "lastReport": at, "lastError": "refused", "pathHealth": health });
        let table = operator_details(&json!({ "hosts": [host] }));
        let row: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(row, ["h1", "yes", "-", "-", at, "15", "1.5", "yes", "refused"], "{table}");
        // Controllers of earlier releases do not send it.
        assert_eq!(path(&json!({})).1, "no sample");
    }
}
