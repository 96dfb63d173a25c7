//! An HTTP server that withstands clients that are slow, silent or too many, over plain TCP or over [TLS](tls).
//!
//! | module | holds |
//! |---|---|
//! | [`places`] | how many connections each client may have, and which one is closed when there are too many |
//! | [`share`] | a common pool that no holder can exhaust for the others |
//! | [`source`] | the origin of clients |
//! | `pace`, `patience`, `socket`, `body` | how fast clients must send bodies and take responses |
//! | `server` | accepting, TLS handshakes, HTTP |
//! | [`tls`] | certificates and names |
//! | [`forward`] | forwarding requests to another server |
//! | [`headers`] | headers that a request must not repeat |
//! | [`metrics`] | metrics for Prometheus |

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

/// How long a request may take from its head to the head of its response, its body included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// An error with its chain of causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A middleware that responds with 408 if there is no response within `limit`, usually [`REQUEST_TIMEOUT`]. A response
/// that is a stream may take longer.
pub async fn within(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        let text = format!("the request was not done within {} s", limit.as_secs_f32());
        (StatusCode::REQUEST_TIMEOUT, text).into_response()
    })
}

#[cfg(test)]
mod tests;
