//! Revoked certificates: certificate revocation lists (RFC 5280 section 5).

use super::{
    certificate_id::{CertificateId, number},
    error::TlsError,
    lineage,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem, pem::PemObject};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};
use x509_parser::{
    certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer,
    revocation_list::CertificateRevocationList,
};

/// The longest file of lists that is read, in bytes: some hundred thousand certificates.
pub const MAX_CRL: usize = 16 * 1024 * 1024;

/// The lists in a PEM text.
fn blocks(pem: &[u8]) -> impl Iterator<Item = &[u8]> {
    const BEGIN: &[u8] = b"-----BEGIN X509 CRL-----";
    const END: &[u8] = b"-----END X509 CRL-----";
    let find = |text: &[u8], what: &[u8]| text.windows(what.len()).position(|part| part == what);
    let mut rest = pem;
    std::iter::from_fn(move || {
        rest = &rest[find(rest, BEGIN)?..];
        // A block without an end is an error for the parser.
        let length = find(rest, END).map_or(rest.len(), |at| at + END.len());
        let (block, behind) = rest.split_at(length);
        rest = behind;
        Some(block)
    })
}

/// Whether a list was signed with the key of a CA, by the key's identifier (RFC 5280 section 5.2.1). A CA that was
/// renewed has the same name and another key.
fn is_key_of(ca: &X509Certificate<'_>, list: &CertificateRevocationList<'_>) -> bool {
    let of_ca = ca.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
        _ => None,
    });
    let of_list = list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => Some(authority.key_identifier.as_ref()?.0),
        _ => None,
    });
    // If it has no key identifier, the name counts.
    of_ca.zip(of_list).is_none_or(|(ca, list)| ca == list)
}

/// One issuer's list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct List {
    /// The numbers of one issuer's lists increase.
    number: Vec<u8>,
    serials: BTreeSet<Vec<u8>>,
}

/// The lists of all issuers, merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Revoked {
    by_issuer: BTreeMap<Vec<u8>, List>,
    /// The lists in PEM as received, each once.
    pem: Vec<u8>,
}

impl Revoked {
    /// Reads a file of lists in PEM. Each counts if one of the CAs has signed it. The file may be missing.
    pub(super) fn read(path: &Path, cas: &[CertificateDer<'static>]) -> Result<Self, TlsError> {
        match fs::read(path) {
            Ok(bytes) => Self::parse(&bytes, path, cas),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(TlsError::Unreadable { path: path.to_owned(), error }),
        }
    }

    /// Merges the lists that one of the CAs has signed. Those of other CAs are ignored: they are about certificates
    /// that are no longer trusted, or not yet. A list that names a known CA as its issuer, but was not signed by it, is
    /// an error.
    pub(super) fn parse(bytes: &[u8], path: &Path, cas: &[CertificateDer<'static>]) -> Result<Self, TlsError> {
        let not_pem = |error| TlsError::NotPem { path: path.to_owned(), what: "revocation list", error };
        let wrong = |error: String| TlsError::RevocationList { path: path.to_owned(), error };
        if bytes.len() > MAX_CRL {
            return Err(wrong(format!("it has {} bytes, and at most {MAX_CRL} are read", bytes.len())));
        }
        let mut revoked = Self::default();
        let mut found = false;
        for block in blocks(bytes) {
            found = true;
            let list = CertificateRevocationListDer::from_pem_slice(block).map_err(not_pem)?;
            let (_, parsed) = CertificateRevocationList::from_der(&list).map_err(|error| wrong(error.to_string()))?;
            let cas = || cas.iter().filter_map(|ca| Some(X509Certificate::from_der(ca).ok()?.1));
            let by_name = || cas().filter(|ca| ca.subject().as_raw() == parsed.issuer().as_raw());
            if !by_name().any(|ca| parsed.verify_signature(ca.public_key()).is_ok()) {
                if by_name().any(|ca| is_key_of(&ca, &parsed)) {
                    return Err(wrong(format!("the signature of the list of {} is wrong", parsed.issuer())));
                }
                let (path, issuer) = (path.display(), parsed.issuer());
                tracing::warn!(%path, %issuer, "a revocation list is passed over: none of the CAs has signed it");
                continue;
            }
            let list_number = parsed.crl_number().map(|it| number(&it.to_bytes_be())).unwrap_or_default();
            let serials = parsed.iter_revoked_certificates().map(|it| number(it.raw_serial())).collect();
            revoked.add(parsed.issuer().as_raw().to_owned(), List { number: list_number, serials });
            revoked.add_pem(block);
        }
        if !found {
            return Err(not_pem(pem::Error::NoItemsFound));
        }
        Ok(revoked)
    }

    /// Keeps a list as received, if it is new.
    fn add_pem(&mut self, block: &[u8]) {
        if !blocks(&self.pem).any(|known| known == block) {
            self.pem.extend_from_slice(block);
            self.pem.push(b'\n');
        }
    }

    /// Whether no list was signed by a known CA.
    pub(super) fn is_empty(&self) -> bool {
        self.by_issuer.is_empty()
    }

    /// Whether everything that other lists name is named here, too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other
            .by_issuer
            .iter()
            .all(|(issuer, list)| self.by_issuer.get(issuer).is_some_and(|own| own.serials.is_superset(&list.serials)))
    }

    /// Of two lists of one issuer, everything that either names is revoked: nothing becomes valid again.
    fn add(&mut self, issuer: Vec<u8>, list: List) {
        let known = self.by_issuer.entry(issuer).or_default();
        if (list.number.len(), &list.number) > (known.number.len(), &known.number) {
            known.number = list.number;
        }
        known.serials.extend(list.serials);
    }

    /// The same, merged with other lists.
    pub(super) fn and(mut self, other: &Self) -> Self {
        for (issuer, list) in &other.by_issuer {
            self.add(issuer.clone(), list.clone());
        }
        for block in blocks(&other.pem) {
            self.add_pem(block);
        }
        self
    }

    pub(super) fn names(&self, certificate: &CertificateId) -> bool {
        self.by_issuer.get(certificate.issuer()).is_some_and(|list| list.serials.contains(certificate.serial()))
    }

    /// Whether one of these certificates is revoked.
    pub(super) fn has_any<'a>(&self, certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> bool {
        // One that cannot be parsed is not verified by any caller, and is not accepted either.
        let bad = |certificate| lineage::ids(certificate).is_none_or(|ids| ids.iter().any(|id| self.names(id)));
        !self.by_issuer.is_empty() && certificates.into_iter().any(bad)
    }

    /// How many certificates are revoked.
    pub(super) fn count(&self) -> usize {
        self.by_issuer.values().map(|list| list.serials.len()).sum()
    }

    /// The lists in PEM; empty where there are none.
    pub(super) fn pem(&self) -> &[u8] {
        &self.pem
    }
}
