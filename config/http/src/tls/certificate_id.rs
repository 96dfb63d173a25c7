//! How revocation lists name a certificate (RFC 5280 section 5.3).

/// The identity of a certificate: its issuer and serial number.
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

    /// The serial number, without leading zeros.
    pub(super) fn serial(&self) -> &[u8] {
        &self.serial
    }
}

/// A number in the form in which it is compared: without leading zeros.
pub(super) fn number(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes[zeros..].to_owned()
}
