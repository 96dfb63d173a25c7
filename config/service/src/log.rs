//! The log: lines on standard error, for people or for the journal.

use std::{
    env,
    fmt::{self, Write},
    fs::File,
    io::{self, IsTerminal},
    os::{fd::AsFd, unix::fs::MetadataExt},
};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Writer},
    },
    registry::LookupSpan,
};

/// Starts the log. What is said is what the variable `RUST_LOG` asks for, by default everything from `info` on. Where standard
/// error is the journal, lines have no time and no colours, and begin with their priority (`<4>`, `sd-daemon(3)`), so that
/// `journalctl -p` can tell them apart.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if is_journal() {
        log.with_ansi(false).event_format(Journal::default()).init();
    } else {
        log.with_ansi(io::stderr().is_terminal()).init();
    }
}

/// Whether standard error is what the service manager has connected to the journal: it says device and inode of that.
fn is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let own = io::stderr().as_fd().try_clone_to_owned().and_then(|stream| File::from(stream).metadata());
    own.is_ok_and(|own| stream == format!("{}:{}", own.dev(), own.ino()))
}

/// Lines for the journal.
struct Journal(Format<Full, ()>);

impl Default for Journal {
    fn default() -> Self {
        Self(tracing_subscriber::fmt::format().without_time().with_level(false).with_ansi(false))
    }
}

/// As in `syslog(3)`.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        let mut said = String::new();
        for line in text.lines() {
            writeln!(said, "<{}>{line}", priority(*event.metadata().level()))?;
        }
        out.write_str(&said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_for_the_journal_begins_with_its_priority() {
        let lines = Lines::default();
        let own = lines.clone();
        let log = tracing_subscriber::fmt().with_writer(move || own.clone()).with_max_level(Level::TRACE);
        tracing::subscriber::with_default(log.with_ansi(false).event_format(Journal::default()).finish(), || {
            let _span = tracing::info_span!("request", id = "7f").entered();
            tracing::error!("down");
            tracing::warn!(error = %"two\nlines", "odd");
            tracing::info!("up");
            tracing::debug!("more");
            tracing::trace!("all");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let module = module_path!();
        let said = |priority: u8, text: &str| format!("<{priority}>request{{id=\"7f\"}}: {module}: {text}\n");
        let odd = said(4, "odd error=two") + "<4>lines\n";
        assert_eq!(text, [said(3, "down"), odd, said(6, "up"), said(7, "more"), said(7, "all")].concat());
    }
}
