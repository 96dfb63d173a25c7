//! What the audit trail says of those who were not let in: so many entries each minute, and how many there were beside.

use crate::{audit::Entry, engine::Engine, model::Actor};
use cps_peering_config::{
    id::AccountId,
    text::{self, MAX_QUOTED},
};
use serde_json::{Value, json};
use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How many entries there are each minute at most: nobody is to fill the trail with guesses.
pub const RECORDED_PER_MINUTE: u32 = 60;
const MINUTE: Duration = Duration::from_mins(1);

/// Where a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The address of the client.
    pub address: IpAddr,
    /// The id of the request.
    pub request: String,
}

/// Somebody who was not let in, or asked for what is not for them.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// Who it is; `unknown` where nobody knows.
    pub actor: &'a str,
    /// What was tried: `SignIn`, or `PermissionDenied`.
    pub action: &'static str,
    /// With what, or what for.
    pub target: &'a str,
    /// Why not.
    pub reason: &'a str,
    /// Whose credential it was to be.
    pub account: Option<&'a AccountId>,
}

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    recorded: u32,
    unrecorded: u64,
}

/// Takes note of them.
#[derive(Default)]
pub struct Failures(Mutex<Window>);

impl Failures {
    /// Whether one more is told at this moment, and how many were not before it that are to be told now.
    fn take(&self, now: Instant) -> (bool, u64) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missed = 0;
        if window.began.is_none_or(|began| now.duration_since(began) >= MINUTE) {
            missed = window.unrecorded;
            *window = Window { began: Some(now), ..Window::default() };
        }
        if window.recorded < RECORDED_PER_MINUTE {
            window.recorded += 1;
            (true, missed)
        } else {
            window.unrecorded += 1;
            (false, missed)
        }
    }

    /// Tells the trail.
    pub fn record(&self, engine: &Engine, origin: &Origin, refusal: Refusal<'_>) {
        let (told, missed) = self.take(Instant::now());
        let time_ms = engine.now_ms();
        let from = if origin.address.is_unspecified() { String::new() } else { origin.address.to_string() };
        if missed > 0 {
            engine.note(Entry {
                time_ms,
                request: String::new(),
                actor: Actor::System.to_string(),
                action: "DropFailures".to_owned(),
                target: "unknown".to_owned(),
                outcome: "dropped".to_owned(),
                reason: format!("{missed} more were refused, of which the trail says nothing else: at most {RECORDED_PER_MINUTE} are told each minute"),
                asked: json!({ "entries": missed }),
                accounts: [].into(),
                from: String::new(),
            });
        }
        if told {
            engine.note(Entry {
                time_ms,
                request: origin.request.clone(),
                actor: refusal.actor.to_owned(),
                action: refusal.action.to_owned(),
                target: text::printable(&text::cut(refusal.target, MAX_QUOTED)).to_string(),
                outcome: "refused".to_owned(),
                reason: refusal.reason.to_owned(),
                asked: Value::Null,
                accounts: refusal.account.cloned().into_iter().collect(),
                from,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_told_each_minute_and_how_many_more_there_were_after_it() {
        let (failures, began) = (Failures::default(), Instant::now());
        let told = (0..1000).filter(|_| failures.take(began).0).count();
        assert_eq!(told, RECORDED_PER_MINUTE as usize);
        assert_eq!(failures.take(began + MINUTE / 2), (false, 0));
        assert_eq!(failures.take(began + MINUTE), (true, 1001 - u64::from(RECORDED_PER_MINUTE)));
        assert_eq!(failures.take(began + MINUTE), (true, 0));
    }
}
