//! Spans of traces, and how they reach a collector by OTLP over HTTP.
//!
//! Whoever records never waits: a span that has ended goes into a queue of bounded length, and is dropped and counted where that is full.
//! One task takes them out, some at a time, and sends them. A collector that is dead, slow or answers nonsense costs spans and nothing
//! else. Without a collector in the settings nothing is recorded, and nothing is sent.
//!
//! | module | holds |
//! |---|---|
//! | [`context`] | which span a span belongs to, also in another program (W3C Trace Context) |
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
