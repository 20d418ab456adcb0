//! What apps and builds write reaches the terminal without what would steer it, with the real program.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::process::{Command, Output};
use tokio::task::JoinSet;

/// Clears the screen, in two ways, and sets the title.
const STEERING: &str = "\u{9b}2J\u{1b}[2J\u{1b}]0;t\u{7}";

/// An API whose every text is hostile.
async fn serve() -> (String, JoinSet<()>) {
    let error =
        json!({"error": format!("failed{STEERING}"), "code": "build-failed", "request_id": "r1"});
    let progress = json!({"type": "progress", "message": format!("step{STEERING}")});
    let build = format!(
        "{progress}\n{}\n",
        json!({"type": "failed", "error": error})
    );
    let record = json!({"time": "2026-01-01T00:00:00Z", "app": "web", "machine": "m1", "region": "local",
        "stream": "stdout", "level": format!("warn{STEERING}"), "message": format!("said{STEERING}"),
        "fields": {"field": format!("value{STEERING}")}});
    let cause = json!({"code": "unhealthy", "message": format!("cause{STEERING}")});
    let deployment = json!({"id": "d1", "app": "web", "release": 2, "status": "failed", "error": cause, "urls": [],
        "created_at": 0, "steps": [{"seq": 1, "name": "create", "status": "done", "at": 0,
            "message": format!("made{STEERING}")}]});
    let operation = json!({"id": "d1", "kind": "deploy", "subject": "app/web", "cause": {"kind": "release"},
        "status": "failed", "reason": format!("cause{STEERING}"), "created_at": 0, "ended_at": 1,
        "steps": [{"name": "create", "direction": "do", "attempt": 1, "started_at": 0, "ended_at": 1,
            "outcome": "failed", "reason": format!("made{STEERING}")}]});
    let app = json!({"id": "a1", "name": "web", "status": "deployed", "machine_count": 1, "current_release": 1,
        "urls": [], "created_at": 0});
    let ok = |value: Value| get(move || async move { Json(value) });
    let router = Router::new()
        .route("/v1/apps/web", ok(app))
        .route("/v1/apps/web/logs", ok(json!([record])))
        .route("/v1/apps/web/builds", post(move || async move { build }))
        .route("/v1/apps/web/operations", ok(json!([operation.clone()])))
        .route("/v1/apps/web/operations/d1", ok(operation))
        .route("/v1/apps/web/deployments", ok(json!([deployment])))
        .route("/v1/apps/web/deployments/d1", ok(deployment));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, tasks)
}

fn roost(url: &str, folder: &std::path::Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_roost"))
        .args(args)
        .args(["-a", "web"])
        .env_clear()
        .env("HOME", folder)
        .env("ROOST_API_URL", url)
        .current_dir(folder)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_build_nor_an_app_nor_a_failed_deploy_steers_the_terminal() {
    let (url, _tasks) = serve().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch").unwrap();
    for (args, texts) in [
        (&["deploy"][..], &["build: step", "error: failed"][..]),
        (&["logs"], &["warn", "said", "field=\"value"]),
        (&["ops", "watch", "d1"], &["create: made", "failed: cause"]),
        (&["ops", "list"], &["cause"]),
        (&["ops", "show", "d1"], &["cause", "made"]),
    ] {
        let output = roost(&url, folder.path(), args);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        for part in texts {
            assert!(text.contains(part), "{part} in {text:?}");
        }
        let steers = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(steers), "{args:?}: {text:?}");
    }
}
