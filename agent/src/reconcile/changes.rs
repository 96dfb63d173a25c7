//! What configurations have changed since the kernel was last seen to be right.

use crate::{
    dirty_set::{DirtySet, gone},
    ownership::DeviceName,
};
use cps_peering_config::{SharedHostConfig, net::InterfaceName};
use std::collections::BTreeSet;

/// The most sides whose traffic is ended ahead of everything else: for more, observing each would take longer than
/// observing everything.
const MOST_ENDED: usize = 64;

/// What may differ because of the configuration.
#[derive(Debug)]
pub(super) struct Changes {
    dirty: DirtySet,
    /// Devices of sides that the configuration no longer has, and that may still send.
    ending: BTreeSet<InterfaceName>,
}

impl Default for Changes {
    /// Nothing is known of the kernel.
    fn default() -> Self {
        Self { dirty: DirtySet::Everything, ending: BTreeSet::new() }
    }
}

impl Changes {
    /// Adds the difference between two configurations. Returns whether there is one.
    pub(super) fn follow(&mut self, old: Option<&SharedHostConfig>, new: &SharedHostConfig) -> bool {
        let change = old.map_or(DirtySet::Everything, |old| DirtySet::between(old, new));
        let changes = !change.is_nothing();
        let before = std::mem::replace(&mut self.dirty, DirtySet::nothing());
        self.dirty = before.and(change);
        if let Some(old) = old {
            self.ending.extend(gone(&old.sides, &new.sides).into_iter().map(DeviceName::peer));
            let is_back = |device: &InterfaceName| {
                DeviceName::parse(device).is_some_and(|device| new.sides.contains_key(&device.vni))
            };
            self.ending.retain(|device| !is_back(device));
        }
        changes
    }

    /// What may differ.
    pub(super) fn dirty(&self) -> &DirtySet {
        &self.dirty
    }

    /// The kernel is as the configuration requires, or what is not right is no longer due to a change.
    pub(super) fn clear(&mut self) {
        self.dirty = DirtySet::nothing();
    }

    /// The devices of sides that were removed since the last call, if they are few.
    pub(super) fn take_ending(&mut self) -> Option<BTreeSet<InterfaceName>> {
        let ending = std::mem::take(&mut self.ending);
        (1..=MOST_ENDED).contains(&ending.len()).then_some(ending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Side, config_with_sides};

    fn config(sides: impl IntoIterator<Item = u32>) -> SharedHostConfig {
        config_with_sides(1, sides.into_iter().map(Side::unlimited))
    }

    fn devices(vnis: impl IntoIterator<Item = u32>) -> BTreeSet<InterfaceName> {
        vnis.into_iter().map(|vni| DeviceName::peer(vni.try_into().unwrap())).collect()
    }

    #[test]
    fn changes_add_up_until_the_kernel_has_them() {
        let mut changes = Changes::default();
        assert!(changes.follow(None, &config([1, 2])));
        assert_eq!(*changes.dirty(), DirtySet::Everything);
        changes.clear();
        assert!(!changes.follow(Some(&config([1, 2])), &config([1, 2])));
        assert!(changes.dirty().is_nothing());
        assert!(changes.follow(Some(&config([1, 2])), &config([2])));
        assert!(changes.follow(Some(&config([2])), &config([2, 3])));
        let DirtySet::Parts(parts) = changes.dirty() else { panic!("{changes:?}") };
        assert_eq!(parts.sides.iter().map(|vni| vni.get()).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn traffic_of_restored_sides_is_not_ended() {
        let mut changes = Changes::default();
        changes.follow(Some(&config([1, 2, 3])), &config([3]));
        changes.follow(Some(&config([3])), &config([2, 3]));
        assert_eq!(changes.take_ending(), Some(devices([1])));
        assert_eq!(changes.take_ending(), None, "once is enough");
    }

    #[test]
    fn many_sides_are_left_to_the_full_observation() {
        let mut changes = Changes::default();
        changes.follow(Some(&config(1..=64)), &config([]));
        assert_eq!(changes.take_ending(), Some(devices(1..=64)));
        changes.follow(Some(&config(1..=65)), &config([]));
        assert_eq!(changes.take_ending(), None);
        assert_eq!(changes.take_ending(), None, "nor are they kept for the next time");
    }
}
