//! The settings files of both daemons, as shipped beside this crate: `agent.toml` and `controller.toml`.

use crate::{
    connections::{ConnectionSettings, OutOfRange},
    id::RegionId,
    log_format::LogFormat,
    net::prefix,
    report::UNDERLAY_MTUS,
    tls::{TRUST_DOMAIN, Tls, TlsFiles},
};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The agent's settings file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSettings {
    /// Where the controller reaches the agent.
    pub listen: SocketAddr,
    /// Where the last accepted configuration is kept, for instance `/var/lib/cps-peering-agent/ledger`. The folder
    /// must exist.
    pub ledger: PathBuf,
    /// The UDP port of VXLAN; all hosts must use the same one. The default is 4789 (RFC 7348 section 8).
    #[serde(default = "default_vxlan_port")]
    pub vxlan_port: u16,
    /// The MTU of the path between hosts, in bytes, 68 to 65 535. By default that of the interface which holds the underlay address.
    /// To be set where that address is on a loopback interface.
    #[serde(default, deserialize_with = "underlay_mtu")]
    pub underlay_mtu: Option<u32>,
    /// How often the whole kernel is compared with the configuration when no event asks for it, in seconds. Default 60. Sysctls of
    /// ports and peering devices that the kernel does not announce are read every 3 seconds besides.
    #[serde(default = "default_resync_s")]
    pub resync_s: u64,
    /// Room for the kernel's events until the agent has taken them, in bytes. Where it is too small everything is compared
    /// instead, which the report counts. Default 1 MiB.
    #[serde(default = "default_event_buffer")]
    pub event_buffer: usize,
    /// How the log is written: `text` or `json`. Default `text`.
    #[serde(default)]
    pub log_format: LogFormat,
    /// Room in the filter of the underlay: one entry for each VNI that arrives here, and one for each host that may send with it.
    /// What has no place is not taken in and keeps the host out of sync. 1 024 to 67 108 864; an entry takes about 100 bytes of
    /// the kernel's memory when it is there, and 16 before. Default 1 048 576.
    #[serde(default = "default_underlay_filter_entries", deserialize_with = "underlay_filter_entries")]
    pub underlay_filter_entries: u32,
    /// A further address where `/metrics` and `/healthz` are served without TLS. By default there is none.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// What clients may take of the agent's HTTP server.
    #[serde(default)]
    pub connections: ConnectionSettings,
    /// The agent's certificate and whose word it takes; the agent does not start where nothing is said.
    // Tables come last.
    #[serde(default)]
    pub tls: Option<Tls>,
}

fn default_vxlan_port() -> u16 {
    4789
}

fn default_resync_s() -> u64 {
    60
}

fn default_event_buffer() -> usize {
    1 << 20
}

fn default_underlay_filter_entries() -> u32 {
    1 << 20
}

fn underlay_mtu<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let mtu = Option::<u32>::deserialize(from)?;
    match mtu.filter(|mtu| !UNDERLAY_MTUS.contains(mtu)) {
        None => Ok(mtu),
        Some(mtu) => {
            let (least, most) = UNDERLAY_MTUS.into_inner();
            Err(D::Error::custom(format!("underlay_mtu is {mtu}, and must be {least} to {most}")))
        }
    }
}

fn underlay_filter_entries<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    const RANGE: RangeInclusive<u32> = 1 << 10..=1 << 26;
    let entries = u32::deserialize(from)?;
    if RANGE.contains(&entries) {
        Ok(entries)
    } else {
        let (least, most) = RANGE.into_inner();
        Err(D::Error::custom(format!("underlay_filter_entries is {entries}, and must be {least} to {most}")))
    }
}

/// The controller's settings file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerSettings {
    /// Where the HTTP interfaces listen.
    pub listen: SocketAddr,
    /// The embedded store, for instance `/var/lib/cps-peering-controller/store.redb`. The folder must exist. Either this or
    /// `etcd`.
    #[serde(default)]
    pub store: Option<PathBuf>,
    /// The file with the key that secret keys of accounts are sealed with. It must not be readable by others. Made where there
    /// is none and nothing is sealed yet. By default beside the store, with the ending `.key`. With `etcd` it must be named, and
    /// hold the same key for each controller.
    #[serde(default)]
    pub store_key_file: Option<PathBuf>,
    /// How much room on the disk of the store is kept free for deletes, rejects and suspensions, in MiB, at most a twentieth of
    /// the disk. Where there is less, nothing else is taken. Default 64; 0: none.
    #[serde(default = "default_store_reserve_mb")]
    pub store_reserve_mb: u64,
    /// A file that holds the operators' bearer token. It must not be readable by others.
    pub operator_token_file: PathBuf,
    /// Operators with names, and what each may do. The one of `operator_token_file`, and of certificates for
    /// `spiffe://cps-peering/operator`, has no name and is an administrator.
    #[serde(default)]
    pub operators: Vec<OperatorSettings>,
    /// How long a delete waits for the hosts to confirm before it answers with `draining`, in milliseconds. Default 2000.
    #[serde(default = "default_delete_wait_ms")]
    pub delete_wait_ms: u64,
    /// How long a host may hold a peering in `provisioning` before it is called `active` without it, in seconds.
    /// Default 30.
    #[serde(default = "default_provisioning_grace_s")]
    pub provisioning_grace_s: u64,
    /// How often the controller asks a host that is in sync how it stands, in seconds. Default 15.
    #[serde(default = "default_poll_s")]
    pub poll_s: u64,
    /// How old the last report of a host may be for the host, and what it has, to count as in sync, in seconds; at least twice the
    /// time between two questions, which is longer than `poll_s` where there are very many hosts. Default 45.
    #[serde(default = "default_report_max_age_s")]
    pub report_max_age_s: u64,
    /// The most that a peering between regions may have, in Mbit/s. Default 10 000.
    #[serde(default = "default_max_bandwidth_mbit")]
    pub max_bandwidth_mbit: u32,
    /// How many hosts an inventory may take out without `--confirm`, in percent of all; 100 for any number. Default 5.
    #[serde(default = "default_unconfirmed_host_removals_percent")]
    pub unconfirmed_host_removals_percent: u32,
    /// How many live peerings an account may initiate from a region, unless an operator says otherwise. Default 50.
    #[serde(default = "default_peerings_per_region")]
    pub peerings_per_region: u32,
    /// How many VPCs an account may make in a region, unless an operator says otherwise. Default 200.
    #[serde(default = "default_vpcs_per_region")]
    pub vpcs_per_region: u32,
    /// How many CIDRs its VPCs in a region may have beside their first ones. Default 400.
    #[serde(default = "default_secondary_cidrs_per_region")]
    pub secondary_cidrs_per_region: u32,
    /// How many tags its live peerings from a region may have together. Default 500.
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
    /// How long a request waits for the receiver's answer before it expires, in seconds. Default 24 hours.
    #[serde(default = "default_request_expires_s")]
    pub request_expires_s: u64,
    /// How long the records of peerings that are over are kept, in seconds. Default 7 days.
    #[serde(default = "default_week_s")]
    pub ended_kept_s: u64,
    /// How long the peerings of an account in arrear stay suspended before they are deleted, in seconds. Default 7 days.
    #[serde(default = "default_week_s")]
    pub arrear_kept_s: u64,
    /// How long the audit trail is kept, in seconds. Default 90 days.
    #[serde(default = "default_audit_kept_s")]
    pub audit_kept_s: u64,
    /// How much room the audit trail may take, in MiB. Where it is full, the oldest refusals of whoever has most go first.
    /// Default 512; 0: no limit.
    #[serde(default = "default_audit_max_mb")]
    pub audit_max_mb: u64,
    /// How much of it one account may take, in MiB. Default 32; 0: no limit.
    #[serde(default = "default_audit_account_max_mb")]
    pub audit_account_max_mb: u64,
    /// How many requests an account may send each second on the whole. Default 100; 0: as many as it likes.
    #[serde(default = "default_requests_per_s")]
    pub requests_per_s: u32,
    /// How many requests an account may send at once after it was quiet. Default 500.
    #[serde(default = "default_requests_burst")]
    pub requests_burst: u32,
    /// How many wrong credentials may come from one address (IPv6: a network of 64 bits) each minute on the whole.
    /// Default 12; 0: as many as there are.
    #[serde(default = "default_failures_per_min")]
    pub failures_per_min: u32,
    /// How many wrong credentials may come from one address at once. Default 20.
    #[serde(default = "default_failures_burst")]
    pub failures_burst: u32,
    /// How often a day an account may be told that a network of its own overlaps one of another account that it does not see, by
    /// refusals and dry runs, for each pair of accounts. Default 30; 0: as often as it asks.
    #[serde(default = "default_overlap_checks_per_day")]
    pub overlap_checks_per_day: u32,
    /// By how much the machine's clock may differ from the time that has passed before it counts as having leapt, in seconds.
    /// Default 10 minutes.
    #[serde(default = "default_clock_leap_s")]
    pub clock_leap_s: u64,
    /// For how long a clock must have been steady after it has leapt to be believed without an operator's word, in seconds.
    /// Default 6 hours.
    #[serde(default = "default_clock_believed_after_s")]
    pub clock_believed_after_s: u64,
    /// The time zone in which months of bills begin, and dates without a time, as the tz database names it. Default
    /// `Asia/Shanghai`.
    #[serde(default = "default_billing_time_zone")]
    pub billing_time_zone: String,
    /// The currency of all prices. Default `CNY`.
    #[serde(default = "default_currency")]
    pub currency: String,
    /// Prefixes within the provider's own network that webhooks may be sent to all the same, also without TLS. Default none.
    #[serde(default, deserialize_with = "prefix::list", skip_serializing_if = "Vec::is_empty")]
    pub webhooks_allowed: Vec<IpNet>,
    /// Prefixes that webhooks may not be sent to, besides all that are none of the public internet and the hosts' addresses: the
    /// provider's own public ones. Default none.
    #[serde(default, deserialize_with = "prefix::list", skip_serializing_if = "Vec::is_empty")]
    pub webhooks_refused: Vec<IpNet>,
    /// How the log is written: `text` or `json`. Default `text`.
    #[serde(default)]
    pub log_format: LogFormat,
    /// What peerings between regions cost. Without a price, metering goes on and amounts are empty.
    #[serde(default)]
    pub prices: Vec<Price>,
    /// A further address where `/metrics` and `/healthz` are served without TLS. By default there is none.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// How many bytes of request bodies the controller keeps at a time, in MiB: half for operators, half for accounts. One that
    /// would be too many is refused with 503. Default 256, which is the least.
    #[serde(default = "default_bodies_mib")]
    pub bodies_mib: u32,
    /// What clients may take of the HTTP server.
    #[serde(default)]
    pub connections: ConnectionSettings,
    /// The store of several controllers, one of which leads. Either this or `store`.
    #[serde(default)]
    pub etcd: Option<EtcdSettings>,
    /// The controller's certificate and whose word it takes; the controller does not start where nothing is said.
    #[serde(default)]
    pub tls: Option<Tls>,
}

/// What an operator may do. Each may do what those before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperatorRole {
    /// Look at everything but secrets.
    Read,
    /// Change inventory, peerings, quotas and charge statuses, remove hosts, make backups, confirm the clock.
    Operate,
    /// Make accounts, and make and remove their credentials.
    Admin,
}

impl OperatorRole {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorSettings {
    /// How the audit trail names the operator (`operator/NAME`): 1 to 32 of `a-z`, `0-9`, `.`, `_` and `-`.
    pub name: String,
    /// What the operator may do.
    pub role: OperatorRole,
    /// A file that holds the operator's bearer token, of at least 16 characters. It must not be readable by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The URI in the operator's certificate. Default `spiffe://cps-peering/operator/NAME`, as `cps-peering pki issue operator
    /// --name NAME` makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

impl OperatorSettings {
    /// The URI in the operator's certificate.
    pub fn certificate(&self) -> String {
        self.certificate.clone().unwrap_or_else(|| crate::tls::operator(&self.name))
    }
}

/// An operator whom the settings name wrongly.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OperatorError {
    /// The name cannot be one.
    #[error("setting `operators`: the name {0:?} is not 1 to 32 characters of a-z, 0-9, '.', '_' and '-'")]
    Name(String),
    /// Two have one name.
    #[error("setting `operators`: {0:?} is there twice")]
    Twice(String),
    /// The certificate is for somebody else.
    #[error("setting `operators`: {certificate:?} of {name:?} is the name of a daemon, or no URI")]
    Certificate {
        /// The operator.
        name: String,
        /// The URI.
        certificate: String,
    },
}

/// An etcd cluster that several controllers share, and how this one takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdSettings {
    /// The client URLs of etcd's members, for instance `https://192.0.2.11:2379`.
    pub endpoints: Vec<String>,
    /// What all keys begin with. Default `/cps-peering/`.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// The URL under which the other controllers reach this one when it leads, for instance `https://192.0.2.1:7400`.
    pub advertise: String,
    /// How long etcd keeps a leader that says nothing, in whole seconds: 2 to 60. Default 3. A question about it may take about a quarter
    /// of it: longer where etcd is slow, shorter for a faster take-over.
    #[serde(default = "default_lease_s")]
    pub lease_s: u64,
    /// How large etcd's database may become, in MiB: its `--quota-backend-bytes`. The last tenth is kept free for deletes, rejects
    /// and suspensions. Default 2048, as etcd's own.
    #[serde(default = "default_quota_mb")]
    pub quota_mb: u64,
    /// The folder for backups that are made while the controller runs. Default
    /// `/var/lib/cps-peering-controller/backups`.
    #[serde(default = "default_backups")]
    pub backups: PathBuf,
    /// The user that etcd is to know, where its authentication is enabled.
    #[serde(default)]
    pub user: Option<String>,
    /// A file that holds the user's password. It must not be readable by others.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Who signs for etcd's members, where the endpoints are `https://`.
    #[serde(default)]
    pub tls: Option<EtcdTls>,
}

/// Certificates for the connections to etcd, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdTls {
    /// Those who sign for etcd's members.
    pub ca: PathBuf,
    /// The controller's certificate for etcd, where it wants one.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

/// Where the state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorePlace<'a> {
    /// In a file, by this controller alone.
    Embedded(&'a Path),
    /// In etcd, by several controllers.
    Etcd(&'a EtcdSettings),
}

/// Settings that do not say where the state is kept, or say it wrongly.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StorePlaceError {
    /// Neither is there.
    #[error("setting `store` is missing: name a file, or say `[etcd]` where several controllers share an etcd cluster")]
    Missing,
    /// Both are there.
    #[error("settings `store` and `etcd` are both there: keep the one with the store to be used")]
    Both,
    /// Controllers that share a store must have the same key.
    #[error(
        "setting `store_key_file` is missing: controllers that share an etcd cluster need the same key; make one with \
         `openssl rand -hex 32`, for nobody else to read, and copy it to each"
    )]
    KeyFile,
    /// A value of `etcd` cannot be.
    #[error("setting `etcd.{field}`: {value:?} {rule}")]
    Etcd {
        /// The VPC.
        field: &'static str,
        /// What it says.
        value: String,
        /// What it should be.
        rule: &'static str,
    },
}

impl ControllerSettings {
    /// Whether clients are left enough.
    pub fn check(&self) -> Result<(), OutOfRange> {
        // One inventory at a time from one address, see `api::body`.
        const LEAST_BODIES_MIB: u64 = 256;
        OutOfRange::check("bodies_mib", self.bodies_mib.into(), LEAST_BODIES_MIB..=u64::from(u32::MAX >> 12))?;
        self.connections.check()
    }

    /// Whether operators are named so that they can be told from each other and from daemons.
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
            (None, Some(etcd)) => etcd.check(self.tls.as_ref()).map(|()| StorePlace::Etcd(etcd)),
            (None, None) => Err(StorePlaceError::Missing),
            (Some(_), Some(_)) => Err(StorePlaceError::Both),
        }
    }

    /// The file with the key that secret keys of accounts are sealed with.
    pub fn store_key(&self) -> Result<PathBuf, StorePlaceError> {
        match (&self.store_key_file, self.place()?) {
            (Some(file), _) => Ok(file.clone()),
            (None, StorePlace::Embedded(store)) => Ok(store.with_extension("key")),
            (None, StorePlace::Etcd(_)) => Err(StorePlaceError::KeyFile),
        }
    }
}

impl EtcdSettings {
    /// `own`: the controller's own TLS, which the other controllers meet at `advertise`.
    fn check(&self, own: Option<&Tls>) -> Result<(), StorePlaceError> {
        let wrong =
            |field, value: &dyn ToString, rule| Err(StorePlaceError::Etcd { field, value: value.to_string(), rule });
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

/// Whether it is a scheme, a host and perhaps a port, and nothing else.
fn is_base_url(text: &str) -> bool {
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

fn default_store_reserve_mb() -> u64 {
    64
}

fn default_backups() -> PathBuf {
    "/var/lib/cps-peering-controller/backups".into()
}

/// What to do about a missing setting `tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "setting `tls` is missing: name `ca`, `cert` and `key` (`cps-peering pki` makes them), or say tls = \"off\" where nobody \
     else reaches this daemon"
)]
pub struct NoTls;

/// The certificates that a setting names; none where TLS is off. That it is off has to be said.
pub fn tls_files(tls: Option<&Tls>) -> Result<Option<&TlsFiles>, NoTls> {
    match tls {
        None => Err(NoTls),
        Some(Tls::Off) => Ok(None),
        Some(Tls::On(files)) => Ok(Some(files)),
    }
}

/// What peerings between two regions cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// The two regions, in any order; none for all pairs that have no price of their own.
    #[serde(default)]
    pub regions: Option<[RegionId; 2]>,
    /// Prices by bandwidth: each Mbit/s costs what the tier in which it lies says.
    pub tiers: Vec<PriceTier>,
}

/// A range of bandwidth with one price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceTier {
    /// The last Mbit/s of the tier; none for the last tier.
    #[serde(default)]
    pub up_to_mbit: Option<u32>,
    /// The price of a Mbit/s for an hour, a decimal number with at most nine decimals, as a text: `"0.05"`.
    pub per_mbit_hour: String,
}

/// A price table that says nothing sensible.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PriceError {
    /// A price is not a number.
    #[error("per_mbit_hour {0:?} is not a decimal number with at most nine decimals")]
    NotANumber(String),
    /// The tiers do not go upwards to one without end.
    #[error("tiers must go upwards by up_to_mbit, and the last one must have none")]
    Tiers,
}

impl Price {
    /// The tiers with their prices in billionths.
    pub fn checked(&self) -> Result<Vec<(Option<u32>, u64)>, PriceError> {
        let mut below = Some(0);
        let mut tiers = Vec::new();
        for tier in &self.tiers {
            // Nothing comes behind a tier without end.
            let least = below.ok_or(PriceError::Tiers)?;
            if tier.up_to_mbit.is_some_and(|top| top <= least) {
                return Err(PriceError::Tiers);
            }
            below = tier.up_to_mbit;
            tiers.push((tier.up_to_mbit, billionths(&tier.per_mbit_hour)?));
        }
        if below.is_some() { Err(PriceError::Tiers) } else { Ok(tiers) }
    }
}

/// A decimal number in billionths.
fn billionths(text: &str) -> Result<u64, PriceError> {
    const DECIMALS: usize = 9;
    let wrong = || PriceError::NotANumber(text.to_owned());
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || decimals.len() > DECIMALS || !digits(whole) || !digits(decimals) {
        return Err(wrong());
    }
    format!("{whole}{decimals:0<DECIMALS$}").parse().map_err(|_| wrong())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_that_no_underlay_has_is_refused() {
        let shipped = include_str!("../agent.toml");
        let read = |mtu: &str| toml::from_str::<AgentSettings>(&format!("underlay_mtu = {mtu}\n{shipped}"));
        for legal in ["68", "1500", "65535"] {
            assert_eq!(read(legal).unwrap().underlay_mtu, Some(legal.parse().unwrap()));
        }
        for wrong in ["0", "67", "65536", "4000000000"] {
            let said = read(wrong).unwrap_err().to_string();
            assert!(said.contains(&format!("underlay_mtu is {wrong}, and must be 68 to 65535")), "{said}");
        }
    }

    #[test]
    fn the_shipped_files_are_legal() {
        let agent: AgentSettings = toml::from_str(include_str!("../agent.toml")).unwrap();
        assert_eq!(agent.vxlan_port, 4789);
        assert_eq!(agent.underlay_filter_entries, 1 << 20);
        assert!(tls_files(agent.tls.as_ref()).unwrap().is_some());
        let controller: ControllerSettings = toml::from_str(include_str!("../controller.toml")).unwrap();
        assert_eq!((controller.delete_wait_ms, controller.request_expires_s), (2000, 86_400));
        assert!(tls_files(controller.tls.as_ref()).unwrap().is_some());
    }

    #[test]
    fn that_there_is_no_tls_has_to_be_said() {
        assert_eq!(tls_files(None), Err(NoTls));
        assert_eq!(tls_files(Some(&Tls::Off)), Ok(None));
    }

    #[test]
    fn a_price_table_is_checked() {
        let check = |tiers: &str| {
            let price: Price = toml::from_str(&format!("tiers = [{tiers}]")).unwrap();
            price.checked()
        };
        let tier = |top: &str, price: &str| format!("{{ {top} per_mbit_hour = '{price}' }},");
        let legal = tier("up_to_mbit = 5,", "0.5") + &tier("", "12.000000001");
        assert_eq!(check(&legal).unwrap(), [(Some(5), 500_000_000), (None, 12_000_000_001)]);
        for illegal in ["", ".5", "1e3", "-1", "0.0000000001", "99999999999"] {
            assert_eq!(check(&tier("", illegal)), Err(PriceError::NotANumber(illegal.to_owned())));
        }
        let endless = tier("up_to_mbit = 5,", "1");
        let backwards = tier("up_to_mbit = 5,", "1") + &tier("up_to_mbit = 5,", "1") + &tier("", "1");
        let twice = tier("", "1") + &tier("", "2");
        for illegal in [String::new(), endless, backwards, twice] {
            assert_eq!(check(&illegal), Err(PriceError::Tiers), "{illegal}");
        }
    }

    #[test]
    fn the_state_is_kept_in_exactly_one_place() {
        let text = "listen = '[::]:1'\noperator_token_file = 't'\ntls = 'off'\n";
        let settings = |more: &str| toml::from_str::<ControllerSettings>(&format!("{text}{more}")).unwrap();
        assert_eq!(settings("").place(), Err(StorePlaceError::Missing));
        let file = settings("store = 's'");
        assert_eq!(file.place(), Ok(StorePlace::Embedded(Path::new("s"))));
        let etcd = "[etcd]\nendpoints = ['http://[::1]:2379', 'http://e']\nadvertise = 'http://192.0.2.1:7400'\n";
        assert_eq!(settings(&format!("store = 's'\n{etcd}")).place(), Err(StorePlaceError::Both));
        let legal = settings(etcd);
        assert!(
            matches!(legal.place(), Ok(StorePlace::Etcd(etcd)) if (etcd.lease_s, &*etcd.prefix) == (3, "/cps-peering/"))
        );
        // A key made by one controller would be no other's.
        assert_eq!(legal.store_key(), Err(StorePlaceError::KeyFile));
        let named = ControllerSettings { store_key_file: Some("k".into()), ..legal.clone() };
        assert_eq!((named.store_key(), file.store_key()), (Ok("k".into()), Ok("s.key".into())));
        let again: ControllerSettings = toml::from_str(&toml::to_string(&legal).unwrap()).unwrap();
        assert_eq!(again, legal);

        let refused = |change: &dyn Fn(&mut EtcdSettings)| {
            let mut settings = legal.clone();
            change(settings.etcd.as_mut().unwrap());
            settings.place().unwrap_err().to_string()
        };
        let tls = || Some(EtcdTls { ca: "ca".into(), cert: None, key: Some("key".into()) });
        for (named, said) in [
            ("endpoints", refused(&|it| it.endpoints.clear())),
            ("ftp://e", refused(&|it| it.endpoints[1] = "ftp://e".into())),
            ("http://e/v3", refused(&|it| it.endpoints[1] = "http://e/v3".into())),
            ("https://e", refused(&|it| it.endpoints[1] = "https://e".into())),
            ("etcd.tls", refused(&|it| it.tls = tls())),
            ("etcd.tls", refused(&|it| (it.tls, it.endpoints) = (tls(), vec!["https://e".into()]))),
            ("prefix", refused(&|it| it.prefix = "/x".into())),
            ("advertise", refused(&|it| it.advertise = "192.0.2.1".into())),
            ("advertise", refused(&|it| it.advertise = "https://192.0.2.1".into())),
            ("lease_s", refused(&|it| it.lease_s = 1)),
            ("password_file", refused(&|it| it.user = Some("me".into()))),
        ] {
            assert!(said.contains(named), "{named}: {said}");
        }
    }

    #[test]
    fn operators_are_named_so_that_they_can_be_told_from_each_other() {
        let check = |operators: &str| {
            let text =
                format!("listen = '[::]:1'\noperator_token_file = 't'\ntls = 'off'\noperators = [{operators}]\n");
            toml::from_str::<ControllerSettings>(&text)
                .map_err(|error| error.to_string())
                .and_then(|settings| settings.check_operators().map_err(|error| error.to_string()))
        };
        let li = "{ name = 'li', role = 'read' }";
        let wang = "{ name = 'wang.2', role = 'operate', token_file = 't', certificate = 'urn:wang' }";
        assert_eq!(check(""), Ok(()));
        assert_eq!(check(&format!("{li}, {wang}")), Ok(()));
        for (illegal, named) in [
            (format!("{li}, {li}"), "twice"),
            ("{ name = '', role = 'read' }".to_owned(), "\"\""),
            ("{ name = 'Li', role = 'read' }".to_owned(), "\"Li\""),
            ("{ name = 'a/b', role = 'read' }".to_owned(), "a/b"),
            (format!("{{ name = '{}', role = 'read' }}", "x".repeat(33)), "1 to 32"),
            ("{ name = 'x', role = 'root' }".to_owned(), "root"),
            ("{ name = 'x', role = 'read', certificate = 'spiffe://cps-peering/controller' }".to_owned(), "daemon"),
            ("{ name = 'x', role = 'read', certificate = 'spiffe://cps-peering/operator' }".to_owned(), "daemon"),
            ("{ name = 'x', role = 'read', certificate = 'spiffe://cps-peering/operator/y' }".to_owned(), "daemon"),
            ("{ name = 'x', role = 'read', certificate = 'x' }".to_owned(), "no URI"),
        ] {
            let error = check(&illegal).unwrap_err();
            assert!(error.contains(named), "{illegal}: {error}");
        }
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let error = toml::from_str::<AgentSettings>("listen = '[::]:1'\nledgr = 'x'\n").unwrap_err().to_string();
        assert!(error.contains("ledgr"), "{error}");
    }
}
