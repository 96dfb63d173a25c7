//! The parent of a span, possibly in another program: W3C Trace Context, <https://www.w3.org/TR/trace-context/>.

use std::fmt;

/// The request header that names the parent span.
pub const TRACEPARENT: &str = "traceparent";

/// A recorded span: its trace id, and its own id. Neither is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    pub(crate) trace: u128,
    pub(crate) span: u64,
}

impl SpanContext {
    /// The first span of a new trace.
    pub(crate) fn new() -> Self {
        Self { trace: fastrand::u128(1..), span: fastrand::u64(1..) }
    }

    /// Another span of the same trace.
    pub(crate) fn sibling(self) -> Self {
        Self { span: fastrand::u64(1..), ..self }
    }

    /// The trace id in its text form: 32 hexadecimal digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }
}

/// The value of [`TRACEPARENT`].
impl fmt::Display for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

/// What a request says about its parent span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The span.
    pub context: SpanContext,
    /// Whether the caller records it.
    pub sampled: bool,
}

impl TraceParent {
    /// Parses the header's value. Malformed values give none, as the specification requires.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |text: &str, digits: usize| {
            let legal = text.len() == digits && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
            legal.then(|| u128::from_str_radix(text, 16).ok()).flatten()
        };
        let mut fields = text.splitn(5, '-');
        let mut next = || fields.next();
        let (version, trace, span, flags) = (next()?, next()?, next()?, next()?);
        let version = hex(version, 2)?;
        // Version 00 has four fields; later ones may have more, and 255 is invalid.
        if version == 255 || version == 0 && next().is_some() {
            return None;
        }
        let trace = hex(trace, 32).filter(|id| *id != 0)?;
        let span = hex(span, 16).and_then(|id| u64::try_from(id).ok()).filter(|id| *id != 0)?;
        let sampled = hex(flags, 2)? & 1 == 1;
        Some(Self { context: SpanContext { trace, span }, sampled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_it_is_written() {
        // The example of the specification.
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed = TraceParent::parse(text).unwrap();
        assert_eq!((parsed.context.to_string().as_str(), parsed.sampled), (text, true));
        assert_eq!(parsed.context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(!TraceParent::parse(&text.replace("-01", "-00")).unwrap().sampled);
        assert!(TraceParent::parse(&text.replace("-01", "-03")).unwrap().sampled, "other flags may be there");
        assert!(TraceParent::parse(&format!("{}-more", text.replacen("00", "01", 1))).is_some(), "of a later version");
    }

    #[test]
    fn malformed_values_are_ignored() {
        let legal = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for wrong in [
            String::new(),
            "00".to_owned(),
            legal.replacen("00", "ff", 1),
            legal.replacen("00", "0", 1),
            legal.to_uppercase(),
            format!("{legal}-more"),
            format!(" {legal}"),
            legal.replace("4bf9", "+bf9"),
            legal.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            legal.replace("00f067aa0ba902b7", &"0".repeat(16)),
            legal.replace("00f067aa0ba902b7", "00f067aa0ba902b"),
            legal.replace("-01", "-1"),
            legal.replace("-01", ""),
            "é".repeat(55),
        ] {
            assert_eq!(TraceParent::parse(&wrong), None, "{wrong}");
        }
    }
}
