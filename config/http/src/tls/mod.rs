//! TLS 1.3 between controller and agents, and for the controller's clients. Certificates come from files and are taken up
//! anew when these change; who is trusted and who one is are looked up at every handshake, so that nothing has to start again.

mod load;
mod verify;

pub use load::{Facts, TlsError};

use cps_peering_config::tls::TlsFiles;
use load::Loaded;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, ring},
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};
use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};
use verify::{Expected, OfClients, OfServers};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The one provider of cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Makes `ring` what libraries use that do not ask. HTTP clients that are made without settings of ours need it.
pub fn use_ring() {
    // An error says that there is one already.
    let _ = ring::default_provider().install_default();
}

/// Who is at the other end of a connection: the names of a certificate that one of the CAs has signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The URIs among the subject alternative names.
    pub names: Vec<String>,
}

impl Peer {
    /// Whether the peer has this name.
    pub fn is(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }

    /// Reads the names of a certificate that was verified.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        Self { names: load::uris(certificate).unwrap_or_default() }
    }
}

/// Who is asked for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Every client must have one.
    Required,
    /// Clients may have one.
    Optional,
}

/// A daemon's certificates. Clones share them.
#[derive(Debug, Clone)]
pub struct Identity {
    files: TlsFiles,
    current: Arc<RwLock<Arc<Loaded>>>,
}

impl Identity {
    /// Reads the files.
    pub fn open(files: &TlsFiles) -> Result<Self, TlsError> {
        let loaded = Loaded::read(files)?;
        Ok(Self { files: files.clone(), current: Arc::new(RwLock::new(Arc::new(loaded))) })
    }

    fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the certificates say.
    pub fn facts(&self) -> Facts {
        self.current().facts.clone()
    }

    /// Reads the files again. What cannot be used leaves everything as it is.
    pub fn reload(&self) -> Result<Facts, TlsError> {
        let loaded = Arc::new(Loaded::read(&self.files)?);
        let facts = loaded.facts.clone();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(facts)
    }

    /// Looks at the files from time to time, for ever, and reads them when they have changed or when `told` says so.
    pub async fn keep_fresh(self, mut told: tokio::sync::mpsc::Receiver<()>) {
        let mut seen = self.current().stamp;
        loop {
            let was_told = tokio::select! {
                Some(()) = told.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let now = load::stamp(&self.files);
            if now == seen && !was_told {
                continue;
            }
            // What is written at this moment is looked at once more: its stamp changes again.
            seen = now;
            match self.reload() {
                Ok(facts) => tracing::info!(expires = %facts.expires(), "certificates were read"),
                Err(error) => tracing::error!(%error, "certificates were not taken up; the ones before stay"),
            }
        }
    }

    /// For a server.
    pub fn server(&self, clients: Clients) -> Arc<ServerConfig> {
        let verifier = Arc::new(OfClients { identity: self.clone(), clients });
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("ring has TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(self.clone()));
        Arc::new(config)
    }

    /// For a client that wants a server with this name, wherever it is.
    pub fn client_of(&self, name: &str) -> ClientConfig {
        self.client(Expected::Name(name.to_owned()))
    }

    fn client(&self, expected: Expected) -> ClientConfig {
        let roots = verify::Roots::Of(self.clone());
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("ring has TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OfServers { roots, expected }))
            .with_client_cert_resolver(Arc::new(self.clone()));
        // A session that is taken up again would go on with certificates that are no longer good.
        config.resumption = rustls::client::Resumption::disabled();
        config
    }
}

/// Keeps the certificates fresh, at once on SIGHUP, for ever. Without any, SIGHUP means nothing and ends nothing.
pub fn on_hangup(identity: Option<Identity>) -> std::io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (tell, told) = tokio::sync::mpsc::channel(1);
    Ok(async move {
        if let Some(identity) = identity {
            tokio::spawn(identity.keep_fresh(told));
        }
        while hangup.recv().await.is_some() {
            // One that is waiting already is as good.
            let _ = tell.try_send(());
        }
    })
}

/// For a client that knows a server by its address, as browsers do. `ca` is who signs for it; `own` is who the client is.
pub fn client(ca: &Path, own: Option<(&Path, &Path)>) -> Result<ClientConfig, TlsError> {
    if let Some((cert, key)) = own {
        let files = TlsFiles { ca: ca.to_owned(), cert: cert.to_owned(), key: key.to_owned() };
        return Ok(Identity::open(&files)?.client(Expected::Address));
    }
    let roots = verify::Roots::Fixed(Arc::new(load::roots(ca)?));
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OfServers { roots, expected: Expected::Address }))
        .with_no_client_auth();
    Ok(config)
}

/// For a client that speaks plain HTTP only; it trusts nobody.
pub fn no_client() -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring has TLS 1.3")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    // There is nothing to be taken up again, and room for it would be kept for each client.
    config.resumption = rustls::client::Resumption::disabled();
    config
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current().own))
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current().own))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
