//! The console of the lab's controller, for the browser of the machine: with an account that has the VPCs, and another to
//! peer with.

use anyhow::{Context, Result};
use cps_peering_tests::{Lab, http::Endpoint};
use serde_json::{Value, json};
use std::{
    env,
    process::{Child, Command},
};

/// The account that the topology's VPCs belong to, and one of another's.
const ACCOUNTS: [&str; 2] = ["acme", "globex"];

/// What there is to show. The way to it ends with this.
pub(crate) struct Console {
    hints: Vec<String>,
    forward: Option<Child>,
}

impl Console {
    /// Makes both accounts ready, and the way to the controller, where `tests/kernel` has prepared one.
    pub(crate) fn show(lab: &Lab) -> Result<Console> {
        let endpoint = lab.controller().endpoint();
        let tenants: Vec<Endpoint> =
            ACCOUNTS.iter().map(|account| lab.controller().tenant(account)).collect::<Result<_>>()?;
        let spec = json!({ "vpcSpec": { "name": "theirs", "cidr": "10.9.0.0/16" } });
        let made: Value = tenants[1].call("PUT", "/v1/regions/cn-east-1/vpcs", Some(&spec))?;
        let vpc = made["result"]["vpcId"].as_str().with_context(|| format!("no VPC in {made}"))?;

        let line = ["KERNEL_FORWARD_AT", "KERNEL_FORWARD_IN", "KERNEL_FORWARD_OUT"].map(env::var);
        let mut forward = None;
        let mut url = format!("http://{}", endpoint.to);
        if let [Ok(at), Ok(from), Ok(out)] = line {
            let program = env::current_exe()?.with_file_name("forward");
            let mut command: Command = endpoint.from.command(&program.to_string_lossy());
            forward = Some(command.args(["connect", &endpoint.to.to_string(), &from, &out]).spawn()?);
            url = format!("http://{at}");
        }
        let token = |endpoint: &Endpoint| endpoint.token.clone().unwrap_or_default();
        let mut hints = vec![format!("The console: {url}/console/  Sign in with a token:")];
        hints.push(format!("  account {}:   {}", ACCOUNTS[0], token(&tenants[0])));
        hints.push(format!("  account {}: {}   with VPC {vpc} in cn-east-1", ACCOUNTS[1], token(&tenants[1])));
        hints.push(format!("  operators:      {}", token(&endpoint)));
        hints.push(String::new());
        Ok(Console { hints, forward })
    }

    pub(crate) fn hints(&self) -> impl Iterator<Item = &str> {
        self.hints.iter().map(String::as_str)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(forward) = &mut self.forward {
            let _ = forward.kill();
            let _ = forward.wait();
        }
    }
}
