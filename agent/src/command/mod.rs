//! Commands for operators. Output for people is a table, output for programs is JSON.

pub mod check;
pub mod cleanup;
pub mod diff;
pub mod status;

use clap::ValueEnum;

/// How a command shows its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table, for people.
    Table,
    /// JSON, for programs.
    Json,
}
