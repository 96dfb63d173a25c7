//! Certificates and keys in files.

use super::{error::TlsError, provider, revoked::Revoked};
use cps_peering_config::tls::TlsFiles;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::SystemTime,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// What a daemon's certificates say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The URIs of the own certificate.
    pub names: Vec<String>,
    /// When the own certificate ends, in seconds since 1970.
    pub not_after: i64,
    /// When the first of the CAs ends, in seconds since 1970.
    pub ca_not_after: i64,
    /// How many certificates are revoked.
    pub revoked: usize,
}

impl Facts {
    /// When the first of all ends, for people.
    pub fn expires(&self) -> String {
        let first = self.not_after.min(self.ca_not_after);
        x509_parser::time::ASN1Time::from_timestamp(first).map_or_else(|_| first.to_string(), |time| time.to_string())
    }
}

/// What was read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) own: Arc<CertifiedKey>,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) facts: Facts,
    pub(super) cas: Vec<CertificateDer<'static>>,
    pub(super) revoked: Revoked,
    /// The files as they were before they were read: what changes meanwhile is seen later.
    pub(super) stamp: [Stamp; 5],
}

impl Loaded {
    pub(super) fn read(files: &TlsFiles, kept_crl: Option<&Path>) -> Result<Self, TlsError> {
        let stamp = stamp(files, kept_crl);
        let cas = certificates(&files.ca)?;
        let chain = certificates(&files.cert)?;
        let key = key(&files.key)?;
        let (names, not_after) = read(&chain[0], &files.cert)?;
        let mut ca_not_after = i64::MAX;
        for ca in &cas {
            ca_not_after = ca_not_after.min(read(ca, &files.ca)?.1);
        }
        let own = CertifiedKey::from_der(chain, key, &provider());
        let mismatch = |error| TlsError::Mismatch { key: files.key.clone(), cert: files.cert.clone(), error };
        let own = Arc::new(own.map_err(mismatch)?);
        let mut revoked = Revoked::read(&files.crl(), &cas)?;
        if let Some(kept) = kept_crl {
            // What was sent is written by the daemon itself; what cannot be read of it is not worth a daemon that does not start.
            match Revoked::read(kept, &cas) {
                Ok(sent) => revoked = revoked.and(&sent),
                Err(error) => tracing::error!(%error, "a revocation list that was sent is passed over"),
            }
        }
        let facts = Facts { names, not_after, ca_not_after, revoked: revoked.count() };
        Ok(Self { own, roots: Arc::new(store(&cas, &files.ca)?), facts, cas, revoked, stamp })
    }
}

/// When the first of a file's certificates ends, in seconds since 1970.
pub(super) fn expiry(path: &Path) -> Result<i64, TlsError> {
    let ends =
        certificates(path)?.iter().map(|it| read(it, path).map(|(_, ends)| ends)).collect::<Result<Vec<_>, _>>()?;
    Ok(ends.into_iter().min().unwrap_or(i64::MAX))
}

/// Those whose word is taken.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    store(&certificates(path)?, path)
}

fn store(cas: &[CertificateDer<'static>], path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        let wrong = |error: rustls::Error| TlsError::Certificate { path: path.to_owned(), error: error.to_string() };
        roots.add(ca.clone()).map_err(wrong)?;
    }
    Ok(roots)
}

fn bytes(path: &Path) -> Result<(Vec<u8>, u32), TlsError> {
    let unreadable = |error| TlsError::Unreadable { path: path.to_owned(), error };
    let mut file = File::open(path).map_err(unreadable)?;
    // Of the file that is open: another may have its name by now.
    let mode = file.metadata().map_err(unreadable)?.mode();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok((bytes, mode & 0o7777))
}

/// The certificates of a file; there is at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let not_pem = |error| TlsError::NotPem { path: path.to_owned(), what: "certificate", error };
    let (bytes, _) = bytes(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(not_pem)?;
    if found.is_empty() { Err(not_pem(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    // A group may read it: services get their keys that way.
    const OTHERS: u32 = 0o027;
    let (bytes, mode) = bytes(path)?;
    if mode & OTHERS != 0 {
        return Err(TlsError::Open { path: path.to_owned(), mode });
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| TlsError::NotPem {
        path: path.to_owned(),
        what: "private key",
        error,
    })
}

fn read(certificate: &CertificateDer<'_>, path: &Path) -> Result<(Vec<String>, i64), TlsError> {
    let wrong = |error: String| TlsError::Certificate { path: path.to_owned(), error };
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| wrong(error.to_string()))?;
    let names = uris(certificate).map_err(wrong)?;
    Ok((names, parsed.validity().not_after.timestamp()))
}

/// The URIs among the subject alternative names of a certificate.
pub(super) fn uris(certificate: &CertificateDer<'_>) -> Result<Vec<String>, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    Ok(names.filter_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }).collect())
}

/// What changes when a file is written or replaced.
pub(super) type Stamp = Option<(u64, u64, SystemTime)>;

/// Looks at the files without reading them.
pub(super) fn stamp(files: &TlsFiles, kept_crl: Option<&Path>) -> [Stamp; 5] {
    let crl = files.crl();
    [Some(files.ca.as_path()), Some(&files.cert), Some(&files.key), Some(&crl), kept_crl].map(|path| {
        let data = fs::metadata(path?).ok()?;
        Some((data.ino(), data.len(), data.modified().ok()?))
    })
}
