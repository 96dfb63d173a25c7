//! The console of the lab's controller, for the browser of the machine: with an account that owns the VPCs, and another
//! to peer with.

use anyhow::{Context, Result};
use cps_peering_tests::{Lab, http::Endpoint, wait};
use serde_json::{Value, json};
use std::{
    env,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command},
    time::Duration,
};

/// The account that owns the topology's VPCs, and another one.
const ACCOUNTS: [&str; 2] = ["acme", "globex"];

/// The port for the controller without TLS, on its host.
const OPEN_PORT: u16 = 7480;
const SOON: Duration = Duration::from_secs(10);

/// Forwards connections to an address beside the controller to it over TLS.
fn without_tls(endpoint: &Endpoint, open: SocketAddr, ca: &Path) -> Result<Child> {
    let listen = format!("TCP-LISTEN:{},bind={},fork,reuseaddr", open.port(), open.ip());
    let connect = format!("OPENSSL:{},cafile={}", endpoint.to, ca.display());
    let mut command: Command = endpoint.from.command("socat");
    let socat = command.args([&listen, &connect]).spawn().context("socat")?;
    let open = || endpoint.from.within(|| Ok(TcpStream::connect(open)?)).map(Some);
    wait::until("the console's address is open", SOON, open)?;
    Ok(socat)
}

/// What there is to show. The forwarding ends when this is dropped.
pub(crate) struct Console {
    hints: Vec<String>,
    /// Forwards the browser's connections to the controller.
    way: Vec<Child>,
}

impl Console {
    /// Prepares both accounts, and the forwarding to the controller, if `tests/kernel` has set it up.
    pub(crate) fn show(lab: &Lab) -> Result<Console> {
        let endpoint = lab.controller().endpoint();
        let tenants: Vec<Endpoint> =
            ACCOUNTS.iter().map(|account| lab.controller().tenant(account)).collect::<Result<_>>()?;
        let spec = json!({ "vpcSpec": { "name": "theirs", "cidr": "10.9.0.0/16" } });
        let made: Value = tenants[1].call("PUT", "/v1/regions/cn-east-1/vpcs", Some(&spec))?;
        let vpc = made["result"]["vpcId"].as_str().with_context(|| format!("no VPC in {made}"))?;

        let line = ["KERNEL_FORWARD_AT", "KERNEL_FORWARD_IN", "KERNEL_FORWARD_OUT"].map(env::var);
        let mut way = Vec::new();
        let mut url = endpoint.url("");
        if let [Ok(at), Ok(from), Ok(out)] = line {
            // No browser knows the lab's CA, and the connection from here on stays on the machine.
            let open = SocketAddr::new(endpoint.to.ip(), OPEN_PORT);
            way.push(without_tls(&endpoint, open, lab.controller().ca())?);
            let program = env::current_exe()?.with_file_name("forward");
            let mut command: Command = endpoint.from.command(&program);
            way.push(command.args(["connect", &open.to_string(), &from, &out]).spawn()?);
            url = format!("http://{at}");
        }
        let token = |endpoint: &Endpoint| endpoint.token.clone().unwrap_or_default();
        let mut hints = vec![format!("The console: {url}/console/  Sign in with a token:")];
        hints.push(format!("  account {}:   {}", ACCOUNTS[0], token(&tenants[0])));
        hints.push(format!("  account {}: {}   with VPC {vpc} in cn-east-1", ACCOUNTS[1], token(&tenants[1])));
        hints.push(format!("  operators:      {}", token(&endpoint)));
        hints.push(String::new());
        Ok(Console { hints, way })
    }

    pub(crate) fn hints(&self) -> impl Iterator<Item = &str> {
        self.hints.iter().map(String::as_str)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        for process in &mut self.way {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
