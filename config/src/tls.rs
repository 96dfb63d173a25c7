//! What the settings files say about TLS, and the names that certificates must carry.
//!
//! Controller and agents know each other by one URI in the certificate's subject alternative names, as SPIFFE has it
//! (<https://spiffe.io/docs/latest/spiffe-about/spiffe-concepts/>): addresses may change, and hosts' ids need be no DNS names.

use crate::id::HostId;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{fmt, path::PathBuf, time::Duration};

/// What all names begin with: the trust domain.
pub const TRUST_DOMAIN: &str = "spiffe://cps-peering/";

/// For how long a certificate is valid before it is issued: clocks differ.
pub const VALID_BEFORE: Duration = Duration::from_mins(5);

/// The controller's name: it alone may push to agents.
pub const CONTROLLER: &str = "spiffe://cps-peering/controller";

/// The control plane's name: a client with it is an operator.
pub const OPERATOR: &str = "spiffe://cps-peering/operator";

/// The name of an operator whom the settings name.
pub fn operator(name: &str) -> String {
    format!("{OPERATOR}/{name}")
}

/// Whether an operator may be named so.
pub fn is_operator_name(name: &str) -> bool {
    const LONGEST: usize = 32;
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    !name.is_empty() && name.len() <= LONGEST && name.chars().all(legal)
}

/// The name of those who may read metrics and nothing else.
pub const MONITORING: &str = "spiffe://cps-peering/monitoring";

/// The name of a CA certificate for the controller (setting `agent_certificates`) whose word is taken for hosts alone: who has its key can
/// make no controller, operator or monitoring.
pub const HOST_ISSUER: &str = "spiffe://cps-peering/host-issuer";

/// What hosts' names begin with.
pub const HOST_PREFIX: &str = "spiffe://cps-peering/host/";

/// A DNS name that all agents' certificates carry besides. It is for clients that ask for a DNS name whatever they are told,
/// such as Prometheus; nothing is decided by it here.
pub const AGENT_DNS_NAME: &str = "cps-peering-agent";

/// The name of a host's agent.
pub fn host(id: &HostId) -> String {
    format!("{HOST_PREFIX}{id}")
}

/// The setting `tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// `tls = "off"`: anybody who reaches the daemon may do everything.
    Off,
    /// Certificates, in PEM.
    On(TlsFiles),
}

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificates of those who sign for controller and agents.
    pub ca: PathBuf,
    /// The daemon's own certificate, with those between it and the CA behind it.
    pub cert: PathBuf,
    /// Its key. It must not be readable by others.
    pub key: PathBuf,
    /// The certificates that were revoked, as a list that one of the CAs has signed (`cps-peering pki revoke`). Default: `crl.pem`
    /// beside `ca`, where it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl: Option<PathBuf>,
}

impl TlsFiles {
    /// Where the revocation list is, or would be.
    pub fn crl(&self) -> PathBuf {
        self.crl.clone().unwrap_or_else(|| self.ca.with_file_name("crl.pem"))
    }
}

impl Serialize for Tls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Tls::Off => serializer.serialize_str("off"),
            Tls::On(files) => files.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Tls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not derived as an untagged enum, whose errors would name neither field nor rule.
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Tls;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table with ca, cert and key, or \"off\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Tls, E> {
                if text == "off" {
                    Ok(Tls::Off)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Tls, A::Error> {
                TlsFiles::deserialize(MapAccessDeserializer::new(map)).map(Tls::On)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, Serialize, PartialEq)]
    struct Settings {
        tls: Tls,
    }

    #[test]
    fn it_is_off_or_a_table_and_errors_name_what_is_wrong() {
        let on = "[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n";
        for text in ["tls = \"off\"\n", on] {
            let settings: Settings = toml::from_str(text).unwrap();
            assert_eq!(toml::to_string(&settings).unwrap(), text);
        }
        for (text, named) in [
            ("tls = \"on\"", "\"on\""),
            ("tls = true", "or \"off\""),
            ("tls = { ca = \"a\", cert = \"b\" }", "`key`"),
            ("tls = { ca = \"a\", cert = \"b\", key = \"c\", kye = \"d\" }", "`kye`"),
        ] {
            let error = toml::from_str::<Settings>(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
