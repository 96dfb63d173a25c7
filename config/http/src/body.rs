//! Bodies of requests that must come fast enough, and bodies of answers that tell when they are whole.

use crate::{
    pace::{MinimumRate, Pace},
    places::Connection,
};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep_until};

/// Why a body did not come.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The client sends too slowly.
    #[error("the body comes too slowly")]
    TooSlow,
    /// The connection ended, or the body breaks the rules of HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// The body of a request.
pub(crate) struct Paced {
    body: Incoming,
    connection: Connection,
    pace: Pace,
    end: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub(crate) fn new(body: Incoming, connection: Connection, rate: MinimumRate) -> Self {
        Self { body, connection, pace: Pace::new(rate), end: None }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let bytes = match &frame {
                    Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                    Some(Err(_)) | None => 0,
                };
                self.pace.passed(bytes, Instant::now());
                if self.body.is_end_stream() || frame.is_none() {
                    self.connection.entry().serve_client();
                }
                Poll::Ready(frame.map(|frame| Ok(frame?)))
            }
            Poll::Pending => {
                self.connection.entry().wait_for_client();
                let end = self.pace.wait(Instant::now());
                let sleep = self.end.get_or_insert_with(|| Box::pin(sleep_until(end)));
                if sleep.deadline() != end {
                    sleep.as_mut().reset(end);
                }
                ready!(sleep.as_mut().poll(context));
                Poll::Ready(Some(Err(BodyError::TooSlow)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. When it is whole, or given up, the client's turn begins.
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
            // It waits for the server, which has nothing more to say for now: a stream.
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
