//! What each command does.

use super::{
    Arguments, CliError, Command, Host, Output, Peering, Wait,
    client::{Controller, Rejection},
    output::cell,
};
use cps_peering_config::inventory::Inventory;
use cps_peering_terminal::{complain, show, table};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// Between two questions whether it is there yet.
const ASK_AGAIN: Duration = Duration::from_millis(50);

pub(super) async fn run(arguments: Arguments) -> Result<(), CliError> {
    let controller = Controller::new(&arguments.controller, &arguments.token_file)?;
    let cli = Cli { controller, output: arguments.output };
    match arguments.command {
        Command::Apply { file, prune, dry_run } => cli.apply(&file, prune, dry_run).await,
        Command::Inventory => cli.inventory().await,
        Command::Host(Host::List) => cli.hosts().await,
        Command::Peering(Peering::Create { name, vpc, peer_vpc, wait }) => {
            let body = json!({ "vpcPeeringName": name, "vpcId": vpc, "remoteVpcId": peer_vpc });
            cli.create(&body, &wait).await
        }
        Command::Peering(Peering::List) => cli.list().await,
        Command::Peering(Peering::Show { peering }) => cli.show(&peering).await,
        Command::Peering(Peering::Delete { peering, wait }) => cli.delete(&peering, &wait).await,
    }
}

struct Cli {
    controller: Controller,
    output: Output,
}

/// Reads an inventory. Errors name the file, the place in it and the rule.
fn read_inventory(file: &Path) -> Result<Inventory, CliError> {
    let refuse = |error: String| CliError::Refused(format!("{}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| refuse(error.to_string()))?;
    if file.extension().is_some_and(|end| end == "json") {
        serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))
    } else {
        toml::from_str(&text).map_err(|error| refuse(error.to_string().trim_end().to_owned()))
    }
}

impl Cli {
    fn print(&self, json: &Value, text: impl FnOnce() -> String) {
        match self.output {
            Output::Json => show(&json.to_string()),
            Output::Table => show(&text()),
        }
    }

    async fn get(&self, path: &str) -> Result<Value, CliError> {
        Ok(self.controller.call(Method::GET, path, None).await??)
    }

    async fn apply(&self, file: &Path, prune: bool, dry_run: bool) -> Result<(), CliError> {
        let inventory = read_inventory(file)?;
        let body = serde_json::to_value(inventory).map_err(|error| CliError::Refused(error.to_string()))?;
        let path = format!("apply?dryRun={dry_run}&prune={prune}");
        let result = match self.controller.call(Method::POST, &path, Some(&body)).await? {
            Ok(result) => result,
            Err(Rejection { message, entries }) => {
                if entries.is_empty() {
                    return Err(CliError::Refused(format!("{}: {message}", file.display())));
                }
                for (entry, rule) in &entries {
                    complain(&format!("cps-peering: {}: {entry}: {rule}", file.display()));
                }
                return Err(CliError::Refused("nothing was applied".to_owned()));
            }
        };
        self.print(&result, || differences(&result["changes"], dry_run));
        Ok(())
    }

    async fn inventory(&self) -> Result<(), CliError> {
        let inventory = self.get("inventory").await?;
        let text = serde_json::from_value::<Inventory>(inventory.clone())
            .ok()
            .and_then(|inventory| toml::to_string(&inventory).ok())
            .unwrap_or_else(|| inventory.to_string());
        self.print(&inventory, || text.trim_end().to_owned());
        Ok(())
    }

    async fn hosts(&self) -> Result<(), CliError> {
        let result = self.get("hosts").await?;
        let fields = ["host", "regionId", "underlay", "inSync", "desired", "applied", "lastReport"];
        let heading = ["HOST", "REGION", "UNDERLAY", "IN SYNC", "DESIRED", "APPLIED", "LAST REPORT", "TROUBLE"];
        let row = |host: &Value| {
            let problems = host["problems"].as_array().into_iter().flatten();
            let problems = problems.map(|it| format!("{}: {}", cell(&it["object"]), cell(&it["reason"])));
            let trouble: Vec<String> =
                host["lastError"].as_str().map(ToOwned::to_owned).into_iter().chain(problems).collect();
            let cells = fields.iter().map(|field| cell(&host[*field]));
            cells.chain([if trouble.is_empty() { "-".to_owned() } else { trouble.join("; ") }]).collect()
        };
        let rows: Vec<Vec<String>> = result["hosts"].as_array().into_iter().flatten().map(row).collect();
        self.print(&result, || table(&heading, &rows));
        Ok(())
    }

    async fn create(&self, body: &Value, wait: &Wait) -> Result<(), CliError> {
        let result = self.controller.call(Method::POST, "peerings", Some(body)).await??;
        let mut peering = result["vpcPeering"].clone();
        if let Some(seconds) = wait.wait {
            let id = cell(&peering["vpcPeeringId"]);
            let until = Instant::now() + Duration::from_secs(seconds);
            while peering["routesInSync"] != true {
                if Instant::now() >= until {
                    let missing = unconfirmed(&peering).join(", ");
                    let text =
                        format!("{id} is made, but after {seconds} s these hosts have not confirmed it: {missing}");
                    return Err(CliError::Unconfirmed(text));
                }
                tokio::time::sleep(ASK_AGAIN).await;
                peering = self.get(&format!("peerings/{id}")).await?["vpcPeering"].clone();
            }
        }
        self.print(&peering, || peerings(std::slice::from_ref(&peering)));
        Ok(())
    }

    async fn list(&self) -> Result<(), CliError> {
        let result = self.get("peerings").await?;
        self.print(&result, || peerings(result["vpcPeerings"].as_array().map_or(&[], Vec::as_slice)));
        Ok(())
    }

    async fn show(&self, peering: &str) -> Result<(), CliError> {
        let result = self.get(&format!("peerings/{peering}")).await?;
        let peering = &result["vpcPeering"];
        self.print(peering, || details(peering));
        Ok(())
    }

    async fn delete(&self, peering: &str, wait: &Wait) -> Result<(), CliError> {
        let mut result = self.controller.call(Method::DELETE, &format!("peerings/{peering}"), None).await??;
        let id = cell(&result["vpcPeeringId"]);
        let until = Instant::now() + Duration::from_secs(wait.wait.unwrap_or_default());
        while result["state"] != "deleted" && Instant::now() < until {
            tokio::time::sleep(ASK_AGAIN).await;
            match self.controller.call(Method::GET, &format!("peerings/{id}"), None).await? {
                Ok(shown) => result["missingHosts"] = json!(unconfirmed(&shown["vpcPeering"])),
                Err(_) => result = json!({ "vpcPeeringId": id, "state": "deleted", "missingHosts": [] }),
            }
        }
        if result["state"] != "deleted" && wait.wait.is_some() {
            let missing = cell(&result["missingHosts"]);
            return Err(CliError::Unconfirmed(format!(
                "{id} still drains; these hosts have not confirmed it: {missing}"
            )));
        }
        self.print(&result, || match result["state"].as_str() {
            Some("deleted") => format!("{id} is deleted"),
            _ => format!(
                "{id} is draining: it forwards nothing on any host that can be reached; waiting for {}",
                cell(&result["missingHosts"])
            ),
        });
        Ok(())
    }
}

fn unconfirmed(peering: &Value) -> Vec<String> {
    let hosts = peering["hosts"].as_array().into_iter().flatten();
    hosts.filter(|host| host["confirmed"] != true).map(|host| cell(&host["host"])).collect()
}

fn peerings(peerings: &[Value]) -> String {
    let heading = ["ID", "NAME", "STATE", "IN SYNC", "VPC", "REGION", "PEER VPC", "PEER REGION", "CREATED"];
    let row = |it: &Value| {
        let (own, peer) = (&it["vpcInfo"], &it["remoteVpcInfo"]);
        let cells = [
            &it["vpcPeeringId"],
            &it["vpcPeeringName"],
            &it["state"],
            &it["routesInSync"],
            &own["vpcId"],
            &own["regionId"],
            &peer["vpcId"],
            &peer["regionId"],
            &it["createdTime"],
        ];
        cells.map(cell).to_vec()
    };
    table(&heading, &peerings.iter().map(row).collect::<Vec<_>>())
}

fn details(peering: &Value) -> String {
    let side = |info: &Value| {
        format!(
            "{} of {} in {}, {}, VNI {}",
            cell(&info["vpcId"]),
            cell(&info["accountId"]),
            cell(&info["regionId"]),
            cell(&info["addressPrefix"]),
            cell(&info["vni"])
        )
    };
    let hosts = peering["hosts"].as_array().into_iter().flatten();
    let hosts: Vec<Vec<String>> = hosts
        .map(|host| ["host", "confirmed", "desired", "applied"].map(|field| cell(&host[field])).to_vec())
        .collect();
    [
        format!("peering    {} ({})", cell(&peering["vpcPeeringId"]), cell(&peering["vpcPeeringName"])),
        format!("state      {}, routes in sync: {}", cell(&peering["state"]), cell(&peering["routesInSync"])),
        format!("initiator  {}", side(&peering["vpcInfo"])),
        format!("receiver   {}", side(&peering["remoteVpcInfo"])),
        format!("created    {}, active since {}", cell(&peering["createdTime"]), cell(&peering["activatedTime"])),
        table(&["HOST", "CONFIRMED", "DESIRED", "APPLIED"], &hosts),
    ]
    .join("\n")
}

fn differences(changes: &Value, dry_run: bool) -> String {
    let changes = changes.as_array().map_or(&[][..], Vec::as_slice);
    if changes.is_empty() {
        return "nothing to change".to_owned();
    }
    let row = |change: &Value| {
        let fields = change["fields"].as_array().into_iter().flatten();
        let fields = fields.map(|it| format!("{}: {} -> {}", cell(&it["field"]), cell(&it["from"]), cell(&it["to"])));
        vec![cell(&change["action"]), cell(&change["kind"]), cell(&change["id"]), fields.collect::<Vec<_>>().join("; ")]
    };
    let rows: Vec<Vec<String>> = changes.iter().map(row).collect();
    let end = if dry_run { "nothing was changed: this was a dry run" } else { "applied" };
    format!("{}\n{end}", table(&["ACTION", "KIND", "ID", "FIELDS"], &rows))
}
