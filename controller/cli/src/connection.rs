//! What a call to the controller needs: its URL, the CA that it is verified against, and credentials.

use std::path::PathBuf;

/// A client certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientFiles {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

/// A bearer token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) token: String,
    /// Where it comes from, for messages.
    pub(super) source: String,
}

/// The effective settings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) controller: String,
    /// The CA that the controller's certificate is verified against; none for the system's trust store.
    pub(super) ca: Option<PathBuf>,
    /// The client certificate to present.
    pub(super) own: Option<ClientFiles>,
    /// None if the certificate authenticates the caller.
    pub(super) token: Option<Token>,
    pub(super) region: Option<String>,
}
