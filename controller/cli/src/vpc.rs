//! VPCs of an account, and their route tables.

use super::{
    CliError,
    client::{Call, regional},
    complete,
    output::{cell, columns, elements, lines},
    session::{Session, said},
};
use clap::Subcommand;
use cps_peering_config::net::parse_prefix;
use ipnet::IpNet;
use reqwest::Method;
use serde_json::{Value, json};

#[derive(Subcommand, Clone)]
pub(super) enum Command {
    /// Create a VPC.
    Create {
        /// Primary CIDR, for instance 10.1.0.0/16.
        #[arg(long, value_parser = parse_prefix)]
        cidr: IpNet,
        /// Its name, 1 to 60 characters.
        #[arg(long)]
        name: String,
        /// What it is for, at most 256 characters.
        #[arg(long)]
        description: Option<String>,
        /// Also assign a /48 of unique local IPv6 addresses (RFC 4193).
        #[arg(long)]
        ipv6: bool,
    },
    /// List the account's VPCs in the region.
    List,
    /// Show a VPC.
    Show {
        /// Its id, or its name if that is unique.
        #[arg(add = complete::vpcs())]
        vpc: String,
    },
    /// Change the name or description of a VPC.
    Rename {
        /// Its id, or its name if that is unique.
        #[arg(add = complete::vpcs())]
        vpc: String,
        /// The new name, 1 to 60 characters.
        #[arg(required_unless_present = "description")]
        name: Option<String>,
        /// The new description, at most 256 characters.
        #[arg(long)]
        description: Option<String>,
    },
    /// Turn deletion protection of a VPC on or off.
    Protect {
        /// Its id, or its name if that is unique.
        #[arg(add = complete::vpcs())]
        vpc: String,
        /// Whether it is protected.
        #[arg(value_parser = ["on", "off"], default_value = "on")]
        state: String,
    },
    /// Delete a VPC that has no ports and no peerings.
    Delete {
        /// Its id, or its name if that is unique.
        #[arg(add = complete::vpcs())]
        vpc: String,
    },
    /// Add a secondary CIDR to a VPC. Its peers' routes are updated automatically.
    AddCidr {
        /// The VPC's id, or its name if that is unique.
        #[arg(add = complete::vpcs())]
        vpc: String,
        /// The CIDR, IPv4 or IPv6.
        #[arg(value_parser = parse_prefix)]
        cidr: IpNet,
    },
    /// Remove a secondary CIDR that no port uses.
    RemoveCidr {
        /// The VPC's id, or its name if that is unique.
        #[arg(add = complete::vpcs())]
        vpc: String,
        /// The CIDR.
        #[arg(value_parser = parse_prefix)]
        cidr: IpNet,
    },
}

#[derive(Subcommand, Clone)]
pub(super) enum Tables {
    /// List the route tables of the account's VPCs in the region.
    List {
        /// Only the route table of this VPC.
        #[arg(long, add = complete::vpcs())]
        vpc: Option<String>,
    },
    /// Show the routes of a route table.
    Show {
        /// Its id.
        route_table: String,
    },
}

const VPCS: [(&str, &str); 5] =
    [("ID", "/vpcId"), ("NAME", "/name"), ("REGION", "/region"), ("CIDRS", "/cidrs"), ("CREATED", "/createdTime")];

pub(super) async fn run(session: &Session, command: Command) -> Result<(), CliError> {
    let region = session.region().await?;
    let vpcs = || regional(&region, &["vpcs"]);
    let cidrs = || regional(&region, &["secondaryCidrs"]);
    match command {
        Command::Create { cidr, name, description, ipv6 } => {
            let enable_ipv6 = if ipv6 { "yes" } else { "no" };
            let spec = json!({ "cidr": cidr, "name": name, "description": description, "enableIpv6": enable_ipv6 });
            let made = session.call(Call::new(Method::PUT, vpcs()).body(json!({ "vpcSpec": said(spec) }))).await?;
            let id = cell(&made["vpcId"]);
            show(session, Call::get(regional(&region, &["vpcs", &id]))).await
        }
        Command::List => {
            let list = session.pages(|| Call::get(vpcs()), "vpcs", "vpcId").await?;
            let json = json!({ "vpcs": list, "totalCount": list.len() });
            session.print(&json, || columns(&VPCS, &list));
            Ok(())
        }
        Command::Show { vpc } => {
            let vpc = session.own_vpc(&region, &vpc).await?;
            show(session, Call::get(regional(&region, &["vpcs", &vpc]))).await
        }
        Command::Rename { vpc, name, description } => {
            let vpc = session.own_vpc(&region, &vpc).await?;
            let body = said(json!({ "name": name, "description": description }));
            session.call(Call::new(Method::POST, regional(&region, &["vpcs", &vpc])).body(body)).await?;
            show(session, Call::get(regional(&region, &["vpcs", &vpc]))).await
        }
        Command::Protect { vpc, state } => {
            let vpc = session.own_vpc(&region, &vpc).await?;
            let body = json!({ "deletionProtection": state == "on" });
            session.call(Call::new(Method::POST, regional(&region, &["vpcs", &vpc])).body(body)).await?;
            show(session, Call::get(regional(&region, &["vpcs", &vpc]))).await
        }
        Command::Delete { vpc } => {
            // Deleting it again works with its id only.
            let vpc = session.vpc_id(&region, &vpc).await?.unwrap_or(vpc);
            session.call(Call::new(Method::DELETE, regional(&region, &["vpcs", &vpc]))).await?;
            session.print(&json!({ "vpcId": vpc, "state": "deleted" }), || format!("{vpc} is deleted"));
            Ok(())
        }
        Command::AddCidr { vpc, cidr } => {
            let vpc = session.own_vpc(&region, &vpc).await?;
            let body = json!({ "secondaryCidrSpec": { "vpcId": vpc, "cidr": cidr } });
            session.call(Call::new(Method::PUT, cidrs()).body(body)).await?;
            show(session, Call::get(regional(&region, &["vpcs", &vpc]))).await
        }
        Command::RemoveCidr { vpc, cidr } => {
            let vpc = session.own_vpc(&region, &vpc).await?;
            let list = session.call(Call::get(cidrs()).with("vpcId", &vpc)).await?;
            let is_it = |it: &&Value| it["cidr"].as_str().and_then(|text| text.parse().ok()) == Some(cidr);
            let Some(found) = elements(&list["secondaryCidrs"]).iter().find(is_it) else {
                return Err(CliError::Refused(format!("{vpc} has no CIDR {cidr} beside its first one in {region}")));
            };
            let id = cell(&found["secondaryCidrId"]);
            session.call(Call::new(Method::DELETE, regional(&region, &["secondaryCidrs", &id]))).await?;
            show(session, Call::get(regional(&region, &["vpcs", &vpc]))).await
        }
    }
}

async fn show(session: &Session, call: Call<'_>) -> Result<(), CliError> {
    let answer = session.call(call).await?;
    let vpc = &answer["vpc"];
    session.print(vpc, || {
        lines(&[
            ("VPC", format!("{} ({})", cell(&vpc["vpcId"]), cell(&vpc["name"]))),
            ("region", cell(&vpc["region"])),
            ("CIDRs", cell(&vpc["cidrs"])),
            ("route table", cell(&vpc["routeTableIds"])),
            ("description", cell(&vpc["description"])),
            ("deletion protection", if vpc["deletionProtection"] == true { "on" } else { "off" }.to_owned()),
            ("created", cell(&vpc["createdTime"])),
        ])
    });
    Ok(())
}

pub(super) async fn tables(session: &Session, command: Tables) -> Result<(), CliError> {
    const TABLES: [(&str, &str); 4] =
        [("ID", "/routeTableId"), ("VPC", "/vpcId"), ("VPC NAME", "/vpcName"), ("ROUTES", "/routes")];
    const ROUTES: [(&str, &str); 3] =
        [("DESTINATION", "/destinationCidr"), ("NEXT HOP TYPE", "/nextHopType"), ("NEXT HOP", "/nextHop")];
    let region = session.region().await?;
    let path = || regional(&region, &["routeTables"]);
    match command {
        Tables::List { vpc } => {
            let vpc = match vpc {
                Some(vpc) => Some(session.own_vpc(&region, &vpc).await?),
                None => None,
            };
            let call = || Call::get(path()).with_some("vpcId", vpc.as_ref());
            let list = session.pages(call, "routeTables", "routeTableId").await?;
            session.print(&json!({ "routeTables": list, "totalCount": list.len() }), || {
                // The routes themselves are shown by `show`.
                let count = |table: &Value| {
                    let routes = elements(&table["routes"]).len();
                    json!({ "routeTableId": table["routeTableId"], "vpcId": table["vpcId"], "vpcName": table["vpcName"],
                        "routes": routes })
                };
                columns(&TABLES, &list.iter().map(count).collect::<Vec<_>>())
            });
        }
        Tables::Show { route_table } => {
            let answer = session.call(Call::get(regional(&region, &["routeTables", &route_table]))).await?;
            let table = &answer["routeTable"];
            session.print(table, || {
                let vpc =
                    format!("{} ({}) in {}", cell(&table["vpcId"]), cell(&table["vpcName"]), cell(&table["region"]));
                let about = lines(&[("route table", cell(&table["routeTableId"])), ("VPC", vpc)]);
                format!("{about}\n{}", columns(&ROUTES, elements(&table["routes"])))
            });
        }
    }
    Ok(())
}
