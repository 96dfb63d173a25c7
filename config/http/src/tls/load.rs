//! A daemon's own certificate and its trusted CAs, read from its files.

use super::{
    error::TlsError,
    files::{certificates, key, uris},
    provider,
    renewed::{self, Choice, Pair, Rules},
    revoked::Revoked,
};
use cps_peering_config::tls::{HOST_ISSUER, TlsFiles};
use rustls::{RootCertStore, pki_types::CertificateDer, sign::CertifiedKey};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// What a daemon's certificates contain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The URIs of its own certificate.
    pub names: Vec<String>,
    /// Start of the validity of its own certificate, in seconds since 1970.
    pub not_before: i64,
    /// Expiry of its own certificate, in seconds since 1970.
    pub not_after: i64,
    /// Whether it was renewed by the controller: it is not the one of the settings.
    pub renewed: bool,
    /// The earliest expiry of the CAs, in seconds since 1970.
    pub ca_not_after: i64,
    /// How many certificates are revoked.
    pub revoked: usize,
}

/// Files that a daemon writes itself, beside the files of its settings.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Where received revocation lists are kept.
    pub crl: Option<PathBuf>,
    /// Where a certificate that has replaced its own one is kept, with its key.
    pub renewed: Option<PathBuf>,
}

impl Facts {
    /// The earliest expiry of all, for display.
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
    /// The certificate of the settings.
    pub(super) of_settings: CertificateDer<'static>,
    pub(super) choice: Choice,
    /// The files' stamps before they were read: changes meanwhile are noticed later.
    pub(super) stamp: [Stamp; 6],
}

impl Loaded {
    pub(super) fn read(files: &TlsFiles, kept: &Kept) -> Result<Self, TlsError> {
        let stamp = stamp(files, kept);
        let cas = certificates(&files.ca)?;
        let of_settings = Pair { chain: certificates(&files.cert)?, key: key(&files.key)? };
        let settings = read(&of_settings.chain[0], &files.cert)?;
        let mut ca_not_after = i64::MAX;
        for ca in &cas {
            let ca = read(ca, &files.ca)?;
            if ca.names.iter().any(|name| name == HOST_ISSUER) {
                let error = "it signs for hosts alone, and counts only where a CA has signed it: it belongs behind the certificates \
                             that it has signed";
                return Err(TlsError::Certificate { path: files.ca.clone(), error: error.to_owned() });
            }
            ca_not_after = ca_not_after.min(ca.not_after);
        }
        let mut revoked = Revoked::read(&files.crl(), &cas)?;
        if let Some(kept) = &kept.crl {
            // Received lists are written by the daemon itself; a damaged file must not keep the daemon from starting.
            match Revoked::read(kept, &cas) {
                Ok(sent) => revoked = revoked.and(&sent),
                Err(error) => tracing::error!(%error, "a revocation list that was sent is passed over"),
            }
        }
        let roots = store(&cas, &files.ca)?;
        let first = of_settings.chain[0].clone();
        let own = certified(of_settings).map_err(|error| TlsError::Mismatch {
            key: files.key.clone(),
            cert: files.cert.clone(),
            error,
        })?;
        let mut loaded = Self {
            own,
            facts: Facts {
                names: settings.names,
                not_before: settings.not_before,
                not_after: settings.not_after,
                renewed: false,
                ca_not_after,
                revoked: revoked.count(),
            },
            choice: Choice::new(settings.not_before..=settings.not_after, None),
            roots: Arc::new(roots),
            cas,
            revoked,
            of_settings: first,
            stamp,
        };
        if let Some(path) = &kept.renewed {
            // The same goes for this one: the certificate of the settings remains.
            if let Err(error) = loaded.prefer_renewed(path) {
                tracing::error!(
                    path = %path.display(),
                    %error,
                    "a renewed certificate is passed over, and that of the settings is used"
                );
            }
        }
        Ok(loaded)
    }

    /// Uses the renewed certificate, if there is one that fits and is the current choice.
    fn prefer_renewed(&mut self, path: &Path) -> Result<(), renewed::RenewalError> {
        let Some(pair) = Pair::read(path)? else { return Ok(()) };
        let now = now();
        let valid = self.rules().fits(&pair.chain, now)?;
        let own = certified(pair).map_err(|error| TlsError::Mismatch {
            key: path.to_owned(),
            cert: path.to_owned(),
            error,
        })?;
        self.choice = Choice::new(self.facts.not_before..=self.facts.not_after, Some(valid.clone()));
        if self.choice.is_renewed(now) {
            self.own = own;
            (self.facts.not_before, self.facts.not_after) = valid.into_inner();
            self.facts.renewed = true;
        } else {
            tracing::info!(
                path = %path.display(),
                "a renewed certificate is not used: it has ended, or that of the settings was issued later"
            );
        }
        Ok(())
    }

    /// What a certificate must satisfy to replace that of the settings.
    pub(super) fn rules(&self) -> Rules<'_> {
        Rules { settings: &self.of_settings, roots: &self.roots, revoked: &self.revoked }
    }
}

/// The time by the machine's clock, in seconds since 1970.
pub(super) fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs().try_into().unwrap_or(i64::MAX)
}

fn certified(Pair { chain, key }: Pair) -> Result<Arc<CertifiedKey>, rustls::Error> {
    CertifiedKey::from_der(chain, key, &provider()).map(Arc::new)
}

/// The earliest expiry of a file's certificates, in seconds since 1970.
pub(super) fn expiry(path: &Path) -> Result<i64, TlsError> {
    let ends =
        certificates(path)?.iter().map(|it| read(it, path).map(|it| it.not_after)).collect::<Result<Vec<_>, _>>()?;
    Ok(ends.into_iter().min().unwrap_or(i64::MAX))
}

/// The trusted CAs.
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

/// The content of a certificate.
struct Said {
    /// Its URIs.
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

fn read(certificate: &CertificateDer<'_>, path: &Path) -> Result<Said, TlsError> {
    let wrong = |error: String| TlsError::Certificate { path: path.to_owned(), error };
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| wrong(error.to_string()))?;
    let validity = parsed.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Ok(Said { names: uris(certificate).map_err(wrong)?, not_before, not_after })
}

/// Changes when a file is written or replaced.
pub(super) type Stamp = Option<(u64, u64, SystemTime)>;

/// Stamps of the files, without reading them.
pub(super) fn stamp(files: &TlsFiles, kept: &Kept) -> [Stamp; 6] {
    let crl = files.crl();
    let own = [&files.ca, &files.cert, &files.key, &crl].map(|path| Some(path.as_path()));
    let [ca, cert, key, crl] = own;
    [ca, cert, key, crl, kept.crl.as_deref(), kept.renewed.as_deref()].map(|path| {
        let data = fs::metadata(path?).ok()?;
        Some((data.ino(), data.len(), data.modified().ok()?))
    })
}
