//! This host's shares of limits that it has in common with other hosts (rule B3).
//!
//! A configuration gives a host its initial share, and the controller grants others with `PUT /v1/shares`. Grants are
//! kept in a file beside the ledger, written before they are confirmed: after a reboot the host uses what it had, which
//! the controller still counts as taken. The configuration in the ledger may be older than the grants, and give a
//! larger share: so none is confirmed while a newer configuration is not stored.

use crate::{
    file,
    objects::{Desired, Shaper},
    ownership::DeviceName,
};
use cps_peering_config::{
    Revision, SharedHostConfig,
    host_config::{Limit, Share},
    net::Vni,
    traffic::Grants,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// The granted shares. Pure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// The newest grants that were accepted; none before the first ones.
    pub revision: Option<Revision>,
    /// By the side's own VNI.
    sides: BTreeMap<Vni, Share>,
}

impl Shares {
    /// The host's share of a limit.
    pub fn of(&self, vni: Vni, limit: Limit) -> Share {
        self.sides.get(&vni).map_or(limit.share, |granted| limit.share.max(*granted))
    }

    /// Takes grants, or returns the revision that they are older than. The same ones can be taken again.
    pub fn grant(&mut self, grants: &Grants) -> Result<(), Revision> {
        match self.revision {
            Some(have) if grants.revision < have => Err(have),
            _ => {
                self.revision = Some(grants.revision);
                self.sides.extend(&grants.sides);
                Ok(())
            }
        }
    }

    /// Follows a change of the configuration. A host that had all of a limit keeps it until the controller reduces it;
    /// a host that leaves a side loses its share.
    pub fn follow(&mut self, old: &SharedHostConfig, new: &SharedHostConfig) {
        let limit = |config: &SharedHostConfig, vni| config.sides.get(&vni).and_then(|side| side.limit);
        let peering = |config: &SharedHostConfig, vni| config.sides.get(&vni).map(|side| side.peering.clone());
        self.sides.retain(|vni, _| limit(new, *vni).is_some() && peering(old, *vni) == peering(new, *vni));
        for (vni, side) in &new.sides {
            let (Some(now), Some(before)) = (side.limit, limit(old, *vni)) else { continue };
            if now.share < before.share && peering(old, *vni).as_ref() == Some(&side.peering) {
                self.sides.insert(*vni, self.of(*vni, before));
            }
        }
        // A host that has all of it needs no grant, and must not fall back to an old one.
        let whole = |vni: &Vni| limit(new, *vni).is_some_and(|limit| limit.share == Share::WHOLE);
        self.sides.retain(|vni, _| !whole(vni));
    }

    /// The shaper of a side with a limit, on a device with this MTU in bytes.
    pub fn shaper(&self, vni: Vni, limit: Limit, mtu: u32) -> Shaper {
        Shaper::new(limit.bytes_per_second(self.of(vni, limit)), mtu)
    }

    /// Replaces the configuration's shares by the granted ones.
    pub fn adjust(&self, config: &SharedHostConfig, desired: &mut Desired) {
        for vni in self.sides.keys() {
            let device = DeviceName::peer(*vni);
            let limit = config.sides.get(vni).and_then(|side| side.limit);
            if let (Some(limit), Some(vxlan)) = (limit, desired.vxlans.get(&device)) {
                desired.shapers.insert(device, self.shaper(*vni, limit, vxlan.mtu));
            }
        }
    }
}

/// Where grants are kept.
#[derive(Debug, Clone)]
pub struct SharesFile {
    path: PathBuf,
    /// The content that is known to be in the file, except for the revision of the grants: a change of that alone is
    /// not worth a write.
    holds: Option<BTreeMap<Vni, Share>>,
}

impl SharesFile {
    /// The file beside a ledger.
    pub fn beside(ledger: &Path) -> Self {
        Self { path: ledger.with_extension("shares"), holds: None }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was stored last. A file that cannot be read costs the host its grants until the next ones, which come
    /// within seconds: that is no reason not to start.
    pub fn load(&self) -> Shares {
        file::load(&self.path, "shares of common limits are unknown until they are granted")
    }

    /// Stores grants. On return they survive a power failure.
    pub fn store(&mut self, shares: &Shares) -> io::Result<()> {
        if self.holds.as_ref() != Some(&shares.sides) {
            self.holds = None;
            file::replace(&self.path, &[&serde_json::to_vec(shares)?])?;
            self.holds = Some(shares.sides.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Side, config_with_sides};

    fn share(millionths: u32) -> Share {
        Share::of_millionths(millionths).unwrap()
    }

    fn vni(number: u32) -> Vni {
        number.try_into().unwrap()
    }

    /// A host with side 7, which has this initial share of its limit.
    fn config(peering: &str, share: Option<u32>) -> SharedHostConfig {
        config_with_sides(1, [Side { vni: 7, peering: peering.to_owned(), share }])
    }

    fn grants(number: u64, millionths: u32) -> Grants {
        Grants { revision: Revision { epoch: 1, number }, sides: [(vni(7), share(millionths))].into() }
    }

    fn of_seven(shares: &Shares, config: &SharedHostConfig) -> u32 {
        shares.of(vni(7), config.sides[&vni(7)].limit.unwrap()).millionths()
    }

    #[test]
    fn older_grants_are_refused_and_change_nothing() {
        let mut shares = Shares::default();
        shares.grant(&grants(5, 300_000)).unwrap();
        assert_eq!(shares.grant(&grants(4, 900_000)), Err(Revision { epoch: 1, number: 5 }));
        let newer_epoch = Grants { revision: Revision { epoch: 2, number: 0 }, sides: BTreeMap::new() };
        shares.grant(&newer_epoch).unwrap();
        assert!(shares.grant(&grants(6, 900_000)).is_err(), "the controller before this one");
        assert_eq!(of_seven(&shares, &config("p", Some(5000))), 300_000);
    }

    #[test]
    fn a_host_that_had_all_keeps_it_until_it_is_reduced() {
        let (alone, together) = (config("p", Some(1_000_000)), config("p", Some(2500)));
        let mut shares = Shares::default();
        shares.follow(&alone, &together);
        assert_eq!(of_seven(&shares, &together), 1_000_000);
        shares.grant(&grants(1, 400_000)).unwrap();
        assert_eq!(of_seven(&shares, &together), 400_000);
        shares.follow(&together, &alone);
        assert_eq!(of_seven(&shares, &alone), 1_000_000);
        shares.follow(&alone, &together);
        assert_eq!(of_seven(&shares, &together), 1_000_000, "not what was granted long ago");
    }

    #[test]
    fn a_share_goes_with_its_side() {
        let together = config("p", Some(2500));
        let mut shares = Shares::default();
        shares.grant(&grants(1, 400_000)).unwrap();
        shares.follow(&together, &config("p", None));
        shares.follow(&config("p", None), &together);
        assert_eq!(of_seven(&shares, &together), 2500);
        // A VNI that another peering has now.
        let mut shares = Shares::default();
        shares.follow(&config("p", Some(1_000_000)), &config("q", Some(2500)));
        assert_eq!(of_seven(&shares, &together), 2500);
    }

    #[test]
    fn what_is_stored_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = SharesFile::beside(&folder.path().join("ledger"));
        assert_eq!(file.load(), Shares::default());
        let mut shares = Shares::default();
        shares.grant(&grants(3, 123_456)).unwrap();
        file.store(&shares).unwrap();
        assert_eq!(file.load(), shares);
        for release in ["0.1.0", "0.2.0"] {
            let golden = format!("{}/../tests/golden/{release}/shares", env!("CARGO_MANIFEST_DIR"));
            std::fs::copy(golden, folder.path().join("ledger.shares")).unwrap();
            assert_eq!(of_seven(&file.load(), &config("p", Some(2500))), 497_500);
        }
        std::fs::write(folder.path().join("ledger.shares"), "{").unwrap();
        assert_eq!(file.load(), Shares::default());
    }
}
