//! Apps that are deleted while others want something of them.

use super::platform::PATIENCE;
use super::{Platform, web};
use crate::app::apps::{begin_deletion, finish_deletion};
use crate::app::find_app;
use roost_model::name::AppName;
use roost_proto::worker::WorkerApi as _;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;

/// Long enough for a request that does not wait for anything.
const MOMENT: Duration = Duration::from_millis(300);

async fn start(dir: &std::path::Path) -> Arc<Platform> {
    let platform = Platform::start(dir).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    Arc::new(platform)
}

/// Waits until the app `web` does not exist.
async fn until_gone(platform: &Platform) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while platform.call("GET", "/v1/apps/web", Value::Null).await.0 != 404 {
        assert!(tokio::time::Instant::now() < deadline, "it is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a machine of the app `web` is being destroyed.
async fn until_destroying(platform: &Platform) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while platform.machines("web").await[0]["state"] != "destroying" {
        assert!(tokio::time::Instant::now() < deadline, "nobody destroys it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_app_is_deleted_once_its_machines_are_gone_and_its_name_is_free_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let body = json!({"config": web("hello")});
    let deployed = platform.deploy("web", body.clone()).await;
    assert_eq!(deployed["status"], "succeeded", "{deployed}");
    platform.worker.hold_destruction(true);
    let mut deletions = JoinSet::new();
    for _ in 0..2 {
        let platform = Arc::clone(&platform);
        deletions.spawn(async move {
            let path = "/v1/apps/web?force=true";
            platform.call("DELETE", path, Value::Null).await
        });
    }
    until_destroying(&platform).await;
    let early = tokio::time::timeout(MOMENT, deletions.join_next()).await;
    assert!(early.is_err(), "it waits: {early:?}");
    let (status, error) = platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (422, &json!("name-taken"))
    );
    platform.worker.hold_destruction(false);
    for (status, answer) in deletions.join_all().await {
        assert!(
            status == 202 || answer["code"] == "app-not-found",
            "{answer}"
        );
    }

    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let deployed = platform.deploy("web", body).await;
    assert_eq!(deployed["status"], "succeeded", "{deployed}");
    assert_eq!(platform.machines("web").await.len(), 1);
    platform.stop().await;
}

#[tokio::test]
async fn a_deletion_that_comes_late_leaves_a_new_app_of_the_same_name_alone() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let old = find_app(&platform.state, &AppName::parse("web").unwrap())
        .await
        .unwrap();
    platform.call("DELETE", "/v1/apps/web", Value::Null).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let body = json!({"config": web("hello")});
    platform.call("POST", "/v1/apps/web/machines", body).await;
    // As far as a deletion came that had looked the app up before all this.
    let late = begin_deletion(&platform.state, &old, true).await;
    assert_eq!(late.unwrap_err().code, "app-not-found");
    finish_deletion(&platform.state, &old).await.unwrap();
    let machines = platform.machines("web").await;
    assert_eq!(machines[0]["state"], "started", "{machines:?}");
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn machines_made_while_their_app_is_deleted_are_refused_or_go_with_it() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let platform = start(dir.path()).await;
        let mut requests = JoinSet::new();
        for n in 0..8 {
            let platform = Arc::clone(&platform);
            requests.spawn(async move {
                if n == 4 {
                    let path = "/v1/apps/web?force=true";
                    return platform.call("DELETE", path, Value::Null).await;
                }
                let body = json!({"config": web("hello"), "name": format!("m{n}")});
                platform.call("POST", "/v1/apps/web/machines", body).await
            });
        }
        for (status, answer) in requests.join_all().await {
            let code = &answer["code"];
            let fine = status.is_success() || code == "app-deleting" || code == "app-not-found";
            assert!(fine, "{status} {answer}");
        }
        let app = AppName::parse("web").unwrap();
        let left = platform.worker.machines(Some(&app)).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
        platform.stop().await;
    }
}

#[tokio::test]
async fn an_app_marked_for_deletion_takes_nothing_new_and_goes_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let body = json!({"config": web("hello")});
    platform
        .call("POST", "/v1/apps/web/machines", body.clone())
        .await;
    // As far as a process came that died then.
    let (_, app) = platform.call("GET", "/v1/apps/web", Value::Null).await;
    let (id, now) = (app["id"].as_str().unwrap(), roost_runtime::clock::now());
    platform
        .state
        .store
        .begin_app_deletion(id, now)
        .await
        .unwrap();
    for path in ["/v1/apps/web/machines", "/v1/apps/web/deployments"] {
        let (status, error) = platform.call("POST", path, body.clone()).await;
        assert_eq!(
            (status.as_u16(), &error["code"]),
            (409, &json!("app-deleting")),
            "{path}: {error}"
        );
    }
    assert_eq!(platform.machines("web").await.len(), 1);
    platform.stop().await;

    let again = Platform::start_with(dir.path(), platform.worker.clone()).await;
    // What fails first is tried again.
    again.logs.n_refusals.store(1, Ordering::SeqCst);
    again.state.resume().await.unwrap();
    until_gone(&again).await;
    assert!(again.worker.machines(None).await.unwrap().is_empty());
    again.stop().await;
}

#[tokio::test]
async fn a_creation_that_waits_for_a_deletion_to_begin_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let (_, app) = platform.call("GET", "/v1/apps/web", Value::Null).await;
    // A deletion that has looked for machines, and has not marked the app yet.
    let id = app["id"].as_str().unwrap();
    let gate = platform.state.machine_gates.of(id);
    let deletion = gate.write().await;
    let body = json!({"config": web("hello")});
    let creation = platform.call("POST", "/v1/apps/web/machines", body);
    tokio::pin!(creation);
    let early = tokio::time::timeout(MOMENT, &mut creation).await;
    assert!(early.is_err(), "it waits: {early:?}");
    let now = roost_runtime::clock::now();
    platform
        .state
        .store
        .begin_app_deletion(id, now)
        .await
        .unwrap();
    drop(deletion);
    assert_eq!(creation.await.1["code"], "app-deleting");
    assert!(platform.machines("web").await.is_empty());
    platform.stop().await;
}

#[tokio::test]
async fn a_deletion_waits_for_a_creation_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let (_, app) = platform.call("GET", "/v1/apps/web", Value::Null).await;
    let gate = platform.state.machine_gates.of(app["id"].as_str().unwrap());
    let creation = gate.read().await;
    let deletion = platform.call("DELETE", "/v1/apps/web", Value::Null);
    tokio::pin!(deletion);
    let early = tokio::time::timeout(MOMENT, &mut deletion).await;
    assert!(early.is_err(), "it waits: {early:?}");
    drop(creation);
    assert_eq!(deletion.await.0, 202);
    platform.stop().await;
}
