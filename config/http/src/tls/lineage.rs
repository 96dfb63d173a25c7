//! Which certificate a renewed one descends from.
//!
//! A certificate that replaces another one, signed by the controller, names the first of the line in an extension: by
//! its issuer and serial number, as revocation lists name certificates. So revoking a certificate of `cps-peering pki`
//! also revokes its descendants, even those that were not signed by the CA itself. The extension is not critical:
//! software that does not know it ignores it.

use super::certificate_id::CertificateId;
use rustls::pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::{Integer, Oid, Sequence},
    certificate::X509Certificate,
    prelude::FromDer,
    x509::X509Name,
};

/// The extension's object identifier, below the arc for UUIDs (ITU-T X.667), which needs no registration.
pub const LINEAGE_OID: [u64; 3] = [2, 25, 5_894_210_067_113_294_507];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;

/// The certificate or its extension is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The first certificate of the line; none if this is the first one.
pub(super) fn of(parsed: &X509Certificate<'_>) -> Result<Option<CertificateId>, Malformed> {
    let oid = Oid::from(&LINEAGE_OID).map_err(|_| Malformed)?;
    let Some(extension) = parsed.get_extension_unique(&oid).map_err(|_| Malformed)? else { return Ok(None) };
    let (behind, whole) = Sequence::from_der(extension.value).map_err(|_| Malformed)?;
    let (rest, issuer) = X509Name::from_der(&whole.content).map_err(|_| Malformed)?;
    let (rest, serial) = Integer::from_der(rest).map_err(|_| Malformed)?;
    let is_all = rest.is_empty() && behind.is_empty();
    if is_all { Ok(Some(CertificateId::new(issuer.as_raw(), serial.as_ref()))) } else { Err(Malformed) }
}

/// The identity of a certificate, and of its first ancestor if it was renewed. None if it cannot be parsed.
pub(super) fn ids(certificate: &CertificateDer<'_>) -> Option<Vec<CertificateId>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let own = CertificateId::new(parsed.issuer().as_raw(), parsed.raw_serial());
    Some([Some(own), of(&parsed).ok()?].into_iter().flatten().collect())
}

/// The extension for a certificate that replaces this one, in DER. None if this one cannot be parsed.
pub fn lineage_after(replaced: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(replaced).ok()?;
    if let Some(first) = of(&parsed).ok()? {
        return Some(encoded(first.issuer(), first.serial()));
    }
    Some(encoded(parsed.issuer().as_raw(), parsed.raw_serial()))
}

/// The serial number of the first certificate of the line, without leading zeros; none if this is the first one.
pub fn first_serial(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    of(certificate).ok().flatten().map(|first| first.serial().to_owned())
}

fn encoded(issuer: &[u8], serial: &[u8]) -> Vec<u8> {
    // Otherwise a number with its first bit set would be negative.
    let zero = serial.first().is_none_or(|first| first & 0x80 != 0);
    let serial = [if zero { &[0][..] } else { &[] }, serial].concat();
    element(SEQUENCE, &[issuer, &element(INTEGER, &serial)].concat())
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let length = match &length[zeros..] {
        [] => vec![0],
        [short @ ..=0x7f] => vec![*short],
        long => [&[0x80 | u8::try_from(long.len()).unwrap_or(8)], long].concat(),
    };
    [&[tag], &length[..], content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair, SerialNumber};

    fn certificate(organization: &str, serial: &[u8], lineage: Option<Vec<u8>>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.serial_number = Some(SerialNumber::from_slice(serial));
        let extension = |content| CustomExtension::from_oid_content(&LINEAGE_OID, content);
        params.custom_extensions = lineage.into_iter().map(extension).collect();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn first_of(certificate: &CertificateDer<'_>) -> Result<Option<CertificateId>, Malformed> {
        of(&X509Certificate::from_der(certificate).unwrap().1)
    }

    #[test]
    fn it_leads_to_the_first_certificate_over_any_number() {
        // Names of more than 127 and 255 bytes, numbers that begin with a zero and with a set bit.
        for length in [1, 100, 200, 300] {
            for serial in [&[1][..], &[0x7f, 0xff], &[0x80, 0], &[0xff; 20], &[0; 1]] {
                let first = certificate(&"x".repeat(length), serial, None);
                assert_eq!(first_of(&first), Ok(None));
                let second = certificate("another", &[5], lineage_after(&first));
                let third = certificate("another", &[6], lineage_after(&second));
                for later in [second, third] {
                    let first = ids(&first).unwrap();
                    assert_eq!(first_of(&later).unwrap(), first.first().cloned(), "{length} {serial:?}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_parsed_is_not_ignored() {
        for wrong in [
            &b""[..],
            &[SEQUENCE, 0],
            &[SEQUENCE, 5, SEQUENCE, 0, INTEGER, 1, 1, 0],
            &[SEQUENCE, 6, SEQUENCE, 0, INTEGER, 1, 1, 0],
            b"rubbish",
        ] {
            let certificate = certificate("x", &[1], Some(wrong.to_owned()));
            assert_eq!(first_of(&certificate), Err(Malformed), "{wrong:?}");
            assert_eq!(lineage_after(&certificate), None);
        }
    }
}
