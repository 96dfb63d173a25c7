//! `cps-peering pki`: a certificate authority in a folder, for those who have none. It speaks with no controller.

mod revocation;

use super::{
    CliError, Output,
    output::{cell, columns, print},
};
use clap::{Args, Subcommand};
use cps_peering_config::{
    id::HostId,
    tls::{AGENT_DNS_NAME, CONTROLLER, MONITORING, OPERATOR, TRUST_DOMAIN, host, is_operator_name, operator},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use serde_json::{Value, json};
use std::{
    fs::{self, DirBuilder},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use x509_parser::{extensions::GeneralName, pem::Pem};

/// Clocks differ.
const EARLIER: Duration = Duration::from_mins(5);

#[derive(Args, Clone)]
pub(super) struct Arguments {
    /// Directory with the CA and the certificates it has issued.
    #[arg(long, default_value = "/etc/cps-peering/pki", value_name = "FOLDER")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone)]
enum Command {
    /// Create a CA: ca.pem, which controllers and agents need, and ca.key, which must stay here.
    Init {
        #[command(flatten)]
        how: How,
    },
    /// Issue a certificate and its key.
    Issue {
        #[command(subcommand)]
        whom: Whom,
    },
    /// Take a certificate back: it is put on the list of the directory, crl.pem, which daemons take up within seconds when it is
    /// beside their ca.pem. The controller brings it to all agents.
    Revoke {
        /// What is taken back: all that was issued under a name (`host-h1`, `operator`, `controller`), files with certificates, or
        /// serial numbers in hexadecimal, as `pki show` has them. Without any, the list is only signed again.
        what: Vec<String>,
        /// For how many days the list is good [default: 3650]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: Option<u32>,
    },
    /// Show the certificates of the directory, or of files, with what is wrong with them or will be soon.
    Show {
        /// Files with certificates in PEM.
        files: Vec<PathBuf>,
    },
}

#[derive(Args, Clone)]
struct How {
    /// Validity in days [default: 3650 for a CA, 365 otherwise]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: Option<u32>,
    /// Overwrite an existing one.
    #[arg(long)]
    force: bool,
}

#[derive(Subcommand, Clone)]
enum Whom {
    /// For the controller: controller.pem and controller.key.
    Controller {
        /// DNS names and IP addresses of the controller, besides localhost and the loopback addresses.
        #[arg(long, value_name = "NAME")]
        address: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// For hosts' agents: host-ID.pem and host-ID.key.
    Host {
        /// The hosts' ids, as in the inventory.
        #[arg(required = true)]
        ids: Vec<HostId>,
        #[command(flatten)]
        how: How,
    },
    /// For operators, who need no token with it: operator.pem and operator.key, or operator-NAME.pem and operator-NAME.key.
    Operator {
        /// An operator whom the controller's settings name. Without one: an administrator without a name.
        #[arg(long, value_parser = operator_name)]
        name: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// For clients that may read metrics and nothing else: monitoring.pem and monitoring.key.
    Monitoring {
        #[command(flatten)]
        how: How,
    },
}

fn operator_name(text: &str) -> Result<String, String> {
    let rule = || "expected 1 to 32 characters of a-z, 0-9, '.', '_' and '-'".to_owned();
    is_operator_name(text).then(|| text.to_owned()).ok_or_else(rule)
}

fn refused(text: impl Into<String>) -> CliError {
    CliError::Refused(text.into())
}

pub(super) fn run(Arguments { dir, command }: Arguments, output: Output) -> Result<(), CliError> {
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let issued = match command {
        Command::Show { files } => return show(&dir, files, output),
        Command::Revoke { what, days } => return revocation::revoke(&Ca::open(&dir)?, &what, days, output),
        Command::Init { how } => vec![init(&dir, &how)?],
        Command::Issue { whom } => {
            let ca = Ca::open(&dir)?;
            match whom {
                Whom::Controller { mut address, how } => {
                    address.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
                    vec![ca.issue("controller", CONTROLLER, address, vec![server, client], &how)?]
                }
                Whom::Host { ids, how } => {
                    // All or none.
                    for id in &ids {
                        ca.must_be_free(&format!("host-{id}"), &how)?;
                    }
                    let dns = || vec![AGENT_DNS_NAME.to_owned()];
                    let both = || vec![server.clone(), client.clone()];
                    let issue = |id| ca.issue(&format!("host-{id}"), &host(id), dns(), both(), &how);
                    ids.iter().map(issue).collect::<Result<_, _>>()?
                }
                Whom::Operator { name, how } => {
                    let file = name.as_ref().map_or_else(|| "operator".to_owned(), |name| format!("operator-{name}"));
                    let uri = name.map_or_else(|| OPERATOR.to_owned(), |name| operator(&name));
                    vec![ca.issue(&file, &uri, vec![], vec![client], &how)?]
                }
                Whom::Monitoring { how } => vec![ca.issue("monitoring", MONITORING, vec![], vec![client], &how)?],
            }
        }
    };
    let rows: Vec<Value> = issued.iter().map(|path| describe(path)).collect::<Result<Vec<_>, _>>()?.concat();
    present(&rows, output);
    Ok(())
}

/// The files of a certificate and its key.
fn files(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
}

fn must_be_free(dir: &Path, name: &str, how: &How) -> Result<(), CliError> {
    let (cert, key) = files(dir, name);
    match [cert, key].iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) if !how.force => {
            Err(refused(format!("{} is there already; --force puts another in its place", path.display())))
        }
        _ => Ok(()),
    }
}

/// Writes a file so that there is always a whole one.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CliError> {
    let write = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        // With mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| refused(format!("cannot write {}: {error}", path.display())))
}

/// Writes the key first: a daemon that looks in between finds two that do not fit, and waits.
fn keep(dir: &Path, name: &str, certificate: &str, key: &KeyPair) -> Result<PathBuf, CliError> {
    let (cert_file, key_file) = files(dir, name);
    write(&key_file, &key.serialize_pem(), 0o600)?;
    write(&cert_file, certificate, 0o644)?;
    Ok(cert_file)
}

fn failed(error: &rcgen::Error) -> CliError {
    refused(format!("cannot make the certificate: {error}"))
}

fn parameters(name: &str, days: u32) -> Result<CertificateParams, CliError> {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - EARLIER).into();
    params.not_after = (now + Duration::from_hours(24) * days).into();
    params.distinguished_name.push(DnType::OrganizationName, "cps-peering");
    params.distinguished_name.push(DnType::CommonName, name);
    // Random, and positive: RFC 5280 section 4.1.2.2.
    let mut serial = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut serial)
        .map_err(|_| refused("the system gives no random numbers"))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn init(dir: &Path, how: &How) -> Result<PathBuf, CliError> {
    must_be_free(dir, "ca", how)?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| refused(format!("cannot make the folder {}: {error}", dir.display())))?;
    let mut params = parameters("cps-peering CA", how.days.unwrap_or(3650))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
    keep(dir, "ca", &certificate.pem(), &key)
}

/// The CA that signs.
struct Ca<'a> {
    dir: &'a Path,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Ca<'a> {
    fn open(dir: &'a Path) -> Result<Self, CliError> {
        let (cert, key) = files(dir, "ca");
        let read = |path: &Path| {
            let advice = "make a CA with `cps-peering pki init`, or name its folder with --dir";
            fs::read_to_string(path)
                .map_err(|error| refused(format!("cannot read {}: {error}; {advice}", path.display())))
        };
        let (text, key_text) = (read(&cert)?, read(&key)?);
        let wrong = |path: &Path, error: rcgen::Error| refused(format!("{}: {error}", path.display()));
        let pair = KeyPair::from_pem(&key_text).map_err(|error| wrong(&key, error))?;
        let issuer = Issuer::from_ca_cert_pem(&text, pair).map_err(|error| wrong(&cert, error))?;
        Ok(Self { dir, issuer })
    }

    fn must_be_free(&self, name: &str, how: &How) -> Result<(), CliError> {
        must_be_free(self.dir, name, how)
    }

    fn issue(
        &self,
        name: &str,
        uri: &str,
        addresses: Vec<String>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        how: &How,
    ) -> Result<PathBuf, CliError> {
        self.must_be_free(name, how)?;
        let mut params = parameters(uri.trim_start_matches(TRUST_DOMAIN), how.days.unwrap_or(365))?;
        // An address is tried before a name.
        params.subject_alt_names = CertificateParams::new(addresses).map_err(|error| failed(&error))?.subject_alt_names;
        params.subject_alt_names.push(SanType::URI(uri.try_into().map_err(|error| failed(&error))?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|error| failed(&error))?;
        revocation::remember(self.dir, name, &params)?;
        keep(self.dir, name, &certificate.pem(), &key)
    }
}

fn show(dir: &Path, mut files: Vec<PathBuf>, output: Output) -> Result<(), CliError> {
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
    let mut rows = files.iter().map(|path| describe(path)).collect::<Result<Vec<_>, _>>()?.concat();
    let revoked = revocation::serials(dir)?;
    for row in &mut rows {
        let serial = row["serial"].as_str().unwrap_or_default().to_owned();
        if revoked.iter().any(|it| revocation::same(it, &serial)) {
            row["warning"] = warning(0, 0, true).into();
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
        ("WARNING", "/warning"),
    ];
    print(output, &json!({ "certificates": rows }), || columns(&heading, rows));
    for row in rows.iter().filter(|row| !row["warning"].is_null()) {
        let [file, warning] = ["file", "warning"].map(|field| cell(&row[field]));
        cps_peering_terminal::complain(&format!("{file}: {warning}"));
    }
}

/// What is wrong with a certificate, or will be soon: when a tenth of its time is left, or a month, whichever is less.
fn warning(whole_s: i64, left_s: i64, revoked: bool) -> Option<String> {
    const DAY: i64 = 24 * 60 * 60;
    let days = left_s.div_euclid(DAY);
    if revoked {
        return Some("it is revoked".to_owned());
    }
    if left_s <= 0 {
        return Some("it has ended: issue another one with --force".to_owned());
    }
    let soon = left_s < (30 * DAY).min(whole_s / 10);
    soon.then(|| format!("it ends in {days} days: issue another one with --force"))
}

/// The certificates of a file.
fn describe(path: &Path) -> Result<Vec<Value>, CliError> {
    let wrong = |error: String| refused(format!("{}: {error}", path.display()));
    let bytes = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut found = Vec::new();
    for pem in Pem::iter_from_buffer(&bytes) {
        let pem = pem.map_err(|error| wrong(error.to_string()))?;
        let certificate = pem.parse_x509().map_err(|error| wrong(error.to_string()))?;
        let names = certificate.subject_alternative_name().map_err(|error| wrong(error.to_string()))?;
        let names = names.into_iter().flat_map(|names| &names.value.general_names);
        let mut names: Vec<String> = names.map(name).collect();
        if names.is_empty() {
            names.push(certificate.subject().to_string());
        }
        let ends = certificate.validity().not_after.timestamp();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let begins = certificate.validity().not_before.timestamp();
        found.push(json!({
            "file": path,
            "names": names,
            "serial": certificate.raw_serial_as_string(),
            "isCa": certificate.is_ca(),
            "notBefore": timestamp(certificate.validity().not_before.timestamp()),
            "notAfter": timestamp(ends),
            "daysLeft": ends.saturating_sub_unsigned(now).div_euclid(24 * 60 * 60),
            "warning": warning(ends.saturating_sub(begins), ends.saturating_sub_unsigned(now), false),
        }));
    }
    if found.is_empty() { Err(wrong("there is no certificate in PEM".to_owned())) } else { Ok(found) }
}

fn timestamp(seconds: i64) -> String {
    cps_peering_config::time::timestamp(u64::try_from(seconds).unwrap_or_default().saturating_mul(1000))
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
