//! Deadlines, and what happens to them when the clock is set.

use super::{
    Context, Leap, Transaction, metering, peering,
    record::{Charge, End, PeeringState},
    state::{Change, Due, State},
    window,
};

/// The next deadline to handle. While the machine's clock contradicts the elapsed time, nothing is deleted.
fn next(state: &State, context: &Context<'_>) -> Option<Due> {
    let deletes = |due: &Due| match due {
        Due::Peering(id) => state.peerings().get(id).is_some_and(|peering| peering.state != PeeringState::Pending),
        Due::Arrear(_) => true,
        Due::Window(_) | Due::Token(_) | Due::Signature(_) | Due::Hourly(_) => false,
    };
    let held = context.now.leap.is_some();
    state.all_due(context.now_ms).find(|due| !held || !deletes(due)).cloned()
}

/// Handles all deadlines that have passed.
pub fn catch_up(tx: &mut Transaction<'_>, context: &mut Context<'_>) {
    while let Some(due) = next(tx.state, context) {
        match due {
            Due::Peering(id) => {
                let Some(peering) = tx.state.peerings().get(&id).cloned() else { return };
                if peering.state == PeeringState::Pending {
                    peering::end(tx, peering, End::Expired, context);
                } else {
                    tx.change(Change::Peering(id, None));
                }
            }
            Due::Arrear(id) => {
                peering::delete_suspended(tx, &id, context);
                // Once is enough; the account stays in arrear.
                let mut account = tx.state.account(&id);
                account.charge = account.charge.without_deadline();
                tx.change(Change::Account(id, Some(account)));
            }
            Due::Window(id) => window::turn(tx, &id),
            Due::Token(key) => tx.change(Change::Token(key, None)),
            Due::Signature(signature) => tx.change(Change::Signature(signature, None)),
            Due::Hourly(key) => tx.change(Change::Hourly(key, None)),
        }
    }
}

/// The machine's clock is right: from now on it is the time. If the elapsed time is known, all deadlines are
/// moved by the jump, and nobody is charged for time that has not elapsed. If the controller
/// was down, the clock tells for how long.
pub fn confirm_clock(tx: &mut Transaction<'_>, context: &Context<'_>) {
    let Some(leap) = context.now.leap else { return };
    // It is committed, also if there is no deadline.
    tx.change(Change::Meta(tx.state.meta()));
    let moves = |began_ms: u64| leap.elapsed_known || leap.by_ms < 0 || began_ms > leap.since_ms;
    let moved = |ms: u64| ms.saturating_add_signed(leap.by_ms);
    let due: Vec<Due> = tx.state.all_due(u64::MAX).cloned().collect();
    for due in due {
        match due {
            Due::Peering(id) => {
                let Some(mut peering) = tx.state.peerings().get(&id).cloned() else { continue };
                match &mut peering.state {
                    PeeringState::Pending if moves(peering.created_ms) => {
                        peering.expires_ms = peering.expires_ms.map(moved);
                    }
                    PeeringState::Ended { forget_ms, .. } if moves(peering.since_ms) => *forget_ms = moved(*forget_ms),
                    _ => continue,
                }
                tx.change(Change::Peering(id, Some(peering)));
            }
            Due::Arrear(id) => {
                let mut account = tx.state.account(&id);
                if let Charge::Arrear { since_ms, delete_ms } = &mut account.charge
                    && moves(*since_ms)
                {
                    *delete_ms = delete_ms.map(moved);
                    tx.change(Change::Account(id, Some(account)));
                }
            }
            Due::Window(id) => window::confirm_clock(tx, &id, context.now_ms, leap, moves),
            Due::Token(key) => {
                let Some(mut used) = tx.state.token(&key).cloned().filter(|_| moves(0)) else { continue };
                used.forget_ms = moved(used.forget_ms);
                tx.change(Change::Token(key, Some(used)));
            }
            Due::Signature(signature) => {
                let Some(until_ms) = tx.state.signature(&signature).filter(|_| moves(0)) else { continue };
                tx.change(Change::Signature(signature, Some(moved(until_ms))));
            }
            Due::Hourly(key) => {
                let Some(hourly) = tx.state.hourly().get(&key).filter(|_| moves(0)) else { continue };
                let hourly = hourly.moved(leap.by_ms);
                tx.change(Change::Hourly(key, Some(hourly)));
            }
        }
    }
    begin_again(tx, context.now_ms, leap, moves);
}

/// What is measured from some moment on is measured from now on, by the new time.
fn begin_again(tx: &mut Transaction<'_>, now_ms: u64, leap: Leap, moves: impl Fn(u64) -> bool) {
    let ended = tx.state.peerings().values().filter(|it| it.is_ended() && metering::absence(it, leap).is_some());
    let running: Vec<_> =
        tx.state.cross_region().chain(tx.state.unsettled()).chain(ended).map(|it| it.id.clone()).collect();
    for id in running {
        let Some(mut peering) = tx.state.peerings().get(&id).cloned() else { continue };
        let before = peering.clone();
        if moves(peering.since_ms) && peering.state == PeeringState::Provisioning && peering.since_ms <= now_ms {
            peering.since_ms = peering.since_ms.saturating_add_signed(leap.by_ms);
        }
        let absence = metering::absence(&peering, leap);
        if absence.is_some() || peering.meter.is_some_and(|meter| moves(meter.at_ms)) {
            let then_ms = now_ms.saturating_add_signed(leap.by_ms);
            metering::restart(tx, &mut peering, now_ms, then_ms);
            if let Some(absence) = absence {
                metering::charge_absence(tx, &peering, absence, now_ms, then_ms);
            }
        }
        if peering != before {
            tx.change(Change::Peering(id, Some(peering)));
        }
    }
}
