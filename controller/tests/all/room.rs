//! A store without space, and with space again: commands that free space succeed, others wait, and no restart is needed.
//! On a real disk that is full, and with a real etcd whose quota is used up.

use crate::etcd::Members;
use crate::running::{Controller, Place, TOKEN, until};
use reqwest::Method;
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, process::Command};

const REGION: &str = "/v1/regions/north";

async fn call(controller: &Controller, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
    let answer = controller.ask(method, path).bearer_auth(token).body(body.to_string()).send().await.unwrap();
    let code = answer.status().as_u16();
    (code, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
}

/// The response of `/healthz`, with its code.
async fn health(controller: &Controller) -> (u16, String) {
    let Ok(answer) = controller.ask(Method::GET, "/healthz").send().await else { return (0, String::new()) };
    (answer.status().as_u16(), answer.text().await.unwrap_or_default())
}

/// Two accounts with a VPC each in both regions, and their tokens.
async fn furnish(controller: &Controller) -> [String; 2] {
    let vpc = |n: usize| {
        let (account, region) = (["one", "two"][n % 2], ["north", "east"][n / 2 % 2]);
        json!({ "id": format!("v{n}"), "account": account, "region": region, "cidrs": [format!("10.{n}.0.0/16")] })
    };
    let regions = json!([{ "id": "north" }, { "id": "east" }]);
    let inventory = json!({ "regions": regions, "vpcs": (0..40).map(vpc).collect::<Vec<_>>() });
    controller.operator(Method::POST, "/admin/v1/apply", inventory).await;
    [controller.account("one").await, controller.account("two").await].map(|[_, _, token]| token)
}

/// Asks for a peering of two VPCs.
async fn peer(controller: &Controller, token: &str, own: usize, other: usize) -> (u16, Value) {
    let account = ["one", "two"][other % 2];
    let mut body = json!({ "vpcPeeringName": format!("p{own}-{other}"), "vpcId": format!("v{own}"),
        "remoteVpcId": format!("v{other}"), "remoteAccountId": account });
    if other / 2 % 2 == 1 {
        (body["remoteRegionId"], body["bandwidth"]) = ("east".into(), 10.into());
    }
    call(controller, token, Method::POST, &format!("{REGION}/vpcPeerings/"), body).await
}

fn id((code, answer): (u16, Value)) -> String {
    assert_eq!(code, 200, "{answer}");
    answer["result"]["vpcPeering"]["vpcPeeringId"].as_str().unwrap().to_owned()
}

/// The objects before the space is used up.
struct Before {
    tokens: [String; 2],
    to_delete: Vec<String>,
    to_reject: Vec<String>,
    to_suspend: String,
}

async fn before(controller: &Controller) -> Before {
    let tokens = furnish(controller).await;
    let mut to_delete = Vec::new();
    for n in 0..4 {
        to_delete.push(id(peer(controller, &tokens[0], 0, 4 + 4 * n).await));
    }
    let mut to_reject = Vec::new();
    for n in 0..4 {
        to_reject.push(id(peer(controller, &tokens[0], 4, 1 + 4 * n).await));
    }
    let to_suspend = id(peer(controller, &tokens[0], 0, 2).await);
    Before { tokens, to_delete, to_reject, to_suspend }
}

/// Without space, commands that free space succeed, and no others.
async fn makes_room_only(controller: &Controller, before: &mut Before) {
    let [one, two] = &before.tokens;
    let (code, answer) = peer(controller, one, 8, 12).await;
    assert_eq!((code, &answer["error"]["details"][0]["reason"]), (503, &"StoreLowSpace".into()), "{answer}");
    let vpc = json!({ "vpcSpec": { "cidr": "10.200.0.0/16", "name": "more" } });
    assert_eq!(call(controller, two, Method::PUT, &format!("{REGION}/vpcs"), vpc).await.0, 503);
    let path = format!("{REGION}/vpcPeerings/{}", before.to_delete.pop().unwrap());
    let (code, answer) = call(controller, one, Method::DELETE, &path, json!({})).await;
    assert_eq!(code, 200, "{answer}");
    let path = format!("{REGION}/vpcPeerings/{}:rejectVpcPeering", before.to_reject.pop().unwrap());
    let (code, answer) = call(controller, two, Method::POST, &path, json!({})).await;
    assert_eq!(code, 200, "{answer}");
    for status in ["arrear", "normal", "arrear"] {
        let body = json!({ "chargeStatus": status });
        let (code, answer) = call(controller, TOKEN, Method::PUT, "/admin/v1/accounts/one/chargeStatus", body).await;
        assert_eq!(code, 200, "{answer}");
    }
    let seen = controller.get(one, &format!("{REGION}/vpcPeerings/{}", before.to_suspend)).await;
    assert!(seen.text().await.unwrap().contains("\"suspended\""));
    // What is refused meanwhile takes no space, however often.
    for _ in 0..300 {
        assert_eq!(peer(controller, two, 1, 5).await.0, 503);
    }
    let body = json!({ "chargeStatus": "normal" });
    assert_eq!(call(controller, TOKEN, Method::PUT, "/admin/v1/accounts/one/chargeStatus", body).await.0, 200);
}

/// Runs a program in the controller's mount namespace.
fn beside(controller: &Controller, script: &str) -> bool {
    let id = controller.id().to_string();
    Command::new("nsenter").args(["-t", &id, "-m", "bash", "-c", script]).output().unwrap().status.success()
}

#[tokio::test]
async fn a_full_disk_leaves_deletes_and_recovery_is_automatic() {
    let place = Place::new();
    let disk = place.file("disk");
    fs::create_dir(&disk).unwrap();
    let (shown, token) = (disk.display().to_string(), place.file("token"));
    let settings = format!(
        "listen = '127.0.0.1:0'\nstore = '{shown}/store.redb'\noperator_token_file = '{}'\ntls = 'off'\n",
        token.display()
    );
    fs::write(place.file("controller.toml"), settings).unwrap();
    let mut command = Command::new("unshare");
    let script = format!(
        "mount -t tmpfs -o size=48m tmpfs '{shown}' && exec '{}' --settings '{}'",
        env!("CARGO_BIN_EXE_cps-peering-controller"),
        place.file("controller.toml").display()
    );
    command.env_remove("RUST_LOG").args(["-m", "bash", "-c", &script]);
    let controller = place.start_as(command).await;
    let mut before = before(&controller).await;
    assert_eq!(health(&controller).await, (200, "ok\n".to_owned()));
    let ready = async || {
        let answer = controller.ask(Method::GET, "/readyz").send().await.unwrap();
        let said: Value = answer.json().await.unwrap();
        (said["ready"] == true, said["reasons"][0]["reason"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ready().await, (true, String::new()));
    for round in 0..2 {
        // Other files take all the space.
        assert!(!beside(&controller, &format!("dd if=/dev/zero of='{shown}/filler' bs=64K")), "it fills the disk");
        until("the full disk is seen", async || health(&controller).await.1.contains("deletes, rejects")).await;
        assert_eq!(ready().await, (true, "StoreLowSpace".to_owned()));
        makes_room_only(&controller, &mut before).await;
        assert!(beside(&controller, &format!("rm '{shown}/filler'")));
        until("there is room", async || health(&controller).await == (200, "ok\n".to_owned())).await;
        id(peer(&controller, &before.tokens[0], 8, 12 + 4 * round).await);
    }
    // What was acknowledged is kept.
    let answers = controller.get(&before.tokens[0], &format!("{REGION}/vpcPeerings/?pageSize=100")).await;
    let answers: Value = serde_json::from_str(&answers.text().await.unwrap()).unwrap();
    let live = |list: &Value| {
        let all = list["result"]["vpcPeerings"].as_array().unwrap().iter();
        all.filter(|it| it["vpcPeeringState"] != "Disconnected").count()
    };
    assert_eq!(live(&answers), 2 + 2 + 1 + 2, "{answers}");
}

#[tokio::test]
async fn a_full_etcd_leaves_deletes_and_then_reads_until_there_is_space_again() {
    const QUOTA_MB: usize = 16;
    let members = Members::start_with(1, &["--quota-backend-bytes", &(QUOTA_MB << 20).to_string()]);
    let place = Place::new();
    place.secret("store.key", &"7".repeat(64));
    // After a restart it must be found at the same address.
    let listen = crate::loopback::unused();
    let file = |name: &str| place.file(name).display().to_string();
    let settings = format!(
        "listen = '{listen}'\noperator_token_file = '{}'\ntls = 'off'\nstore_key_file = '{}'\n[etcd]\nendpoints = ['{}']\n\
         advertise = 'http://127.0.0.1:1'\nprefix = '/room/'\nquota_mb = {QUOTA_MB}\nbackups = '{}'\n",
        file("token"),
        file("store.key"),
        members.url(0),
        file("backups")
    );
    fs::write(place.file("controller.toml"), settings).unwrap();
    fs::set_permissions(place.file("controller.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    let controller = place.start().await;
    let leads = async || health(&controller).await == (200, "ok leader\n".to_owned());
    until("it leads", leads).await;
    let mut before = before(&controller).await;
    // Another prefix is filled, by so many bytes at a time.
    let fill = |bytes: usize| {
        let text = "x".repeat(bytes);
        let name = format!("/other/{}", fastrand::u64(..));
        let put = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args([&format!("--endpoints={}", members.url(0)), "put", &name, &text])
            .output()
            .unwrap();
        put.status.success()
    };
    let is_low = async || health(&controller).await.1.contains("deletes, rejects");
    let used = || {
        let status: Value = serde_json::from_str(&members.control(&["endpoint", "status", "-w", "json"])).unwrap();
        usize::try_from(status[0]["Status"]["dbSize"].as_u64().unwrap()).unwrap()
    };
    while used() < (QUOTA_MB << 20) / 100 * 91 {
        assert!(fill(100_000));
    }
    until("that is seen", is_low).await;
    makes_room_only(&controller, &mut before).await;
    while fill(100_000) {}
    while fill(1000) {}
    // It detects that by itself. No other could write either, so it continues to lead, and answers reads.
    let takes_no_writes = async || {
        let (status, text) = health(&controller).await;
        status == 503 && text.contains("takes no writes")
    };
    until("it says that it cannot write", takes_no_writes).await;
    let read =
        controller.ask(Method::GET, "/v1/regions/north/vpcs").bearer_auth(&before.tokens[0]).send().await.unwrap();
    assert_eq!(read.status().as_u16(), 200);
    assert!(peer(&controller, &before.tokens[0], 8, 12).await.0 >= 500);
    members.control(&["del", "--prefix", "/other/"]);
    // Compaction keeps the values at its own revision: it must be one after the deletion.
    let revision = members.control(&["get", "x", "-w", "json"]);
    let revision: Value = serde_json::from_str(&revision).unwrap();
    members.control(&["compact", &revision["header"]["revision"].to_string()]);
    members.control(&["defrag"]);
    members.control(&["alarm", "disarm"]);
    // An earlier measurement of the space may be used for some seconds more.
    until("it creates again", async || peer(&controller, &before.tokens[0], 8, 12).await.0 == 200).await;
}
