//! Where spans of traces are sent.

use super::etcd::is_base_url;
use crate::text::{MAX_QUOTED, cut};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::path::PathBuf;
use thiserror::Error;

/// Settings of both daemons, in the table `tracing`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingSettings {
    /// The base URL of a collector that accepts OTLP over HTTP, such as `http://127.0.0.1:4318`; spans are sent to
    /// `/v1/traces` below it. Default: none, and nothing is traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// The collector's CA, in PEM; TLS 1.3 is then required. By default those that the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The fraction of the traces begun here that is recorded, 0 to 1. No effect on an agent, which records what its
    /// controller does. Default 1.
    pub sample_ratio: Ratio,
    /// The attribute `service.name`. By default the name of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// The attribute `host.name`. By default the machine's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
}

/// A fraction, 0 to 1, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio {
    millionths: u32,
}

impl Ratio {
    const WHOLE: u32 = 1_000_000;

    /// Whether one of many belongs to the fraction. `random` is any number, uniformly distributed.
    pub fn takes(self, random: u32) -> bool {
        (u64::from(random) * u64::from(Self::WHOLE)) >> 32 < u64::from(self.millionths)
    }
}

/// The whole.
impl Default for Ratio {
    fn default() -> Self {
        Self { millionths: Self::WHOLE }
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(f64::from(self.millionths) / f64::from(Self::WHOLE))
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let ratio = f64::deserialize(from)?;
        if !(0.0..=1.0).contains(&ratio) {
            return Err(D::Error::custom(format!("sample_ratio is {ratio}, and must be 0 to 1")));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is 0 to a million")]
        let millionths = (ratio * f64::from(Self::WHOLE)).round() as u32;
        if millionths == 0 && ratio > 0.0 {
            return Err(D::Error::custom(format!("sample_ratio is {ratio}, and must be 0 or at least 0.000001")));
        }
        Ok(Self { millionths })
    }
}

/// An invalid setting of the table `tracing`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TracingError {
    /// A value violates a rule.
    #[error("setting `tracing.{field}`: {value:?} {rule}")]
    Illegal {
        /// The setting.
        field: &'static str,
        /// Its value, possibly truncated.
        value: String,
        /// The rule.
        rule: &'static str,
    },
    /// The URL contains a user or a password, which is not repeated.
    #[error(
        "setting `tracing.otlp_endpoint` holds a user or a password: give credentials to a collector on this machine, and name that"
    )]
    Credentials,
}

impl TracingSettings {
    /// The longest name of a service or host, in characters.
    const LONGEST_NAME: usize = 128;

    /// Whether spans can be sent.
    pub fn check(&self) -> Result<(), TracingError> {
        let illegal =
            |field, value: &str, rule| Err(TracingError::Illegal { field, value: cut(value, MAX_QUOTED), rule });
        if let Some(url) = &self.otlp_endpoint {
            if url.contains('@') {
                return Err(TracingError::Credentials);
            }
            let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
            let behind_host = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
            let port = behind_host.split_once(':').map(|(_, port)| port);
            if !is_base_url(&format!("{scheme}://{authority}"))
                || port.is_some_and(|port| port.parse::<u16>().is_err())
                || !path.chars().all(plain)
            {
                return illegal("otlp_endpoint", url, "is no URL such as http://127.0.0.1:4318");
            }
        }
        if let Some(ca) = &self.ca
            && !self.otlp_endpoint.as_ref().is_some_and(|url| url.starts_with("https://"))
        {
            return illegal("ca", &ca.to_string_lossy(), "needs an `otlp_endpoint` that begins with https://");
        }
        for (field, name) in [("service_name", &self.service_name), ("host_name", &self.host_name)] {
            let Some(name) = name else { continue };
            let length = name.chars().count();
            if length == 0 || length > Self::LONGEST_NAME || name.chars().any(char::is_control) {
                return illegal(field, name, "must be 1 to 128 characters, without control characters");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TracingSettings, String> {
        let settings: TracingSettings = toml::from_str(text).map_err(|error| error.to_string())?;
        settings.check().map(|()| settings).map_err(|error| error.to_string())
    }

    #[test]
    fn where_spans_go_is_a_url_without_secrets() {
        assert_eq!(read("").unwrap().otlp_endpoint, None, "off by default");
        for legal in ["http://127.0.0.1:4318", "https://otel.example/tenant-1/", "http://[::1]:4318", "https://h"] {
            assert!(read(&format!("otlp_endpoint = '{legal}'")).is_ok(), "{legal}");
        }
        for wrong in [
            "",
            "h",
            "127.0.0.1:4318",
            "ftp://h",
            "http://",
            "http://h:x1",
            "http://h/a?key=1",
            "http://h/#a",
            "http://h/a b",
        ] {
            let said = read(&format!("otlp_endpoint = '{wrong}'")).unwrap_err();
            assert!(said.starts_with(&format!("setting `tracing.otlp_endpoint`: {wrong:?} ")), "{said}");
        }
        let said = read("otlp_endpoint = 'https://me:hunter2@h'").unwrap_err();
        assert!(said.contains("holds a user or a password") && !said.contains("hunter2"), "{said}");
        let long = format!("otlp_endpoint = 'http://{}'", "é".repeat(10_000));
        assert!(read(&long).unwrap_err().len() < 1000, "what is wrong is cut");
        assert!(read("otlp_endpoint = 'http://h'\nca = '/ca.pem'").unwrap_err().contains("`tracing.ca`"));
        assert!(read("otlp_endpoint = 'https://h'\nca = '/ca.pem'").is_ok());
        assert!(read("service_name = ''").unwrap_err().contains("`tracing.service_name`"));
        assert!(read(&format!("host_name = '{}'", "h".repeat(129))).unwrap_err().contains("`tracing.host_name`"));
    }

    #[test]
    fn a_ratio_selects_its_fraction() {
        let ratio = |text: &str| read(&format!("sample_ratio = {text}")).map(|settings| settings.sample_ratio);
        for wrong in ["-0.1", "1.1", "nan", "inf"] {
            assert!(ratio(wrong).unwrap_err().contains("must be 0 to 1"), "{wrong}");
        }
        assert!(ratio("1e-7").unwrap_err().contains("must be 0 or at least 0.000001"));
        assert!(ratio("1e-6").unwrap().takes(0) && !ratio("-0.0").unwrap().takes(0));
        let part = |text: &str| {
            let ratio = ratio(text).unwrap();
            (0..1000).filter(|n| ratio.takes(n * 4_294_967 + 2000)).count()
        };
        assert_eq!(["0", "0.0", "0.25", "1", "1.0"].map(part), [0, 0, 250, 1000, 1000]);
        assert!(ratio("1").unwrap().takes(u32::MAX) && !ratio("0").unwrap().takes(0));
        let settings = read("sample_ratio = 0.05").unwrap();
        assert_eq!(read(&toml::to_string(&settings).unwrap()), Ok(settings));
    }
}
