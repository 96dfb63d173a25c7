//! Whether the store takes writes.

/// Whether the store takes writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Health {
    /// It does: the last one worked, and was a moment ago.
    #[default]
    Fine,
    /// It does, and there is little room: what makes room is accepted, and nothing else. Why.
    Low(String),
    /// It does not. Why.
    Failing(String),
}
