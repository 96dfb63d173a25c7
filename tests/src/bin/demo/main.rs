//! The main job, end to end, as a story: what `tests/demo` runs.

mod console;
mod facts;
mod scenes;
mod story;

use anyhow::{Context, Result};
use clap::Parser;
use console::Console;
use cps_peering_config::inventory::Inventory;
use cps_peering_tests::{Lab, lab::shell::Shell};
use facts::Facts;
use scenes::Scenes;
use std::{fs, process::ExitCode};
use story::Story;

/// Peers two VPCs, shows that and how their servers reach each other, deletes the peering, shows that traffic stops.
#[derive(Parser)]
struct Arguments {
    /// Print the facts as one JSON object; the story goes to standard error.
    #[arg(long)]
    json: bool,
    /// Leave the lab running afterwards, with a shell in it.
    #[arg(long)]
    keep: bool,
}

/// The topology; `tests/lab tests/topologies/demo.toml` brings it up too.
const TOPOLOGY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/topologies/demo.toml");

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut story = Story::new(arguments.json);
    let mut facts = Facts::default();
    let result = run(&arguments, &mut story, &mut facts);
    if arguments.json {
        print_json(&facts);
    }
    match result {
        Ok(()) => {
            story.line(&format!("\nAll of it was so. {:.0} s.", story.seconds()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            story.line(&format!("\nThe demo failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "it is the output")]
fn print_json(facts: &Facts) {
    println!("{}", serde_json::to_string_pretty(facts).expect("plain fields"));
}

fn run(arguments: &Arguments, story: &mut Story, facts: &mut Facts) -> Result<()> {
    let inventory: Inventory = toml::from_str(&fs::read_to_string(TOPOLOGY)?).context(TOPOLOGY)?;
    story.chapter("Three hosts in two regions, each with an agent, and a controller");
    let lab = Lab::builder(inventory).name("demo").start()?;
    let mut scenes = Scenes::new(lab, story, facts);
    let told = scenes.play();
    if told.is_err() {
        scenes.show_logs();
    }
    told?;
    if arguments.keep {
        let lab = scenes.set_up_again()?;
        story.chapter("It stays up");
        let shell = Shell::beside(&lab)?;
        let console = Console::show(&lab)?;
        for line in console.hints() {
            story.note(line);
        }
        for line in shell.servers().lines().chain([""]).chain(shell.hints().iter().map(String::as_str)) {
            story.note(line);
        }
        story.note("");
        story.note("Leave the shell, or press Ctrl-C where there is none, to take it down.");
        shell.interactive()?;
    }
    Ok(())
}
