//! Renewal of the agents' certificates.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::{ops::RangeInclusive, path::PathBuf};

/// The permitted lifetimes of agents' certificates, in days. If they were shorter, the last third, in which they are
/// renewed, would leave no time to notice failures.
pub const AGENT_CERTIFICATE_DAYS: RangeInclusive<u32> = 14..=365;

/// The issuer of the certificates that replace the agents' own. Without this setting the controller renews none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentCertificateSettings {
    /// The issuer's certificate in PEM, followed by its intermediates up to a CA of `tls.ca` (`cps-peering pki issue
    /// issuer`).
    pub issuer: PathBuf,
    /// Its key. It must not be readable by others.
    pub key: PathBuf,
    /// The lifetime of issued certificates in days, 14 to 365. Default 30. They are renewed when a third of it is left.
    #[serde(default = "default_days", deserialize_with = "days")]
    pub days: u32,
}

fn default_days() -> u32 {
    30
}

fn days<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let days = u32::deserialize(from)?;
    if AGENT_CERTIFICATE_DAYS.contains(&days) {
        return Ok(days);
    }
    let (least, most) = AGENT_CERTIFICATE_DAYS.into_inner();
    Err(D::Error::custom(format!("agent_certificates.days is {days}, and must be {least} to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lifetime_has_bounds() {
        let read = |more: &str| {
            let text = format!("issuer = 'i'\nkey = 'k'\n{more}");
            toml::from_str::<AgentCertificateSettings>(&text).map_err(|error| error.to_string())
        };
        assert_eq!(read("").unwrap().days, 30);
        for days in [14, 365] {
            assert_eq!(read(&format!("days = {days}")).unwrap().days, days);
        }
        for days in [0, 13, 366] {
            let said = read(&format!("days = {days}")).unwrap_err();
            assert!(said.contains(&format!("agent_certificates.days is {days}, and must be 14 to 365")), "{said}");
        }
    }
}
