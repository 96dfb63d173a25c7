//! The log: lines on standard error, for people or for the journal.

use cps_peering_config::log_format::LogFormat;
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
        format::{Format, Full, Json, Writer},
    },
    registry::LookupSpan,
};

/// Starts the log. The variable `RUST_LOG` selects what is logged, by default everything from `info` up. If standard
/// error is the journal, lines begin with their priority (`<4>`, `sd-daemon(3)`), so that `journalctl -p` can filter
/// them, and text lines have no time and no colours.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match (format, is_journal()) {
        (LogFormat::Json, true) => log.json().event_format(Journal(as_json())).init(),
        (LogFormat::Json, false) => log.json().event_format(as_json()).init(),
        (LogFormat::Text, true) => log.with_ansi(false).event_format(Journal(as_text())).init(),
        (LogFormat::Text, false) => log.with_ansi(io::stderr().is_terminal()).init(),
    }
}

/// Whether standard error is what the service manager has connected to the journal: it passes the device and inode of
/// that.
fn is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let own = io::stderr().as_fd().try_clone_to_owned().and_then(|stream| File::from(stream).metadata());
    own.is_ok_and(|own| stream == format!("{}:{}", own.dev(), own.ino()))
}

/// Lines for the journal.
struct Journal<F>(F);

fn as_text() -> Format<Full, ()> {
    tracing_subscriber::fmt::format().without_time().with_level(false).with_ansi(false)
}

/// An event with the fields of its spans, the outermost first.
fn as_json() -> Format<Json> {
    tracing_subscriber::fmt::format().json().flatten_event(false).with_current_span(false).with_span_list(true)
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

impl<S, N, F> FormatEvent<S, N> for Journal<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
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
        tracing::subscriber::with_default(log.with_ansi(false).event_format(Journal(as_text())).finish(), || {
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

    #[test]
    fn as_json_every_line_is_an_object_with_what_was_said() {
        let lines = Lines::default();
        let own = lines.clone();
        let log = tracing_subscriber::fmt().with_writer(move || own.clone()).json().event_format(Journal(as_json()));
        tracing::subscriber::with_default(log.finish(), || {
            let _span = tracing::info_span!("request", id = "7f").entered();
            tracing::warn!(error = %"two\nlines", "odd \"quotes\"");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let (priority, object) = text.trim_end().split_once('>').unwrap();
        assert_eq!((priority, object.lines().count()), ("<4", 1));
        let said: serde_json::Value = serde_json::from_str(object).unwrap();
        assert_eq!(said["level"], "WARN");
        assert_eq!(
            (&said["fields"]["message"], &said["fields"]["error"]),
            (&"odd \"quotes\"".into(), &"two\nlines".into())
        );
        assert_eq!(said["spans"][0]["id"], "7f");
        assert!(said["timestamp"].is_string() && said["target"].is_string(), "{said}");
    }
}
