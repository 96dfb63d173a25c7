//! The list of revoked certificates (RFC 5280 section 5), and what was issued.
//!
//! `issued` in the folder has a line for each certificate: its serial number and its name. So a certificate can be revoked by its
//! name when its file is gone, or was replaced.

use super::{Ca, CertificateParams, CliError, Output, columns, failed, print, refused, timestamp, write};
use cps_peering_http::tls::first_serial;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, SystemTime},
};
use x509_parser::{pem::Pem, prelude::FromDer, revocation_list::CertificateRevocationList};

/// The list's file.
pub(super) const LIST: &str = "crl.pem";
const ISSUED: &str = "issued";

/// A serial number as it is printed.
pub(super) fn hexadecimal(serial: &[u8]) -> String {
    serial.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// A serial number in the form for comparison: hexadecimal digits without colons and leading zeros.
fn digits(serial: &str) -> String {
    let digits: String = serial.chars().filter(char::is_ascii_hexdigit).collect();
    digits.trim_start_matches('0').to_ascii_lowercase()
}

/// Whether two texts are the same serial number.
pub(super) fn same(one: &str, other: &str) -> bool {
    digits(one) == digits(other)
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let even = if digits.len().is_multiple_of(2) { digits.to_owned() } else { format!("0{digits}") };
    let bytes = even.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    bytes.collect::<Option<Vec<u8>>>().filter(|bytes| !bytes.is_empty())
}

/// Records a certificate before it is issued.
pub(super) fn remember(dir: &Path, name: &str, params: &CertificateParams) -> Result<(), CliError> {
    let path = dir.join(ISSUED);
    let serial = params.serial_number.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut options = fs::OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| writeln!(file, "{} {name}", digits(&serial)));
    written.map_err(|error| refused(format!("cannot write {}: {error}", path.display())))
}

/// The content of the list: when each certificate was revoked, by serial number; and the number of the list.
struct Listed {
    number: u64,
    revoked: BTreeMap<String, SystemTime>,
}

fn listed(dir: &Path) -> Result<Listed, CliError> {
    let path = dir.join(LIST);
    let wrong = |error: String| refused(format!("{}: {error}", path.display()));
    let mut listed = Listed { number: 0, revoked: BTreeMap::new() };
    let pem = match fs::read(&path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(listed),
        Err(error) => return Err(wrong(error.to_string())),
    };
    for pem in Pem::iter_from_buffer(&pem) {
        let pem = pem.map_err(|error| wrong(error.to_string()))?;
        let (_, list) = CertificateRevocationList::from_der(&pem.contents).map_err(|error| wrong(error.to_string()))?;
        let number = list.crl_number().and_then(|number| u64::try_from(number.clone()).ok());
        listed.number = listed.number.max(number.unwrap_or_default());
        for it in list.iter_revoked_certificates() {
            let seconds = u64::try_from(it.revocation_date.timestamp()).unwrap_or_default();
            listed
                .revoked
                .insert(digits(&it.raw_serial_as_string()), SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        }
    }
    Ok(listed)
}

/// The serial numbers on the folder's list.
pub(super) fn serials(dir: &Path) -> Result<Vec<String>, CliError> {
    Ok(listed(dir)?.revoked.into_keys().collect())
}

/// The serial numbers that an argument refers to: a file, a name, or a number.
fn meant(dir: &Path, word: &str) -> Result<Vec<String>, CliError> {
    if let Ok(pem) = fs::read(word) {
        let wrong = |error: String| refused(format!("{word}: {error}"));
        let mut serials = Vec::new();
        let first = Pem::iter_from_buffer(&pem).filter_map(Result::ok).find(|pem| pem.label == "CERTIFICATE");
        let is_of_cas = first.is_some_and(|pem| pem.parse_x509().is_ok_and(|it| it.is_ca()));
        for pem in Pem::iter_from_buffer(&pem) {
            let pem = pem.map_err(|error| wrong(error.to_string()))?;
            // The agent's file also contains the key.
            if pem.label != "CERTIFICATE" {
                continue;
            }
            let certificate = pem.parse_x509().map_err(|error| wrong(error.to_string()))?;
            // The certificates after the first are those of its issuers, which are not meant.
            if certificate.is_ca() && !is_of_cas {
                continue;
            }
            serials.push(digits(&certificate.raw_serial_as_string()));
            // A certificate that the controller has renewed is revoked by the first one of its lineage.
            serials.extend(first_serial(&certificate).map(|serial| digits(&hexadecimal(&serial))));
        }
        return if serials.is_empty() { Err(wrong("there is no certificate in PEM".to_owned())) } else { Ok(serials) };
    }
    named(dir, word)
}

/// The certificates that were issued under a name, or the one with that number.
fn named(dir: &Path, word: &str) -> Result<Vec<String>, CliError> {
    let issued = fs::read_to_string(dir.join(ISSUED)).unwrap_or_default();
    let lines = issued.lines().filter_map(|line| line.split_once(' '));
    let mut serials: Vec<String> = lines.filter(|(_, name)| *name == word).map(|(serial, _)| digits(serial)).collect();
    // Issued before names were recorded.
    let file = dir.join(format!("{word}.pem"));
    if !word.contains('/') && file.exists() {
        let current = meant(dir, &file.to_string_lossy())?;
        serials.extend(current.iter().cloned());
        serials.sort_unstable();
        serials.dedup();
        let revoked = listed(dir)?.revoked;
        let is_older = |serial: &&String| !current.contains(serial) && !revoked.contains_key(*serial);
        let older: Vec<&str> = serials.iter().filter(is_older).map(String::as_str).collect();
        if !older.is_empty() {
            return Err(refused(format!(
                "{word:.200}: several certificates were issued under this name. To revoke those before the current one: `cps-peering pki revoke {}`. To revoke the current one: \
                 `cps-peering pki revoke {}`",
                older.join(" "),
                file.display()
            )));
        }
    }
    serials.sort_unstable();
    serials.dedup();
    let is_serial = word.chars().all(|c| c.is_ascii_hexdigit() || c == ':') && digits(word).len() > 4;
    if serials.is_empty() && is_serial {
        serials.push(digits(word));
    }
    if serials.is_empty() {
        let advice = "expected a name (`host-h1`), a file or a serial number, as `cps-peering pki show` has them";
        return Err(refused(format!("{word:.200}: nothing was issued under this name; {advice}")));
    }
    Ok(serials)
}

/// Adds certificates to the list, and signs it.
pub(super) fn revoke(ca: &Ca<'_>, what: &[String], days: Option<u32>, output: Output) -> Result<(), CliError> {
    let mut list = listed(ca.dir)?;
    let now = SystemTime::now();
    let own = meant(ca.dir, &ca.dir.join("ca.pem").to_string_lossy())?;
    for word in what {
        for serial in meant(ca.dir, word)? {
            if own.contains(&serial) {
                return Err(refused(format!(
                    "{word}: this is the CA's own certificate, which a CRL cannot revoke: create a new CA"
                )));
            }
            list.revoked.entry(serial).or_insert(now);
        }
    }
    let entry = |(serial, at): (&String, &SystemTime)| {
        Some(RevokedCertParams {
            serial_number: SerialNumber::from_slice(&bytes(serial)?),
            revocation_time: (*at).into(),
            reason_code: None,
            invalidity_date: None,
        })
    };
    let number = list.number + 1;
    let params = CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + Duration::from_hours(24) * days.unwrap_or(3650)).into(),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: list.revoked.iter().filter_map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let signed = params.signed_by(&ca.issuer).and_then(|list| list.pem()).map_err(|error| failed(&error))?;
    let path = ca.dir.join(LIST);
    write(&path, &signed, 0o644)?;
    let seconds = |at: &SystemTime| {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        timestamp(i64::try_from(since).unwrap_or(i64::MAX))
    };
    let rows: Vec<Value> =
        list.revoked.iter().map(|(serial, at)| json!({ "serial": serial, "revoked": seconds(at) })).collect();
    let heading = [("SERIAL", "/serial"), ("REVOKED", "/revoked")];
    print(output, &json!({ "file": path, "number": number, "revoked": rows }), || columns(&heading, &rows));
    cps_peering_terminal::complain(&format!(
        "copy {} beside the controllers' ca.pem: they take it up within seconds, and bring it to all agents",
        path.display()
    ));
    Ok(())
}
