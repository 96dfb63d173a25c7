//! Commands of operators.

use super::*;

#[test]
fn apply_reports_draining_peerings_and_unconfirmed_hosts() {
    let sandbox = Sandbox::start();
    // No agent listens there.
    let host =
        "[[hosts]]\nid = \"silent\"\nregion = \"REGION\"\nunderlay = \"192.0.2.77\"\nagent = \"http://127.0.0.1:9\"\n";
    let vpc = |id: &str, net: u8| {
        format!(
            "[[vpcs]]\nid = \"{id}\"\naccount = \"account-1\"\nregion = \"{NORTH}\"\ncidrs = [\"10.{net}.0.0/16\"]\n"
        )
    };
    let port = "[[ports]]\nvpc = \"va\"\nhost = \"silent\"\ninterface = \"eth1\"\ngateways = [\"10.1.0.1/24\"]\n";
    let unpeered = format!(
        "[[regions]]\nid = \"{NORTH}\"\n[[regions]]\nid = \"{EAST}\"\n{}{}{}{port}",
        host.replace("REGION", NORTH),
        vpc("va", 1),
        vpc("vb", 2)
    );
    let file = sandbox.home.path().join("inventory.toml");
    let apply = |more: &[&str]| sandbox.operator(&[&["apply", "-f", file.to_str().unwrap()], more].concat());
    fs::write(&file, format!("{unpeered}[[peerings]]\nname = \"p\"\nvpc = \"va\"\npeer_vpc = \"vb\"\n")).unwrap();
    let applied = apply(&[]).ok();
    assert!(applied.contains("hosts have not confirmed yet") && applied.contains("silent"), "{applied}");
    fs::write(&file, unpeered).unwrap();
    let applied = apply(&["--prune", "--confirm", "1", "-o", "json"]).json();
    let unconfirmed = &applied["unconfirmed"];
    assert_eq!(unconfirmed["drainingCount"], 1, "{applied}");
    assert!(unconfirmed["hosts"].as_array().unwrap().iter().any(|host| host == "silent"), "{applied}");
}

#[test]
fn removals_of_an_inventory_need_confirmation() {
    let sandbox = Sandbox::start();
    let vpc = |id: &str, net: u8| {
        format!(
            "[[vpcs]]\nid = \"{id}\"\naccount = \"account-1\"\nregion = \"{NORTH}\"\ncidrs = [\"10.{net}.0.0/16\"]\n"
        )
    };
    let regions = format!("[[regions]]\nid = \"{NORTH}\"\n[[regions]]\nid = \"{EAST}\"\n");
    let peered = "[[peerings]]\nname = \"p\"\nvpc = \"va\"\npeer_vpc = \"vb\"\n";
    let (full, few) = (sandbox.home.path().join("full.toml"), sandbox.home.path().join("few.toml"));
    fs::write(&full, format!("{regions}{}{}{peered}", vpc("va", 1), vpc("vb", 2))).unwrap();
    fs::write(&few, &regions).unwrap();
    let tenants = text(
        &sandbox.first(&["vpc", "create", "--cidr", "10.9.0.0/16", "--name", "own", "-o", "json"]).json()["vpcId"],
    );
    let plan = sandbox.operator(&["apply", "--dry-run", "-f", full.to_str().unwrap()]).ok();
    assert!(plan.contains("(new) (p)"), "its id is not known yet: {plan}");
    let applied = sandbox.operator(&["apply", "-f", full.to_str().unwrap()]).ok();
    assert!(applied.lines().last().unwrap().starts_with("applied: revision "), "{applied}");
    let prune = |more: &[&str]| sandbox.operator(&[&["apply", "--prune", "-f", few.to_str().unwrap()], more].concat());
    let plan = prune(&["--dry-run", "-o", "json"]).json();
    assert_eq!(plan["confirm"], 3, "two VPCs and a peering: {plan}");
    let revision = text(&plan["fullRevision"]);
    assert!(revision.ends_with(&format!(".{}", plan["revision"])), "{plan}");
    prune(&[]).fails(1, "confirm their number, 3");
    prune(&["--confirm", "2"]).fails(1, "confirm their number, 3");
    prune(&["--confirm", "3", "--if-revision", "0"]).fails(1, &format!("which is {revision}"));
    prune(&["--confirm", "3", "--if-revision", "x.1"]).fails(2, "expected EPOCH.NUMBER");
    prune(&["--confirm", "3", "--if-revision", &revision]).ok();
    let vpcs = sandbox.operator(&["inventory"]).ok();
    assert!(vpcs.contains(&tenants) && !vpcs.contains("\"va\""), "{vpcs}");
    // From standard input; the format follows from the content.
    let mut command = sandbox.program(&["apply", "-f", "-", "--dry-run"]);
    command.env("CPS_PEERING_CONTROLLER", sandbox.word("/url")).env("CPS_PEERING_TOKEN", sandbox.word("/admin_token"));
    assert!(run(&mut command, r#"{ "regions": [{ "id": "new" }] }"#).ok().contains("create  region"));
}

#[test]
fn operators_see_all_peerings_and_accounts() {
    let sandbox = Sandbox::start();
    assert!(sandbox.operator(&["whoami"]).ok().contains("operator"));
    let (a, b) = sandbox.vpcs();
    let line = ["peering", "create", "--name", "by hand", "--vpc", &a, "--peer-vpc", &b, "--wait", "-o", "json"];
    let made = sandbox.operator(&line).json();
    assert_eq!(made["routesInSync"], true);
    let id = text(&made["vpcPeeringId"]);
    let list = sandbox.operator(&["peering", "list"]).ok();
    assert!(list.starts_with("ID ") && list.lines().nth(1).unwrap().contains(&id), "{list}");
    for filter in [["--state", "active,provisioning"], ["--vpc", &a], ["--peer-vpc", &b]] {
        let line = [&["admin", "peering", "list", "-o", "json"], &filter[..]].concat();
        assert_eq!(sandbox.operator(&line).json()["totalCount"], 1, "{filter:?}");
    }
    assert_eq!(sandbox.operator(&["peering", "list", "--state", "pending", "-o", "json"]).json()["totalCount"], 0);
    let shown = sandbox.operator(&["peering", "show", "by hand"]).ok();
    assert!(shown.starts_with(&format!("peering    {id} (by hand)\nstate      ")), "{shown}");
    assert!(shown.contains("\npath       no sample\n"), "the hosts of a sandbox do not probe: {shown}");
    let wide = sandbox.operator(&["peering", "list", "-o", "wide"]).ok();
    assert!(wide.lines().next().unwrap().contains("LOSS %  RTT MS"), "{wide}");
    assert!(sandbox.operator(&["admin", "peering", "set-bandwidth", "by hand", "10"]).ok().contains(&id));
    assert!(sandbox.operator(&["peering", "routes", &id]).ok().contains("10.2.0.0/16"));
    sandbox.operator(&["peering", "accept", &id, "--yes"]).fails(2, "for accounts");
    sandbox.operator(&["peering", "list", "--role", "receiver"]).fails(2, "--role is for accounts");
    sandbox.operator(&["vpc", "list"]).fails(1, "for accounts");
    assert_eq!(sandbox.operator(&["peering", "delete", "by hand"]).ok().trim(), format!("{id} is deleted"));
    sandbox.operator(&["peering", "show", "by hand"]).fails(1, "there is no peering by hand");

    sandbox.operator(&["admin", "account", "create", "third"]).ok();
    let made = sandbox.operator(&["admin", "account", "add-token", "third", "-o", "json"]).json();
    let whoami = |token: &str| sandbox.with_token(token, &["whoami"]);
    assert!(whoami(made["token"].as_str().unwrap()).ok().contains("third"));
    sandbox.operator(&["admin", "account", "remove-token", "third", made["tokenId"].as_str().unwrap()]).ok();
    whoami(made["token"].as_str().unwrap()).fails(1, "the environment variable CPS_PEERING_TOKEN");
    let made = sandbox.operator(&["admin", "account", "add-key", "third", "-o", "json"]).json();
    let key = text(&made["accessKey"]);
    assert!(sandbox.operator(&["admin", "account", "show", "third"]).ok().contains(&key));
    assert!(!sandbox.operator(&["admin", "account", "remove-key", "third", &key]).ok().contains(&key));
    assert!(sandbox.operator(&["admin", "account", "charge", "third", "arrear"]).ok().contains("arrear"));
    let quota = sandbox.operator(&["admin", "account", "quota", "set", "account-1", NORTH, "7"]).ok();
    assert!(quota.contains("cn-north-1=7"), "{quota}");
    assert_eq!(sandbox.first(&["quota", "-o", "json"]).json()["maxLimit"], 7);
    assert!(!sandbox.operator(&["admin", "account", "quota", "reset", "account-1", NORTH]).ok().contains("=7"));
    assert_eq!(sandbox.operator(&["admin", "account", "list"]).ok().lines().count(), 4);
    let trail = sandbox.operator(&["admin", "audit", "--account", "third", "--limit", "2"]).ok();
    assert_eq!(trail.lines().count(), 3, "{trail}");

    let host = format!(
        "[[hosts]]\nid = \"h1\"\nregion = \"{NORTH}\"\nunderlay = \"192.0.2.1\"\nagent = \"http://127.0.0.1:1\"\n"
    );
    let file = sandbox.home.path().join("host.toml");
    fs::write(&file, host).unwrap();
    sandbox.operator(&["apply", "-f", file.to_str().unwrap()]).ok();
    assert!(sandbox.operator(&["inventory"]).ok().contains("h1"));
    // Columns are as wide as what is known of the host by now.
    let heading = |arguments: &[&str]| {
        let text = sandbox.operator(arguments).ok();
        text.lines().next().unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(heading(&["host", "list"]).join(" ").contains("HEARD CERTIFICATE UNTIL TROUBLE"));
    assert_eq!(heading(&["host", "list"]), heading(&["admin", "host", "list"]));
    sandbox.operator(&["admin", "host", "remove", "h1", "--dead"]).ok();
    assert!(!sandbox.operator(&["inventory"]).ok().contains("h1"));
}

#[test]
fn hosts_are_drained_replaced_and_removed_by_commands() {
    let sandbox = Sandbox::start();
    let host = |id: &str, last: u8| {
        format!("- {{ id: {id}, region: {NORTH}, underlay: 192.0.2.{last}, agent: 'http://127.0.0.1:{last}' }}\n")
    };
    let vpc = |id: &str, net: u8| {
        format!("- {{ id: {id}, account: account-1, region: {NORTH}, cidrs: [10.{net}.0.0/16] }}\n")
    };
    let yaml = format!(
        "# Everything, as YAML.\nregions:\n- id: {NORTH}\n- id: {EAST}\nhosts:\n{}{}vpcs:\n{}{}ports:\n- vpc: va\n  host: old\n  interface: \
         eth1\n  gateways: [10.1.0.1/24]\npeerings:\n- name: p\n  vpc: va\n  peer_vpc: vb\n",
        host("old", 11),
        host("new", 12),
        vpc("va", 1),
        vpc("vb", 2)
    );
    let file = sandbox.home.path().join("inventory.yaml");
    fs::write(&file, &yaml).unwrap();
    let with_file =
        |command: &str, more: &[&str]| sandbox.operator(&[&[command, "-f", file.to_str().unwrap()], more].concat());
    let differs = with_file("diff", &[]);
    assert!(differs.code == 1 && differs.err.is_empty(), "{differs:?}");
    assert!(differs.out.contains("create") && differs.out.contains("old/eth1"), "{differs:?}");
    assert!(sandbox.operator(&["inventory"]).ok().lines().all(|line| !line.contains("\"va\"")), "diff changes nothing");
    with_file("apply", &[]).ok();
    assert!(with_file("diff", &[]).ok().starts_with("no difference at revision "));
    let json = with_file("diff", &["--prune", "-o", "json"]);
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&json["dryRun"], json["changes"].as_array().unwrap().len()), (&Value::Bool(true), 0), "{json}");

    let state = |id: &str| {
        let hosts = sandbox.operator(&["host", "list"]).ok();
        hosts.lines().find(|line| line.starts_with(&format!("{id} "))).unwrap_or_default().to_owned()
    };
    assert!(state("old").contains("in use") && state("old").contains("never"), "{}", state("old"));
    sandbox.operator(&["host", "drain", "new"]).ok();
    assert!(state("new").contains("drained"), "{}", state("new"));
    // No document resets that, and no new port goes there.
    assert!(with_file("apply", &[]).ok().starts_with("nothing to change"));
    let wrong = sandbox.operator(&["host", "replace", "old", "--by", "new", "--dead"]);
    wrong.fails(1, "cps-peering host uncordon new");
    sandbox.operator(&["host", "uncordon", "new"]).ok();
    sandbox.operator(&["host", "drain", "nobody"]).fails(1, "there is no host nobody");
    // A paused host cannot take anything over.
    sandbox.operator(&["host", "pause", "new"]).ok();
    let wrong = sandbox.operator(&["host", "replace", "old", "--by", "new", "--dead"]);
    wrong.fails(1, "cps-peering host resume new");
    sandbox.operator(&["host", "resume", "new"]).ok();

    let maintenance = |more: &[&str]| sandbox.operator(&[&["host", "maintenance"], more].concat());
    assert!(maintenance(&["new", "--for", "2h"]).ok().starts_with("1 of 1 hosts changed"));
    assert!(state("new").contains("  maintenance until 2"), "{}", state("new"));
    maintenance(&["new", "--for", "8d"]).fails(1, "604800");
    maintenance(&["new", "--until", "5pm"]).fails(1, "until: \"5pm\" is not a time such as");
    maintenance(&["new", "--from", "2020-01-01T00:00:00Z", "--until", "2020-01-02T00:00:00Z"])
        .fails(1, "is in the past");
    assert!(maintenance(&["--all-of", NORTH, "--end"]).ok().starts_with("1 of 2 "), "one of them had one");
    assert!(state("new").contains("in use"), "{}", state("new"));
    assert!(sandbox.operator(&["rollout", "continue"]).ok().starts_with("no rollout"));

    let replace =
        |more: &[&str]| sandbox.operator(&[&["host", "replace", "old", "--by", "new", "--dead"], more].concat());
    replace(&[]).fails(1, "confirm their number, 2");
    let plan = replace(&["--dry-run"]).ok();
    assert!(
        plan.contains("--confirm 2") && plan.contains("host: old -> new") && plan.contains("stops traffic"),
        "{plan}"
    );
    replace(&["--confirm", "2"]).ok();
    assert!(state("old").contains("removed"), "{}", state("old"));
    let inventory = sandbox.operator(&["inventory", "-o", "json"]).json();
    assert_eq!(inventory["ports"].as_array().unwrap().iter().filter(|port| port["host"] == "new").count(), 1);

    sandbox.operator(&["host", "remove", "new", "--confirm", "1"]).fails(1, "confirm their number, 2");
    sandbox.operator(&["host", "remove", "new", "--confirm", "2"]).ok();
    assert!(state("new").contains("removing"), "it has not answered: {}", state("new"));
    sandbox.operator(&["host", "remove", "new", "--dead"]).ok();
    for id in ["old", "new"] {
        assert!(state(id).contains("removed"), "{}", state(id));
        sandbox.operator(&["host", "remove", id, "--dead"]).ok();
        assert_eq!(state(id), "", "forgotten");
    }
    let trail = sandbox.operator(&["admin", "audit"]).ok();
    for action in ["DrainHost", "UncordonHost", "ReplaceHost", "RemoveHost"] {
        assert!(trail.contains(action), "{action}: {trail}");
    }
}

#[test]
fn the_doctor_names_problems_and_fixes() {
    let sandbox = Sandbox::start();
    let host = format!(
        "[[regions]]\nid = \"{NORTH}\"\n[[hosts]]\nid = \"silent\"\nregion = \"{NORTH}\"\nunderlay = \"192.0.2.77\"\nagent = \
         \"http://127.0.0.1:9\"\n"
    );
    let file = sandbox.home.path().join("inventory.toml");
    fs::write(&file, host).unwrap();
    sandbox.operator(&["apply", "-f", file.to_str().unwrap()]).ok();
    let found = sandbox.operator(&["doctor", "--all"]);
    assert_eq!(found.code, 1, "{found:?}");
    let line = |words: &[&str]| found.out.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(line(&["FAIL", "host", "silent", "cps-peering-agent"]), "{}", found.out);
    assert!(line(&["ok", "store"]) && line(&["ok", "clock", "this machine"]), "{}", found.out);
    assert!(line(&["WARN", "backup", "cps-peering admin backup"]), "{}", found.out);
    sandbox.operator(&["host", "remove", "silent", "--dead"]).ok();
    let found = sandbox.operator(&["doctor", "-o", "json"]).json();
    assert_eq!(found["failures"], 0, "{found}");
    assert!(found["findings"].as_array().unwrap().iter().all(|it| it["subject"] != "silent"), "{found}");
    // Accounts are not allowed, and an unreachable controller is a finding.
    sandbox.first(&["doctor"]).fails(1, "operators only");
    let mut gone = sandbox.program(&["doctor", "--controller", "http://127.0.0.1:9"]);
    let gone = run(gone.env("CPS_PEERING_TOKEN", "whatever-this-may-be"), "");
    assert!(gone.code == 1 && gone.out.contains("systemctl status cps-peering-controller"), "{gone:?}");
}

#[test]
fn a_bundle_contains_the_state_and_no_secrets() {
    let sandbox = Sandbox::start();
    let secret = sandbox.operator(&["admin", "account", "add-key", "account-1", "-o", "json"]).json();
    let token = sandbox.operator(&["admin", "account", "add-token", "account-1", "-o", "json"]).json();
    let file = sandbox.home.path().join("bundle.tar");
    let bundle = |more: &[&str]| {
        sandbox.operator(&[&["debug", "bundle", "-f", file.to_str().unwrap(), "-o", "json"], more].concat())
    };
    sandbox.first(&["debug", "bundle", "-f", file.to_str().unwrap()]).fails(1, "operators only");
    let told = bundle(&["--host", "nobody"]).json();
    let content: Vec<String> = told["content"].as_array().unwrap().iter().map(text).collect();
    for expected in ["diagnosis.json", "inventory.json", "audit.json", "metrics.txt", "hosts/nobody.json"] {
        assert!(content.iter().any(|it| it == expected), "{expected}: {content:?}");
    }
    let bytes = fs::read(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let holds = |word: &str| bytes.windows(word.len()).any(|window| window == word.as_bytes());
    assert!(holds("cps_controller_hosts") && holds("AddToken") && holds(secret["accessKey"].as_str().unwrap()));
    assert!(holds("there is no host"), "what is missing is said");
    let secrets = [
        sandbox.word("/admin_token").to_owned(),
        sandbox.word("/accounts/0/token").to_owned(),
        sandbox.word("/accounts/0/secret_key").to_owned(),
        text(&secret["secretKey"]),
        text(&token["token"]),
    ];
    for word in secrets {
        assert!(word.len() > 10 && !holds(&word), "a secret is in the bundle");
    }
    sandbox.operator(&["debug", "bundle", "-f", file.to_str().unwrap()]).fails(1, "bundle.tar");
}

/// L13.
#[test]
fn operators_preview_the_effect_of_prefix_lists() {
    let sandbox = Sandbox::start();
    let vpcs = sandbox.vpcs();
    let id = sandbox.request("p", &vpcs);
    sandbox.second(&["peering", "accept", &id, "--yes"]).ok();
    let line = ["peering", "set-prefixes", &id, "--vpc", &vpcs.1, "--export-prefixes", "10.2.0.0/24", "-o", "json"];
    let outlook = sandbox.operator(&[&line[..], &["--dry-run"]].concat()).json();
    assert_eq!(outlook["dryRun"], true);
    let reachable = &outlook["reachable"];
    assert_eq!(
        (&reachable["ownPrefixes"][0], &reachable["remotePrefixes"][0]),
        (&"10.1.0.0/16".into(), &"10.2.0.0/24".into())
    );
    let exported =
        || sandbox.operator(&["peering", "show", &id, "-o", "json"]).json()["remoteVpcInfo"]["exportPrefixes"].clone();
    assert_eq!(exported(), serde_json::json!([]), "nothing was changed");
    sandbox.operator(&line).ok();
    assert_eq!(exported(), serde_json::json!(["10.2.0.0/24"]));
    let beyond = ["peering", "set-prefixes", &id, "--export-prefixes", "10.9.0.0/24", "--dry-run"];
    sandbox.operator(&beyond).fails(1, "10.9.0.0/24");
}
