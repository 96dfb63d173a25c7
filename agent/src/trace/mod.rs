//! What stops packets between two addresses, at this end: read from the kernel on request, and compared with the
//! configuration. Nothing is changed.

mod drift;
mod facts;
mod findings;
mod foreign;
#[cfg(test)]
mod limits;
mod lookups;
mod path_end;
mod seen;
#[cfg(test)]
mod tests;
mod words;

use crate::{
    compile::{ETHERNET_MTU, UnderlayParams, compile},
    dirty_set::{DirtySet, Parts},
    kernel::{
        KernelError, UnderlayView,
        trace::{Reader, RouteQuery, Through},
    },
    objects::{Desired, Link},
    ports,
    reconcile::Handle,
};
use cps_peering_config::{
    ValidHostConfig,
    agent_api::TRACE_ANSWER_WITHIN,
    net::InterfaceName,
    trace::{Fact, PathEndpoints, TraceAnswer, TraceQuery, Verdict, check},
};
use facts::facts;
use nix::libc;
pub use path_end::{Exit, PathEnd, Tunnel};
use seen::{Lookups, Seen};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};
use tokio::{
    sync::Mutex,
    task::{JoinError, spawn_blocking},
};

/// Answers trace queries, one at a time.
#[derive(Clone)]
pub struct Tracer {
    reconciler: Handle,
    vxlan_port: u16,
    reader: Arc<Mutex<Reader>>,
}

impl Tracer {
    /// A tracer for the configuration that the reconciler has.
    pub fn new(reconciler: Handle, vxlan_port: u16, underlay: UnderlayView) -> Self {
        Self { reconciler, vxlan_port, reader: Arc::new(Mutex::new(Reader::new(underlay))) }
    }

    /// What this host does with packets between the two addresses of a query. If dropped before its turn, nothing is
    /// read; an observation that has begun is abandoned at the deadline.
    pub async fn trace(&self, query: TraceQuery, deadline: Instant) -> Result<TraceAnswer, JoinError> {
        // A reader that was abandoned halfway starts a new conversation with the kernel.
        let mut reader = Arc::clone(&self.reader).lock_owned().await;
        let own = self.clone();
        spawn_blocking(move || {
            reader.until(deadline);
            own.answer(&mut reader, &query)
        })
        .await
    }

    fn answer(&self, reader: &mut Reader, query: &TraceQuery) -> TraceAnswer {
        let answer = TraceAnswer { version: env!("CARGO_PKG_VERSION").to_owned(), ..TraceAnswer::default() };
        let Some(config) = self.reconciler.config() else {
            return not_told(answer, "the host has no configuration yet".to_owned());
        };
        let answer = TraceAnswer { revision: Some(config.revision), ..answer };
        self.look(reader, &config, query, answer.clone()).unwrap_or_else(|error| {
            let reason = match error {
                KernelError::Abandoned => {
                    format!("the kernel could not be read within {} s", TRACE_ANSWER_WITHIN.as_secs())
                }
                other => other.to_string(),
            };
            let fact = Fact { verdict: Verdict::Unknown, ..configuration(reason) };
            TraceAnswer { send: vec![fact.clone()], receive: vec![fact], ..answer }
        })
    }

    fn look(
        &self,
        reader: &mut Reader,
        config: &ValidHostConfig,
        query: &TraceQuery,
        answer: TraceAnswer,
    ) -> Result<TraceAnswer, KernelError> {
        let links = reader.devices()?;
        let config = &*ports::in_kernel_names(config, &ports::aliases(config, &links));
        let end = match PathEnd::of(config, &query.ends) {
            Ok(end) => end,
            Err(missing) => return Ok(not_told(answer, missing)),
        };
        let lookups = self.lookups(reader, config, query, &end, &links)?;
        let mut parts = parts(config, &query.ends, &end);
        let underlay = lookups.underlay.as_ref().and_then(|found| found.as_ref().ok()?.device);
        parts.devices.extend(underlay.and_then(|index| name_of(&links, index)));
        // VLANs on top of a port are accepted by a filter of their own.
        let port = links.get(&end.port).map(|link| link.index);
        let on_top = |link: &Link| link.vlan.is_some_and(|(parent, _)| Some(parent) == port);
        parts.devices.extend(links.iter().filter(|(_, link)| on_top(link)).map(|(name, _)| *name));
        let underlay_mtu = self.reconciler.report().borrow().underlay_mtu.unwrap_or(ETHERNET_MTU);
        let underlay_params = UnderlayParams { vxlan_port: self.vxlan_port, underlay_mtu };
        let mut desired = compile(config, underlay_params, &DirtySet::Parts(parts.clone()));
        self.reconciler.shares().adjust(config, &mut desired);
        restrict(&mut desired, &parts, &end);
        let observed = reader.look(&parts, &desired.senders)?;
        let seen = Seen {
            query: &query.ends,
            has_protocol: query.protocol.is_some(),
            end: &end,
            desired: &desired,
            observed: &observed,
            links: &links,
            lookups,
        };
        let (send, receive) = facts(&seen);
        Ok(TraceAnswer { send, receive, ..answer })
    }

    /// Looks up in the kernel where it routes packets, and the state of the neighbours involved.
    fn lookups(
        &self,
        reader: &mut Reader,
        config: &ValidHostConfig,
        query: &TraceQuery,
        end: &PathEnd,
        links: &BTreeMap<InterfaceName, Link>,
    ) -> Result<Lookups, KernelError> {
        let mut lookups = Lookups::default();
        if let Some(tunnel) = end.tunnel() {
            let from_host = |to: IpAddr, from: Option<IpAddr>| RouteQuery {
                to,
                from,
                through: Through::Host,
                protocol: Some(UDP),
                source_port: None,
                port: Some(self.vxlan_port),
            };
            lookups.own_vtep = Some(reader.route(from_host(config.underlay, None))?);
            let underlay = reader.route(from_host(tunnel.vtep, Some(config.underlay)))?;
            if let Some(device) = underlay.as_ref().ok().and_then(|found| found.device) {
                let next = underlay.as_ref().ok().and_then(|found| found.gateway).unwrap_or(tunnel.vtep);
                lookups.next_in_underlay = reader.neighbour(device, next)?;
            }
            lookups.underlay = Some(underlay);
        }
        let known = |device: &InterfaceName| links.get(device).map(|link| link.index);
        let (port, vrf) = (known(&end.port), known(&end.vrf));
        let through = if end.is_gateway { vrf.map(Through::Vrf) } else { port.map(Through::Arrived) };
        if let Some(through) = through {
            lookups.route = Some(reader.route(sent(query, through))?);
        }
        if let Some(tunnel) = end.tunnel().and_then(|tunnel| known(&tunnel.device)) {
            lookups.delivery = Some(reader.route(arriving(query, Through::Arrived(tunnel)))?);
            lookups.queue = reader.queue(tunnel)?;
        }
        if let Some(port) = port.filter(|_| !end.is_gateway) {
            lookups.destination = reader.neighbour(port, query.ends.local)?;
        }
        Ok(lookups)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it is 17")]
const UDP: u8 = libc::IPPROTO_UDP as u8;

/// The objects on the path.
fn parts(config: &ValidHostConfig, query: &PathEndpoints, end: &PathEnd) -> Parts {
    let prefixes = match config.vrfs.get(&query.vpc) {
        Some(vrf) => path_end::prefixes(vrf, [query.local, query.remote]),
        None => BTreeSet::new(),
    };
    Parts::of_path(config, &query.vpc, query.side, end.devices(), prefixes)
}

/// Keeps only objects on the path, and marks them as complete: then host-wide objects are compared, too.
fn restrict(desired: &mut Desired, parts: &Parts, end: &PathEnd) {
    let on_path = |device: &InterfaceName| *device == end.port || parts.devices.contains(device);
    let others: Vec<InterfaceName> = desired.ports.keys().copied().filter(|port| !on_path(port)).collect();
    desired.partial = false;
    desired.ports.retain(|port, _| on_path(port));
    desired.ingress.retain(|device, _| !others.contains(device));
    desired.addresses.retain(|address| on_path(&address.device));
    desired.local.retain(|route| parts.has_route(&route.key));
}

fn name_of(links: &BTreeMap<InterfaceName, Link>, index: u32) -> Option<InterfaceName> {
    links.iter().find(|(_, link)| link.index == index).map(|(name, _)| *name)
}

/// Packets that the own address sends, and replies to what arrives for it.
fn sent(query: &TraceQuery, through: Through) -> RouteQuery {
    let TraceQuery { ends: PathEndpoints { local, remote, .. }, protocol, port, port_in } = *query;
    RouteQuery { to: remote, from: Some(local), through, protocol, source_port: port_in, port }
}

/// Packets that arrive for the own address.
fn arriving(query: &TraceQuery, through: Through) -> RouteQuery {
    let TraceQuery { ends: PathEndpoints { local, remote, .. }, protocol, port, port_in } = *query;
    RouteQuery { to: local, from: Some(remote), through, protocol, source_port: port, port: port_in }
}

fn configuration(reason: String) -> Fact {
    Fact {
        check: check::CONFIGURATION.to_owned(),
        verdict: Verdict::Stops,
        object: String::new(),
        observed: String::new(),
        expected: None,
        reason,
    }
}

fn not_told(answer: TraceAnswer, reason: String) -> TraceAnswer {
    let fact = configuration(reason);
    TraceAnswer { send: vec![fact.clone()], receive: vec![fact], ..answer }
}
