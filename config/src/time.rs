//! Points in time as text, and time zones.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// A minute, in milliseconds.
pub const MINUTE_MS: u64 = 60 * 1000;
/// An hour, in milliseconds.
pub const HOUR_MS: u64 = 60 * MINUTE_MS;
/// 24 hours, in milliseconds.
pub const DAY_MS: u64 = 24 * HOUR_MS;

fn at(ms: u64) -> Timestamp {
    // Beyond the calendar's range: its last moment.
    i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

/// A point in time, in milliseconds since 1970-01-01 UTC, in the form `2021-08-09T05:16:00Z` (RFC 3339, whole seconds).
pub fn timestamp(ms: u64) -> String {
    at(ms).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The same with milliseconds: `2021-08-09T05:16:00.000Z`.
pub fn timestamp_ms(ms: u64) -> String {
    at(ms).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The machine's time, in milliseconds since 1970-01-01 UTC.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time zone that is not in the tz database.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no time zone {0:?}: name one of the tz database, for instance Asia/Shanghai or UTC")]
pub struct ZoneError(String);

/// A time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// The zone with this name in the tz database: of the system, or the one built into this program.
    pub fn named(name: &str) -> Result<Self, ZoneError> {
        TimeZone::get(name).map(Self).map_err(|_| ZoneError(name.to_owned()))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }
}

/// A moment (RFC 3339, with `Z` or an offset) in milliseconds since 1970-01-01 UTC; none if the text is malformed, has
/// no offset, or is before 1970.
pub fn moment(text: &str) -> Option<u64> {
    // RFC 3339, 5.6. The library understands more, for instance basic forms of ISO 8601.
    let shape = text.get(..19)?;
    let is_digit = |at: usize| shape.as_bytes()[at].is_ascii_digit();
    let places = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18];
    let separators = [(4, "-"), (7, "-"), (10, "Tt "), (13, ":"), (16, ":")];
    let separated = separators.into_iter().all(|(at, legal)| legal.as_bytes().contains(&shape.as_bytes()[at]));
    if !separated || !places.into_iter().all(is_digit) {
        return None;
    }
    let offset = text[19..].trim_start_matches(|it: char| it == '.' || it.is_ascii_digit());
    // A plus that was not escaped in a URL arrives as a space.
    let unescaped = offset.strip_prefix(' ').map(|rest| format!("{}+{rest}", &text[..text.len() - rest.len() - 1]));
    let text = unescaped.as_deref().unwrap_or(text);
    let offset = &text[text.len() - offset.len()..];
    let hours = |offset: &str| offset.len() == 6 && offset.starts_with(['+', '-']) && offset.as_bytes()[3] == b':';
    if !matches!(offset, "Z" | "z") && !hours(offset) {
        return None;
    }
    text.parse::<Timestamp>().ok()?.as_millisecond().try_into().ok()
}

/// A [`moment`], or a date (`2026-01-01`), which means the beginning of that day in a time zone.
pub fn moment_or_date(text: &str, zone: &Zone) -> Option<u64> {
    let is_date = text.len() == 10
        && text.bytes().enumerate().all(|(at, it)| match at {
            4 | 7 => it == b'-',
            _ => it.is_ascii_digit(),
        });
    if !is_date {
        return moment(text);
    }
    let begins = text.parse::<Date>().ok()?.to_zoned_datetime(zone.0.clone()).ok()?;
    begins.timestamp().as_millisecond().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_offsets_and_dates_begin_in_a_zone() {
        let shanghai = Zone::named("Asia/Shanghai").unwrap();
        assert_eq!(shanghai.name(), "Asia/Shanghai");
        let ms = |text: &str| moment_or_date(text, &shanghai).map(timestamp_ms);
        for (text, expected) in [
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000Z"),
            ("2026-01-01t00:00:00z", "2026-01-01T00:00:00.000Z"),
            ("2026-01-01 00:00:00Z", "2026-01-01T00:00:00.000Z"),
            ("2026-01-01T00:00:00.1259Z", "2026-01-01T00:00:00.125Z"),
            ("2026-01-01T00:00:00+08:00", "2025-12-31T16:00:00.000Z"),
            ("2026-01-01T00:00:00.5 08:00", "2025-12-31T16:00:00.500Z"),
            ("2026-01-01T00:00:00-05:30", "2026-01-01T05:30:00.000Z"),
            ("2026-01-01", "2025-12-31T16:00:00.000Z"),
            ("2024-02-29", "2024-02-28T16:00:00.000Z"),
        ] {
            assert_eq!(ms(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "2026",
            "2026-01",
            "2026-1-1",
            "2026-02-29",
            "2026-01-01T00:00:00",
            "2026-01-01 00:00:00",
            "20260101T000000Z",
            "2026-01-01T00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00+8",
            "2026-01-01T00:00:00+0800",
            "2026-01-01T00:00:00+08:00[Asia/Shanghai]",
            "2026-01-01T00:00:00Zulu",
            "1969-12-31T23:59:59Z",
            "2026-01-01Z",
            "2026-13-01",
            "\u{ff12}026-01-01T00:00:00Z",
            "2026-01-01T00:00:00+99:00",
            "now",
            "1767225600",
        ] {
            assert_eq!(ms(text), None, "{text}");
        }
        // A day that begins at one o'clock, because clocks go forward at midnight.
        let cairo = Zone::named("Africa/Cairo").unwrap();
        assert_eq!(moment_or_date("2024-04-26", &cairo).map(timestamp).as_deref(), Some("2024-04-25T22:00:00Z"));
        assert!(Zone::named("Mars/Olympus").is_err() && Zone::named("").is_err());
        assert_eq!(timestamp(u64::MAX), timestamp(u64::MAX - 1));
    }
}
