//! The controller, and the CLI as an operator would use it.

use super::{Pki, daemon::Daemon, daemon::binary, underlay::Underlay};
use crate::{
    command::{self, Ended},
    http::Endpoint,
    netns::Netns,
};
use anyhow::{Context, Result, bail};
use cps_peering_config::{id::PeeringId, inventory::Inventory, tls::TlsFiles};
use rustls::ClientConfig;
use serde_json::Value;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

/// The TCP port of the controller.
const PORT: u16 = 7400;

/// The operators' token in the lab.
const TOKEN: &str = "only-for-the-lab";

/// The controller in a namespace of its own.
#[derive(Debug)]
pub struct Controller {
    daemon: Daemon,
    netns: Netns,
    lab_name: String,
    listen: SocketAddr,
    token_file: PathBuf,
    ca: PathBuf,
    tls: Arc<ClientConfig>,
    dir: PathBuf,
}

/// The controller's address, in the family of a host's.
pub(super) fn address(host: Option<IpAddr>) -> IpAddr {
    // Addresses that no inventory should use: RFC 6598 and its likeness.
    match host {
        Some(IpAddr::V6(_)) => Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 1).into(),
        _ => Ipv4Addr::new(100, 64, 0, 1).into(),
    }
}

impl Controller {
    /// Attaches it to the underlay. It does not run yet.
    pub(super) fn create(
        lab_name: &str,
        address: IpAddr,
        underlay: &mut Underlay,
        dir: &Path,
        pki: &Pki,
        delete_wait: Duration,
    ) -> Result<Controller> {
        let netns = Netns::create(&format!("{lab_name}-ctl"))?;
        underlay.attach(&netns, "the controller's", &[address])?;
        let dir = dir.join("controller");
        fs::create_dir(&dir)?;
        let token_file = dir.join("operator.token");
        let file = fs::File::options().create_new(true).write(true).mode(0o600).open(&token_file)?;
        std::io::Write::write_all(&mut &file, format!("{TOKEN}\n").as_bytes())?;
        let listen = SocketAddr::new(address, PORT);
        // What is not said is as shipped.
        let settings = format!(
            "listen = '{listen}'\nstore = '{}'\noperator_token_file = '{}'\ndelete_wait_ms = {}\npoll_s = 1\n",
            dir.join("store.redb").display(),
            token_file.display(),
            delete_wait.as_millis(),
        );
        let TlsFiles { ca, cert, key } = pki.files("controller");
        let (shown, cert, key) = (ca.display(), cert.display(), key.display());
        let settings = format!("{settings}tls = {{ ca = '{shown}', cert = '{cert}', key = '{key}' }}\n");
        let file = dir.join("controller.toml");
        fs::write(&file, settings)?;
        let arguments = ["--settings", &file.to_string_lossy()];
        let daemon = Daemon::new(&netns, "cps-peering-controller", &arguments, dir.join("controller.log"))?;
        let tls = pki.as_client()?;
        Ok(Controller { daemon, netns, lab_name: lab_name.to_owned(), listen, token_file, ca, tls, dir })
    }

    /// The namespace it lives in.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The certificates of those who sign the controller's.
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    pub(super) fn lab_name(&self) -> &str {
        &self.lab_name
    }

    pub(super) fn run(&mut self) -> Result<()> {
        self.daemon.start()
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    pub(super) fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.daemon.terminate(within)
    }

    /// Whether it runs and answers; the error says what it printed if it has ended.
    pub(super) fn answers(&mut self) -> Result<()> {
        self.daemon.check()?;
        self.cli(&["peering", "list"])?.ok().map(drop)
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        self.daemon.log_tail()
    }

    /// What stands before each of the CLI's commands: program, address and token.
    pub fn cli_line(&self) -> Result<Vec<String>> {
        Ok(vec![
            binary("cps-peering")?.to_string_lossy().into_owned(),
            "--controller".to_owned(),
            format!("https://{}", self.listen),
            "--ca".to_owned(),
            self.ca.to_string_lossy().into_owned(),
            "--token-file".to_owned(),
            self.token_file.to_string_lossy().into_owned(),
        ])
    }

    /// Runs the CLI beside the controller.
    pub fn cli(&self, arguments: &[&str]) -> Result<Ended> {
        let line = self.cli_line()?;
        command::run(self.netns.command(&line[0]).args(&line[1..]).args(arguments))
    }

    /// Applies an inventory; with `prune` everything else goes.
    pub fn apply(&self, inventory: &Inventory, prune: bool) -> Result<String> {
        let file = self.dir.join("inventory.toml");
        fs::write(&file, toml::to_string(inventory)?)?;
        self.apply_file(&file, prune)?.ok()
    }

    /// Applies a file as it is.
    pub fn apply_file(&self, file: &Path, prune: bool) -> Result<Ended> {
        let mut arguments = vec!["apply", "-f", file.to_str().context("a path that is not UTF-8")?];
        arguments.extend(prune.then_some("--prune"));
        self.cli(&arguments)
    }

    /// Peers two VPCs.
    pub fn peer(&self, vpc: &str, peer_vpc: &str) -> Result<PeeringId> {
        let name = format!("{vpc}-{peer_vpc}");
        let output = self.cli(&["peering", "create", "--name", &name, "--vpc", vpc, "--peer-vpc", peer_vpc])?.ok()?;
        peering_id(&output).with_context(|| format!("no peering id in {output:?}"))
    }

    /// Deletes a peering; what the CLI printed.
    pub fn unpeer(&self, id: &PeeringId) -> Result<String> {
        self.cli(&["peering", "delete", id.as_str()])?.ok()
    }

    /// The HTTP interface as an operator uses it, beside the controller.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            from: self.netns.clone(),
            to: self.listen,
            token: Some(TOKEN.to_owned()),
            tls: Arc::clone(&self.tls),
        }
    }

    /// The HTTP interface as an account uses it, with a new token.
    pub fn tenant(&self, account: &str) -> Result<Endpoint> {
        let path = format!("/admin/v1/accounts/{account}/tokens");
        let answer: Value = self.endpoint().call("POST", &path, None)?;
        let token = answer["result"]["token"].as_str().with_context(|| format!("no token in {answer}"))?;
        Ok(Endpoint { token: Some(token.to_owned()), ..self.endpoint() })
    }

    /// An error that says what is missing, unless every host has what the controller wants, and none is about to go.
    pub(super) fn all_in_sync(&self) -> Result<()> {
        let answer: Value = self.endpoint().call("GET", "/admin/v1/hosts", None)?;
        let hosts = answer["result"]["hosts"].as_array().with_context(|| format!("no hosts in {answer}"))?;
        match hosts.iter().find(|host| host["inSync"] != true || host["retiring"] == true) {
            Some(host) => bail!("{host}"),
            None => Ok(()),
        }
    }
}

/// The first word of a text that looks like a peering's id.
pub fn peering_id(text: &str) -> Option<PeeringId> {
    let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words.find(|word| word.starts_with("vpcpr-"))?.parse().ok()
}
