//! The description of the HTTP API, generated from the handlers.

mod details;

use super::{feed, operator, paths, response::ErrorAnswer, tenant, webhooks};
use axum::{
    body::Bytes,
    http::header,
    response::{IntoResponse as _, Response},
};
use std::sync::LazyLock;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "cps-peering",
        description = "VPC peering for bare-metal clouds. Tenants' calls speak JD Cloud's dialect: every answer is an \
            object with `requestId` and either `result` or `error`.",
    ),
    paths(
        tenant::peerings::create, tenant::peerings::list, tenant::peerings::show, tenant::peerings::modify,
        tenant::peerings::delete, tenant::peerings::accept, tenant::peerings::reject, tenant::peerings::set_bandwidth,
        tenant::peerings::set_prefixes,
        tenant::peerings::routes, tenant::peerings::traffic, tenant::peerings::quota,
        tenant::vpcs::create, tenant::vpcs::list, tenant::vpcs::show, tenant::vpcs::modify, tenant::vpcs::delete,
        tenant::vpcs::list_cidrs, tenant::vpcs::add_cidr, tenant::vpcs::remove_cidr,
        tenant::vpcs::list_tables, tenant::vpcs::show_table,
        feed::own, feed::all,
        paths::own, paths::any,
        webhooks::list_own, webhooks::create_own, webhooks::show_own, webhooks::modify_own, webhooks::delete_own,
        webhooks::list_all, webhooks::create_for_all, webhooks::show_for_all, webhooks::modify_for_all, webhooks::delete_for_all,
        tenant::account::whoami, tenant::account::regions, tenant::account::audit, tenant::account::blocked,
        tenant::metering::own, tenant::metering::prices, tenant::account::block, tenant::account::unblock,
        operator::inventory::apply, operator::inventory::inventory, operator::inventory::audit,
        operator::inventory::back_up,
        operator::hosts::hosts, operator::hosts::drain, operator::hosts::uncordon, operator::hosts::remove,
        operator::hosts::replace, operator::hosts::pause, operator::hosts::resume,
        operator::hosts::maintain, operator::hosts::end_maintenance,
        operator::clock::show, operator::clock::confirm, operator::diagnosis::diagnose,
        operator::diagnosis::snapshot, operator::diagnosis::metrics,
        operator::cluster::show, operator::cluster::release,
        operator::rollout::show, operator::rollout::continue_rollout, operator::rollout::stop,
        operator::peerings::list, operator::peerings::create, operator::peerings::show, operator::peerings::delete,
        operator::peerings::set_bandwidth, operator::peerings::set_prefixes, operator::peerings::routes, operator::peerings::traffic,
        operator::accounts::list, operator::accounts::create, operator::accounts::show, operator::accounts::add_key,
        operator::accounts::remove_key, operator::accounts::add_token, operator::accounts::remove_token,
        operator::accounts::charge, operator::accounts::metering, operator::accounts::set_quota, operator::accounts::reset_quota,
    ),
    components(schemas(ErrorAnswer)),
    modifiers(&Security),
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A token.")).build();
        let words = "JDCLOUD2-HMAC-SHA256 or JDCLOUD3-HMAC-SHA256, as JD Cloud's SDKs sign.";
        let signed = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("Authorization", words)));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        components.add_security_scheme("signature", signed);
        let none: [String; 0] = [];
        document.security =
            Some(vec![SecurityRequirement::new("bearer", none.clone()), SecurityRequirement::new("signature", none)]);
    }
}

/// Serves the description, which is generated once.
pub(super) async fn answer() -> Response {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());
    ([(header::CONTENT_TYPE, "application/json")], TEXT.clone()).into_response()
}

/// The description, in `OpenAPI` 3.1.
pub fn document() -> serde_json::Value {
    let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
    details::complete(&mut document);
    document
}
