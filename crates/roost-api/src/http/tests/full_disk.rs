//! A control database that cannot grow.

use super::platform::PATIENCE;
use super::{Platform, web};
use roost_testkit::wait::wait_until_async;
use serde_json::{Value, json};
use std::time::Duration;

/// A config that needs more room than any that is left.
fn large() -> Value {
    let mut config = web("hello");
    config["env"] = json!({"LARGE": "x".repeat(100_000)});
    config
}

#[tokio::test]
async fn a_full_disk_is_said_with_what_to_do_and_room_is_enough_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    platform.state.store.limit_pages(1).await.unwrap();
    let deployments = "/v1/apps/web/deployments";
    let body = json!({"config": large()});
    let (status, error) = platform.call_with_key(deployments, "k", body.clone()).await;
    assert_eq!((status, &error["code"]), (507, &json!("disk-full")));
    assert!(error["hint"].as_str().unwrap().contains("make room"));
    let (_, releases) = platform
        .call("GET", "/v1/apps/web/releases", Value::Null)
        .await;
    assert_eq!(releases, json!([]), "nothing is half made");
    assert!(platform.machines("web").await.is_empty());

    platform.state.store.limit_pages(1_000_000).await.unwrap();
    let (status, begun) = platform.call_with_key(deployments, "k", body).await;
    assert_eq!(status, 201, "the same key, without a restart: {begun}");
    let ended = platform
        .finished("web", begun["id"].as_str().unwrap())
        .await;
    assert_eq!(
        (&ended["status"], &ended["release"]),
        (&json!("succeeded"), &json!(1))
    );
    platform.stop().await;
}

#[tokio::test]
async fn a_deployment_that_runs_out_of_room_waits_and_goes_on_when_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    // Stopped before its first write, while the disk fills up.
    platform.state.kill_switch.after(0);
    let body = json!({"config": web("hello"), "count": 100});
    let (_, begun) = platform
        .call("POST", "/v1/apps/web/deployments", body)
        .await;
    platform.state.kill_switch.fired.notified().await;
    platform.stop().await;
    let again = Platform::start_with(dir.path(), platform.worker.clone()).await;
    again.state.store.limit_pages(1).await.unwrap();
    again.state.resume().await.unwrap();
    let id = begun["id"].as_str().unwrap();
    // The story of a hundred machines does not fit into the pages that are there.
    until_the_first_is_made(&again, id).await;
    let n_made = until_it_stands_still(&again, id).await;
    assert!((1..100).contains(&n_made), "there was room for {n_made}");
    again.state.store.limit_pages(1_000_000).await.unwrap();
    let ended = again.finished("web", id).await;
    assert_eq!(ended["status"], "succeeded", "{}", ended["error"]);
    assert_eq!(again.machines("web").await.len(), 100);
    again.stop().await;
}

/// A deployment under way, as the API tells of it.
async fn under_way(platform: &Platform, id: &str) -> Value {
    let path = format!("/v1/apps/web/deployments/{id}");
    let (_, deployment) = platform.call("GET", &path, Value::Null).await;
    assert_eq!(deployment["finished_at"], Value::Null, "{deployment}");
    deployment
}

/// Waits until a deployment has got so far that it makes machines: before, it may only be slow.
async fn until_the_first_is_made(platform: &Platform, id: &str) {
    wait_until_async("a machine", PATIENCE, async || {
        let deployment = under_way(platform, id).await;
        (platform.worker.n_made() > 0)
            .then_some(())
            .ok_or(deployment)
    })
    .await;
}

/// Waits until a deployment has done nothing for a while, and has not ended. How many machines
/// it has made by then.
async fn until_it_stands_still(platform: &Platform, id: &str) -> u64 {
    let (mut before, mut n_alike) = (Value::Null, 0);
    while n_alike < 20 {
        let deployment = under_way(platform, id).await;
        let now = json!([deployment["steps"], platform.worker.n_made()]);
        n_alike = if now == before { n_alike + 1 } else { 0 };
        before = now;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    platform.worker.n_made()
}
