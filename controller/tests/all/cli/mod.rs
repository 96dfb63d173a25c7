//! The command line: tenants and operators with a real controller, by the programs themselves.

mod operators;

use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

const NORTH: &str = "cn-north-1";
const EAST: &str = "cn-east-2";

/// A controller of its own, and a home directory for the command line. Both end with the test.
struct Sandbox {
    controller: Child,
    told: Value,
    home: TempDir,
}

/// The result of a command.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Checks the exit code and standard error.
    fn fails(&self, code: i32, text: &str) {
        assert!(self.code == code && self.err.contains(text), "expected {code} and {text:?}: {self:?}");
        assert!(self.err.starts_with("cps-peering: ") || code == 2, "{self:?}");
    }
}

impl Sandbox {
    fn start() -> Self {
        Self::start_with("")
    }

    /// With limits of a settings file.
    fn start_with(limits: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let settings = home.path().join("controller.toml");
        let usual = "listen = \"127.0.0.1:0\"\nstore = \"/nowhere\"\noperator_token_file = \"/nowhere\"\n";
        fs::write(&settings, format!("{usual}{limits}")).unwrap();
        let controller = Command::new(env!("CARGO_BIN_EXE_cps-peering-controller"))
            .args(["--dev", "--settings"])
            .arg(&settings)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From here on it is stopped, whatever fails.
        let mut sandbox = Self { controller, told: Value::Null, home };
        let mut line = String::new();
        BufReader::new(sandbox.controller.stdout.take().unwrap()).read_line(&mut line).unwrap();
        sandbox.told = serde_json::from_str(&line).unwrap();
        sandbox
    }

    fn word(&self, pointer: &str) -> &str {
        self.told.pointer(pointer).unwrap().as_str().unwrap()
    }

    /// The program without the test's environment.
    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = crate::programs::cli();
        command.env_clear().env("HOME", self.home.path()).args(arguments);
        command
    }

    fn with_token(&self, token: &str, arguments: &[&str]) -> Ended {
        let mut command = self.program(arguments);
        run(command.env("CPS_PEERING_CONTROLLER", self.word("/url")).env("CPS_PEERING_TOKEN", token), "")
    }

    fn operator(&self, arguments: &[&str]) -> Ended {
        self.with_token(self.word("/admin_token"), arguments)
    }

    /// As the first account, whose VPCs are in the north.
    fn first(&self, arguments: &[&str]) -> Ended {
        self.with_token(self.word("/accounts/0/token"), &[&["--region", NORTH], arguments].concat())
    }

    /// As the second account, whose VPCs are in the east.
    fn second(&self, arguments: &[&str]) -> Ended {
        self.with_token(self.word("/accounts/1/token"), &[&["--region", EAST], arguments].concat())
    }

    /// VPCs of both accounts, one each.
    fn vpcs(&self) -> (String, String) {
        let create = |cidr, name| ["vpc", "create", "--cidr", cidr, "--name", name, "-o", "json"];
        let first = self.first(&create("10.1.0.0/16", "blue")).json();
        let second = self.second(&create("10.2.0.0/16", "red")).json();
        (text(&first["vpcId"]), text(&second["vpcId"]))
    }

    /// A request of the first account to the second one.
    fn request(&self, name: &str, vpcs: &(String, String)) -> String {
        let (vpc, peer) = (&vpcs.0, &vpcs.1);
        let mut line = vec!["peering", "create", "--name", name, "--vpc", vpc, "--peer-vpc", peer];
        line.extend(["--peer-region", EAST, "--peer-account", "account-2", "--bandwidth", "100", "-o", "json"]);
        line.extend(["--tag", "team=net", "--description", "for tests"]);
        let made = self.first(&line).json();
        assert_eq!((&made["state"], &made["role"]), (&"pending".into(), &"initiator".into()));
        text(&made["vpcPeeringId"])
    }

    fn config(&self) -> PathBuf {
        self.home.path().join(".config/cps-peering/config.toml")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // By its pid; its folder is removed when it is asked to stop.
        let pid = self.controller.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.controller.wait();
    }
}

fn run(command: &mut Command, input: &str) -> Ended {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that does not read may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn a_peering_between_accounts_and_regions_lives_from_request_to_delete() {
    let sandbox = Sandbox::start();
    let vpcs = sandbox.vpcs();
    let mut dry = vec!["peering", "create", "--name", "p", "--vpc", &vpcs.0, "--peer-vpc", &vpcs.1, "--dry-run"];
    dry.extend(["--peer-region", EAST, "--peer-account", "account-2", "--bandwidth", "100"]);
    assert!(sandbox.first(&dry).ok().contains("dry run"));
    assert_eq!(sandbox.first(&["peering", "list", "-o", "json"]).json()["totalCount"], 0);
    let id = sandbox.request("p", &vpcs);

    // Both see it, each from its side.
    let seen = sandbox.second(&["peering", "list", "--state", "pending", "--role", "receiver"]).ok();
    assert!(seen.contains(&id) && seen.contains("account-1") && seen.contains("receiver"), "{seen}");
    let vpc_filter = ["peering", "list", "--vpc", &vpcs.0, "--peer-vpc", &vpcs.1, "-o", "json"];
    assert_eq!(sandbox.first(&vpc_filter).json()["totalCount"], 1);
    assert_eq!(sandbox.second(&vpc_filter).json()["totalCount"], 0);
    let shown = sandbox.first(&["peering", "show", "p"]).ok();
    assert!(shown.contains("team=net") && shown.contains("account-2 has not answered"), "{shown}");

    sandbox.first(&["peering", "accept", &id, "--yes"]).fails(1, "VpcPeerPurviewError");
    sandbox.second(&["peering", "accept", "p"]).fails(2, "--yes");
    let accepted = sandbox.second(&["peering", "accept", "p", "--yes", "--wait", "-o", "json"]);
    assert!(accepted.err.contains("do not accept requests from accounts that you do not know"), "{accepted:?}");
    assert_eq!(accepted.json()["routesInSync"], true);
    sandbox.second(&["peering", "accept", &id, "--yes"]).ok();

    sandbox.second(&["peering", "set-bandwidth", &id, "200"]).fails(1, "only the initiator");
    let wider = sandbox.first(&["peering", "set-bandwidth", "p", "200", "-o", "json"]).json();
    assert_eq!(wider["bandwidth"], 200);
    let renamed = sandbox.first(&["peering", "rename", "p", "q", "--description", "other"]).ok();
    assert!(renamed.contains(" q "), "{renamed}");
    sandbox.first(&["peering", "show", "p"]).fails(1, "there is no peering p in cn-north-1");

    let routes = sandbox.second(&["peering", "routes", "q", "-o", "json"]).json();
    let destinations: Vec<&Value> =
        routes["routes"].as_array().unwrap().iter().map(|it| &it["destinationCidr"]).collect();
    assert_eq!(destinations, ["10.1.0.0/16", "10.2.0.0/16"]);
    let tables = sandbox.first(&["route-table", "list", "--vpc", &vpcs.0, "-o", "json"]).json();
    let table = text(&tables["routeTables"][0]["routeTableId"]);
    let table = sandbox.first(&["route-table", "show", &table]).ok();
    assert!(table.contains("10.2.0.0/16") && table.contains(&id), "{table}");
    assert!(sandbox.first(&["quota"]).ok().starts_with("1 of at most "));

    let deleted = sandbox.second(&["peering", "delete", "q", "--wait"]).ok();
    assert_eq!(deleted.trim(), format!("{id} is deleted"));
    assert!(sandbox.second(&["peering", "delete", &id]).ok().contains("is deleted"), "again is no error");
    sandbox.second(&["peering", "show", &id]).fails(1, "VpcPeerNotFound");
    assert!(sandbox.first(&["peering", "show", &id]).ok().contains("peer_deleted"));
    assert!(sandbox.first(&["quota"]).ok().starts_with("0 of at most "));

    let trail = sandbox.first(&["audit", "-o", "json"]).json();
    let create = trail["entries"].as_array().unwrap().iter().find(|it| it["action"] == "CreatePeering").unwrap();
    let trail = sandbox.first(&["audit", "--request", create["request"].as_str().unwrap()]).ok();
    assert!(trail.contains(&id) && trail.lines().count() == 2, "{trail}");
}

#[test]
fn a_request_is_rejected_or_blocked_beforehand() {
    let sandbox = Sandbox::start();
    let vpcs = sandbox.vpcs();
    let id = sandbox.request("p", &vpcs);
    let rejected = sandbox.second(&["peering", "reject", "p"]).ok();
    assert_eq!(rejected.trim(), format!("{id} is rejected"));
    assert!(sandbox.first(&["peering", "show", "p"]).ok().contains("rejected"));

    let other = sandbox.request("p", &vpcs);
    assert_eq!(sandbox.first(&["peering", "show", "p", "-o", "json"]).json()["vpcPeeringId"], other.as_str());
    assert!(sandbox.first(&["peering", "delete", "p"]).ok().contains(&other));
    assert_eq!(sandbox.first(&["peering", "show", "p", "-o", "json"]).json()["vpcPeeringId"], id.as_str());

    assert!(sandbox.second(&["blocked"]).ok().contains("no account is blocked"));
    sandbox.second(&["block", "account-1"]).ok();
    assert_eq!(sandbox.second(&["blocked"]).ok().trim(), "account-1");
    let (vpc, peer) = &vpcs;
    let mut line = vec!["peering", "create", "--name", "r", "--vpc", vpc, "--peer-vpc", peer, "--bandwidth", "1"];
    line.extend(["--peer-region", EAST, "--peer-account", "account-2"]);
    sandbox.first(&line).fails(1, "VpcNotFound");
    sandbox.second(&["unblock", "account-1"]).ok();
    line.extend(["--client-token", "once"]);
    let made = sandbox.first(&line).ok();
    assert_eq!(sandbox.first(&line).ok(), made, "the same request once more makes nothing new");
    line.extend(["--wait", "0"]);
    sandbox.first(&line).fails(4, "account-2 has not answered");
}

#[test]
fn lists_are_read_to_their_end() {
    let sandbox = Sandbox::start_with("peerings_per_region = 1000\n");
    let hub = text(
        &sandbox.first(&["vpc", "create", "--cidr", "10.255.0.0/16", "--name", "hub", "-o", "json"]).json()["vpcId"],
    );
    // More than fit on one page of the controller.
    let vpc = |number: u32| {
        format!(
            "[[vpcs]]\nid = \"v{number}\"\naccount = \"account-1\"\nregion = \"{NORTH}\"\ncidrs = [\"10.{number}.0.0/16\"]\n"
        )
    };
    let peering =
        |number: u32| format!("[[peerings]]\nname = \"p{number}\"\nvpc = \"{hub}\"\npeer_vpc = \"v{number}\"\n");
    let text: String = (0..120).map(vpc).chain((0..120).map(peering)).collect();
    let file = sandbox.home.path().join("inventory.toml");
    fs::write(&file, text).unwrap();
    let applied = sandbox.operator(&["apply", "-f", file.to_str().unwrap()]).ok();
    assert!(applied.lines().last().unwrap().starts_with("applied: revision "), "{applied}");
    assert_eq!(sandbox.first(&["vpc", "list"]).ok().lines().count(), 122);
    assert_eq!(sandbox.first(&["peering", "list", "-o", "json"]).json()["vpcPeerings"].as_array().unwrap().len(), 120);
}

#[test]
fn vpcs_get_and_lose_cidrs() {
    let sandbox = Sandbox::start();
    let made =
        sandbox.first(&["vpc", "create", "--cidr", "10.1.0.0/16", "--name", "blue", "--ipv6", "-o", "json"]).json();
    let id = text(&made["vpcId"]);
    assert!(made["ipv6Cidr"].is_string(), "{made}");
    let wider = sandbox.first(&["vpc", "add-cidr", &id, "10.9.0.0/16"]).ok();
    assert!(wider.contains("10.9.0.0/16"), "{wider}");
    sandbox.first(&["vpc", "add-cidr", &id, "10.1.2.0/24"]).fails(1, "overlaps");
    assert!(!sandbox.first(&["vpc", "remove-cidr", &id, "10.9.0.0/16"]).ok().contains("10.9.0.0/16"));
    sandbox.first(&["vpc", "remove-cidr", &id, "10.9.0.0/16"]).fails(1, "has no CIDR 10.9.0.0/16");
    assert!(sandbox.first(&["vpc", "show", &id]).ok().contains("blue"));
    assert!(sandbox.first(&["vpc", "list"]).ok().contains(&id));
    assert_eq!(sandbox.first(&["vpc", "delete", &id]).ok().trim(), format!("{id} is deleted"));
    sandbox.first(&["vpc", "show", &id]).fails(1, "VpcNotFound");
}

#[test]
fn an_unconfirmed_change_has_an_exit_code_of_its_own() {
    // No agent answers for the host, so that nothing is ever confirmed.
    let sandbox = Sandbox::start_with("delete_wait_ms = 1\n");
    let (a, b) = sandbox.vpcs();
    let host = format!(
        "[[hosts]]\nid = \"h1\"\nregion = \"{NORTH}\"\nunderlay = \"192.0.2.1\"\nagent = \"http://127.0.0.1:1\"\n"
    );
    let port = format!("[[ports]]\nhost = \"h1\"\ninterface = \"eth1\"\nvpc = \"{a}\"\ngateways = [\"10.1.0.1/24\"]\n");
    let file = sandbox.home.path().join("host.toml");
    fs::write(&file, format!("{host}{port}")).unwrap();
    sandbox.operator(&["apply", "-f", file.to_str().unwrap()]).ok();
    let line = ["peering", "create", "--name", "p", "--vpc", &a, "--peer-vpc", &b, "--wait", "0"];
    sandbox.operator(&line).fails(4, "these hosts have not confirmed it: h1");
    sandbox.first(&["peering", "delete", "p", "--wait", "0"]).fails(4, "still draining");
    sandbox.operator(&["peering", "delete", "p", "--wait", "0"]).fails(4, "these hosts have not confirmed it: h1");
    let list = sandbox.first(&["peering", "list", "--state", "draining", "-o", "json"]).json();
    let id = text(&list["vpcPeerings"][0]["vpcPeeringId"]);
    assert!(sandbox.first(&["peering", "delete", &id]).ok().contains("waiting for hosts: 1"));
    assert!(sandbox.operator(&["peering", "delete", &id]).ok().contains("waiting for h1"));
    // A host that is removed as dead is not waited for.
    sandbox.operator(&["admin", "host", "remove", "h1", "--dead"]).ok();
    assert!(sandbox.first(&["peering", "delete", &id, "--wait"]).ok().contains("is deleted"));
}

#[test]
fn errors_say_what_is_wrong() {
    let sandbox = Sandbox::start();
    let token = sandbox.word("/accounts/0/token");
    sandbox.with_token(token, &["vpc", "list"]).fails(2, "--region, one of: cn-east-2 cn-north-1");
    sandbox.with_token(token, &["peering", "list"]).fails(2, "--region");
    sandbox.first(&["peering", "create"]).fails(2, "--name");
    sandbox.first(&["peering", "list", "--state", "nonsense"]).fails(2, "possible values");
    sandbox
        .with_token(token, &["--region", "mars", "vpc", "list"])
        .fails(1, "there is no region mars (RegionNotFound)");
    sandbox.first(&["host", "list"]).fails(1, "operators only");
    sandbox.first(&["apply", "-f", "/nowhere.toml"]).fails(1, "/nowhere.toml: ");
    sandbox.with_token("nobody's", &["whoami"]).fails(1, "unknown token");
    sandbox.with_token("two words", &["whoami"]).fails(1, "no token has");
    sandbox.with_token(token, &["--controller", "nonsense", "whoami"]).fails(2, "not the URL of a controller");
    sandbox.with_token(token, &["--controller", "http://127.0.0.1:1", "whoami"]).fails(3, "cannot be reached");
    sandbox.with_token(token, &["--token-file", "/nowhere", "whoami"]).fails(1, "cannot read the token file /nowhere");
    let none = run(&mut sandbox.program(&["--profile", "work", "whoami"]), "");
    none.fails(1, "there is no profile work");
}

#[test]
fn profiles_are_saved_privately() {
    let sandbox = Sandbox::start();
    let (url, token) = (sandbox.word("/url"), sandbox.word("/accounts/0/token"));
    let set = ["profile", "set", "work", "--controller", url, "--region", NORTH, "--token-stdin"];
    run(&mut sandbox.program(&set), &format!("{token}\n")).ok();
    assert_eq!(fs::metadata(sandbox.config()).unwrap().mode() & 0o7777, 0o600);
    let listed = run(&mut sandbox.program(&["profile", "list"]), "").ok();
    assert!(listed.contains("work") && listed.contains(NORTH) && !listed.contains(token), "{listed}");

    let used = |arguments: &[&str]| run(&mut sandbox.program(arguments), "");
    assert!(used(&["--profile", "work", "whoami"]).ok().contains("account-1"));
    used(&["--profile", "work", "vpc", "list"]).ok();
    assert!(run(sandbox.program(&["quota"]).env("CPS_PEERING_PROFILE", "work"), "").ok().contains(NORTH));
    let here = run(sandbox.program(&["--profile", "work", "quota"]).env("CPS_PEERING_REGION", EAST), "").ok();
    assert!(here.contains(NORTH), "what the command line names wins: {here}");
    let mut command = sandbox.program(&["quota"]);
    command.env("CPS_PEERING_PROFILE", "work").env("CPS_PEERING_REGION", EAST);
    let elsewhere = run(&mut command, "").ok();
    assert!(elsewhere.contains(EAST), "then what the environment says: {elsewhere}");

    let file = sandbox.home.path().join("second.token");
    fs::write(&file, sandbox.word("/accounts/1/token")).unwrap();
    let file = file.to_str().unwrap();
    used(&["profile", "set", "default", "--controller", url, "--token-file", file]).ok();
    assert!(used(&["whoami"]).ok().contains("account-2"));
    assert!(used(&["--profile", "work", "--token-file", file, "whoami"]).ok().contains("account-2"));

    fs::set_permissions(sandbox.config(), fs::Permissions::from_mode(0o644)).unwrap();
    used(&["whoami"]).fails(1, "chmod 600");
    fs::set_permissions(sandbox.config(), fs::Permissions::from_mode(0o600)).unwrap();
    used(&["profile", "remove", "work"]).ok();
    used(&["profile", "remove", "work"]).fails(1, "there is no profile work");
    used(&["--profile", "work", "whoami"]).fails(1, "there are: default");
    fs::write(sandbox.config(), "[profiles.default]\nregoin = 1\n").unwrap();
    used(&["whoami"]).fails(1, "line 2: unknown field `regoin`");
}

#[test]
fn vpcs_are_found_by_name_and_tags_are_set_and_output_has_each_format() {
    let sandbox = Sandbox::start();
    let (blue, red) = sandbox.vpcs();
    sandbox.first(&["vpc", "create", "--cidr", "10.3.0.0/16", "--name", "green"]).ok();
    let made = ["peering", "create", "--name", "p", "--vpc", "blue", "--peer-vpc", "green", "-o", "json", "--wait"];
    let made = sandbox.first(&made).json();
    assert_eq!(made["vpcInfo"]["vpcId"], blue);
    let id = text(&made["vpcPeeringId"]);
    sandbox.first(&["vpc", "rename", "green", "teal", "--description", "d"]).ok();
    assert!(sandbox.first(&["vpc", "show", "teal"]).ok().contains("description"));
    sandbox.first(&["vpc", "show", "green"]).fails(1, "VpcNotFound");
    sandbox
        .first(&["peering", "create", "--name", "q", "--vpc", "nothing", "--peer-vpc", &red])
        .fails(1, "VpcNotFound");
    assert!(sandbox.first(&["route-table", "list", "--vpc", "teal"]).ok().contains("rtb-"));
    sandbox.first(&["vpc", "add-cidr", "teal", "10.33.0.0/16"]).ok();

    sandbox.first(&["peering", "set-tags", "p", "team=net", "flag"]).ok();
    let named = |arguments: &[&str]| sandbox.first(&[&["peering", "list", "-o", "name"], arguments].concat()).ok();
    assert_eq!(named(&[]).trim(), id);
    assert_eq!(named(&["--tag", "team=net", "--tag", "flag", "--vpc", "blue", "--sort", "-name"]).trim(), id);
    assert_eq!(named(&["--tag", "team=core"]).trim(), "");
    let list = |arguments: &[&str]| sandbox.first(&[&["peering", "list"], arguments].concat()).ok();
    assert!(list(&[]).starts_with("ID ") && list(&["--no-headers"]).starts_with("vpcpr-"));
    assert!(list(&["-o", "wide"]).contains("LAST CONFIRMED") && list(&["-o", "wide"]).contains("10.33.0.0/16"));
    let yaml = list(&["-o", "yaml"]);
    assert!(yaml.contains("vpcPeerings:\n  - ") && yaml.contains("vpcPeeringName: \"p\""), "{yaml}");
    // With -o json errors are JSON, too, with the id by which the controller's log has them.
    let ended = sandbox.first(&["peering", "show", "vpcpr-0000000000", "-o", "json"]);
    let error: Value = serde_json::from_str(&ended.err).unwrap();
    assert_eq!((ended.code, &error["exitCode"], &error["error"]["code"]), (1, &1.into(), &404.into()));
    assert_eq!(error["error"]["requestId"].as_str().unwrap().len(), 32);
    let ended = sandbox.first(&["vpc", "show", "nothing", "-o", "json"]);
    assert!(serde_json::from_str::<Value>(&ended.err).unwrap()["error"]["message"].is_string());
    // Requests are printed without secrets.
    let ended = sandbox.operator(&["--debug", "admin", "account", "add-token", "account-1", "-o", "json"]);
    let token = text(&serde_json::from_str::<Value>(&ended.out).unwrap()["token"]);
    assert!(ended.err.contains("> POST ") && ended.err.contains("< 200 OK"), "{}", ended.err);
    assert!(!ended.err.contains(&token) && !ended.err.contains(sandbox.word("/admin_token")), "{}", ended.err);
    // A name after --wait is a name.
    assert!(sandbox.first(&["peering", "delete", "--wait", "p"]).ok().contains(&format!("{id} is deleted")));
    sandbox.first(&["vpc", "delete", "teal"]).ok();
}

#[test]
fn the_command_line_wins_over_the_environment_and_login_saves_verified_tokens() {
    let sandbox = Sandbox::start();
    let login = |profile: &str, token: &str| {
        run(&mut sandbox.program(&["--controller", sandbox.word("/url"), "--profile", profile, "login"]), token)
    };
    login("work", "nobody's").fails(1, "unknown token");
    assert!(!sandbox.config().exists(), "one that nobody knows is not kept");
    assert!(login("work", sandbox.word("/accounts/1/token")).ok().contains("account account-2"));
    assert!(login("ops", sandbox.word("/admin_token")).ok().contains("as operator"));
    // Whatever the environment contains, the profile on the command line is used.
    let whoami = |arguments: &[&str]| {
        let mut command = sandbox.program(&[arguments, &["whoami", "-o", "json"]].concat());
        command.env("CPS_PEERING_TOKEN", sandbox.word("/accounts/0/token"));
        command.env("CPS_PEERING_CONTROLLER", sandbox.word("/url"));
        text(&run(&mut command, "").json()["accountId"])
    };
    assert_eq!((whoami(&[]).as_str(), whoami(&["--profile", "work"]).as_str()), ("account-1", "account-2"));
    let mut command = sandbox.program(&["--profile", "work", "whoami"]);
    assert!(run(command.env("CPS_PEERING_CONTROLLER", "http://127.0.0.1:1"), "").ok().contains("account-2"));
    // In the environment it is one of several values.
    let mut command = sandbox.program(&["whoami"]);
    command.env("CPS_PEERING_PROFILE", "work").env("CPS_PEERING_TOKEN", sandbox.word("/accounts/0/token"));
    assert!(run(&mut command, "").ok().contains("account-1"));
    let mut command = sandbox.program(&["whoami"]);
    run(&mut command, "").fails(1, "cps-peering login");
}

#[test]
fn watch_prints_changes_and_shells_complete_existing_names() {
    let sandbox = Sandbox::start();
    let (blue, _) = sandbox.vpcs();
    sandbox.first(&["vpc", "delete", "blue", "--watch"]).fails(2, "--watch");
    let mut command = sandbox.program(&["--region", NORTH, "vpc", "list", "-o", "name", "--watch", "1"]);
    command
        .env("CPS_PEERING_CONTROLLER", sandbox.word("/url"))
        .env("CPS_PEERING_TOKEN", sandbox.word("/accounts/0/token"));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), blue);
    sandbox.first(&["vpc", "create", "--cidr", "10.3.0.0/16", "--name", "green"]).ok();
    let again = [lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()];
    assert!(again.contains(&blue) && again[0] != again[1], "{again:?}");
    child.kill().unwrap();
    child.wait().unwrap();

    let completed = |line: &[&str]| {
        let mut command = sandbox.program(&[&["--"], line].concat());
        command.env("CPS_PEERING_CONTROLLER", sandbox.word("/url"));
        command.env("CPS_PEERING_TOKEN", sandbox.word("/accounts/0/token")).env("COMPLETE", "bash");
        command.env("_CLAP_COMPLETE_INDEX", (line.len() - 1).to_string()).env("_CLAP_IFS", "\n");
        run(&mut command, "").ok()
    };
    let line = ["cps-peering", "--region", NORTH, "vpc", "show"];
    let vpcs = completed(&[&line[..], &[""]].concat());
    assert!(vpcs.contains(&blue) && vpcs.lines().any(|it| it == "green"), "{vpcs}");
    assert_eq!(completed(&[&line[..], &["gr"]].concat()).trim(), "green");
    assert_eq!(
        completed(&["cps-peering", "--region", EAST, "vpc", "show", "gr"]).trim(),
        "",
        "what the line says counts"
    );
}
