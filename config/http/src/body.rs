//! Request bodies with a minimum rate, and response bodies that report when they are complete.

use crate::{pace::MinimumRate, patience::Patience, places::Connection};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use thiserror::Error;
use tokio::{runtime::Handle, time::timeout};

/// Why a body could not be read.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The client sends too slowly.
    #[error("the body comes too slowly")]
    TooSlow,
    /// The connection ended, or the body violates HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// How much of an unread body is drained, in bytes, and for how long, in total and without progress.
///
/// If the connection were closed immediately, a client that is answered while still sending would be reset, and lose
/// the response.
const REST: usize = 1 << 20;
const REST_WITHIN: Duration = Duration::from_secs(2);
const REST_PAUSE: Duration = Duration::from_millis(500);

/// The body of a request. Dropping it drains the rest, within bounds.
pub(crate) struct Paced {
    /// None after its end, or once it has failed.
    body: Option<Incoming>,
    /// Whether the client waits for permission to send it.
    awaited: bool,
    connection: Connection,
    patience: Patience,
}

impl Paced {
    /// `awaited`: the client waits for permission to send it (`Expect: 100-continue`), which it gets when the body is
    /// read.
    pub(crate) fn new(body: Incoming, connection: Connection, rate: MinimumRate, awaited: bool) -> Self {
        Self { body: Some(body), awaited, connection, patience: Patience::new(rate) }
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|body| !self.awaited && !body.is_end_stream()) else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(timeout(REST_WITHIN, async move {
            let mut left = REST;
            while let Ok(Some(Ok(frame))) =
                timeout(REST_PAUSE, poll_fn(|context| Pin::new(&mut body).poll_frame(context))).await
            {
                let length = frame.data_ref().map_or(0, Bytes::len);
                if length > left {
                    return;
                }
                left -= length;
            }
        }));
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.awaited = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(context) {
            Poll::Ready(frame) => {
                let bytes = match &frame {
                    Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                    Some(Err(_)) | None => 0,
                };
                self.patience.passed(bytes);
                if self.is_end_stream() || !matches!(frame, Some(Ok(_))) {
                    self.connection.entry().serve_client();
                    self.body = None;
                }
                Poll::Ready(frame.map(|frame| Ok(frame?)))
            }
            Poll::Pending => {
                let this = &mut *self;
                ready!(this.patience.poll_too_slow(&this.connection, context));
                self.body = None;
                // The client gets an error.
                self.connection.entry().serve_client();
                Poll::Ready(Some(Err(BodyError::TooSlow)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The body of a response. Once it is complete, or dropped, it is the client's turn.
pub(crate) struct Answered {
    body: axum::body::Body,
    connection: Connection,
}

impl Answered {
    pub(crate) fn new(body: axum::body::Body, connection: Connection) -> Self {
        Self { body, connection }
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.connection.entry().wait_for_client();
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_pending() {
            // The client waits for the server, which has nothing to send for now: a stream.
            self.connection.entry().serve_client();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
