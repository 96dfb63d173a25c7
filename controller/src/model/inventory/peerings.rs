//! Peerings of an inventory document.

use super::{Action, Applier, Change, Field, difference::changed_fields, entry, pair};
use crate::model::{
    Code, CommandError, peering,
    prefixes::{self, PrefixLists},
    record::{Manager, Peering, PeeringState, Role, Side},
};
use cps_peering_config::{id::PeeringId, inventory, prefix_set::intersection, text};
use ipnet::{IpNet, Ipv6Net};
use std::{collections::BTreeMap, net::Ipv6Addr};

/// A prefix that covers no address of a VPC. An empty list would mean all.
const NOTHING: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128));

/// The part of a prefix list that stays; unchanged if none is wanted.
fn common(before: &[IpNet], wanted: Option<&Vec<IpNet>>) -> Vec<IpNet> {
    match wanted {
        Some(wanted) if before.is_empty() => wanted.clone(),
        Some(wanted) if !wanted.is_empty() => {
            let common = intersection(before, wanted);
            if common.is_empty() { vec![NOTHING] } else { common }
        }
        _ => before.to_vec(),
    }
}

impl Applier<'_, '_, '_> {
    pub(super) fn peerings(&mut self) {
        let mut pairs = BTreeMap::new();
        let before = self.narrow();
        for (place, wanted) in self.document.peerings.iter().enumerate() {
            let entry = entry("peerings", place, text::cut(&wanted.name, text::MAX_QUOTED));
            if let Some(first) = pairs.insert(pair(&wanted.vpc, &wanted.peer_vpc), place) {
                self.fault(
                    entry,
                    format!("{} and {} are also peered by peerings[{first}]", wanted.vpc, wanted.peer_vpc),
                );
                continue;
            }
            let result = match self.joining(wanted).map(|joined| before.get(&joined.id).unwrap_or(joined)).cloned() {
                Some(joined) if joined.initiator.vpc != wanted.vpc => {
                    let rule = format!(
                        "peering {} of these VPCs was initiated by {}, and sides do not change: swap `vpc` and `peer_vpc`",
                        joined.id, joined.initiator.vpc
                    );
                    self.fault(entry, rule);
                    continue;
                }
                Some(joined) => self.update_peering(&joined, wanted),
                None => self.create_peering(wanted),
            };
            if let Err(refusal) = result {
                self.take(&entry, refusal);
            }
        }
    }

    /// The existing peering of the same two VPCs.
    fn joining(&self, wanted: &inventory::Peering) -> Option<&Peering> {
        self.tx.state.peerings_of(&wanted.vpc).find(|peering| {
            peering.is_live()
                && peering.sides().iter().any(|side| side.vpc == wanted.peer_vpc)
                && wanted.vpc != wanted.peer_vpc
        })
    }

    /// Removes from every peering what it is to lose, before any gets something: otherwise it would depend on their order
    /// in the document whether one can have what another gives up. Returns the peerings as they were.
    fn narrow(&mut self) -> BTreeMap<PeeringId, Peering> {
        let mut before = BTreeMap::new();
        for wanted in &self.document.peerings {
            let Some(old) = self.joining(wanted).filter(|old| old.initiator.vpc == wanted.vpc).cloned() else {
                continue;
            };
            let lists = |side: &Side, export: &Option<Vec<IpNet>>, import: &Option<Vec<IpNet>>| Side {
                export_prefixes: common(&side.export_prefixes, export.as_ref()),
                import_prefixes: common(&side.import_prefixes, import.as_ref()),
                ..side.clone()
            };
            let initiator = lists(&old.initiator, &wanted.export_prefixes, &wanted.import_prefixes);
            let receiver = match old.state {
                // Its lists are set when it is accepted.
                PeeringState::Pending => old.receiver.clone(),
                _ => lists(&old.receiver, &wanted.peer_export_prefixes, &wanted.peer_import_prefixes),
            };
            // Errors in it are reported when it gets its lists.
            if prefixes::become_of(self.tx, &old.id, [initiator, receiver], self.context).is_ok() {
                before.entry(old.id.clone()).or_insert(old);
            }
        }
        before
    }

    pub(super) fn create_peering(&mut self, wanted: &inventory::Peering) -> Result<(), CommandError> {
        let wish = peering::Create {
            name: wanted.name.clone(),
            description: String::new(),
            message: String::new(),
            tags: Vec::new(),
            vpc: wanted.vpc.clone(),
            region: None,
            peer_vpc: wanted.peer_vpc.clone(),
            peer_region: None,
            peer_account: None,
            bandwidth: wanted.bandwidth,
            prefixes: PrefixLists {
                export: wanted.export_prefixes.clone().unwrap_or_default(),
                import: wanted.import_prefixes.clone().unwrap_or_default(),
            },
            peer_prefixes: PrefixLists {
                export: wanted.peer_export_prefixes.clone().unwrap_or_default(),
                import: wanted.peer_import_prefixes.clone().unwrap_or_default(),
            },
        };
        let id = peering::create(self.tx, &wish, self.context)?;
        self.adopt(&id);
        self.note("peering", &format!("{id} ({})", wanted.name), Action::Create, Vec::new());
        Ok(())
    }

    /// The inventory manages the peering from now on, unless an account or an operator created it. Returns what that
    /// changes.
    pub(super) fn adopt(&mut self, id: &PeeringId) -> Option<Field> {
        let peering = self.tx.state.peerings().get(id).cloned()?;
        let made_now = !self.tx.before().peerings().contains_key(id);
        let managed_by = self.manager(Some(&peering.managed_by).filter(|_| !made_now));
        if managed_by == peering.managed_by {
            return None;
        }
        let adopted = Peering { managed_by, ..peering.clone() };
        let field = changed_fields(&peering, &adopted).into_iter().next();
        self.tx.change(Change::Peering(id.clone(), Some(adopted)));
        field
    }

    pub(super) fn update_peering(&mut self, old: &Peering, wanted: &inventory::Peering) -> Result<(), CommandError> {
        let which = peering::Locator { region: None, id: old.id.clone() };
        let mut fields = Vec::new();
        // An account pays for its bandwidth: a document that does not mention it does not lift it.
        if let Some(mbit) = old.bandwidth
            && wanted.bandwidth.is_none()
            && !matches!(old.managed_by, Manager::Inventory(_))
        {
            let rule = format!(
                "peering {} was made by no inventory and is limited to {mbit} Mbit/s, and the document does not say so: give it \
                 `bandwidth = {mbit}`, or another one",
                old.id
            );
            return Err(CommandError::one(Code::InvalidArgument, "bandwidth", rule, "BandwidthRequired"));
        }
        if old.name != wanted.name {
            let modify = peering::Modify {
                which,
                name: Some(wanted.name.clone()),
                description: None,
                tags: None,
                protected: None,
            };
            peering::modify(self.tx, &modify, self.context)?;
            fields.push(Field {
                field: "name".to_owned(),
                from: old.name.clone().into(),
                to: wanted.name.clone().into(),
            });
        }
        if old.bandwidth != wanted.bandwidth {
            peering::limit(self.tx, &old.id, wanted.bandwidth, self.context)?;
            let (from, to) = (old.bandwidth.into(), wanted.bandwidth.into());
            fields.push(Field { field: "bandwidth".to_owned(), from, to });
        }
        let narrowed = self.prefixes(old, wanted, &mut fields)?;
        // A document counts as the consent of both accounts.
        if old.state == PeeringState::Pending {
            let which = peering::Locator { region: None, id: old.id.clone() };
            let receiver = &self.tx.state.peerings()[&old.id].receiver;
            let kept =
                PrefixLists { export: receiver.export_prefixes.clone(), import: receiver.import_prefixes.clone() };
            let export = wanted.peer_export_prefixes.clone().unwrap_or(kept.export);
            let import = wanted.peer_import_prefixes.clone().unwrap_or(kept.import);
            let accept = peering::Accept { which, prefixes: PrefixLists { export, import } };
            peering::accept(self.tx, &accept, self.context)?;
            fields.push(Field { field: "state".to_owned(), from: "pending".into(), to: "provisioning".into() });
        }
        fields.extend(self.adopt(&old.id));
        if !fields.is_empty() {
            self.note("peering", &format!("{} ({})", old.id, wanted.name), Action::Update, fields);
            if narrowed {
                self.stops();
            }
        }
        Ok(())
    }

    /// Sets the prefix lists that the document names on both sides (rule L13). Returns whether that stops traffic.
    fn prefixes(
        &mut self,
        old: &Peering,
        wanted: &inventory::Peering,
        fields: &mut Vec<Field>,
    ) -> Result<bool, CommandError> {
        let lists = [
            (Role::Initiator, &wanted.export_prefixes, &wanted.import_prefixes),
            (Role::Receiver, &wanted.peer_export_prefixes, &wanted.peer_import_prefixes),
        ];
        let mut after = old.clone();
        for (role, export, import) in lists {
            // The receiver's lists are set with its consent.
            if old.state == PeeringState::Pending && role == Role::Receiver {
                continue;
            }
            let given =
                PrefixLists { export: export.clone().unwrap_or_default(), import: import.clone().unwrap_or_default() };
            given.check()?;
            prefixes::give(after.side_mut(role), export.as_deref(), import.as_deref())?;
            let (before, now) = (old.view(role).0, after.view(role).0);
            let prefix = if role == Role::Receiver { "peer_" } else { "" };
            for (name, from, to) in [
                ("export_prefixes", &before.export_prefixes, &now.export_prefixes),
                ("import_prefixes", &before.import_prefixes, &now.import_prefixes),
            ] {
                if from != to {
                    let (from, to) = (serde_json::json!(from), serde_json::json!(to));
                    fields.push(Field { field: format!("{prefix}{name}"), from, to });
                }
            }
        }
        // Other fields may have been changed already.
        let sides = [after.initiator.clone(), after.receiver.clone()];
        prefixes::become_of(self.tx, &old.id, sides, self.context)?;
        Ok(old.forwards() && prefixes::narrows(old, &after))
    }
}
