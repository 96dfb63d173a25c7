//! `cps-peering-agent diff`: how the kernel differs right now from the last accepted configuration.

use super::Output;
use crate::{
    compile::compile,
    diff::{Plan, diff},
    dirty_set::DirtySet,
    kernel::{Kernel, Netlink},
    ledger::Ledger,
    ports,
    reconcile::Options,
    shares::SharesFile,
};
use anyhow::Context;
use cps_peering_terminal::{show, table};
use serde_json::json;

/// Shows what the agent would do now, read-only. True when there is nothing to do and nothing in the way.
pub fn run(ledger: &Ledger, shares: &SharesFile, options: Options, output: Output) -> anyhow::Result<bool> {
    let config = ledger.load()?.context("the ledger is empty: no controller has sent a configuration yet")?;
    let observed = Netlink::default().observe_all()?;
    let config = ports::in_kernel_names(&config, &ports::aliases(&config, &observed.links)).into_owned();
    let (underlay_params, trouble) = options.underlay_params(&config, &observed);
    let mut desired = compile(&config, underlay_params, &DirtySet::Everything);
    shares.load().adjust(&config, &mut desired);
    let plan = diff(&desired, &observed);
    let nothing_of_others = plan.conflicts.is_empty() && plan.interference.is_empty();
    let right = plan.operations.is_empty() && nothing_of_others && trouble.is_none();
    match output {
        Output::Json => show(&as_json(&plan).to_string()),
        Output::Table if right => show(&format!("the kernel matches revision {}", config.revision)),
        Output::Table => show(&as_table(&plan)),
    }
    if let Some(trouble) = trouble {
        anyhow::bail!("{}: {}", trouble.object, trouble.reason);
    }
    Ok(right)
}

fn as_json(plan: &Plan) -> serde_json::Value {
    let operations =
        plan.operations.iter().map(|operation| json!({ "verb": operation.verb(), "object": operation.to_string() }));
    let conflicts = plan
        .conflicts
        .iter()
        .map(|conflict| json!({ "device": conflict.device, "kind": conflict.kind, "reason": conflict.reason }));
    let interference =
        plan.interference.iter().map(|it| json!({ "device": it.device, "object": it.object, "reason": it.reason }));
    json!({
        "operations": operations.collect::<Vec<_>>(),
        "conflicts": conflicts.collect::<Vec<_>>(),
        "interference": interference.collect::<Vec<_>>(),
    })
}

fn as_table(plan: &Plan) -> String {
    let operations = plan.operations.iter().map(|operation| vec![operation.verb().to_owned(), operation.to_string()]);
    let mut rows: Vec<Vec<String>> = operations.collect();
    rows.extend(
        plan.conflicts
            .iter()
            .map(|conflict| vec!["cannot".to_owned(), format!("link {}: {}", conflict.device, conflict.reason)]),
    );
    rows.extend(
        plan.interference.iter().map(|it| vec!["not ours".to_owned(), format!("{}: {}", it.object, it.reason)]),
    );
    table(&["DO", "OBJECT"], &rows)
}
