//! What a call of the controller needs to know: where it is, who signs for it, and who calls.

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
    /// Where it is from, for people.
    pub(super) source: String,
}

/// What is used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) controller: String,
    /// Who signs for the controller; none for those that the system trusts.
    pub(super) ca: Option<PathBuf>,
    /// With which certificate to come.
    pub(super) own: Option<ClientFiles>,
    /// None where the certificate says who one is.
    pub(super) token: Option<Token>,
    pub(super) region: Option<String>,
}
