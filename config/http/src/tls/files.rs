//! Certificates and keys in PEM files.

use super::error::TlsError;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use std::{fs::File, io::Read, os::unix::fs::MetadataExt, path::Path};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

fn bytes(path: &Path) -> Result<(Vec<u8>, u32), TlsError> {
    let unreadable = |error| TlsError::Unreadable { path: path.to_owned(), error };
    let mut file = File::open(path).map_err(unreadable)?;
    // Of the open file: another may have its name by now.
    let mode = file.metadata().map_err(unreadable)?.mode();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok((bytes, mode & 0o7777))
}

/// The certificates of a file; there is at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let not_pem = |error| TlsError::NotPem { path: path.to_owned(), what: "certificate", error };
    let (bytes, _) = bytes(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(not_pem)?;
    if found.is_empty() { Err(not_pem(pem::Error::NoItemsFound)) } else { Ok(found) }
}

pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
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

/// The URIs among the subject alternative names of a certificate.
pub(super) fn uris(certificate: &CertificateDer<'_>) -> Result<Vec<String>, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    Ok(names.filter_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }).collect())
}
