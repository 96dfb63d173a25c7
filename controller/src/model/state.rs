//! The state in memory: records, and indexes that make the cost of a change independent of the size of the state.

use super::{
    persistent::{Links, Records},
    record::{
        Account, Host, Hourly, HourlyKey, Peering, PeeringState, Port, PortKey, Region, Rollout, SealedKey, TokenKey,
        TokenUse, Vpc, Webhook,
    },
};
use cps_peering_config::{
    Revision,
    cluster::ClusterId,
    id::{AccountId, HostId, PeeringId, RegionId, VpcId},
    naming::mac,
    net::{Mac, Vni},
};
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A record that is set or removed.
#[allow(clippy::large_enum_variant, reason = "a commit holds few of them, mostly peerings")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A region.
    Region(RegionId, Option<Region>),
    /// A host.
    Host(HostId, Option<Host>),
    /// An account.
    Account(AccountId, Option<Account>),
    /// A VPC.
    Vpc(VpcId, Option<Vpc>),
    /// A port.
    Port(PortKey, Option<Port>),
    /// A peering.
    Peering(PeeringId, Option<Peering>),
    /// The use of a client token.
    Token(TokenKey, Option<TokenUse>),
    /// The signature of an executed request, and until when it could be replayed, in milliseconds since
    /// 1970-01-01 UTC.
    Signature(String, Option<u64>),
    /// A webhook, by its id.
    Webhook(String, Option<Webhook>),
    /// A count of actions within the last hour.
    Hourly(HourlyKey, Option<Hourly>),
    /// The single record.
    Meta(Meta),
}

/// The record that exists once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The epoch of this store; a new store begins with 1.
    pub epoch: u64,
    /// The number of the last commit.
    pub number: u64,
    /// The VNI that earlier versions try first for the next VPC or side. Now VNIs are random.
    pub next_vni: Vni,
    /// The identity of the store's cluster; none if a release without clusters wrote it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// Whether nothing is sent to hosts: the store was restored from a backup and has not been released.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// How many times the store was restored. New VNIs have the same parity.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restores: u32,
    /// The current rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

impl Meta {
    /// The last commit, in this epoch.
    pub fn revision(&self) -> Revision {
        Revision { epoch: self.epoch, number: self.number }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Default for Meta {
    fn default() -> Self {
        Self { epoch: 1, number: 0, next_vni: Vni::MIN, cluster: None, held: false, restores: 0, rollout: None }
    }
}

/// A deadline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// A request expires, or the record of an ended peering is forgotten.
    Peering(PeeringId),
    /// The peerings of an account in arrear are deleted.
    Arrear(AccountId),
    /// A host's maintenance window begins or ends.
    Window(HostId),
    /// A client token can be reused.
    Token(TokenKey),
    /// A signature is too old to be replayed.
    Signature(String),
    /// A counted action is more than an hour ago.
    Hourly(HourlyKey),
}

/// All records. A copy costs next to nothing: it shares everything with the original until one of them is changed, and then all
/// but the changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    meta: Meta,
    regions: Records<RegionId, Region>,
    hosts: Records<HostId, Host>,
    accounts: Records<AccountId, Account>,
    vpcs: Records<VpcId, Vpc>,
    ports: Records<PortKey, Port>,
    peerings: Records<PeeringId, Peering>,
    tokens: Records<TokenKey, TokenUse>,
    tokens_of_account: OrdMap<AccountId, usize>,
    webhooks: Records<String, Webhook>,
    hourly: Records<HourlyKey, Hourly>,
    /// Ended peerings, by the account of the initiator and when they are forgotten.
    ended: OrdMap<AccountId, OrdSet<(u64, PeeringId)>>,
    signatures: OrdMap<String, u64>,
    retiring: OrdSet<HostId>,
    /// By the last four bytes of their VTEP addresses.
    hosts_by_mac: Links<Mac, HostId>,
    /// By whether these are IPv4.
    hosts_by_family: Links<bool, HostId>,
    vpcs_of_account: Links<AccountId, VpcId>,
    /// IPv6 CIDRs of VPCs by /48, the size of those that are assigned.
    sites: Links<IpNet, VpcId>,
    ports_of_vpc: Links<VpcId, PortKey>,
    /// Without ended ones.
    peerings_of_vpc: Links<VpcId, PeeringId>,
    peerings_of_account: Links<AccountId, PeeringId>,
    /// Live peerings by the account and region of the initiator, and by name.
    names: OrdMap<(AccountId, RegionId), OrdMap<String, PeeringId>>,
    /// Peerings between regions that have not ended.
    cross_region: OrdSet<PeeringId>,
    unsettled: OrdSet<PeeringId>,
    /// The same by the hosts that have to confirm them.
    unsettled_on: Links<HostId, PeeringId>,
    vnis: OrdSet<Vni>,
    credentials: OrdMap<Credential, AccountId>,
    due: OrdSet<(u64, Due)>,
}

/// A credential of an account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Credential {
    AccessKey(String),
    TokenHash(String),
}

/// A key before those of all ports of a host.
fn first_port(host: &HostId) -> PortKey {
    PortKey { host: host.clone(), interface: "!".parse().expect("the first printable character") }
}

fn credentials(account: &Account) -> impl Iterator<Item = Credential> {
    let keys = account.keys.keys().cloned().map(Credential::AccessKey);
    keys.chain(account.tokens.values().cloned().map(Credential::TokenHash))
}

/// The CIDRs of a VPC that can conflict with an assigned IPv6 /48.
fn sites(vpc: &Vpc) -> impl Iterator<Item = &IpNet> {
    vpc.cidrs.iter().filter(|cidr| matches!(cidr, IpNet::V6(_)) && cidr.prefix_len() == 48)
}

impl State {
    /// Applies a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Region(id, value) => drop(self.regions.set(id, value)),
            Change::Host(id, value) => {
                if value.as_ref().is_some_and(|host| host.retiring) {
                    self.retiring.insert(id.clone());
                } else {
                    self.retiring.remove(&id);
                }
                // Addresses of removed hosts are free.
                let new = value.as_ref().filter(|host| !host.dead).map(|host| host.underlay);
                let due_ms = |host: &Host| host.window.map(|window| window.due_ms());
                let (new_due_ms, old_due_ms) = (value.as_ref().and_then(due_ms), self.hosts.get(&id).and_then(due_ms));
                self.reschedule(Due::Window(id.clone()), old_due_ms, new_due_ms);
                if let Some(old) = self.hosts.set(id.clone(), value) {
                    self.hosts_by_mac.unlink(&mac(old.underlay), &id);
                    self.hosts_by_family.unlink(&old.underlay.is_ipv4(), &id);
                }
                if let Some(new) = new {
                    self.hosts_by_mac.link(&mac(new), &id);
                    self.hosts_by_family.link(&new.is_ipv4(), &id);
                }
            }
            Change::Account(id, value) => {
                if let Some(old) = self.accounts.set(id.clone(), value) {
                    self.unlink_account(&old);
                }
                if let Some(new) = self.accounts.shared(&id) {
                    self.link_account(&new);
                }
            }
            Change::Vpc(id, value) => {
                let new =
                    value.as_ref().map(|vpc| (vpc.vni, vpc.account.clone(), sites(vpc).copied().collect::<Vec<_>>()));
                if let Some(old) = self.vpcs.set(id.clone(), value) {
                    self.vnis.remove(&old.vni);
                    for site in sites(&old) {
                        self.sites.unlink(site, &id);
                    }
                    self.vpcs_of_account.unlink(&old.account, &id);
                }
                if let Some((vni, account, sites)) = new {
                    for site in &sites {
                        self.sites.link(site, &id);
                    }
                    self.vnis.insert(vni);
                    self.vpcs_of_account.link(&account, &id);
                }
            }
            Change::Port(key, value) => {
                let new = value.as_ref().map(|port| port.vpc.clone());
                if let Some(old) = self.ports.set(key.clone(), value) {
                    self.ports_of_vpc.unlink(&old.vpc, &key);
                    self.port_moved(&old.vpc, &key.host);
                }
                if let Some(vpc) = new {
                    self.ports_of_vpc.link(&vpc, &key);
                    self.port_moved(&vpc, &key.host);
                }
            }
            Change::Peering(id, value) => {
                if let Some(old) = self.peerings.set(id.clone(), value) {
                    self.unlink_peering(&old);
                }
                self.link_peering(&id);
            }
            Change::Token(key, value) => {
                let new = value.as_ref().map(|new| new.forget_ms);
                let old = self.tokens.set(key.clone(), value);
                match (old.is_some(), new.is_some()) {
                    (false, true) => *self.tokens_of_account.entry(key.account.clone()).or_default() += 1,
                    (true, false) => self.forget_token(&key.account),
                    _ => {}
                }
                self.reschedule(Due::Token(key), old.map(|old| old.forget_ms), new);
            }
            Change::Signature(signature, value) => {
                let old = match value {
                    Some(until_ms) => self.signatures.insert(signature.clone(), until_ms),
                    None => self.signatures.remove(&signature),
                };
                self.reschedule(Due::Signature(signature), old, value);
            }
            Change::Webhook(id, value) => drop(self.webhooks.set(id, value)),
            Change::Hourly(key, value) => {
                let new = value.as_ref().map(Hourly::forget_ms);
                let old = self.hourly.set(key.clone(), value).map(|old| old.forget_ms());
                self.reschedule(Due::Hourly(key), old, new);
            }
            Change::Meta(meta) => self.meta = meta,
        }
    }

    fn reschedule(&mut self, due: Due, old: Option<u64>, new: Option<u64>) {
        if let Some(old) = old {
            self.due.remove(&(old, due.clone()));
        }
        if let Some(new) = new {
            self.due.insert((new, due));
        }
    }

    fn forget_token(&mut self, account: &AccountId) {
        let left = self.tokens_of(account).saturating_sub(1);
        if left == 0 {
            self.tokens_of_account.remove(account);
        } else {
            self.tokens_of_account.insert(account.clone(), left);
        }
    }

    fn link_account(&mut self, account: &Account) {
        for credential in credentials(account) {
            self.credentials.insert(credential, account.id.clone());
        }
        if let Some(delete_ms) = account.charge.delete_ms() {
            self.due.insert((delete_ms, Due::Arrear(account.id.clone())));
        }
    }

    fn unlink_account(&mut self, account: &Account) {
        for credential in credentials(account) {
            self.credentials.remove(&credential);
        }
        if let Some(delete_ms) = account.charge.delete_ms() {
            self.due.remove(&(delete_ms, Due::Arrear(account.id.clone())));
        }
    }

    fn link_peering(&mut self, id: &PeeringId) {
        let Some(peering) = self.peerings.shared(id) else { return };
        for side in peering.sides() {
            self.peerings_of_account.link(&side.account, id);
            if !peering.is_ended() {
                self.peerings_of_vpc.link(&side.vpc, id);
            }
            if let Some(vni) = side.vni {
                self.vnis.insert(vni);
            }
        }
        if peering.is_live() {
            let (account, region) = (peering.initiator.account.clone(), peering.initiator.region.clone());
            self.names.entry((account, region)).or_default().insert(peering.name.clone(), id.clone());
        }
        if peering.is_cross_region() && !peering.is_ended() {
            self.cross_region.insert(id.clone());
        }
        if matches!(peering.state, PeeringState::Provisioning | PeeringState::Draining { .. }) {
            self.unsettled.insert(id.clone());
            for host in self.hosts_concerned(&peering) {
                self.unsettled_on.link(&host, id);
            }
        }
        if let Some(deadline_ms) = peering.deadline_ms() {
            self.due.insert((deadline_ms, Due::Peering(id.clone())));
        }
        if let PeeringState::Ended { forget_ms, .. } = peering.state {
            self.ended.entry(peering.initiator.account.clone()).or_default().insert((forget_ms, id.clone()));
        }
    }

    fn unlink_peering(&mut self, peering: &Peering) {
        let id = &peering.id;
        for side in peering.sides() {
            self.peerings_of_account.unlink(&side.account, id);
            self.peerings_of_vpc.unlink(&side.vpc, id);
            if let Some(vni) = side.vni {
                self.vnis.remove(&vni);
            }
        }
        if peering.is_live() {
            let key = (peering.initiator.account.clone(), peering.initiator.region.clone());
            if let Some(names) = self.names.get_mut(&key) {
                names.remove(&peering.name);
                if names.is_empty() {
                    self.names.remove(&key);
                }
            }
        }
        self.cross_region.remove(id);
        if self.unsettled.remove(id).is_some() {
            for host in self.hosts_concerned(peering) {
                self.unsettled_on.unlink(&host, id);
            }
        }
        if let Some(deadline_ms) = peering.deadline_ms() {
            self.due.remove(&(deadline_ms, Due::Peering(id.clone())));
        }
        let account = &peering.initiator.account;
        if let PeeringState::Ended { forget_ms, .. } = peering.state
            && let Some(ended) = self.ended.get_mut(account)
        {
            ended.remove(&(forget_ms, id.clone()));
            if ended.is_empty() {
                self.ended.remove(account);
            }
        }
    }

    /// A host may have got its first port of a VPC, or lost its last one: then other peerings wait for it.
    fn port_moved(&mut self, vpc: &VpcId, host: &HostId) {
        let waiting = self.peerings_of(vpc).filter(|peering| peering.state == PeeringState::Provisioning);
        let waiting: Vec<(PeeringId, bool)> = waiting
            .map(|peering| (peering.id.clone(), peering.sides().iter().any(|side| self.has_port(&side.vpc, host))))
            .collect();
        for (id, waits) in waiting {
            if waits {
                self.unsettled_on.link(host, &id);
            } else {
                self.unsettled_on.unlink(host, &id);
            }
        }
    }

    /// Whether a host has a port of a VPC.
    pub fn has_port(&self, vpc: &VpcId, host: &HostId) -> bool {
        self.ports_of_vpc.next_of(vpc, first_port(host)).is_some_and(|key| key.host == *host)
    }

    /// The record that exists once.
    pub fn meta(&self) -> Meta {
        self.meta
    }

    /// The webhooks.
    pub fn webhooks(&self) -> &Records<String, Webhook> {
        &self.webhooks
    }

    /// The regions.
    pub fn regions(&self) -> &Records<RegionId, Region> {
        &self.regions
    }

    /// The hosts, retiring ones among them.
    pub fn hosts(&self) -> &Records<HostId, Host> {
        &self.hosts
    }

    /// The hosts whose VTEP addresses end in the same four bytes, and one, if there is one, whose VTEP
    /// address is of the other family; without the host itself, and those removed as dead.
    pub fn hosts_beside(&self, host: &Host) -> impl Iterator<Item = &Host> {
        let (id, vtep) = (host.id.clone(), host.underlay);
        let alike = self.hosts_by_mac.of(&mac(vtep));
        let other = self.hosts_by_family.of(&!vtep.is_ipv4()).take(1);
        alike.chain(other).filter(move |other| **other != id).map(|id| &self.hosts[id])
    }

    /// The accounts that have a record.
    pub fn accounts(&self) -> &Records<AccountId, Account> {
        &self.accounts
    }

    /// An account, also one that has no record.
    pub fn account(&self, id: &AccountId) -> Account {
        self.accounts.get(id).cloned().unwrap_or_else(|| Account::new(id.clone()))
    }

    /// The account with an access key, and its secret key.
    pub fn by_access_key(&self, access_key: &str) -> Option<(&AccountId, &SealedKey)> {
        let id = self.credentials.get(&Credential::AccessKey(access_key.to_owned()))?;
        Some((id, self.accounts.get(id)?.keys.get(access_key)?))
    }

    /// The account with a token of this SHA-256, in hexadecimal.
    pub fn by_token_hash(&self, hash: &str) -> Option<&AccountId> {
        self.credentials.get(&Credential::TokenHash(hash.to_owned()))
    }

    /// The VPCs.
    pub fn vpcs(&self) -> &Records<VpcId, Vpc> {
        &self.vpcs
    }

    /// The ports.
    pub fn ports(&self) -> &Records<PortKey, Port> {
        &self.ports
    }

    /// The peerings, including draining and ended ones.
    pub fn peerings(&self) -> &Records<PeeringId, Peering> {
        &self.peerings
    }

    /// The VPCs of an account.
    pub fn vpcs_of(&self, account: &AccountId) -> impl Iterator<Item = &Vpc> {
        self.vpcs_of_account.of(account).map(|id| &self.vpcs[id])
    }

    /// The ports of a VPC.
    pub fn ports_of(&self, vpc: &VpcId) -> impl Iterator<Item = &Port> {
        self.ports_of_vpc.of(vpc).map(|key| &self.ports[key])
    }

    /// The ports on a host.
    pub fn ports_on(&self, host: &HostId) -> impl Iterator<Item = &Port> {
        self.ports.range(first_port(host)..).map(|(_, port)| port).take_while(move |port| port.key.host == *host)
    }

    /// The peerings in which an account has a side, including ended ones.
    pub fn peerings_of_account(&self, account: &AccountId) -> impl Iterator<Item = &Peering> {
        self.peerings_of_account.of(account).map(|id| &self.peerings[id])
    }

    /// The live peerings that an account initiated from a region, by name.
    pub fn initiated(&self, account: &AccountId, region: &RegionId) -> Option<&OrdMap<String, PeeringId>> {
        self.names.get(&(account.clone(), region.clone()))
    }

    /// How many client tokens are remembered for an account.
    pub fn tokens_of(&self, account: &AccountId) -> usize {
        self.tokens_of_account.get(account).copied().unwrap_or_default()
    }

    /// The number of records of ended peerings of an initiator.
    pub(super) fn count_ended(&self, initiator: &AccountId) -> usize {
        self.ended.get(initiator).map_or(0, OrdSet::len)
    }

    /// The ended peerings of an initiator, the next one to be forgotten first.
    pub(super) fn ended_of(&self, initiator: &AccountId) -> impl Iterator<Item = &Peering> {
        self.ended.get(initiator).into_iter().flatten().map(|(_, id)| &self.peerings[id])
    }

    /// Counts of actions within the last hour.
    pub fn hourly(&self) -> &Records<HourlyKey, Hourly> {
        &self.hourly
    }

    /// Counts of requests of an account to others within the last hour.
    pub fn hourly_of(&self, account: &AccountId) -> impl Iterator<Item = (&HourlyKey, &Hourly)> {
        let (account, first) = (account.clone(), HourlyKey::bandwidth_changes(account));
        let own = self.hourly.range(first..).take_while(move |(key, _)| key.account == account);
        own.filter(|(key, _)| key.receiver.is_some())
    }

    /// The use of a client token.
    pub fn token(&self, key: &TokenKey) -> Option<&TokenUse> {
        self.tokens.get(key)
    }

    /// Until when a request with this signature could be replayed, if it was executed.
    pub fn signature(&self, signature: &str) -> Option<u64> {
        self.signatures.get(signature).copied()
    }

    /// Whether a request with this signature was executed.
    pub fn has_signature(&self, signature: &str) -> bool {
        self.signatures.contains_key(signature)
    }

    /// The next deadline, if it has passed.
    pub fn next_due(&self, now_ms: u64) -> Option<&Due> {
        self.due.get_min().filter(|(time_ms, _)| *time_ms <= now_ms).map(|(_, due)| due)
    }

    /// All deadlines that have passed, in order.
    pub fn all_due(&self, now_ms: u64) -> impl Iterator<Item = &Due> {
        self.due.iter().take_while(move |(time_ms, _)| *time_ms <= now_ms).map(|(_, due)| due)
    }

    /// The hosts that were removed from the inventory and have not confirmed their cleanup yet.
    pub fn retiring(&self) -> impl Iterator<Item = &Host> {
        self.retiring.iter().map(|id| &self.hosts[id])
    }

    /// The peerings of a VPC that have not ended, including draining ones.
    pub fn peerings_of(&self, vpc: &VpcId) -> impl Iterator<Item = &Peering> {
        self.peerings_of_vpc.of(vpc).map(|id| &self.peerings[id])
    }

    /// The peerings that wait for hosts to confirm them.
    pub fn unsettled(&self) -> impl Iterator<Item = &Peering> {
        self.unsettled.iter().map(|id| &self.peerings[id])
    }

    /// The peerings between regions that have not ended.
    pub fn cross_region(&self) -> impl Iterator<Item = &Peering> {
        self.cross_region.iter().map(|id| &self.peerings[id])
    }

    /// The peerings that wait for a host to confirm them.
    pub fn unsettled_on(&self, host: &HostId) -> impl Iterator<Item = &Peering> {
        self.unsettled_on.of(host).map(|id| &self.peerings[id])
    }

    /// The hosts with a port of a VPC.
    pub fn hosts_of(&self, vpc: &VpcId) -> BTreeSet<HostId> {
        self.ports_of(vpc).map(|port| port.key.host.clone()).collect()
    }

    /// The hosts that a peering concerns: those that should have it, or had it.
    pub fn hosts_concerned(&self, peering: &Peering) -> BTreeSet<HostId> {
        match &peering.state {
            PeeringState::Draining { hosts } | PeeringState::Suspended { hosts } => hosts.iter().cloned().collect(),
            PeeringState::Pending | PeeringState::Ended { .. } => BTreeSet::new(),
            PeeringState::Provisioning | PeeringState::Active => {
                peering.sides().iter().flat_map(|side| self.hosts_of(&side.vpc)).collect()
            }
        }
    }

    /// Whether an IPv6 /48 is a CIDR of a VPC.
    pub fn is_site_taken(&self, site: &IpNet) -> bool {
        self.sites.of(site).next().is_some()
    }

    /// How many VNIs name a VPC or side.
    pub fn vnis_taken(&self) -> usize {
        self.vnis.len()
    }

    /// Whether a VNI names a VPC or side.
    pub fn is_taken(&self, vni: Vni) -> bool {
        self.vnis.contains(&vni)
    }

    /// The revision of a host's configuration.
    pub fn revision_of(&self, host: &Host) -> Revision {
        Revision { epoch: self.meta.epoch, number: host.config_number }
    }
}
