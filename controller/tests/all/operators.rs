//! Named operators: their permissions, and the audit trail of their actions and of failed sign-ins.

use crate::running::{Controller, Place, TOKEN, until};
use reqwest::Method;
use serde_json::{Value, json};

const ROLES: [&str; 3] = ["read", "operate", "admin"];

fn token(name: &str) -> String {
    format!("the-token-of-{name}")
}

/// Settings with an operator for each role, named like it.
fn place() -> Place {
    let place = Place::new();
    let operators = ROLES.map(|name| {
        place.secret(name, &token(name));
        let file = place.file(name);
        format!("[[operators]]\nname = '{name}'\nrole = '{name}'\ntoken_file = '{}'\n", file.display())
    });
    let settings = format!("failures_per_min = 0\n{}", operators.concat());
    place.settings(&settings);
    place
}

async fn call(controller: &Controller, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
    let answer = controller.ask(method, path).bearer_auth(token).body(body.to_string()).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

async fn trail(controller: &Controller, token: &str, path: &str) -> Vec<Value> {
    let (code, mut answer) = call(controller, token, Method::GET, path, Value::Null).await;
    assert_eq!(code, 200, "{answer}");
    serde_json::from_value(answer["result"]["entries"].take()).unwrap()
}

#[tokio::test]
async fn each_role_has_its_permissions_and_the_trail_names_operator_and_address() {
    let controller = place().start().await;
    let north = json!({ "regions": [{ "id": "north" }] });
    for (method, path, body, from) in [
        (Method::GET, "/admin/v1/inventory", Value::Null, 0),
        (Method::GET, "/admin/v1/audit", Value::Null, 0),
        (Method::POST, "/admin/v1/apply?dryRun=true", north.clone(), 1),
        (Method::POST, "/admin/v1/apply", north, 1),
        (Method::POST, "/admin/v1/backups", json!({}), 1),
        (Method::POST, "/admin/v1/accounts", json!({ "accountId": "one" }), 2),
        (Method::PUT, "/admin/v1/accounts/one/chargeStatus", json!({ "chargeStatus": "normal" }), 1),
        (Method::PUT, "/admin/v1/accounts/one/quotas/north", json!({ "maxLimit": 7 }), 1),
        (Method::POST, "/admin/v1/accounts/one/tokens", json!({}), 2),
        (Method::POST, "/admin/v1/accounts/one/keys", json!({}), 2),
    ] {
        for (number, name) in ROLES.iter().enumerate() {
            let (code, answer) = call(&controller, &token(name), method.clone(), path, body.clone()).await;
            if number >= from {
                assert_eq!(code, 200, "{name}: {method} {path}: {answer}");
            } else {
                assert_eq!(code, 403, "{name}: {method} {path}: {answer}");
                let message = answer["error"]["message"].as_str().unwrap();
                assert!(message.contains(&format!("operator/{name} has the role {name}")), "{message}");
                assert!(message.contains(&format!("needs {}", ROLES[from])), "{message}");
            }
        }
    }
    let (_, who) = call(&controller, &token("operate"), Method::GET, "/v1/whoami", Value::Null).await;
    assert_eq!((&who["result"]["operator"], &who["result"]["operatorRole"]), (&json!("operate"), &json!("operate")));
    let (_, who) = call(&controller, TOKEN, Method::GET, "/v1/whoami", Value::Null).await;
    assert_eq!((&who["result"]["operator"], &who["result"]["operatorRole"]), (&Value::Null, &json!("admin")));
    call(&controller, TOKEN, Method::PUT, "/admin/v1/accounts/one/quotas/north", json!({ "maxLimit": 8 })).await;
    let entries = trail(&controller, TOKEN, "/admin/v1/audit?limit=1000").await;
    let of = |actor: &str, action: &str, outcome: &str| {
        let it = |it: &&Value| it["actor"] == actor && it["action"] == action && it["outcome"] == outcome;
        entries.iter().filter(it).collect::<Vec<_>>()
    };
    for (actor, action, outcome) in [
        ("operator/operate", "Apply", "done"),
        ("operator/admin", "CreateAccount", "done"),
        ("operator/operate", "SetQuota", "done"),
        ("operator", "SetQuota", "done"),
        ("operator/read", "PermissionDenied", "refused"),
        ("operator/operate", "PermissionDenied", "refused"),
    ] {
        let found = of(actor, action, outcome);
        assert!(!found.is_empty(), "{actor} {action} {outcome}: {entries:#?}");
        assert!(found.iter().all(|it| it["from"] == "127.0.0.1" && it["request"] != ""), "{found:?}");
    }
    assert!(
        of("operator/read", "PermissionDenied", "refused")
            .iter()
            .any(|it| it["target"] == "POST /apply" || it["target"] == "POST /admin/v1/apply")
    );
    // An account sees that an operator did it, and neither which one nor from where.
    let (_, made) = call(&controller, TOKEN, Method::POST, "/admin/v1/accounts/one/tokens", json!({})).await;
    let one = made["result"]["token"].as_str().unwrap();
    let seen = trail(&controller, one, "/v1/auditEntries").await;
    let quota = seen.iter().find(|it| it["action"] == "SetQuota").unwrap();
    assert_eq!((&quota["actor"], &quota["from"]), (&json!("operator"), &json!("")));
    assert!(!format!("{seen:?}").contains("operator/"), "{seen:?}");
}

#[tokio::test]
async fn a_removed_operator_or_one_with_another_role_loses_access_immediately() {
    let controller = place().start().await;
    let cookie = controller.sign_in(json!({ "token": token("admin") })).await.unwrap();
    let create = async |id: &str| {
        let request = controller.ask(Method::POST, "/admin/v1/accounts").header("cookie", &cookie);
        let request = request.header("x-cps-console", "user").body(json!({ "accountId": id }).to_string());
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(create("one").await, 200);
    let entries = trail(&controller, TOKEN, "/admin/v1/audit").await;
    assert_eq!((&entries[0]["actor"], &entries[0]["action"]), (&json!("operator/admin"), &json!("CreateAccount")));
    let (file, read) = (controller.place.file("admin"), controller.place.file("read"));
    let two = |role: &str| {
        let text = format!("[[operators]]\nname = 'admin'\nrole = '{role}'\ntoken_file = '{}'\n", file.display());
        controller.place.settings(&text);
    };
    two("operate");
    controller.reload().await;
    assert_eq!(create("two").await, 401, "the session was an administrator's");
    let (code, _) =
        call(&controller, &token("admin"), Method::POST, "/admin/v1/accounts", json!({ "accountId": "two" })).await;
    assert_eq!(code, 403);
    assert_eq!(controller.code(&token("read"), "/admin/v1/inventory").await, 401, "it is not named any more");
    // Invalid settings are not applied.
    two("root");
    controller.signal("-HUP");
    until("it is said", async || controller.log().contains("settings stay as they were")).await;
    assert_eq!(controller.code(&token("admin"), "/admin/v1/inventory").await, 200);
    let text = format!("[[operators]]\nname = 'a'\nrole = 'read'\ntoken_file = '{}'\n", read.display());
    std::fs::write(&read, TOKEN).unwrap();
    controller.place.settings(&text);
    let output = controller.place.run(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(64) && said.contains("operator a has the same token as another operator"),
        "{said}"
    );
}

#[tokio::test]
async fn failed_sign_ins_are_in_the_trail_of_operators_and_of_the_keys_owner_and_limited() {
    let controller = place().start().await;
    controller.operator(Method::POST, "/admin/v1/apply", json!({ "regions": [{ "id": "north" }] })).await;
    let [key, secret, one] = controller.account("one").await;
    let [_, _, other] = controller.account("other").await;
    assert_eq!(controller.sign_in(json!({ "accessKey": key, "secretKey": "wrong" })).await, Err(401));
    assert_eq!(controller.sign_in(json!({ "accessKey": "JDC_NOBODY", "secretKey": secret })).await, Err(401));
    assert_eq!(controller.sign_in(json!({ "token": "a guess" })).await, Err(401));
    assert_eq!(controller.code("another-guess", "/v1/whoami").await, 401);
    let failures = async |token: &str, path: &str| {
        let entries = trail(&controller, token, path).await;
        entries.into_iter().filter(|it| it["action"] == "SignIn").collect::<Vec<_>>()
    };
    let all = failures(TOKEN, "/admin/v1/audit").await;
    let targets: Vec<&str> = all.iter().map(|it| it["target"].as_str().unwrap()).collect();
    assert_eq!(targets, ["bearer token", "bearer token", "access key JDC_NOBODY", &format!("access key {key}")]);
    assert!(all.iter().all(|it| it["actor"] == "unknown" && it["outcome"] == "refused" && it["from"] == "127.0.0.1"));
    assert!(!format!("{all:?}").contains("guess"), "what was tried is not told");
    let own = failures(&one, "/v1/auditEntries").await;
    assert_eq!((own.len(), &own[0]["from"]), (1, &json!("127.0.0.1")));
    assert_eq!(failures(&other, "/v1/auditEntries").await, Vec::<Value>::new());
    // However many there are, only so many are recorded each minute.
    for number in 0..200 {
        assert_eq!(controller.code(&format!("guess-{number}"), "/v1/whoami").await, 401);
    }
    let told = failures(TOKEN, "/admin/v1/audit?limit=1000").await.len();
    // Ten of an address and credential. The test may span ends of minutes.
    assert!((11..60).contains(&told), "{told}");
    assert_eq!(controller.code(&one, "/v1/whoami").await, 200);
}
