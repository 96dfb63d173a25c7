//! Why one address reaches another, or does not.

use super::{
    Api,
    request::{Regional, RequestContext, read},
    response::{Envelope, Errors, Failure, Reply, reply},
};
use crate::{
    hosts::{probe::probe, trace::ask},
    model::state::State,
    paths::{AmbiguousSource, End, Heard, Path, PathQuery, Probe, survey},
};
use axum::body::Bytes;
use cps_peering_config::{
    id::{AccountId, RegionId, VpcId},
    number,
    text::{MAX_QUOTED, cut},
};
use cps_peering_http::share::FairShare;
use serde::{Deserialize, Serialize};
use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};
use utoipa::ToSchema;

/// Request to check whether one address reaches another.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct PathBody {
    /// The source address: of a server behind a port of a VPC, or of its gateway.
    source: String,
    /// The destination address, of the same family.
    destination: String,
    /// The VPC of the source; needed only where several have it.
    #[schema(value_type = Option<String>)]
    vpc_id: Option<VpcId>,
    /// `tcp`, `udp` or `icmp`; by default any.
    protocol: Option<String>,
    /// The destination port, 1 to 65 535; with `tcp` or `udp` only.
    #[serde(default, deserialize_with = "number::optional_not_zero")]
    port: Option<u32>,
    /// Whether the host of the source also sends probes to that of the destination along the same path. No server takes part: gateway
    /// addresses send and answer. Default false.
    probe: Option<bool>,
}

/// The findings.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct OnePath {
    path: Path,
}

/// How many paths can be traced at a time. Each waits for at most two hosts, and for seconds if they do not answer.
const MAX_AT_ONCE: usize = 128;
/// How many of these one account can have, and operators together.
const MAX_OF_ACCOUNT: usize = 2;
const MAX_OF_OPERATORS: usize = 32;
/// The places that a path with probes takes: an account has one at a time, which leaves others some of the host's probe budget.
const PLACES_OF_PROBE: usize = 2;
/// Shared by accounts; operators count as one of them.
static AT_ONCE: LazyLock<Arc<FairShare<Option<AccountId>>>> = LazyLock::new(|| FairShare::new(MAX_AT_ONCE));

fn address(field: &str, text: &str) -> Result<IpAddr, Failure> {
    let rule = || format!("{} is not an IPv4 or IPv6 address", cut(text, MAX_QUOTED));
    let address: IpAddr = text.trim().parse().map_err(|_| Failure::field(field, rule()))?;
    let unusable = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    if unusable || link_local || matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        let rule = format!("{address} is not the address of one server in a VPC");
        return Err(Failure::field(field, rule));
    }
    Ok(address)
}

fn question(body: PathBody, region: Option<RegionId>) -> Result<PathQuery, Failure> {
    let (source, destination) = (address("source", &body.source)?, address("destination", &body.destination)?);
    if source.is_ipv4() != destination.is_ipv4() {
        let rule = format!("{destination} is not of the same address family as {source}");
        return Err(Failure::field("destination", rule));
    }
    let protocol = match body.protocol.as_deref() {
        None | Some("") => None,
        Some("tcp") => Some(6),
        Some("udp") => Some(17),
        Some("icmp") if source.is_ipv4() => Some(1),
        Some("icmp") => Some(58),
        Some(other) => {
            let rule = format!("{} is not tcp, udp or icmp", cut(other, MAX_QUOTED));
            return Err(Failure::field("protocol", rule));
        }
    };
    let port = match body.port {
        None => None,
        Some(_) if !matches!(protocol, Some(6 | 17)) => {
            return Err(Failure::field("port", "a port goes with protocol tcp or udp only"));
        }
        Some(port) => {
            let rule = || format!("{port} is not within 1 to 65535");
            Some(u16::try_from(port).map_err(|_| Failure::field("port", rule()))?)
        }
    };
    Ok(PathQuery {
        source,
        destination,
        vpc: body.vpc_id,
        region,
        protocol,
        port,
        probe: body.probe.unwrap_or_default(),
    })
}

async fn trace(api: &Api, query: PathQuery, viewer: Option<&AccountId>) -> Reply {
    let mut place = AT_ONCE.hold(viewer.cloned());
    let places = if query.probe { PLACES_OF_PROBE } else { 1 };
    if !place.take_within(places, if viewer.is_some() { MAX_OF_ACCOUNT } else { MAX_OF_OPERATORS }) {
        return Err(Failure::no_room("too many paths are being traced: try again"));
    }
    let now_ms = api.engine.now_ms();
    let found =
        api.engine.read(|state, agents| survey(state, &query, viewer, now_ms, |peering| agents.confirmation(peering)));
    let found = found.map_err(|AmbiguousSource(vpcs)| {
        let vpcs = vpcs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Failure::field("vpcId", format!("several VPCs have {}: name one of {vpcs}", query.source))
    })?;
    let answers = match &found.ends {
        None => None,
        Some([near, far]) => {
            let agents = &api.diagnosed.agents;
            let answers = tokio::join!(
                ask(agents, &near.host, &near.agent, &near.query),
                ask(agents, &far.host, &far.agent, &far.query)
            );
            // A host may have received a newer configuration meanwhile, but none newer than the current one.
            let newest = |end: &End, state: &State| state.hosts().get(&end.host).map(|host| state.revision_of(host));
            let newest = api.engine.read(|state, _| [near, far].map(|end| newest(end, state).unwrap_or(end.revision)));
            let [near, far] = newest;
            Some([Heard { answer: answers.0, newest: near }, Heard { answer: answers.1, newest: far }])
        }
    };
    // The address that sends the probes, and for whom.
    let plan = found.probe.clone().zip(found.ends.as_ref().map(|[near, _]| near.clone()));
    let path = found.with(answers, viewer);
    if !query.probe {
        return reply(OnePath { path });
    }
    let probed = match plan {
        // A probe must not tell an account what the steps do not disclose (rule L11).
        _ if path.reaches == Some(false) && viewer.is_some() => {
            Probe::not_sent("no probe was sent, since packets stop at a step above")
        }
        Some((plan, near)) => {
            let answer = probe(&api.diagnosed.agents, &near.host, &near.agent, &plan.query).await;
            Probe::of(&plan, answer, viewer.is_none())
        }
        None if path.reaches == Some(false) => Probe::not_sent("no probe was sent, since packets stop at a step above"),
        None => Probe::not_sent(
            "no probe was sent, since one of the ends has no gateway address for it: of the family, joined by the peering, within the              port's prefixes, and on one host alone",
        ),
    };
    reply(OnePath { path: path.with_probe(probed) })
}

/// Find out whether one address reaches another, and what stops it: by the account's VPCs and peerings, and then by the kernels of the
/// hosts at both ends. Of another account's side, only whether it stops packets is shown. Nothing is changed, and nothing is sent
/// unless `probe` is set.
#[utoipa::path(post, path = "/v1/regions/{regionId}/paths", tag = "peerings", operation_id = "describePath",
    params(("regionId" = String, Path)), request_body = PathBody,
    responses((status = 200, body = Envelope<OnePath>), Errors))]
pub(in crate::api) async fn own(regional: Regional, body: Bytes) -> Reply {
    let query = question(regional.body(&body)?, Some(regional.region.clone()))?;
    trace(&regional.context.api, query, Some(&regional.account)).await
}

/// Peerings of all accounts and regions, hosts, and the state of their kernels.
#[utoipa::path(post, path = "/admin/v1/paths", tag = "operators", operation_id = "describeAnyPath",
    request_body = PathBody, responses((status = 200, body = Envelope<OnePath>), Errors))]
pub(in crate::api) async fn any(context: RequestContext, body: Bytes) -> Reply {
    let query = question(read(&body)?, None)?;
    trace(&context.api, query, None).await
}
