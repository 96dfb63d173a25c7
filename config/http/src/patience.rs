//! Waiting for a peer no longer than its pace allows.

use crate::{
    pace::{MinimumRate, Pace},
    places::Connection,
};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::time::{Instant, Sleep, sleep_until};

/// Waits for a peer no longer than its [`Pace`] allows.
pub(crate) struct Patience {
    pace: Pace,
    end: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(crate) fn new(rate: MinimumRate) -> Self {
        Self { pace: Pace::new(rate), end: None }
    }

    /// Bytes were received or sent.
    pub(crate) fn passed(&mut self, bytes: usize) {
        self.pace.passed(bytes, Instant::now());
    }

    /// It is the peer's turn. Ready once it has taken too long.
    pub(crate) fn poll_too_slow(&mut self, connection: &Connection, context: &mut Context<'_>) -> Poll<()> {
        connection.entry().wait_for_client();
        let end = self.pace.wait(Instant::now());
        let sleep = self.end.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if sleep.deadline() != end {
            sleep.as_mut().reset(end);
        }
        sleep.as_mut().poll(context)
    }
}
