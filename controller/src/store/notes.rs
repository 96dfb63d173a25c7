//! Notes of the leader for the next one. Notes are no commits, and backups go without them; a store that is moved to
//! another file or place takes them along.

use super::{Store, StoreError};

/// The elapsed time.
pub(crate) const CLOCK: &str = "clock";
/// What accounts were told about each other's networks.
pub(crate) const DISCLOSURES: &str = "disclosures";
/// What was reported as out of sync.
pub(crate) const OUT_OF_SYNC: &str = "out-of-sync";
/// The positions of webhooks.
pub(crate) const WEBHOOKS: &str = "webhooks";
/// Events that were dropped prematurely.
pub(super) const EVENT_GAPS: &str = "event-gaps";
/// That the store was moved, and where to. It stays where it was written.
pub(super) const MOVED: &str = "moved";
/// The move that brought the store here. It stays where it was written.
pub(super) const ARRIVED: &str = "arrived";

/// The notes that are taken along.
const GO_ALONG: [&str; 5] = [CLOCK, DISCLOSURES, OUT_OF_SYNC, WEBHOOKS, EVENT_GAPS];

impl Store {
    /// Takes over the notes of the store that this one continues.
    pub(crate) fn take_notes(&self, from: &Store) -> Result<(), StoreError> {
        let mut notes = Vec::new();
        for name in GO_ALONG {
            notes.extend(from.note(name)?.map(|note| (name, note)));
        }
        self.write_notes(notes)
    }
}
