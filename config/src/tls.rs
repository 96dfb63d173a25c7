//! TLS settings, and the names in certificates.
//!
//! Controller and agents identify each other by one URI in the certificate's subject alternative names, as in SPIFFE
//! (<https://spiffe.io/docs/latest/spiffe-about/spiffe-concepts/>): addresses may change, and host ids need not be DNS
//! names.

use crate::id::HostId;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{fmt, path::PathBuf, time::Duration};

/// The prefix of all names: the trust domain.
pub const TRUST_DOMAIN: &str = "spiffe://cps-peering/";

/// How long before its issuance a certificate becomes valid: clocks differ.
pub const VALID_BEFORE: Duration = Duration::from_mins(5);

/// The controller's name: it alone may push to agents.
pub const CONTROLLER: &str = "spiffe://cps-peering/controller";

/// The control plane's name: a client with it is an operator.
pub const OPERATOR: &str = "spiffe://cps-peering/operator";

/// The name of an operator listed in the settings.
pub fn operator(name: &str) -> String {
    format!("{OPERATOR}/{name}")
}

/// Whether an operator can have this name.
pub fn is_operator_name(name: &str) -> bool {
    const LONGEST: usize = 32;
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    !name.is_empty() && name.len() <= LONGEST && name.chars().all(legal)
}

/// The name of those who may read metrics and nothing else.
pub const MONITORING: &str = "spiffe://cps-peering/monitoring";

/// The name of a CA certificate for the controller (setting `agent_certificates`) that is trusted for hosts only: its
/// key cannot make a controller, operator or monitoring certificate.
pub const HOST_ISSUER: &str = "spiffe://cps-peering/host-issuer";

/// The prefix of hosts' names.
pub const HOST_PREFIX: &str = "spiffe://cps-peering/host/";

/// A DNS name that all agents' certificates also carry. It is for clients that require a DNS name, such as Prometheus;
/// nothing is decided by it here.
pub const AGENT_DNS_NAME: &str = "cps-peering-agent";

/// The name of a host's agent.
pub fn host(id: &HostId) -> String {
    format!("{HOST_PREFIX}{id}")
}

/// The setting `tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// `tls = "off"`: anyone who reaches the daemon may do everything.
    Off,
    /// Certificates, in PEM.
    On(TlsFiles),
}

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The CA certificates that sign for controller and agents.
    pub ca: PathBuf,
    /// The daemon's own certificate, followed by its intermediates.
    pub cert: PathBuf,
    /// Its key. It must not be readable by others.
    pub key: PathBuf,
    /// The revoked certificates, as a list that one of the CAs has signed (`cps-peering pki revoke`). Default:
    /// `crl.pem` beside `ca`, if it exists.
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
