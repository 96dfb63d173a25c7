//! Who is asking: signed requests, bearer tokens and sessions of the console, all of which mean an account or the operator.

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

/// Who asks, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The caller.
    pub actor: Actor,
    /// Which operator, where it is one.
    pub operator: Option<Operator>,
    /// With what the request was signed; none with a token.
    pub signed: Option<Signed>,
    /// The service that a signature names, for instance `vpc`.
    pub service: Option<String>,
    /// The region that a signature names.
    pub region: Option<String>,
}

impl Caller {
    /// One with nothing but an identity.
    pub fn of(Principal { actor, operator }: Principal) -> Self {
        Self { actor, operator, signed: None, service: None, region: None }
    }

    /// Who it is, as the log and the audit trail say it.
    pub fn word(&self) -> String {
        self.operator.as_ref().map_or_else(|| self.actor.to_string(), ToString::to_string)
    }
}

/// Who somebody is: an account, or an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// For the rules.
    pub actor: Actor,
    /// Which operator, where it is one.
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
    #[error("this exact request was already received: sign it again")]
    Replayed,
    /// An account has sent so many signed requests that it cannot be told of more whether they came before.
    #[error("account {account} has sent too many signed requests within half an hour: use a token, or wait")]
    TooManySigned {
        /// The account.
        account: AccountId,
    },
    /// The access key is nobody's, or its secret key another. It looks the same.
    #[error("unknown access key or wrong secret key")]
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
#[error("account {account} sent too many requests: try again in {wait_s} s")]
pub struct RateLimited {
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

/// Whether requests with this method change nothing.
pub(crate) fn is_read(method: &str) -> bool {
    ["GET", "HEAD"].contains(&method)
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

/// What a credential says about whom it is of.
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

/// Recognises callers.
#[derive(Clone)]
pub struct Access {
    engine: Arc<Engine>,
    /// The operators of now.
    operators: Arc<RwLock<Arc<Operators>>>,
    failures: Arc<Failures>,
    replays: Arc<Mutex<Replays>>,
    sessions: Arc<Sessions>,
    guard: Arc<Guard>,
    vault: Arc<Vault>,
    /// Whether clients come over TLS.
    over_tls: bool,
}

/// What the head of a request says about who asks.
pub enum Identified {
    /// It is known.
    Known(Caller),
    /// It is known when the body is.
    Signed(Pending),
}

/// A signature that may be right.
pub struct Pending {
    signature: Signature,
    /// The account with the access key, and its secret key; none where the access key is nobody's.
    key: Option<(AccountId, String)>,
}

impl Pending {
    /// Whether the signature cannot be right, whatever the body says. It is not to be answered before the body is read: who
    /// looks for access keys would learn from it which there are.
    pub fn is_nobody(&self) -> bool {
        self.key.is_none()
    }
}

impl Access {
    /// Knows the accounts of an engine, and these operators.
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

    /// The same for clients that come over TLS, if they do.
    #[must_use]
    pub fn over_tls(self, over_tls: bool) -> Self {
        Self { over_tls, ..self }
    }

    /// The name of the session's cookie.
    pub fn cookie_name(&self) -> &'static str {
        session::cookie_name(self.over_tls)
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

    fn operators(&self) -> Arc<Operators> {
        Arc::clone(&self.operators.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Which operator a certificate with these names is of.
    pub fn operator_by_certificate(&self, names: &[String]) -> Option<Operator> {
        self.operators().by_certificate(names).cloned()
    }

    /// Tells the audit trail of somebody who was refused.
    pub fn record(&self, origin: &Origin, refusal: Refusal<'_>) {
        self.failures.record(&self.engine, origin, refusal);
    }

    /// Tells the audit trail how many refusals it does not tell of, when their minute is over.
    pub fn tell_missed(&self) {
        self.failures.tell_missed(&self.engine);
    }

    /// Tells the audit trail of a credential that was wrong. Tokens are not told: they may be another's, or nearly right.
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

    /// Whether it is looked at credentials from there.
    fn admit(&self, from: Source, claim: Claim) -> Result<(), AccessError> {
        self.guard.admit(from, claim).map_err(|wait| {
            self.engine.metrics().limited(Limited::Source);
            AccessError::TooManyFailures { wait_s: seconds(wait) }
        })
    }

    /// Looks at a credential, if there were not too many wrong ones, and takes note of whether it is right.
    fn guarded<T>(
        &self,
        origin: &Origin,
        claim: Option<Claimed<'_>>,
        look: impl FnOnce() -> Result<T, AccessError>,
    ) -> Result<T, AccessError> {
        // A session's cookie has 256 random bits, and where nothing is said nothing is guessed.
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

    /// Opens a session for who knows an access key's secret key. Returns what its cookie is to say, and who it is.
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
        // Hashes may be compared in any time: what is learnt of one says nothing about what was hashed.
        let said = digest::sha256(secret_key.as_bytes());
        known.filter(|(_, secret)| *secret == said).map(|(account, _)| account).ok_or(AccessError::WrongKey)
    }

    /// Opens a session for who has a bearer token. Returns what its cookie is to say, and who it is.
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

    /// Ends the session whose cookie comes with a request.
    pub fn sign_out(&self, headers: &http::HeaderMap) {
        if let Some(said) = session::cookie(headers, self.over_tls) {
            self.sessions.close(&said);
        }
    }

    /// Who asks with a session's cookie. What changes something must come from the console's own pages.
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

    /// The engine whose accounts it knows.
    pub fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine)
    }

    /// Knows other operators, or other tokens of theirs, from now on. Sessions that were opened with what is none any more have
    /// ended. Returns whether anything is another.
    pub fn replace_operators(&self, operators: Operators) -> bool {
        let mut known = self.operators.write().unwrap_or_else(PoisonError::into_inner);
        let differs = **known != operators;
        *known = Arc::new(operators);
        differs
    }

    /// Finds out who asks, as far as the head of a request says it: everything that can be refused without the body is.
    pub fn identify(&self, head: &Parts<'_>, origin: &Origin) -> Result<Identified, AccessError> {
        let authorization = head.header("authorization").unwrap_or_default();
        if !authorization.starts_with("JDCLOUD") {
            let token = claim(head);
            let claimed = token.as_deref().map(Claimed::Token);
            return self.guarded(origin, claimed, || self.whose(head)).map(Identified::Known);
        }
        // Dates are told by clocks of the day. How long something is remembered is told by the time that passes, which
        // nobody can set.
        let (now_ms, wall_ms) = (self.engine.now_ms(), self.engine.wall_ms());
        let mut signature = Signature::read(&authorization, head, wall_ms)?;
        signature.until_ms = signature.until_ms.saturating_sub(wall_ms).saturating_add(now_ms);
        self.admit(origin.address.into(), digest::sha256(signature.access_key.as_bytes()))?;
        let key = self.secret_key(&signature.access_key);
        Ok(Identified::Signed(Pending { signature, key }))
    }

    /// Finds out who has signed a request, with the body's hash in its `parts`.
    pub fn verify(&self, pending: Pending, parts: &Parts<'_>, origin: &Origin) -> Result<Caller, AccessError> {
        let Pending { signature, key } = pending;
        // Of many that came at once the others may have been wrong meanwhile.
        self.guarded(origin, Some(Claimed::AccessKey(&signature.access_key)), || {
            let secret = key.as_ref().map_or("", |(_, secret)| secret);
            // It takes as long where the key is nobody's.
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

    /// Whether a signed request came before. From now on it did.
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

    /// Who asks with a token or a session.
    pub fn whose(&self, parts: &Parts<'_>) -> Result<Caller, AccessError> {
        let by_itself = parts.headers.get(session::PAGE).is_some_and(|page| page == session::BY_ITSELF);
        self.who_asks(parts, by_itself)
    }

    /// The same for what nobody does: it keeps no session alive.
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
