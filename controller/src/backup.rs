//! `cps-peering-controller backup`: makes, verifies and inspects backups of the store, also on a schedule.

use crate::release::ask;
use anyhow::{Context, anyhow, ensure};
use clap::Subcommand;
use cps_peering_config::{
    Revision,
    settings::{ControllerSettings, StorePlace},
    time::{now_ms, timestamp_ms},
};
use cps_peering_controller::store::{Cluster, Manifest, Store, StoreError};
use reqwest::Method;
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs::{self, DirBuilder},
    io,
    num::NonZeroUsize,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown},
    path::{Path, PathBuf},
    process,
    sync::Arc,
};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Verify a backup: its checksum, and that every record in it can be read.
    Verify {
        /// The backup.
        copy: PathBuf,
    },
    /// Show the cluster, revision, time and release of a backup, without verifying it.
    Inspect {
        /// The backup.
        copy: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a backup beside the store, also while the controller runs, verify it, hand it over, and remove old ones. For a timer.
    Scheduled {
        /// How many backups to keep, this one included, in the directory of the store and in FOLDER. Other files are left
        /// alone
        #[arg(long, default_value = "14")]
        keep: NonZeroUsize,
        /// Also copy the backup into this directory, for instance of another machine
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
        /// Also run this shell command, with the backup's path in `BACKUP_FILE`. If it fails, no old backup is removed
        #[arg(long)]
        command: Option<String>,
    },
}

/// Runs a command. Returns its output.
pub(crate) fn execute(command: &Command, settings: &ControllerSettings) -> anyhow::Result<String> {
    match command {
        Command::Verify { copy } => {
            let manifest = Store::verify_copy(copy)?;
            Ok(format!("{} is whole\n{}", copy.display(), told(&manifest)))
        }
        Command::Inspect { copy, json } => {
            let manifest = Store::inspect_copy(copy)?.with_context(|| {
                format!("{} has no manifest, since an older release made it: use `backup verify`", copy.display())
            })?;
            Ok(if *json { serde_json::to_string_pretty(&manifest)? } else { told(&manifest) })
        }
        Command::Scheduled { keep, to, command } => scheduled(settings, *keep, to.as_deref(), command.as_deref()),
    }
}

fn told(manifest: &Manifest) -> String {
    let Manifest { cluster, revision, made, release, hosts, vpcs, peerings, bytes } = manifest;
    let word = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    let cluster = cluster.map_or("none".to_owned(), |cluster| cluster.to_string());
    format!(
        "cluster   {cluster}\nrevision  {revision}\nmade      {}\nrelease   {}\nholds     {hosts} hosts, {vpcs} VPCs and {peerings} \
         peerings, {bytes} bytes",
        word(made),
        word(release)
    )
}

/// Backs up the store into a new file, without a running controller.
pub(crate) fn make(file: &Path, settings: &ControllerSettings) -> anyhow::Result<Revision> {
    let store = match settings.place()? {
        StorePlace::Embedded(path) => {
            // A missing store is not created: an empty backup would be worthless.
            fs::metadata(path).with_context(|| format!("no store at {}", path.display()))?;
            Store::open(path).map_err(|error| match error {
                StoreError::InUse(_) => anyhow!("{error} Then use: cps-peering admin backup"),
                other => other.into(),
            })?
        }
        StorePlace::Etcd(etcd) => Store::look(&Arc::new(Cluster::new(etcd)?)),
    };
    Ok(store.back_up(file)?)
}

fn scheduled(
    settings: &ControllerSettings,
    keep: NonZeroUsize,
    to: Option<&Path>,
    command: Option<&str>,
) -> anyhow::Result<String> {
    let copy = made_somehow(settings)?;
    let cluster = Store::verify_copy(&copy)?.cluster;
    let name = copy.file_name().unwrap_or(OsStr::new("copy"));
    if let Some(folder) = to {
        // Written under another name first: other controllers can copy to the same folder at the same time.
        let file = folder.join(name);
        let failed = || format!("cannot copy {} to {}", copy.display(), file.display());
        let unfinished = tempfile::Builder::new().prefix("unfinished-").tempfile_in(folder).with_context(failed)?;
        io::copy(&mut fs::File::open(&copy).with_context(failed)?, &mut unfinished.as_file()).with_context(failed)?;
        unfinished.as_file().sync_all().with_context(failed)?;
        Store::verify_copy(unfinished.path())?;
        unfinished.persist_noclobber(&file).with_context(failed)?;
    }
    if let Some(command) = command {
        let ran = process::Command::new("sh").args(["-c", command]).env("BACKUP_FILE", &copy).status();
        let ran = ran.with_context(|| format!("cannot run `{command}`"))?;
        ensure!(ran.success(), "`{command}` ended with {ran}; {} stays, and no old copy is removed", copy.display());
    }
    let mut removed = 0;
    let of_cluster = |manifest: Option<Manifest>| manifest.is_some_and(|it| it.cluster == cluster);
    if let Some(own) = copy.parent() {
        // Earlier releases did not record whose their backups are; here they are this store's.
        removed += remove_old(own, keep.get(), |manifest| manifest.is_none() || of_cluster(manifest))?;
    }
    if let Some(folder) = to {
        removed += remove_old(folder, keep.get(), of_cluster)?;
    }
    Ok(format!("{} is made and whole; {removed} old copies are removed", copy.display()))
}

/// A backup in the folder beside the store: made by the running controller if only that can read the store.
fn made_somehow(settings: &ControllerSettings) -> anyhow::Result<PathBuf> {
    let folder = match settings.place()? {
        StorePlace::Embedded(path) => path.with_file_name("backups"),
        StorePlace::Etcd(etcd) => etcd.backups.clone(),
    };
    let time = timestamp_ms(now_ms()).replace(':', "-");
    let file = folder.join(format!("{time}.{}", Store::COPY));
    let failed = || format!("cannot create the folder {}", folder.display());
    if !folder.exists() {
        DirBuilder::new().mode(0o700).create(&folder).with_context(failed)?;
        // Owned by the owner of the folder above.
        let owner = fs::metadata(folder.parent().unwrap_or(Path::new("."))).with_context(failed)?;
        chown(&folder, Some(owner.uid()), Some(owner.gid())).with_context(failed)?;
    }
    let made = make(&file, settings);
    let in_use = |error: &anyhow::Error| error.to_string().contains("another process uses it");
    match made {
        Ok(_) => Ok(file),
        Err(error) if in_use(&error) => {
            let answer: Value = ask(settings, Method::POST, "/admin/v1/backups")?;
            let file = answer["file"].as_str().context("the controller does not say where its copy is")?;
            Ok(file.into())
        }
        Err(error) => Err(error),
    }
}

/// Removes all but the newest backups of one cluster whose names are times, as a controller names them. Unreadable ones stay.
fn remove_old(folder: &Path, keep: usize, is_own: impl Fn(Option<Manifest>) -> bool) -> anyhow::Result<usize> {
    let failed = || format!("cannot look into {}", folder.display());
    let mut copies = Vec::new();
    for file in fs::read_dir(folder).with_context(failed)? {
        let path = file.with_context(failed)?.path();
        let is_copy = path.extension().is_some_and(|end| end == Store::COPY);
        let is_time =
            path.file_stem().and_then(OsStr::to_str).is_some_and(|it| it.starts_with("20") && it.ends_with('Z'));
        if is_copy && is_time && Store::inspect_copy(&path).is_ok_and(&is_own) {
            copies.push(path);
        }
    }
    // Names are times, so they sort by age.
    copies.sort();
    copies.truncate(copies.len().saturating_sub(keep));
    for copy in &copies {
        fs::remove_file(copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    }
    Ok(copies.len())
}
