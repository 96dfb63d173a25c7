//! The controller's settings, and where its store is.

use super::{
    AgentCertificateSettings, EtcdSettingError, EtcdSettings, OperatorError, OperatorSettings, Price, PushSettings,
    TracingSettings,
};
use crate::{
    connections::{ConnectionSettings, OutOfRange},
    log_format::LogFormat,
    net::prefix,
    tls::{TRUST_DOMAIN, Tls},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The controller's settings file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerSettings {
    /// Where the HTTP interfaces listen.
    pub listen: SocketAddr,
    /// The embedded store, for instance `/var/lib/cps-peering-controller/store.redb`. The folder must exist. Either
    /// this or `etcd`.
    #[serde(default)]
    pub store: Option<PathBuf>,
    /// The file with the key that encrypts accounts' secret keys. It must not be readable by others. Created if it does
    /// not exist and nothing is encrypted yet. By default beside the store, with the suffix `.key`. With `etcd` it must
    /// be set, and hold the same key on each controller.
    #[serde(default)]
    pub store_key_file: Option<PathBuf>,
    /// Space on the store's disk that is kept free for deletes, rejects and suspensions, in MiB, at most a twentieth of
    /// the disk. If less is free, all other changes are refused. Default 64; 0: none.
    #[serde(default = "default_store_reserve_mb")]
    pub store_reserve_mb: u64,
    /// A file that holds the operators' bearer token. It must not be readable by others.
    pub operator_token_file: PathBuf,
    /// Named operators, and what each may do. The one of `operator_token_file`, and of certificates for
    /// `spiffe://cps-peering/operator`, has no name and is an administrator.
    #[serde(default)]
    pub operators: Vec<OperatorSettings>,
    /// How long a delete waits for confirmation by the hosts before the response is `draining`, in milliseconds.
    /// Default 2000.
    #[serde(default = "default_delete_wait_ms")]
    pub delete_wait_ms: u64,
    /// How long a host may keep a peering in `provisioning` before it becomes `active` without the host, in seconds.
    /// Default 30.
    #[serde(default = "default_provisioning_grace_s")]
    pub provisioning_grace_s: u64,
    /// How often the controller polls a host that is in sync, in seconds. Default 15.
    #[serde(default = "default_poll_s")]
    pub poll_s: u64,
    /// The maximum age of a host's last report for the host, and what is on it, to count as in sync, in seconds; at
    /// least twice the time between two polls, which is longer than `poll_s` if there are very many hosts. Default 45.
    #[serde(default = "default_report_max_age_s")]
    pub report_max_age_s: u64,
    /// The maximum bandwidth of a peering between regions, in Mbit/s. Default 10 000.
    #[serde(default = "default_max_bandwidth_mbit")]
    pub max_bandwidth_mbit: u32,
    /// How many hosts an inventory may remove without `--confirm`, in percent of all; 100 for any number. Default 5.
    #[serde(default = "default_unconfirmed_host_removals_percent")]
    pub unconfirmed_host_removals_percent: u32,
    /// How many live peerings an account may initiate from a region, unless an operator says otherwise. Default 50.
    #[serde(default = "default_peerings_per_region")]
    pub peerings_per_region: u32,
    /// How many VPCs an account may create in a region, unless an operator says otherwise. Default 200.
    #[serde(default = "default_vpcs_per_region")]
    pub vpcs_per_region: u32,
    /// How many secondary CIDRs its VPCs in a region may have in total. Default 400.
    #[serde(default = "default_secondary_cidrs_per_region")]
    pub secondary_cidrs_per_region: u32,
    /// How many tags its live peerings from a region may have in total. Default 500.
    #[serde(default = "default_tags_per_region")]
    pub tags_per_region: u32,
    /// How many client tokens are remembered for an account, each for 24 hours. Default 10 000.
    #[serde(default = "default_client_tokens")]
    pub client_tokens: u32,
    /// How many accounts an account may block. Default 1 000.
    #[serde(default = "default_blocked_accounts")]
    pub blocked_accounts: u32,
    /// How many requests for peerings an account may send to each other account within an hour. Default 1 000.
    #[serde(default = "default_requests_per_account_per_hour")]
    pub requests_per_account_per_hour: u32,
    /// How many bandwidths between regions an account may set or change within an hour. Default 500.
    #[serde(default = "default_bandwidth_changes_per_hour")]
    pub bandwidth_changes_per_hour: u32,
    /// How long a request waits for the receiver's answer before it expires, in seconds. Default 24 hours.
    #[serde(default = "default_request_expires_s")]
    pub request_expires_s: u64,
    /// How long the records of ended peerings are kept, in seconds. Default 7 days.
    #[serde(default = "default_week_s")]
    pub ended_kept_s: u64,
    /// How long the peerings of an account in arrear stay suspended before they are deleted, in seconds. Default 7 days.
    #[serde(default = "default_week_s")]
    pub arrear_kept_s: u64,
    /// How long the audit trail is kept, in seconds. Default 90 days.
    #[serde(default = "default_audit_kept_s")]
    pub audit_kept_s: u64,
    /// The maximum size of the audit trail, in MiB. When it is full, the oldest refusals of the account with the most
    /// entries go first. Default 512; 0: no limit.
    #[serde(default = "default_audit_max_mb")]
    pub audit_max_mb: u64,
    /// The maximum size of one account's part of it, in MiB. Default 32; 0: no limit.
    #[serde(default = "default_audit_account_max_mb")]
    pub audit_account_max_mb: u64,
    /// The request rate of an account, per second. Default 100; 0: unlimited.
    #[serde(default = "default_requests_per_s")]
    pub requests_per_s: u32,
    /// The request burst of an account. Default 500.
    #[serde(default = "default_requests_burst")]
    pub requests_burst: u32,
    /// The rate of wrong credentials from one address (IPv6: a network of 64 bits), per minute. Default 12; 0:
    /// unlimited.
    #[serde(default = "default_failures_per_min")]
    pub failures_per_min: u32,
    /// The burst of wrong credentials from one address. Default 20.
    #[serde(default = "default_failures_burst")]
    pub failures_burst: u32,
    /// How many times a day an account may learn, by refusals and dry runs, that a network of its own overlaps one of
    /// another account that it does not see, for each pair of accounts. Default 30; 0: unlimited.
    #[serde(default = "default_overlap_checks_per_day")]
    pub overlap_checks_per_day: u32,
    /// By how much the machine's clock may differ from the time that has passed before it counts as having jumped, in
    /// seconds. Default 10 minutes.
    #[serde(default = "default_clock_leap_s")]
    pub clock_leap_s: u64,
    /// How long a clock must have been steady after a jump to be trusted without an operator's confirmation, in
    /// seconds. Default 6 hours.
    #[serde(default = "default_clock_believed_after_s")]
    pub clock_believed_after_s: u64,
    /// The time zone in which months of bills begin, and dates without a time, as the tz database names it. Default
    /// `Asia/Shanghai`.
    #[serde(default = "default_billing_time_zone")]
    pub billing_time_zone: String,
    /// The currency of all prices. Default `CNY`.
    #[serde(default = "default_currency")]
    pub currency: String,
    /// Prefixes within the provider's own network that webhooks may be sent to all the same, also without TLS. Default
    /// none.
    #[serde(default, deserialize_with = "prefix::list", skip_serializing_if = "Vec::is_empty")]
    pub webhooks_allowed: Vec<IpNet>,
    /// Prefixes that webhooks may not be sent to, besides everything outside the public internet and the hosts'
    /// addresses: the provider's own public ones. Default none.
    #[serde(default, deserialize_with = "prefix::list", skip_serializing_if = "Vec::is_empty")]
    pub webhooks_refused: Vec<IpNet>,
    /// The log format: `text` or `json`. Default `text`.
    #[serde(default)]
    pub log_format: LogFormat,
    /// The prices of peerings between regions. Without a price, metering goes on and amounts are empty.
    #[serde(default)]
    pub prices: Vec<Price>,
    /// A further address where `/metrics` and `/healthz` are served without TLS. By default there is none.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// How many bytes of request bodies the controller holds at a time, in MiB: half for operators, half for accounts.
    /// A request beyond that is refused with 503. Default 256, which is the minimum.
    #[serde(default = "default_bodies_mib")]
    pub bodies_mib: u32,
    /// Limits on the clients of the HTTP server.
    #[serde(default)]
    pub connections: ConnectionSettings,
    /// How changes are rolled out to many hosts: to a few of them first.
    #[serde(default)]
    pub pushes: PushSettings,
    /// Where spans of traces are sent. By default nothing is traced.
    #[serde(default)]
    pub tracing: TracingSettings,
    /// The store of several controllers, one of which leads. Either this or `store`.
    #[serde(default)]
    pub etcd: Option<EtcdSettings>,
    /// The controller's certificate and its trusted CAs; the controller does not start without this setting.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// How agents' certificates are renewed before they end. By default they are not.
    #[serde(default)]
    pub agent_certificates: Option<AgentCertificateSettings>,
}

/// Where the state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorePlace<'a> {
    /// In a file, by this controller alone.
    Embedded(&'a Path),
    /// In etcd, by several controllers.
    Etcd(&'a EtcdSettings),
}

/// Settings that do not name exactly one valid store.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StorePlaceError {
    /// Neither is set.
    #[error("setting `store` is missing: name a file, or set `[etcd]` if several controllers share an etcd cluster")]
    Missing,
    /// Both are set.
    #[error("settings `store` and `etcd` are both set: keep one of them")]
    Both,
    /// Controllers that share a store must have the same key.
    #[error(
        "setting `store_key_file` is missing: controllers that share an etcd cluster need the same key; make one with \
         `openssl rand -hex 32`, readable by its owner only, and copy it to each"
    )]
    KeyFile,
    /// A value of `etcd` is invalid.
    #[error(transparent)]
    Etcd(#[from] EtcdSettingError),
}

impl ControllerSettings {
    /// Whether the limits leave enough room for clients.
    pub fn check(&self) -> Result<(), OutOfRange> {
        // One inventory at a time from one address, see `api::body`.
        const LEAST_BODIES_MIB: u64 = 256;
        OutOfRange::check("bodies_mib", self.bodies_mib.into(), LEAST_BODIES_MIB..=u64::from(u32::MAX >> 12))?;
        self.pushes.check()?;
        self.connections.check()
    }

    /// Whether operators have names that distinguish them from each other and from daemons.
    pub fn check_operators(&self) -> Result<(), OperatorError> {
        let mut names = BTreeSet::new();
        for operator in &self.operators {
            let name = &operator.name;
            if !crate::tls::is_operator_name(name) {
                return Err(OperatorError::Name(name.clone()));
            }
            if !names.insert(name) {
                return Err(OperatorError::Twice(name.clone()));
            }
            let certificate = operator.certificate();
            let of_daemon = certificate.starts_with(TRUST_DOMAIN) && certificate != crate::tls::operator(name);
            if of_daemon || !certificate.contains(':') {
                return Err(OperatorError::Certificate { name: name.clone(), certificate });
            }
        }
        Ok(())
    }

    /// Where the state is kept: exactly one place, in settings that can be used.
    pub fn place(&self) -> Result<StorePlace<'_>, StorePlaceError> {
        match (&self.store, &self.etcd) {
            (Some(path), None) => Ok(StorePlace::Embedded(path)),
            (None, Some(etcd)) => Ok(etcd.check(self.tls.as_ref()).map(|()| StorePlace::Etcd(etcd))?),
            (None, None) => Err(StorePlaceError::Missing),
            (Some(_), Some(_)) => Err(StorePlaceError::Both),
        }
    }

    /// The file with the key that encrypts accounts' secret keys.
    pub fn store_key(&self) -> Result<PathBuf, StorePlaceError> {
        match (&self.store_key_file, self.place()?) {
            (Some(file), _) => Ok(file.clone()),
            (None, StorePlace::Embedded(store)) => Ok(store.with_extension("key")),
            (None, StorePlace::Etcd(_)) => Err(StorePlaceError::KeyFile),
        }
    }
}

fn default_store_reserve_mb() -> u64 {
    64
}

fn default_overlap_checks_per_day() -> u32 {
    30
}

fn default_clock_leap_s() -> u64 {
    600
}

fn default_clock_believed_after_s() -> u64 {
    6 * 60 * 60
}

fn default_requests_per_account_per_hour() -> u32 {
    1000
}

fn default_bandwidth_changes_per_hour() -> u32 {
    500
}

fn default_billing_time_zone() -> String {
    "Asia/Shanghai".to_owned()
}

fn default_currency() -> String {
    "CNY".to_owned()
}

const DAY_S: u64 = 24 * 60 * 60;

fn default_max_bandwidth_mbit() -> u32 {
    10_000
}

fn default_unconfirmed_host_removals_percent() -> u32 {
    5
}

fn default_peerings_per_region() -> u32 {
    50
}

fn default_vpcs_per_region() -> u32 {
    200
}

fn default_secondary_cidrs_per_region() -> u32 {
    400
}

fn default_tags_per_region() -> u32 {
    500
}

fn default_client_tokens() -> u32 {
    10_000
}

fn default_blocked_accounts() -> u32 {
    1000
}

fn default_request_expires_s() -> u64 {
    DAY_S
}

fn default_week_s() -> u64 {
    7 * DAY_S
}

fn default_audit_kept_s() -> u64 {
    90 * DAY_S
}

fn default_audit_max_mb() -> u64 {
    512
}

fn default_audit_account_max_mb() -> u64 {
    32
}

fn default_requests_per_s() -> u32 {
    100
}

fn default_requests_burst() -> u32 {
    500
}

fn default_failures_per_min() -> u32 {
    12
}

fn default_failures_burst() -> u32 {
    20
}

fn default_bodies_mib() -> u32 {
    256
}

fn default_delete_wait_ms() -> u64 {
    2000
}

fn default_provisioning_grace_s() -> u64 {
    30
}

fn default_report_max_age_s() -> u64 {
    45
}

fn default_poll_s() -> u64 {
    15
}
