//! By what revocation lists name a certificate (RFC 5280 section 5.3).

/// What a certificate is known by: who issued it, and its serial number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CertificateId {
    issuer: Vec<u8>,
    serial: Vec<u8>,
}

impl CertificateId {
    pub(super) fn new(issuer: &[u8], serial: &[u8]) -> Self {
        Self { issuer: issuer.to_owned(), serial: number(serial) }
    }

    /// The name of the issuer, in DER.
    pub(super) fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// The serial number, without zeros before it.
    pub(super) fn serial(&self) -> &[u8] {
        &self.serial
    }
}

/// A number as it is compared: without zeros before it.
pub(super) fn number(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes[zeros..].to_owned()
}
