//! `cps-peering-agent cleanup`: removes everything of ours from the host, for good.

use crate::{
    diff::{Plan, diff},
    kernel::{Kernel, Netlink},
    ledger::Ledger,
    objects::Desired,
};
use cps_peering_terminal::show;
use std::io::{self, BufRead, IsTerminal};

/// Plans that are applied before giving up.
const ROUNDS: usize = 5;

/// Removes everything of ours, after the operator confirmed or `yes` was given, and the ledger with it.
pub fn run(ledger: &Ledger, yes: bool) -> anyhow::Result<()> {
    let mut kernel = Netlink::default();
    let plan = diff(&Desired::default(), &kernel.observe_all()?);
    if plan.operations.is_empty() {
        ledger.remove()?;
        show("nothing of ours is on this host");
        return Ok(());
    }
    for operation in &plan.operations {
        show(&format!("{} {operation}", operation.verb()));
    }
    if !yes && !agreed(plan.operations.len())? {
        anyhow::bail!("nothing was removed");
    }
    // First: if this is interrupted, no agent restores what was removed.
    ledger.remove()?;
    let left = remove(&mut kernel, plan)?;
    match left.operations.first() {
        None => show("removed; stop the agent's unit too, or the controller will configure this host again"),
        Some(first) => anyhow::bail!("{} objects could not be removed, the first is {first}", left.operations.len()),
    }
    Ok(())
}

fn remove(kernel: &mut impl Kernel, mut plan: Plan) -> anyhow::Result<Plan> {
    for _ in 0..ROUNDS {
        kernel.apply(&plan.operations)?;
        plan = diff(&Desired::default(), &kernel.observe_all()?);
        if plan.operations.is_empty() {
            break;
        }
    }
    Ok(plan)
}

fn agreed(count: usize) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        anyhow::bail!("not on a terminal: to remove {count} objects without confirmation, add --yes");
    }
    show(&format!("All peerings and VPCs stop on this host. Carry out these {count} operations? Type yes:"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
