//! Spans of traces, and their export to a collector by OTLP over HTTP.
//!
//! Recording never blocks: a span that has ended goes into a bounded queue, and is dropped and counted if that is full.
//! One task takes them out in batches, and sends them. A collector that is dead, slow or sends garbage costs spans and
//! nothing else. Without a collector in the settings nothing is recorded or sent.
//!
//! | module | holds |
//! |---|---|
//! | [`context`] | the parent of a span, possibly in another program (W3C Trace Context) |
//! | [`span`] | recording |
//! | `count` | how many there were |
//! | [`export`] | sending |
//! | `wire` | OTLP's JSON |

pub mod context;
mod count;
pub mod export;
pub mod span;
#[cfg(test)]
mod tests;
mod wire;

pub use context::{SpanContext, TRACEPARENT, TraceParent};
pub use export::Exporter;
pub use span::{Caller, Kind, Moment, Recorder, Span};
pub use wire::Service;
