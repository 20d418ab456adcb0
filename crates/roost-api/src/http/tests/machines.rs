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

#[tokio::test]
async fn a_leased_machine_is_changed_by_its_holder_only_and_nobody_reads_the_nonce() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let body = json!({"config": web("hello"), "lease_ttl": 60});
    let (_, machine) = platform.call("POST", "/v1/apps/web/machines", body).await;
    let nonce = machine["nonce"].as_str().unwrap();
    let path = format!("/v1/apps/web/machines/{}", machine["id"].as_str().unwrap());
    let lease = format!("{path}/lease");
    let (status, seen) = platform.call("GET", &lease, Value::Null).await;
    assert_eq!(
        (status.as_u16(), &seen["data"]["owner"]),
        (200, &json!("test"))
    );
    assert_eq!(seen["data"].get("nonce"), None);
    let stop = format!("{path}/stop");
    let (status, error) = platform.call("POST", &stop, json!({})).await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (409, &json!("machine-leased"))
    );
    let text = error["error"].as_str().unwrap();
    assert!(text.contains("leased by test for another"), "{text}");

    for header in ["fly-machine-lease-nonce", "roost-machine-lease-nonce"] {
        let (status, answer) = platform
            .call_with_header("POST", &stop, (header, nonce), json!({}))
            .await;
        assert_eq!(status, 200, "{answer}");
    }
    let own = ("fly-machine-lease-nonce", nonce);
    let (_, seen) = platform
        .call_with_header("GET", &lease, own, Value::Null)
        .await;
    assert_eq!(seen["data"]["nonce"], nonce);
    let more = format!("{lease}?ttl=120");
    let (status, longer) = platform
        .call_with_header("POST", &more, own, json!({}))
        .await;
    assert_eq!(
        (status.as_u16(), &longer["data"]["nonce"]),
        (201, &json!(nonce))
    );
    assert!(longer["data"]["expires_at"].as_u64() > seen["data"]["expires_at"].as_u64());

    assert_eq!(platform.call("DELETE", &lease, Value::Null).await.0, 400);
    let wrong = ("fly-machine-lease-nonce", "x");
    let (status, _) = platform
        .call_with_header("DELETE", &lease, wrong, Value::Null)
        .await;
    assert_eq!(status, 400);
    let (status, _) = platform
        .call_with_header("DELETE", &lease, own, Value::Null)
        .await;
    assert_eq!(status, 200);
    let (status, error) = platform.call("GET", &lease, Value::Null).await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (404, &json!("lease-not-found"))
    );
    platform.call("POST", &lease, json!({"ttl": 60})).await;
    let force = format!("{lease}?force=true");
    assert_eq!(platform.call("DELETE", &force, Value::Null).await.0, 200);
    platform.stop().await;
}

#[tokio::test]
async fn a_deployment_does_not_begin_while_one_of_its_machines_is_leased() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    let app = json!({"app_name": "web"});
    platform.call("POST", "/v1/apps", app).await;
    platform
        .deploy("web", json!({"config": web("hello")}))
        .await;
    let id = platform.machines("web").await[0]["id"].clone();
    let lease = format!("/v1/apps/web/machines/{}/lease", id.as_str().unwrap());
    platform.call("POST", &lease, json!({"ttl": 60})).await;
    let body = json!({"config": web("next")});
    let (status, error) = platform
        .call("POST", "/v1/apps/web/deployments", body)
        .await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (409, &json!("machine-leased"))
    );
    let force = format!("{lease}?force=true");
    platform.call("DELETE", &force, Value::Null).await;
    let next = platform.deploy("web", json!({"config": web("next")})).await;
    assert_eq!(next["status"], "succeeded", "{next}");
    platform.stop().await;
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_only_of_the_version_that_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let mut config = web("hello");
    config["env"] = json!({"A": "1", "B": "2"});
    let body = json!({"config": config});
    let (_, machine) = platform.call("POST", "/v1/apps/web/machines", body).await;
    let path = format!("/v1/apps/web/machines/{}", machine["id"].as_str().unwrap());
    let change = json!({"env": {"A": null, "C": "3"}});
    let patch = json!({"config": change, "current_version": machine["instance_id"]});
    let (status, patched) = platform.call("PATCH", &path, patch.clone()).await;
    assert_eq!(status, 200, "{patched}");
    assert_eq!(patched["config"]["env"], json!({"B": "2", "C": "3"}));
    assert_eq!(patched["config"]["image"], machine["config"]["image"]);
    let (status, error) = platform.call("PATCH", &path, patch).await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (409, &json!("machine-conflict"))
    );
    let blind = json!({"config": {}});
    assert_eq!(platform.call("PATCH", &path, blind).await.0, 400);
    platform.stop().await;
}

#[tokio::test]
async fn processes_are_listed_and_waits_take_versions_and_events() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let body = json!({"config": web("hello")});
    let (_, machine) = platform.call("POST", "/v1/apps/web/machines", body).await;
    let path = format!("/v1/apps/web/machines/{}", machine["id"].as_str().unwrap());
    let (_, processes) = platform
        .call("GET", &format!("{path}/ps"), Value::Null)
        .await;
    assert_eq!(processes[0]["pid"], 1, "{processes}");
    let wait = async |query: &str| {
        let path = format!("{path}/wait?timeout=0&{query}");
        platform.call("GET", &path, Value::Null).await.0.as_u16()
    };
    let version = machine["instance_id"].as_str().unwrap();
    assert_eq!(wait(&format!("version={version}")).await, 200);
    assert_eq!(wait("version=01ARZ3NDEKTSV4RRFFQ69G5FAV").await, 409);
    assert_eq!(wait("state=stopped&state=started").await, 200);
    assert_eq!(wait("state=settled").await, 200);
    assert_eq!(wait("state=started&from_event_id=0").await, 200);
    assert_eq!(wait("state=started&from_event_id=1000").await, 408);
    platform
        .call("POST", &format!("{path}/stop"), json!({}))
        .await;
    assert_eq!(
        wait("state=started&from_event_id=0").await,
        200,
        "it was so since"
    );
    let (status, _) = platform
        .call("GET", &format!("{path}/ps"), Value::Null)
        .await;
    assert_eq!(status, 409);
    platform.stop().await;
}
