//! The contents of certificates, and whether they expire soon.

use super::{
    CliError, Output, refused,
    revocation::{self, hexadecimal},
    timestamp,
};
use crate::output::{cell, columns, print};
use cps_peering_config::{settings::ControllerSettings, tls::HOST_PREFIX};
use cps_peering_http::tls::first_serial;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};
use x509_parser::{extensions::GeneralName, pem::Pem};

/// Shows files, or all of a directory.
pub(super) fn run(dir: &Path, mut files: Vec<PathBuf>, settings: &Path, output: Output) -> Result<(), CliError> {
    if files.is_empty() {
        let entries =
            fs::read_dir(dir).map_err(|error| refused(format!("cannot read the folder {}: {error}", dir.display())))?;
        let paths = entries.flatten().map(|entry| entry.path());
        let is_certificate = |path: &PathBuf| {
            path.extension().is_some_and(|end| end == "pem") && path.file_name() != Some(revocation::LIST.as_ref())
        };
        files.extend(paths.filter(is_certificate));
        files.sort();
    }
    let renewal = renewal(settings)?;
    let mut rows = files.iter().map(|path| describe(path, renewal)).collect::<Result<Vec<_>, _>>()?.concat();
    let revoked = revocation::serials(dir)?;
    for row in &mut rows {
        let serial = row["serial"].as_str().unwrap_or_default().to_owned();
        if revoked.iter().any(|it| revocation::same(it, &serial)) {
            row["warning"] = "it is revoked".into();
        }
    }
    present(&rows, output);
    Ok(())
}

fn present(rows: &[Value], output: Output) {
    let heading = [
        ("FILE", "/file"),
        ("NAMES", "/names"),
        ("SERIAL", "/serial"),
        ("NOT AFTER", "/notAfter"),
        ("DAYS LEFT", "/daysLeft"),
        ("RENEWAL", "/renewal"),
        ("WARNING", "/warning"),
    ];
    print(output, &json!({ "certificates": rows }), || columns(&heading, rows));
    for row in rows.iter().filter(|row| !row["warning"].is_null()) {
        let [file, warning] = ["file", "warning"].map(|field| cell(&row[field]));
        cps_peering_terminal::complain(&format!("{file}: {warning}"));
    }
}

/// Shows certificates that were just issued.
pub(super) fn issued(files: &[PathBuf], output: Output) -> Result<(), CliError> {
    let rows: Vec<Value> = files.iter().map(|path| describe(path, None)).collect::<Result<Vec<_>, _>>()?.concat();
    present(&rows, output);
    Ok(())
}

/// Whether the controller on this machine renews hosts' certificates; none if there is no controller, or its settings cannot be read.
fn renewal(settings: &Path) -> Result<Option<bool>, CliError> {
    let Ok(text) = fs::read_to_string(settings) else { return Ok(None) };
    let settings: ControllerSettings =
        toml::from_str(&text).map_err(|error| refused(format!("{}: {error}", settings.display())))?;
    Ok(Some(settings.agent_certificates.is_some()))
}

/// What a certificate is for, as far as its expiry is concerned.
#[derive(Clone, Copy)]
enum Kind {
    Ca,
    /// Whether the controller renews it, where that is known.
    Host(Option<bool>),
    Other,
}

/// What is wrong with a certificate, or will be soon. Both times are in seconds.
fn warning(kind: Kind, whole_s: i64, left_s: i64) -> Option<String> {
    const DAY: i64 = 24 * 60 * 60;
    let days = left_s.div_euclid(DAY);
    if left_s <= 0 {
        return Some("it has expired: issue another one with --force".to_owned());
    }
    let soon = if matches!(kind, Kind::Ca) { (30 * DAY).min(whole_s / 10) } else { whole_s / 3 };
    let cure = match kind {
        Kind::Host(Some(true)) => {
            "the controller renews it on its host (setting agent_certificates), and this file stays as it is"
        }
        Kind::Host(Some(false)) => {
            "issue another one with --force; the controller does not renew it (setting agent_certificates is missing)"
        }
        Kind::Host(None) => {
            "issue another one with --force, unless the controller renews it (setting agent_certificates)"
        }
        Kind::Ca | Kind::Other => "issue another one with --force",
    };
    (left_s < soon).then(|| format!("it expires in {days} days: {cure}"))
}

/// The certificates of a file.
fn describe(path: &Path, renewal: Option<bool>) -> Result<Vec<Value>, CliError> {
    let wrong = |error: String| refused(format!("{}: {error}", path.display()));
    let bytes = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut found = Vec::new();
    for pem in Pem::iter_from_buffer(&bytes) {
        let pem = pem.map_err(|error| wrong(error.to_string()))?;
        // The agent's file also contains the key.
        if pem.label != "CERTIFICATE" {
            continue;
        }
        let certificate = pem.parse_x509().map_err(|error| wrong(error.to_string()))?;
        let names = certificate.subject_alternative_name().map_err(|error| wrong(error.to_string()))?;
        let names = names.into_iter().flat_map(|names| &names.value.general_names);
        let mut names: Vec<String> = names.map(name).collect();
        if names.is_empty() {
            names.push(certificate.subject().to_string());
        }
        let ends = certificate.validity().not_after.timestamp();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let is_host = names.iter().any(|name| name.starts_with(HOST_PREFIX));
        let kind = match (certificate.is_ca(), is_host) {
            (true, _) => Kind::Ca,
            (false, true) => Kind::Host(renewal),
            (false, false) => Kind::Other,
        };
        let word = |on| if on { "on" } else { "off" };
        let first = first_serial(&certificate).map(|serial| hexadecimal(&serial));
        let begins = certificate.validity().not_before.timestamp();
        found.push(json!({
            "file": path,
            "names": names,
            "serial": certificate.raw_serial_as_string(),
            "isCa": certificate.is_ca(),
            "notBefore": timestamp(certificate.validity().not_before.timestamp()),
            "notAfter": timestamp(ends),
            "daysLeft": ends.saturating_sub_unsigned(now).div_euclid(24 * 60 * 60),
            // For hosts: whether the controller renews it. And the first certificate of the lineage, if this one was renewed.
            "renewal": if is_host { renewal.map_or("unknown", word).into() } else { Value::Null },
            "renewedFrom": first,
            "warning": warning(kind, ends.saturating_sub(begins), ends.saturating_sub_unsigned(now)),
        }));
    }
    if found.is_empty() { Err(wrong("there is no certificate in PEM".to_owned())) } else { Ok(found) }
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(text) | GeneralName::DNSName(text) => (*text).to_owned(),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
            v4.or_else(|_| v6()).map_or_else(|_| name_of_other(name), |address| address.to_string())
        }
        other => name_of_other(other),
    }
}

fn name_of_other(name: &GeneralName<'_>) -> String {
    name.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_before_its_end_one_is_warned_of_and_told_who_renews_it() {
        const DAY: i64 = 24 * 60 * 60;
        let hosts = [None, Some(false), Some(true)].map(Kind::Host);
        for kind in hosts.into_iter().chain([Kind::Other]) {
            assert_eq!(warning(kind, 30 * DAY, 10 * DAY), None);
            assert!(warning(kind, 30 * DAY, 10 * DAY - 1).unwrap().contains("in 9 days"));
            assert!(warning(kind, 30 * DAY, 0).unwrap().contains("has expired"));
        }
        let said = hosts.map(|kind| warning(kind, 30 * DAY, DAY).unwrap());
        assert!(said[0].contains("unless") && said[1].contains("does not renew") && said[2].contains("stays as it is"));
        // A CA is valid for years.
        assert_eq!(warning(Kind::Ca, 3650 * DAY, 30 * DAY), None);
        assert!(warning(Kind::Ca, 3650 * DAY, 30 * DAY - 1).is_some());
    }
}
