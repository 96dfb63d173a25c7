//! Bringing regions, hosts, VPCs, ports and peerings to what a document says: all of it or nothing.

use super::{
    Code, CommandError, Context, FieldViolation, Limits, Transaction,
    address_rules::{cidr_violations, port_violations, still_needed},
    overlap, peering,
    record::{Account, Host, Manager, Peering, PeeringState, Port, PortKey, Region, Vpc},
    state::{Change, State},
    vni,
    vpc::{self, check_name},
};
use cps_peering_config::{
    id::{HostId, PeeringId, RegionId, VpcId},
    inventory::{self, Inventory},
    naming::{DeviceName, mac},
    text,
};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// The longest name of an inventory, in characters.
const MAX_NAME: usize = 64;
/// The longest URL of an agent, in characters.
const MAX_URL: usize = 256;

/// A document to apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Apply {
    /// The document.
    pub inventory: Inventory,
    /// Whether what is not in it, and was made by an inventory of the same name, is removed.
    pub prune: bool,
    /// Whether what is lost by it was agreed to.
    pub confirmation: Confirmation,
    /// It is applied only if this is the number of the last commit: what it was made from is what there is.
    pub if_revision: Option<u64>,
}

/// Whether somebody has agreed to what a document takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Confirmation {
    /// Nobody needs to: nothing is kept of it, or there is nothing to lose.
    NotNeeded,
    /// How many entries may be removed or stop traffic, if somebody said.
    Given(Option<usize>),
}

impl Apply {
    /// A document as it is, without removing anything.
    pub fn of(inventory: Inventory) -> Self {
        Self { inventory, prune: false, confirmation: Confirmation::NotNeeded, if_revision: None }
    }

    /// The same with removing what is not in it.
    #[must_use]
    pub fn pruning(self) -> Self {
        Self { prune: true, ..self }
    }
}

/// One thing that a document changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `region`, `account`, `host`, `vpc`, `port` or `peering`.
    pub kind: &'static str,
    /// The VPC.
    pub id: String,
    /// What happened to it.
    pub action: Action,
    /// What was changed of it, if it was there before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
    /// Whether packets of a peering that passed do not pass any more.
    #[serde(rename = "stopsTraffic", skip_serializing_if = "std::ops::Not::not")]
    pub stops_traffic: bool,
}

/// How many entries are to be confirmed; none where nobody needs to agree: nothing stops, and no more hosts are removed than
/// the limits say. `before` is the state without the differences.
pub fn confirmation(before: &State, differences: &[Difference], limits: &Limits) -> Option<usize> {
    let removed = |it: &&Difference| it.action == Action::Delete;
    let hosts = differences.iter().filter(removed).filter(|it| it.kind == "host").count();
    let many = hosts * 100 > before.hosts().len() * limits.unconfirmed_host_removals_percent as usize;
    let lost = differences.iter().filter(|it| removed(it) || it.stops_traffic).count();
    (many || differences.iter().any(|it| it.stops_traffic)).then_some(lost)
}

/// What happens to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is new.
    Create,
    /// It is changed.
    Update,
    /// It is removed.
    Delete,
}

impl Action {
    /// The word for users.
    pub fn word(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Update => "update",
            Action::Delete => "delete",
        }
    }
}

/// A changed field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Its name.
    pub field: String,
    /// What it was.
    pub from: Value,
    /// What it is.
    pub to: Value,
}

/// Applies a document.
pub fn apply(
    tx: &mut Transaction<'_>,
    apply: &Apply,
    context: &mut Context<'_>,
) -> Result<Vec<Difference>, CommandError> {
    if let Some(expected) = apply.if_revision.filter(|number| *number != tx.state.meta().number) {
        let rule = format!(
            "revision {expected} is not that of now, which is {}: look at what has changed",
            tx.state.meta().number
        );
        return Err(CommandError::one(Code::Aborted, "ifRevision", rule, "RevisionMismatch"));
    }
    let name = apply.inventory.name();
    if let Err(error) = text::check_name(name, MAX_NAME) {
        return Err(CommandError::one(Code::InvalidArgument, "name", error.to_string(), "InvalidName"));
    }
    let mut applier = Applier {
        tx,
        document: &apply.inventory,
        context,
        differences: Vec::new(),
        violations: Vec::new(),
        code: None,
    };
    applier.duplicates();
    if apply.prune {
        applier.prune_peerings();
        applier.prune_ports();
    }
    applier.regions();
    applier.accounts();
    applier.hosts();
    applier.vpcs();
    applier.ports();
    applier.ports_fit();
    if apply.prune {
        applier.prune_vpcs();
        applier.prune_hosts();
        applier.prune_regions();
    }
    // Rules of peerings speak about VPCs; with those in doubt they would only repeat what was said.
    if applier.violations.is_empty() {
        applier.peerings();
    }
    let Applier { differences, violations, code, .. } = applier;
    if violations.is_empty() {
        confirmed(apply.confirmation, tx.before(), &differences, context.limits)?;
        Ok(differences)
    } else {
        Err(CommandError { code: code.unwrap_or(Code::InvalidArgument), violations, tells: BTreeSet::new() })
    }
}

/// Refuses what takes away more than was agreed to.
fn confirmed(
    confirmation: Confirmation,
    before: &State,
    differences: &[Difference],
    limits: &Limits,
) -> Result<(), CommandError> {
    const SHOWN: usize = 5;
    let Confirmation::Given(given) = confirmation else { return Ok(()) };
    let Some(lost) = self::confirmation(before, differences, limits).filter(|lost| given != Some(*lost)) else {
        return Ok(());
    };
    let some = differences.iter().filter(|it| it.stops_traffic || it.action == Action::Delete);
    let some: Vec<String> = some.take(SHOWN).map(|it| format!("{} {}", it.kind, it.id)).collect();
    let more = if lost > SHOWN { ", …" } else { "" };
    let rule = format!(
        "{lost} entries would be removed or stop traffic ({}{more}): look at them in a dry run, and confirm their number, {lost}",
        some.join(", ")
    );
    Err(CommandError::one(Code::Aborted, "confirm", rule, "ConfirmationRequired"))
}

struct Applier<'a, 'b, 'c> {
    tx: &'a mut Transaction<'b>,
    document: &'a Inventory,
    context: &'a mut Context<'c>,
    differences: Vec<Difference>,
    violations: Vec<FieldViolation>,
    code: Option<Code>,
}

fn entry(list: &str, place: usize, id: impl std::fmt::Display) -> String {
    format!("{list}[{place}] ({id})")
}

/// Two VPCs, whichever is named first.
fn pair(a: &VpcId, b: &VpcId) -> (VpcId, VpcId) {
    if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

fn port_key(port: &inventory::Port) -> PortKey {
    PortKey { host: port.host.clone(), interface: port.interface }
}

/// Fields of a record that people set, and that differ.
fn changed_fields(old: &impl Serialize, new: &impl Serialize) -> Vec<Field> {
    let fields = |record: serde_json::Result<Value>| match record {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (old, new) = (fields(serde_json::to_value(old)), fields(serde_json::to_value(new)));
    let differs = |(field, to): (String, Value)| {
        let from = old.get(&field).cloned().unwrap_or(Value::Null);
        (from != to).then_some(Field { field, from, to })
    };
    new.into_iter().filter_map(differs).collect()
}

impl Applier<'_, '_, '_> {
    fn fault(&mut self, entry: impl Into<String>, rule: impl Into<String>) {
        self.violations.push(FieldViolation { entry: entry.into(), rule: rule.into(), reason: "" });
    }

    fn note(&mut self, kind: &'static str, id: &impl ToString, action: Action, fields: Vec<Field>) {
        self.differences.push(Difference { kind, id: id.to_string(), action, fields, stops_traffic: false });
    }

    /// The last difference stops traffic.
    fn stops(&mut self) {
        if let Some(last) = self.differences.last_mut() {
            last.stops_traffic = true;
        }
    }

    /// Whether packets pass between a VPC and others, by the state before.
    fn carries(&self, vpc: &VpcId) -> bool {
        self.tx.before().peerings_of(vpc).any(Peering::forwards)
    }

    /// Who manages an entry of the document from now on. What an account or an operator made stays theirs.
    fn manager(&self, now: Option<&Manager>) -> Manager {
        match now {
            Some(theirs @ (Manager::Account | Manager::Operator)) => theirs.clone(),
            Some(Manager::Unknown | Manager::Inventory(_)) | None => {
                Manager::Inventory(self.document.name().to_owned())
            }
        }
    }

    /// Whether this inventory has made something.
    fn made(&self, manager: &Manager) -> bool {
        matches!(manager, Manager::Inventory(name) if name == self.document.name())
    }

    /// The same of what only inventories make.
    fn made_alone(&self, manager: &Manager) -> bool {
        self.made(manager) || (*manager == Manager::Unknown && self.document.name() == Inventory::DEFAULT_NAME)
    }

    /// Sets a record, unless it is that already.
    fn set<T: Serialize + PartialEq>(
        &mut self,
        kind: &'static str,
        id: &impl ToString,
        old: Option<T>,
        new: T,
        change: impl FnOnce(T) -> Change,
    ) {
        match old {
            Some(old) if old == new => return,
            Some(old) => self.note(kind, id, Action::Update, changed_fields(&old, &new)),
            None => self.note(kind, id, Action::Create, Vec::new()),
        }
        self.tx.change(change(new));
    }

    fn duplicates(&mut self) {
        let document = self.document;
        let mut seen = BTreeMap::new();
        let mut twice = |list: &str, place: usize, id: String| {
            let first = seen.insert((list.to_owned(), id.clone()), place)?;
            Some((entry(list, place, &id), format!("{id} is also {list}[{first}]")))
        };
        let mut found = Vec::new();
        found.extend(document.regions.iter().enumerate().filter_map(|(n, it)| twice("regions", n, it.id.to_string())));
        found.extend(document.hosts.iter().enumerate().filter_map(|(n, it)| twice("hosts", n, it.id.to_string())));
        found
            .extend(document.accounts.iter().enumerate().filter_map(|(n, it)| twice("accounts", n, it.id.to_string())));
        found.extend(document.vpcs.iter().enumerate().filter_map(|(n, it)| twice("vpcs", n, it.id.to_string())));
        for (entry, rule) in found {
            self.fault(entry, rule);
        }
        let mut ports: BTreeMap<PortKey, (usize, &VpcId)> = BTreeMap::new();
        for (place, port) in document.ports.iter().enumerate() {
            let key = port_key(port);
            if let Some((first, vpc)) = ports.insert(key.clone(), (place, &port.vpc)) {
                let rule = if *vpc == port.vpc {
                    format!("{key} is also ports[{first}]")
                } else {
                    format!(
                        "{key} is a port of {} and, by ports[{first}], of {vpc}: a port belongs to one VPC",
                        port.vpc
                    )
                };
                self.fault(entry("ports", place, &key), rule);
            }
        }
    }

    fn regions(&mut self) {
        for region in &self.document.regions {
            let old = self.tx.state.regions().get(&region.id).cloned();
            let id = region.id.clone();
            let managed_by = self.manager(old.as_ref().map(|old| &old.managed_by));
            let new = Region { id: id.clone(), managed_by };
            self.set("region", &region.id, old, new, |new| Change::Region(id, Some(new)));
        }
    }

    fn known_region(&mut self, entry: &str, region: &RegionId) -> bool {
        let known = self.tx.state.regions().contains_key(region);
        if !known {
            self.fault(entry, format!("region {region} is neither in the document nor known"));
        }
        known
    }

    fn accounts(&mut self) {
        for (place, account) in self.document.accounts.iter().enumerate() {
            let entry = entry("accounts", place, &account.id);
            for region in account.quotas.keys() {
                self.known_region(&entry, region);
            }
            let old = self.tx.state.accounts().get(&account.id).cloned();
            let made = old.is_none();
            let quotas = account.quotas.clone();
            let new = Account { quotas, ..self.tx.state.account(&account.id) };
            if old.as_ref() == Some(&new) {
                continue;
            }
            // Only what the document speaks about: the record holds secrets.
            let from = old.map(|old| BTreeMap::from([("quotas", old.quotas)]));
            let fields = from.map(|from| changed_fields(&from, &BTreeMap::from([("quotas", &new.quotas)])));
            let action = if made { Action::Create } else { Action::Update };
            self.note("account", &account.id, action, fields.unwrap_or_default());
            self.tx.change(Change::Account(account.id.clone(), Some(new)));
        }
    }

    fn hosts(&mut self) {
        for (place, host) in self.document.hosts.iter().enumerate() {
            let entry = entry("hosts", place, &host.id);
            self.known_region(&entry, &host.region);
            if !["http://", "https://"].iter().any(|scheme| host.agent.starts_with(scheme)) {
                let rule = format!("agent {} is no URL that begins with http:// or https://", text::quote(&host.agent));
                self.fault(&entry, rule);
            } else if let Err(error) = text::check_name(&host.agent, MAX_URL) {
                self.fault(&entry, format!("agent {error}"));
            }
            let old = self.tx.state.hosts().get(&host.id).cloned();
            if let Some(old) = old.as_ref().filter(|old| old.region != host.region)
                && self.tx.state.ports_on(&host.id).next().is_some()
            {
                self.fault(
                    &entry,
                    format!("a host with ports cannot move from region {} to {}", old.region, host.region),
                );
            }
            if let IpAddr::V6(address) = host.underlay
                && address.to_ipv4_mapped().is_some()
            {
                let rule =
                    format!("underlay address {address} is an IPv4 address in the form of IPv6: write it as IPv4");
                self.fault(&entry, rule);
            }
            let new = Host {
                id: host.id.clone(),
                region: host.region.clone(),
                underlay: host.underlay,
                agent: host.agent.clone(),
                config_number: old.as_ref().map_or(0, |old| old.config_number),
                retiring: false,
                maintenance: host.maintenance,
                managed_by: self.manager(old.as_ref().map(|old| &old.managed_by)),
            };
            let id = host.id.clone();
            self.set("host", &host.id, old, new, |new| Change::Host(id, Some(new)));
        }
        // With all of them in place, so that two hosts may swap their addresses.
        for (place, host) in self.document.hosts.iter().enumerate() {
            let Some(host) = self.tx.state.hosts().get(&host.id) else { continue };
            let rule = self.tx.state.hosts_beside(host).find_map(|other| underlay_clash(host.underlay, other));
            let host = host.id.clone();
            if let Some(rule) = rule {
                self.fault(entry("hosts", place, &host), rule);
            }
        }
    }

    fn vpcs(&mut self) {
        for (place, vpc) in self.document.vpcs.iter().enumerate() {
            let entry = entry("vpcs", place, &vpc.id);
            self.known_region(&entry, &vpc.region);
            let faults_before = self.violations.len();
            for rule in cidr_violations(&vpc.cidrs) {
                self.fault(&entry, rule);
            }
            let old = self.tx.state.vpcs().get(&vpc.id).cloned();
            let said = vpc.name.as_deref().filter(|name| old.as_ref().is_none_or(|old| old.name != *name));
            if let Some(Err(refusal)) = said.map(check_name) {
                self.take(&entry, refusal);
            }
            if let Some(old) = &old {
                for (field, from, to) in [
                    ("account", old.account.to_string(), vpc.account.to_string()),
                    ("region", old.region.to_string(), vpc.region.to_string()),
                ] {
                    if from != to {
                        self.fault(&entry, format!("the {field} of a VPC cannot change from {from} to {to}"));
                    }
                }
            }
            let vni = match &old {
                Some(old) => Ok(old.vni),
                None => vni::allocate(self.tx, self.context, None),
            };
            let vni = match vni {
                Ok(vni) => vni,
                Err(refusal) => {
                    self.take(&entry, refusal);
                    continue;
                }
            };
            let new = Vpc {
                id: vpc.id.clone(),
                name: vpc.name.clone().unwrap_or_else(|| vpc.id.to_string()),
                account: vpc.account.clone(),
                region: vpc.region.clone(),
                cidrs: vpc.cidrs.clone(),
                vni,
                description: old.as_ref().map(|old| old.description.clone()).unwrap_or_default(),
                created_ms: old.as_ref().map_or(self.context.now_ms, |old| old.created_ms),
                managed_by: self.manager(old.as_ref().map(|old| &old.managed_by)),
            };
            let old_cidrs = old.as_ref().map(|old| old.cidrs.clone()).filter(|old| *old != new.cidrs);
            let (id, after) = (vpc.id.clone(), new.clone());
            self.set("vpc", &vpc.id, old, new, |new| Change::Vpc(id, Some(new)));
            if let Some(old) = old_cidrs
                && self.violations.len() == faults_before
            {
                if old.iter().any(|cidr| !after.cidrs.contains(cidr)) && self.carries(&vpc.id) {
                    self.stops();
                }
                let added: Vec<IpNet> = after.cidrs.iter().filter(|cidr| !old.contains(cidr)).copied().collect();
                if let Err(refusal) = overlap::cidrs_changed(self.tx, &after, &added, self.context) {
                    self.take(&entry, refusal);
                }
            }
        }
    }

    /// Another rule's refusal, told with the entry that it is about.
    fn take(&mut self, entry: &str, refusal: CommandError) {
        self.code = Some(refusal.code);
        for fault in refusal.violations {
            self.violations.push(FieldViolation { entry: entry.to_owned(), ..fault });
        }
    }

    fn ports(&mut self) {
        for (place, port) in self.document.ports.iter().enumerate() {
            let key = port_key(port);
            let entry = entry("ports", place, &key);
            let host = self.tx.state.hosts().get(&port.host).cloned();
            let vpc = self.tx.state.vpcs().get(&port.vpc).cloned();
            if host.is_none() {
                self.fault(&entry, format!("host {} is neither in the document nor known", port.host));
            }
            if vpc.is_none() {
                self.fault(&entry, format!("VPC {} is neither in the document nor known", port.vpc));
            }
            if DeviceName::parse(&port.interface).is_some() {
                self.fault(&entry, format!("{} is a name of the agent's own devices", port.interface));
            }
            let (Some(host), Some(vpc)) = (host, vpc) else { continue };
            if host.region != vpc.region {
                let rule =
                    format!("host {} is in region {}, and VPC {} in {}", host.id, host.region, vpc.id, vpc.region);
                self.fault(&entry, rule);
            }
            let networks = || port.gateways.iter().map(IpNet::trunc).collect::<BTreeSet<_>>().into_iter().collect();
            let prefixes: Vec<IpNet> = port.prefixes.clone().unwrap_or_else(networks);
            if prefixes.is_empty() {
                self.fault(&entry, "there are no gateways and no prefixes: nothing would be reached through the port");
            }
            let old = self.tx.state.ports().get(&key).cloned();
            let managed_by = self.manager(old.as_ref().map(|old| &old.managed_by));
            let (vpc, gateways) = (port.vpc.clone(), port.gateways.clone());
            let new = Port { key: key.clone(), vpc, gateways, prefixes, managed_by };
            let fewer = old
                .as_ref()
                .filter(|old| old.vpc != new.vpc || old.prefixes.iter().any(|prefix| !new.prefixes.contains(prefix)));
            let stops = fewer.is_some_and(|old| self.carries(&old.vpc));
            let moved_from = old.as_ref().filter(|old| old.vpc != new.vpc).map(|old| old.vpc.clone());
            self.set("port", &key, old, new, |new| Change::Port(new.key.clone(), Some(new)));
            if stops {
                self.stops();
            }
            if let Some(vpc) = moved_from {
                peering::port_left(self.tx, &vpc, &key.host, self.context.now_ms);
            }
        }
    }

    /// With all ports in place: what is behind them lies within the VPC, and no two claim the same addresses.
    fn ports_fit(&mut self) {
        let entries: BTreeMap<PortKey, String> = self
            .document
            .ports
            .iter()
            .enumerate()
            .map(|(place, port)| (port_key(port), entry("ports", place, port_key(port))))
            .collect();
        let of_ports = self.document.ports.iter().map(|port| &port.vpc);
        let vpcs: BTreeSet<&VpcId> = of_ports.chain(self.document.vpcs.iter().map(|vpc| &vpc.id)).collect();
        for vpc in vpcs {
            let violations = self.tx.state.vpcs().get(vpc).map_or_else(Vec::new, |vpc| {
                port_violations(vpc, self.tx.state.ports_of(&vpc.id), |key| {
                    entries.get(key).cloned().unwrap_or_else(|| format!("port {key}"))
                })
            });
            for (entry, rule) in violations {
                self.fault(entry, rule);
            }
        }
    }

    fn peerings(&mut self) {
        let mut pairs = BTreeMap::new();
        for (place, wanted) in self.document.peerings.iter().enumerate() {
            let entry = entry("peerings", place, text::cut(&wanted.name, text::MAX_QUOTED));
            if let Some(first) = pairs.insert(pair(&wanted.vpc, &wanted.peer_vpc), place) {
                self.fault(
                    entry,
                    format!("{} and {} are also peered by peerings[{first}]", wanted.vpc, wanted.peer_vpc),
                );
                continue;
            }
            let joined = self.tx.state.peerings_of(&wanted.vpc).find(|peering| {
                peering.is_live()
                    && peering.sides().iter().any(|side| side.vpc == wanted.peer_vpc)
                    && wanted.vpc != wanted.peer_vpc
            });
            let result = match joined.cloned() {
                Some(joined) if joined.initiator.vpc != wanted.vpc => {
                    let rule = format!(
                        "peering {} of these VPCs was initiated by {}, and sides do not change: swap `vpc` and `peer_vpc`",
                        joined.id, joined.initiator.vpc
                    );
                    self.fault(entry, rule);
                    continue;
                }
                Some(joined) if joined.state == PeeringState::Pending => self.accept_peering(&joined.id, wanted),
                Some(joined) => self.update_peering(joined, wanted),
                None => self.create_peering(wanted),
            };
            if let Err(refusal) = result {
                self.take(&entry, refusal);
            }
        }
    }

    fn create_peering(&mut self, wanted: &inventory::Peering) -> Result<(), CommandError> {
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
        };
        let id = peering::create(self.tx, &wish, self.context)?;
        self.adopt(&id);
        self.note("peering", &format!("{id} ({})", wanted.name), Action::Create, Vec::new());
        Ok(())
    }

    /// What a document wants, both accounts have agreed to.
    fn accept_peering(&mut self, id: &PeeringId, wanted: &inventory::Peering) -> Result<(), CommandError> {
        let which = peering::Locator { region: None, id: id.clone() };
        peering::accept(self.tx, &which, self.context)?;
        let field = Field { field: "state".to_owned(), from: "pending".into(), to: "provisioning".into() };
        self.note("peering", &format!("{id} ({})", wanted.name), Action::Update, vec![field]);
        Ok(())
    }

    /// The peering is this inventory's from now on, unless an account or an operator made it.
    fn adopt(&mut self, id: &PeeringId) {
        let Some(peering) = self.tx.state.peerings().get(id).cloned() else { return };
        let made_now = !self.tx.before().peerings().contains_key(id);
        let managed_by = self.manager(Some(&peering.managed_by).filter(|_| !made_now));
        if managed_by != peering.managed_by {
            self.tx.change(Change::Peering(id.clone(), Some(Peering { managed_by, ..peering })));
        }
    }

    fn update_peering(&mut self, old: Peering, wanted: &inventory::Peering) -> Result<(), CommandError> {
        let which = peering::Locator { region: None, id: old.id.clone() };
        let mut fields = Vec::new();
        if old.name != wanted.name {
            let modify = peering::Modify { which, name: Some(wanted.name.clone()), description: None, tags: None };
            peering::modify(self.tx, &modify, self.context)?;
            fields.push(Field { field: "name".to_owned(), from: old.name.into(), to: wanted.name.clone().into() });
        }
        if old.bandwidth != wanted.bandwidth {
            peering::limit(self.tx, &old.id, wanted.bandwidth, self.context)?;
            let (from, to) = (old.bandwidth.into(), wanted.bandwidth.into());
            fields.push(Field { field: "bandwidth".to_owned(), from, to });
        }
        self.adopt(&old.id);
        if !fields.is_empty() {
            self.note("peering", &format!("{} ({})", old.id, wanted.name), Action::Update, fields);
        }
        Ok(())
    }

    fn prune_peerings(&mut self) {
        let wanted: BTreeSet<_> = self.document.peerings.iter().map(|it| pair(&it.vpc, &it.peer_vpc)).collect();
        let gone: Vec<(PeeringId, String, bool)> = self
            .tx
            .state
            .peerings()
            .values()
            // A request that nobody has answered is its account's own affair.
            .filter(|peering| peering.is_live() && peering.state != PeeringState::Pending)
            .filter(|peering| self.made(&peering.managed_by))
            .filter(|peering| !wanted.contains(&pair(&peering.initiator.vpc, &peering.receiver.vpc)))
            .map(|peering| (peering.id.clone(), peering.name.clone(), peering.forwards()))
            .collect();
        for (id, name, forwards) in gone {
            let which = peering::Locator { region: None, id: id.clone() };
            match peering::delete(self.tx, &which, self.context) {
                Ok(()) => {
                    self.note("peering", &format!("{id} ({name})"), Action::Delete, Vec::new());
                    if forwards {
                        self.stops();
                    }
                }
                Err(refusal) => self.take(&format!("peering {id}"), refusal),
            }
        }
    }

    fn prune_ports(&mut self) {
        let wanted: BTreeSet<PortKey> = self.document.ports.iter().map(port_key).collect();
        let ports = self.tx.state.ports().values().filter(|port| self.made_alone(&port.managed_by));
        let gone: Vec<PortKey> = ports.filter(|it| !wanted.contains(&it.key)).map(|it| it.key.clone()).collect();
        for key in gone {
            self.note("port", &key, Action::Delete, Vec::new());
            if self.tx.state.ports().get(&key).is_some_and(|port| self.carries(&port.vpc)) {
                self.stops();
            }
            let vpc = self.tx.state.ports().get(&key).map(|port| port.vpc.clone());
            self.tx.change(Change::Port(key.clone(), None));
            if let Some(vpc) = vpc {
                peering::port_left(self.tx, &vpc, &key.host, self.context.now_ms);
            }
        }
    }

    fn prune_vpcs(&mut self) {
        let wanted: BTreeSet<&VpcId> = self.document.vpcs.iter().map(|vpc| &vpc.id).collect();
        let vpcs = self.tx.state.vpcs().values().filter(|vpc| self.made(&vpc.managed_by));
        let gone: Vec<VpcId> = vpcs.filter(|vpc| !wanted.contains(&vpc.id)).map(|vpc| vpc.id.clone()).collect();
        for id in gone {
            if let Some(why) = self.tx.state.vpcs().get(&id).and_then(|vpc| still_needed(self.tx.state, vpc)) {
                self.fault(format!("vpc {id}"), format!("it is not in the document, but {why}"));
                continue;
            }
            peering::reject_requests_to(self.tx, &id, self.context);
            self.note("vpc", &id, Action::Delete, Vec::new());
            if let Some(vpc) = self.tx.state.vpcs().get(&id).cloned() {
                vpc::forget(self.tx, &vpc, self.context);
            }
        }
    }

    /// A host that is gone keeps its record until its agent has confirmed that nothing is left.
    fn prune_hosts(&mut self) {
        let wanted: BTreeSet<&HostId> = self.document.hosts.iter().map(|host| &host.id).collect();
        let hosts = self.tx.state.hosts().values().filter(|host| self.made_alone(&host.managed_by));
        let gone: Vec<Host> = hosts.filter(|host| !wanted.contains(&host.id) && !host.retiring).cloned().collect();
        for host in gone {
            self.note("host", &host.id, Action::Delete, Vec::new());
            self.tx.change(Change::Host(host.id.clone(), Some(Host { retiring: true, ..host })));
        }
    }

    fn prune_regions(&mut self) {
        let wanted: BTreeSet<&RegionId> = self.document.regions.iter().map(|region| &region.id).collect();
        let regions = self.tx.state.regions().values().filter(|region| self.made_alone(&region.managed_by));
        let gone: Vec<RegionId> = regions.filter(|it| !wanted.contains(&it.id)).map(|it| it.id.clone()).collect();
        for id in gone {
            let vpc = self.tx.state.vpcs().values().find(|vpc| vpc.region == id).map(|vpc| format!("VPC {}", vpc.id));
            let hosts = self.tx.state.hosts();
            let host = hosts.values().find(|host| !host.retiring && host.region == id);
            let host = host.map(|host| format!("host {}", host.id));
            if let Some(user) = vpc.or(host) {
                self.fault(format!("region {id}"), format!("it is not in the document, but {user} is in it"));
                continue;
            }
            self.note("region", &id, Action::Delete, Vec::new());
            self.tx.change(Change::Region(id, None));
        }
    }
}

/// Takes a host out that will not come back: its ports go with it, and nothing waits for it any more. What its kernel has
/// stays until its agent hears of it, if it ever does.
pub fn remove_host(tx: &mut Transaction<'_>, id: &HostId) -> Result<(), CommandError> {
    if !tx.state.hosts().contains_key(id) {
        return Err(CommandError::one(Code::NotFound, "host", format!("there is no host {id}"), "HostNotFound"));
    }
    let ports: Vec<PortKey> = tx.state.ports_on(id).map(|port| port.key.clone()).collect();
    for key in ports {
        tx.change(Change::Port(key, None));
    }
    tx.change(Change::Host(id.clone(), None));
    Ok(())
}

/// Why a host cannot have this VTEP address beside the other host. Agents derive an Ethernet address from its last four
/// bytes, so those must differ, too.
fn underlay_clash(underlay: IpAddr, other: &Host) -> Option<String> {
    let id = &other.id;
    match (underlay, other.underlay) {
        (new, old) if new == old => Some(format!("underlay address {new} is that of host {id}")),
        (IpAddr::V6(new), IpAddr::V6(old)) if mac(IpAddr::V6(new)) == mac(IpAddr::V6(old)) => {
            Some(format!("underlay addresses {new} and {old} of host {id} end in the same 32 bits"))
        }
        (new, old) if new.is_ipv4() != old.is_ipv4() => {
            Some(format!("underlay address {new} is not of the same family as {old} of host {id}"))
        }
        _ => None,
    }
}
