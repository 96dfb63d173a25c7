//! Peerings and their traffic, live: a table that is redrawn in place, or a line for each peering that has changed.

use super::{OVER, Peerings};
use crate::{
    CliError,
    client::Call,
    output::{Column, cell, columns, elements},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    sync::{Mutex, PoisonError},
};

/// For how many peerings traffic is shown: each takes a request of its own.
const MOST_TRAFFIC: usize = 30;

const COLUMNS: [Column; 9] = [
    ("ID", "/vpcPeeringId"),
    ("NAME", "/vpcPeeringName"),
    ("STATE", "/state"),
    ("IN SYNC", "/routesInSync"),
    ("CONFIRMED", "/lastConfirmed"),
    ("MBIT/S", "/bandwidth"),
    ("SENT", "/sent"),
    ("RECEIVED", "/received"),
    ("DROPPED", "/dropped"),
];

/// The last line printed, by peering, if standard output is not a terminal.
static SHOWN: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// A rate in Mbit/s with two decimals.
fn rate(bytes: u64, seconds: u64) -> String {
    let hundredths = bytes.saturating_mul(8) / (10_000 * seconds.max(1));
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Adds the last traffic sample to a peering: what its own side, or the initiator's, sent and received.
fn put_traffic(peering: &mut Value, traffic: &Value) {
    let seconds = traffic["interval"].as_u64().unwrap_or(1);
    let Some(last) = elements(&traffic["samples"]).last() else { return };
    let of = |field: &str| last[field].as_u64().unwrap_or_default();
    peering["sent"] = json!(rate(of("outBytes"), seconds));
    peering["received"] = json!(rate(of("inBytes"), seconds));
    peering["dropped"] = json!(of("outDrops"));
}

impl Peerings<'_> {
    /// Shows the current state once; the caller repeats it.
    pub(super) async fn watch(&self) -> Result<(), CliError> {
        let mut found = if self.is_operator() {
            let mut answer = self.session.call(Call::get(self.path(&[]))).await?;
            match answer["vpcPeerings"].take() {
                Value::Array(found) => found,
                _ => Vec::new(),
            }
        } else {
            self.session.pages(|| Call::get(self.path(&[])), "vpcPeerings", "vpcPeeringId").await?
        };
        found.retain(|peering| peering["state"] == "draining" || !OVER.iter().any(|over| peering["state"] == *over));
        let active = found.iter_mut().filter(|peering| peering["state"] == "active");
        for peering in active.take(MOST_TRAFFIC) {
            let id = cell(&peering["vpcPeeringId"]);
            // It may be gone by now.
            if let Ok(answer) = self.session.try_call(Call::get(self.path(&[&id, "traffic"]))).await? {
                let side = if self.is_operator() { "initiator" } else { "traffic" };
                put_traffic(peering, &answer[side]);
            }
        }
        if io::stdout().is_terminal() {
            self.session.print(&json!({ "vpcPeerings": found }), || columns(&COLUMNS, &found));
            return Ok(());
        }
        let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = BTreeMap::new();
        for peering in &found {
            let (id, text) = (cell(&peering["vpcPeeringId"]), peering.to_string());
            if shown.get(&id) != Some(&text) {
                self.session.print(peering, || line(peering));
            }
            now.insert(id, text);
        }
        for id in shown.keys().filter(|id| !now.contains_key(*id)) {
            let gone = json!({ "vpcPeeringId": id, "state": "gone" });
            self.session.print(&gone, || format!("{id} is gone"));
        }
        *shown = now;
        Ok(())
    }
}

fn line(peering: &Value) -> String {
    let said = COLUMNS.iter().map(|(_, at)| cell(peering.pointer(at).unwrap_or(&Value::Null)));
    said.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_sample() {
        let mut peering = json!({ "vpcPeeringId": "vpcpr-1" });
        let sample = |out: u64| json!({ "outBytes": out, "inBytes": 2500, "outDrops": 3 });
        put_traffic(&mut peering, &json!({ "interval": 20, "samples": [sample(1), sample(25_000_000)] }));
        assert_eq!(
            (&peering["sent"], &peering["received"], &peering["dropped"]),
            (&json!("10.00"), &json!("0.00"), &json!(3))
        );
        let mut none = json!({ "vpcPeeringId": "vpcpr-1" });
        put_traffic(&mut none, &json!({ "interval": 20, "samples": [] }));
        assert!(none["sent"].is_null());
    }
}
