//! The difference between two configurations.

use super::{SharedHostConfig, SideConfig, VrfConfig};
use crate::{id::VpcId, net::Vni, revision::Revision};
use serde::Deserialize;
use std::{collections::BTreeMap, sync::Arc};

/// The difference between two configurations of a host. `null` removes an entry; entries that are not named stay.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "super::wire::ReadPatch")]
pub struct HostPatch {
    /// The revision that the patch applies to.
    pub base: Revision,
    /// The revision that results.
    pub revision: Revision,
    /// Changed VRFs.
    pub vrfs: BTreeMap<VpcId, Option<Arc<VrfConfig>>>,
    /// Changed sides.
    pub sides: BTreeMap<Vni, Option<Arc<SideConfig>>>,
}

impl HostPatch {
    /// The patch that turns `old` into `new`. `None` if a patch cannot express it: another host or VTEP.
    pub fn between(old: &SharedHostConfig, new: &SharedHostConfig) -> Option<HostPatch> {
        fn changed<K: Ord + Clone, V: PartialEq + Clone>(
            old: &BTreeMap<K, V>,
            new: &BTreeMap<K, V>,
        ) -> BTreeMap<K, Option<V>> {
            let removed = old.keys().filter(|key| !new.contains_key(key)).map(|key| (key.clone(), None));
            let set = new
                .iter()
                .filter(|(key, value)| old.get(key) != Some(value))
                .map(|(key, value)| (key.clone(), Some(value.clone())));
            removed.chain(set).collect()
        }
        let patchable = old.host == new.host && old.underlay == new.underlay;
        patchable.then(|| HostPatch {
            base: old.revision,
            revision: new.revision,
            vrfs: changed(&old.vrfs, &new.vrfs),
            sides: changed(&old.sides, &new.sides),
        })
    }

    /// The resulting configuration. The caller must compare `base` first.
    pub(super) fn apply_to(self, base: &SharedHostConfig) -> SharedHostConfig {
        fn merge<K: Ord, V>(into: &mut BTreeMap<K, V>, changes: BTreeMap<K, Option<V>>) {
            for (key, change) in changes {
                match change {
                    Some(value) => into.insert(key, value),
                    None => into.remove(&key),
                };
            }
        }
        let mut config = base.clone();
        config.revision = self.revision;
        merge(&mut config.vrfs, self.vrfs);
        merge(&mut config.sides, self.sides);
        config
    }
}

#[cfg(test)]
mod fuzzed {
    use super::*;
    use crate::{HostConfig, ValidHostConfig, fuzz::fuzz};

    #[test]
    fn host_config() {
        fuzz("host-config", |input| {
            let Ok(config) = serde_json::from_slice::<HostConfig>(input) else { return };
            let again: HostConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
            assert_eq!(again, config);
            if let Ok(valid) = ValidHostConfig::try_from(config.clone()) {
                assert_eq!(valid.into_inner(), config);
            }
        });
    }

    #[test]
    fn host_patch() {
        let base = r#"{"revision":{"epoch":1,"number":2},"host":"h1","underlay":"192.0.2.1"}"#;
        let base = ValidHostConfig::try_from(serde_json::from_str::<HostConfig>(base).unwrap()).unwrap();
        fuzz("host-patch", |input| {
            if let Ok(patch) = serde_json::from_slice::<HostPatch>(input)
                && let Ok(patched) = base.patched(patch)
            {
                ValidHostConfig::try_from(patched.into_inner()).unwrap();
            }
        });
    }
}
