//! Logs, builds and events of deployments as streams.

use super::{Platform, web};
use axum::body::Body;
use serde_json::{Value, json};

#[tokio::test]
async fn logs_builds_and_events_stream() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let (_, records) = platform
        .call(
            "GET",
            "/v1/apps/web/logs?limit=5&since=2026-01-01T00:00:00Z",
            Value::Null,
        )
        .await;
    assert_eq!(records[0]["message"], "cannot open config");
    let (_, events) = platform
        .call("GET", "/v1/apps/web/logs?follow=true", Value::Null)
        .await;
    assert!(events.as_str().unwrap().starts_with("data: {"), "{events}");
    let request = platform.request(
        "POST",
        "/v1/apps/web/builds?plan=%7B%22kind%22%3A%22static%22%2C%22root%22%3A%22p%22%7D",
    );
    let (status, lines) = platform
        .send(request.body(Body::from("tar")).unwrap())
        .await;
    assert_eq!(
        (status.as_u16(), lines.ends_with('\n')),
        (200, true),
        "{lines}"
    );
    assert!(lines.contains("\"size_bytes\":3"), "{lines}");
    let deployment = platform
        .deploy("web", json!({"config": web("hello")}))
        .await;
    let path = format!(
        "/v1/apps/web/deployments/{}/events",
        deployment["id"].as_str().unwrap()
    );
    let request = platform.request("GET", &path).header("last-event-id", "1");
    let (_, events) = platform.send(request.body(Body::empty()).unwrap()).await;
    assert!(
        !events.contains("id: 1\n") && events.contains("id: 2\n"),
        "resumes after the last event: {events}"
    );
    assert!(
        events.contains("event: deployment\n"),
        "ends with the deployment: {events}"
    );
    platform.stop().await;
}

#[tokio::test]
async fn a_pull_says_how_far_it_is_and_ends_with_the_pinned_name() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let pull = async |image: &str| {
        let body = Body::from(json!({ "image": image }).to_string());
        let request = platform.request("POST", "/v1/apps/web/images");
        platform.send(request.body(body).unwrap()).await
    };
    let events = |lines: &str| -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap();
        lines.lines().map(parse).collect()
    };
    let (status, lines) = pull("nginx:1.27").await;
    assert_eq!(status, 200, "{lines}");
    let progress = json!({"type": "progress", "layers_done": 1, "layers_total": 2,
        "bytes_done": 10, "bytes_total": 30});
    let image = format!("nginx:1.27@sha256:{}", "07".repeat(32));
    let done = json!({"type": "done", "image": image, "size_bytes": 30});
    assert_eq!(events(&lines), [progress.clone(), done]);

    let (status, lines) = pull("cut-off").await;
    assert_eq!(status, 200, "it had begun");
    let events = events(&lines);
    assert_eq!(
        (&events[0], &events[1]["type"]),
        (&progress, &json!("failed"))
    );
    let error = &events[1]["error"];
    assert_eq!(error["code"], "registry-unavailable");
    assert!(error["request_id"].as_str().unwrap().starts_with("req_"));

    let (status, error) = pull("missing").await;
    assert_eq!(status, 422, "{error}");
    assert!(error.contains("image-not-found"), "{error}");
    let (status, error) = pull("NOT OK").await;
    assert_eq!(status, 422, "{error}");
    let missing = json!({"image": "nginx"});
    let (status, _) = platform.call("POST", "/v1/apps/none/images", missing).await;
    assert_eq!(status, 404);
    platform.stop().await;
}
