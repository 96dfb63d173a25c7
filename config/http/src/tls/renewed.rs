//! A certificate that has replaced the one of the settings: signed by the controller for a key that the daemon
//! generated, and kept in one file with that key.
//!
//! Files named in the settings are never written. Of the two certificates the one issued later is used, as long as it
//! is valid: an operator who installs another one has the last word. A renewed one counts only if it descends from that
//! of the settings, has the same names and extended key usages, and one of its CAs has signed it. If the file is
//! damaged, or no longer fits, the daemon continues with the certificate of the settings.

use super::{error::TlsError, files, lineage, revoked::Revoked, verify};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _};
use rustls::{
    CertificateError, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem, pem::PemObject},
    server::ParsedCertificate,
};
use std::{io, ops::RangeInclusive, path::Path, time::Duration};
use thiserror::Error;
use x509_parser::{
    certificate::X509Certificate,
    oid_registry::{OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME},
    prelude::FromDer,
};

/// The longest chain from a renewed certificate to its CA, the certificate included.
const LONGEST_CHAIN: usize = 8;

/// Why a certificate does not replace the daemon's own.
#[derive(Debug, Error)]
pub enum RenewalError {
    /// There is no pending request.
    #[error("no request for a certificate is under way here: ask for one first")]
    NoRequest,
    /// The daemon keeps no certificates.
    #[error("this daemon has no place for renewed certificates")]
    NoPlace,
    /// A key, or the request for it, cannot be made.
    #[error("cannot create a key and a certificate request: {0}")]
    Request(rcgen::Error),
    /// It is not a certificate.
    #[error("not a certificate in PEM: {0}")]
    NotPem(#[from] pem::Error),
    /// There are too many.
    #[error("{0} certificates, and a certificate with its issuers has 1 to {LONGEST_CHAIN}")]
    Chain(usize),
    /// It cannot be parsed.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// It is for another key.
    #[error("the certificate's public key is not that of the newest request")]
    OtherKey,
    /// It differs from the one that it is to replace.
    #[error("the certificate's {field} differs from that of the certificate in the settings, and must be the same")]
    Differs {
        /// The extension.
        field: &'static str,
    },
    /// It descends from another one.
    #[error("the certificate's lineage is not the certificate in the settings, which is used instead")]
    OtherLine,
    /// No trusted CA has signed it, or it is not valid now.
    #[error("the certificate is not valid here, by this host's CAs and clock: {0}")]
    Untrusted(rustls::Error),
    /// The one of the settings would be preferred.
    #[error(
        "the certificate's notBefore is earlier than that of the certificate in the settings, which is used instead"
    )]
    Older,
    /// It could not be stored.
    #[error("cannot write the certificate: {0}")]
    Write(#[from] io::Error),
    /// The files of the settings cannot be read.
    #[error(transparent)]
    Files(#[from] TlsError),
}

/// A certificate with its intermediates, and its key.
pub(super) struct Pair {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Pair {
    /// Reads the file. There may be none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, TlsError> {
        let chain = match files::certificates(path) {
            Err(TlsError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            chain => chain?,
        };
        Ok(Some(Self { chain, key: files::key(path)? }))
    }
}

/// A key that waits for its certificate.
#[derive(Debug)]
pub(super) struct Pending(KeyPair);

impl Pending {
    /// A new key, and a certificate signing request for it in PEM.
    pub(super) fn new() -> Result<(Self, String), RenewalError> {
        let key = KeyPair::generate().map_err(RenewalError::Request)?;
        // The requester does not decide about the content of the certificate.
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).and_then(|request| request.pem());
        Ok((Self(key), request.map_err(RenewalError::Request)?))
    }

    /// Checks that certificates, in PEM, answer the request; the first one is the certificate, the others are its
    /// intermediates.
    pub(super) fn answered(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, RenewalError> {
        let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
        if chain.is_empty() || chain.len() > LONGEST_CHAIN {
            return Err(RenewalError::Chain(chain.len()));
        }
        if parsed(&chain[0])?.public_key().raw == self.0.subject_public_key_info() {
            Ok(chain)
        } else {
            Err(RenewalError::OtherKey)
        }
    }

    /// Stores the key with its certificate: after a crash there is either the previous pair or this one.
    pub(super) fn store(&self, chain: &[CertificateDer<'_>], path: &Path) -> io::Result<()> {
        let text = format!("{}{}", self.0.serialize_pem(), to_pem(chain));
        Ok(cps_peering_file::replace(path, 0o600, &[text.as_bytes()])?)
    }
}

/// Certificates in PEM.
pub fn to_pem(certificates: &[CertificateDer<'_>]) -> String {
    let lines = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
    let block = |it: &CertificateDer<'_>| ::pem::encode_config(&::pem::Pem::new("CERTIFICATE", it.as_ref()), lines);
    certificates.iter().map(block).collect()
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, RenewalError> {
    X509Certificate::from_der(certificate).map(|it| it.1).map_err(|error| RenewalError::Malformed(error.to_string()))
}

/// The validity of a certificate, in seconds since 1970.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Result<RangeInclusive<i64>, RenewalError> {
    let parsed = parsed(certificate)?;
    let validity = parsed.validity();
    Ok(validity.not_before.timestamp()..=validity.not_after.timestamp())
}

/// The two certificates of a daemon, by their validity.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    settings: RangeInclusive<i64>,
    /// None if there is no renewed one that fits.
    renewed: Option<RangeInclusive<i64>>,
}

impl Choice {
    pub(super) fn new(settings: RangeInclusive<i64>, renewed: Option<RangeInclusive<i64>>) -> Self {
        Self { settings, renewed }
    }

    /// Whether the renewed one is used at a time in seconds since 1970: it is valid, and that of the settings is not,
    /// or was issued earlier.
    pub(super) fn is_renewed(&self, now: i64) -> bool {
        self.renewed.as_ref().is_some_and(|renewed| {
            renewed.contains(&now) && (!self.settings.contains(&now) || renewed.start() >= self.settings.start())
        })
    }
}

/// What a certificate must satisfy to replace the one of the settings.
pub(super) struct Rules<'a> {
    /// The one of the settings.
    pub(super) settings: &'a CertificateDer<'static>,
    pub(super) roots: &'a RootCertStore,
    pub(super) revoked: &'a Revoked,
}

impl Rules<'_> {
    /// Checks a certificate with its intermediates, whenever it is valid. Returns its validity.
    pub(super) fn fits(&self, chain: &[CertificateDer<'_>], now: i64) -> Result<RangeInclusive<i64>, RenewalError> {
        let (own, settings) = (parsed(&chain[0])?, parsed(self.settings)?);
        for (field, oid) in [
            ("subject alternative name", OID_X509_EXT_SUBJECT_ALT_NAME),
            ("extended key usage", OID_X509_EXT_EXTENDED_KEY_USAGE),
        ] {
            let value = |it: &X509Certificate<'_>| {
                let found =
                    it.get_extension_unique(&oid).map_err(|error| RenewalError::Malformed(error.to_string()))?;
                Ok::<_, RenewalError>(found.map(|extension| extension.value.to_owned()))
            };
            if value(&own)? != value(&settings)? {
                return Err(RenewalError::Differs { field });
            }
        }
        // An operator who installs another one has the last word, and its revocation ends the line.
        let line = lineage::of(&own).map_err(|lineage::Malformed| RenewalError::Malformed("lineage".to_owned()))?;
        let known = lineage::ids(self.settings).unwrap_or_default();
        if !line.is_some_and(|first| known.contains(&first)) {
            return Err(RenewalError::OtherLine);
        }
        let valid = validity(&chain[0])?;
        let at = now.clamp(*valid.start(), *valid.end().max(valid.start()));
        self.trusted(chain, at).map_err(RenewalError::Untrusted)?;
        Ok(valid)
    }

    /// The same for one that is to be used from now on.
    pub(super) fn replaces(&self, chain: &[CertificateDer<'_>], now: i64) -> Result<(), RenewalError> {
        let valid = self.fits(chain, now)?;
        self.trusted(chain, now).map_err(RenewalError::Untrusted)?;
        let choice = Choice::new(validity(self.settings)?, Some(valid));
        if choice.is_renewed(now) { Ok(()) } else { Err(RenewalError::Older) }
    }

    fn trusted(&self, chain: &[CertificateDer<'_>], now: i64) -> Result<(), rustls::Error> {
        let Some((own, between)) = chain.split_first() else {
            return Err(CertificateError::BadEncoding.into());
        };
        if self.revoked.has_any(chain) {
            return Err(CertificateError::Revoked.into());
        }
        verify::refuse_others_of_host_issuer(own, between)?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.try_into().unwrap_or_default()));
        let algorithms = super::provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(own)?,
            self.roots,
            between,
            now,
            algorithms,
        )
    }
}
