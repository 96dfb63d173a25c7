//! The controller, or two that share a store, and the CLI as an operator would use it.

use super::{
    Pki,
    daemon::{Daemon, binary},
    release::Release,
    underlay::Underlay,
};
use crate::{command::Ended, http::Endpoint, netns::Netns};
use anyhow::{Context, Result, bail};
use cps_peering_config::{id::PeeringId, inventory::Inventory, tls::TlsFiles};
use rustls::ClientConfig;
use serde_json::Value;
use std::{
    env, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::Arc,
    time::Duration,
};

/// The TCP port of the controller; a second one has the next port.
const PORT: u16 = 7400;

/// Where the etcd member listens, on the loopback of the controllers' namespace.
const ETCD: &str = "http://127.0.0.1:2379";

/// The leader's lease, in seconds. On a busy machine etcd, which shares its CPU, responds late.
const LEASE_S: u32 = 10;

/// The operators' token in the lab.
const TOKEN: &str = "only-for-the-lab";

/// Where the state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// In a file, by one controller.
    Embedded,
    /// In etcd, by two controllers, one of which leads.
    Etcd,
}

impl Store {
    /// The default: in etcd if `CPS_PEERING_LAB_STORE` says so.
    pub fn usual() -> Store {
        if env::var_os("CPS_PEERING_LAB_STORE").is_some_and(|it| it == "etcd") { Store::Etcd } else { Store::Embedded }
    }
}

/// One controller, or two, in a namespace of their own.
#[derive(Debug)]
pub struct Controller {
    etcd: Option<Daemon>,
    daemons: Vec<Daemon>,
    /// The one that is called: of two the second, which usually follows, as long as it runs.
    asked: usize,
    netns: Netns,
    lab_name: String,
    listen: Vec<SocketAddr>,
    token_file: PathBuf,
    ca: PathBuf,
    tls: Arc<ClientConfig>,
    dir: PathBuf,
}

/// The controller's address, in the family of a host's.
pub(super) fn address(host: Option<IpAddr>) -> IpAddr {
    // Addresses that no inventory should use: RFC 6598 and its IPv6 counterpart.
    match host {
        Some(IpAddr::V6(_)) => Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 1).into(),
        _ => Ipv4Addr::new(100, 64, 0, 1).into(),
    }
}

impl Controller {
    /// Attaches it to the underlay, without running it.
    pub(super) fn create(
        lab_name: &str,
        address: IpAddr,
        underlay: &mut Underlay,
        dir: &Path,
        pki: &Pki,
        (store, delete_wait): (Store, Duration),
    ) -> Result<Controller> {
        let netns = Netns::create(&format!("{lab_name}-ctl"))?;
        underlay.attach(&netns, "the controller's", &[address])?;
        let dir = dir.join("controller");
        fs::create_dir(&dir)?;
        let token_file = secret(&dir.join("operator.token"), TOKEN)?;
        let key_file = secret(&dir.join("store.key"), &"7".repeat(64))?;
        let TlsFiles { ca, cert, key, .. } = pki.files("controller");
        let mut controller = Controller {
            etcd: None,
            daemons: Vec::new(),
            asked: 0,
            netns,
            lab_name: lab_name.to_owned(),
            listen: Vec::new(),
            token_file,
            ca: ca.clone(),
            tls: pki.as_client()?,
            dir,
        };
        // Other settings are as shipped.
        let settings = format!(
            "operator_token_file = '{}'\nstore_key_file = '{}'\ndelete_wait_ms = {}\npoll_s = 1\ntls = {{ ca = '{}', cert = '{}', key = \
             '{}' }}\n",
            controller.token_file.display(),
            key_file.display(),
            delete_wait.as_millis(),
            ca.display(),
            cert.display(),
            key.display(),
        );
        if store == Store::Embedded {
            let store = controller.dir.join("store.redb");
            controller.add(address, &format!("store = '{}'\n{settings}", store.display()), "")?;
            return Ok(controller);
        }
        let data = controller.dir.join("etcd");
        let arguments =
            ["--data-dir", &data.to_string_lossy(), "--listen-client-urls", ETCD, "--advertise-client-urls", ETCD];
        controller.etcd =
            Some(Daemon::other(&controller.netns, Path::new("etcd"), &arguments, controller.dir.join("etcd.log")));
        for _ in 0..2 {
            let backups = controller.dir.join("backups");
            controller.add(
                address,
                &settings,
                &format!(
                    "[etcd]\nlease_s = {LEASE_S}\nendpoints = ['{ETCD}']\nbackups = '{}'\nadvertise = ",
                    backups.display()
                ),
            )?;
        }
        controller.asked = 1;
        Ok(controller)
    }

    /// Adds a controller with these settings, the last of which ends with its URL.
    fn add(&mut self, address: IpAddr, settings: &str, shared: &str) -> Result<()> {
        let number = self.daemons.len();
        let listen = SocketAddr::new(address, PORT + u16::try_from(number)?);
        let shared = if shared.is_empty() { String::new() } else { format!("{shared}'https://{listen}'\n") };
        let file = self.dir.join(format!("controller{number}.toml"));
        fs::write(&file, format!("listen = '{listen}'\n{settings}{shared}"))?;
        let arguments = ["--settings", &file.to_string_lossy()];
        let log = self.dir.join(format!("controller{number}.log"));
        self.daemons.push(Daemon::new(&self.netns, "cps-peering-controller", &arguments, log)?);
        self.listen.push(listen);
        Ok(())
    }

    /// The namespace it lives in.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The CA certificates of the controller's certificate.
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    pub(super) fn lab_name(&self) -> &str {
        &self.lab_name
    }

    /// Starts what is not running.
    pub(super) fn run(&mut self) -> Result<()> {
        let stopped = self.etcd.iter_mut().chain(&mut self.daemons).filter(|daemon| daemon.pid().is_none());
        stopped.into_iter().try_for_each(Daemon::start)?;
        self.asked = self.daemons.len() - 1;
        Ok(())
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Daemon::kill)
    }

    /// Kills the leader of two; the other is called from then on.
    pub(super) fn kill_leader(&mut self) -> Result<()> {
        let says = |number: &usize| self.endpoint_of(*number).text("/healthz").is_ok_and(|it| it == "ok leader\n");
        let leader = (0..self.daemons.len()).find(says).context("no controller leads")?;
        self.daemons[leader].kill()?;
        self.asked = (leader + 1) % self.daemons.len();
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.daemons.len()
    }

    /// All of them are of another release when they start next.
    pub(super) fn use_release(&mut self, release: &Release) -> Result<()> {
        for (number, daemon) in self.daemons.iter_mut().enumerate() {
            Release::use_for(Some(release), daemon, &self.dir.join(format!("controller{number}.toml")))?;
        }
        Ok(())
    }

    /// Ends one of them, and restarts it as the program of another release, or of this workspace. It may not be ready
    /// yet. If there are others, one of them is called from now on.
    pub(super) fn change_release(&mut self, number: usize, release: Option<&Release>, within: Duration) -> Result<()> {
        let daemon = &mut self.daemons[number];
        if daemon.pid().is_some() {
            daemon.terminate(within)?;
        }
        Release::use_for(release, daemon, &self.dir.join(format!("controller{number}.toml")))?;
        daemon.start()?;
        self.asked = (number + 1) % self.daemons.len();
        Ok(())
    }

    /// Ends what runs; returns how the last of them ended.
    pub(super) fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        let ended = self.daemons.iter_mut().map(|daemon| daemon.terminate(within)).collect::<Result<Vec<_>>>()?;
        let worst = ended.iter().find(|status| !status.success()).or(ended.last());
        worst.copied().context("there is no controller")
    }

    /// Whether it runs and responds; the error contains its output if it has ended.
    pub(super) fn answers(&mut self) -> Result<()> {
        self.etcd.iter_mut().chain(&mut self.daemons).try_for_each(Daemon::check)?;
        self.cli(&["peering", "list"])?.ok().map(drop)
    }

    /// The ends of their logs.
    pub fn log_tail(&self) -> String {
        self.daemons.iter().map(Daemon::log_tail).collect::<Vec<_>>().join("\n--- the other\n")
    }

    /// The beginning of each CLI command: program, address and token.
    pub fn cli_line(&self) -> Result<Vec<String>> {
        Ok(vec![
            binary("cps-peering")?.to_string_lossy().into_owned(),
            "--controller".to_owned(),
            format!("https://{}", self.listen[self.asked]),
            "--ca".to_owned(),
            self.ca.to_string_lossy().into_owned(),
            "--token-file".to_owned(),
            self.token_file.to_string_lossy().into_owned(),
        ])
    }

    /// Runs the CLI beside the controller.
    pub fn cli(&self, arguments: &[&str]) -> Result<Ended> {
        let line = self.cli_line()?;
        self.netns.run(Command::new(&line[0]).args(&line[1..]).args(arguments))
    }

    /// Applies an inventory; with `prune` everything else is removed.
    pub fn apply(&self, inventory: &Inventory, prune: bool) -> Result<String> {
        let file = self.dir.join("inventory.toml");
        fs::write(&file, toml::to_string(inventory)?)?;
        self.apply_file(&file, prune)?.ok()
    }

    /// Applies a file as it is.
    pub fn apply_file(&self, file: &Path, prune: bool) -> Result<Ended> {
        let mut arguments = vec!["apply", "-f", file.to_str().context("a path that is not UTF-8")?];
        arguments.extend(prune.then_some("--prune"));
        // Confirms whatever is lost.
        let plan = self.cli(&[arguments.as_slice(), &["--dry-run", "-o", "json"]].concat())?;
        let plan: Value = serde_json::from_str(&plan.stdout).unwrap_or_default();
        let lost = plan["confirm"].as_u64().map(|lost| lost.to_string());
        arguments.extend(lost.iter().flat_map(|lost| ["--confirm", lost.as_str()]));
        self.cli(&arguments)
    }

    /// Peers two VPCs.
    pub fn peer(&self, vpc: &str, peer_vpc: &str) -> Result<PeeringId> {
        let name = format!("{vpc}-{peer_vpc}");
        let output = self.cli(&["peering", "create", "--name", &name, "--vpc", vpc, "--peer-vpc", peer_vpc])?.ok()?;
        peering_id(&output).with_context(|| format!("no peering id in {output:?}"))
    }

    /// Deletes a peering; returns the CLI's output.
    pub fn unpeer(&self, id: &PeeringId) -> Result<String> {
        self.cli(&["peering", "delete", id.as_str()])?.ok()
    }

    /// The HTTP interface as an operator uses it, beside the controller.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint_of(self.asked)
    }

    fn endpoint_of(&self, number: usize) -> Endpoint {
        Endpoint {
            from: self.netns.clone(),
            to: self.listen[number],
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

    /// An error that names what is missing, unless every host has what the controller requires, and none is about to be
    /// removed.
    pub(super) fn all_in_sync(&self) -> Result<()> {
        let answer: Value = self.endpoint().call("GET", "/admin/v1/hosts", None)?;
        let hosts = answer["result"]["hosts"].as_array().with_context(|| format!("no hosts in {answer}"))?;
        match hosts.iter().find(|host| host["inSync"] != true || host["retiring"] == true) {
            Some(host) => bail!("{host}"),
            None => Ok(()),
        }
    }
}

/// A file that is readable by its owner only.
fn secret(path: &Path, text: &str) -> Result<PathBuf> {
    let file = fs::File::options().create_new(true).write(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut &file, format!("{text}\n").as_bytes())?;
    Ok(path.to_owned())
}

/// The first word of a text that looks like a peering's id.
pub fn peering_id(text: &str) -> Option<PeeringId> {
    let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words.find(|word| word.starts_with("vpcpr-"))?.parse().ok()
}
