//! TLS 1.3 between controller and agents, and for the controller's clients. Certificates come from files and are
//! reloaded when these change; CAs and the own certificate are looked up at every handshake, so that no restart is
//! needed.

mod certificate_id;
mod error;
mod files;
mod lineage;
mod load;
mod renewed;
mod revoked;
mod verify;

pub use error::TlsError;
pub use lineage::{LINEAGE_OID, first_serial, lineage_after};
pub use load::{Facts, Kept};
pub use renewed::{RenewalError, to_pem};
pub use revoked::MAX_CRL;

use certificate_id::CertificateId;
use cps_peering_config::tls::TlsFiles;
use load::Loaded;
use renewed::Pending;
use revoked::Revoked;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    client::danger::ServerCertVerifier as _,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};
use verify::{Expected, OfClients, OfServers};

/// How often the files are checked.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The only cryptography provider.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Makes `ring` the default provider of libraries that do not ask. HTTP clients that are built without settings of ours
/// need it.
pub fn use_ring() {
    // An error means that there is one already.
    let _ = ring::default_provider().install_default();
}

/// The other end of a connection: the names of a certificate that one of the CAs has signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The URIs among the subject alternative names.
    pub names: Vec<String>,
    /// The certificate, and its first ancestor; none if the names come from elsewhere.
    certificates: Vec<CertificateId>,
}

impl Peer {
    /// Whether the peer has this name.
    pub fn is(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }

    /// A peer with these names, which were verified elsewhere.
    pub fn named(names: Vec<String>) -> Self {
        Self { names, certificates: Vec::new() }
    }

    /// Reads the names of a verified certificate.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        let certificates = lineage::ids(certificate).unwrap_or_default();
        Self { names: files::uris(certificate).unwrap_or_default(), certificates }
    }
}

/// Which clients must present a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Every client must present one.
    Required,
    /// Clients may present one.
    Optional,
}

/// A daemon's certificates. Clones share them.
#[derive(Debug, Clone)]
pub struct Identity {
    files: TlsFiles,
    kept: Kept,
    /// The key of the newest certificate request.
    pending: Arc<Mutex<Option<Pending>>>,
    current: Arc<RwLock<Arc<Loaded>>>,
    /// Held while the files are read, so that an older read is not taken over last.
    reading: Arc<Mutex<()>>,
}

/// The state of the files that [`Identity::keep_fresh`] has seen.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    stamp: [load::Stamp; 6],
    /// Whether the certificate that has replaced that of the settings is used.
    renewed: bool,
}

impl Identity {
    /// Reads the files.
    pub fn open(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::open_with(files, Kept::default())
    }

    /// The same for a daemon that receives revocation lists and certificates, and keeps them in files of its own.
    pub fn open_with(files: &TlsFiles, kept: Kept) -> Result<Self, TlsError> {
        let current = Arc::new(RwLock::new(Arc::new(Loaded::read(files, &kept)?)));
        Ok(Self { files: files.clone(), kept, pending: Arc::default(), current, reading: Arc::default() })
    }

    /// Where received files are kept.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Generates a new key, and a certificate request for it in PEM (PKCS #10). The key is kept in memory until the
    /// certificate arrives, and does not leave the daemon. A further request replaces this one.
    pub fn request_certificate(&self) -> Result<String, RenewalError> {
        if self.kept.renewed.is_none() {
            return Err(RenewalError::NoPlace);
        }
        let (pending, request) = Pending::new()?;
        *self.pending() = Some(pending);
        Ok(request)
    }

    /// Takes over the certificate, in PEM, for the newest request, and stores it with its key. One that does not fit
    /// leaves everything as it is.
    pub fn take_certificate(&self, pem: &[u8]) -> Result<Facts, RenewalError> {
        let path = self.kept.renewed.as_deref().ok_or(RenewalError::NoPlace)?;
        let mut pending = self.pending();
        let key = pending.as_ref().ok_or(RenewalError::NoRequest)?;
        let chain = key.answered(pem)?;
        self.current().rules().replaces(&chain, load::now())?;
        key.store(&chain, path)?;
        let facts = self.reload()?;
        *pending = None;
        Ok(facts)
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Option<Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a server with this certificate and its intermediates would now be trusted under this name.
    pub fn would_trust(&self, chain: &[CertificateDer<'_>], name: &str) -> Result<(), rustls::Error> {
        let (own, between) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let verifier = OfServers { roots: verify::Roots::Of(self.clone()), expected: Expected::Name(name.to_owned()) };
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        verifier.verify_server_cert(own, between, &ServerName::IpAddress(address), &[], UnixTime::now()).map(|_| ())
    }

    /// Whether a certificate, or its first ancestor, was revoked.
    pub fn has_revoked(&self, certificate: &CertificateDer<'_>) -> bool {
        self.current().revoked.has_any([certificate])
    }

    /// Whether a certificate is one of the CAs.
    pub fn is_ca(&self, certificate: &CertificateDer<'_>) -> bool {
        self.current().cas.iter().any(|ca| ca == certificate)
    }

    /// Whether a client's certificate was revoked since it connected.
    pub fn is_revoked(&self, peer: &Peer) -> bool {
        let current = self.current();
        peer.certificates.iter().any(|certificate| current.revoked.names(certificate))
    }

    /// The revocation lists in force, in PEM; empty if there are none.
    pub fn revocation_lists(&self) -> Vec<u8> {
        self.current().revoked.pem().to_owned()
    }

    /// Takes over received revocation lists in PEM, and stores them. What they no longer name stays revoked.
    pub fn take_revocation_lists(&self, pem: &[u8]) -> Result<Facts, TlsError> {
        let path = self.kept.crl.clone().unwrap_or_else(|| self.files.crl());
        let loaded = self.current();
        let sent = Revoked::parse(pem, &path, &loaded.cas)?;
        if sent.is_empty() {
            let error = "none of the CAs has signed one of its lists".to_owned();
            return Err(TlsError::RevocationList { path, error });
        }
        if loaded.revoked.covers(&sent) {
            return Ok(loaded.facts.clone());
        }
        // It is stored before it is confirmed. What only a previous list names stays revoked.
        let kept = if sent.covers(&loaded.revoked) { sent } else { loaded.revoked.clone().and(&sent) };
        cps_peering_file::replace(&path, 0o644, &[kept.pem()])
            .map_err(|failed| TlsError::Unreadable { path: path.clone(), error: failed.source })?;
        self.reload()
    }

    fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the certificates contain.
    pub fn facts(&self) -> Facts {
        self.current().facts.clone()
    }

    /// Reads the files again. Unusable ones leave everything as it is.
    pub fn reload(&self) -> Result<Facts, TlsError> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = Arc::new(Loaded::read(&self.files, &self.kept)?);
        let facts = loaded.facts.clone();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(facts)
    }

    /// Checks the files from time to time, forever, and reads them when they have changed or on a message from `told`.
    pub async fn keep_fresh(self, mut told: tokio::sync::mpsc::Receiver<()>) {
        let mut seen = Seen { stamp: self.current().stamp, renewed: self.facts().renewed };
        loop {
            let was_told = tokio::select! {
                Some(()) = told.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            // A disk that hangs blocks one thread for that, and none of those that serve requests.
            let own = self.clone();
            let refreshed = tokio::task::spawn_blocking(move || own.refresh(seen, was_told)).await;
            seen = refreshed.unwrap_or(seen);
        }
    }

    /// Reads the files if they have changed since they were seen, or if `always`. Returns what was seen now.
    fn refresh(&self, seen: Seen, always: bool) -> Seen {
        let stamp = load::stamp(&self.files, &self.kept);
        // As time passes, or the clock is set, the choice between the two certificates may change.
        let renewed = self.current().choice.is_renewed(load::now());
        // A file that is being written is checked once more: its stamp changes again.
        let now = Seen { stamp, renewed };
        if now != seen || always {
            match self.reload() {
                Ok(facts) => tracing::info!(expires = %facts.expires(), "certificates were read"),
                Err(error) => tracing::error!(%error, "certificates were not reloaded; the previous ones stay in use"),
            }
        }
        now
    }

    /// The configuration of a server.
    pub fn server(&self, clients: Clients) -> Arc<ServerConfig> {
        let verifier = Arc::new(OfClients { identity: self.clone(), clients });
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("ring has TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(self.clone()));
        // A resumed session would continue with certificates that may no longer be valid: the client's is not checked.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// The configuration of a client that requires a server with this name, whatever its address.
    pub fn client_of(&self, name: &str) -> ClientConfig {
        self.client(Expected::Name(name.to_owned()))
    }

    /// The configuration of a client that verifies servers by their addresses, as browsers do.
    pub fn client_by_address(&self) -> ClientConfig {
        self.client(Expected::Address)
    }

    fn client(&self, expected: Expected) -> ClientConfig {
        let roots = verify::Roots::Of(self.clone());
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("ring has TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OfServers { roots, expected }))
            .with_client_cert_resolver(Arc::new(self.clone()));
        // A resumed session would continue with certificates that may no longer be valid.
        config.resumption = rustls::client::Resumption::disabled();
        config
    }
}

/// Keeps the certificates fresh, immediately on SIGHUP, forever. Without any, SIGHUP is ignored and ends nothing.
pub fn on_hangup(identity: Option<Identity>) -> std::io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (tell, told) = tokio::sync::mpsc::channel(1);
    Ok(async move {
        if let Some(identity) = identity {
            tokio::spawn(identity.keep_fresh(told));
        }
        while hangup.recv().await.is_some() {
            // One that is already waiting does as well.
            let _ = tell.try_send(());
        }
    })
}

/// Refuses requests on connections whose client's certificate was revoked meanwhile.
pub fn refuse_revoked(router: axum::Router, identity: Option<Identity>) -> axum::Router {
    let Some(identity) = identity else { return router };
    router.layer(axum::middleware::from_fn_with_state(identity, not_revoked))
}

async fn not_revoked(
    axum::extract::State(identity): axum::extract::State<Identity>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    use axum::response::IntoResponse;
    if request.extensions().get::<Peer>().is_some_and(|peer| identity.is_revoked(peer)) {
        let close = [(http::header::CONNECTION, "close")];
        return (http::StatusCode::UNAUTHORIZED, close, "the client's certificate was revoked\n").into_response();
    }
    next.run(request).await
}

/// The certificates of a PEM file; there is at least one.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    files::certificates(file)
}

/// The earliest expiry of the certificates in a PEM file, in seconds since 1970.
pub fn expiry(file: &Path) -> Result<i64, TlsError> {
    load::expiry(file)
}

/// The configuration of a client that verifies a server by its address, as browsers do. `ca` signs the server's
/// certificate; `own` is the client's certificate and key.
pub fn client(ca: &Path, own: Option<(&Path, &Path)>) -> Result<ClientConfig, TlsError> {
    if let Some((cert, key)) = own {
        let files = TlsFiles { ca: ca.to_owned(), cert: cert.to_owned(), key: key.to_owned(), crl: None };
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

/// The configuration of a client for plain HTTP only; it trusts no server.
pub fn no_client() -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring has TLS 1.3")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    // There is nothing to resume, and room for it would be kept for each client.
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
