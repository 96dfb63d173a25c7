//! An HTTP server that outlives slow, silent and too many clients, over plain TCP or over [TLS](tls).
//!
//! | module | holds |
//! |---|---|
//! | [`places`] | who may have how many connections, and who loses one when there are too many |
//! | [`share`] | a common stock that nobody can use up for the others |
//! | [`source`] | where clients come from |
//! | `pace`, `patience`, `socket`, `body` | how fast clients must send bodies and take answers |
//! | `server` | accepting, TLS handshakes, HTTP |
//! | [`tls`] | certificates and names |
//! | [`forward`] | passing requests on to another server |
//! | [`headers`] | what the head of a request must have once |
//! | [`metrics`] | figures for Prometheus |

mod body;
pub mod forward;
pub mod headers;
pub mod metrics;
mod pace;
mod patience;
pub mod places;
mod server;
pub mod share;
mod socket;
pub mod source;
pub mod tls;

pub use body::BodyError;
pub use pace::MinimumRate;
pub use places::{Connection, Limits, Places};
pub use server::{serve, serve_within};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::time::Duration;

/// How long a request may take from its head to its answer, its body included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// An error with everything that led to it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A middleware that answers 408 when it takes longer than `limit`, in general [`REQUEST_TIMEOUT`], until there is an answer.
/// An answer that is a stream may go on.
pub async fn within(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        let text = format!("the request was not done within {} s", limit.as_secs_f32());
        (StatusCode::REQUEST_TIMEOUT, text).into_response()
    })
}

#[cfg(test)]
mod tests;
