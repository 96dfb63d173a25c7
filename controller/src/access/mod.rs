//! Authentication: signed requests, bearer tokens and sessions of the console, each of which identifies an account or an operator.

pub mod failures;
pub mod operators;
pub mod rate;
mod replays;
pub mod secret;
pub mod session;
pub mod signature;
pub mod vault;

use crate::{
    digest,
    engine::Engine,
    instruments::Limited,
    model::{Actor, Signed},
};
use cps_peering_config::id::AccountId;
use failures::{Failures, Origin, Refusal};
use operators::{Operator, Operators};
use rate::{Claim, Guard, Rates, Source};
use replays::{NotNew, Replays};
use session::{OpenedWith, Sessions, Valid};
use signature::{Parts, Signature, SignatureError};
use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};
use thiserror::Error;
use vault::Vault;

/// The caller, and how it was authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The caller.
    pub actor: Actor,
    /// Which operator, if it is one.
    pub operator: Option<Operator>,
    /// The access key that signed the request; none with a token.
    pub signed: Option<Signed>,
    /// The service that a signature names, for instance `vpc`.
    pub service: Option<String>,
    /// The region that a signature names.
    pub region: Option<String>,
}

impl Caller {
    /// A caller of which only the identity matters.
    pub fn of(Principal { actor, operator }: Principal) -> Self {
        Self { actor, operator, signed: None, service: None, region: None }
    }

    /// Its name in the log and the audit trail.
    pub fn word(&self) -> String {
        self.operator.as_ref().map_or_else(|| self.actor.to_string(), ToString::to_string)
    }
}

/// An identity: an account, or an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// For the rules.
    pub actor: Actor,
    /// Which operator, if it is one.
    pub operator: Option<Operator>,
}

impl From<AccountId> for Principal {
    fn from(account: AccountId) -> Self {
        Self { actor: Actor::Account(account), operator: None }
    }
}

impl From<Operator> for Principal {
    fn from(operator: Operator) -> Self {
        Self { actor: Actor::Operator, operator: Some(operator) }
    }
}

/// Why authentication failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccessError {
    /// There is no header `Authorization`.
    #[error("sign the request, or send a header `Authorization: Bearer TOKEN`")]
    Missing,
    /// Unknown token.
    #[error("unknown token")]
    UnknownToken,
    /// Unknown access key. Looks like a wrong signature, so that access keys cannot be enumerated.
    #[error("unknown access key, or the signature does not match the request")]
    WrongSignature,
    /// Malformed signature.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The same request was received before.
    #[error("this exact request was already received: sign it again")]
    Replayed,
    /// An account has sent so many signed requests that its further ones cannot be checked for replays.
    #[error("account {account} has sent too many signed requests within half an hour: use a token, or wait")]
    TooManySigned {
        /// The account.
        account: AccountId,
    },
    /// The access key is unknown, or its secret key is wrong. Both look the same.
    #[error("unknown access key or wrong secret key")]
    WrongKey,
    /// The cookie belongs to no session.
    #[error("the session has ended: sign in again")]
    NoSession,
    /// A page of another site would change something in the name of the browser's user.
    #[error(
        "with a session's cookie, only the console's own pages may change something: they send the header `{}`",
        session::PAGE
    )]
    OthersPage,
    /// A page of another site would change something with the user's client certificate.
    #[error("with a client certificate, a browser may change something from this controller's own pages only")]
    OthersPageByCertificate,
    /// So many credentials from one address were wrong that no more are checked for a while.
    #[error("too many credentials from this address were wrong: try again in {wait_s} s")]
    TooManyFailures {
        /// For how long, in seconds.
        wait_s: u64,
    },
}

/// An account has sent too many requests.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("account {account} sent too many requests: try again in {wait_s} s")]
pub struct RateLimited {
    /// The account.
    pub account: AccountId,
    /// When it can send the next one, in seconds.
    pub wait_s: u64,
}

/// Whole seconds, rounded up, so that waiting for this long suffices.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Why no session was opened.
#[derive(Debug, Error)]
pub enum SignInError {
    /// Unknown credential.
    #[error(transparent)]
    Unknown(#[from] AccessError),
    /// No session could be created.
    #[error(transparent)]
    NoRandomness(#[from] secret::NoRandomness),
}

/// Whether requests with this method change nothing.
pub(crate) fn is_read(method: &str) -> bool {
    ["GET", "HEAD"].contains(&method)
}

/// The identity that a request claims: an access key, or a token.
fn claim(parts: &Parts<'_>) -> Option<String> {
    let authorization = parts.header("authorization")?;
    let (scheme, rest) = authorization.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    let (_, credential) = rest.split_once("Credential=")?;
    credential.split('/').next().map(str::to_owned)
}

/// The identity that a credential claims.
#[derive(Clone, Copy)]
enum Claimed<'a> {
    /// A bearer token.
    Token(&'a str),
    /// An access key.
    AccessKey(&'a str),
}

impl<'a> Claimed<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Token(text) | Self::AccessKey(text) => text,
        }
    }

    fn access_key(self) -> Option<&'a str> {
        match self {
            Self::Token(_) => None,
            Self::AccessKey(key) => Some(key),
        }
    }
}

/// Authenticates callers.
#[derive(Clone)]
pub struct Access {
    engine: Arc<Engine>,
    /// The current operators.
    operators: Arc<RwLock<Arc<Operators>>>,
    failures: Arc<Failures>,
    replays: Arc<Mutex<Replays>>,
    sessions: Arc<Sessions>,
    guard: Arc<Guard>,
    vault: Arc<Vault>,
    /// Whether clients connect over TLS.
    over_tls: bool,
}

/// Whether the head of a request suffices to authenticate it.
pub enum Identified {
    /// It does.
    Known(Caller),
    /// The body is needed, too.
    Signed(Pending),
}

/// A signature that can only be checked with the body.
pub struct Pending {
    signature: Signature,
    /// The account with the access key, and its secret key; none for an unknown access key.
    key: Option<(AccountId, String)>,
}

impl Pending {
    /// Whether the signature cannot be right, whatever the body is. It must not be answered before the body has been read, so that
    /// access keys cannot be enumerated by the response time.
    pub fn is_nobody(&self) -> bool {
        self.key.is_none()
    }
}

impl Access {
    /// Authenticates the accounts of an engine, and these operators.
    pub fn new(engine: Arc<Engine>, operators: Operators, vault: Arc<Vault>) -> Self {
        Self {
            engine,
            operators: Arc::new(RwLock::new(Arc::new(operators))),
            failures: Arc::default(),
            replays: Arc::default(),
            sessions: Arc::default(),
            guard: Arc::default(),
            vault,
            over_tls: false,
        }
    }

    /// The same for clients that connect over TLS, if they do.
    #[must_use]
    pub fn over_tls(self, over_tls: bool) -> Self {
        Self { over_tls, ..self }
    }

    /// The name of the session's cookie.
    pub fn cookie_name(&self) -> &'static str {
        session::cookie_name(self.over_tls)
    }

    /// Encrypts the secret keys of accounts.
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

    /// Replaces the limits on requests and failures.
    pub fn tune(&self, rates: Rates) {
        self.guard.tune(rates);
    }

    fn operators(&self) -> Arc<Operators> {
        Arc::clone(&self.operators.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The operator whose certificate has these names.
    pub fn operator_by_certificate(&self, names: &[String]) -> Option<Operator> {
        self.operators().by_certificate(names).cloned()
    }

    /// Records a refusal in the audit trail.
    pub fn record(&self, origin: &Origin, refusal: Refusal<'_>) {
        self.failures.record(&self.engine, origin, refusal);
    }

    /// Records in the audit trail how many refusals it does not contain, once their minute is over.
    pub fn tell_missed(&self) {
        self.failures.tell_missed(&self.engine);
    }

    /// Records a wrong credential in the audit trail. Tokens are not shown: they can be someone else's, or nearly right.
    fn record_wrong(&self, origin: &Origin, access_key: Option<&str>, error: &AccessError) {
        let account = access_key
            .and_then(|key| self.engine.read(|state, _| state.by_access_key(key).map(|(account, _)| account.clone())));
        let target = access_key.map_or_else(|| "bearer token".to_owned(), |key| format!("access key {key}"));
        let (action, reason) = ("SignIn", error.to_string());
        let refusal = Refusal { actor: "unknown", action, target: &target, reason: &reason, account: account.as_ref() };
        self.record(origin, refusal);
    }

    /// Counts a request of an account.
    pub fn count(&self, account: &AccountId) -> Result<(), RateLimited> {
        self.guard.request(account).map_err(|wait| {
            self.engine.metrics().limited(Limited::Account);
            RateLimited { account: account.clone(), wait_s: seconds(wait) }
        })
    }

    /// Whether credentials from this address are checked at all.
    fn admit(&self, from: Source, claim: Claim) -> Result<(), AccessError> {
        self.guard.admit(from, claim).map_err(|wait| {
            self.engine.metrics().limited(Limited::Source);
            AccessError::TooManyFailures { wait_s: seconds(wait) }
        })
    }

    /// Checks a credential, unless there were too many wrong ones, and notes whether it is right.
    fn guarded<T>(
        &self,
        origin: &Origin,
        claim: Option<Claimed<'_>>,
        look: impl FnOnce() -> Result<T, AccessError>,
    ) -> Result<T, AccessError> {
        // A session's cookie has 256 random bits, and without credentials nothing is guessed.
        let Some(claimed) = claim else { return look() };
        let from = Source::from(origin.address);
        let claim: Claim = digest::sha256(claimed.text().as_bytes());
        self.admit(from, claim)?;
        let looked = look();
        match &looked {
            Ok(_) => self.guard.right(from, claim),
            Err(error @ (AccessError::UnknownToken | AccessError::WrongSignature | AccessError::WrongKey)) => {
                self.guard.wrong(from, claim);
                self.record_wrong(origin, claimed.access_key(), error);
            }
            Err(_) => {}
        }
        looked
    }

    /// Opens a session with an access key and its secret key. Returns the value of its cookie, and the identity.
    pub fn sign_in_by_key(
        &self,
        access_key: &str,
        secret_key: &str,
        origin: &Origin,
    ) -> Result<(String, Principal), SignInError> {
        let claimed = Some(Claimed::AccessKey(access_key));
        let principal = Principal::from(self.guarded(origin, claimed, || self.by_key(access_key, secret_key))?);
        let with = OpenedWith::AccessKey(access_key.to_owned());
        Ok((self.sessions.open(principal.clone(), with, self.engine.now_ms())?, principal))
    }

    fn by_key(&self, access_key: &str, secret_key: &str) -> Result<AccountId, AccessError> {
        let known = self.secret_key(access_key).map(|(id, secret)| (id, digest::sha256(secret.as_bytes())));
        // Comparing hashes need not take constant time: what it reveals of one says nothing about the hashed text.
        let said = digest::sha256(secret_key.as_bytes());
        known.filter(|(_, secret)| *secret == said).map(|(account, _)| account).ok_or(AccessError::WrongKey)
    }

    /// Opens a session with a bearer token. Returns the value of its cookie, and the identity.
    pub fn sign_in_by_token(&self, token: &str, origin: &Origin) -> Result<(String, Principal), SignInError> {
        let claimed = Some(Claimed::Token(token));
        let Caller { actor, operator, .. } = self.guarded(origin, claimed, || self.by_token(token))?;
        let with = match &actor {
            Actor::Account(_) => OpenedWith::TokenHash(secret::token_hash(token)),
            _ => OpenedWith::OperatorToken(digest::sha256(token.as_bytes())),
        };
        let principal = Principal { actor, operator };
        Ok((self.sessions.open(principal.clone(), with, self.engine.now_ms())?, principal))
    }

    /// Ends the session whose cookie a request contains.
    pub fn sign_out(&self, headers: &http::HeaderMap) {
        if let Some(said) = session::cookie(headers, self.over_tls) {
            self.sessions.close(&said);
        }
    }

    /// Authenticates by a session's cookie. Changes must come from the console's own pages.
    fn by_session(&self, said: &str, parts: &Parts<'_>, by_itself: bool) -> Result<Caller, AccessError> {
        if !is_read(parts.method) && !session::is_from_own_page(parts.headers) {
            return Err(AccessError::OthersPage);
        }
        let now_ms = self.engine.now_ms();
        let operators = self.operators();
        let principal = self
            .engine
            .read(|state, _| self.sessions.whose(said, &Valid { state, operators: &operators }, now_ms, !by_itself))?;
        Ok(Caller::of(principal))
    }

    /// The engine whose accounts are authenticated.
    pub fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine)
    }

    /// Replaces the operators and their tokens. Sessions that were opened with a credential that is no longer valid have
    /// ended. Returns whether anything has changed.
    pub fn replace_operators(&self, operators: Operators) -> bool {
        let mut known = self.operators.write().unwrap_or_else(PoisonError::into_inner);
        let differs = **known != operators;
        *known = Arc::new(operators);
        differs
    }

    /// Authenticates as far as the head of a request allows: everything that can be refused without the body is.
    pub fn identify(&self, head: &Parts<'_>, origin: &Origin) -> Result<Identified, AccessError> {
        let authorization = head.header("authorization").unwrap_or_default();
        if !authorization.starts_with("JDCLOUD") {
            let token = claim(head);
            let claimed = token.as_deref().map(Claimed::Token);
            return self.guarded(origin, claimed, || self.whose(head)).map(Identified::Known);
        }
        // Dates are compared with the wall clock. How long something is remembered depends on elapsed time, which cannot be
        // set.
        let (now_ms, wall_ms) = (self.engine.now_ms(), self.engine.wall_ms());
        let mut signature = Signature::read(&authorization, head, wall_ms)?;
        signature.until_ms = signature.until_ms.saturating_sub(wall_ms).saturating_add(now_ms);
        self.admit(origin.address.into(), digest::sha256(signature.access_key.as_bytes()))?;
        let key = self.secret_key(&signature.access_key);
        Ok(Identified::Signed(Pending { signature, key }))
    }

    /// Checks the signature of a request, with the body's hash in its `parts`.
    pub fn verify(&self, pending: Pending, parts: &Parts<'_>, origin: &Origin) -> Result<Caller, AccessError> {
        let Pending { signature, key } = pending;
        // Other credentials that arrived concurrently may have been wrong meanwhile.
        self.guarded(origin, Some(Claimed::AccessKey(&signature.access_key)), || {
            let secret = key.as_ref().map_or("", |(_, secret)| secret);
            // It takes as long for an unknown access key.
            let is_right = signature.verify(parts, secret);
            key.as_ref().filter(|_| is_right).map(|_| ()).ok_or(AccessError::WrongSignature)
        })?;
        let (account, _) = key.ok_or(AccessError::WrongSignature)?;
        Ok(Caller {
            actor: Actor::Account(account),
            operator: None,
            signed: Some(Signed { signature: signature.value, until_ms: signature.until_ms }),
            service: Some(signature.service),
            region: Some(signature.region),
        })
    }

    /// Checks that a signed request was not received before, and remembers it.
    pub fn take_once(&self, caller: &Caller, parts: &Parts<'_>) -> Result<(), AccessError> {
        let (Some(account), Some(signed)) = (caller.actor.account(), &caller.signed) else { return Ok(()) };
        let nonce = parts.header("x-jdcloud-nonce").unwrap_or_default();
        let mut replays = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
        let (now_ms, changes) = (self.engine.now_ms(), !is_read(parts.method));
        replays.take(account, [&signed.signature, &nonce], signed.until_ms, now_ms, changes).map_err(
            |error| match error {
                NotNew::Replayed => AccessError::Replayed,
                NotNew::NoRoom => AccessError::TooManySigned { account: account.clone() },
            },
        )
    }

    /// Authenticates by a token or a session.
    pub fn whose(&self, parts: &Parts<'_>) -> Result<Caller, AccessError> {
        let by_itself = parts.headers.get(session::PAGE).is_some_and(|page| page == session::BY_ITSELF);
        self.who_asks(parts, by_itself)
    }

    /// The same for requests that a page sends by itself: they keep no session alive.
    pub fn whose_by_itself(&self, parts: &Parts<'_>) -> Result<Caller, AccessError> {
        self.who_asks(parts, true)
    }

    fn who_asks(&self, parts: &Parts<'_>, by_itself: bool) -> Result<Caller, AccessError> {
        let Some(authorization) = parts.header("authorization") else {
            let said = session::cookie(parts.headers, self.over_tls).ok_or(AccessError::Missing)?;
            return self.by_session(&said, parts, by_itself);
        };
        match authorization.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => self.by_token(token.trim()),
            _ => Err(AccessError::Missing),
        }
    }

    fn by_token(&self, token: &str) -> Result<Caller, AccessError> {
        let hash = digest::sha256(token.as_bytes());
        if let Some(operator) = self.operators().by_token(&hash) {
            return Ok(Caller::of(operator.clone().into()));
        }
        let account = self.engine.read(|state, _| state.by_token_hash(&digest::hex(&hash)).cloned());
        Ok(Caller::of(account.ok_or(AccessError::UnknownToken)?.into()))
    }
}
