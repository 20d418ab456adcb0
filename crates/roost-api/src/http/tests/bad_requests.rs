//! Requests that are refused, and what the answer says.

use super::Platform;
use crate::limits;
use serde_json::{Value, json};
use std::sync::Arc;

#[tokio::test]
async fn bad_requests_are_refused_and_the_answer_names_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    let refused = async |method: &str, path: &str, body: Value, code: u16, word: &str| {
        let (status, error) = platform.call(method, path, body).await;
        assert_eq!(status.as_u16(), code, "{path}: {error}");
        assert!(
            error["error"].as_str().unwrap().contains(word),
            "{path}: {error}"
        );
    };
    for name in ["a.b", "a/b", "..", &"x".repeat(300)] {
        refused(
            "POST",
            "/v1/apps",
            json!({"app_name": name}),
            422,
            "app name",
        )
        .await;
    }
    refused(
        "POST",
        "/v1/apps",
        json!({"app_name": "a", "colour": 1}),
        400,
        "colour",
    )
    .await;
    refused("POST", "/v1/apps", json!({"app_name": 5}), 400, "string").await;
    refused("GET", "/v1/apps/Web.x", Value::Null, 400, "app name").await;
    refused(
        "GET",
        "/v1/nothing",
        Value::Null,
        404,
        "nothing at this path",
    )
    .await;
    refused("PUT", "/v1/apps", Value::Null, 405, "method").await;
    refused("GET", "/v1/apps?color=1", Value::Null, 400, "color").await;
    platform.stop().await;
}

#[tokio::test]
async fn bad_bodies_for_an_app_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    let refused = async |method: &str, path: &str, body: Value, code: u16, word: &str| {
        let (status, error) = platform.call(method, path, body).await;
        assert_eq!(status.as_u16(), code, "{path}: {error}");
        assert!(
            error["error"].as_str().unwrap().contains(word),
            "{path}: {error}"
        );
    };
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let config = json!({"image": "a b", "services": [{"internal_port": 0}]});
    let (status, error) = platform
        .call(
            "POST",
            "/v1/apps/web/deployments",
            json!({"config": config}),
        )
        .await;
    assert_eq!(
        (status.as_u16(), error["faults"].as_array().unwrap().len()),
        (422, 2),
        "{error}"
    );
    refused(
        "POST",
        "/v1/apps/web/deployments",
        json!({"config": {"image": "missing"}}),
        422,
        "missing",
    )
    .await;
    refused(
        "POST",
        "/v1/apps/web/secrets",
        json!({"values": {"A-B": "x"}}),
        422,
        "A-B",
    )
    .await;
    refused(
        "POST",
        "/v1/apps/web/rollback",
        Value::Null,
        409,
        "no earlier release",
    )
    .await;
    refused(
        "POST",
        "/v1/apps/web/redeploy",
        Value::Null,
        409,
        "never deployed",
    )
    .await;
    let large = json!({"app_name": "x".repeat(1_100_000)});
    refused("POST", "/v1/apps", large, 413, "larger than").await;
    assert!(platform.machines("web").await.is_empty());
    platform.stop().await;
}

#[tokio::test]
async fn as_many_requests_as_may_be_are_worked_on_and_one_more_is_told_to_wait() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "old"}))
        .await;
    let permits = Arc::clone(&platform.state.work_permits);
    let all = permits
        .acquire_many_owned(u32::try_from(limits::WORK_MAX).unwrap())
        .await;
    let body = json!({"app_name": "web"});
    let build = "/v1/apps/old/builds?plan=%7B%22kind%22%3A%22static%22%2C%22root%22%3A%22p%22%7D";
    for (path, body) in [
        ("/v1/apps", body.clone()),
        ("/v1/apps/old/images", json!({"image": "hello"})),
        (build, json!("tar")),
    ] {
        let (status, error) = platform.call("POST", path, body).await;
        assert_eq!(
            (status.as_u16(), &error["code"]),
            (503, &json!("overloaded")),
            "{path}: {error}"
        );
    }
    let looked = platform.call("GET", "/v1/apps", Value::Null).await;
    assert_eq!(looked.0, 200, "looking is always possible");
    drop(all);
    assert_eq!(platform.call("POST", "/v1/apps", body).await.0, 201);
    platform.stop().await;
}
