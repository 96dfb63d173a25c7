//! Peerings, as an account or as an operator.

mod arguments;
mod view;
mod watch;

use super::{
    CliError, Wait,
    client::{Call, admin, regional},
    complain,
    output::{Column, ask, cell, columns, elements},
    session::{Deadline, Session, is_operator, said},
};
use arguments::{AccountOptions, Filters, Look, PeeringOptions, Scope, SetPrefixes, Which};
use reqwest::Method;
use serde_json::{Value, json};

pub(super) use arguments::{Command, OperatorCommand};

/// States in which a peering is over, or about to be.
const OVER: [&str; 4] = ["draining", "rejected", "expired", "peer_deleted"];

/// Peering commands of one caller.
struct Peerings<'a> {
    session: &'a Session,
    /// The account's region; none for operators.
    region: Option<String>,
}

/// Runs a command as the token allows.
pub(super) async fn run(session: &Session, command: Command) -> Result<(), CliError> {
    let whoami = session.whoami().await?;
    if is_operator(&whoami) {
        return run_as_operator(session, command).await;
    }
    Peerings { session, region: Some(session.region_of(&whoami)?) }.run(command).await
}

/// Runs a command as an operator.
pub(super) async fn run_as_operator(session: &Session, command: Command) -> Result<(), CliError> {
    Peerings { session, region: None }.run(command).await
}

fn for_accounts<T>(what: &str) -> Result<T, CliError> {
    Err(CliError::Usage(format!("{what} is for accounts only, and this is the operators' token")))
}

impl Peerings<'_> {
    async fn run(&self, command: Command) -> Result<(), CliError> {
        match command {
            Command::Create { wish, account, wait } => self.create(wish, account, &wait).await,
            Command::List { filters, role, tags, sort } => self.list(filters, role, &tags, sort.as_deref()).await,
            Command::Watch { .. } => self.watch().await,
            Command::Show { which } => self.show(&which).await,
            Command::Accept { which, scope, dry_run, yes, wait } => {
                self.accept(&which, &scope, dry_run, yes, &wait).await
            }
            Command::SetPrefixes(set) => self.set_prefixes(set).await,
            Command::Reject { which } => self.reject(&which).await,
            Command::SetBandwidth { which, bandwidth } => self.set_bandwidth(&which, bandwidth).await,
            Command::SetTags { which, tags } => self.set_tags(&which, &tags).await,
            Command::Protect { which, state } => self.protect(&which, &state).await,
            Command::Rename { which, name, description } => self.rename(&which, name, description).await,
            Command::Look(Look::Routes { which }) => self.routes(&which).await,
            Command::Look(Look::Traffic { which, range }) => self.traffic(&which, &range).await,
            Command::Delete { which, wait } => self.delete(&which, &wait).await,
        }
    }

    fn is_operator(&self) -> bool {
        self.region.is_none()
    }

    /// The path of all peerings, followed by `rest`.
    fn path<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        match &self.region {
            None => admin(&[&["peerings"], rest].concat()),
            Some(region) => regional(region, &[&["vpcPeerings"], rest].concat()),
        }
    }

    /// The id that the API needs. The operator API resolves names itself.
    async fn id(&self, which: &Which) -> Result<String, CliError> {
        let text = &which.peering;
        let Some(region) = self.region.as_ref().filter(|_| !is_id(text)) else { return Ok(text.clone()) };
        let call = || filtered(Call::get(self.path(&[])), &[("vpcPeeringNames", std::slice::from_ref(text))]);
        let mut named = self.session.pages(call, "vpcPeerings", "vpcPeeringId").await?;
        let is_live = |peering: &Value| !OVER.iter().any(|state| peering["state"] == *state);
        if named.iter().any(is_live) {
            named.retain(is_live);
        }
        match named.as_slice() {
            [] => Err(CliError::Refused(format!("there is no peering {text} in {region}"))),
            [peering] => Ok(cell(&peering["vpcPeeringId"])),
            several => {
                let ids: Vec<String> = several.iter().map(|peering| cell(&peering["vpcPeeringId"])).collect();
                Err(CliError::Refused(format!(
                    "several peerings are named {text}: use the id, one of {}",
                    ids.join(", ")
                )))
            }
        }
    }

    async fn fetch(&self, id: &str) -> Result<Value, CliError> {
        let mut answer = self.session.call(Call::get(self.path(&[id]))).await?;
        Ok(answer["vpcPeering"].take())
    }

    /// Shows a peering as a row.
    fn print_row(&self, peering: &Value) {
        self.session.print(peering, || columns(self.columns(), std::slice::from_ref(peering)));
    }

    fn columns(&self) -> &'static [Column] {
        match (self.is_operator(), self.session.is_wide()) {
            (true, false) => &view::OPERATOR_COLUMNS,
            (true, true) => &view::WIDE_OPERATOR_COLUMNS,
            (false, false) => &view::COLUMNS,
            (false, true) => &view::WIDE_COLUMNS,
        }
    }

    /// Waits, if requested, until every kernel concerned has a peering. `done` says what was done before.
    async fn confirmed(&self, mut peering: Value, wait: &Wait, done: &str) -> Result<Value, CliError> {
        let Some(seconds) = wait.wait else { return Ok(peering) };
        let id = cell(&peering["vpcPeeringId"]);
        let mut patience = Deadline::new(seconds);
        while peering["routesInSync"] != true {
            let (state, reason) = (&peering["state"], cell(&peering["stateReason"]));
            if OVER.iter().any(|over| state == over) {
                return Err(CliError::Refused(format!("{id} is {done}, but now it is {}: {reason}", cell(state))));
            }
            if !patience.wait_to_retry().await {
                let who = if self.is_operator() {
                    format!("these hosts have not confirmed it: {}", unconfirmed(&peering).join(", "))
                } else {
                    reason
                };
                return Err(CliError::Unconfirmed(format!("{id} is {done}, but after {seconds} s {who}")));
            }
            peering = self.fetch(&id).await?;
        }
        Ok(peering)
    }

    /// Replaces the names of a new peering's VPCs by their ids. Names of another account's VPCs are unknown here.
    async fn resolve_vpcs(&self, wish: &mut PeeringOptions, account: &AccountOptions) -> Result<(), CliError> {
        let Some(region) = &self.region else { return Ok(()) };
        wish.vpc = self.session.own_vpc(region, &wish.vpc).await?;
        let whoami = self.session.whoami().await?;
        if account.peer_account.as_ref().is_none_or(|other| whoami["accountId"] == **other) {
            let region = account.peer_region.as_ref().unwrap_or(region);
            // If it does not exist, the controller says so.
            if let Some(id) = self.session.vpc_id(region, &wish.peer_vpc).await? {
                wish.peer_vpc = id;
            }
        }
        Ok(())
    }

    async fn set_tags(&self, which: &Which, tags: &[(String, String)]) -> Result<(), CliError> {
        if self.is_operator() {
            return for_accounts("to set tags");
        }
        let id = self.id(which).await?;
        let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
        self.session.call(Call::new(Method::PUT, self.path(&[&id])).body(json!({ "userTags": tags }))).await?;
        self.print_row(&self.fetch(&id).await?);
        Ok(())
    }

    async fn create(&self, mut wish: PeeringOptions, account: AccountOptions, wait: &Wait) -> Result<(), CliError> {
        self.resolve_vpcs(&mut wish, &account).await?;
        let mut body = json!({
            "vpcPeeringName": wish.name,
            "vpcId": wish.vpc,
            "remoteVpcId": wish.peer_vpc,
            "bandwidth": wish.bandwidth,
            "description": wish.description,
        });
        wish.scope.add_to(&mut body);
        if self.is_operator() {
            let said = [
                ("--peer-region", account.peer_region.is_some()),
                ("--peer-account", account.peer_account.is_some()),
                ("--message", account.message.is_some()),
                ("--tag", !account.tags.is_empty()),
                ("--client-token", account.client_token.is_some()),
                ("--dry-run", account.dry_run),
            ];
            if let Some((option, _)) = said.iter().find(|(_, said)| *said) {
                return for_accounts(option);
            }
        } else {
            let tags: Vec<Value> =
                account.tags.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
            body["remoteRegionId"] = json!(account.peer_region);
            body["remoteAccountId"] = json!(account.peer_account);
            body["message"] = json!(account.message);
            body["userTags"] = json!(tags);
            body["clientToken"] = json!(account.client_token);
            body["dryRun"] = json!(account.dry_run);
        }
        let mut result = self.session.call(Call::new(Method::POST, self.path(&[])).body(said(body))).await?;
        if result["dryRun"] == true {
            self.print_outlook(&result);
            return Ok(());
        }
        let peering = result["vpcPeering"].take();
        if peering.is_null() {
            let text = "this client token was used before, and its peering has been deleted";
            return Err(CliError::Refused(text.to_owned()));
        }
        self.print_row(&self.confirmed(peering, wait, "made").await?);
        Ok(())
    }

    /// Shows the result of a dry run.
    fn print_outlook(&self, result: &Value) {
        self.session.print(result, || view::outlook(&result["reachable"]));
    }

    async fn set_prefixes(&self, set: SetPrefixes) -> Result<(), CliError> {
        let SetPrefixes { which, scope, vpc, dry_run, wait } = set;
        if scope.is_empty() {
            let text = "nothing to change: use --export-prefixes, --import-prefixes, or both";
            return Err(CliError::Usage(text.to_owned()));
        }
        let id = self.id(&which).await?;
        let vpc = match (vpc, &self.region) {
            (Some(vpc), Some(region)) => Some(self.session.vpc_id(region, &vpc).await?.unwrap_or(vpc)),
            (vpc, _) => vpc,
        };
        let mut body = said(json!({ "vpcId": vpc, "dryRun": dry_run.then_some(true) }));
        scope.add_to(&mut body);
        let action = format!("{id}:modifyVpcPeeringPrefixes");
        let path = if self.is_operator() { self.path(&[&id, "prefixes"]) } else { self.path(&[&action]) };
        let mut result = self.session.call(Call::new(Method::PUT, path).body(body)).await?;
        if dry_run {
            self.print_outlook(&result);
            return Ok(());
        }
        let peering = self.confirmed(result["vpcPeering"].take(), &wait, "changed").await?;
        let text = if self.is_operator() { view::operator_details } else { view::details };
        self.session.print(&peering, || text(&peering));
        Ok(())
    }

    async fn list(
        &self,
        mut filters: Filters,
        role: Option<String>,
        tags: &[(String, String)],
        sort: Option<&str>,
    ) -> Result<(), CliError> {
        let result = if self.is_operator() {
            let said = [("--role", role.is_some()), ("--tag", !tags.is_empty()), ("--sort", sort.is_some())];
            if let Some((option, _)) = said.iter().find(|(_, said)| *said) {
                return for_accounts(option);
            }
            let mut result = self.session.call(Call::get(self.path(&[]))).await?;
            if let Some(list) = result["vpcPeerings"].as_array_mut() {
                list.retain(|peering| filters.let_through(peering));
                let count = list.len();
                result["totalCount"] = json!(count);
            }
            result
        } else {
            if let Some(region) = &self.region {
                // If it is not one of the account's VPCs in this region, it may be the peer's.
                for vpc in [&mut filters.vpc, &mut filters.peer_vpc].into_iter().flatten() {
                    if let Some(id) = self.session.vpc_id(region, vpc).await? {
                        *vpc = id;
                    }
                }
            }
            let one = |value: Option<String>| Vec::from_iter(value);
            let (vpc, peer, role) = (one(filters.vpc), one(filters.peer_vpc), one(role));
            let wanted: [(&str, &[String]); 4] =
                [("state", &filters.state), ("role", &role), ("vpcId", &vpc), ("remoteVpcId", &peer)];
            let call = || {
                let call = filtered(Call::get(self.path(&[])), &wanted).with_some("sort", sort);
                (1..).zip(tags).fold(call, |call, (number, (key, value))| {
                    let call = call.with(format!("tags.{number}.key"), key);
                    let value = Some(value).filter(|value| !value.is_empty());
                    call.with_some(&format!("tags.{number}.values.1"), value)
                })
            };
            let list = self.session.pages(call, "vpcPeerings", "vpcPeeringId").await?;
            json!({ "totalCount": list.len(), "vpcPeerings": list })
        };
        self.session.print(&result, || columns(self.columns(), elements(&result["vpcPeerings"])));
        Ok(())
    }

    async fn show(&self, which: &Which) -> Result<(), CliError> {
        let peering = self.fetch(&self.id(which).await?).await?;
        let text = if self.is_operator() { view::operator_details } else { view::details };
        self.session.print(&peering, || text(&peering));
        Ok(())
    }

    async fn accept(
        &self,
        which: &Which,
        scope: &Scope,
        dry_run: bool,
        yes: bool,
        wait: &Wait,
    ) -> Result<(), CliError> {
        if self.is_operator() {
            return for_accounts("to accept");
        }
        let id = self.id(which).await?;
        let mut body = said(json!({ "dryRun": dry_run.then_some(true) }));
        scope.add_to(&mut body);
        let name = action(&id, "accept");
        let call = || Call::new(Method::POST, self.path(&[&name])).body(body.clone());
        if dry_run {
            self.print_outlook(&self.session.call(call()).await?);
            return Ok(());
        }
        let request = self.fetch(&id).await?;
        // If there is nothing to accept, the controller says so.
        if request["state"] == "pending" && request["role"] == "receiver" {
            let peer = &request["remoteVpcInfo"];
            let (vpc, account, prefixes) = (&peer["vpcId"], &peer["accountId"], &peer["addressPrefix"]);
            complain(&format!("account {} requests {id}: {}, {}", cell(account), cell(vpc), cell(prefixes)));
            if request["message"].as_str().is_some_and(|message| !message.is_empty()) {
                complain(&format!("message: {}", cell(&request["message"])));
            }
            complain(&cell(&request["stateReason"]));
            if !yes && !ask("accept it?", "confirm with --yes")? {
                return Err(CliError::Refused(format!("{id} was not accepted")));
            }
        }
        let mut result = self.session.call(call()).await?;
        self.print_row(&self.confirmed(result["vpcPeering"].take(), wait, "accepted").await?);
        Ok(())
    }

    async fn reject(&self, which: &Which) -> Result<(), CliError> {
        if self.is_operator() {
            return for_accounts("to reject");
        }
        let id = self.id(which).await?;
        self.session.call(Call::new(Method::POST, self.path(&[&action(&id, "reject")]))).await?;
        self.session.print(&json!({ "vpcPeeringId": id, "state": "rejected" }), || format!("{id} is rejected"));
        Ok(())
    }

    async fn set_bandwidth(&self, which: &Which, bandwidth: u32) -> Result<(), CliError> {
        let id = self.id(which).await?;
        let action = format!("{id}:modifyVpcPeeringBandwidth");
        let path = if self.is_operator() { self.path(&[&id, "bandwidth"]) } else { self.path(&[&action]) };
        let result = self.session.call(Call::new(Method::PUT, path).body(json!({ "bandwidth": bandwidth }))).await?;
        self.print_row(&result["vpcPeering"]);
        Ok(())
    }

    async fn protect(&self, which: &Which, state: &str) -> Result<(), CliError> {
        if self.is_operator() {
            return for_accounts("to protect from deletion");
        }
        let id = self.id(which).await?;
        let body = json!({ "deletionProtection": state == "on" });
        self.session.call(Call::new(Method::PUT, self.path(&[&id])).body(body)).await?;
        let peering = self.fetch(&id).await?;
        self.session.print(&peering, || format!("deletion protection of {id} is {state}"));
        Ok(())
    }

    async fn rename(&self, which: &Which, name: Option<String>, description: Option<String>) -> Result<(), CliError> {
        if self.is_operator() {
            return for_accounts("to rename");
        }
        let id = self.id(which).await?;
        let body = said(json!({ "vpcPeeringName": name, "description": description }));
        self.session.call(Call::new(Method::PUT, self.path(&[&id])).body(body)).await?;
        self.print_row(&self.fetch(&id).await?);
        Ok(())
    }

    async fn routes(&self, which: &Which) -> Result<(), CliError> {
        const ROUTES: [Column; 6] = [
            ("VPC", "/vpcId"),
            ("DESTINATION", "/destinationCidr"),
            ("NEXT HOP", "/nextHop"),
            ("INSTALLED", "/installed"),
            ("HOSTS", "/hosts"),
            ("LAST REPORT", "/lastReport"),
        ];
        let id = self.id(which).await?;
        let result = self.session.call(Call::get(self.path(&[&id, "routes"]))).await?;
        self.session.print(&result, || columns(&ROUTES, elements(&result["routes"])));
        Ok(())
    }

    async fn traffic(&self, which: &Which, range: &str) -> Result<(), CliError> {
        let id = self.id(which).await?;
        let result = self.session.call(Call::get(self.path(&[&id, "traffic"])).with("range", &range)).await?;
        self.session.print(&result, || {
            if self.is_operator() {
                return ["initiator", "receiver"].map(|side| view::traffic(side, &result[side])).join("\n\n");
            }
            view::traffic("own VPC", &result["traffic"])
        });
        Ok(())
    }

    async fn delete(&self, which: &Which, wait: &Wait) -> Result<(), CliError> {
        let name = self.id(which).await?;
        let mut result = self.session.call(Call::new(Method::DELETE, self.path(&[&name]))).await?;
        let id = cell(&result["vpcPeeringId"]);
        let mut patience = Deadline::new(wait.wait.unwrap_or_default());
        // Operators see which hosts are missing, accounts how many.
        let (field, nobody) = if self.is_operator() { ("missingHosts", json!([])) } else { ("hostsMissing", json!(0)) };
        while result["state"] != "deleted" && patience.wait_to_retry().await {
            match self.session.try_call(Call::get(self.path(&[&id]))).await? {
                Ok(shown) if self.is_operator() => result[field] = json!(unconfirmed(&shown["vpcPeering"])),
                Ok(shown) => result["stateReason"] = shown["vpcPeering"]["stateReason"].clone(),
                Err(rejection) if rejection.is_not_found() => {
                    result = json!({ "vpcPeeringId": id, "state": "deleted", (field): nobody });
                }
                Err(rejection) => return Err(rejection.into()),
            }
        }
        let missing = cell(&result[field]);
        if result["state"] != "deleted" && wait.wait.is_some() {
            return Err(CliError::Unconfirmed(if self.is_operator() {
                format!("{id} is still draining; these hosts have not confirmed it: {missing}")
            } else {
                format!("{id} is still draining: {}", cell(&result["stateReason"]))
            }));
        }
        self.session.print(&result, || {
            if result["state"] == "deleted" {
                return format!("{id} is deleted");
            }
            let hosts = if self.is_operator() { missing } else { format!("hosts: {missing}") };
            format!("{id} is draining: it forwards nothing on any host that can be reached; waiting for {hosts}")
        });
        Ok(())
    }
}

/// Whether a text has the form of a peering's id.
fn is_id(text: &str) -> bool {
    const RANDOM: usize = 10;
    let rest = text.strip_prefix("vpcpr-").unwrap_or_default();
    rest.len() == RANDOM && rest.chars().all(|c| c.is_ascii_alphanumeric())
}

fn action(id: &str, verb: &str) -> String {
    format!("{id}:{verb}VpcPeering")
}

/// A call with filters as the API expects them. A filter without values is left out.
fn filtered<'a>(call: Call<'a>, filters: &[(&str, &[String])]) -> Call<'a> {
    let filters = filters.iter().filter(|(_, values)| !values.is_empty());
    (1..).zip(filters).fold(call, |call, (number, (name, values))| {
        let call = call.with(format!("filters.{number}.name"), name);
        let values = (1..).zip(values.iter());
        values.fold(call, |call, (place, value)| call.with(format!("filters.{number}.values.{place}"), value))
    })
}

fn unconfirmed(peering: &Value) -> Vec<String> {
    let hosts = elements(&peering["hosts"]).iter();
    hosts.filter(|host| host["confirmed"] != true).map(|host| cell(&host["host"])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_names() {
        assert!(is_id("vpcpr-0a1b2c3d4e"));
        for name in ["vpcpr-0a1b2c3d4", "vpcpr-of-mine-", "blue", ""] {
            assert!(!is_id(name), "{name}");
        }
    }
}
