//! `--dev`: a temporary controller to experiment with.

use anyhow::{Context, bail};
use cps_peering_config::{inventory::Inventory, settings::ControllerSettings, tls::Tls};
use cps_peering_controller::{
    access::{secret, vault::Vault},
    engine::Engine,
    model::{
        Actor, Command, Request,
        account::{Change, What},
        inventory::Apply,
    },
};
use serde::Serialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tempfile::TempDir;

const REGIONS: [&str; 2] = ["cn-north-1", "cn-east-2"];
const ACCOUNTS: [&str; 2] = ["account-1", "account-2"];

/// An account with its credentials.
#[derive(Debug, Serialize)]
struct Account {
    id: &'static str,
    access_key: String,
    secret_key: String,
    token: String,
}

/// A temporary store with initial content. The folder is removed with it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    folder: TempDir,
    admin_token: String,
    accounts: Vec<Account>,
}

impl Sandbox {
    /// Generates keys and tokens.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let account = |id| {
            let (access_key, secret_key, token) = (secret::access_key()?, secret::secret_key()?, secret::token()?);
            Ok(Account { id, access_key, secret_key, token })
        };
        let accounts = ACCOUNTS.into_iter().map(account).collect::<anyhow::Result<_>>()?;
        let folder = tempfile::Builder::new().prefix("cps-peering-").tempdir().context("cannot create a folder")?;
        Ok(Self { folder, admin_token: secret::token()?, accounts })
    }

    /// The operators' token.
    pub(crate) fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// The settings: limits and periods of a settings file, if there is one, and a store of its own.
    pub(crate) fn settings(
        &self,
        listen: SocketAddr,
        settings: Option<ControllerSettings>,
    ) -> anyhow::Result<ControllerSettings> {
        if !listen.ip().is_loopback() {
            bail!("--dev listens on loopback addresses only, and {listen} is none");
        }
        let store = Some(self.folder.path().join("store.redb"));
        let operator_token_file = self.folder.path().join("operator.token");
        // No other machine reaches a loopback address, and clients to experiment with need no certificates then.
        let tls = Some(Tls::Off);
        if let Some(settings) = settings {
            return Ok(ControllerSettings {
                listen,
                store,
                operator_token_file,
                store_key_file: None,
                tls,
                etcd: None,
                agent_certificates: None,
                metrics_listen: None,
                ..settings
            });
        }
        let told = json!({ "listen": listen, "store": store, "operator_token_file": operator_token_file, "tls": tls });
        serde_json::from_value(told).context("settings of --dev")
    }

    /// Creates regions and accounts.
    pub(crate) fn seed(&self, engine: &Engine, vault: &Vault) -> anyhow::Result<()> {
        let inventory: Inventory = serde_json::from_value(json!({ "regions": REGIONS.map(|id| json!({ "id": id })) }))?;
        let run = |command| engine.execute(&Request::new(Actor::Operator, command)).map(drop);
        run(Command::Apply(Apply::of(inventory)))?;
        for Account { id, access_key, secret_key, token } in &self.accounts {
            let secret_key = vault.seal(&id.parse()?, access_key, secret_key)?;
            let key = What::AddKey { access_key: access_key.clone(), secret_key };
            let token = What::AddToken { id: format!("{id}-dev"), hash: secret::token_hash(token) };
            for what in [What::Create, key, token] {
                run(Command::Account(Change { id: id.parse()?, what }))?;
            }
        }
        Ok(())
    }

    /// Removes the folder's name. The open store in it is freed with the process, however that ends.
    pub(crate) fn hide(&self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(self.folder.path()).context("cannot remove the temporary folder's name")
    }

    /// How to use it.
    pub(crate) fn description(&self, address: SocketAddr) -> Value {
        json!({
            "url": format!("http://{address}"),
            "admin_token": self.admin_token,
            "accounts": self.accounts,
            "regions": REGIONS,
        })
    }
}
