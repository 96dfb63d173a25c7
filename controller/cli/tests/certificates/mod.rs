//! `cps-peering pki` as tests run it. The including test provides a function `program`.

#![allow(unreachable_pub, reason = "a part of each test")]

use super::program;
use serde_json::Value;
use std::{path::Path, process::Output};

/// The outcome of a command about the certificates in a folder.
pub fn pki(dir: &Path, arguments: &[&str]) -> Output {
    program().args(["pki", "--dir", dir.to_str().unwrap(), "-o", "json"]).args(arguments).output().unwrap()
}

/// The certificates that it made.
pub fn made(dir: &Path, arguments: &[&str]) -> Vec<Value> {
    let ended = pki(dir, arguments);
    assert!(ended.status.success(), "{ended:?}");
    let json: Value = serde_json::from_slice(&ended.stdout).unwrap();
    json["certificates"].as_array().unwrap().clone()
}

/// Asserts that it was refused for this reason.
pub fn refused(ended: &Output, text: &str) {
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains(text), "{text:?}: {ended:?}");
}
