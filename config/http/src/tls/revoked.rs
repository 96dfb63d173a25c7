//! Certificates that are no longer good: certificate revocation lists (RFC 5280 section 5).

use super::load::TlsError;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem, pem::PemObject};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList};

/// The longest file of lists that is read, in bytes: some hundred thousand certificates.
pub const MAX_CRL: usize = 16 * 1024 * 1024;

/// What a certificate is known by: who issued it, and its serial number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CertificateId {
    issuer: Vec<u8>,
    serial: Vec<u8>,
}

impl CertificateId {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        Some(Self { issuer: parsed.issuer().as_raw().to_owned(), serial: number(parsed.raw_serial()) })
    }
}

/// A number as it is compared: without zeros before it.
fn number(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes[zeros..].to_owned()
}

/// One issuer's list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct List {
    /// Lists of one issuer have rising numbers.
    number: Vec<u8>,
    serials: BTreeSet<Vec<u8>>,
}

/// What the lists of all issuers say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Revoked {
    by_issuer: BTreeMap<Vec<u8>, List>,
    /// The lists in PEM, as they came.
    pem: Vec<u8>,
}

impl Revoked {
    /// Reads a file of lists in PEM. Each must be signed by one of the CAs. There may be no file.
    pub(super) fn read(path: &Path, cas: &[CertificateDer<'static>]) -> Result<Self, TlsError> {
        match fs::read(path) {
            Ok(bytes) => Self::parse(&bytes, path, cas),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(TlsError::Unreadable { path: path.to_owned(), error }),
        }
    }

    pub(super) fn parse(bytes: &[u8], path: &Path, cas: &[CertificateDer<'static>]) -> Result<Self, TlsError> {
        let not_pem = |error| TlsError::NotPem { path: path.to_owned(), what: "revocation list", error };
        let wrong = |error: String| TlsError::RevocationList { path: path.to_owned(), error };
        if bytes.len() > MAX_CRL {
            return Err(wrong(format!("it has {} bytes, and at most {MAX_CRL} are read", bytes.len())));
        }
        let lists =
            CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>().map_err(not_pem)?;
        if lists.is_empty() {
            return Err(not_pem(pem::Error::NoItemsFound));
        }
        let mut revoked = Self { pem: bytes.to_owned(), ..Self::default() };
        for list in lists {
            let (_, parsed) = CertificateRevocationList::from_der(&list).map_err(|error| wrong(error.to_string()))?;
            let is_signed = |ca: &CertificateDer<'_>| {
                let Ok((_, ca)) = X509Certificate::from_der(ca) else { return false };
                ca.subject().as_raw() == parsed.issuer().as_raw() && parsed.verify_signature(ca.public_key()).is_ok()
            };
            if !cas.iter().any(is_signed) {
                return Err(wrong(format!("none of the CAs has signed the list of {}", parsed.issuer())));
            }
            let number = parsed.crl_number().map(|it| number(&it.to_bytes_be())).unwrap_or_default();
            let serials = parsed.iter_revoked_certificates().map(|it| self::number(it.raw_serial())).collect();
            revoked.add(parsed.issuer().as_raw().to_owned(), List { number, serials });
        }
        Ok(revoked)
    }

    /// Of two lists of one issuer, what either names is no longer good: nothing becomes good again.
    fn add(&mut self, issuer: Vec<u8>, list: List) {
        let known = self.by_issuer.entry(issuer).or_default();
        if (list.number.len(), &list.number) > (known.number.len(), &known.number) {
            known.number = list.number;
        }
        known.serials.extend(list.serials);
    }

    /// The same with what other lists say.
    pub(super) fn and(mut self, other: &Self) -> Self {
        for (issuer, list) in &other.by_issuer {
            self.add(issuer.clone(), list.clone());
        }
        if self.pem.is_empty() {
            self.pem.clone_from(&other.pem);
        }
        self
    }

    pub(super) fn names(&self, certificate: &CertificateId) -> bool {
        self.by_issuer.get(&certificate.issuer).is_some_and(|list| list.serials.contains(&certificate.serial))
    }

    /// Whether one of these certificates is no longer good.
    pub(super) fn has_any<'a>(&self, certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> bool {
        // One that cannot be read is not checked by anybody, and is not taken either.
        let bad = |certificate| CertificateId::of(certificate).is_none_or(|id| self.names(&id));
        !self.by_issuer.is_empty() && certificates.into_iter().any(bad)
    }

    /// How many certificates are named.
    pub(super) fn count(&self) -> usize {
        self.by_issuer.values().map(|list| list.serials.len()).sum()
    }

    /// The lists in PEM; empty where there are none.
    pub(super) fn pem(&self) -> &[u8] {
        &self.pem
    }
}

/// Writes a file so that there is always a whole one.
pub(super) fn store(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new: PathBuf = path.with_file_name(name);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}
