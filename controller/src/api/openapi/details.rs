//! What the handlers' types do not say about the API: servers, formats and limits of values, and an example of each
//! operation. A property or parameter of one name means the same everywhere, so most is defined by name.

use crate::{
    api::view::COARSE_WORDS,
    model::{
        event_types::TYPES,
        peering::{MAX_DESCRIPTION, MAX_NAME, MAX_TAG, MAX_TAGS, STATE_WORDS},
        prefixes::MAX_PREFIXES,
        token,
        vpc::MAX_NAME as MAX_VPC_NAME,
        webhook::MAX_URL,
    },
};
use cps_peering_config::{id::MAX_ID_LEN, quota::Kind};
use serde_json::{Map, Value, json};

/// An example of each operation by its id: `body` of the request, `result` of the response; other keys are media types of responses.
const EXAMPLES: &str = include_str!("examples.json");
/// The request id in examples.
const REQUEST_ID: &str = "c0ffee0123456789c0ffee0123456789";

/// How many filters, and values of one, are described as parameters of their own; the API accepts any number.
const FILTERS: u32 = 2;

const ID: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$";
/// The same where an empty text counts as absent.
const ID_OR_EMPTY: &str = "^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$";
const CIDR: &str = "^[0-9A-Fa-f:.]+/[0-9]{1,3}$";
const AMOUNT: &str = "^([0-9]+(\\.[0-9]+)?)?$";

fn id(example: &str) -> Value {
    json!({ "pattern": ID, "maxLength": MAX_ID_LEN, "example": example })
}

fn ids(example: &str) -> Value {
    json!({ "items": { "pattern": ID, "maxLength": MAX_ID_LEN }, "example": [example] })
}

fn words(words: &[&str]) -> Value {
    json!({ "enum": words })
}

fn event_types() -> Vec<&'static str> {
    TYPES.iter().map(|(word, _)| *word).collect()
}

fn kinds(all: bool) -> Vec<&'static str> {
    Kind::ALL.into_iter().filter(|kind| all || *kind != Kind::PeeringRequest).map(Kind::word).collect()
}

/// The schema of a property beyond its type.
fn property(schema: &str, name: &str) -> Option<Value> {
    let time = || json!({ "format": "date-time", "example": "2026-03-02T08:15:30Z" });
    let charge = || words(&["normal", "overdue", "arrear"]);
    let body = schema.ends_with("Body") || schema.ends_with("Spec");
    Some(match (schema, name) {
        (_, "requestId") => json!({ "pattern": "^[0-9a-f]{32}$", "example": REQUEST_ID }),
        ("ErrorContent", "code") => json!({ "minimum": 400, "maximum": 599, "example": 404 }),
        ("ErrorContent", "status") => words(&[
            "INVALID_ARGUMENT",
            "FAILED_PRECONDITION",
            "UNAUTHENTICATED",
            "HTTP_FORBIDDEN",
            "NOT_FOUND",
            "METHOD_NOT_ALLOWED",
            "DEADLINE_EXCEEDED",
            "ALREADY_EXISTS",
            "ABORTED",
            "REQUEST_TOO_LARGE",
            "QUOTA_EXCEEDED",
            "RATE_LIMIT",
            "INTERNAL",
            "UNAVAILABLE",
        ]),
        ("Detail", "entry") => json!({ "example": "vpcPeeringId" }),
        ("Detail", "reason") => json!({ "example": "VpcPeerNotFound" }),
        ("ErrorContent", "message") | ("Detail", "rule") => {
            json!({ "example": "there is no peering vpcpr-0a1b2c3d4e" })
        }

        (
            _,
            "createdTime" | "createTime" | "activatedTime" | "expiredTime" | "lastConfirmed" | "lastReport"
            | "last_report" | "sampledAt" | "certificateExpires" | "chargeStartTime" | "chargeRetireTime"
            | "lastDelivered" | "nextAttempt",
        )
        | ("EventView" | "SampleView" | "TrailEntry", "time")
        | ("ClockView", "time" | "passed")
        | ("Line", "from" | "to") => time(),

        ("CreatePeeringBody", "remoteRegionId") => json!({ "pattern": ID_OR_EMPTY, "example": "cn-east-2" }),
        ("CreatePeeringBody", "remoteAccountId") => json!({ "pattern": ID_OR_EMPTY, "example": "account-2" }),
        ("CidrSpec", "vpcId" | "subnetId") => json!({ "pattern": ID_OR_EMPTY, "example": "vpc-av8hdcp9dj" }),
        (_, "vpcId" | "subnetId") => id("vpc-av8hdcp9dj"),
        (_, "remoteVpcId") => id("vpc-8bdueclu5p"),
        (_, "vpcPeeringId") => id("vpcpr-0a1b2c3d4e"),
        (_, "regionId" | "region") => id("cn-north-1"),
        (_, "remoteRegionId") => id("cn-east-2"),
        (_, "accountId") => id("account-1"),
        (_, "host" | "hostId") => id("h1"),
        (_, "blockedAccounts" | "accountIds") => ids("account-3"),
        ("WhoAmI", "regions") => ids("cn-north-1"),
        ("Unconfirmed", "hosts") | (_, "missingHosts") => ids("h1"),
        ("Unconfirmed", "draining") => ids("vpcpr-0a1b2c3d4e"),
        (_, "secondaryCidrId") => json!({ "pattern": "^cidr-[0-9a-f]{10}$", "example": "cidr-3c504ae87e" }),
        (_, "routeTableId") => json!({ "example": "rtb-vpc-av8hdcp9dj" }),
        (_, "routeTableIds") => json!({ "example": ["rtb-vpc-av8hdcp9dj"] }),

        (_, "cidr" | "destinationCidr" | "vpcCidr" | "ipv6Cidr") | ("VpcView", "addressPrefix") => {
            json!({ "pattern": CIDR, "example": if name == "ipv6Cidr" { "fd43:50bd:920b::/48" } else { "10.1.0.0/16" } })
        }
        (_, "exportPrefixes" | "importPrefixes" | "remoteExportPrefixes" | "remoteImportPrefixes") if body => {
            json!({ "items": { "pattern": CIDR }, "maxItems": MAX_PREFIXES, "example": ["10.1.0.0/24"] })
        }
        (_, "exportPrefixes" | "importPrefixes" | "effectivePrefixes" | "ownPrefixes" | "remotePrefixes") => {
            json!({ "items": { "pattern": CIDR }, "example": ["10.1.0.0/24"] })
        }
        (_, "cidrs" | "addressPrefix") => json!({ "items": { "pattern": CIDR }, "example": ["10.1.0.0/16"] }),
        (_, "vpcPeeringName") if body => json!({ "minLength": 1, "maxLength": MAX_NAME, "example": "web-to-db" }),
        (_, "vpcPeeringName") => json!({ "example": "web-to-db" }),
        ("VpcSpec" | "ModifyVpcBody", "name") => json!({ "minLength": 1, "maxLength": MAX_VPC_NAME, "example": "web" }),
        (_, "description" | "message") if body => json!({ "maxLength": MAX_DESCRIPTION }),
        ("TagBody", "key") => json!({ "minLength": 1, "maxLength": MAX_TAG, "example": "team" }),
        ("TagBody", "value") => json!({ "maxLength": MAX_TAG, "example": "net" }),
        ("CreateWebhookBody" | "ModifyWebhookBody", "url") => json!({
            "minLength": 1, "maxLength": MAX_URL, "example": "https://hooks.example.com/peerings",
        }),
        ("CreateWebhookBody" | "ModifyWebhookBody", "types") => {
            json!({ "items": { "enum": event_types() }, "uniqueItems": false })
        }
        (_, "webhookId") => json!({ "example": "wh-0a1b2c3d4e5f6071" }),
        ("WebhookView", "state") => words(&["working", "failing", "disabled"]),
        (_, "userTags") => json!({ "maxItems": MAX_TAGS }),
        (_, "clientToken") => json!({
            "minLength": 1, "maxLength": token::MAX, "example": "5f0c3f52-0d0c-4a5e-9b0f-1d4f5a0c7e21",
        }),
        ("BandwidthBody" | "LimitBody", "bandwidth") => json!({ "minimum": 1, "example": 100 }),
        (_, "bandwidth") => json!({ "example": 100 }),

        ("PeeringView", "state") => words(&STATE_WORDS),
        (_, "vpcPeeringState") => words(&COARSE_WORDS),
        ("PeeringView" | "EventView", "role") => words(&["initiator", "receiver"]),
        ("WhoAmI", "role") => words(&["account", "operator"]),
        ("WhoAmI", "operatorRole") => words(&["read", "operate", "admin"]),
        (_, "chargeStatus") => charge(),
        (_, "chargeMode") => words(&["postpaid_by_duration"]),
        ("Deleted" | "DeletedForBoth", "state") => words(&["deleted", "draining"]),
        ("RouteView", "nextHopType") => words(&["vpc_peering"]),
        ("RuleView", "nextHopType") => words(&["local", "vpc_peering"]),
        ("Finding", "verdict") => words(&["ok", "warning", "failure"]),
        ("QuotaContent", "type") => words(&kinds(true)),
        ("QuotaBody", "type") => words(&kinds(false)),
        (_, "perMbitHour" | "amount" | "total") if schema != "TrafficView" => json!({ "pattern": AMOUNT }),
        (_, "currency") => json!({ "example": "CNY" }),
        ("HostView", "agent") => json!({ "format": "uri", "example": "https://192.0.2.1:8444" }),
        ("HostView", "underlay") => json!({ "example": "192.0.2.1" }),
        (_, "outBytes" | "inBytes" | "outPackets" | "inPackets" | "outDrops") => json!({ "example": 1500 }),
        (_, "pageNumber" | "pageSize") => json!({ "minimum": 1 }),
        _ => return None,
    })
}

/// A parameter of an operation: a part of its schema, and its description if its handler has none.
fn parameter(operation: &str, name: &str, in_query: bool) -> (Value, &'static str) {
    let id = |example| json!({ "pattern": if in_query { ID_OR_EMPTY } else { ID }, "maxLength": MAX_ID_LEN, "example": example });
    let quota = operation.to_ascii_lowercase().contains("quota");
    match name {
        "regionId" => (id("cn-north-1"), "The region."),
        "vpcPeeringId" => (id("vpcpr-0a1b2c3d4e"), "The peering's id."),
        // An invalid id belongs to no VPC: nothing is found.
        "vpcId" if in_query => (json!({ "example": "vpc-av8hdcp9dj" }), "Only entries of this VPC."),
        "vpcId" => (id("vpc-av8hdcp9dj"), "The VPC's id."),
        "subnetId" => (json!({ "example": "vpc-av8hdcp9dj" }), "The same again: a VPC has exactly one subnet, itself."),
        "secondaryCidrId" => (json!({ "example": "cidr-3c504ae87e" }), "The id of the secondary CIDR."),
        "routeTableId" => (json!({ "example": "rtb-vpc-av8hdcp9dj" }), "The id of the route table."),
        "accountId" => (id("account-3"), "The account's id."),
        "account" => (id("account-1"), "Only entries that concern this account."),
        "webhookId" => (json!({ "example": "wh-0a1b2c3d4e5f6071" }), "The webhook's id."),
        "accessKey" => (json!({ "example": "JDC_19A3C15CF98822E31E757339C593" }), "The access key."),
        "tokenId" => (json!({ "example": "account-1-dev" }), "The id of the token, which is not the token."),
        "host" => (id("h1"), "The host's id."),
        "by" => (id("h2"), ""),
        "peering" => (json!({ "example": "web-to-db" }), "The id of the peering, or its name."),
        "name" => (json!({ "example": "web" }), "Only entries with this name."),
        "pageNumber" => (json!({ "default": 1, "example": 1 }), "The page number, from 1."),
        "pageSize" => (json!({ "default": 20, "example": 20 }), "Entries per page."),
        "sort" => (words(&["createdTime", "-createdTime", "name", "-name"]), ""),
        "type" if quota => (words(&kinds(operation == "describeQuota")), "The quota's type; by default peerings."),
        "range" => (json!({ "enum": ["1h", "24h", "7d", "30d"], "default": "1h" }), ""),
        "format" => (json!({ "enum": ["json", "csv"], "default": "json" }), ""),
        "limit" => (json!({ "default": 100, "example": 100 }), "Maximum number of entries."),
        "wait" => {
            (json!({ "default": 0, "example": 20 }), "How long to wait for an event if there is none yet, in seconds.")
        }
        "before" => (json!({ "example": 4711 }), "Only entries with lower numbers; the last one of the previous page."),
        "request" => (json!({ "example": REQUEST_ID }), "Only entries of this request."),
        "after" => (
            Value::Null,
            "`nextAfter` of the previous response, an event's `id`, or `latest`; by default the oldest event is the first.",
        ),
        "from" => (Value::Null, "Start: a time with its offset (RFC 3339), or a date in the time zone of bills."),
        "to" => (Value::Null, "End (exclusive), likewise."),
        "dryRun" => {
            (json!({ "default": false, "example": true }), "Return what would change, without changing anything.")
        }
        "prune" => (
            json!({ "default": false }),
            "Remove what the same inventory has created and the document no longer contains.",
        ),
        "adopt" | "dead" => (json!({ "example": false }), ""),
        "confirm" => (json!({ "example": 2 }), ""),
        "ifRevision" | "revision" => (json!({ "example": "1.42", "pattern": "^([0-9]+\\.)?[0-9]+$" }), ""),
        _ => (Value::Null, ""),
    }
}

/// Adds known facts to a schema. If null is allowed, it is one of the values of an enum.
fn merge(schema: &mut Map<String, Value>, known: Value) {
    let Value::Object(known) = known else { return };
    let nullable = schema.get("type").and_then(Value::as_array).is_some_and(|types| types.contains(&json!("null")));
    for (key, mut value) in known {
        if let (Some(Value::Object(inner)), Value::Object(_)) = (schema.get_mut(&key), &value) {
            merge(inner, value);
            continue;
        }
        if let (true, "enum", Value::Array(words)) = (nullable, key.as_str(), &mut value) {
            words.push(Value::Null);
        }
        schema.insert(key, value);
    }
}

/// The names of an operation's filters.
fn filters(operation: &str) -> &'static [&'static str] {
    match operation {
        "describeVpcPeerings" => {
            &["vpcPeeringIds", "vpcPeeringNames", "vpcId", "remoteVpcId", "state", "role", "prefixScoped"]
        }
        "describeVpcs" => &["vpcId", "vpcIds", "vpcNames"],
        "describeRouteTables" => &["routeTableId", "routeTableIds", "routeTableNames", "vpcId", "vpcIds"],
        _ => &[],
    }
}

/// The parameters of filters and tags, in JD Cloud's form.
fn filter_parameters(operation: &str) -> Vec<Value> {
    let names = filters(operation);
    let mut parameters = Vec::new();
    let mut add = |name: String, description: &str, schema: Value| {
        parameters.push(json!({
            "name": name, "in": "query", "required": false, "description": description, "schema": schema,
        }));
    };
    for number in (1..=FILTERS).filter(|_| !names.is_empty()) {
        let text = "The field to filter by; entries match all filters. Several may be given, with consecutive numbers.";
        add(format!("filters.{number}.name"), text, json!({ "type": "string", "enum": names }));
        for value in 1..=FILTERS {
            let text = "An accepted value. Several may be given, with consecutive numbers.";
            add(format!("filters.{number}.values.{value}"), text, json!({ "type": "string" }));
        }
    }
    for number in (1..=FILTERS).filter(|_| operation == "describeVpcPeerings") {
        let text = "A key of the caller's own tags; entries have all keys that are given.";
        add(format!("tags.{number}.key"), text, json!({ "type": "string", "example": "team" }));
        let text = "An accepted value; without one, any is accepted.";
        add(format!("tags.{number}.values.1"), text, json!({ "type": "string", "example": "net" }));
    }
    parameters
}

fn object<'a>(value: &'a mut Value, pointer: &str) -> Option<&'a mut Map<String, Value>> {
    value.pointer_mut(pointer).and_then(Value::as_object_mut)
}

fn complete_schemas(document: &mut Value) {
    let Some(schemas) = object(document, "/components/schemas") else { return };
    let names: Vec<String> = schemas.keys().cloned().collect();
    for (name, schema) in schemas.iter_mut() {
        let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
        for (key, value) in properties.into_iter().flatten() {
            let Some(value) = value.as_object_mut() else { continue };
            // OpenAPI's int32 is signed, so an unsigned 32-bit number does not fit.
            if value.get("format") == Some(&json!("int32")) && value.get("minimum") == Some(&json!(0)) {
                merge(value, json!({ "format": "int64", "maximum": u32::MAX }));
            }
            if let Some(known) = property(name, key) {
                merge(value, known);
            }
        }
        // The content of an envelope is described once.
        let inner = name.strip_prefix("Envelope_").filter(|inner| names.iter().any(|name| name == inner));
        if let (Some(inner), Some(result)) = (inner, schema.pointer_mut("/properties/result")) {
            *result = json!({ "$ref": format!("#/components/schemas/{inner}") });
        }
    }
}

fn complete_operation(operation: &mut Map<String, Value>, example: Option<&Value>) {
    let id = operation.get("operationId").and_then(Value::as_str).unwrap_or_default().to_owned();
    let summary = operation.get("summary").and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
    let more = operation.get("description").and_then(Value::as_str).unwrap_or_default();
    let description = if more.is_empty() { summary.clone() } else { format!("{summary}\n\n{more}") };
    // The first sentence is enough in a list.
    let first = summary.split_inclusive(". ").next().unwrap_or_default().trim_end().trim_end_matches('.').to_owned();
    operation.insert("summary".to_owned(), first.into());
    operation.insert("description".to_owned(), description.into());
    let mut parameters = match operation.remove("parameters") {
        Some(Value::Array(parameters)) => parameters,
        _ => Vec::new(),
    };
    for it in &mut parameters {
        let Some(name) = it.get("name").and_then(Value::as_str).map(str::to_owned) else { continue };
        let (known, description) = parameter(&id, &name, it["in"] == "query");
        if it.get("description").and_then(Value::as_str).is_none_or(str::is_empty) && !description.is_empty() {
            it["description"] = description.into();
        }
        if let Some(schema) = it.get_mut("schema").and_then(Value::as_object_mut) {
            merge(schema, known);
        }
    }
    parameters.extend(filter_parameters(&id));
    if !parameters.is_empty() {
        operation.insert("parameters".to_owned(), parameters.into());
    }
    let Some(example) = example else { return };
    let request = operation.get_mut("requestBody").and_then(|body| body.pointer_mut("/content/application~1json"));
    if let (Some(request), Some(body)) = (request, example.get("body")) {
        request["example"] = body.clone();
    }
    let Some(success) = operation.get_mut("responses").and_then(|it| it.get_mut("200")) else { return };
    success["description"] = "Success.".into();
    for (media_type, content) in success.get_mut("content").and_then(Value::as_object_mut).into_iter().flatten() {
        content["example"] = match media_type.as_str() {
            "application/json" => json!({ "requestId": REQUEST_ID, "result": example.get("result") }),
            other => example.get(other).cloned().unwrap_or_default(),
        };
    }
}

/// Completes the document that is generated from the handlers' types.
pub(super) fn complete(document: &mut Value) {
    document["servers"] = json!([{ "url": "/", "description": "The controller that serves this document." }]);
    document["info"]["contact"] = json!({ "name": "Who runs this cloud" });
    document["tags"] = json!([
        { "name": "peerings", "description": "Peerings between VPCs: request, accept, change, delete." },
        { "name": "VPCs", "description": "VPCs of an account, their CIDRs and route tables." },
        { "name": "events", "description": "Events in order: polled, streamed, or delivered to webhooks." },
        { "name": "account", "description": "The caller's account: identity, bills, audit trail, blocked accounts." },
        { "name": "operators", "description": "For those who run the cloud." },
    ]);
    complete_schemas(document);
    let examples: Value = serde_json::from_str(EXAMPLES).unwrap_or_default();
    let paths = object(document, "/paths").into_iter().flat_map(|paths| paths.values_mut());
    for operation in paths.filter_map(Value::as_object_mut).flat_map(|methods| methods.values_mut()) {
        let example = operation.get("operationId").and_then(Value::as_str).and_then(|id| examples.get(id)).cloned();
        if let Some(operation) = operation.as_object_mut() {
            complete_operation(operation, example.as_ref());
        }
    }
    if let Some(answer) = object(document, "/components/schemas/ErrorAnswer") {
        let error = json!({
            "code": 404, "status": "NOT_FOUND", "message": "there is no peering vpcpr-0a1b2c3d4e",
            "details": [{ "entry": "vpcPeeringId", "rule": "there is no peering vpcpr-0a1b2c3d4e", "reason": "VpcPeerNotFound" }],
        });
        answer.insert("example".to_owned(), json!({ "requestId": REQUEST_ID, "error": error }));
    }
}
