//! What happens by itself when its time has come.

use super::{
    Context, Draft, peering,
    record::{End, PeeringState},
    state::{Change, Due},
};

/// Does everything whose time has come.
pub fn catch_up(draft: &mut Draft<'_>, context: &mut Context<'_>) {
    while let Some(due) = draft.state.next_due(context.now_ms).cloned() {
        match due {
            Due::Peering(id) => {
                let Some(peering) = draft.state.peerings().get(&id).cloned() else { return };
                if peering.state == PeeringState::Pending {
                    peering::end(draft, peering, End::Expired, context);
                } else {
                    draft.change(Change::Peering(id, None));
                }
            }
            Due::Arrear(id) => {
                peering::delete_suspended(draft, &id, context);
                // Once is enough; the account stays in arrear.
                let mut account = draft.state.account(&id);
                account.charge = account.charge.without_deadline();
                draft.change(Change::Account(id, Some(account)));
            }
            Due::Token(key) => draft.change(Change::Token(key, None)),
            Due::Signature(signature) => draft.change(Change::Signature(signature, None)),
        }
    }
}
