//! One archive with everything that helps troubleshooting, and without any credentials. For operators.

use super::{
    CliError,
    client::{Call, admin, without_secrets},
    output::{cell, elements},
    session::Session,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    process::Command as Process,
    time::{SystemTime, UNIX_EPOCH},
};
use tar::{Builder, EntryType, Header};

#[derive(Subcommand, Clone)]
pub(super) enum Command {
    /// Write one archive (tar) with the state, metrics, diagnosis, audit trail and logs of the controller, and the kernel state of
    /// chosen hosts. It contains names, addresses and who did what, but no keys, tokens or other secrets.
    Bundle(Bundle),
}

#[derive(Args, Clone)]
pub(super) struct Bundle {
    /// The new file [default: cps-peering-debug-TIME.tar]
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// A host whose kernel state to include; repeatable.
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
}

/// How many entries of the audit trail are included.
const ENTRIES: u32 = 1000;
/// How many lines of the log are included, if this is the controller's machine.
const LINES: &str = "5000";

/// The response to a call, or why there is none: a bundle is made when something is wrong.
async fn asked(session: &Session, call: Call<'_>) -> Value {
    match session.call(call).await {
        Ok(answer) => without_secrets(answer),
        Err(error) => json!({ "failure": error.to_string() }),
    }
}

pub(super) async fn run(session: &Session, Command::Bundle(bundle): Command) -> Result<(), CliError> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = bundle.file.unwrap_or_else(|| PathBuf::from(format!("cps-peering-debug-{time}.tar")));
    // A caller without the permission is refused before a file is created.
    session.call(Call::get(admin(&["clock"]))).await.or_else(|error| match error {
        CliError::Rejected { ref answer, .. } if answer["code"] != 503 => Err(error),
        _ => Ok(Value::Null),
    })?;
    let wrong = |error: std::io::Error| CliError::Refused(format!("{}: {error}", name.display()));
    let file = File::options().write(true).create_new(true).mode(0o600).open(&name).map_err(wrong)?;
    let mut archive = Builder::new(file);
    let mut files = Vec::new();
    let mut add = |path: String, text: String| -> std::io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_mtime(time);
        header.set_size(text.len() as u64);
        archive.append_data(&mut header, format!("cps-peering-debug/{path}"), text.as_bytes())?;
        files.push(path);
        Ok(())
    };
    for (path, call) in [
        ("diagnosis", Call::get(admin(&["diagnosis"]))),
        ("hosts", Call::get(admin(&["hosts"]))),
        ("peerings", Call::get(admin(&["peerings"]))),
        ("accounts", Call::get(admin(&["accounts"]))),
        ("inventory", Call::get(admin(&["inventory"]))),
        ("clock", Call::get(admin(&["clock"]))),
        ("audit", Call::get(admin(&["audit"])).with("limit", &ENTRIES)),
    ] {
        let answer = asked(session, call).await;
        add(format!("{path}.json"), format!("{answer:#}\n")).map_err(wrong)?;
    }
    let figures = asked(session, Call::get(admin(&["metrics"]))).await;
    let figures = figures["metrics"].as_str().map_or_else(|| figures.to_string(), str::to_owned);
    add("metrics.txt".to_owned(), figures).map_err(wrong)?;
    for host in &bundle.hosts {
        let mut answer = asked(session, Call::get(admin(&["hosts", host, "snapshot"]))).await;
        if let Some(observed) = answer["snapshot"]["observed"].as_str().map(str::to_owned) {
            answer["snapshot"]["observed"] = Value::Null;
            add(format!("hosts/{host}.kernel.txt"), observed).map_err(wrong)?;
        }
        add(format!("hosts/{host}.json"), format!("{answer:#}\n")).map_err(wrong)?;
    }
    if let Some(log) = log() {
        add("controller.log".to_owned(), log).map_err(wrong)?;
    }
    let version = format!("command line {}\n", env!("CARGO_PKG_VERSION"));
    add("version.txt".to_owned(), version).map_err(wrong)?;
    let mut file = archive.into_inner().map_err(wrong)?;
    file.flush().and_then(|()| file.sync_all()).map_err(wrong)?;
    let result = json!({ "file": name, "content": files });
    session.print(&result, || {
        let content: Vec<String> = elements(&result["content"]).iter().map(cell).collect();
        format!("{}: {}", name.display(), content.join(", "))
    });
    Ok(())
}

/// The latest log lines of the controller on this machine; none if there is no controller, or the log cannot be read.
fn log() -> Option<String> {
    let unit = ["-u", "cps-peering-controller", "-n", LINES, "-o", "short-iso", "--no-pager", "-q"];
    let told = Process::new("journalctl").args(unit).output().ok()?;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    (told.status.success() && !text.trim().is_empty()).then(|| lines_without_secrets(&text))
}

/// The same without what follows words that introduce a credential.
fn lines_without_secrets(text: &str) -> String {
    const WORDS: [&str; 5] = ["Bearer ", "token=", "secretKey", "password=", "Signature="];
    let line = |line: &str| {
        let at = WORDS.iter().filter_map(|word| line.find(word).map(|at| at + word.len())).min();
        at.map_or_else(|| line.to_owned(), |at| format!("{}…", &line[..at]))
    };
    text.lines().map(|it| line(it) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_announces_a_credential_in_a_log_is_the_last_of_its_line() {
        let log = "a GET /x\nb Authorization: Bearer abc def\nc secretKey=XYZ token=T\n";
        let told = lines_without_secrets(log);
        assert_eq!(told, "a GET /x\nb Authorization: Bearer …\nc secretKey…\n");
    }
}
