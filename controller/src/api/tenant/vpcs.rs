//! VPCs of an account, their CIDRs and route tables.

#![allow(clippy::struct_field_names, reason = "JD Cloud chose the names")]

use crate::{
    api::{
        json::not_empty,
        page::{self, Listed, Page, Place, Sort},
        query::Parameters,
        request::Regional,
        response::{Envelope, Errors, Failure, Nothing, Reply, reply},
        view::{self, RouteTableView, VpcView},
    },
    digest,
    model::{
        Code, Command, CommandError, Outcome,
        record::{Made, Vpc},
        vpc::{Cidr, Create, Locator, Modify, cidr_key},
    },
};
use axum::{body::Bytes, extract::RawQuery};
use cps_peering_config::{
    id::VpcId,
    net::prefix,
    text::{MAX_QUOTED, cut},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

/// Request to create a VPC.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct CreateVpcBody {
    /// The VPC to create.
    vpc_spec: VpcSpec,
    /// A request with a token that was used before returns the first result.
    client_token: Option<String>,
}

/// The VPC to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VpcSpec {
    /// Its CIDR, for instance `10.1.0.0/16`.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "prefix::one")]
    cidr: IpNet,
    /// 1 to 60 printable characters.
    name: String,
    /// At most 256 characters.
    description: Option<String>,
    /// `yes` or `no`: whether the VPC also gets a /48 of unique local IPv6 addresses.
    enable_ipv6: Option<YesOrNo>,
}

/// `yes` or `no`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum YesOrNo {
    Yes,
    No,
}

/// Request to change the name, description or deletion protection of a VPC.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct ModifyVpcBody {
    /// 1 to 60 printable characters.
    name: Option<String>,
    /// At most 256 characters.
    description: Option<String>,
    /// Deletion protection: the account must end it before it can delete the VPC.
    deletion_protection: Option<bool>,
    /// A request with a token that was used before returns the first result.
    client_token: Option<String>,
}

/// Request to add a secondary CIDR.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct AddCidrBody {
    /// The CIDR to add.
    secondary_cidr_spec: CidrSpec,
    /// A request with a token that was used before returns the first result.
    client_token: Option<String>,
}

/// The secondary CIDR to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CidrSpec {
    /// The VPC.
    #[schema(value_type = Option<String>)]
    #[serde(default, deserialize_with = "not_empty")]
    vpc_id: Option<VpcId>,
    /// The same again: a VPC has exactly one subnet, itself.
    #[schema(value_type = Option<String>)]
    #[serde(default, deserialize_with = "not_empty")]
    subnet_id: Option<VpcId>,
    /// The CIDR, IPv4 or IPv6.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "prefix::one")]
    cidr: IpNet,
    /// Accepted and ignored.
    #[serde(rename = "name")]
    _name: Option<String>,
}

/// The VPC that was created.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct MadeVpc {
    vpc_id: String,
}

/// One VPC.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct OneVpc {
    vpc: VpcView,
}

/// A page of VPCs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct Vpcs {
    vpcs: Vec<VpcView>,
    page_number: usize,
    page_size: usize,
    total_count: usize,
    /// The `marker` of the next page; none on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

/// A secondary CIDR of a VPC.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct SecondaryCidr {
    secondary_cidr_id: String,
    cidr: String,
    region: String,
    subnet_id: String,
    vpc_id: String,
    vpc_name: String,
    /// The first CIDR of the VPC.
    vpc_cidr: String,
}

/// The secondary CIDRs of VPCs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct SecondaryCidrs {
    secondary_cidrs: Vec<SecondaryCidr>,
}

/// The secondary CIDR that was added.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct AddedCidr {
    secondary_cidr_id: String,
}

/// One route table.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct OneTable {
    route_table: RouteTableView,
}

/// A page of route tables.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct Tables {
    route_tables: Vec<RouteTableView>,
    page_number: usize,
    page_size: usize,
    total_count: usize,
    /// The `marker` of the next page; none on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

fn place(vpc: &Vpc) -> Place {
    Place { created_ms: vpc.created_ms, name: vpc.name.clone(), id: vpc.id.to_string() }
}

fn missing(entry: &str, what: &str, id: &str, reason: &'static str) -> Failure {
    CommandError::one(Code::NotFound, entry, format!("there is no {what} {}", cut(id, MAX_QUOTED)), reason).into()
}

fn vpc_made(outcome: Outcome) -> Result<VpcId, Failure> {
    match outcome {
        Outcome::Made(Made::Vpc(id)) => Ok(id),
        other => Err(Failure::internal(format!("the command led to {other:?}"))),
    }
}

impl Regional {
    fn locate_vpc(&self) -> Result<Locator, Failure> {
        let id = self.path("vpcId");
        let id = id.parse().map_err(|_| missing("vpcId", "VPC", id, "VpcNotFound"))?;
        Ok(Locator { region: Some(self.region.clone()), id })
    }

    /// Whether a secondary CIDR belonged to one of the account's VPCs in the region: deleting it again is no error.
    fn has_deleted_cidr(&self, wanted: &str) -> bool {
        let now_ms = self.context.api.engine.now_ms();
        self.context.api.engine.read(|state, _| {
            let account = state.accounts().get(&self.account);
            account
                .into_iter()
                .flat_map(|account| &account.deleted)
                .any(|(key, it)| it.region == self.region && it.forget_ms > now_ms && id_of_cidr(key) == wanted)
        })
    }

    /// The account's VPCs in the region for which `look` returns something.
    fn vpcs<T>(&self, mut look: impl FnMut(&crate::model::state::State, &Vpc) -> Option<T>) -> Vec<T> {
        self.context.api.engine.read(|state, _| {
            let own = state.vpcs_of(&self.account).filter(|vpc| vpc.region == self.region);
            own.filter_map(|vpc| look(state, vpc)).collect()
        })
    }
}

/// Create a VPC.
#[utoipa::path(put, path = "/v1/regions/{regionId}/vpcs", tag = "VPCs", operation_id = "createVpc",
    params(("regionId" = String, Path)), request_body = CreateVpcBody,
    responses((status = 200, body = Envelope<MadeVpc>), Errors))]
pub(in crate::api) async fn create(regional: Regional, body: Bytes) -> Reply {
    let body: CreateVpcBody = regional.body(&body)?;
    let spec = body.vpc_spec;
    let command = Command::CreateVpc(Create {
        account: regional.account.clone(),
        region: regional.region.clone(),
        name: spec.name,
        description: spec.description.unwrap_or_default(),
        cidr: spec.cidr,
        ipv6: spec.enable_ipv6 == Some(YesOrNo::Yes),
    });
    let id = vpc_made(regional.context.execute(command, body.client_token).await?)?;
    reply(MadeVpc { vpc_id: id.to_string() })
}

/// List the account's VPCs in a region.
#[utoipa::path(get, path = "/v1/regions/{regionId}/vpcs", tag = "VPCs", operation_id = "describeVpcs",
    params(("regionId" = String, Path), ("name" = Option<String>, Query),
        ("pageNumber" = Option<u32>, Query, minimum = 1), ("pageSize" = Option<u32>, Query, minimum = 1, maximum = 100),
        ("marker" = Option<String>, Query, description = "The `nextMarker` of the previous page, instead of a page number"),
        ("sort" = Option<String>, Query, example = "name",
            description = "`createdTime` or `name`; with `-` before it, in descending order")),
    responses((status = 200, body = Envelope<Vpcs>), Errors))]
pub(in crate::api) async fn list(regional: Regional, RawQuery(query): RawQuery) -> Reply {
    let known = [&page::PARAMETERS[..], &["name"]].concat();
    let parameters = Parameters::read(query.as_deref(), &known, &["vpcId", "vpcIds", "vpcNames"])?;
    let page = Page::read(&parameters, Sort::Id)?;
    let vpcs = regional.vpcs(|_, vpc| {
        let wanted = parameters.get("name").is_none_or(|name| vpc.name == name)
            && parameters.lets_through("vpcId", &[vpc.id.as_str()])
            && parameters.lets_through("vpcIds", &[vpc.id.as_str()])
            && parameters.lets_through("vpcNames", &[&vpc.name]);
        wanted.then(|| (place(vpc), view::vpc(vpc)))
    });
    let Listed { entries: vpcs, total: total_count, next: next_marker } = page.of(vpcs);
    reply(Vpcs { vpcs, page_number: page.number(), page_size: page.size, total_count, next_marker })
}

/// Show a VPC.
#[utoipa::path(get, path = "/v1/regions/{regionId}/vpcs/{vpcId}", tag = "VPCs", operation_id = "describeVpc",
    params(("regionId" = String, Path), ("vpcId" = String, Path)),
    responses((status = 200, body = Envelope<OneVpc>), Errors))]
pub(in crate::api) async fn show(regional: Regional) -> Reply {
    let Locator { id, .. } = regional.locate_vpc()?;
    let found = regional.vpcs(|_, vpc| (vpc.id == id).then(|| view::vpc(vpc)));
    match found.into_iter().next() {
        Some(vpc) => reply(OneVpc { vpc }),
        None => Err(missing("vpcId", "VPC", id.as_str(), "VpcNotFound")),
    }
}

/// Change the name and description of a VPC.
#[utoipa::path(post, path = "/v1/regions/{regionId}/vpcs/{vpcId}", tag = "VPCs", operation_id = "modifyVpc",
    params(("regionId" = String, Path), ("vpcId" = String, Path)), request_body = Option<ModifyVpcBody>,
    responses((status = 200, body = Envelope<Nothing>), Errors))]
pub(in crate::api) async fn modify(regional: Regional, body: Bytes) -> Reply {
    let body: ModifyVpcBody = regional.body(&body)?;
    let which = regional.locate_vpc()?;
    let command = Command::ModifyVpc(Modify {
        which,
        name: body.name,
        description: body.description,
        protected: body.deletion_protection,
    });
    regional.context.execute(command, body.client_token).await?;
    reply(json!({}))
}

/// Delete a VPC that has no ports and no peerings.
#[utoipa::path(delete, path = "/v1/regions/{regionId}/vpcs/{vpcId}", tag = "VPCs", operation_id = "deleteVpc",
    params(("regionId" = String, Path), ("vpcId" = String, Path)),
    responses((status = 200, body = Envelope<Nothing>), Errors))]
pub(in crate::api) async fn delete(regional: Regional) -> Reply {
    let which = regional.locate_vpc()?;
    regional.context.execute(Command::DeleteVpc(which), None).await?;
    reply(json!({}))
}

/// The id of a secondary CIDR, derived from VPC and CIDR.
fn cidr_id(vpc: &VpcId, cidr: &IpNet) -> String {
    id_of_cidr(&cidr_key(vpc, cidr))
}

fn id_of_cidr(key: &str) -> String {
    let hash = digest::sha256(key.as_bytes());
    format!("cidr-{}", digest::hex(&hash[..5]))
}

fn secondary(vpc: &Vpc) -> Vec<SecondaryCidr> {
    let first = vpc.cidrs.first().map(ToString::to_string).unwrap_or_default();
    let further = vpc.cidrs.iter().skip(1);
    further
        .map(|cidr| SecondaryCidr {
            secondary_cidr_id: cidr_id(&vpc.id, cidr),
            cidr: cidr.to_string(),
            region: vpc.region.to_string(),
            subnet_id: vpc.id.to_string(),
            vpc_id: vpc.id.to_string(),
            vpc_name: vpc.name.clone(),
            vpc_cidr: first.clone(),
        })
        .collect()
}

/// List the secondary CIDRs of VPCs.
#[utoipa::path(get, path = "/v1/regions/{regionId}/secondaryCidrs", tag = "VPCs",
    operation_id = "describeSecondaryCidrs",
    params(("regionId" = String, Path), ("subnetId" = Option<String>, Query), ("vpcId" = Option<String>, Query)),
    responses((status = 200, body = Envelope<SecondaryCidrs>), Errors))]
pub(in crate::api) async fn list_cidrs(regional: Regional, RawQuery(query): RawQuery) -> Reply {
    let parameters = Parameters::read(query.as_deref(), &["subnetId", "vpcId"], &[])?;
    let of = |name: &str, vpc: &Vpc| parameters.get(name).is_none_or(|id| vpc.id.as_str() == id);
    let lists = regional.vpcs(|_, vpc| (of("subnetId", vpc) && of("vpcId", vpc)).then(|| secondary(vpc)));
    reply(SecondaryCidrs { secondary_cidrs: lists.into_iter().flatten().collect() })
}

/// Add a secondary CIDR to a VPC. Route policies of its peerings follow.
#[utoipa::path(put, path = "/v1/regions/{regionId}/secondaryCidrs", tag = "VPCs", operation_id = "createSecondaryCidr",
    params(("regionId" = String, Path)), request_body = AddCidrBody,
    responses((status = 200, body = Envelope<AddedCidr>), Errors))]
pub(in crate::api) async fn add_cidr(regional: Regional, body: Bytes) -> Reply {
    let body: AddCidrBody = regional.body(&body)?;
    let spec = body.secondary_cidr_spec;
    let Some(id) = spec.vpc_id.or(spec.subnet_id) else {
        return Err(Failure::field("secondaryCidrSpec.vpcId", "missing"));
    };
    let which = Locator { region: Some(regional.region.clone()), id };
    let command = Command::AddCidr(Cidr { which, cidr: spec.cidr });
    let id = vpc_made(regional.context.execute(command, body.client_token).await?)?;
    reply(AddedCidr { secondary_cidr_id: cidr_id(&id, &spec.cidr) })
}

/// Remove a secondary CIDR that no port needs.
#[utoipa::path(delete, path = "/v1/regions/{regionId}/secondaryCidrs/{secondaryCidrId}", tag = "VPCs",
    operation_id = "deleteSecondaryCidr", params(("regionId" = String, Path), ("secondaryCidrId" = String, Path)),
    responses((status = 200, body = Envelope<Nothing>), Errors))]
pub(in crate::api) async fn remove_cidr(regional: Regional) -> Reply {
    let wanted = regional.path("secondaryCidrId");
    let found = regional.vpcs(|_, vpc| {
        let cidr = vpc.cidrs.iter().skip(1).find(|cidr| cidr_id(&vpc.id, cidr) == wanted)?;
        Some((vpc.id.clone(), *cidr))
    });
    let Some((id, cidr)) = found.into_iter().next() else {
        if regional.has_deleted_cidr(wanted) {
            return reply(json!({}));
        }
        return Err(missing("secondaryCidrId", "secondary CIDR", wanted, "CidrNotFound"));
    };
    let which = Locator { region: Some(regional.region.clone()), id };
    regional.context.execute(Command::RemoveCidr(Cidr { which, cidr }), None).await?;
    reply(json!({}))
}

/// List the route tables of the account's VPCs. Routes are managed automatically.
#[utoipa::path(get, path = "/v1/regions/{regionId}/routeTables", tag = "VPCs", operation_id = "describeRouteTables",
    params(("regionId" = String, Path), ("name" = Option<String>, Query), ("vpcId" = Option<String>, Query),
        ("pageNumber" = Option<u32>, Query, minimum = 1), ("pageSize" = Option<u32>, Query, minimum = 1, maximum = 100),
        ("marker" = Option<String>, Query, description = "The `nextMarker` of the previous page, instead of a page number"),
        ("sort" = Option<String>, Query, example = "name",
            description = "`createdTime` or `name`; with `-` before it, in descending order")),
    responses((status = 200, body = Envelope<Tables>), Errors))]
pub(in crate::api) async fn list_tables(regional: Regional, RawQuery(query): RawQuery) -> Reply {
    let known = [&page::PARAMETERS[..], &["name", "vpcId"]].concat();
    let filters = ["routeTableId", "routeTableIds", "routeTableNames", "vpcId", "vpcIds"];
    let parameters = Parameters::read(query.as_deref(), &known, &filters)?;
    let page = Page::read(&parameters, Sort::Id)?;
    let tables = regional.vpcs(|state, vpc| {
        let table = view::route_table_id(vpc);
        let wanted = parameters.get("name").is_none_or(|name| vpc.name == name)
            && parameters.get("vpcId").is_none_or(|id| vpc.id.as_str() == id)
            && ["routeTableId", "routeTableIds"].iter().all(|filter| parameters.lets_through(filter, &[&table]))
            && parameters.lets_through("routeTableNames", &[&vpc.name])
            && ["vpcId", "vpcIds"].iter().all(|filter| parameters.lets_through(filter, &[vpc.id.as_str()]));
        wanted.then(|| (place(vpc), view::route_table(state, vpc)))
    });
    let Listed { entries: route_tables, total: total_count, next: next_marker } = page.of(tables);
    reply(Tables { route_tables, page_number: page.number(), page_size: page.size, total_count, next_marker })
}

/// Show the route table of a VPC.
#[utoipa::path(get, path = "/v1/regions/{regionId}/routeTables/{routeTableId}", tag = "VPCs",
    operation_id = "describeRouteTable", params(("regionId" = String, Path), ("routeTableId" = String, Path)),
    responses((status = 200, body = Envelope<OneTable>), Errors))]
pub(in crate::api) async fn show_table(regional: Regional) -> Reply {
    let id = regional.path("routeTableId");
    let found = regional.vpcs(|state, vpc| (view::route_table_id(vpc) == id).then(|| view::route_table(state, vpc)));
    match found.into_iter().next() {
        Some(route_table) => reply(OneTable { route_table }),
        None => Err(missing("routeTableId", "route table", id, "RouteTableNotFound")),
    }
}
