//! Where tests have their stores: in a file or, if `CPS_PEERING_TEST_ETCD` is the client URL of a member of etcd, there.

use cps_peering_controller::store::{Cluster, Store, StoreError};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

/// How long a test waits until a controller that it stopped has lost leadership.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether stores are in etcd.
pub fn in_etcd() -> bool {
    std::env::var_os("CPS_PEERING_TEST_ETCD").is_some()
}

/// The setting for the key that controllers with a shared store have in common.
pub fn key_setting(folder: &Path) -> String {
    let file = folder.join("store.key");
    fs::write(&file, "7".repeat(64)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    format!("store_key_file = '{}'\n", file.display())
}

/// The settings of a controller for the store of a folder, at their end. `url` is the controller's.
pub fn setting(folder: &Path, url: &str) -> String {
    let Ok(endpoint) = std::env::var("CPS_PEERING_TEST_ETCD") else {
        return format!("store = '{}'\n", folder.join("store.redb").display());
    };
    let name = folder.file_name().unwrap().to_str().unwrap();
    let backups = folder.join("backups");
    let table = format!("endpoints = ['{endpoint}']\nprefix = '/{name}/'\nadvertise = '{url}'\n");
    format!("{}[etcd]\n{table}backups = '{}'\n", key_setting(folder), backups.display())
}

/// Opens the store of a folder.
pub fn open(folder: &Path) -> Result<Store, StoreError> {
    if !in_etcd() {
        return Store::open(folder.join("store.redb"));
    }
    let url = "http://127.0.0.1:1";
    let text = setting(folder, url);
    let settings = toml::from_str(text.split_once("[etcd]\n").unwrap().1).unwrap();
    let led = Store::lead(&Arc::new(Cluster::new(&settings)?), url, PATIENCE)?;
    led.ok_or_else(|| StoreError::InUse(folder.to_owned()))
}
