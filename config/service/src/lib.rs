//! Notifications of the daemons to the service manager by `sd_notify(3)`, if there is one; and their [`log`].

pub mod log;

use sd_notify::NotifyState;
use std::{future::Future, time::Duration};

/// How many watchdog notifications are sent per watchdog timeout.
const SIGNS: u32 = 3;

/// The daemon is ready, with this status.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The daemon's status, in one line.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The settings are being reloaded; [`ready`] follows, whatever the result.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell the time for the service manager"),
    }
}

/// The daemon is stopping on request.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Sends watchdog notifications as often as the service manager requires, each time after `prove` has shown that the
/// daemon is alive. If the proof never completes, the service manager ends the daemon and restarts it. Never completes.
pub async fn keep_alive<Proof: Future<Output = ()>>(prove: impl Fn() -> Proof) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    signs(patience, prove, || tell(&[NotifyState::Watchdog])).await;
}

async fn signs<Proof: Future<Output = ()>>(patience: Duration, prove: impl Fn() -> Proof, sign: impl Fn()) {
    let mut ticks = tokio::time::interval((patience / SIGNS).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        prove().await;
        sign();
    }
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "cannot tell the service manager how this daemon stands");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn the_watchdog_is_fed_for_every_proof_and_not_without() {
        let (asked, given, stuck) = (Cell::new(0), Cell::new(0), Notify::new());
        let prove = async || {
            asked.set(asked.get() + 1);
            if asked.get() > 5 {
                stuck.notify_one();
                std::future::pending::<()>().await;
            }
        };
        let sign = || {
            given.set(given.get() + 1);
            if given.get() > 5 {
                stuck.notify_one();
            }
        };
        tokio::select! {
            () = signs(Duration::from_millis(3), prove, sign) => {}
            () = stuck.notified() => {}
        }
        assert_eq!((asked.get(), given.get()), (6, 5));
    }
}
