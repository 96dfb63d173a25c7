//! The part of a path that the model determines.

use super::{End, FixableBy, PathQuery, ProbePlan, Step, StepVerdict, words};
use crate::{
    engine::Confirmation,
    model::{
        peering::state_word,
        record::{Charge, End as Ending, Host, Peering, PeeringState, Port, Role, Side, Vpc},
        state::State,
    },
    plan::gateways,
};
use cps_peering_config::{
    id::{AccountId, PeeringId, VpcId},
    net::Vni,
    prefix_set::intersection,
    trace::{PathEndpoints, TraceQuery},
};
use ipnet::IpNet;
use std::{borrow::Cow, net::IpAddr};

/// The steps of the model, and the hosts to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The source.
    pub source: IpAddr,
    /// The destination.
    pub destination: IpAddr,
    /// The VPC of the source.
    pub vpc: Option<VpcId>,
    /// The peering that leads there.
    pub peering: Option<PeeringId>,
    /// The steps.
    pub steps: Vec<Step>,
    /// The hosts at the source and at the destination; none if it ends before.
    pub ends: Option<[End; 2]>,
    /// Whether no port has the destination, which the viewer must not learn: another address of the peer is queried instead,
    /// so that the result looks like that for an address which the peer's side stops (rule L11).
    pub unserved: bool,
    /// Whether the peer has no address at all that could be queried: then the host of the source is asked about its own part alone,
    /// and problems on the way to the peer are not reported.
    pub own_part: bool,
    /// The probe that the host of the source is to send, if requested; none if there are no two usable addresses.
    pub probe: Option<ProbePlan>,
}

/// Several VPCs have the source, and none was selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmbiguousSource(pub Vec<VpcId>);

/// The most VPCs that are named.
const MAX_NAMED: usize = 10;

/// Walks the model from the source to the destination, as `viewer` can see it; an operator if there is none. `confirmation` says
/// which hosts have a peering.
pub fn survey(
    state: &State,
    query: &PathQuery,
    viewer: Option<&AccountId>,
    now_ms: u64,
    confirmation: impl Fn(&Peering) -> Confirmation,
) -> Result<Survey, AmbiguousSource> {
    let mut found = Survey {
        source: query.source,
        destination: query.destination,
        vpc: None,
        peering: None,
        steps: Vec::new(),
        ends: None,
        unserved: false,
        own_part: false,
        probe: None,
    };
    let walk = Walk { state, query, viewer, now_ms };
    let vpc = match walk.vpc()? {
        Ok(vpc) => vpc,
        Err(missing) => {
            found.steps.push(missing);
            return Ok(found);
        }
    };
    found.vpc = Some(vpc.id.clone());
    found.steps.push(Step::ok(words::VPC, vpc.id.to_string()));
    // If several ports have the source as their gateway, the one of the destination is meant.
    let far = port_of(state, &vpc.id, query.destination, None).filter(|far| !has_gateway(far, query.destination));
    let Some(port) = port_of(state, &vpc.id, query.source, far) else {
        let reason =
            format!("no port of VPC {} has {} behind it: an operator connects servers to ports", vpc.id, query.source);
        found.steps.push(Step::wrong(
            words::SOURCE_PORT,
            StepVerdict::Stops,
            query.source.to_string(),
            reason,
            FixableBy::Operator,
        ));
        return Ok(found);
    };
    found.steps.push(Step::ok(words::SOURCE_PORT, walk.port_words(port)));
    if covers(&vpc.cidrs, query.destination) {
        walk.within(vpc, port, &mut found);
        return Ok(found);
    }
    let Some((peering, role)) = walk.peering(vpc) else {
        found.steps.push(walk.no_peering(vpc));
        return Ok(found);
    };
    found.peering = Some(peering.id.clone());
    let (own, peer) = peering.view(role);
    found.steps.push(walk.state_of(peering, role, &confirmation(peering)));
    found.steps.extend(walk.arrears(peering, role));
    let limit = peering.bandwidth.map_or("no limit".to_owned(), |mbit| format!("{mbit} Mbit/s in each direction"));
    found.steps.push(Step::ok(words::BANDWIDTH, limit));
    if !peering.forwards() || peering.has_expired(now_ms) {
        return Ok(found);
    }
    if let Some(step) = walk.not_joined(own, peer) {
        found.steps.push(step);
        return Ok(found);
    }
    let reached = peer.effective(own);
    let policy = reached.iter().find(|cidr| cidr.contains(&query.destination));
    let policy = policy.map_or_else(String::new, |cidr| format!("{cidr} over {}", peering.id));
    found.steps.push(Step::ok(words::ROUTE_POLICY, policy));
    let sides = own.vni.zip(peer.vni).map(|(own, peer)| [own, peer]);
    let near = (&own.account, &vpc.id, port);
    match port_of(state, &peer.vpc, query.destination, Some(port)) {
        Some(far) => {
            if walk.sees(peer) {
                found.steps.push(Step::ok(words::DESTINATION_PORT, walk.port_words(far)));
            }
            let far = (&peer.account, &peer.vpc, far);
            walk.ask(near, far, query.destination, sides, &mut found);
            walk.probe(near, far, sides, Some([&own.effective(peer), &reached]), &mut found);
        }
        None if walk.sees(peer) => found.steps.push(walk.no_port(&peer.vpc, fixable_by(peer, viewer))),
        None => {
            found.unserved = true;
            if let Some((far, address)) = any_address(state, &peer.vpc, &reached, query.destination.is_ipv4()) {
                walk.ask(near, (&peer.account, &peer.vpc, far), address, sides, &mut found);
            } else {
                walk.ask_own_part(near, &peer.account, &mut found);
            }
        }
    }
    Ok(found)
}

struct Walk<'a> {
    state: &'a State,
    query: &'a PathQuery,
    viewer: Option<&'a AccountId>,
    now_ms: u64,
}

/// Who can fix a missing port of a side: operators, who connect it; accounts are told whose VPC it is.
fn fixable_by(side: &Side, viewer: Option<&AccountId>) -> FixableBy {
    match viewer {
        Some(account) if side.account != *account => FixableBy::Peer,
        _ => FixableBy::Operator,
    }
}

fn covers(cidrs: &[IpNet], address: IpAddr) -> bool {
    cidrs.iter().any(|cidr| cidr.contains(&address))
}

fn has_gateway(port: &Port, address: IpAddr) -> bool {
    port.gateways.iter().any(|gateway| gateway.addr() == address)
}

/// The port that has an address as its gateway, or behind it. If several have the same gateway, the one closest to another
/// port is meant.
fn port_of<'a>(state: &'a State, vpc: &VpcId, address: IpAddr, close_to: Option<&Port>) -> Option<&'a Port> {
    let distance = |port: &&Port| match close_to {
        Some(other) if port.key == other.key => 0,
        Some(other) if port.key.host == other.key.host => 1,
        _ => 2,
    };
    let gateway = state.ports_of(vpc).filter(|port| has_gateway(port, address)).min_by_key(distance);
    let longest = |port: &&Port| {
        let covering = port.prefixes.iter().filter(|prefix| prefix.contains(&address));
        covering.map(IpNet::prefix_len).max()
    };
    gateway.or_else(|| state.ports_of(vpc).filter(|port| longest(port).is_some()).max_by_key(longest))
}

/// Some address in a VPC, with its port.
fn any_address<'a>(state: &'a State, vpc: &VpcId, reached: &[IpNet], ipv4: bool) -> Option<(&'a Port, IpAddr)> {
    state.ports_of(vpc).find_map(|port| {
        let gateways = port.gateways.iter().map(IpNet::addr).filter(|gateway| covers(reached, *gateway));
        let behind = intersection(&port.prefixes, reached);
        let mut addresses = gateways.chain(behind.iter().map(IpNet::addr));
        Some((port, addresses.find(|address| address.is_ipv4() == ipv4)?))
    })
}

impl<'a> Walk<'a> {
    /// Whether the viewer can see the contents of a side.
    fn sees(&self, side: &Side) -> bool {
        self.viewer.is_none_or(|account| side.account == *account)
    }

    fn vpc(&self) -> Result<Result<&'a Vpc, Step>, AmbiguousSource> {
        let query = self.query;
        let may_see = |vpc: &&Vpc| self.viewer.is_none_or(|account| vpc.account == *account);
        let in_region = |vpc: &&Vpc| query.region.as_ref().is_none_or(|region| vpc.region == *region);
        let has = |vpc: &&Vpc| covers(&vpc.cidrs, query.source);
        let stops = |object: String, reason: String| {
            Step::wrong(words::VPC, StepVerdict::Stops, object, reason, FixableBy::Caller)
        };
        if let Some(id) = &query.vpc {
            let Some(vpc) = self.state.vpcs().get(id).filter(|vpc| may_see(vpc) && in_region(vpc)) else {
                return Ok(Err(stops(id.to_string(), format!("there is no VPC {id}"))));
            };
            let reason = || format!("{} is in no CIDR of VPC {id}", query.source);
            return Ok(if has(&vpc) { Ok(vpc) } else { Err(stops(query.source.to_string(), reason())) });
        }
        let vpcs: Vec<&Vpc> = match self.viewer {
            Some(account) => self.state.vpcs_of(account).filter(|vpc| in_region(vpc) && has(vpc)).collect(),
            None => self.state.vpcs().values().filter(|vpc| in_region(vpc) && has(vpc)).collect(),
        };
        // If several have the address, the one with a server there is meant.
        let with_port: Vec<&Vpc> =
            vpcs.iter().copied().filter(|vpc| port_of(self.state, &vpc.id, query.source, None).is_some()).collect();
        match (vpcs.as_slice(), with_port.as_slice()) {
            ([], _) => Ok(Err(stops(query.source.to_string(), format!("no VPC has {}", query.source)))),
            ([only], _) | (_, [only]) => Ok(Ok(only)),
            _ => Err(AmbiguousSource(vpcs.iter().take(MAX_NAMED).map(|vpc| vpc.id.clone()).collect())),
        }
    }

    /// A port in words, with its host for operators only.
    fn port_words(&self, port: &Port) -> String {
        let prefixes = port.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        match self.viewer {
            None => format!("{} with {prefixes}", port.key),
            Some(_) => format!("a port with {prefixes}"),
        }
    }

    fn no_port(&self, vpc: &VpcId, fixable_by: FixableBy) -> Step {
        let destination = self.query.destination;
        let reason = format!("no port of VPC {vpc} has {destination} behind it: the answer is \"unreachable\"");
        Step::wrong(words::DESTINATION_PORT, StepVerdict::Stops, destination.to_string(), reason, fixable_by)
    }

    fn within(&self, vpc: &Vpc, port: &Port, found: &mut Survey) {
        let PathQuery { source, destination, .. } = *self.query;
        let Some(far) = port_of(self.state, &vpc.id, destination, Some(port)) else {
            found.steps.push(self.no_port(&vpc.id, FixableBy::Operator));
            return;
        };
        let is_server = |address: IpAddr| !has_gateway(port, address);
        let on_link = |subnet: &IpNet| subnet.contains(&source) && subnet.contains(&destination);
        if far.key == port.key && is_server(source) && is_server(destination) && port.gateways.iter().any(on_link) {
            let reason = "both are on one network behind the same port: what they send each other does not pass the host, which cannot \
                          tell";
            let port = self.port_words(far);
            found.steps.push(Step::wrong(
                words::DESTINATION_PORT,
                StepVerdict::Unknown,
                port,
                reason,
                FixableBy::Caller,
            ));
            return;
        }
        found.steps.push(Step::ok(words::DESTINATION_PORT, self.port_words(far)));
        let (near, far) = ((&vpc.account, &vpc.id, port), (&vpc.account, &vpc.id, far));
        self.ask(near, far, destination, None, found);
        self.probe(near, far, None, None, found);
    }

    /// The peering that leads to the destination, as far as the viewer can know the peer's prefixes. Forwarding ones come before
    /// others, and those that connect the destination before those that do not export or import it (C9).
    fn peering(&self, vpc: &Vpc) -> Option<(&'a Peering, Role)> {
        let role = |peering: &Peering| if peering.initiator.vpc == vpc.id { Role::Initiator } else { Role::Receiver };
        let leads = |peering: &&Peering| {
            let role = role(peering);
            let (own, peer) = peering.view(role);
            let is_seen = match self.viewer {
                None => true,
                Some(account) => {
                    let hidden = peer.account != *account && role == Role::Initiator && !peering.was_accepted();
                    !hidden && peering.is_seen_from(own)
                }
            };
            let known = if self.sees(peer) { Cow::Borrowed(&*peer.cidrs) } else { peer.offered() };
            is_seen && covers(&known, self.query.destination)
        };
        let joins = |peering: &Peering| {
            let (own, peer) = peering.view(role(peering));
            covers(&peer.effective(own), self.query.destination)
        };
        let found = self.state.peerings_of(&vpc.id).filter(leads);
        let found =
            found.max_by_key(|peering| (peering.forwards(), joins(peering), peering.is_live(), !peering.is_ended()))?;
        Some((found, role(found)))
    }

    /// The step if a peering's prefix lists exclude the path (C9).
    fn not_joined(&self, own: &Side, peer: &Side) -> Option<Step> {
        let PathQuery { source, destination, .. } = *self.query;
        let others = if self.sees(peer) && self.viewer.is_some() { FixableBy::Caller } else { FixableBy::Peer };
        let (object, reason, by) = if !covers(&own.offered(), source) {
            (source, format!("{source} is not among the exported prefixes of VPC {}", own.vpc), FixableBy::Caller)
        } else if !covers(&own.effective(peer), source) {
            (source, format!("{source} is not among the prefixes that VPC {} imports", peer.vpc), others)
        } else if !covers(&peer.offered(), destination) {
            let reason = format!("{destination} is not among the exported prefixes of VPC {}", peer.vpc);
            (destination, reason, others)
        } else if !covers(&peer.effective(own), destination) {
            let reason = format!("{destination} is not among the prefixes that VPC {} imports", own.vpc);
            (destination, reason, FixableBy::Caller)
        } else {
            return None;
        };
        Some(Step::wrong(words::ROUTE_POLICY, StepVerdict::Stops, object.to_string(), reason, by))
    }

    fn no_peering(&self, vpc: &Vpc) -> Step {
        let pending = self.state.peerings_of(&vpc.id).filter(|peering| {
            peering.initiator.vpc == vpc.id
                && peering.state == PeeringState::Pending
                && !peering.has_expired(self.now_ms)
                && peering.is_cross_account()
        });
        let destination = self.query.destination;
        let waiting = match pending.count() {
            0 => String::new(),
            1 => "; one request of this VPC is not answered yet, and shows what it leads to when it is accepted"
                .to_owned(),
            more => format!(
                "; {more} requests of this VPC are not answered yet, and show what they lead to when they are accepted"
            ),
        };
        let reason = format!("no CIDR of VPC {} and of its peers has {destination}{waiting}", vpc.id);
        Step::wrong(words::PEERING, StepVerdict::Stops, destination.to_string(), reason, FixableBy::Caller)
    }

    fn state_of(&self, peering: &Peering, role: Role, known: &Confirmation) -> Step {
        let id = peering.id.to_string();
        let other = |account: &AccountId| match self.viewer {
            Some(viewer) if *account == *viewer => FixableBy::Caller,
            None if *account == peering.view(role).0.account => FixableBy::Caller,
            _ => FixableBy::Peer,
        };
        let receiver = &peering.receiver.account;
        let word = if peering.has_expired(self.now_ms) { "expired" } else { state_word(&peering.state) };
        let stops = |reason: String, fixable_by| Step {
            observed: word.to_owned(),
            ..Step::wrong(words::PEERING, StepVerdict::Stops, id.clone(), reason, fixable_by)
        };
        match &peering.state {
            _ if peering.has_expired(self.now_ms) => {
                stops("the request was not answered in time: send it again".into(), FixableBy::Caller)
            }
            PeeringState::Pending => stops(format!("account {receiver} has not accepted it yet"), other(receiver)),
            // Arrears are a step of their own.
            PeeringState::Active | PeeringState::Suspended { .. } => {
                Step { observed: word.to_owned(), ..Step::ok(words::PEERING, id.clone()) }
            }
            PeeringState::Provisioning => {
                let reason = format!("it is being set up: {} hosts have not confirmed it yet", known.missing.len());
                let step = Step::wrong(words::PEERING, StepVerdict::Differs, id.clone(), reason, FixableBy::Operator);
                Step { observed: word.to_owned(), ..step }
            }
            PeeringState::Draining { .. } => {
                stops("it was deleted, and is being taken off hosts".into(), FixableBy::Caller)
            }
            PeeringState::Ended { how: Ending::Rejected, .. } => {
                stops(format!("account {receiver} has rejected it"), other(receiver))
            }
            PeeringState::Ended { how: Ending::Expired, .. } => {
                stops("the request was not answered in time: send it again".into(), FixableBy::Caller)
            }
            PeeringState::Ended { how: Ending::Deleted, .. } => {
                stops("the other side has deleted it: ask for a new one".into(), FixableBy::Peer)
            }
        }
    }

    /// Only peerings between regions cost anything. Another account's charge status is shown only if it suspends the peering.
    fn arrears(&self, peering: &Peering, role: Role) -> Option<Step> {
        if !peering.is_cross_region() {
            return None;
        }
        let payer = &peering.initiator.account;
        if !matches!(peering.state, PeeringState::Suspended { .. }) {
            return Some(Step::ok(words::ARREARS, ""));
        }
        let pays = self.viewer.map_or(role == Role::Initiator, |viewer| payer == viewer);
        let reason = match self.state.account(payer).charge {
            Charge::Arrear { .. } if pays || self.viewer.is_none() => {
                format!("the peering is suspended: account {payer}, which pays for it, is in arrear")
            }
            _ => format!("the peering is suspended: account {payer}, which pays for it, can tell why"),
        };
        let fixable_by = if pays { FixableBy::Caller } else { FixableBy::Peer };
        Some(Step::wrong(words::ARREARS, StepVerdict::Stops, peering.id.to_string(), reason, fixable_by))
    }

    /// Adds the requests to the hosts at both ends. An unknown host is a step of its own.
    fn ask(
        &self,
        (account, vpc, port): (&AccountId, &VpcId, &Port),
        (peer_account, peer_vpc, peer_port): (&AccountId, &VpcId, &Port),
        destination: IpAddr,
        sides: Option<[Vni; 2]>,
        found: &mut Survey,
    ) {
        let hosts = self.state.hosts();
        let (Some(near), Some(far)) = (hosts.get(&port.key.host), hosts.get(&peer_port.key.host)) else {
            let reason = "the host of a port is not known";
            found.steps.push(Step::wrong(words::HOST, StepVerdict::Unknown, "", reason, FixableBy::Operator));
            return;
        };
        let apart = near.id != far.id;
        let PathQuery { source, protocol, port, .. } = *self.query;
        let end = |host: &Host, account: &AccountId, query: TraceQuery| End {
            account: account.clone(),
            host: host.id.clone(),
            agent: host.agent.clone(),
            query,
            revision: self.state.revision_of(host),
            paused: host.paused || host.is_held_back(),
        };
        let there = TraceQuery {
            ends: PathEndpoints {
                vpc: vpc.clone(),
                local: source,
                peer_vpc: peer_vpc.clone(),
                remote: destination,
                side: sides.map(|[own, _]| own),
                remote_vtep: apart.then_some(far.underlay),
            },
            protocol,
            port,
            port_in: None,
        };
        let back = TraceQuery {
            ends: PathEndpoints {
                vpc: peer_vpc.clone(),
                local: destination,
                peer_vpc: vpc.clone(),
                remote: source,
                side: sides.map(|[_, peer]| peer),
                remote_vtep: apart.then_some(near.underlay),
            },
            protocol,
            port: None,
            port_in: port,
        };
        found.ends = Some([end(near, account, there), end(far, peer_account, back)]);
    }

    /// Adds a request to the host of the source if there is no other end: about its port. It is asked as many times as two
    /// hosts would be.
    fn ask_own_part(&self, (account, vpc, port): (&AccountId, &VpcId, &Port), peer: &AccountId, found: &mut Survey) {
        let source = self.query.source;
        let gateway = port.gateways.iter().map(IpNet::addr).find(|gateway| gateway.is_ipv4() == source.is_ipv4());
        let near = (account, vpc, port);
        self.ask(near, near, gateway.unwrap_or(source), None, found);
        if let Some([_, far]) = &mut found.ends {
            far.account = peer.clone();
            found.own_part = true;
        }
    }

    /// Adds the probe for the host of the source, if requested: between a gateway of each end, within what is `joined`.
    fn probe(
        &self,
        (_, vpc, port): (&AccountId, &VpcId, &Port),
        (peer_account, peer_vpc, peer_port): (&AccountId, &VpcId, &Port),
        sides: Option<[Vni; 2]>,
        joined: Option<[&[IpNet]; 2]>,
        found: &mut Survey,
    ) {
        let Some([near, _]) = found.ends.as_ref().filter(|_| self.query.probe) else { return };
        let ipv4 = self.query.source.is_ipv4();
        let gateway = |vpc, port: &Port, joined| {
            let found = gateways(self.state, vpc, joined);
            found.get(&port.key.host)?.iter().copied().find(|it| it.is_ipv4() == ipv4)
        };
        let local = gateway(vpc, port, joined.map(|[own, _]| own));
        let remote = gateway(peer_vpc, peer_port, joined.map(|[_, peer]| peer));
        found.probe = local.zip(remote).map(|(local, remote)| ProbePlan {
            query: PathEndpoints {
                vpc: vpc.clone(),
                local,
                peer_vpc: peer_vpc.clone(),
                remote,
                side: sides.map(|[own, _]| own),
                remote_vtep: near.query.ends.remote_vtep,
            },
            shows_destination: self.viewer.is_none_or(|viewer| viewer == peer_account),
        });
    }
}
