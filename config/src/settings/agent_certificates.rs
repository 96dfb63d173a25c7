//! Renewal of the agents' certificates.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::{ops::RangeInclusive, path::PathBuf};

/// For how long certificates of agents may be issued, in days. With fewer, the third in which they are renewed would leave no time to
/// notice that it fails.
pub const AGENT_CERTIFICATE_DAYS: RangeInclusive<u32> = 14..=365;

/// Who signs the certificates that replace the agents' own. Where the setting is missing the controller renews none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentCertificateSettings {
    /// The issuer's certificate in PEM, with those between it and a CA of `tls.ca` behind it (`cps-peering pki issue issuer`).
    pub issuer: PathBuf,
    /// Its key. It must not be readable by others.
    pub key: PathBuf,
    /// For how many days certificates are issued, 14 to 365. Default 30. They are renewed when a third of it is left.
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
