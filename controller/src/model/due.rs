//! What happens by itself when its time has come.

use super::{
    Context, Transaction, peering,
    record::{End, PeeringState},
    state::{Change, Due},
};

/// Does everything whose time has come.
pub fn catch_up(tx: &mut Transaction<'_>, context: &mut Context<'_>) {
    while let Some(due) = tx.state.next_due(context.now_ms).cloned() {
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
            Due::Token(key) => tx.change(Change::Token(key, None)),
            Due::Signature(signature) => tx.change(Change::Signature(signature, None)),
        }
    }
}
