//! Figures: a name, a number, a unit, and an explanation for people.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is the output")]

use serde::Serialize;
use std::time::Duration;

/// All figures so far.
pub(crate) struct Figures {
    json: bool,
    filter: String,
    all: Vec<(Figure, String)>,
}

/// One line of JSON.
#[derive(Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

impl Figures {
    pub(crate) fn new(json: bool, filter: String) -> Self {
        Self { json, filter, all: Vec::new() }
    }

    /// Whether any of these figures is selected.
    pub(crate) fn wants(&self, names: &[&str]) -> bool {
        names.iter().any(|name| name.contains(&self.filter))
    }

    /// Adds a figure, if it is selected, and prints it.
    pub(crate) fn add(&mut self, name: &str, value: f64, unit: &'static str, how: impl Into<String>) {
        if !name.contains(&self.filter) {
            return;
        }
        let figure = Figure { name: name.to_owned(), value: (value * 1e4).round() / 1e4, unit };
        if self.json {
            println!("{}", serde_json::to_string(&figure).expect("plain fields"));
        }
        let how = how.into();
        note(&line(&figure, &how));
        self.all.push((figure, how));
    }

    /// Prints the whole table.
    pub(crate) fn show(&self) {
        if self.json {
            return;
        }
        println!();
        for (figure, how) in &self.all {
            println!("{}", line(figure, how));
        }
    }
}

fn line(figure: &Figure, how: &str) -> String {
    format!("{:34} {:9.3} {:5}  {how}", figure.name, figure.value, figure.unit)
}

/// A remark while it runs.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// The median; of an even number the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match (values.len() / 2, values.len() % 2) {
        (0, 0) => f64::NAN,
        (half, 0) => f64::midpoint(values[half - 1], values[half]),
        (half, _) => values[half],
    }
}

/// The median of many times, in seconds.
pub(crate) fn median_s(times: &[Duration]) -> f64 {
    median(&times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>())
}

/// Seconds as text: the median, and the shortest and longest.
pub(crate) fn seconds(times: &[Duration]) -> String {
    let (least, most) = (times.iter().min(), times.iter().max());
    match least.zip(most) {
        Some((least, most)) => {
            format!("{:.3} s ({:.3}–{:.3})", median_s(times), least.as_secs_f64(), most.as_secs_f64())
        }
        None => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }
}
