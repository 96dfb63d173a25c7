//! From an HTTP request to who asks what.

use super::{
    Api, MAX_OPERATOR_BODY, MAX_TENANT_BODY,
    response::{Failure, RequestId, asked_by},
};
use crate::{
    access::{AccessError, Caller, rate::Source, session, signature::Parts},
    audit,
    model::{Actor, Code, Command, CommandError, Outcome, Request, record::Made},
};
use axum::{
    body::{Body, to_bytes},
    extract::{ConnectInfo, FromRequestParts, RawPathParams, State},
    http::{self, request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use cps_peering_config::{
    id::{AccountId, PeeringId, RegionId},
    text::{MAX_QUOTED, cut, quote, shorten},
    tls::OPERATOR,
};
use cps_peering_http::tls::Peer;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// From where a request came.
pub(super) fn source(extensions: &http::Extensions) -> Source {
    let address = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
    address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).into()
}

/// Whether the client's certificate says who asks: that of the control plane says as much as the operators' token. Who sends a
/// token or a signature is who that says.
pub(super) fn is_operator_by_certificate(extensions: &http::Extensions, headers: &http::HeaderMap) -> bool {
    let is_operator = extensions.get::<Peer>().is_some_and(|peer| peer.is(OPERATOR));
    is_operator && !headers.contains_key(http::header::AUTHORIZATION)
}

/// Finds out who asks, before anything else is looked at.
pub(super) async fn recognise(State(api): State<Api>, request: axum::extract::Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let head = Parts {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers: &parts.headers,
        body: &[],
    };
    if is_operator_by_certificate(&parts.extensions, &parts.headers) {
        // A browser sends the certificate whoever's page asks; what that page learns of an answer is nothing.
        if !["GET", "HEAD"].contains(&head.method) && session::is_from_others_page(head.headers) {
            return Failure::from(AccessError::OthersPageByCertificate).into_response();
        }
        asked_by(&Actor::Operator);
        parts.extensions.insert(Caller { actor: Actor::Operator, signed: None, service: None, region: None });
        return match to_bytes(body, MAX_OPERATOR_BODY).await {
            Ok(body) => next.run(axum::extract::Request::from_parts(parts, Body::from(body))).await,
            Err(_) => too_long(MAX_OPERATOR_BODY),
        };
    }
    let from = source(&parts.extensions);
    if let Err(error) = api.access.may_be_known(&head, from) {
        return Failure::from(error).into_response();
    }
    let limit = if parts.uri.path().starts_with("/admin/") { MAX_OPERATOR_BODY } else { MAX_TENANT_BODY };
    let Ok(body) = to_bytes(body, limit).await else {
        return too_long(limit);
    };
    let signed = Parts { body: &body, ..head };
    match api.access.recognise(&signed, from) {
        Ok(caller) => {
            asked_by(&caller.actor);
            if let Err(failure) = meant_for(&caller, parts.uri.path()) {
                return failure.into_response();
            }
            if let Some(Err(often)) = caller.actor.account().map(|account| api.access.count(account)) {
                return Failure::from(often).into_response();
            }
            parts.extensions.insert(caller);
            next.run(axum::extract::Request::from_parts(parts, Body::from(body))).await
        }
        Err(error) => Failure::from(error).into_response(),
    }
}

fn too_long(limit: usize) -> Response {
    let text = format!("the body is longer than {limit} bytes, or ended early");
    (http::StatusCode::PAYLOAD_TOO_LARGE, text).into_response()
}

/// A signature names service and region, and is good for them alone.
fn meant_for(caller: &Caller, path: &str) -> Result<(), Failure> {
    const NO_REGION: &str = "jdcloud-api";
    let unauthenticated =
        |rule: String| Failure::from(CommandError::one(Code::Replayed, "Authorization", rule, "CredentialScope"));
    if let Some(service) = caller.service.as_deref().filter(|service| !["vpc", "cps"].contains(service)) {
        return Err(unauthenticated(format!("the credential is for service {service}, and this is vpc and cps")));
    }
    let meant = path.strip_prefix("/v1/regions/").and_then(|rest| rest.split('/').next()).filter(|it| !it.is_empty());
    match (&caller.region, meant) {
        (Some(region), meant) if region != meant.unwrap_or(NO_REGION) => {
            let meant = meant.unwrap_or(NO_REGION);
            Err(unauthenticated(format!("the credential is for region {region}, and the request for {meant}")))
        }
        _ => Ok(()),
    }
}

pub(super) async fn operators_only(request: axum::extract::Request, next: Next) -> Response {
    match request.extensions().get::<Caller>().map(|caller| &caller.actor) {
        Some(Actor::Operator) => next.run(request).await,
        Some(_) => Failure::forbidden("operators only").into_response(),
        None => Failure::from(AccessError::Missing).into_response(),
    }
}

/// The authenticated identity.
pub(super) struct RequestContext {
    pub(super) api: Api,
    pub(super) caller: Caller,
    request_id: String,
}

impl FromRequestParts<Api> for RequestContext {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut request::Parts, api: &Api) -> Result<Self, Failure> {
        let caller = parts.extensions.get::<Caller>().cloned().ok_or(AccessError::Missing)?;
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        Ok(Self { api: api.clone(), caller, request_id })
    }
}

impl RequestContext {
    fn request(&self, command: Command, token: Option<String>) -> Request {
        Request {
            actor: self.caller.actor.clone(),
            id: self.request_id.clone(),
            token,
            signed: self.caller.signed.clone(),
            command,
        }
    }

    /// Carries a command out.
    pub(super) async fn execute(&self, command: Command, token: Option<String>) -> Result<Outcome, Failure> {
        let request = self.request(command, token);
        let (command, named) = (audit::name(&request.command), audit::target(&request.command, None));
        let outcome = self.api.engine.carry_out(request).await?;
        let target = match &outcome {
            Outcome::Made(Made::Peering(id)) => Some(id.to_string()),
            Outcome::Made(Made::Vpc(id)) => Some(id.to_string()),
            Outcome::Applied(_) | Outcome::Done => named,
        };
        tracing::info!(command, target, "done");
        Ok(outcome)
    }

    /// Checks a command. Changes nothing.
    pub(super) async fn dry_run(&self, command: Command, token: Option<String>) -> Result<Outcome, Failure> {
        Ok(self.api.engine.dry_run(self.request(command, token)).await?)
    }

    /// Looks into the audit trail, where it may wait for the disk.
    pub(super) async fn audit(&self, query: audit::Query) -> Result<Vec<(u64, audit::Entry)>, Failure> {
        let engine = Arc::clone(&self.api.engine);
        let found = tokio::task::spawn_blocking(move || engine.audit(&query)).await;
        Ok(found.map_err(|error| Failure::internal(error.to_string()))??)
    }
}

/// An account that asks.
pub(super) struct Tenant {
    pub(super) context: RequestContext,
    pub(super) account: AccountId,
}

impl FromRequestParts<Api> for Tenant {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut request::Parts, api: &Api) -> Result<Self, Failure> {
        let context = RequestContext::from_request_parts(parts, api).await?;
        match context.caller.actor.clone() {
            Actor::Account(account) => Ok(Self { context, account }),
            _ => Err(Failure::forbidden("accounts only; operators use /admin/v1")),
        }
    }
}

/// An account that asks for something in a region.
pub(super) struct Regional {
    pub(super) context: RequestContext,
    pub(super) account: AccountId,
    pub(super) region: RegionId,
    /// Parameters of the path, by name.
    path: Vec<(String, String)>,
}

impl FromRequestParts<Api> for Regional {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut request::Parts, api: &Api) -> Result<Self, Failure> {
        let Tenant { context, account } = Tenant::from_request_parts(parts, api).await?;
        let path = RawPathParams::from_request_parts(parts, api)
            .await
            .map_err(|error| Failure::invalid(format!("the path cannot be read: {error}")))?;
        let path: Vec<(String, String)> =
            path.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let named = path.iter().find(|(name, _)| name == "regionId").map_or("", |(_, value)| value.as_str());
        let missing = || {
            let rule = format!("there is no region {}", cut(named, MAX_QUOTED));
            CommandError::one(Code::NotFound, "regionId", rule, "RegionNotFound")
        };
        let region: RegionId = named.parse().map_err(|_| missing())?;
        if !api.engine.read(|state, _| state.regions().contains_key(&region)) {
            return Err(missing().into());
        }
        Ok(Self { context, account, region, path })
    }
}

impl Regional {
    /// A parameter of the path.
    pub(super) fn path(&self, name: &str) -> &str {
        self.path.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    }

    /// Reads a body. Clients repeat the path's parameters there, and write `null` for what they leave out.
    pub(super) fn body<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Failure> {
        let mut fields = match body {
            [] => serde_json::Map::new(),
            body => match serde_json::from_slice(body) {
                Ok(Value::Object(fields)) => fields,
                Ok(_) => return Err(Failure::invalid("the body is no JSON object")),
                Err(error) => return Err(Failure::invalid(format!("the body is no JSON: {error}"))),
            },
        };
        fields.retain(|_, value| !value.is_null());
        for (name, value) in &self.path {
            let own = value.split(':').next().unwrap_or_default();
            if let Some(said) = fields.remove(name)
                && said != own
            {
                return Err(Failure::field(
                    name,
                    format!("the body says {}, and the path {}", shorten(&said.to_string()), quote(own)),
                ));
            }
        }
        read_value(Value::Object(fields))
    }
}

/// Reads a value. Errors name the field.
pub(super) fn read_value<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, rule) = (shorten(&error.path().to_string()), shorten(&error.inner().to_string()));
        if path == "." { Failure::invalid(rule) } else { Failure::field(path, rule) }
    })
}

/// Reads a body. Errors name the field.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let (path, rule) = (shorten(&error.path().to_string()), shorten(&error.inner().to_string()));
        if path == "." {
            Failure::invalid(format!("the body cannot be read: {rule}"))
        } else {
            Failure::field(path, rule)
        }
    })
}

/// The peering that a command made, or was about.
pub(super) fn peering_made(outcome: Outcome) -> Result<PeeringId, Failure> {
    match outcome {
        Outcome::Made(Made::Peering(id)) => Ok(id),
        other => Err(Failure::internal(format!("the command led to {other:?}"))),
    }
}
