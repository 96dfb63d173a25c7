//! Commands that need no running controller: backup, check, move and restore of the store.

use crate::{
    backup, release,
    setup::{prices, read_settings},
};
use anyhow::{Context, bail};
use clap::Subcommand;
use cps_peering_config::{
    cluster::ClusterId,
    settings::{ControllerSettings, StorePlace},
};
use cps_peering_controller::{
    access::vault::{self, Vault},
    store::{Cluster, Origin, Restored, Store, check, check_shared},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Check the settings file, and show the effective settings, defaults included.
    Settings,
    /// Back up the store into a new file; verify and inspect backups; make scheduled backups.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Backup {
        /// The new file. If the store is a file, no controller may be running; while one runs: `cps-peering admin backup`
        #[arg(required = true)]
        file: Option<PathBuf>,
        #[command(subcommand)]
        command: Option<backup::Command>,
    },
    /// Report which parts of the store are readable and what is lost, while no controller runs: for when it is damaged. The
    /// store is not changed.
    CheckStore {
        /// The store's file, if it is not that of the settings
        file: Option<PathBuf>,
        /// A backup to compare with: report which of its records are lost or differ.
        #[arg(long)]
        with: Option<PathBuf>,
    },
    /// Move the store of other settings into the store of these, under a new epoch, while no controller runs: from a file to
    /// etcd, or back. The old store is marked as moved, and no controller starts with it any more.
    MoveStore {
        /// The settings file that names the store to be copied; `--settings` names the new one.
        #[arg(long)]
        from: PathBuf,
        /// Replace the new store even if it is not empty. Its content is kept: in a file beside it, or in the directory for
        /// backups
        #[arg(long)]
        force: bool,
    },
    /// Restore a backup while no controller runs. The previous store is kept beside it. A controller that is started with a restored
    /// store is held: it sends nothing to hosts before `cps-peering-controller release`.
    Restore {
        /// The backup.
        file: PathBuf,
        /// Continue as the cluster of the backup: for when its store is lost. Without this, the restored store becomes a new
        /// cluster, which the hosts of the old one refuse
        #[arg(long)]
        same_cluster: bool,
        /// The new epoch; by default one more than that of the backup and of the store that is replaced. Needed where agents
        /// report a newer revision than the controller's
        #[arg(long)]
        epoch: Option<u64>,
    },
    /// Release the controller that runs on this machine: let it configure hosts. After a restore it is held until then.
    Release {
        /// Only show what would change on each host.
        #[arg(long)]
        dry_run: bool,
    },
    /// Ask the agents in an inventory which cluster they belong to and which revision they have: for when the store is lost
    /// and there is no backup.
    AskAgents {
        /// The inventory.
        #[arg(short, long)]
        file: PathBuf,
    },
    /// Create an empty store that agents accept: for when the store is lost and there is no backup. A controller that is
    /// started with it is held.
    NewStore {
        /// The cluster that the agents belong to.
        #[arg(long)]
        cluster: ClusterId,
        /// One more than the highest that an agent has seen.
        #[arg(long)]
        epoch: u64,
    },
    /// Re-encrypt the access keys of all accounts with a new key while no controller runs. The new key replaces the old one
    /// in the file of the store's key; the old one is kept beside it, for backups that were made before.
    RotateStoreKey,
    /// Remove the access keys of all accounts while no controller runs: for when the store's key is lost, with which they
    /// are encrypted. Bearer tokens stay. Operators then create new access keys: `cps-peering admin account add-key`.
    ForgetKeys,
}

/// Runs a command. Returns its output.
pub(crate) fn execute(command: &Command, settings: &Path) -> anyhow::Result<String> {
    let settings = read_settings(settings)?;
    match command {
        Command::Settings => {
            settings.place()?;
            settings.check_operators()?;
            prices(&settings)?;
            Ok(toml::to_string(&settings)?.trim_end().to_owned())
        }
        Command::Backup { file, command } => match (file, command) {
            (_, Some(command)) => backup::execute(command, &settings),
            (Some(file), None) => {
                let revision = backup::make(file, &settings)?;
                let key = settings.store_key()?;
                Ok(format!(
                    "{} holds revision {revision}; its access keys can be decrypted only with {}",
                    file.display(),
                    key.display()
                ))
            }
            (None, None) => bail!("name the new file"),
        },
        Command::CheckStore { file, with } => {
            let with = with.as_deref();
            let report = match (file, settings.place()) {
                (Some(file), _) => check(file, with)?,
                (None, place) => match place? {
                    StorePlace::Embedded(path) => check(path, with)?,
                    StorePlace::Etcd(etcd) => check_shared(&Store::look(&Arc::new(Cluster::new(etcd)?)), with)?,
                },
            };
            if report.is_whole() {
                return Ok(report.to_string().trim_end().to_owned());
            }
            cps_peering_terminal::show(report.to_string().trim_end());
            if report.is_newer() {
                bail!("some of the store was written by a newer release: install that release, or a newer one");
            }
            bail!("the store is damaged: `cps-peering-controller restore COPY` replaces it with a copy")
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
        Command::Restore { file, same_cluster, epoch } => {
            fits(file, &settings)?;
            let origin = if *same_cluster { Origin::Same } else { Origin::Another };
            Ok(said(&match settings.place()? {
                StorePlace::Embedded(path) => Store::restore(file, path, *epoch, origin)?,
                place @ StorePlace::Etcd(_) => Store::hold_place(place)?.restore_into(file, *epoch, origin)?,
            }))
        }
        Command::Release { dry_run } => release::run(&settings, *dry_run),
        Command::AskAgents { file } => release::ask_agents(&settings, file),
        Command::NewStore { cluster, epoch } => {
            let store = Store::hold_place(settings.place()?)?;
            store.begin_anew(*cluster, *epoch)?;
            Ok(format!(
                "an empty store of cluster {cluster} with epoch {epoch} is in place, and held until `cps-peering-controller release`"
            ))
        }
        Command::RotateStoreKey => {
            let (place, key) = (settings.place()?, settings.store_key()?);
            let marker = match place {
                StorePlace::Embedded(path) => {
                    fs::metadata(path).with_context(|| format!("no store at {}", path.display()))?;
                    Some(path)
                }
                StorePlace::Etcd(_) => None,
            };
            let vault::Rotated { accounts, before } = vault::rotate(&Store::hold_place(place)?, &key, marker)?;
            let others =
                if marker.is_some() { "" } else { "\nCopy it to the other controllers before they are started." };
            Ok(format!(
                "the access keys of {accounts} accounts are sealed with the new key in {}; the one before is in {}: keep it as long as \
                 copies that were made before{others}",
                key.display(),
                before.display()
            ))
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

/// The message about a store that was put in place.
fn said(restored: &Restored) -> String {
    let Restored { revision, cluster, held, counts: [hosts, vpcs, peerings], replaced } = restored;
    let cluster = cluster.map_or(String::new(), |cluster| format!("; it is cluster {cluster}"));
    let held = if *held {
        "\nThe controller is held: start it, look at `cps-peering-controller release --dry-run`, then `cps-peering-controller release`"
    } else {
        ""
    };
    let kept = replaced.as_ref().map_or(String::new(), |it| format!("\nthe store before is kept as {}", it.display()));
    format!(
        "revision {revision} with {hosts} hosts, {vpcs} VPCs and {peerings} peerings is in place{cluster}{kept}{held}"
    )
}

/// Checks that the access keys in a backup can be decrypted with the store's key, before the backup replaces the store.
fn fits(copy: &Path, settings: &ControllerSettings) -> anyhow::Result<()> {
    // Opening a store writes to it, and the backup must not change.
    let folder = tempfile::tempdir().context("cannot create a folder")?;
    let looked_at = folder.path().join("copy");
    let state = Store::open_copy(copy, &looked_at)?.load()?;
    Ok(Vault::fits(&settings.store_key()?, &state)?)
}
