//! Machines by the Machines API.

use super::{Platform, web};
use serde_json::{Value, json};

#[tokio::test]
async fn a_machine_goes_through_its_life_by_the_machines_api() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "other"}))
        .await;
    let body = json!({"config": web("hello"), "name": "one"});
    let (status, machine) = platform.call("POST", "/v1/apps/web/machines", body).await;
    assert_eq!(
        (status.as_u16(), &machine["state"]),
        (201, &json!("started")),
        "{machine}"
    );
    let path = format!("/v1/apps/web/machines/{}", machine["id"].as_str().unwrap());
    let ok = async |method: &str, suffix: &str, body: Value| {
        let (status, answer) = platform
            .call(method, &format!("{path}{suffix}"), body)
            .await;
        assert!(status.is_success(), "{method} {suffix}: {answer}");
        answer
    };
    ok(
        "POST",
        "/stop",
        json!({"signal": "SIGTERM", "timeout": "5s"}),
    )
    .await;
    ok("GET", "/wait?state=stopped&timeout=5", Value::Null).await;
    assert_eq!(
        ok("POST", "/start", Value::Null).await["previous_state"],
        "stopped"
    );
    ok("POST", "/restart", Value::Null).await;
    ok("POST", "/signal", json!({"signal": 1})).await;
    ok("POST", "/cordon", Value::Null).await;
    assert_eq!(ok("GET", "", Value::Null).await["cordoned"], true);
    ok("POST", "/uncordon", Value::Null).await;
    assert_eq!(
        ok("POST", "/exec", json!({"cmd": "echo 'a b'"})).await["stdout"],
        "echo a b"
    );
    let last = &ok("GET", "/events?limit=1", Value::Null).await[0];
    assert_eq!(
        (&last["type"], &last["source"]),
        (&json!("uncordon"), &json!("user"))
    );
    let (_, token) = platform.call("GET", "/v1/token", Value::Null).await;
    assert_eq!(
        last["request"]["cause"],
        json!({"kind": "user", "token": token["id"], "name": token["name"]})
    );
    let (status, error) = platform
        .call(
            "GET",
            &format!("{path}/wait?state=stopped&timeout=0"),
            Value::Null,
        )
        .await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (408, &json!("wait-timeout"))
    );
    ok("DELETE", "?force=true", Value::Null).await;
    ok("GET", "/wait?state=destroyed", Value::Null).await;
    platform.stop().await;
}

#[tokio::test]
async fn a_machine_is_kept_from_other_apps_old_versions_and_careless_removal() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    for app in ["web", "other"] {
        platform
            .call("POST", "/v1/apps", json!({"app_name": app}))
            .await;
    }
    let body = json!({"config": web("hello")});
    let (_, machine) = platform.call("POST", "/v1/apps/web/machines", body).await;
    let path = format!("/v1/apps/web/machines/{}", machine["id"].as_str().unwrap());
    let elsewhere = path.replace("/web/", "/other/");
    assert_eq!(
        platform.call("GET", &elsewhere, Value::Null).await.0,
        404,
        "another app's machine is not seen"
    );
    assert_eq!(platform.call("DELETE", &path, Value::Null).await.0, 409);
    let update = json!({"config": web("hello:2"), "current_version": "01ARZ3NDEKTSV4RRFFQ69G5FAV"});
    assert_eq!(
        platform.call("POST", &path, update).await.1["code"],
        "machine-conflict"
    );
    platform.stop().await;
}

#[tokio::test]
async fn a_machine_is_suspended_and_resumed_by_the_machines_api() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    for app in ["web", "other"] {
        platform
            .call("POST", "/v1/apps", json!({"app_name": app}))
            .await;
    }
    let mut config = web("hello");
    config["isolation"] = json!("vm-emulated");
    let body = json!({"config": config});
    let (_, machine) = platform.call("POST", "/v1/apps/web/machines", body).await;
    assert_eq!(
        (&machine["rung"], &machine["config"]["isolation"]),
        (&json!("vm-emulated"), &json!("vm-emulated"))
    );
    let path = format!("/v1/apps/web/machines/{}", machine["id"].as_str().unwrap());
    let elsewhere = path.replace("/web/", "/other/");
    let suspend = async |path: &str| {
        let (status, answer) = platform
            .call("POST", &format!("{path}/suspend"), Value::Null)
            .await;
        (status.as_u16(), answer)
    };
    assert_eq!(suspend(&elsewhere).await.1["code"], "machine-not-found");
    for _ in 0..2 {
        assert_eq!(suspend(&path).await, (200, json!({"ok": true})));
    }
    let wait = format!("{path}/wait?state=suspended&timeout=5");
    assert_eq!(platform.call("GET", &wait, Value::Null).await.0, 200);
    let start = format!("{path}/start");
    let (_, started) = platform.call("POST", &start, Value::Null).await;
    assert_eq!(started["previous_state"], "suspended");
    platform
        .call("POST", &format!("{path}/stop"), json!({}))
        .await;
    let (status, error) = suspend(&path).await;
    assert_eq!((status, &error["code"]), (409, &json!("machine-conflict")));
    platform.stop().await;
}

#[tokio::test]
async fn a_container_is_not_suspended_and_an_unknown_isolation_is_refused_with_the_known_ones() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let body = json!({"config": web("hello")});
    let (_, machine) = platform.call("POST", "/v1/apps/web/machines", body).await;
    let id = machine["id"].as_str().unwrap();
    let path = format!("/v1/apps/web/machines/{id}/suspend");
    let (status, error) = platform.call("POST", &path, Value::Null).await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (422, &json!("cannot-suspend"))
    );
    assert!(error["hint"].as_str().unwrap().contains("vm-emulated"));
    let mut config = web("hello");
    config["isolation"] = json!("gvisor");
    let body = json!({"config": config});
    let (status, error) = platform.call("POST", "/v1/apps/web/machines", body).await;
    assert_eq!(status, 422);
    let fault = &error["faults"][0];
    assert_eq!(fault["path"], "isolation");
    let problem = fault["problem"].as_str().unwrap();
    assert!(problem.contains("container, vm-emulated, vm"), "{problem}");
    platform.stop().await;
}

#[tokio::test]
async fn the_node_says_which_rungs_it_offers_and_why_not_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    let (_, node) = platform.call("GET", "/v1/node", Value::Null).await;
    assert_eq!(node["isolation"], "container", "never emulation unasked");
    assert_eq!(
        node["rungs"],
        json!([
            {"rung": "container"},
            {"rung": "vm-emulated"},
            {"rung": "vm", "refusal": "there is no KVM"}
        ])
    );
    platform.stop().await;
}
