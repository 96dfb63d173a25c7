//! The agent's HTTP interface: what the controller calls.
//!
//! | call | meaning | answers |
//! |---|---|---|
//! | `PUT /v1/config` | a whole [`HostConfig`](crate::HostConfig) | 200 [`HostReport`](crate::HostReport), 400, 409, 503 |
//! | `PATCH /v1/config` | a [`HostPatch`](crate::HostPatch); 409 when its base is not what the agent has | the same |
//! | `PUT /v1/shares` | [`Grants`](crate::traffic::Grants): parts of limits that several hosts share | 200 [`TrafficReport`](crate::traffic::TrafficReport), 400, 409, 503 |
//! | `PUT /v1/crl` | certificate revocation lists in PEM | 204, 400, 503 |
//! | `POST /v1/certificate/request` | a new key is made, for the certificate that replaces the agent's own | 200 a certificate signing request in PEM (PKCS #10), 503 |
//! | `PUT /v1/certificate` | the certificate for the newest request in PEM, those between it and the CA behind it | 204, 400, 409 without a request, 503 |
//! | `DELETE /v1/cluster` | the host is let go: any other cluster may configure it from now on | 204, 409, 503 |
//! | `GET /v1/traffic` | what passed | 200 [`TrafficReport`](crate::traffic::TrafficReport) |
//! | `GET /v1/probes` | how peerings are, by the probes that it sends all the time | 200 [`ProbeReport`](crate::probe::ProbeReport) |
//! | `GET /v1/status` | how it stands | 200 [`HostReport`](crate::HostReport) |
//! | `GET /v1/diagnosis` | what is right and wrong with the host | 200 [`HostDiagnosis`](crate::diagnosis::HostDiagnosis), 503 while another one is made |
//! | `GET /v1/snapshot` | all that it knows of its kernel | 200 [`HostSnapshot`](crate::diagnosis::HostSnapshot), 503 while another one is made |
//! | `POST /v1/trace` | a [`TraceQuery`](crate::trace::TraceQuery): one end of the path between two addresses | 200 [`TraceAnswer`](crate::trace::TraceAnswer), 400, 503 while too many are asked for |
//! | `POST /v1/probe` | [`PathEndpoints`](crate::trace::PathEndpoints): packets to a gateway on another host | 200 [`ProbeAnswer`](crate::probe::ProbeAnswer), 400, 503 while too many are sent |
//! | `GET /healthz` | the process is alive | 200 |
//! | `GET /metrics` | figures for Prometheus | 200 |
//!
//! Controllers say their cluster in the header [`CLUSTER_HEADER`], and agents whose they are in all answers. A push or shares of another
//! cluster are refused with 409.
//!
//! Those for certificates are there over TLS alone. Agents before 0.3.0 answer them with 404.
//!
//! Over TLS the first seven, `/v1/traffic`, `/v1/probes`, `/v1/trace` and `/v1/probe` are for the [controller](crate::tls::CONTROLLER) alone, the report also
//! for the host itself; 403 for others. Health and figures are for every client that the handshake lets in.
//!
//! A push is answered when the kernel has been brought to it and read again, or after [`PUSH_ANSWER_WITHIN`] with
//! a report whose `applied` is still older. By then the configuration is in the ledger: an answer of 200 means that it
//! will survive a reboot. Pushing again what the agent has already is allowed and changes nothing. Where the disk does not answer
//! in that time, the answer is 503: the kernel is brought to the configuration all the same, and nothing is confirmed.
//!
//! Errors carry an [`ErrorBody`]. 409 means that the agent has something newer, or other content under the same
//! revision, or not the patch's base; the body's `desired` then says what it has.

use crate::revision::Revision;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Where a configuration is put or patched.
pub const CONFIG_PATH: &str = "/v1/config";
/// Where the report is read.
pub const STATUS_PATH: &str = "/v1/status";
/// Where an agent says what is right and wrong with its host.
pub const DIAGNOSIS_PATH: &str = "/v1/diagnosis";
/// Where an agent says all that it knows of its host.
pub const SNAPSHOT_PATH: &str = "/v1/snapshot";
/// Where an agent is asked about a path.
pub const TRACE_PATH: &str = "/v1/trace";
/// How long an agent looks at its kernel for a path.
pub const TRACE_ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Where an agent is asked to send probes.
pub const PROBE_PATH: &str = "/v1/probe";
/// How long an agent sends probes, and waits for what comes back.
pub const PROBE_ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Where an agent says what the probes have found that it sends all the time.
pub const PROBES_PATH: &str = "/v1/probes";
/// Where shares are granted.
pub const SHARES_PATH: &str = "/v1/shares";
/// Where revocation lists are put.
pub const CRL_PATH: &str = "/v1/crl";
/// Where an agent is asked to make a key and a certificate signing request.
pub const CERTIFICATE_REQUEST_PATH: &str = "/v1/certificate/request";
/// Where the certificate for the newest request is put.
pub const CERTIFICATE_PATH: &str = "/v1/certificate";
/// The longest request for a certificate, and the longest certificate with those behind it, in bytes of PEM.
pub const MAX_CERTIFICATE: usize = 64 << 10;
/// Where a host's cluster lets it go.
pub const CLUSTER_PATH: &str = "/v1/cluster";
/// The header in which a controller says its [`ClusterId`](crate::cluster::ClusterId), and an agent whose it is. Who does not know it
/// passes it over.
pub const CLUSTER_HEADER: &str = "x-cps-peering-cluster";
/// Where to read what passed.
pub const TRAFFIC_PATH: &str = "/v1/traffic";
/// Where to see that the process is alive.
pub const HEALTH_PATH: &str = "/healthz";
/// Where Prometheus reads figures.
pub const METRICS_PATH: &str = "/metrics";

/// How long an agent holds back the answer to a push while the kernel is not there yet.
pub const PUSH_ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The body of an answer that is not 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong and with which value.
    pub message: String,
    /// The newest configuration that the agent has accepted.
    #[serde(default)]
    pub desired: Option<Revision>,
}
