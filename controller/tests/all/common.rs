//! A state without a store, and small clouds to try rules on.

use cps_peering_config::{
    SharedHostConfig,
    id::{HostId, PeeringId},
};
use cps_peering_controller::{
    model::{
        Actor, Command, CommandError, Judge, Leap, Limits, Now, Outcome, Request, Transaction, decide,
        disclosure::Disclosures,
        inventory::Apply,
        metering::Period,
        peering::{Accept, Create, Locator},
        prefixes::PrefixLists,
        record::Made,
        state::State,
    },
    plan::{Sides, plan},
};
use std::collections::BTreeMap;

/// A state without a store.
#[derive(Clone, Default)]
pub struct Model {
    pub state: State,
    pub limits: Limits,
    pub now_ms: u64,
    /// How the machine's clock differs from `now_ms`.
    pub leap: Option<Leap>,
    /// By how much `now_ms` has jumped because the clock was accepted.
    pub jumped_ms: i64,
    pub disclosures: Disclosures,
    pub made: u32,
    /// All periods that were closed.
    pub periods: Vec<Period>,
}

impl Model {
    /// The time, and whether it is confirmed.
    pub fn now(&self) -> Now {
        let wall_ms = self.now_ms.saturating_add_signed(self.leap.map_or(0, |leap| leap.by_ms));
        Now { ms: self.now_ms, latest_ms: wall_ms.max(self.now_ms), leap: self.leap }
    }

    /// The machine's clock is set, while the controller runs or is down.
    pub fn set_clock(&mut self, by_ms: i64, elapsed_known: bool) {
        let since_ms = self.leap.map_or(self.now_ms, |leap| leap.since_ms);
        let elapsed_known = elapsed_known && self.leap.is_none_or(|leap| leap.elapsed_known);
        self.leap = (by_ms != 0).then_some(Leap { by_ms, since_ms, elapsed_known });
    }

    /// The machine's clock is right.
    pub fn confirm_clock(&mut self) {
        self.run(&Command::ConfirmClock).unwrap();
        let by_ms = self.leap.take().map_or(0, |leap| leap.by_ms);
        self.now_ms = self.now_ms.saturating_add_signed(by_ms);
        self.jumped_ms += by_ms;
    }

    /// Executes a request, and checks that a refusal changes nothing.
    pub fn ask(&mut self, request: &Request) -> Result<Outcome, CommandError> {
        let (before, now) = (self.state.clone(), self.now());
        let made = &mut self.made;
        let mut random = || {
            *made += 1;
            format!("{made:010}")
        };
        let judge = Judge { now, limits: &self.limits, disclosures: &self.disclosures };
        let mut tx = Transaction::new(&mut self.state);
        let result = decide(&mut tx, request, judge, &mut random);
        let told = result.as_ref().err().map(|refusal| refusal.tells.clone()).unwrap_or_default();
        if let Some(account) = request.actor.account() {
            for owner in &told {
                self.disclosures.count(account, owner, self.now_ms);
            }
        }
        if result.is_err() {
            tx.undo();
            assert_eq!(self.state, before, "a refusal leaves nothing behind");
        } else {
            self.periods.extend(tx.keep().1);
        }
        result
    }

    /// Executes a command as an operator.
    pub fn run(&mut self, command: &Command) -> Result<Outcome, CommandError> {
        self.ask(&Request::new(Actor::Operator, command.clone()))
    }

    /// Executes a command as an account.
    pub fn run_as(&mut self, account: &str, command: Command) -> Result<Outcome, CommandError> {
        self.ask(&Request::new(Actor::Account(account.parse().unwrap()), command))
    }

    pub fn apply(&mut self, text: &str) -> Result<Outcome, CommandError> {
        self.run(&apply(text, false))
    }

    /// Peers two VPCs as an operator.
    pub fn peer(&mut self, vpc: &str, peer: &str) -> Result<PeeringId, CommandError> {
        self.run(&Command::CreatePeering(create(vpc, peer))).map(|outcome| peering(&outcome))
    }

    pub fn plans(&self) -> BTreeMap<HostId, SharedHostConfig> {
        self.state
            .hosts()
            .iter()
            .map(|(id, host)| (id.clone(), plan(&self.state, host, &mut Sides::default())))
            .collect()
    }
}

/// The peering that a command created.
pub fn peering(outcome: &Outcome) -> PeeringId {
    match outcome {
        Outcome::Made(Made::Peering(id)) => id.clone(),
        other => panic!("{other:?}"),
    }
}

/// An operator's request to create a peering.
pub fn create(vpc: &str, peer: &str) -> Create {
    Create {
        name: format!("{vpc}-{peer}"),
        description: String::new(),
        message: String::new(),
        tags: Vec::new(),
        vpc: vpc.parse().unwrap(),
        region: None,
        peer_vpc: peer.parse().unwrap(),
        peer_region: None,
        peer_account: None,
        bandwidth: None,
        prefixes: PrefixLists::default(),
        peer_prefixes: PrefixLists::default(),
    }
}

pub fn delete(id: &PeeringId) -> Command {
    Command::DeletePeering(locate(id))
}

/// Acceptance of a request without prefix lists.
pub fn accept_all(id: &PeeringId) -> Accept {
    Accept::in_full(locate(id))
}

pub fn locate(id: &PeeringId) -> Locator {
    Locator { region: None, id: id.clone() }
}

pub fn apply(text: &str, prune: bool) -> Command {
    Command::Apply(Apply { prune, ..Apply::of(toml::from_str(text).unwrap()) })
}

pub const REGIONS: &str = "[[regions]]\nid = \"north\"\n[[regions]]\nid = \"east\"\n";

pub fn host(number: u8, region: &str) -> String {
    format!(
        "[[hosts]]\nid = \"h{number}\"\nregion = \"{region}\"\nunderlay = \"192.0.2.{number}\"\nagent = \"http://192.0.2.{number}:7401\"\n"
    )
}

pub fn vpc(id: &str, region: &str, cidrs: &str) -> String {
    format!("[[vpcs]]\nid = \"{id}\"\naccount = \"acme\"\nregion = \"{region}\"\ncidrs = [{cidrs}]\n")
}

pub fn port(host: &str, interface: &str, vpc: &str, gateway: &str) -> String {
    format!("[[ports]]\nhost = \"{host}\"\ninterface = \"{interface}\"\nvpc = \"{vpc}\"\ngateways = [\"{gateway}\"]\n")
}

/// Two hosts in one region, a third in another; VPCs a, b, c; a and b have ports.
pub fn cloud() -> String {
    [
        REGIONS.to_owned(),
        host(1, "north"),
        host(2, "north"),
        host(3, "east"),
        vpc("a", "north", r#""10.1.0.0/16", "fd00:1::/48""#),
        vpc("b", "north", r#""10.2.0.0/16""#),
        vpc("c", "east", r#""10.3.0.0/16""#),
        port("h1", "eth1", "a", "10.1.0.1/24"),
        port("h1", "eth2", "b", "10.2.0.1/24"),
        port("h2", "eth1", "b", "10.2.1.1/24"),
        port("h3", "eth1", "c", "10.3.0.1/24"),
    ]
    .concat()
}

pub fn built() -> Model {
    let mut model = Model::default();
    model.apply(&cloud()).unwrap();
    model
}
