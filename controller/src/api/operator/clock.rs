//! The wall clock, and whether it is trusted.

use crate::{
    api::{
        request::RequestContext,
        response::{Envelope, Errors, Reply, reply},
    },
    model::Command,
};
use cps_peering_config::time::timestamp;
use serde::Serialize;
use utoipa::ToSchema;

/// State of the controller's clock.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct ClockView {
    /// The time of the machine's clock.
    time: String,
    /// The controller's time, on which all deadlines are based.
    passed: String,
    /// Whether both agree. While they do not, nothing is deleted at its deadline.
    confirmed: bool,
    /// How far the machine's clock is ahead, in seconds; negative if it is behind.
    leap_seconds: i64,
}

fn view(context: &RequestContext) -> ClockView {
    let engine = &context.api.engine;
    let leap = engine.leap();
    ClockView {
        time: timestamp(engine.wall_ms()),
        passed: timestamp(engine.now_ms()),
        confirmed: leap.is_none(),
        leap_seconds: leap.map_or(0, |leap| leap.by_ms / 1000),
    }
}

/// Show the state of the controller's clock.
#[utoipa::path(get, path = "/admin/v1/clock", tag = "operators", operation_id = "showClock",
    responses((status = 200, body = Envelope<ClockView>), Errors))]
pub(in crate::api) async fn show(context: RequestContext) -> Reply {
    reply(view(&context))
}

/// Confirm the clock after a jump. If the controller saw the jump, deadlines are moved by it; if it was not running, the clock's time
/// is taken as elapsed.
#[utoipa::path(post, path = "/admin/v1/clock/confirm", tag = "operators", operation_id = "confirmClock",
    responses((status = 200, body = Envelope<ClockView>), Errors))]
pub(in crate::api) async fn confirm(context: RequestContext) -> Reply {
    context.execute(Command::ConfirmClock, None).await?;
    reply(view(&context))
}
