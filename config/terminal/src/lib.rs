//! Output of the command lines of both programs: results on standard output, tables for people.

use cps_peering_config::text::printable_lines;
use std::io::{self, Write};

/// Writes a result to standard output, as a line, without terminal control characters. Ends the program quietly when
/// the reader is gone, as in `cps-peering inventory | head`, and with a message when it cannot be written.
pub fn show(text: &str) {
    let mut output = io::stdout().lock();
    let Err(error) = writeln!(output, "{}", printable_lines(text)).and_then(|()| output.flush()) else { return };
    if error.kind() != io::ErrorKind::BrokenPipe {
        complain(&format!("cannot write to standard output: {error}"));
    }
    std::process::exit(1);
}

/// Writes an error to standard error, as a line, without terminal control characters.
pub fn complain(text: &str) {
    // If that fails, too, it cannot be reported.
    let _ = writeln!(io::stderr(), "{}", printable_lines(text));
}

/// Rows of cells below a heading, each column as wide as its widest cell.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(heading.to_vec())).chain(rows).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a-b".to_owned(), "x".to_owned(), "c".to_owned()]];
        assert_eq!(table(&["A", "LONG", "C"], &rows), "A    LONG  C\na-b  x     c");
    }
}
