//! Authentication and limits, before anything else of a request is looked at, from its head as far as possible.

use super::{
    Api,
    body::{self, Sender},
    response::{Failure, RequestId, asked_by},
    traced,
};
use crate::{
    access::{
        Access, AccessError, Caller, Identified,
        failures::{Origin, Refusal},
        is_read,
        operators::{self, Operator},
        rate::Source,
        session,
        signature::{NO_BODY, Parts},
    },
    engine::Engine,
    model::{Actor, Command, Request},
};
use axum::{
    body::Body,
    extract::{ConnectInfo, State},
    http::{self, Extensions, HeaderMap, request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use cps_peering_http::{Connection, tls::Peer};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// The address and id of a request.
pub(super) fn origin(extensions: &Extensions) -> Origin {
    let address = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip().to_canonical());
    let request = extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    Origin { address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), request }
}

/// The operator of the client's certificate. A token or signature in the request takes precedence.
pub(super) fn operator_by_certificate(
    access: &Access,
    extensions: &Extensions,
    headers: &HeaderMap,
) -> Option<Operator> {
    let peer = extensions.get::<Peer>().filter(|_| !headers.contains_key(http::header::AUTHORIZATION))?;
    access.operator_by_certificate(&peer.names)
}

/// Authenticates the caller, and reads the body.
pub(super) async fn recognise(State(api): State<Api>, request: axum::extract::Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let recognised = match identify(&api, &parts) {
        Ok(identified) => caller(&api, &parts, identified, body).await,
        Err(failure) => Err(failure),
    };
    let (caller, body) = match recognised {
        Ok(recognised) => recognised,
        Err(failure) => return failure.into_response(),
    };
    let unrecorded = Unrecorded::new(&api.engine, &caller, parts.method.as_str());
    parts.extensions.insert(caller);
    // The memory of the body is released with the response.
    let response = next.run(axum::extract::Request::from_parts(parts, Body::from(body.bytes.clone()))).await;
    unrecorded.record().await;
    response
}

/// Authenticates by the head.
fn identify(api: &Api, parts: &request::Parts) -> Result<Identified, Failure> {
    let head = as_signed(parts);
    if let Some(operator) = operator_by_certificate(&api.access, &parts.extensions, &parts.headers) {
        // A browser sends the certificate with requests of any page; what a page of another site learns from a response is nothing.
        if !is_read(head.method) && session::is_from_others_page(head.headers) {
            return Err(AccessError::OthersPageByCertificate.into());
        }
        return Ok(Identified::Known(Caller::of(operator.into())));
    }
    Ok(api.access.identify(&head, &origin(&parts.extensions))?)
}

/// The caller, and the body. For callers that the head authenticates, limits are checked before the body is read.
async fn caller(
    api: &Api,
    parts: &request::Parts,
    identified: Identified,
    body: Body,
) -> Result<(Caller, body::Whole), Failure> {
    let origin = origin(&parts.extensions);
    let from = Source::from(origin.address);
    match identified {
        Identified::Known(caller) => {
            admit(api, parts, &caller)?;
            let sender = if caller.actor == Actor::Operator { Sender::Operator } else { Sender::Tenant };
            Ok((caller, body::read(body, &parts.headers, sender, from, &api.body_memory).await?))
        }
        Identified::Signed(pending) => {
            let sender = if pending.is_nobody() { Sender::Nobody } else { Sender::Tenant };
            let body = body::read(body, &parts.headers, sender, from, &api.body_memory).await?;
            let whole = Parts { body: body.hash, ..as_signed(parts) };
            let caller = api.access.verify(pending, &whole, &origin)?;
            meant_for(&caller, parts.uri.path())?;
            admit(api, parts, &caller)?;
            // Last, so that nothing is remembered of requests that are refused.
            api.access.take_once(&caller, &whole)?;
            Ok((caller, body))
        }
    }
}

/// A request as it is signed, without its body.
fn as_signed(parts: &request::Parts) -> Parts<'_> {
    Parts {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers: &parts.headers,
        body: NO_BODY,
    }
}

fn count(api: &Api, parts: &request::Parts, caller: &Caller) -> Result<(), Failure> {
    asked_by(&caller.word());
    if let Some(account) = caller.actor.account() {
        api.access.count(account)?;
    }
    // None if another controller forwarded the request: the connection belongs to that one.
    let Some(connection) = parts.extensions.get::<Connection>() else { return Ok(()) };
    match caller.actor.account() {
        Some(account) => connection.is_of_account(account.as_str())?,
        None => connection.is_of_operator()?,
    }
    Ok(())
}

/// Counts a request and its connection against the limits of the caller. Requests beyond a limit are not recorded as traces either.
fn admit(api: &Api, parts: &request::Parts, caller: &Caller) -> Result<(), Failure> {
    count(api, parts, caller)?;
    traced::asked_by(parts, caller);
    Ok(())
}

/// A signature names service and region, and is valid for these only.
fn meant_for(caller: &Caller, path: &str) -> Result<(), Failure> {
    const NO_REGION: &str = "jdcloud-api";
    let unauthenticated = |rule: String| Failure::unauthenticated(rule, "CredentialScope");
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

/// Admits operators, as far as their roles allow.
pub(super) async fn operators_only(State(api): State<Api>, request: axum::extract::Request, next: Next) -> Response {
    let Some(caller) = request.extensions().get::<Caller>() else {
        return Failure::from(AccessError::Missing).into_response();
    };
    let Some(operator) = &caller.operator else { return Failure::forbidden("operators only").into_response() };
    let (method, path) = (request.method().as_str(), request.uri().path());
    let needed = operators::needed(method, path);
    if operator.role >= needed {
        return next.run(request).await;
    }
    let reason = format!(
        "Permission denied: {operator} has the role {}, and this needs {}",
        operator.role.word(),
        needed.word()
    );
    let refusal = Refusal {
        actor: &operator.to_string(),
        action: "PermissionDenied",
        target: &format!("{method} {path}"),
        reason: &reason,
        account: None,
    };
    api.access.record(&origin(request.extensions()), refusal);
    Failure::forbidden(reason).into_response()
}

/// The signature of a change that is not in the store yet. What was refused, or changed nothing, must not take effect later, when
/// the same request is replayed to a controller that does not remember it; so its signature is stored, too. Also if the client no
/// longer waits for the response.
struct Unrecorded {
    engine: Arc<Engine>,
    request: Option<Request>,
}

impl Unrecorded {
    fn new(engine: &Arc<Engine>, caller: &Caller, method: &str) -> Self {
        let request = caller.signed.as_ref().filter(|_| !is_read(method)).map(|signed| Request {
            signed: Some(signed.clone()),
            ..Request::new(caller.actor.clone(), Command::RecordSignature)
        });
        Self { engine: Arc::clone(engine), request }
    }

    fn take(&mut self) -> Option<Request> {
        let request = self.request.take()?;
        let signature = &request.signed.as_ref()?.signature;
        let is_known = self.engine.read(|state, _| state.has_signature(signature));
        (!is_known).then_some(request)
    }

    /// Completes when it is durable.
    async fn record(mut self) {
        if let Some(request) = self.take()
            && let Err(error) = self.engine.carry_out(request).await
        {
            // The store's failure is reported elsewhere; it must not fill the log.
            tracing::debug!(%error, "the signature of a request that changed nothing is kept in memory only");
        }
    }
}

impl Drop for Unrecorded {
    fn drop(&mut self) {
        if let Some(request) = self.take() {
            self.engine.submit(request);
        }
    }
}
