//! The demo's output: headings with the time, commands with their output, and facts.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it speaks to a person")]

use anyhow::{Result, bail};
use cps_peering_tests::{Server, lab::ToAddress};
use std::time::Instant;

/// The story so far.
pub(crate) struct Story {
    start: Instant,
    to_stderr: bool,
    chapter: u32,
}

impl Story {
    /// A story on standard output, or on standard error if standard output is for JSON.
    pub(crate) fn new(to_stderr: bool) -> Story {
        Story { start: Instant::now(), to_stderr, chapter: 0 }
    }

    /// How long it has been running.
    pub(crate) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// One line.
    pub(crate) fn line(&self, text: &str) {
        if self.to_stderr { eprintln!("{text}") } else { println!("{text}") }
    }

    /// Begins a chapter.
    pub(crate) fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        self.line(&format!("\n{:5.1} s  {}. {title}", self.seconds(), self.chapter));
    }

    /// A remark, which is not a fact.
    pub(crate) fn note(&self, text: &str) {
        self.line(&format!("         {text}"));
    }

    /// A command and what it printed.
    pub(crate) fn command(&self, line: &str, output: &str) {
        self.line(&format!("         $ {line}"));
        for line in output.lines().filter(|line| !line.trim().is_empty()) {
            self.line(&format!("           {}", line.trim_end()));
        }
    }

    /// A fact that must hold; the demo ends if it does not.
    pub(crate) fn fact(&self, holds: bool, statement: &str) -> Result<()> {
        self.line(&format!("       {} {statement}", if holds { '✓' } else { '✗' }));
        if !holds {
            bail!("this should hold and does not: {statement}");
        }
        Ok(())
    }

    /// Pings once and shows it; returns whether a reply came.
    pub(crate) fn ping(&self, from: &Server, to: impl ToAddress) -> Result<bool> {
        let ping = from.ping(to)?;
        let telling = |line: &&str| line.contains("bytes from") || line.to_lowercase().contains("unreachable");
        let summary = |line: &&str| line.contains("packets transmitted");
        let shown = ping.output.lines().find(telling).or_else(|| ping.output.lines().find(summary));
        self.command(&ping.line, shown.unwrap_or(&ping.output));
        Ok(ping.answered)
    }
}
