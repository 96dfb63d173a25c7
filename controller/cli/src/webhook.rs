//! Webhooks: where events are sent to.

use super::{
    CliError,
    client::{Call, admin, regional},
    output::{cell, columns, elements, lines},
    session::{Session, is_operator},
};
use clap::Subcommand;
use reqwest::Method;
use serde_json::{Map, Value, json};

#[derive(Subcommand, Clone)]
pub(super) enum Command {
    /// List webhooks and their delivery status.
    List,
    /// Show a webhook and its delivery status.
    Show {
        /// Its id.
        webhook: String,
    },
    /// Create a webhook, and show the secret that its requests are signed with, once.
    #[command(
        after_help = "Example: cps-peering webhook create https://hooks.example.com/peerings --type peering.requested"
    )]
    Create {
        /// URL to which events are sent, https
        url: String,
        /// Only events of this type; repeatable [default: all]
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
    },
    /// Change the URL or the event types of a webhook.
    #[command(group(clap::ArgGroup::new("changes").required(true).multiple(true)))]
    Modify {
        /// Its id.
        webhook: String,
        /// URL to which events are sent
        #[arg(long, group = "changes")]
        url: Option<String>,
        /// Only events of this type, replacing the current types; repeatable.
        #[arg(long = "type", value_name = "TYPE", group = "changes")]
        types: Vec<String>,
        /// Events of all types.
        #[arg(long, conflicts_with = "types", group = "changes")]
        all_types: bool,
    },
    /// Disable a webhook: nothing is sent until it is enabled again.
    Disable {
        /// Its id.
        webhook: String,
    },
    /// Enable a webhook: new events are sent, and those that happened while it was disabled.
    Enable {
        /// Its id.
        webhook: String,
    },
    /// Delete a webhook.
    Delete {
        /// Its id.
        webhook: String,
    },
}

impl Command {
    /// Whether it changes nothing, and may be repeated.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::List | Self::Show { .. })
    }
}

fn shown(webhook: &Value) -> String {
    let types = cell(&webhook["types"]);
    lines(&[
        ("webhook", cell(&webhook["webhookId"])),
        ("url", cell(&webhook["url"])),
        ("types", if types.is_empty() || types == "-" { "all".to_owned() } else { types }),
        ("state", cell(&webhook["state"])),
        ("created", cell(&webhook["createdTime"])),
        ("delivered", cell(&webhook["lastDelivered"])),
        ("failures", cell(&webhook["failures"])),
        ("last error", cell(&webhook["lastError"])),
        ("next attempt", cell(&webhook["nextAttempt"])),
    ])
}

pub(super) async fn run(session: &Session, command: Command) -> Result<(), CliError> {
    const HEADING: [(&str, &str); 6] = [
        ("ID", "/webhookId"),
        ("URL", "/url"),
        ("STATE", "/state"),
        ("DELIVERED", "/lastDelivered"),
        ("FAILURES", "/failures"),
        ("LAST ERROR", "/lastError"),
    ];
    let whoami = session.whoami().await?;
    let region = if is_operator(&whoami) { None } else { Some(session.region_of(&whoami)?) };
    let call = |method: Method, rest: &[&str]| {
        let rest: Vec<String> = ["webhooks"].iter().chain(rest).map(|part| (*part).to_owned()).collect();
        (method, rest)
    };
    let mut body = Map::new();
    let (method, path) = match &command {
        Command::List => call(Method::GET, &[]),
        Command::Show { webhook } => call(Method::GET, &[webhook]),
        Command::Create { url, types } => {
            body.insert("url".to_owned(), json!(url));
            body.insert("types".to_owned(), json!(types));
            call(Method::POST, &[])
        }
        Command::Modify { webhook, url, types, all_types } => {
            body.extend(url.as_ref().map(|url| ("url".to_owned(), json!(url))));
            body.extend((*all_types || !types.is_empty()).then(|| ("types".to_owned(), json!(types))));
            call(Method::PUT, &[webhook])
        }
        Command::Disable { webhook } | Command::Enable { webhook } => {
            body.insert("enabled".to_owned(), matches!(command, Command::Enable { .. }).into());
            call(Method::PUT, &[webhook])
        }
        Command::Delete { webhook } => call(Method::DELETE, &[webhook]),
    };
    let rest: Vec<&str> = path.iter().map(String::as_str).collect();
    let path = region.as_ref().map_or_else(|| admin(&rest), |region| regional(region, &rest));
    let request = Call::new(method, path);
    let result = session.call(if body.is_empty() { request } else { request.body(body.into()) }).await?;
    session.print(&result, || match &command {
        Command::List => columns(&HEADING, elements(&result["webhooks"])),
        Command::Delete { webhook } => format!("{webhook} is deleted"),
        Command::Create { .. } => {
            format!(
                "{}\n\nThe secret, which is not shown again: {}",
                shown(&result["webhook"]),
                cell(&result["secret"])
            )
        }
        _ => shown(&result["webhook"]),
    });
    Ok(())
}
