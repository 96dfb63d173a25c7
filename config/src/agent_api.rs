//! The agent's HTTP interface: what the controller calls.
//!
//! | call | meaning | answers |
//! |---|---|---|
//! | `PUT /v1/config` | a whole [`HostConfig`](crate::HostConfig) | 200 [`HostReport`](crate::HostReport), 400, 409, 503 |
//! | `PATCH /v1/config` | a [`HostPatch`](crate::HostPatch); 409 when its base is not what the agent has | the same |
//! | `PUT /v1/shares` | [`Grants`](crate::traffic::Grants): shares of limits that several hosts have in common | 200 [`TrafficReport`](crate::traffic::TrafficReport), 400, 409, 503 |
//! | `PUT /v1/crl` | certificate revocation lists in PEM | 204, 400, 503 |
//! | `POST /v1/certificate/request` | generates a new key, for the certificate that replaces the agent's own | 200 a certificate signing request in PEM (PKCS #10), 503 |
//! | `PUT /v1/certificate` | the certificate for the newest request in PEM, followed by its intermediates | 204, 400, 409 without a request, 503 |
//! | `DELETE /v1/cluster` | releases the host: any other cluster may configure it from now on | 204, 409, 503 |
//! | `GET /v1/traffic` | traffic counters | 200 [`TrafficReport`](crate::traffic::TrafficReport) |
//! | `GET /v1/probes` | the state of peerings, from continuous probes | 200 [`ProbeReport`](crate::probe::ProbeReport) |
//! | `GET /v1/status` | the host's status | 200 [`HostReport`](crate::HostReport) |
//! | `GET /v1/diagnosis` | what is right and wrong with the host | 200 [`HostDiagnosis`](crate::diagnosis::HostDiagnosis), 503 while another one is being made |
//! | `GET /v1/snapshot` | all that the agent knows about its kernel | 200 [`HostSnapshot`](crate::diagnosis::HostSnapshot), 503 while another one is being made |
//! | `POST /v1/trace` | a [`TraceQuery`](crate::trace::TraceQuery): one end of the path between two addresses | 200 [`TraceAnswer`](crate::trace::TraceAnswer), 400, 503 if too many are waiting |
//! | `POST /v1/probe` | [`PathEndpoints`](crate::trace::PathEndpoints): packets to a gateway on another host | 200 [`ProbeAnswer`](crate::probe::ProbeAnswer), 400, 503 if too many are being sent |
//! | `GET /healthz` | the process is alive | 200 |
//! | `GET /metrics` | metrics for Prometheus | 200 |
//!
//! Controllers name their cluster in the header [`CLUSTER_HEADER`], and agents name theirs in all responses. A push or
//! shares of another cluster are refused with 409.
//!
//! The calls about certificates exist over TLS only. Agents before 0.3.0 respond to them with 404.
//!
//! Over TLS the first seven, `/v1/traffic`, `/v1/probes`, `/v1/trace` and `/v1/probe` are for the
//! [controller](crate::tls::CONTROLLER) only, the report also for the host itself; others get 403. Health and metrics
//! are for every client that completes the handshake.
//!
//! The response to a push is sent when it has been applied to the kernel and the kernel was read again, or after
//! [`PUSH_ANSWER_WITHIN`] with a report whose `applied` is still older. By then the configuration is in the ledger: a
//! response of 200 means that it will survive a reboot. Pushing again what the agent has already is allowed and changes
//! nothing. If the disk does not respond in that time, the response is 503: the configuration is applied to the kernel
//! all the same, and nothing is confirmed.
//!
//! Errors carry an [`ErrorBody`]. 409 means that the agent has something newer, or other content under the same
//! revision, or not the patch's base; the body's `desired` then is what it has.

use crate::revision::Revision;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Where a configuration is put or patched.
pub const CONFIG_PATH: &str = "/v1/config";
/// Where the report is read.
pub const STATUS_PATH: &str = "/v1/status";
/// Where an agent's diagnosis of its host is read.
pub const DIAGNOSIS_PATH: &str = "/v1/diagnosis";
/// Where an agent's snapshot of its host is read.
pub const SNAPSHOT_PATH: &str = "/v1/snapshot";
/// Where an agent traces a path.
pub const TRACE_PATH: &str = "/v1/trace";
/// How long an agent reads its kernel for a trace.
pub const TRACE_ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Where an agent sends probes on request.
pub const PROBE_PATH: &str = "/v1/probe";
/// How long an agent sends probes, and waits for replies.
pub const PROBE_ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Where the results of an agent's continuous probes are read.
pub const PROBES_PATH: &str = "/v1/probes";
/// Where shares are granted.
pub const SHARES_PATH: &str = "/v1/shares";
/// Where revocation lists are put.
pub const CRL_PATH: &str = "/v1/crl";
/// Where an agent generates a key and a certificate signing request.
pub const CERTIFICATE_REQUEST_PATH: &str = "/v1/certificate/request";
/// Where the certificate for the newest request is put.
pub const CERTIFICATE_PATH: &str = "/v1/certificate";
/// The longest certificate request, and the longest certificate with its intermediates, in bytes of PEM.
pub const MAX_CERTIFICATE: usize = 64 << 10;
/// Where a host is released from its cluster.
pub const CLUSTER_PATH: &str = "/v1/cluster";
/// The header in which a controller names its [`ClusterId`](crate::cluster::ClusterId), and an agent the one that it
/// belongs to. Releases that do not know it ignore it.
pub const CLUSTER_HEADER: &str = "x-cps-peering-cluster";
/// Where traffic counters are read.
pub const TRAFFIC_PATH: &str = "/v1/traffic";
/// Where the process is checked for being alive.
pub const HEALTH_PATH: &str = "/healthz";
/// Where Prometheus reads metrics.
pub const METRICS_PATH: &str = "/metrics";

/// How long an agent delays the response to a push while the kernel is not there yet.
pub const PUSH_ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The body of a response other than 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, with the value.
    pub message: String,
    /// The newest configuration that the agent has accepted.
    #[serde(default)]
    pub desired: Option<Revision>,
}
