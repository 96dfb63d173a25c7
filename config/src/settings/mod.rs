//! The settings files of both daemons, as shipped beside this crate: `agent.toml` and `controller.toml`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`agent`] | the agent's settings |
//! | [`agent_certificates`] | how the controller renews agents' certificates |
//! | [`controller`] | the controller's settings, and where its store is |
//! | [`etcd`] | a store that several controllers share |
//! | [`operators`] | named operators |
//! | [`prices`] | what bandwidths cost |
//! | [`pushes`] | how changes reach many hosts |
//! | [`tracing`] | where spans of traces are sent |

mod agent;
mod agent_certificates;
mod controller;
mod etcd;
mod operators;
mod prices;
mod pushes;
#[cfg(test)]
mod tests;
mod tracing;

pub use agent::AgentSettings;
pub use agent_certificates::{AGENT_CERTIFICATE_DAYS, AgentCertificateSettings};
pub use controller::{ControllerSettings, StorePlace, StorePlaceError};
pub use etcd::{EtcdSettingError, EtcdSettings, EtcdTls};
pub use operators::{OperatorError, OperatorRole, OperatorSettings};
pub use prices::{Price, PriceError, PriceTier};
pub use pushes::PushSettings;
pub use tracing::{Ratio, TracingError, TracingSettings};

use crate::tls::{Tls, TlsFiles};
use thiserror::Error;

/// The exit status of a daemon whose settings are wrong, so that restarting it will not help: `EX_USAGE` of
/// `sysexits.h`.
pub const EXIT_SETTINGS: u8 = 64;

/// What to do about a missing setting `tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "setting `tls` is missing: name `ca`, `cert` and `key` (`cps-peering pki` makes them), or set tls = \"off\" if no one else \
     can reach this daemon"
)]
pub struct NoTls;

/// The certificates that a setting names; none if TLS is off, which has to be set explicitly.
pub fn tls_files(tls: Option<&Tls>) -> Result<Option<&TlsFiles>, NoTls> {
    match tls {
        None => Err(NoTls),
        Some(Tls::Off) => Ok(None),
        Some(Tls::On(files)) => Ok(Some(files)),
    }
}
