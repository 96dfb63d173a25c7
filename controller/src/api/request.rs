//! From HTTP requests to commands.

use super::{
    Api, authentication, json,
    response::{Failure, RequestId},
    traced,
};
use crate::{
    access::{AccessError, Caller},
    audit,
    model::{Actor, Code, Command, CommandError, Outcome, Request, record::Made},
};
use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request,
};
use cps_peering_config::{
    id::{AccountId, PeeringId, RegionId},
    text::{MAX_QUOTED, cut, quote, shorten},
};
use cps_peering_otlp::SpanContext;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// The authenticated identity.
pub(super) struct RequestContext {
    pub(super) api: Api,
    pub(super) caller: Caller,
    request_id: String,
    /// The address of the client.
    from: String,
    /// Its span, if it is recorded as a trace.
    traced: Option<SpanContext>,
}

impl FromRequestParts<Api> for RequestContext {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut request::Parts, api: &Api) -> Result<Self, Failure> {
        let caller = parts.extensions.get::<Caller>().cloned().ok_or(AccessError::Missing)?;
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        let address = authentication::origin(&parts.extensions).address;
        let from = if address.is_unspecified() { String::new() } else { address.to_string() };
        Ok(Self { api: api.clone(), caller, request_id, from, traced: traced::context(parts) })
    }
}

impl RequestContext {
    fn request(&self, command: Command, token: Option<String>) -> Request {
        Request {
            actor: self.caller.actor.clone(),
            id: self.request_id.clone(),
            token,
            signed: self.caller.signed.clone(),
            operator: self.caller.operator.as_ref().and_then(|operator| operator.name.clone()),
            from: self.from.clone(),
            command,
        }
    }

    /// Executes a command.
    pub(super) async fn execute(&self, command: Command, token: Option<String>) -> Result<Outcome, Failure> {
        let request = self.request(command, token);
        let (command, named) = (audit::name(&request.command), audit::target(&request.command, None));
        let outcome = self.api.engine.carry_out_traced(request, self.traced).await?;
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

    /// Reads the audit trail, on a thread that may wait for the disk.
    pub(super) async fn audit(&self, query: audit::Query) -> Result<Vec<(u64, audit::Entry)>, Failure> {
        let engine = Arc::clone(&self.api.engine);
        let found = tokio::task::spawn_blocking(move || engine.audit(&query)).await;
        Ok(found.map_err(|error| Failure::internal(error.to_string()))??)
    }
}

/// A request of an account.
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

/// A request of an account in a region.
pub(super) struct Regional {
    pub(super) context: RequestContext,
    pub(super) account: AccountId,
    pub(super) region: RegionId,
    /// Path parameters, by name.
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
    /// A path parameter.
    pub(super) fn path(&self, name: &str) -> &str {
        self.path.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    }

    /// Reads a body. Clients repeat path parameters there, and write `null` for unset fields.
    pub(super) fn body<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Failure> {
        let mut fields = match body {
            [] => serde_json::Map::new(),
            body => {
                json::check(body)?;
                match serde_json::from_slice(body) {
                    Ok(Value::Object(fields)) => fields,
                    Ok(_) => return Err(Failure::invalid("the body is no JSON object")),
                    Err(error) => return Err(Failure::invalid(format!("the body is no JSON: {error}"))),
                }
            }
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
    json::check(body)?;
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

/// The peering that a command created or changed.
pub(super) fn peering_made(outcome: Outcome) -> Result<PeeringId, Failure> {
    match outcome {
        Outcome::Made(Made::Peering(id)) => Ok(id),
        other => Err(Failure::internal(format!("the command led to {other:?}"))),
    }
}
