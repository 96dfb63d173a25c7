//! Who is asking: signed requests and bearer tokens, both of which mean an account or the operator.

pub mod secret;
pub mod signature;

use crate::{
    engine::Engine,
    model::{Actor, Signed},
};
use signature::{Parts, Signature, SignatureError};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use thiserror::Error;

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
}

/// Recognises callers.
#[derive(Clone)]
pub struct Access {
    engine: Arc<Engine>,
    /// SHA-256 of the operators' token.
    operator_token: [u8; 32],
    seen: Arc<Mutex<Seen>>,
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
    pub fn new(engine: Arc<Engine>, operator_token: &str) -> Self {
        Self { engine, operator_token: secret::sha256(operator_token.as_bytes()), seen: Arc::default() }
    }

    /// The engine whose accounts it knows.
    pub fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine)
    }

    /// The same with another operators' token. What came before is remembered.
    #[must_use]
    pub fn with_operator_token(&self, operator_token: &str) -> Self {
        Self { operator_token: secret::sha256(operator_token.as_bytes()), ..self.clone() }
    }

    /// Finds out who asks.
    pub fn recognise(&self, parts: &Parts<'_>) -> Result<Caller, AccessError> {
        let authorization = parts.header("authorization").ok_or(AccessError::Missing)?;
        match authorization.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => self.by_token(token.trim()),
            Some((scheme, _)) if scheme.starts_with("JDCLOUD") => self.by_signature(parts, &authorization),
            _ => Err(AccessError::Missing),
        }
    }

    /// Whether it is worth reading a request's body: the token is known, or a signature has a form, a date and an access key
    /// that may be right.
    pub fn may_be_known(&self, parts: &Parts<'_>) -> Result<(), AccessError> {
        let authorization = parts.header("authorization").ok_or(AccessError::Missing)?;
        if authorization.starts_with("JDCLOUD") {
            let signature = Signature::read(&authorization, parts, self.engine.now_ms())?;
            let known = self.engine.read(|state, _| state.by_access_key(&signature.access_key).is_some());
            return if known { Ok(()) } else { Err(AccessError::WrongSignature) };
        }
        self.recognise(parts).map(drop)
    }

    fn by_token(&self, token: &str) -> Result<Caller, AccessError> {
        let hash = secret::sha256(token.as_bytes());
        // Hashes of random tokens may be compared in any time: nobody can steer them.
        let actor = if hash == self.operator_token {
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
        let known = self.engine.read(|state, _| {
            state.by_access_key(&signature.access_key).map(|(id, secret)| (id.clone(), secret.to_owned()))
        });
        let (account, secret) = known.ok_or(AccessError::WrongSignature)?;
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
