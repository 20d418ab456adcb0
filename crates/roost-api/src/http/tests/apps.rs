//! Apps: created, seen, deleted.

use super::{Platform, web};
use roost_testkit::sim_worker::Fate;
use serde_json::{Value, json};

#[tokio::test]
async fn an_app_is_created_seen_and_deleted_and_a_name_is_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    let (status, app) = platform
        .call(
            "POST",
            "/v1/apps",
            json!({"app_name": "web", "org_slug": "personal"}),
        )
        .await;
    assert_eq!(
        (status.as_u16(), &app["urls"][0]),
        (201, &json!("http://web.localhost:8080"))
    );
    let (status, error) = platform
        .call("POST", "/v1/apps", json!({"name": "web"}))
        .await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (422, &json!("name-taken"))
    );
    let (_, list) = platform
        .call("GET", "/v1/apps?org_slug=personal", Value::Null)
        .await;
    assert_eq!(list["total_apps"], 1);
    assert_eq!(
        platform.call("GET", "/v1/apps/web", Value::Null).await.1["status"],
        "pending"
    );
    assert_eq!(
        platform.call("DELETE", "/v1/apps/web", Value::Null).await.0,
        202
    );
    let (status, error) = platform.call("DELETE", "/v1/apps/web", Value::Null).await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (404, &json!("app-not-found"))
    );
    platform.stop().await;
}

#[tokio::test]
async fn an_app_that_runs_is_deleted_only_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    platform
        .deploy("web", json!({"config": web("hello"), "count": 2}))
        .await;
    let (status, error) = platform.call("DELETE", "/v1/apps/web", Value::Null).await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (409, &json!("app-has-machines"))
    );
    assert_eq!(
        platform
            .call("DELETE", "/v1/apps/web?force=true", Value::Null)
            .await
            .0,
        202
    );
    platform.worker.set_fate("hello", Fate::Healthy);
    assert_eq!(
        platform
            .call("POST", "/v1/apps", json!({"app_name": "web"}))
            .await
            .0,
        201
    );
    assert!(platform.machines("web").await.is_empty());
    platform.stop().await;
}
