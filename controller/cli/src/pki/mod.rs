//! `cps-peering pki`: a certificate authority in a folder, for operators who have none. It does not contact the controller.

mod revocation;
mod show;

use super::{
    CliError, Output,
    output::{columns, print},
};
use clap::{Args, Subcommand};
use cps_peering_config::{
    id::HostId,
    tls::{
        AGENT_DNS_NAME, CONTROLLER, HOST_ISSUER, MONITORING, OPERATOR, TRUST_DOMAIN, VALID_BEFORE, host,
        is_operator_name, operator,
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use x509_parser::pem::Pem;

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
    /// Revoke certificates: they are added to the directory's revocation list, crl.pem, which daemons load within seconds if
    /// it is beside their ca.pem. The controller distributes it to all agents.
    Revoke {
        /// What to revoke: all that was issued under a name (`host-h1`, `operator`, `controller`), files with certificates,
        /// or serial numbers in hexadecimal, as `pki show` prints them. Without any, the list is only signed again
        what: Vec<String>,
        /// Validity of the list in days [default: 3650]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: Option<u32>,
    },
    /// Show the certificates of the directory, or of files, and their problems, present or near: less than a third of the
    /// lifetime is left (of a CA's a tenth, or a month).
    Show {
        /// Files with certificates in PEM.
        files: Vec<PathBuf>,
        /// The controller's settings file, if it is on this machine: it says whether the controller renews hosts'
        /// certificates
        #[arg(long, default_value = "/etc/cps-peering/controller.toml", value_name = "FILE")]
        settings: PathBuf,
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
        /// The name of an operator in the controller's settings. Without it: an unnamed administrator
        #[arg(long, value_parser = operator_name)]
        name: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// For a controller that renews hosts' certificates: issuer.pem and issuer.key, a CA that is trusted for hosts only, so
    /// that the key of the main CA can stay offline. See `agent_certificates` in the controller's settings.
    Issuer {
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
        Command::Show { files, settings } => return show::run(&dir, files, &settings, output),
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
                Whom::Issuer { how } => vec![ca.issue_issuer(&how)?],
                Whom::Monitoring { how } => vec![ca.issue("monitoring", MONITORING, vec![], vec![client], &how)?],
            }
        }
    };
    show::issued(&issued, output)
}

/// The files of a certificate and its key.
fn files(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
}

fn must_be_free(dir: &Path, name: &str, how: &How) -> Result<(), CliError> {
    let (cert, key) = files(dir, name);
    match [cert, key].iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) if !how.force => Err(refused(format!("{} exists already; --force overwrites it", path.display()))),
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CliError> {
    cps_peering_file::replace_shared(path, mode, text.as_bytes())
        .map_err(|error| refused(format!("cannot write {}: {error}", path.display())))
}

/// Writes the key first: a daemon that reads in between finds a key and a certificate that do not match, and waits.
fn keep(dir: &Path, name: &str, certificate: &str, key: &KeyPair) -> Result<PathBuf, CliError> {
    let (cert_file, key_file) = files(dir, name);
    write(&key_file, &key.serialize_pem(), 0o600)?;
    write(&cert_file, certificate, 0o644)?;
    Ok(cert_file)
}

fn failed(error: &rcgen::Error) -> CliError {
    refused(format!("cannot create the certificate: {error}"))
}

fn parameters(name: &str, days: u32) -> Result<CertificateParams, CliError> {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - VALID_BEFORE).into();
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
    made.map_err(|error| refused(format!("cannot create the folder {}: {error}", dir.display())))?;
    let mut params = parameters("cps-peering CA", how.days.unwrap_or(3650))?;
    // Room for one issuer between the CA and the certificates of hosts.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
    keep(dir, "ca", &certificate.pem(), &key)
}

/// The CA that signs.
struct Ca<'a> {
    dir: &'a Path,
    /// How many CA certificates may follow below its own (pathLenConstraint, RFC 5280 section 4.2.1.9); none without a limit.
    path_length: Option<u32>,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Ca<'a> {
    fn open(dir: &'a Path) -> Result<Self, CliError> {
        let (cert, key) = files(dir, "ca");
        let read = |path: &Path| {
            let advice = "create a CA with `cps-peering pki init`, or name its folder with --dir";
            fs::read_to_string(path)
                .map_err(|error| refused(format!("cannot read {}: {error}; {advice}", path.display())))
        };
        let (text, key_text) = (read(&cert)?, read(&key)?);
        let wrong = |path: &Path, error: rcgen::Error| refused(format!("{}: {error}", path.display()));
        let pair = KeyPair::from_pem(&key_text).map_err(|error| wrong(&key, error))?;
        let issuer = Issuer::from_ca_cert_pem(&text, pair).map_err(|error| wrong(&cert, error))?;
        let parsed = Pem::iter_from_buffer(text.as_bytes()).next().and_then(Result::ok);
        let parsed = parsed.as_ref().and_then(|pem| pem.parse_x509().ok());
        let constraints = parsed.as_ref().and_then(|it| it.basic_constraints().ok().flatten());
        let path_length = constraints.and_then(|it| it.value.path_len_constraint);
        Ok(Self { dir, path_length, issuer })
    }

    fn must_be_free(&self, name: &str, how: &How) -> Result<(), CliError> {
        must_be_free(self.dir, name, how)
    }

    /// A CA below this one, for hosts' certificates.
    fn issue_issuer(&self, how: &How) -> Result<PathBuf, CliError> {
        const NAME: &str = "issuer";
        if self.path_length == Some(0) {
            return Err(refused(format!(
                "{}: pathLenConstraint is 0, and must be at least 1 for an issuer below it: create a new CA with `cps-peering pki init` in \
                 another directory, or give the controller this CA's own certificate and key",
                self.dir.join("ca.pem").display()
            )));
        }
        self.must_be_free(NAME, how)?;
        let mut params = parameters("cps-peering issuer for hosts", how.days.unwrap_or(365))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // Daemons identify peers by the SPIFFE name, others by the constraints: no certificate of it is valid for a server's DNS name or address.
        params.subject_alt_names = vec![SanType::URI(HOST_ISSUER.try_into().map_err(|error| failed(&error))?)];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(AGENT_DNS_NAME.to_owned())],
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
            ],
        });
        params.use_authority_key_identifier_extension = true;
        self.sign(NAME, &params)
    }

    /// Makes a key and signs its certificate.
    fn sign(&self, name: &str, params: &CertificateParams) -> Result<PathBuf, CliError> {
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|error| failed(&error))?;
        revocation::remember(self.dir, name, params)?;
        keep(self.dir, name, &certificate.pem(), &key)
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
        // Parsed as an address first, then as a DNS name.
        params.subject_alt_names = CertificateParams::new(addresses).map_err(|error| failed(&error))?.subject_alt_names;
        params.subject_alt_names.push(SanType::URI(uri.try_into().map_err(|error| failed(&error))?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        self.sign(name, &params)
    }
}

fn timestamp(seconds: i64) -> String {
    cps_peering_config::time::timestamp(u64::try_from(seconds).unwrap_or_default().saturating_mul(1000))
}
