//! The health of the store.

/// Whether the store takes writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Health {
    /// It does: the last write has succeeded, moments ago.
    #[default]
    Fine,
    /// It does, but has little space: only writes that free space are accepted. The reason.
    Low(String),
    /// It does not. The reason.
    Failing(String),
}
