//! A store in etcd.

use crate::tls::Tls;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use thiserror::Error;

/// An etcd cluster that several controllers share, and how this one takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdSettings {
    /// The client URLs of etcd's members, for instance `https://192.0.2.11:2379`.
    pub endpoints: Vec<String>,
    /// The prefix of all keys. Default `/cps-peering/`.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// The URL at which the other controllers reach this one when it leads, for instance `https://192.0.2.1:7400`.
    pub advertise: String,
    /// The lease of a leader, in whole seconds: 2 to 60. Default 3. A request about it may take about a quarter of
    /// that: longer if etcd is slow, shorter for a faster take-over.
    #[serde(default = "default_lease_s")]
    pub lease_s: u64,
    /// The maximum size of etcd's database, in MiB: its `--quota-backend-bytes`. The last tenth is kept free for
    /// deletes, rejects and suspensions. Default 2048, as in etcd itself.
    #[serde(default = "default_quota_mb")]
    pub quota_mb: u64,
    /// The folder for backups that are made while the controller runs. Default
    /// `/var/lib/cps-peering-controller/backups`.
    #[serde(default = "default_backups")]
    pub backups: PathBuf,
    /// The etcd user, if its authentication is enabled.
    #[serde(default)]
    pub user: Option<String>,
    /// A file that holds the user's password. It must not be readable by others.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// TLS towards etcd's members, if the endpoints are `https://`.
    #[serde(default)]
    pub tls: Option<EtcdTls>,
}

/// Certificates for the connections to etcd, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdTls {
    /// The CAs of etcd's members.
    pub ca: PathBuf,
    /// The controller's certificate for etcd, if etcd requires one.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

/// An invalid value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("setting `etcd.{field}`: {value:?} {rule}")]
pub struct EtcdSettingError {
    /// The setting.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// The rule.
    pub rule: &'static str,
}

/// Whether it is a scheme, a host and perhaps a port, and nothing else.
pub(super) fn is_base_url(text: &str) -> bool {
    let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    authority.is_some_and(|it| {
        let host = it.rsplit_once(':').map_or(it, |(host, port)| if port.parse::<u16>().is_ok() { host } else { it });
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        !host.is_empty() && host.chars().all(plain)
    })
}

fn default_prefix() -> String {
    "/cps-peering/".to_owned()
}

fn default_lease_s() -> u64 {
    3
}

fn default_quota_mb() -> u64 {
    2048
}

fn default_backups() -> PathBuf {
    "/var/lib/cps-peering-controller/backups".into()
}

impl EtcdSettings {
    /// `own`: the controller's own TLS, which the other controllers use at `advertise`.
    pub(super) fn check(&self, own: Option<&Tls>) -> Result<(), EtcdSettingError> {
        let wrong = |field, value: &dyn ToString, rule| Err(EtcdSettingError { field, value: value.to_string(), rule });
        if self.endpoints.is_empty() {
            return wrong("endpoints", &"[]", "names no member of etcd");
        }
        for endpoint in &self.endpoints {
            if !is_base_url(endpoint) {
                return wrong("endpoints", endpoint, "is no URL such as https://192.0.2.11:2379");
            }
            if endpoint.starts_with("https://") != self.tls.is_some() {
                let rule = "needs `etcd.tls` exactly if it begins with https://";
                return wrong("endpoints", endpoint, rule);
            }
        }
        if !self.prefix.starts_with('/') || !self.prefix.ends_with('/') {
            return wrong("prefix", &self.prefix, "does not begin and end with a slash");
        }
        if !is_base_url(&self.advertise) {
            return wrong("advertise", &self.advertise, "is no URL such as https://192.0.2.1:7400");
        }
        if self.advertise.starts_with("https://") != matches!(own, Some(Tls::On(_))) {
            return wrong("advertise", &self.advertise, "must begin with https:// exactly if the controller has `tls`");
        }
        if !(2..=60).contains(&self.lease_s) {
            return wrong("lease_s", &self.lease_s, "is not between 2 and 60");
        }
        if self.user.is_some() != self.password_file.is_some() {
            let user = self.user.clone().unwrap_or_default();
            return wrong("user", &user, "must come with `etcd.password_file`, and that with it");
        }
        if let Some(tls) = &self.tls
            && tls.cert.is_some() != tls.key.is_some()
        {
            return wrong("tls", &tls.ca.display(), "has one of `cert` and `key`, which go together");
        }
        Ok(())
    }
}
