//! Verification of the other end.

use super::{
    CertificateDer, Clients, DigitallySignedStruct, DistinguishedName, Identity, Peer, Revoked, RootCertStore,
    SignatureScheme, files, provider,
};
use cps_peering_config::tls::{HOST_ISSUER, HOST_PREFIX};
use rustls::{
    CertificateError, Error,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use std::sync::Arc;

/// Signatures are checked in the same way on both sides.
macro_rules! checks_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, signed, &provider().signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

/// The trusted CAs.
#[derive(Debug)]
pub(super) enum Roots {
    /// Those of a daemon, looked up at each handshake.
    Of(Identity),
    /// A fixed set.
    Fixed(Arc<RootCertStore>),
}

fn refuse_revoked(
    revoked: &Revoked,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), Error> {
    if revoked.has_any(std::iter::once(end_entity).chain(intermediates)) {
        return Err(Error::InvalidCertificate(CertificateError::Revoked));
    }
    Ok(())
}

/// Refuses certificates of issuers that are trusted for hosts only, if they name anything else. Such an issuer has to
/// send its own certificate with them, because it must not be in a CA list.
pub(super) fn refuse_others_of_host_issuer(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), Error> {
    // If its names cannot be parsed, what it has signed is refused.
    let signs_for_hosts =
        |it: &CertificateDer<'_>| files::uris(it).map_or(true, |names| names.iter().any(|name| name == HOST_ISSUER));
    if !intermediates.iter().any(signs_for_hosts) {
        return Ok(());
    }
    let names = files::uris(end_entity).unwrap_or_default();
    match names.iter().find(|name| !name.starts_with(HOST_PREFIX)) {
        Some(name) => Err(Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(Other(
            format!("its issuer signs for hosts alone, and it is for {name:?}"),
        )))))),
        None => Ok(()),
    }
}

/// The server that a client expects.
#[derive(Debug)]
pub(super) enum Expected {
    /// The one with this URI.
    Name(String),
    /// The one at the requested address.
    Address,
}

/// Verifies servers.
#[derive(Debug)]
pub(super) struct OfServers {
    pub(super) roots: Roots,
    pub(super) expected: Expected,
}

impl ServerCertVerifier for OfServers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = match &self.roots {
            Roots::Of(identity) => {
                let current = identity.current();
                refuse_revoked(&current.revoked, end_entity, intermediates)?;
                Arc::clone(&current.roots)
            }
            Roots::Fixed(roots) => Arc::clone(roots),
        };
        refuse_others_of_host_issuer(end_entity, intermediates)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, algorithms)?;
        match &self.expected {
            Expected::Address => verify_server_name(&parsed, server_name)?,
            Expected::Name(name) => {
                let peer = Peer::of(end_entity);
                if !peer.is(name) {
                    let text = format!("its certificate is for {:?}, and {name:?} is meant", peer.names);
                    return Err(Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(
                        Other(text),
                    )))));
                }
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    checks_signatures!();
}

/// A message as an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Other(String);

/// Verifies clients. What they may do is decided by their names, request by request.
#[derive(Debug)]
pub(super) struct OfClients {
    pub(super) identity: Identity,
    pub(super) clients: Clients,
}

impl ClientCertVerifier for OfClients {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.clients == Clients::Required
    }

    /// No hints: the CAs may differ at the next handshake.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let current = self.identity.current();
        refuse_revoked(&current.revoked, end_entity, intermediates)?;
        refuse_others_of_host_issuer(end_entity, intermediates)?;
        let roots = Arc::clone(&current.roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
        let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_client_cert(end_entity, intermediates, now)
    }

    checks_signatures!();
}
