//! Text that others write, such as names and descriptions: which are valid, how they are quoted in an error, and how
//! they are displayed on a terminal.
//!
//! Categories and other properties are those of the Unicode Character Database (UAX #44), as ICU4X has them.

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup, Script},
};
use std::fmt::{self, Write as _};
use thiserror::Error;

/// How much of a text an error quotes, in characters as displayed.
pub const MAX_QUOTED: usize = 200;

/// The category of a character (`General_Category`).
fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
}

/// Whether it is displayed as nothing where it is not supported (`Default_Ignorable_Code_Point`), for instance fillers.
fn is_ignorable(c: char) -> bool {
    CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// Blanks that are letters or symbols by their category.
fn is_blank(c: char) -> bool {
    // BRAILLE PATTERN BLANK, OBJECT REPLACEMENT CHARACTER, MUSICAL SYMBOL NULL NOTEHEAD
    c.is_whitespace() || matches!(c, '\u{2800}' | '\u{fffc}' | '\u{1d159}')
}

/// Whether it is visible.
fn is_visible(c: char) -> bool {
    let seen = GeneralCategoryGroup::Letter
        .union(GeneralCategoryGroup::Number)
        .union(GeneralCategoryGroup::Punctuation)
        .union(GeneralCategoryGroup::Symbol)
        .union(GeneralCategoryGroup::PrivateUse);
    !is_blank(c) && seen.contains(category(c)) && !is_ignorable(c)
}

/// Scripts in which a zero width joiner or non-joiner changes what is written (RFC 5892, appendix A.1 and A.2).
fn is_joined(script: Script) -> bool {
    const JOINED: [Script; 25] = [
        Script::Adlam,
        Script::Arabic,
        Script::Balinese,
        Script::Bengali,
        Script::Devanagari,
        Script::Grantha,
        Script::Gujarati,
        Script::Gurmukhi,
        Script::HanifiRohingya,
        Script::Javanese,
        Script::Kannada,
        Script::Khmer,
        Script::Malayalam,
        Script::Mandaic,
        Script::Mongolian,
        Script::Myanmar,
        Script::Nko,
        Script::Oriya,
        Script::PhagsPa,
        Script::Sinhala,
        Script::Syriac,
        Script::Tamil,
        Script::Telugu,
        Script::Thaana,
        Script::Tibetan,
    ];
    JOINED.contains(&script)
}

/// The script of a character; none for characters that scripts have in common.
fn script(c: char) -> Option<Script> {
    let script = CodePointMapData::<Script>::new().get(c);
    (script != Script::Inherited && script != Script::Common).then_some(script)
}

/// The characters of a text that may control a terminal or page, or hide, with their positions.
fn unprintable(text: &str) -> impl Iterator<Item = (usize, char)> {
    // The previous character: its script, and whether it is a symbol.
    let mut before = (None, false);
    let mut characters = text.chars().enumerate().peekable();
    std::iter::from_fn(move || {
        let (place, c) = characters.next()?;
        let next = characters.peek().map(|(_, next)| *next);
        let legal = match c {
            // Between two letters of one script that needs them.
            '\u{200c}' | '\u{200d}' => {
                let script: Option<Script> = before.0;
                script.is_some_and(|it| is_joined(it) && next.and_then(self::script) == Some(it))
            }
            // The presentation of a symbol: text or picture.
            '\u{fe0e}' | '\u{fe0f}' => before.1,
            c if c.is_ascii() => !c.is_ascii_control(),
            c => {
                let refused = GeneralCategoryGroup::Control
                    .union(GeneralCategoryGroup::Format)
                    .union(GeneralCategoryGroup::Unassigned)
                    .union(GeneralCategoryGroup::LineSeparator)
                    .union(GeneralCategoryGroup::ParagraphSeparator);
                !refused.contains(category(c)) && !is_ignorable(c)
            }
        };
        let is_symbol = category(c) == GeneralCategory::OtherSymbol || matches!(c, '#' | '*' | '0'..='9');
        // A mark that scripts have in common belongs to the letter before it.
        let is_mark = GeneralCategoryGroup::Mark.contains(category(c));
        before = (script(c).or(before.0.filter(|_| is_mark)), is_symbol);
        Some((!legal).then_some((place, c)))
    })
    .flatten()
}

/// A text that violates the rules of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidText {
    /// It has too few or too many characters.
    #[error("{quoted} has {length} characters: expected {least} to {most} printable characters")]
    Length {
        /// The text, cut.
        quoted: String,
        /// Its length.
        length: usize,
        /// The minimum length.
        least: usize,
        /// The maximum length.
        most: usize,
    },
    /// A character controls terminals or pages, or is invisible.
    #[error("{quoted} has U+{:04X} as character {place}: expected printable characters", *.character as u32)]
    Unprintable {
        /// The text, cut.
        quoted: String,
        /// Its position, starting with 1.
        place: usize,
        /// The character.
        character: char,
    },
    /// Nothing of it is visible.
    #[error("{0} has no character that can be seen: expected printable characters")]
    Invisible(String),
}

fn check_length(text: &str, least: usize, most: usize) -> Result<(), InvalidText> {
    let length = text.chars().count();
    if (least..=most).contains(&length) {
        return Ok(());
    }
    Err(InvalidText::Length { quoted: quote(text), length, least, most })
}

fn check_characters(text: &str, also: &[char]) -> Result<(), InvalidText> {
    if let Some((place, character)) = unprintable(text).find(|(_, c)| !also.contains(c)) {
        return Err(InvalidText::Unprintable { quoted: quote(text), place: place + 1, character });
    }
    if text.is_empty() || text.chars().any(is_visible) {
        return Ok(());
    }
    Err(InvalidText::Invisible(quote(text)))
}

/// Checks a name: 1 to `most` characters, all of them printable, at least one of them visible.
pub fn check_name(text: &str, most: usize) -> Result<(), InvalidText> {
    check_length(text, 1, most)?;
    check_characters(text, &[])
}

/// Checks a single line that may be empty, such as the value of a tag.
pub fn check_line(text: &str, most: usize) -> Result<(), InvalidText> {
    check_length(text, 0, most)?;
    check_characters(text, &[])
}

/// Checks a text of several lines, such as a description: it may be empty, and may have line breaks and tabs.
pub fn check_lines(text: &str, most: usize) -> Result<(), InvalidText> {
    check_length(text, 0, most)?;
    check_characters(text, &['\n', '\t'])
}

/// A text in quotation marks for an error or a log: escaped, and truncated to [`MAX_QUOTED`] characters with a note of
/// its length.
pub fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    let mut shown = 0;
    let mut bad = unprintable(text).peekable();
    for (place, c) in text.chars().enumerate() {
        let is_bad = bad.next_if(|(at, _)| *at == place).is_some();
        let escaped: String = match c {
            '"' | '\\' | '\n' | '\r' | '\t' => c.escape_default().collect(),
            c if is_bad => c.escape_unicode().collect(),
            c => c.to_string(),
        };
        shown += escaped.chars().count();
        if shown > MAX_QUOTED {
            // Writing to a text never fails.
            let _ = write!(quoted, "…\" ({} characters)", text.chars().count());
            return quoted;
        }
        quoted.push_str(&escaped);
    }
    quoted.push('"');
    quoted
}

/// A text without quotation: truncated to this many characters, with a note of its length.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
    }
}

/// The beginning of a text, escaped, at most this many characters, with a note of its length if it is truncated.
pub fn excerpt(text: &str, most: usize) -> String {
    if text.len() <= most && text.bytes().all(|byte| byte == b'\n' || !byte.is_ascii_control() && byte.is_ascii()) {
        return text.to_owned();
    }
    let escaped = printable_lines(&cut(text, most)).to_string();
    match escaped.char_indices().nth(most + MAX_QUOTED) {
        None => escaped,
        Some((at, _)) => format!("{}… ({} characters)", &escaped[..at], text.chars().count()),
    }
}

/// A library's message that quotes a whole text: escaped, and with its middle left out if it is long.
pub fn shorten(text: &str) -> String {
    let length = text.chars().count();
    if length <= 2 * MAX_QUOTED {
        return excerpt(text, 2 * MAX_QUOTED);
    }
    let tail = text.char_indices().nth(length - MAX_QUOTED / 2).map_or("", |(at, _)| &text[at..]);
    format!("{} … {}", excerpt(text, MAX_QUOTED), excerpt(tail, MAX_QUOTED))
}

/// A text safe to display on a terminal: what would control the terminal, or hide, is written as `\u{…}`.
pub fn printable(text: &str) -> Printable<'_> {
    Printable { text, json: false, keep: &[] }
}

/// The same for several lines: line breaks and tabs stay.
pub fn printable_lines(text: &str) -> Printable<'_> {
    Printable { text, json: false, keep: &['\n', '\t'] }
}

/// JSON safe to display on a terminal, with the same meaning: control characters only occur in strings, and are written
/// as `\uXXXX` there.
pub fn printable_json(json: &str) -> Printable<'_> {
    Printable { text: json, json: true, keep: &['\n'] }
}

/// See [`printable`].
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a> {
    text: &'a str,
    json: bool,
    keep: &'static [char],
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bad = unprintable(self.text).filter(|(_, c)| !self.keep.contains(c)).peekable();
        for (place, c) in self.text.chars().enumerate() {
            if bad.next_if(|(at, _)| *at == place).is_none() {
                f.write_char(c)?;
            } else if self.json {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(f, "\\u{unit:04x}")?;
                }
            } else {
                write!(f, "{}", c.escape_unicode())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_all_scripts_are_legal() {
        for name in [
            "a b",
            "生产-测试",
            "전산망",
            "می\u{200c}خواهم",
            "क\u{94d}\u{200d}ष",
            "ශ\u{dca}\u{200d}රී",
            "Zürich é",
            "e\u{301}",
            "☎\u{fe0f} 1",
            "שלום",
            "🎃",
            "a\u{3000}b",
        ] {
            assert_eq!(check_name(name, 32), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn control_and_hidden_characters_are_refused_with_their_position() {
        for (name, place) in [
            ("trick-\u{202e}gnp.exe", 7),
            ("a\u{200b}", 2),
            ("\u{200b}", 1),
            ("a\u{200d}b", 2),
            ("\u{200d}", 1),
            ("می\u{200c}", 3),
            ("می\u{200c}x", 3),
            ("a\u{2066}b\u{2069}", 2),
            ("a\u{2028}b", 2),
            ("a\u{2029}b", 2),
            ("a\u{7f}", 2),
            ("a\u{9b}31m", 2),
            ("a\u{1b}[2J", 2),
            ("a\nb", 2),
            ("a\u{ad}b", 2),
            ("a\u{feff}b", 2),
            ("\u{3164}", 1),
            ("a\u{115f}", 2),
            ("a\u{34f}b", 2),
            ("a\u{fe00}b", 2),
            ("a\u{fe0f}b", 2),
            ("a\u{e0041}", 2),
            ("a\u{e0100}", 2),
            ("a\u{378}", 2),
            ("a\u{ffff}", 2),
            ("a\u{0}", 2),
        ] {
            let error = check_name(name, 60).unwrap_err();
            assert!(matches!(error, InvalidText::Unprintable { place: at, .. } if at == place), "{name:?}: {error}");
        }
        assert_eq!(
            check_name("a\u{202e}b", 9).unwrap_err().to_string(),
            r#""a\u{202e}b" has U+202E as character 2: expected printable characters"#
        );
    }

    #[test]
    fn a_name_is_visible() {
        for name in [" ", "\u{3000}", "\u{a0}\u{2003}", "\u{2800}", "\u{301}", "  \u{fffc} "] {
            assert_eq!(check_name(name, 32), Err(InvalidText::Invisible(quote(name))), "{name:?}");
            assert!(check_lines(name, 32).is_err(), "{name:?}");
        }
        assert_eq!(check_line("", 3), Ok(()));
        assert_eq!(check_lines("a\n\tb", 9), Ok(()));
        assert!(check_lines("a\rb", 9).is_err() && check_line("a\nb", 9).is_err());
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        assert_eq!(check_name(&"私".repeat(32), 32), Ok(()));
        let error = check_name(&"私".repeat(33), 32).unwrap_err();
        assert!(error.to_string().contains("has 33 characters: expected 1 to 32"), "{error}");
        assert!(check_name("", 32).is_err());
    }

    #[test]
    fn what_is_quoted_is_short_whatever_it_is() {
        for c in ['a', '\u{7f}', '"', '\\', '私', '\u{10ffff}', '\u{202e}'] {
            let quoted = quote(&c.to_string().repeat(240_000));
            assert!(quoted.chars().count() <= MAX_QUOTED + 30 && quoted.ends_with("(240000 characters)"), "{quoted}");
        }
        assert_eq!(quote("a \"b\"\n"), r#""a \"b\"\n""#);
        assert_eq!(quote(&"x".repeat(MAX_QUOTED)), format!("\"{}\"", "x".repeat(MAX_QUOTED)));
        for c in ['a', '\u{7f}', '私', '\u{10ffff}'] {
            assert!(excerpt(&c.to_string().repeat(240_000), 300).chars().count() < 600);
        }
        assert_eq!((excerpt("a\u{202e}\nb", 9), excerpt("a", 9)), ("a\\u{202e}\nb".to_owned(), "a".to_owned()));
        let said = format!("invalid type: string {:?}, expected u32", "\u{7f}".repeat(240_000));
        let short = shorten(&said);
        assert!(short.chars().count() < 1000 && short.ends_with("expected u32"), "{short}");
        assert!(short.starts_with("invalid type: string"), "{short}");
        assert_eq!((cut("abc", 3), cut("abcd", 3)), ("abc".to_owned(), "abc… (4 characters)".to_owned()));
    }

    #[test]
    fn terminals_are_not_controlled_and_json_keeps_its_meaning() {
        let text = "a\u{1b}[2J\u{9b}\u{202e}b\u{e0041}می\u{200c}خ";
        assert_eq!(printable(text).to_string(), r"a\u{1b}[2J\u{9b}\u{202e}b\u{e0041}می‌خ");
        let json = serde_json::json!({ "name": text, "lines": "1\n2" });
        let shown = printable_json(&json.to_string()).to_string();
        assert_eq!(unprintable(&shown).count(), 0);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), json);
        let pretty = printable_json(&serde_json::to_string_pretty(&json).unwrap()).to_string();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&pretty).unwrap(), json);
        assert_eq!(printable_lines("a\n\tb\r").to_string(), "a\n\tb\\u{d}");
    }
}

#[cfg(test)]
mod fuzzed {
    use super::*;
    use crate::fuzz::fuzz;

    #[test]
    fn texts() {
        fuzz("inventory", |input| {
            let text = String::from_utf8_lossy(&input[..input.len().min(2000)]);
            assert!(quote(&text).chars().count() <= MAX_QUOTED + 40);
            let shown = printable(&text).to_string();
            assert_eq!(unprintable(&shown).count(), 0, "{shown:?}");
            if check_name(&text, 60).is_ok() {
                assert_eq!(shown, text);
            }
            let json = serde_json::to_string(&*text).unwrap();
            let same: String = serde_json::from_str(&printable_json(&json).to_string()).unwrap();
            assert_eq!(same, text);
        });
    }
}
