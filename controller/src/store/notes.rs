//! What the one who leads notes for the next one. Notes are no commits, and copies of a store go without them; a store that goes on in
//! another file or place takes them along.

use super::{Store, StoreError};

/// The time that has passed.
pub(crate) const CLOCK: &str = "clock";
/// How often accounts were told of each other's networks.
pub(crate) const DISCLOSURES: &str = "disclosures";
/// What was told to be out of sync.
pub(crate) const OUT_OF_SYNC: &str = "out-of-sync";
/// How far each webhook is.
pub(crate) const WEBHOOKS: &str = "webhooks";
/// Which events had to go before their time.
pub(super) const EVENT_GAPS: &str = "event-gaps";
/// That the store was moved, and where it is now. It stays where it was written.
pub(super) const MOVED: &str = "moved";
/// Which move has brought the store here. It stays where it was written.
pub(super) const ARRIVED: &str = "arrived";

/// Those that go with the store.
const GO_ALONG: [&str; 5] = [CLOCK, DISCLOSURES, OUT_OF_SYNC, WEBHOOKS, EVENT_GAPS];

impl Store {
    /// Takes the notes of the store that this one goes on from.
    pub(crate) fn take_notes(&self, from: &Store) -> Result<(), StoreError> {
        let mut notes = Vec::new();
        for name in GO_ALONG {
            notes.extend(from.note(name)?.map(|note| (name, note)));
        }
        self.write_notes(notes)
    }
}
