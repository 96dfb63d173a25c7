//! Persistent `ip`, `bridge` and `tc` processes that answer one query after the other: in the lab's kernel, starting
//! one takes far longer than the query.

use anyhow::{Context, Result};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

/// How long an answer may take before the query is sent to a new process.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process in batch mode that prints JSON: one line per query, flushed.
#[derive(Debug)]
pub(crate) struct Lister {
    child: Child,
    questions: ChildStdin,
    answers: Receiver<String>,
}

impl Lister {
    /// Starts `program` on a namespace.
    pub(crate) fn start(program: &str, options: &[&str], netns: &str) -> Result<Lister> {
        let mut command = Command::new(program);
        command.args(options).args(["-n", netns, "-j", "-batch", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let questions = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        let (to, answers) = mpsc::channel();
        // It ends with the process.
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Ok(Lister { child, questions, answers })
    }

    /// The answers to queries, one per line. An error means that this process is unusable.
    pub(crate) fn ask(&mut self, questions: &str) -> Result<String> {
        self.questions.write_all(format!("{}\n", questions.trim_end()).as_bytes())?;
        self.questions.flush()?;
        let mut answers = String::new();
        for question in questions.trim_end().lines() {
            answers += &self.answers.recv_timeout(PATIENCE).with_context(|| question.to_owned())?;
            answers.push('\n');
        }
        Ok(answers)
    }
}

impl Drop for Lister {
    fn drop(&mut self) {
        // Nothing can be done about a failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
