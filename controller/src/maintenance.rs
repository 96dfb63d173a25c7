//! What is done without a running controller: copies of the store, its check, its move, its restoration.

use crate::setup::{prices, read_settings};
use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use cps_peering_config::settings::{ControllerSettings, StorePlace};
use cps_peering_controller::{
    access::vault::{self, Vault},
    store::{Cluster, Restored, Store, StoreError, check},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Check the settings file, and show what holds with it, defaults included.
    Settings,
    /// Copy the store into a new file while no controller runs. While one runs: `cps-peering admin backup`.
    Backup {
        /// The new file.
        file: PathBuf,
    },
    /// Tell what of the store can be read, and what is lost, while no controller runs: for when it is damaged. The store stays as
    /// it is.
    CheckStore {
        /// The file, where it is not that of the settings.
        file: Option<PathBuf>,
        /// A copy of the store: which of its records are lost, or other ones?
        #[arg(long)]
        with: Option<PathBuf>,
    },
    /// Copy the store of other settings into the store of these, under a new epoch, while no controller runs: from a file to
    /// etcd, or back. The store that is copied stays as it is, and is not to be used any more.
    MoveStore {
        /// The settings file that names the store to be copied; `--settings` names the new one.
        #[arg(long)]
        from: PathBuf,
        /// Also if there is something in the new store. It is kept: a file beside it, or in the folder for backups.
        #[arg(long)]
        force: bool,
    },
    /// Put a copy in the place of the store while no controller runs. The store that was there is kept beside it. The hosts
    /// follow what the copy says as soon as the controller is started.
    Restore {
        /// The copy.
        file: PathBuf,
        /// The epoch from now on; by default one more than that of the copy and of the store that is replaced. Needed where
        /// agents say that they have a newer revision than the controller.
        #[arg(long)]
        epoch: Option<u64>,
    },
    /// Remove the access keys of all accounts while no controller runs: for when the store's key is lost, with which they are
    /// sealed. Bearer tokens stay. Operators then give new ones: `cps-peering admin account add-key`.
    ForgetKeys,
}

/// Does what is done without a running controller. Returns what there is to say.
pub(crate) fn execute(command: &Command, settings: &Path) -> anyhow::Result<String> {
    let settings = read_settings(settings)?;
    match command {
        Command::Settings => {
            settings.place()?;
            settings.check_operators()?;
            prices(&settings)?;
            Ok(toml::to_string(&settings)?.trim_end().to_owned())
        }
        Command::Backup { file } => {
            let store = match settings.place()? {
                StorePlace::Embedded(path) => {
                    // Not made where there is none: an empty copy would be worth nothing.
                    fs::metadata(path).with_context(|| format!("no store at {}", path.display()))?;
                    Store::open(path).map_err(|error| match error {
                        StoreError::InUse(_) => anyhow!("{error} Then use: cps-peering admin backup"),
                        other => other.into(),
                    })?
                }
                StorePlace::Etcd(etcd) => Store::look(&Arc::new(Cluster::new(etcd)?)),
            };
            let revision = store.back_up(file)?;
            let key = settings.store_key()?;
            Ok(format!(
                "{} holds revision {revision}; its access keys are of use with {} alone",
                file.display(),
                key.display()
            ))
        }
        Command::CheckStore { file, with } => {
            let path = match (file, settings.place()) {
                (Some(file), _) => file.as_path(),
                (None, place) => match place? {
                    StorePlace::Embedded(path) => path,
                    StorePlace::Etcd(etcd) => {
                        Store::look(&Arc::new(Cluster::new(etcd)?)).load()?;
                        return Ok("every record in etcd can be read".to_owned());
                    }
                },
            };
            let report = check(path, with.as_deref())?;
            if report.is_whole() {
                return Ok(report.to_string().trim_end().to_owned());
            }
            cps_peering_terminal::show(report.to_string().trim_end());
            bail!("the store is damaged: `cps-peering-controller restore COPY` puts a copy in its place")
        }
        Command::MoveStore { from, force } => {
            let place = settings.place()?;
            let other = read_settings(from)?;
            let from = other.place().with_context(|| format!("settings file {}", from.display()))?;
            if from == place {
                bail!("both settings files name the same store");
            }
            if let StorePlace::Embedded(path) = from {
                fs::metadata(path).with_context(|| format!("no store at {}", path.display()))?;
            }
            let from = Store::hold_place(from)?;
            Vault::fits(&settings.store_key()?, &from.load()?)?;
            Ok(said(&from.move_to(place, *force)?))
        }
        Command::Restore { file, epoch } => {
            fits(file, &settings)?;
            Ok(said(&match settings.place()? {
                StorePlace::Embedded(path) => Store::restore(file, path, *epoch)?,
                place @ StorePlace::Etcd(_) => Store::hold_place(place)?.restore_into(file, *epoch)?,
            }))
        }
        Command::ForgetKeys => {
            let place = settings.place()?;
            if let StorePlace::Embedded(path) = place {
                fs::metadata(path).with_context(|| format!("no store at {}", path.display()))?;
            }
            let accounts = vault::forget_all(&Store::hold_place(place)?)?;
            Ok(format!("{accounts} accounts have no access keys any more"))
        }
    }
}

/// What has come into the place of a store.
fn said(restored: &Restored) -> String {
    let Restored { revision, counts: [hosts, vpcs, peerings], replaced } = restored;
    let kept = replaced.as_ref().map_or(String::new(), |it| format!("\nthe store before is kept as {}", it.display()));
    format!("revision {revision} with {hosts} hosts, {vpcs} VPCs and {peerings} peerings is in place{kept}")
}

/// Checks that the access keys in a copy can be used with the store's key, before the copy takes the store's place.
fn fits(copy: &Path, settings: &ControllerSettings) -> anyhow::Result<()> {
    // To open a store writes to it, and the copy is to stay as it is.
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let looked_at = folder.path().join("copy");
    fs::copy(copy, &looked_at).with_context(|| format!("cannot read {}", copy.display()))?;
    let state = Store::open(&looked_at)?.load()?;
    Ok(Vault::fits(&settings.store_key()?, &state)?)
}
