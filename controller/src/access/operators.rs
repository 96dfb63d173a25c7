//! Operators and their permissions. The unnamed one, with the token in `operator_token_file` of the settings or a certificate for
//! [`OPERATOR`], may do everything; others are named in the settings.

use crate::digest;
use cps_peering_config::{settings::OperatorRole, tls::OPERATOR};
use std::{collections::BTreeMap, fmt};
use thiserror::Error;

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Its name in the audit trail; none for the one that the settings do not name.
    pub name: Option<String>,
    /// Its permissions.
    pub role: OperatorRole,
}

impl Operator {
    /// The one that the settings do not name.
    pub fn unnamed() -> Self {
        Self { name: None, role: OperatorRole::Admin }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "operator/{name}"),
            None => f.write_str("operator"),
        }
    }
}

/// Two operators who could not be distinguished.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SameOperator {
    /// They have one token.
    #[error("operator {0} has the same token as another operator: each needs its own")]
    Token(String),
    /// They have one certificate.
    #[error("operator {0} has the certificate {1}, which another operator has, too: each needs its own")]
    Certificate(String, String),
}

/// All operators, by their credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Operators {
    /// By the SHA-256 of their tokens.
    by_token: BTreeMap<[u8; 32], Operator>,
    /// By a URI in their certificates.
    by_certificate: BTreeMap<String, Operator>,
}

impl Operators {
    /// The one that the settings do not name, with its token.
    pub fn new(token: &str) -> Self {
        Self {
            by_token: BTreeMap::from([(digest::sha256(token.as_bytes()), Operator::unnamed())]),
            by_certificate: BTreeMap::from([(OPERATOR.to_owned(), Operator::unnamed())]),
        }
    }

    /// Adds one that the settings name.
    pub fn add(
        &mut self,
        name: &str,
        role: OperatorRole,
        token: Option<&str>,
        certificate: &str,
    ) -> Result<(), SameOperator> {
        let operator = Operator { name: Some(name.to_owned()), role };
        if self.by_certificate.insert(certificate.to_owned(), operator.clone()).is_some() {
            return Err(SameOperator::Certificate(name.to_owned(), certificate.to_owned()));
        }
        match token.map(|token| self.by_token.insert(digest::sha256(token.as_bytes()), operator)) {
            Some(Some(_)) => Err(SameOperator::Token(name.to_owned())),
            _ => Ok(()),
        }
    }

    /// The names in certificates by which operators are known.
    pub fn certificates(&self) -> impl Iterator<Item = &str> {
        self.by_certificate.keys().map(String::as_str)
    }

    /// The operator whose token has this SHA-256. (Comparing hashes of random tokens need not take constant time: clients cannot choose them.)
    pub fn by_token(&self, hash: &[u8; 32]) -> Option<&Operator> {
        self.by_token.get(hash)
    }

    /// The operator whose certificate has these names. If they are of several operators, the one with the fewest permissions.
    pub fn by_certificate(&self, names: &[String]) -> Option<&Operator> {
        names.iter().filter_map(|name| self.by_certificate.get(name)).min_by_key(|operator| operator.role)
    }
}

/// The role that a request below `/admin/v1` needs. Unknown paths need `admin`.
pub fn needed(method: &str, path: &str) -> OperatorRole {
    if super::is_read(method) {
        return OperatorRole::Read;
    }
    let path = path.strip_prefix("/admin/v1").unwrap_or(path);
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        // The question is in the body; nothing is changed.
        ["paths"] => OperatorRole::Read,
        ["apply" | "hosts" | "clock" | "peerings" | "backups" | "rollout", ..]
        | ["accounts", _, "chargeStatus" | "quotas", ..] => OperatorRole::Operate,
        _ => OperatorRole::Admin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_identified_by_token_or_certificate_and_no_two_share_one() {
        let mut operators = Operators::new("the operators' token");
        operators.add("li", OperatorRole::Read, Some("li's token"), "spiffe://cps-peering/operator/li").unwrap();
        operators.add("wang", OperatorRole::Operate, None, "urn:wang").unwrap();
        let by_token = |token: &str| operators.by_token(&digest::sha256(token.as_bytes())).map(ToString::to_string);
        assert_eq!(by_token("the operators' token").as_deref(), Some("operator"));
        assert_eq!(by_token("li's token").as_deref(), Some("operator/li"));
        assert_eq!(by_token("Li's token"), None);
        let by_certificate = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            operators.by_certificate(&names).cloned()
        };
        assert_eq!(by_certificate(&[OPERATOR]), Some(Operator::unnamed()));
        assert_eq!(by_certificate(&["dns", "urn:wang"]).unwrap().role, OperatorRole::Operate);
        assert_eq!(by_certificate(&["urn:wang", "spiffe://cps-peering/operator/li"]).unwrap().role, OperatorRole::Read);
        for unknown in
            ["spiffe://cps-peering/operator/", "spiffe://cps-peering/operator/zhao", "spiffe://cps-peering/controller"]
        {
            assert_eq!(by_certificate(&[unknown]), None, "{unknown}");
        }
        let same = |it: &str, certificate: &str| operators.clone().add("x", OperatorRole::Admin, Some(it), certificate);
        assert_eq!(same("li's token", "urn:x"), Err(SameOperator::Token("x".to_owned())));
        assert_eq!(same("the operators' token", "urn:x"), Err(SameOperator::Token("x".to_owned())));
        assert!(matches!(same("x's", OPERATOR), Err(SameOperator::Certificate(..))));
        assert!(matches!(same("x's", "urn:wang"), Err(SameOperator::Certificate(..))));
    }

    #[test]
    fn credentials_need_admin_and_so_do_unknown_paths() {
        use OperatorRole::{Admin, Operate, Read};
        for (method, path, role) in [
            ("GET", "/admin/v1/accounts", Read),
            ("HEAD", "/admin/v1/audit", Read),
            ("POST", "/admin/v1/paths", Read),
            ("POST", "/admin/v1/apply", Operate),
            ("DELETE", "/peerings/p", Operate),
            ("PUT", "/peerings/p/bandwidth", Operate),
            ("DELETE", "/hosts/h1", Operate),
            ("POST", "/clock/confirm", Operate),
            ("POST", "/backups", Operate),
            ("POST", "/rollout/continue", Operate),
            ("PUT", "/accounts/one/chargeStatus", Operate),
            ("DELETE", "/accounts/one/quotas/north", Operate),
            ("POST", "/accounts", Admin),
            ("POST", "/accounts/quotas/keys", Admin),
            ("POST", "/accounts/one/tokens", Admin),
            ("DELETE", "/accounts/one/keys/AK", Admin),
            ("PATCH", "/whatever", Admin),
            ("POST", "/%61pply", Admin),
            ("POST", "/", Admin),
        ] {
            assert_eq!(needed(method, path), role, "{method} {path}");
        }
    }
}
