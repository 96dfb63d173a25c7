//! Runs commands, with errors that name the command and include its output.

use anyhow::{Context, Result, bail};
use std::{
    io::Write,
    process::{Command, ExitStatus, Stdio},
};

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The command as typed in a shell.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ended {
    /// The standard output of a command that succeeded; otherwise an error with all its output.
    pub fn ok(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("`{}` failed, {}: {}{}", self.line, self.status, self.stderr, self.stdout)
    }
}

/// The command as typed in a shell.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+.,:/@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs a command to its end. An error means that it could not be run; the caller checks how it ended.
pub fn run(command: &mut Command) -> Result<Ended> {
    run_with_input(command, "")
}

/// Runs a command to its end, with a text on its standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<Ended> {
    let line = line(command);
    let mut start = || -> Result<_> {
        let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        Ok(child.wait_with_output()?)
    };
    let output = start().with_context(|| format!("cannot run `{line}`"))?;
    Ok(Ended {
        line,
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_output() {
        let error = run(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).unwrap().ok().unwrap_err().to_string();
        assert!(error.contains("sh -c 'echo no >&2; exit 3'") && error.contains("no\n"), "{error}");
        let error = format!("{:#}", run(&mut Command::new("/no/such")).unwrap_err());
        assert!(error.contains("/no/such"), "{error}");
    }

    #[test]
    fn input_reaches_the_command() {
        assert_eq!(run_with_input(&mut Command::new("cat"), "text").unwrap().ok().unwrap(), "text");
    }
}
