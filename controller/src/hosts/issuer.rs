//! Signs the certificates that replace agents' own.
//!
//! Of a certificate signing request only the key is used. The rest of the new certificate is that of the one it replaces,
//! which the agent has shown in the handshake: the same names and extended key usages, and never those of a CA.

use crate::access::secret::{PrivateFileError, read_private};
use cps_peering_config::{
    id::HostId,
    settings::AgentCertificateSettings,
    time::timestamp,
    tls::{TRUST_DOMAIN, VALID_BEFORE, host as host_name},
};
use cps_peering_http::tls::{self, Identity, LINEAGE_OID, TlsError, lineage_after, to_pem};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData as _, SerialNumber,
    SubjectPublicKeyInfo,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::CertificateDer;
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};
use thiserror::Error;
use x509_parser::{
    certificate::X509Certificate,
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, X509Extension},
    oid_registry::{OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME},
    prelude::FromDer,
};

/// An issuer that cannot sign.
#[derive(Debug, Error)]
pub enum IssuerError {
    /// The key cannot be read, or others can read it.
    #[error("agent_certificates.key: {0}")]
    Key(#[from] PrivateFileError),
    /// It contains no key.
    #[error("agent_certificates.key: {path} holds no private key in PEM: {error}")]
    NotKey {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: rcgen::Error,
    },
    /// The certificate cannot be read.
    #[error("agent_certificates.issuer: {0}")]
    Certificate(#[from] TlsError),
    /// The certificate is not an issuer's.
    #[error("agent_certificates.issuer: {path}: {rule}")]
    NotIssuer {
        /// The file.
        path: PathBuf,
        /// The violated rule.
        rule: String,
    },
    /// The key belongs to another certificate.
    #[error("agent_certificates.key: {key} is not the key of the certificate {issuer}")]
    Mismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        issuer: PathBuf,
    },
    /// It is not valid now.
    #[error("agent_certificates.issuer: {path} is not valid now: notBefore is {not_before}, notAfter is {not_after}")]
    NotValid {
        /// The file.
        path: PathBuf,
        /// Its notBefore.
        not_before: String,
        /// Its notAfter.
        not_after: String,
    },
}

/// Why a certificate is not renewed.
#[derive(Debug, Error)]
pub enum NotIssued {
    /// The request is malformed.
    #[error("the request is no certificate signing request in PEM: {0}")]
    Malformed(String),
    /// The caller does not have the key.
    #[error("the request's signature is not by its public key")]
    Signature,
    /// The key is of another kind.
    #[error("the request's public key must be of ECDSA with P-256 or P-384, or Ed25519")]
    KeyType,
    /// The key is the previous one.
    #[error("the request's public key is that of the certificate that it is to replace, and must be a new one")]
    SameKey,
    /// The certificate that would be replaced does not qualify.
    #[error("the agent's certificate: {field} {rule}")]
    Replaced {
        /// The field.
        field: &'static str,
        /// The rule.
        rule: String,
    },
    /// It was revoked.
    #[error("the agent's certificate, or the one that it goes back to, was revoked")]
    Revoked,
    /// The current one lasts longer.
    #[error("agent_certificates: what the issuer signs now would end before the certificate that it is to replace")]
    EndsTooSoon,
    /// It could not be signed.
    #[error("cannot sign the certificate: {0}")]
    Sign(#[from] rcgen::Error),
    /// There are no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
    /// Agents would not accept it.
    #[error("agent_certificates.issuer: what it signs is not valid by the CAs of `tls.ca`: {0}")]
    Untrusted(rustls::Error),
}

impl NotIssued {
    /// Whether it is due to the agent, rather than the issuer.
    pub(super) fn is_of_agent(&self) -> bool {
        !matches!(self, Self::Sign(_) | Self::NoRandomness | Self::Untrusted(_) | Self::EndsTooSoon)
    }
}

/// A certificate that was issued.
#[derive(Debug)]
pub struct Issued {
    /// It and those between it and the CA, in PEM.
    pub pem: String,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Until when it is valid (RFC 3339).
    pub not_after: String,
}

/// The issuer.
#[derive(Debug)]
pub struct AgentIssuer {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate and those between it and the CA.
    chain: Vec<CertificateDer<'static>>,
    /// When its certificate begins and ends.
    valid: [SystemTime; 2],
    lifetime: Duration,
}

impl AgentIssuer {
    /// Reads the files of the settings, for use at `now`.
    pub fn read(settings: &AgentCertificateSettings, now: SystemTime) -> Result<Self, IssuerError> {
        let (path, key_path) = (&settings.issuer, &settings.key);
        let key = read_private(key_path)?;
        let key = KeyPair::from_pem(&key).map_err(|error| IssuerError::NotKey { path: key_path.clone(), error })?;
        let chain = tls::certificates(path)?;
        let no = |rule: &str| IssuerError::NotIssuer { path: path.clone(), rule: rule.to_owned() };
        let (_, parsed) = X509Certificate::from_der(&chain[0]).map_err(|error| no(&error.to_string()))?;
        if !parsed.is_ca() {
            return Err(no("basicConstraints must say that it is a CA"));
        }
        let usage = parsed.key_usage().map_err(|error| no(&error.to_string()))?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(no("keyUsage must have keyCertSign"));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(IssuerError::Mismatch { key: key_path.clone(), issuer: path.clone() });
        }
        let validity = parsed.validity();
        let valid = [validity.not_before, validity.not_after].map(|at| system_time(at.timestamp()));
        if now < valid[0] || now >= valid[1] {
            let [not_before, not_after] = [validity.not_before, validity.not_after].map(|at| at.to_string());
            return Err(IssuerError::NotValid { path: path.clone(), not_before, not_after });
        }
        let issuer = Issuer::from_ca_cert_der(&chain[0], key).map_err(|error| no(&error.to_string()))?;
        let lifetime = Duration::from_hours(24) * settings.days;
        Ok(Self { issuer, chain, valid, lifetime })
    }

    /// Signs the certificate that replaces one of a host, for the key of a request in PEM. `identity` has the trusted CAs and
    /// the revoked certificates.
    pub fn issue(
        &self,
        request: &[u8],
        replaced: &CertificateDer<'_>,
        host: &HostId,
        identity: &Identity,
        now: SystemTime,
    ) -> Result<Issued, NotIssued> {
        let malformed = |error: String| NotIssued::Malformed(error);
        let (_, block) = x509_parser::pem::parse_x509_pem(request).map_err(|error| malformed(error.to_string()))?;
        let (_, request) =
            X509CertificationRequest::from_der(&block.contents).map_err(|error| malformed(error.to_string()))?;
        let key = key_of(&request)?;
        if identity.has_revoked(replaced) {
            return Err(NotIssued::Revoked);
        }
        let (_, old) = X509Certificate::from_der(replaced)
            .map_err(|error| NotIssued::Replaced { field: "it", rule: format!("cannot be read: {error}") })?;
        if old.public_key().raw == key.subject_public_key_info() {
            return Err(NotIssued::SameKey);
        }
        may_be_replaced(&old, host)?;
        let mut params = CertificateParams::default();
        let begins = system_time(old.validity().not_before.timestamp());
        // Not before the one that it replaces: of two certificates the later one counts as the newer.
        let not_before = (now - VALID_BEFORE).max(self.valid[0]).max(begins.min(now));
        let not_after = (now + self.lifetime).min(self.valid[1]);
        if not_after <= system_time(old.validity().not_after.timestamp()) {
            return Err(NotIssued::EndsTooSoon);
        }
        (params.not_before, params.not_after) = (not_before.into(), not_after.into());
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "cps-peering");
        params.distinguished_name.push(DnType::CommonName, host_name(host).trim_start_matches(TRUST_DOMAIN));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let serial = serial()?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        // Copied byte by byte.
        for oid in [OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_EXTENDED_KEY_USAGE] {
            params.custom_extensions.extend(extension(&old, &oid).map(copied));
        }
        let lineage = lineage_after(replaced).ok_or_else(|| NotIssued::Replaced {
            field: "lineage",
            rule: "cannot be read: issue another one".to_owned(),
        })?;
        params.custom_extensions.push(CustomExtension::from_oid_content(&LINEAGE_OID, lineage));
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut chain = vec![certificate.der().clone()];
        // The verifier has the CAs.
        chain.extend(self.chain.iter().take_while(|it| !identity.is_ca(it)).cloned());
        identity.would_trust(&chain, &host_name(host)).map_err(NotIssued::Untrusted)?;
        let (_, made) = X509Certificate::from_der(&chain[0])
            .map_err(|_| NotIssued::Sign(rcgen::Error::CouldNotParseCertificate))?;
        Ok(Issued {
            serial: made.raw_serial_as_string(),
            not_after: timestamp(made.validity().not_after.timestamp().max(0).unsigned_abs().saturating_mul(1000)),
            pem: to_pem(&chain),
        })
    }
}

fn system_time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or_default())
}

/// Random, and positive: RFC 5280 section 4.1.2.2.
fn serial() -> Result<[u8; 16], NotIssued> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| NotIssued::NoRandomness)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

/// The key that has signed the request.
fn key_of(request: &X509CertificationRequest<'_>) -> Result<SubjectPublicKeyInfo, NotIssued> {
    let raw = request.certification_request_info.subject_pki.raw;
    let key = SubjectPublicKeyInfo::from_der(raw).map_err(|_| NotIssued::KeyType)?;
    if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519].contains(&key.algorithm()) {
        return Err(NotIssued::KeyType);
    }
    // This also verifies that the key is valid: a point on its curve.
    request.verify_signature().map_err(|_| NotIssued::Signature)?;
    Ok(key)
}

/// Checks that a certificate is that of one host's agent, and of nobody else.
fn may_be_replaced(old: &X509Certificate<'_>, host: &HostId) -> Result<(), NotIssued> {
    let no = |field: &'static str, rule: String| Err(NotIssued::Replaced { field, rule });
    let named = host_name(host);
    let names = old.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    let uris: Vec<&str> = names
        .into_iter()
        .flatten()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    if uris.is_empty() || uris.iter().any(|uri| *uri != named) {
        return no("subject alternative name", format!("has the URIs {uris:?}, and must have {named:?} alone"));
    }
    if old.is_ca() {
        return no("basicConstraints", "must not be those of a CA".to_owned());
    }
    let Ok(usage) = old.extended_key_usage() else { return no("extended key usage", "cannot be read".to_owned()) };
    if let Some(usage) = usage.map(|usage| usage.value) {
        let others = usage.any
            || usage.code_signing
            || usage.email_protection
            || usage.time_stamping
            || usage.ocsp_signing
            || !usage.other.is_empty();
        if others || !usage.server_auth {
            return no("extended key usage", "must have serverAuth, and may have clientAuth, and no other".to_owned());
        }
    }
    Ok(())
}

fn extension<'a, 'b>(
    certificate: &'a X509Certificate<'b>,
    oid: &x509_parser::asn1_rs::Oid<'_>,
) -> Option<&'a X509Extension<'b>> {
    certificate.extensions().iter().find(|extension| extension.oid == *oid)
}

fn copied(extension: &X509Extension<'_>) -> CustomExtension {
    let oid: Vec<u64> = extension.oid.iter().into_iter().flatten().collect();
    let mut copy = CustomExtension::from_oid_content(&oid, extension.value.to_owned());
    copy.set_criticality(extension.critical);
    copy
}

#[cfg(test)]
mod tests;
