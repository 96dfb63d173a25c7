//! Sessions of the console, identified by a cookie.
//!
//! A session is worth no more than the credential that it was opened with: when that is removed, the session ends.
//! Sessions are kept in memory, by the SHA-256 of the cookie's value; a restart of the controller ends them.

use super::{AccessError, Principal, operators::Operators, secret};
use crate::digest;
use crate::model::state::State;
use cps_peering_config::time::HOUR_MS;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The name of the cookie. Over TLS its prefix makes browsers accept it from this very host and over TLS only
/// (`__Host-`, RFC 6265bis section 4.1.3.2).
pub fn cookie_name(over_tls: bool) -> &'static str {
    if over_tls { "__Host-cps_peering_session" } else { "cps_peering_session" }
}

/// The console's pages send this header with every request: pages of other sites cannot without a CORS preflight, which fails.
pub const PAGE: &str = "x-cps-console";
/// The value of [`PAGE`] in requests that a page sends by itself, which keep no session alive.
pub const BY_ITSELF: &str = "background";
/// How long a session lasts without activity, in milliseconds.
pub const IDLE_MS: u64 = HOUR_MS;
/// How long a session lasts at most, in milliseconds.
pub const LONGEST_MS: u64 = 12 * HOUR_MS;
/// How many sessions one account, or the operators, can have. The least recently used one is dropped.
const MOST: usize = 32;

/// What a session was opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenedWith {
    /// An access key and its secret key.
    AccessKey(String),
    /// A bearer token, by its SHA-256 in hexadecimal.
    TokenHash(String),
    /// An operator's token, by its SHA-256.
    OperatorToken([u8; 32]),
}

/// The credentials that are valid now.
pub struct Valid<'a> {
    /// Those of accounts.
    pub state: &'a State,
    /// Those of operators.
    pub operators: &'a Operators,
}

impl OpenedWith {
    /// The identity, if the credential is still valid.
    fn still(&self, Valid { state, operators }: &Valid<'_>) -> Option<Principal> {
        let account = match self {
            Self::AccessKey(key) => state.by_access_key(key).map(|(account, _)| account),
            Self::TokenHash(hash) => state.by_token_hash(hash),
            Self::OperatorToken(hash) => return operators.by_token(hash).cloned().map(Principal::from),
        };
        account.cloned().map(Principal::from)
    }
}

struct Session {
    principal: Principal,
    with: OpenedWith,
    opened_ms: u64,
    used_ms: u64,
}

impl Session {
    fn has_ended(&self, now_ms: u64) -> bool {
        // Also if the clock was set back since: the session would last longer by that much.
        now_ms.abs_diff(self.used_ms) >= IDLE_MS || now_ms.abs_diff(self.opened_ms) >= LONGEST_MS
    }
}

/// The open sessions.
#[derive(Default)]
pub struct Sessions {
    by_hash: Mutex<HashMap<[u8; 32], Session>>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.by_hash.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session. Returns the value of the cookie.
    pub fn open(&self, principal: Principal, with: OpenedWith, now_ms: u64) -> Result<String, secret::NoRandomness> {
        let said = secret::random_hex(32)?;
        let mut sessions = self.lock();
        sessions.retain(|_, session| !session.has_ended(now_ms));
        let own = sessions.iter().filter(|(_, session)| session.principal == principal);
        let mut own: Vec<_> = own.map(|(hash, session)| (session.used_ms, *hash)).collect();
        own.sort_unstable();
        for (_, hash) in own.iter().rev().skip(MOST - 1) {
            sessions.remove(hash);
        }
        let session = Session { principal, with, opened_ms: now_ms, used_ms: now_ms };
        sessions.insert(digest::sha256(said.as_bytes()), session);
        Ok(said)
    }

    /// The identity of a session. With `keep_alive`, its idle time begins anew.
    pub fn whose(
        &self,
        said: &str,
        valid: &Valid<'_>,
        now_ms: u64,
        keep_alive: bool,
    ) -> Result<Principal, AccessError> {
        let hash = digest::sha256(said.as_bytes());
        let mut sessions = self.lock();
        let session = sessions.get_mut(&hash).ok_or(AccessError::NoSession)?;
        if session.has_ended(now_ms) || session.with.still(valid).as_ref() != Some(&session.principal) {
            sessions.remove(&hash);
            return Err(AccessError::NoSession);
        }
        if keep_alive {
            session.used_ms = now_ms;
        }
        Ok(session.principal.clone())
    }

    /// Ends a session; one that has ended already is no error.
    pub fn close(&self, said: &str) {
        self.lock().remove(&digest::sha256(said.as_bytes()));
    }
}

/// The value of the session's cookie, if there is one. If there are two with the same name, neither counts.
pub fn cookie(headers: &http::HeaderMap, over_tls: bool) -> Option<String> {
    let lines = headers.get_all(http::header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut own = pairs.filter(|(name, _)| *name == cookie_name(over_tls)).map(|(_, said)| said.to_owned());
    own.next().filter(|_| own.next().is_none())
}

/// Whether a request comes from a page of the console rather than of another site. Required for every change.
pub fn is_from_own_page(headers: &http::HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    headers.contains_key(PAGE) && site.is_none_or(|site| site == b"same-origin")
}

/// Whether a browser says that the request comes from a page of another site. Programs other than browsers say nothing about it.
pub fn is_from_others_page(headers: &http::HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let foreign_site = text("sec-fetch-site").is_some_and(|site| !["same-origin", "none"].contains(&site));
    let host = text("host").unwrap_or_default();
    let own = |origin: &str| origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host));
    foreign_site || text("origin").is_some_and(|origin| !own(origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::{id::AccountId, settings::OperatorRole};
    use http::{HeaderMap, header};
    use std::sync::LazyLock;

    fn acme() -> Principal {
        Principal::from("acme".parse::<AccountId>().unwrap())
    }

    fn state() -> State {
        use crate::model::{
            record::{Account, SealedKey},
            state::Change,
        };
        let mut account = Account::new("acme".parse().unwrap());
        account.keys.insert("AK".to_owned(), SealedKey::new("SK".to_owned()));
        let mut state = State::default();
        state.apply(Change::Account(account.id.clone(), Some(account)));
        state
    }

    fn valid(state: &State) -> Valid<'_> {
        static OPERATORS: LazyLock<Operators> = LazyLock::new(|| Operators::new("t"));
        Valid { state, operators: &OPERATORS }
    }

    fn key() -> OpenedWith {
        OpenedWith::AccessKey("AK".to_owned())
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
        let (sessions, state) = (Sessions::default(), state());
        let said = sessions.open(acme(), key(), 0).unwrap();
        assert_eq!(sessions.whose(&said, &valid(&state), IDLE_MS - 1, false), Ok(acme()));
        assert_eq!(sessions.whose(&said, &valid(&state), IDLE_MS, false), Err(AccessError::NoSession));
        let said = sessions.open(acme(), key(), 0).unwrap();
        let mut now_ms = 0;
        while now_ms + IDLE_MS / 2 < LONGEST_MS {
            now_ms += IDLE_MS / 2;
            assert_eq!(sessions.whose(&said, &valid(&state), now_ms, true), Ok(acme()), "{now_ms}");
        }
        assert_eq!(sessions.whose(&said, &valid(&state), LONGEST_MS, true), Err(AccessError::NoSession));
        let ahead = sessions.open(acme(), key(), 10 * LONGEST_MS).unwrap();
        assert_eq!(sessions.whose(&ahead, &valid(&state), 10 * LONGEST_MS - 1000, true), Ok(acme()));
        assert_eq!(
            sessions.whose(&ahead, &valid(&state), 0, true),
            Err(AccessError::NoSession),
            "the clock was set back"
        );
    }

    #[test]
    fn a_session_ends_with_its_credential_and_when_it_is_closed() {
        let (sessions, state) = (Sessions::default(), state());
        let said = sessions.open(acme(), key(), 0).unwrap();
        assert_eq!(sessions.whose(&said, &valid(&State::default()), 1, true), Err(AccessError::NoSession));
        assert_eq!(sessions.whose(&said, &valid(&state), 1, true), Err(AccessError::NoSession), "it is gone for good");
        let said = sessions.open(acme(), key(), 0).unwrap();
        sessions.close(&said);
        assert_eq!(sessions.whose(&said, &valid(&state), 1, true), Err(AccessError::NoSession));
        assert_eq!(sessions.whose("", &valid(&state), 1, true), Err(AccessError::NoSession));
    }

    #[test]
    fn an_operators_session_ends_with_the_token_and_with_the_role() {
        let (sessions, state) = (Sessions::default(), state());
        let hash = |token: &str| digest::sha256(token.as_bytes());
        let named = |role| {
            let mut operators = Operators::new("t");
            operators.add("li", role, Some("li's"), "urn:li").unwrap();
            operators
        };
        let of =
            |operators: &Operators, token: &str| Principal::from(operators.by_token(&hash(token)).unwrap().clone());
        let before = named(OperatorRole::Read);
        let valid = Valid { state: &state, operators: &before };
        for token in ["t", "li's"] {
            let open = || sessions.open(of(&before, token), OpenedWith::OperatorToken(hash(token)), 0).unwrap();
            let said = open();
            assert_eq!(sessions.whose(&said, &valid, 1, true), Ok(of(&before, token)));
            let replaced = Operators::new("another");
            let without = Valid { state: &state, operators: &replaced };
            assert_eq!(sessions.whose(&said, &without, 1, true), Err(AccessError::NoSession));
            assert_eq!(sessions.whose(&said, &valid, 1, true), Err(AccessError::NoSession), "it is gone for good");
        }
        let said = sessions.open(of(&before, "li's"), OpenedWith::OperatorToken(hash("li's")), 0).unwrap();
        let raised = named(OperatorRole::Admin);
        let other = Valid { state: &state, operators: &raised };
        assert_eq!(sessions.whose(&said, &other, 1, true), Err(AccessError::NoSession), "it is another's now");
    }

    #[test]
    fn browsers_tell_which_page_sends_a_request() {
        let of = |lines: &[(&'static str, &str)]| {
            let lines = lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            is_from_others_page(&lines.collect())
        };
        let host = ("host", "peering.example:7400");
        for own in [
            &[host][..],
            &[host, ("sec-fetch-site", "same-origin")],
            &[host, ("sec-fetch-site", "none")],
            &[host, ("origin", "https://Peering.example:7400"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(!of(own), "{own:?}");
        }
        for foreign in [
            &[host, ("sec-fetch-site", "cross-site")][..],
            &[host, ("sec-fetch-site", "same-site")],
            &[host, ("sec-fetch-site", "")],
            &[host, ("origin", "null")],
            &[host, ("origin", "https://peering.example")],
            &[host, ("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")],
            &[("origin", "https://evil.example")],
        ] {
            assert!(of(foreign), "{foreign:?}");
        }
    }

    #[test]
    fn the_sessions_of_one_account_are_bounded() {
        let (sessions, state) = (Sessions::default(), state());
        let said: Vec<String> = (0..=MOST as u64).map(|now| sessions.open(acme(), key(), now).unwrap()).collect();
        assert_eq!(sessions.whose(&said[0], &valid(&state), 100, true), Err(AccessError::NoSession));
        assert_eq!(sessions.whose(&said[1], &valid(&state), 100, true), Ok(acme()));
    }

    #[test]
    fn cookies_are_read_as_browsers_send_them() {
        let of = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, line.parse().unwrap());
            }
            cookie(&headers, false)
        };
        assert_eq!(of(&["a=b; cps_peering_session=00ff; c=d"]).as_deref(), Some("00ff"));
        assert_eq!(of(&["a=b", "cps_peering_session=1"]).as_deref(), Some("1"));
        assert_eq!(of(&["cps_peering_session=1; cps_peering_session=2"]), None);
        assert_eq!(of(&["xcps_peering_session=1"]), None);
        // Over TLS only the name with the prefix counts, which no one else can set.
        let both = "cps_peering_session=1; __Host-cps_peering_session=2";
        let headers = HeaderMap::from_iter([(header::COOKIE, both.parse().unwrap())]);
        assert_eq!((cookie(&headers, true).as_deref(), cookie(&headers, false).as_deref()), (Some("2"), Some("1")));
    }
}
