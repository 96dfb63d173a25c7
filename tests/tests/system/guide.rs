//! The guide's content: its inventory, and the commands in its text for troubleshooting.

use crate::{installed::BACKUPS, machine::Machine};
use anyhow::{Context, Result, ensure};

const GUIDE: &str = include_str!("../../../systemd/GUIDE.md");
/// How a code span begins that is a command. What Prometheus brings is used by another test.
const PROGRAMS: [&str; 9] = [
    "cps-peering",
    "cps-peering-agent",
    "cps-peering-controller",
    "systemctl",
    "journalctl",
    "timedatectl",
    "df",
    "ip",
    "ss",
];

/// The code block of this kind that contains these words, unchanged.
pub(crate) fn block(kind: &str, words: &str) -> Result<&'static str> {
    let begins = format!("```{kind}\n");
    let mut blocks = GUIDE.split(&begins).skip(1).filter_map(|it| it.split("```").next());
    blocks.find(|it| it.contains(words)).with_context(|| format!("the guide has no {kind} with {words:?}"))
}

/// The inventory of the first deployment.
pub(crate) fn inventory() -> Result<&'static str> {
    block("toml", "[[regions]]")
}

/// The drop-in with which systemd passes secrets.
pub(crate) fn credentials() -> Result<&'static str> {
    block("ini", "LoadCredential=")
}

/// The commands in a chapter.
fn commands(chapter: &str) -> Result<Vec<String>> {
    let (_, text) =
        GUIDE.split_once(&format!("\n## {chapter}\n")).with_context(|| format!("no chapter {chapter:?}"))?;
    let text = text.split("\n## ").next().unwrap_or_default();
    let spans = text.split('`').skip(1).step_by(2);
    let commands = spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "));
    let commands = commands.filter(|it| it.split_once(' ').is_some_and(|(program, _)| PROGRAMS.contains(&program)));
    Ok(commands.collect())
}

/// Runs all commands of a chapter on a healthy machine. Returns how many there were.
pub(crate) fn follow(machine: &mut Machine, chapter: &str) -> Result<usize> {
    let commands = commands(chapter)?;
    for told in &commands {
        let mut command = told.replace("NAME", "a-b").replace("MBITS", "100");
        if command.contains("COPY") {
            // About the store, for while no controller runs.
            command = format!(
                "copy=$(ls -t {BACKUPS}/* | head -1); systemctl stop cps-peering-controller; {}; code=$?; \
                 systemctl start cps-peering-controller; cps-peering-controller release; (exit $code)",
                command.replace("COPY", "\"$copy\"")
            );
        }
        // It is stopped by a timeout.
        let endless = command.starts_with("ip monitor");
        let (code, printed) = machine.run(&if endless { format!("timeout 1 {command}") } else { command.clone() })?;
        let right = match code {
            0 => true,
            // There is nothing to find.
            1 if command.contains(" -g ") => printed.contains("No entries"),
            // It has none.
            1 if command.contains("set-bandwidth") => printed.contains("bandwidth"),
            124 => endless,
            _ => false,
        };
        ensure!(right, "`{command}` ended with {code}: {printed}");
    }
    Ok(commands.len())
}
