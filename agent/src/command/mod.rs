//! What an operator asks of the agent by hand. Output for people is a table, output for programs is JSON.

pub mod check;
pub mod cleanup;
pub mod diff;
pub mod status;

use clap::ValueEnum;

/// How a command shows its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[expect(clippy::print_stdout, reason = "the result of a command")]
fn show(text: &str) {
    println!("{text}");
}

/// Rows in columns as wide as their widest cell; the first row is the heading.
fn table(rows: &[Vec<String>]) -> String {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(table(&[row(&["A", "LONG", "C"]), row(&["a-b", "x", "c"])]), "A    LONG  C\na-b  x     c");
    }
}
