//! Recording: spans begin, get attributes, and end.

use crate::{
    context::{SpanContext, TraceParent},
    count::{Counts, Outcome},
};
use cps_peering_config::{
    settings::Ratio,
    text::{MAX_QUOTED, excerpt},
};
use prometheus_client::registry::Registry;
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Who the caller is that names a parent span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The caller decides whether a trace is recorded.
    Trusted,
    /// The caller does not decide which traces are recorded.
    Untrusted,
}

/// The kind of a span, numbered as in OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Within a program.
    Internal = 1,
    /// Serving a request.
    Server = 2,
    /// A request, until its response.
    Client = 3,
}

/// A point in time, by the wall clock and by the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    wall: SystemTime,
    steady: Instant,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }

    /// How long ago it was.
    pub fn elapsed(self) -> Duration {
        self.steady.elapsed()
    }
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text, truncated if it is long.
    Text(String),
    /// A number.
    Number(u64),
    /// A truth value.
    Flag(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(excerpt(text, MAX_QUOTED))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(number.try_into().unwrap_or(u64::MAX))
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Value {
    fn from(it: bool) -> Self {
        Self::Flag(it)
    }
}

/// Where spans are recorded. Clones share it. The default records nothing.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    queue: mpsc::Sender<Item>,
    ratio: Ratio,
    counts: Counts,
}

impl Recorder {
    pub(crate) fn new(queue: mpsc::Sender<Item>, ratio: Ratio, counts: Counts) -> Self {
        Self(Some(Arc::new(Inner { queue, ratio, counts })))
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Exports how many spans were sent and dropped, if any are recorded. `name` is that of the metric, without
    /// `_total`.
    pub fn register(&self, registry: &mut Registry, name: &str) {
        if let Some(inner) = &self.0 {
            let help = "Spans of traces, by whether the collector took them: exported, or why they were dropped";
            registry.register(name, help, inner.counts.family());
        }
    }

    /// Begins the first span of a program's part of a trace, if the trace is recorded. A trusted caller decides that if
    /// it names a parent. For others only the settings' ratio counts, whatever they send: the trace is a new one with a
    /// link to theirs.
    pub fn receive(&self, name: &str, since: Moment, parent: Option<TraceParent>, caller: Caller) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let (own, parent, link) = match (parent, caller) {
            (Some(TraceParent { sampled: false, .. }), Caller::Trusted) => return None,
            (Some(parent), Caller::Trusted) => (parent.context.sibling(), Some(parent.context.span), None),
            _ if !inner.ratio.takes(fastrand::u32(..)) => return None,
            (parent, _) => (SpanContext::new(), None, parent.map(|parent| parent.context)),
        };
        let mut span = self.begin(name, Kind::Server, own, since)?;
        (span.data.parent, span.data.remote, span.data.link) = (parent, parent.is_some(), link);
        Some(span)
    }

    /// Begins a child of another span of this program, which may have ended.
    pub fn child(&self, name: &str, kind: Kind, parent: SpanContext, since: Moment) -> Option<Span> {
        let mut span = self.begin(name, kind, parent.sibling(), since)?;
        span.data.parent = Some(parent.span);
        Some(span)
    }

    fn begin(&self, name: &str, kind: Kind, context: SpanContext, since: Moment) -> Option<Span> {
        let inner = Arc::clone(self.0.as_ref()?);
        let data = Data {
            name: excerpt(name, MAX_QUOTED),
            kind,
            context,
            parent: None,
            remote: false,
            link: None,
            began: since.wall,
            took: Duration::ZERO,
            attributes: Vec::new(),
            error: None,
        };
        Some(Span { inner, since: since.steady, data })
    }

    /// Waits until everything that has ended so far was sent or dropped, at most for `patience`.
    pub async fn flush(&self, patience: Duration) {
        let Some(inner) = &self.0 else { return };
        let flushed = async {
            let (done, flushed) = oneshot::channel();
            if inner.queue.send(Item::Flush(done)).await.is_ok() {
                // The exporter ends only with the program.
                let _ = flushed.await;
            }
        };
        // Spans that are not sent by then are lost with the program.
        let _ = timeout(patience, flushed).await;
    }
}

/// An entry of the queue.
#[derive(Debug)]
pub(crate) enum Item {
    Span(Box<Data>),
    /// Spans before it must not wait for more.
    Flush(oneshot::Sender<()>),
}

/// The content of a span.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) context: SpanContext,
    pub(crate) parent: Option<u64>,
    /// Whether the parent is in another program.
    pub(crate) remote: bool,
    /// A related span of another trace.
    pub(crate) link: Option<SpanContext>,
    pub(crate) began: SystemTime,
    pub(crate) took: Duration,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    /// Why the operation failed.
    pub(crate) error: Option<String>,
}

/// An operation that takes time, and is recorded. It ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    inner: Arc<Inner>,
    since: Instant,
    data: Data,
}

impl Span {
    /// Its context, for its children.
    pub fn context(&self) -> SpanContext {
        self.data.context
    }

    /// Sets an attribute, replacing an earlier one of this name. Never a secret or text of a tenant.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.data.attributes.retain(|(known, _)| *known != name);
        self.data.attributes.push((name, value.into()));
    }

    /// The operation failed.
    pub fn fail(&mut self, reason: impl std::fmt::Display) {
        self.data.error = Some(excerpt(&reason.to_string(), MAX_QUOTED));
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let mut data = self.data.take();
        data.took = self.since.elapsed();
        if self.inner.queue.try_send(Item::Span(Box::new(data))).is_err() {
            self.inner.counts.add(Outcome::QueueFull, 1);
        }
    }
}

impl Data {
    /// What is left behind is never read.
    fn take(&mut self) -> Self {
        Self {
            name: std::mem::take(&mut self.name),
            attributes: std::mem::take(&mut self.attributes),
            error: self.error.take(),
            ..*self
        }
    }
}
