//! The clock of the day, and whether it is believed.

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

/// How the controller's clock stands.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct ClockView {
    /// What the machine's clock says.
    time: String,
    /// The time that has passed for certain: everything goes by it.
    passed: String,
    /// Whether both agree. While they do not, nothing is deleted because its time has come.
    confirmed: bool,
    /// How far the clock is ahead, in seconds; negative where it is behind.
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

/// Show how the controller's clock stands.
#[utoipa::path(get, path = "/admin/v1/clock", tag = "operators", operation_id = "showClock",
    responses((status = 200, body = Envelope<ClockView>), Errors))]
pub(in crate::api) async fn show(context: RequestContext) -> Reply {
    reply(view(&context))
}

/// Say that the clock is right after it has leapt. Where the controller saw the leap, everything that waits for its time waits for
/// as long as it would have; where it was away, the clock says how long that was.
#[utoipa::path(post, path = "/admin/v1/clock/confirm", tag = "operators", operation_id = "confirmClock",
    responses((status = 200, body = Envelope<ClockView>), Errors))]
pub(in crate::api) async fn confirm(context: RequestContext) -> Reply {
    context.execute(Command::ConfirmClock, None).await?;
    reply(view(&context))
}
