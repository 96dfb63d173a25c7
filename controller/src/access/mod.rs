//! Who is asking: signed requests, bearer tokens and sessions of the console, all of which mean an account or the operator.

pub mod rate;
pub mod secret;
pub mod session;
pub mod signature;
pub mod vault;

use crate::{
    engine::Engine,
    instruments::Limited,
    model::{Actor, Signed},
};
use cps_peering_config::id::AccountId;
use rate::{Claim, Guard, Rates, Source};
use session::{OpenedWith, Sessions, Valid};
use signature::{Parts, Signature, SignatureError};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};
use thiserror::Error;
use vault::Vault;

/// Who asks, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub actor: Actor,
    /// With what the request was signed; none with a token.
    pub signed: Option<Signed>,
    /// The service that a signature names, for instance `vpc`.
    pub service: Option<String>,
    /// The region that a signature names.
    pub region: Option<String>,
}

/// Why nobody knows who asks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccessError {
    /// There is no `Authorization`.
    #[error("sign the request, or send a header `Authorization: Bearer TOKEN`")]
    Missing,
    /// The token is nobody's.
    #[error("the token is not known")]
    UnknownToken,
    /// The access key is nobody's. Looks like a wrong signature, so that nobody can look for access keys.
    #[error("the access key is not known, or the signature does not match the request")]
    WrongSignature,
    /// The signature cannot be read.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The same request came before.
    #[error("this very request came before: sign it again")]
    Replayed,
    /// The access key is nobody's, or its secret key another. It looks the same.
    #[error("the access key is not known, or its secret key is another")]
    WrongKey,
    /// The cookie is that of no session.
    #[error("the session has ended: sign in again")]
    NoSession,
    /// A browser would change something in the name of its user, because of another's page.
    #[error(
        "with a session's cookie, only the console's own pages may change something: they send the header `{}`",
        session::PAGE
    )]
    OthersPage,
    /// A browser would change something with its user's certificate, because of another's page.
    #[error("with a client certificate, a browser may change something from this controller's own pages only")]
    OthersPageByCertificate,
    /// So many credentials from one address were wrong that no more are looked at for a while.
    #[error("too many credentials from this address were wrong: try again in {wait_s} s")]
    TooManyFailures {
        /// For how long, in seconds.
        wait_s: u64,
    },
}

/// An account has asked too often.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("account {account} asks too often: try again in {wait_s} s")]
pub struct TooOften {
    /// The account.
    pub account: AccountId,
    /// When it may ask again, in seconds.
    pub wait_s: u64,
}

/// Whole seconds, so that whoever waits for so long has waited enough.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Why no session was opened.
#[derive(Debug, Error)]
pub enum SignInError {
    /// The credential is nobody's.
    #[error(transparent)]
    Unknown(#[from] AccessError),
    /// A session could not be made up.
    #[error(transparent)]
    NoRandomness(#[from] secret::NoRandomness),
}

/// Whom a request says to be of: an access key, or a token.
fn claim(parts: &Parts<'_>) -> Option<String> {
    let authorization = parts.header("authorization")?;
    let (scheme, rest) = authorization.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    let (_, credential) = rest.split_once("Credential=")?;
    credential.split('/').next().map(str::to_owned)
}

/// Recognises callers.
#[derive(Clone)]
pub struct Access {
    engine: Arc<Engine>,
    /// SHA-256 of the operators' token of now.
    operator_token: Arc<RwLock<[u8; 32]>>,
    seen: Arc<Mutex<Seen>>,
    sessions: Arc<Sessions>,
    guard: Arc<Guard>,
    vault: Arc<Vault>,
}

/// Signatures with their nonces that came lately, and until when they could come again.
#[derive(Default)]
#[allow(clippy::struct_field_names, reason = "all are times")]
struct Seen {
    until_ms: BTreeMap<(String, String), u64>,
    /// When a signature of a request that changes something came first, and until when it could come again.
    first_ms: BTreeMap<String, (u64, u64)>,
    forget_at_ms: u64,
}

impl Seen {
    /// Whether it is the first time.
    fn is_new(&mut self, signature: &str, nonce: &str, until_ms: u64, now_ms: u64) -> bool {
        const MINUTE: u64 = 60_000;
        if now_ms >= self.forget_at_ms {
            self.until_ms.retain(|_, until_ms| *until_ms >= now_ms);
            self.first_ms.retain(|_, (_, until_ms)| *until_ms >= now_ms);
            self.forget_at_ms = now_ms + MINUTE;
        }
        self.until_ms.insert((signature.to_owned(), nonce.to_owned()), until_ms).is_none()
    }
}

impl Seen {
    /// Whether it came first so long ago that nobody sends it again in good faith.
    fn is_old(&mut self, signature: &str, until_ms: u64, now_ms: u64) -> bool {
        const AT_ONCE_MS: u64 = 3000;
        let (first_ms, _) = self.first_ms.entry(signature.to_owned()).or_insert((now_ms, until_ms));
        now_ms.saturating_sub(*first_ms) > AT_ONCE_MS
    }
}

impl Access {
    /// Knows the accounts of an engine, and the operators by their token.
    pub fn new(engine: Arc<Engine>, operator_token: &str, vault: Arc<Vault>) -> Self {
        Self {
            engine,
            operator_token: Arc::new(RwLock::new(secret::sha256(operator_token.as_bytes()))),
            seen: Arc::default(),
            sessions: Arc::default(),
            guard: Arc::default(),
            vault,
        }
    }

    /// What seals the secret keys of accounts.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// The account with an access key, and its secret key in clear.
    fn secret_key(&self, access_key: &str) -> Option<(AccountId, String)> {
        let known =
            self.engine.read(|state, _| state.by_access_key(access_key).map(|(id, key)| (id.clone(), key.clone())));
        let (account, sealed) = known?;
        match self.vault.unseal(&account, access_key, &sealed) {
            Ok(secret) => Some((account, secret)),
            Err(error) => {
                tracing::error!("{error}");
                None
            }
        }
    }

    /// Goes on with other limits of requests and failures.
    pub fn tune(&self, rates: Rates) {
        self.guard.tune(rates);
    }

    fn operator_token(&self) -> [u8; 32] {
        *self.operator_token.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request of an account.
    pub fn count(&self, account: &AccountId) -> Result<(), TooOften> {
        self.guard.request(account).map_err(|wait| {
            self.engine.metrics().limited(Limited::Account);
            TooOften { account: account.clone(), wait_s: seconds(wait) }
        })
    }

    /// Looks at a credential, if there were not too many wrong ones, and takes note of whether it is right.
    fn guarded<T>(
        &self,
        from: Source,
        claim: Option<&str>,
        look: impl FnOnce() -> Result<T, AccessError>,
    ) -> Result<T, AccessError> {
        // A session's cookie has 256 random bits, and where nothing is said nothing is guessed.
        let Some(claimed) = claim else { return look() };
        let claim: Claim = secret::sha256(claimed.as_bytes());
        self.guard.admit(from, claim).map_err(|wait| {
            self.engine.metrics().limited(Limited::Source);
            AccessError::TooManyFailures { wait_s: seconds(wait) }
        })?;
        let looked = look();
        match &looked {
            Ok(_) => self.guard.right(from, claim),
            Err(AccessError::UnknownToken | AccessError::WrongSignature | AccessError::WrongKey) => {
                self.guard.wrong(from, claim);
            }
            Err(_) => {}
        }
        looked
    }

    /// Opens a session for who knows an access key's secret key. Returns what its cookie is to say, and who it is.
    pub fn sign_in_by_key(
        &self,
        access_key: &str,
        secret_key: &str,
        from: Source,
    ) -> Result<(String, Actor), SignInError> {
        let account = self.guarded(from, Some(access_key), || self.by_key(access_key, secret_key))?;
        let actor = Actor::Account(account);
        let with = OpenedWith::AccessKey(access_key.to_owned());
        Ok((self.sessions.open(actor.clone(), with, self.engine.now_ms())?, actor))
    }

    fn by_key(&self, access_key: &str, secret_key: &str) -> Result<AccountId, AccessError> {
        let known = self.secret_key(access_key).map(|(id, secret)| (id, secret::sha256(secret.as_bytes())));
        // Hashes may be compared in any time: what is learnt of one says nothing about what was hashed.
        let said = secret::sha256(secret_key.as_bytes());
        known.filter(|(_, secret)| *secret == said).map(|(account, _)| account).ok_or(AccessError::WrongKey)
    }

    /// Opens a session for who has a bearer token. Returns what its cookie is to say, and who it is.
    pub fn sign_in_by_token(&self, token: &str, from: Source) -> Result<(String, Actor), SignInError> {
        let Caller { actor, .. } = self.guarded(from, Some(token), || self.by_token(token))?;
        let with = match &actor {
            Actor::Account(_) => OpenedWith::TokenHash(secret::token_hash(token)),
            _ => OpenedWith::OperatorToken(secret::sha256(token.as_bytes())),
        };
        Ok((self.sessions.open(actor.clone(), with, self.engine.now_ms())?, actor))
    }

    /// Ends the session whose cookie comes with a request.
    pub fn sign_out(&self, headers: &http::HeaderMap) {
        if let Some(said) = session::cookie(headers) {
            self.sessions.close(&said);
        }
    }

    /// Who asks with a session's cookie. What changes something must come from the console's own pages.
    fn by_session(&self, said: &str, parts: &Parts<'_>) -> Result<Caller, AccessError> {
        let reads = ["GET", "HEAD"].contains(&parts.method);
        if !reads && !session::is_from_own_page(parts.headers) {
            return Err(AccessError::OthersPage);
        }
        let by_itself = parts.headers.get(session::PAGE).is_some_and(|page| page == session::BY_ITSELF);
        let now_ms = self.engine.now_ms();
        let operator_token = self.operator_token();
        let actor = self
            .engine
            .read(|state, _| self.sessions.whose(said, &Valid { state, operator_token }, now_ms, !by_itself))?;
        Ok(Caller { actor, signed: None, service: None, region: None })
    }

    /// The engine whose accounts it knows.
    pub fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine)
    }

    /// Knows the operators by another token from now on. Sessions that were opened with the one before have ended. Returns
    /// whether it is another.
    pub fn replace_operator_token(&self, operator_token: &str) -> bool {
        let new = secret::sha256(operator_token.as_bytes());
        let mut known = self.operator_token.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *known, new) != new
    }

    /// Finds out who asks.
    pub fn recognise(&self, parts: &Parts<'_>, from: Source) -> Result<Caller, AccessError> {
        self.guarded(from, claim(parts).as_deref(), || self.whose(parts))
    }

    /// Who asks, of a request that was let in before.
    pub fn whose(&self, parts: &Parts<'_>) -> Result<Caller, AccessError> {
        let Some(authorization) = parts.header("authorization") else {
            let said = session::cookie(parts.headers).ok_or(AccessError::Missing)?;
            return self.by_session(&said, parts);
        };
        match authorization.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => self.by_token(token.trim()),
            Some((scheme, _)) if scheme.starts_with("JDCLOUD") => self.by_signature(parts, &authorization),
            _ => Err(AccessError::Missing),
        }
    }

    /// Whether it is worth reading a request's body: the token or the session is known, or a signature has a form, a date and an access key
    /// that may be right.
    pub fn may_be_known(&self, parts: &Parts<'_>, from: Source) -> Result<(), AccessError> {
        let authorization = parts.header("authorization").unwrap_or_default();
        if !authorization.starts_with("JDCLOUD") {
            return self.recognise(parts, from).map(drop);
        }
        let signature = Signature::read(&authorization, parts, self.engine.now_ms())?;
        if self.engine.read(|state, _| state.by_access_key(&signature.access_key).is_some()) {
            return Ok(());
        }
        self.guarded(from, Some(&signature.access_key), || Err(AccessError::WrongSignature))
    }

    fn by_token(&self, token: &str) -> Result<Caller, AccessError> {
        let hash = secret::sha256(token.as_bytes());
        // Hashes of random tokens may be compared in any time: nobody can steer them.
        let actor = if hash == self.operator_token() {
            Actor::Operator
        } else {
            let account = self.engine.read(|state, _| state.by_token_hash(&secret::hex(&hash)).cloned());
            Actor::Account(account.ok_or(AccessError::UnknownToken)?)
        };
        Ok(Caller { actor, signed: None, service: None, region: None })
    }

    fn by_signature(&self, parts: &Parts<'_>, authorization: &str) -> Result<Caller, AccessError> {
        let now_ms = self.engine.now_ms();
        let signature = Signature::read(authorization, parts, now_ms)?;
        let (account, secret) = self.secret_key(&signature.access_key).ok_or(AccessError::WrongSignature)?;
        if !signature.verify(parts, &secret) {
            return Err(AccessError::WrongSignature);
        }
        // The newer signature does not cover the nonce. The very same request is refused here; one with the same signature
        // and another nonce may be a client that asks twice within a second, and can change nothing (see `model::decide`).
        let nonce = parts.header("x-jdcloud-nonce").unwrap_or_default();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.is_new(&signature.value, &nonce, signature.until_ms, now_ms) {
            return Err(AccessError::Replayed);
        }
        // Such a client does so at once. Later, what changed nothing when it was signed might change something.
        let reads = ["GET", "HEAD"].contains(&parts.method);
        if !reads && seen.is_old(&signature.value, signature.until_ms, now_ms) {
            return Err(AccessError::Replayed);
        }
        Ok(Caller {
            actor: Actor::Account(account),
            signed: Some(Signed { signature: signature.value, until_ms: signature.until_ms }),
            service: Some(signature.service),
            region: Some(signature.region),
        })
    }
}
