//! Secret keys on disk: sealed in the store and in backups, and decrypted only with the store's key.

use crate::running::{Controller, Place, holds};
use cps_peering_controller::{
    access::vault::{self, Vault},
    model::{record::SealedKey, state::Change},
    store::Store,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Output,
};

async fn signs_in(controller: &Controller, [access_key, secret_key, _]: &[String; 3]) -> bool {
    controller.sign_in(json!({ "accessKey": access_key, "secretKey": secret_key })).await.is_ok()
}

fn refused(ended: &Output, text: &str) {
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains(text), "{text:?}: {ended:?}");
}

fn done(ended: &Output) -> String {
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

/// All files below a folder that hold these bytes.
fn holders(folder: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holders(&path, bytes));
        } else if holds(&path, bytes) {
            found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

#[tokio::test]
async fn secret_keys_are_never_in_clear_and_need_the_stores_key() {
    let controller = Place::new().start().await;
    let acme = controller.account("acme").await;
    assert!(signs_in(&controller, &acme).await);
    let made = controller.operator(Method::POST, "/admin/v1/backups", json!({})).await;
    let backup = made["file"].as_str().unwrap().to_owned();
    let place = controller.stop();
    assert_eq!(made["storeKeyFile"].as_str().unwrap(), place.file("store.key").to_str().unwrap());
    let offline = place.file("offline");
    let said = done(&place.run(&["backup", offline.to_str().unwrap()]));
    assert!(said.contains("access keys can be decrypted only with") && said.contains("store.key"), "{said}");
    // The search looks where the access key is found, so that the secret would be found.
    assert_eq!(holders(place.0.path(), acme[0].as_bytes()).len(), 3);
    for text in [&acme[1], &acme[2], crate::running::TOKEN] {
        let found = holders(place.0.path(), text.as_bytes());
        assert!(found.iter().all(|file| file == "token"), "{text}: {found:?}");
    }
    assert_eq!(fs::metadata(place.file("store.key")).unwrap().permissions().mode() & 0o7777, 0o600);

    let controller = place.start().await;
    assert!(signs_in(&controller, &acme).await);
    let place = controller.stop();
    let key = fs::read_to_string(place.file("store.key")).unwrap();
    fs::remove_file(place.file("store.key")).unwrap();
    refused(&place.run(&[]), "store.key is missing, and access keys are sealed with it");
    refused(&place.run(&["restore", &backup]), "store.key is missing");
    assert!(!place.file("store.key").exists());
    place.secret("store.key", &"0".repeat(64));
    refused(&place.run(&[]), "is not the store's key");
    refused(&place.run(&["restore", &backup]), "is not the store's key");
    assert_eq!(
        Store::open(place.file("store.redb")).unwrap().load().unwrap().meta().epoch,
        1,
        "nothing was put in place"
    );
    let left = fs::read_dir(place.0.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().starts_with("store.") || name.to_str().unwrap().starts_with(".tmp")
    });
    assert_eq!(left.count(), 3, "the store, its reserve and its key");
    place.secret("store.key", &key);
    done(&place.run(&["restore", &backup]));
    let controller = place.start().await;
    assert!(signs_in(&controller, &acme).await);

    // If the key is lost, so are the access keys, and nothing else.
    let place = controller.stop();
    place.secret("store.key", &"0".repeat(64));
    assert!(done(&place.run(&["forget-keys"])).contains("1 accounts"));
    let controller = place.start().await;
    assert!(!signs_in(&controller, &acme).await);
    assert_eq!(controller.code(&acme[2], "/v1/whoami").await, 200);
    let new = controller.operator(Method::POST, "/admin/v1/accounts/acme/keys", json!({})).await;
    let new = [&new["accessKey"], &new["secretKey"], &Value::from("")].map(|value| value.as_str().unwrap().to_owned());
    assert!(signs_in(&controller, &new).await);
}

/// A store as an earlier version left it.
fn in_clear(place: &Place, secret_key: &str) -> [String; 3] {
    let store = Store::open(place.file("store.redb")).unwrap();
    let state = store.load().unwrap();
    let id = "acme".parse().unwrap();
    let mut account = state.account(&id);
    account.keys.insert("JDC_OLD".to_owned(), SealedKey::new(secret_key.to_owned()));
    store.commit(&[Change::Account(id, Some(account))], &[], &[], state.meta().number).unwrap();
    let side = ("vpcpr-0123456789".parse().unwrap(), 7.try_into().unwrap());
    let count = json!({ "bytes": 1, "packets": 1 });
    let counted = json!({ "base": { "sent": count, "received": count, "dropped": 1 }, "hosts": {} });
    store.save_traffic(&[(side, counted)], &[]).unwrap();
    ["JDC_OLD", secret_key, ""].map(str::to_owned)
}

#[tokio::test]
async fn secret_keys_in_clear_are_sealed_at_the_start_and_wiped_from_the_store() {
    const SECRET: &str = "ANOLDSECRETTHATWASKEPTINCLEAR000";
    let place = Place::new();
    let old = in_clear(&place, SECRET);
    let store = place.file("store.redb");
    assert!(holds(&store, SECRET.as_bytes()));
    let (opened, _, _vault) = vault::open(&store, &place.file("store.key")).unwrap();
    assert_eq!(opened.traffic::<Value>().unwrap().len(), 1, "nothing else is lost");
    drop(opened);
    assert_eq!(holders(place.0.path(), SECRET.as_bytes()), Vec::<String>::new());
    assert!(!place.file("store.sealing").exists());

    // It was interrupted when the keys were sealed, and the file was not rewritten yet.
    in_clear(&place, SECRET);
    let opened = Store::open(&store).unwrap();
    let state = opened.load().unwrap();
    let vault = Vault::open(&place.file("store.key"), &state).unwrap();
    opened.commit(&vault.seal_all(&state).unwrap(), &[], &[], state.meta().number).unwrap();
    drop(opened);
    // What was overwritten may still be in the file: only a new file is certainly without it.
    let written = fs::metadata(&store).unwrap().ino();
    fs::write(place.file("store.sealing"), "").unwrap();
    let controller = place.start().await;
    assert!(signs_in(&controller, &old).await);
    let place = controller.stop();
    assert_ne!(fs::metadata(&store).unwrap().ino(), written);
    assert_eq!(holders(place.0.path(), SECRET.as_bytes()), Vec::<String>::new());
}

#[tokio::test]
async fn the_stores_key_is_private_and_can_be_a_systemd_credential() {
    let place = Place::new();
    let handed_over = place.file("credentials");
    fs::create_dir(&handed_over).unwrap();
    place.secret("credentials/store.key", &"1".repeat(64));
    let key = place.file("credentials/store.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o440)).unwrap();
    place.settings(&format!("store_key_file = '{}'\n", key.display()));
    refused(&place.run(&[]), "store.key can be read by others (mode 0440)");
    // There it starts, and fails for another reason only.
    fs::write(place.file("store.redb"), "no store").unwrap();
    let ended = place.program(&[]).env("CREDENTIALS_DIRECTORY", &handed_over).output().unwrap();
    assert_eq!(ended.status.code(), Some(65), "{ended:?}");
    fs::remove_file(place.file("store.redb")).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o444)).unwrap();
    let ended = place.program(&[]).env("CREDENTIALS_DIRECTORY", &handed_over).output().unwrap();
    refused(&ended, "store.key can be read by others (mode 0444)");
}
