//! Operations of an app: the runs of its deployments, and those of its machines.

use super::platform::PATIENCE;
use super::{Platform, web};
use roost_testkit::sim_worker::Fate;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

const LIST: &str = "/v1/apps/web/operations";

async fn start(dir: &Path) -> Platform {
    let platform = Platform::start(dir).await;
    create_app(&platform).await;
    platform
}

async fn create_app(platform: &Platform) {
    let body = json!({"app_name": "web"});
    platform.call("POST", "/v1/apps", body).await;
}

async fn operations(platform: &Platform, query: &str) -> Vec<Value> {
    let path = format!("{LIST}{query}");
    let (_, operations) = platform.call("GET", &path, Value::Null).await;
    operations.as_array().unwrap().clone()
}

async fn show(platform: &Platform, id: &str) -> Value {
    let path = format!("{LIST}/{id}");
    platform.call("GET", &path, Value::Null).await.1
}

async fn cancel(platform: &Platform, id: &str) -> (u16, Value) {
    let path = format!("{LIST}/{id}/cancel");
    let (status, answer) = platform.call("POST", &path, Value::Null).await;
    (status.as_u16(), answer)
}

/// The first of the app's operations of this kind, once there is one.
async fn first(platform: &Platform, kind: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let operations = operations(platform, "?unfinished=true").await;
        if let Some(found) = operations.iter().find(|one| one["kind"] == kind) {
            return found["id"].as_str().unwrap().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no {kind} is under way");
}

/// Step, direction and outcome of each attempt.
fn story(operation: &Value) -> Vec<[&str; 3]> {
    let steps = operation["steps"].as_array().unwrap().iter();
    let words = ["name", "direction", "outcome"];
    steps
        .map(|step| words.map(|word| step[word].as_str().unwrap_or("under way")))
        .collect()
}

#[tokio::test]
async fn a_deployment_is_an_operation_with_the_steps_of_its_run() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let deployed = platform
        .deploy("web", json!({"config": web("hello")}))
        .await;
    let deadline = Instant::now() + PATIENCE;
    // The run ends a moment after its last step.
    while !operations(&platform, "?unfinished=true").await.is_empty() {
        assert!(Instant::now() < deadline, "the run ends");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let listed = operations(&platform, "").await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    let deploy = &listed[0];
    assert_eq!(
        [&deploy["kind"], &deploy["subject"], &deploy["status"]],
        ["deploy", "app/web", "succeeded"]
    );
    assert_eq!(deploy["cause"]["name"], "test", "who asked for it");
    let shown = show(&platform, deploy["id"].as_str().unwrap()).await;
    assert_eq!(
        story(&shown),
        ["plan", "roll", "commit", "retire", "finish"].map(|step| [step, "do", "done"])
    );
    for step in shown["steps"].as_array().unwrap() {
        assert_eq!(step["attempt"], 1);
        assert!(step["started_at"].as_u64() <= step["ended_at"].as_u64());
    }
    let by_deployment = show(&platform, deployed["id"].as_str().unwrap()).await;
    assert_eq!(by_deployment, shown, "under the deployment's own id too");
    let (status, error) = cancel(&platform, deploy["id"].as_str().unwrap()).await;
    assert_eq!(
        (status, &error["code"]),
        (409, &json!("too-late-to-cancel"))
    );
    let (status, _) = cancel(&platform, "run_00000000000000000000000001").await;
    assert_eq!(status, 404);
    platform.stop().await;
}

#[tokio::test]
async fn an_app_does_not_see_what_was_done_to_an_earlier_one_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let deployed = platform
        .deploy("web", json!({"config": web("hello")}))
        .await;
    let id = deployed["id"].as_str().unwrap();
    platform
        .call("POST", "/v1/apps", json!({"app_name": "other"}))
        .await;
    let path = format!("/v1/apps/other/operations/{id}");
    assert_eq!(platform.call("GET", &path, Value::Null).await.0, 404);
    let (status, error) = platform
        .call("DELETE", "/v1/apps/web?force=true", Value::Null)
        .await;
    assert!(status.is_success(), "{error}");
    let deadline = Instant::now() + PATIENCE;
    while platform.call("GET", "/v1/apps/web", Value::Null).await.0 != 404 {
        assert!(Instant::now() < deadline, "the app goes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    create_app(&platform).await;
    assert_eq!(operations(&platform, "").await, [] as [Value; 0]);
    assert_eq!(show(&platform, id).await["code"], "operation-not-found");
    platform.stop().await;
}

#[tokio::test]
async fn a_machine_is_not_stopped_under_its_deployment_which_is_cancelled_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    platform.worker.set_fate("slow", Fate::Hangs);
    let body = json!({"config": web("slow"), "wait_timeout": 3600});
    let (_, begun) = platform
        .call("POST", "/v1/apps/web/deployments", body)
        .await;
    let creation = first(&platform, "create").await;
    let (status, error) = cancel(&platform, &creation).await;
    assert_eq!(
        (status, &error["code"]),
        (409, &json!("deploy-in-progress"))
    );
    assert_eq!(platform.machines("web").await[0]["state"], "starting");

    let deploy = first(&platform, "deploy").await;
    let (status, answer) = cancel(&platform, &deploy).await;
    assert_eq!((status, &answer["id"]), (202, &json!(deploy)), "{answer}");
    let id = begun["id"].as_str().unwrap();
    let ended = platform.finished("web", id).await;
    assert_eq!(ended["error"]["code"], "deploy-cancelled", "{ended}");
    assert!(platform.machines("web").await.is_empty());
    let shown = show(&platform, &deploy).await;
    assert_eq!(
        story(&shown)[..4],
        [
            ["plan", "do", "done"],
            ["roll", "do", "dropped"],
            ["roll", "undo", "done"],
            ["plan", "undo", story(&shown)[3][2]],
        ]
    );
    assert_eq!(cancel(&platform, &deploy).await.0, 202, "again is harmless");
    platform.stop().await;
}
