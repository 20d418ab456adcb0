//! Ctrl-C while a deploy is watched: once leaves it to the platform, twice cancels it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

/// Deploys that are begun until one hears the second Ctrl-C in time.
const ATTEMPTS_MAX: usize = 10;

type Cancelled = Arc<AtomicBool>;

fn deployment(is_cancelled: bool) -> Value {
    let cause = json!({"code": "deploy-cancelled", "message": "cancelled by request"});
    let (status, error) = if is_cancelled {
        ("failed", cause)
    } else {
        ("running", Value::Null)
    };
    json!({"id": "d1", "app": "web", "release": 2, "status": status, "error": error, "urls": [], "created_at": 0,
        "steps": [{"seq": 1, "name": "create", "status": "done", "message": "made a machine", "at": 0}]})
}

/// An API whose deployment goes on until it is cancelled.
async fn serve() -> (String, Cancelled, JoinSet<()>) {
    let cancelled = Cancelled::default();
    let show = |State(cancelled): State<Cancelled>| async move {
        Json(deployment(cancelled.load(Ordering::SeqCst)))
    };
    let list = |State(cancelled): State<Cancelled>| async move {
        Json(json!([deployment(cancelled.load(Ordering::SeqCst))]))
    };
    let cancel = |State(cancelled): State<Cancelled>| async move {
        cancelled.store(true, Ordering::SeqCst);
        Json(deployment(false))
    };
    let app = json!({"id": "a1", "name": "web", "status": "deployed", "machine_count": 1, "current_release": 1,
        "urls": [], "created_at": 0});
    let router = Router::new()
        .route("/v1/apps/web", get(move || async move { Json(app) }))
        .route("/v1/apps/web/deployments", get(list).post(show))
        .route("/v1/apps/web/deployments/d1", get(show))
        .route("/v1/apps/web/deployments/d1/cancel", post(cancel))
        .with_state(Arc::clone(&cancelled));
    let (url, tasks) = listen(router).await;
    (url, cancelled, tasks)
}

async fn listen(router: Router) -> (String, JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, tasks)
}

/// A `roost` that watches the deployment.
struct Watcher {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Watcher {
    fn start(url: &str, folder: &std::path::Path) -> Self {
        Self::run(url, folder, &["deploy", "-a", "web", "--image", "x"])
    }

    fn run(url: &str, folder: &std::path::Path, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_roost"))
            .args(args)
            .env_clear()
            .env("HOME", folder)
            .env("ROOST_API_URL", url)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr }
    }

    /// Reads lines until one has `text`.
    fn wait_for(&mut self, text: &str) {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let n_bytes = self.stderr.read_line(&mut line).unwrap();
            seen.push_str(&line);
            if line.contains(text) {
                return;
            }
            assert!(n_bytes > 0, "it ended without `{text}`: {seen}");
        }
    }

    /// Sends the signal from here: a `kill` of its own may start too late on a busy machine.
    fn press_ctrl_c(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// The exit code and what is left to read.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_the_deploy_to_the_platform_and_says_how_to_go_on() {
    let (url, cancelled, _tasks) = serve().await;
    let folder = tempfile::tempdir().unwrap();
    let mut watcher = Watcher::start(&url, folder.path());
    watcher.wait_for("made a machine");
    watcher.press_ctrl_c();
    let (code, text) = watcher.end();
    assert_eq!(code, Some(7), "{text}");
    assert!(text.contains("roost ops watch -a web d1"), "{text}");
    assert!(text.contains("roost ops cancel -a web d1"), "{text}");
    assert!(!cancelled.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ctrl_c_cancels_the_deploy_and_sees_it_undone() {
    let (url, cancelled, _tasks) = serve().await;
    let folder = tempfile::tempdir().unwrap();
    let press_twice = || {
        let mut watcher = Watcher::start(&url, folder.path());
        watcher.wait_for("made a machine");
        watcher.press_ctrl_c();
        watcher.wait_for("press Ctrl-C again");
        watcher.press_ctrl_c();
        watcher.end()
    };
    // A second press that comes too late, on a busy machine, is none: it was detached by then.
    let mut attempts = std::iter::repeat_with(press_twice).take(ATTEMPTS_MAX);
    let (code, text) = attempts
        .find(|(code, _)| *code != Some(7))
        .expect("a second Ctrl-C is heard in time");
    assert_eq!(code, Some(130), "{text}");
    assert!(text.contains("was cancelled and undone"), "{text}");
    assert!(!text.contains("made a machine"), "told twice: {text}");
    assert!(cancelled.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_cancelled_by_name_or_as_the_one_under_way() {
    let (url, cancelled, _tasks) = serve().await;
    for args in [
        &["ops", "cancel", "-a", "web"][..],
        &["ops", "cancel", "-a", "web", "d1"],
    ] {
        cancelled.store(false, Ordering::SeqCst);
        let output = Command::new(env!("CARGO_BIN_EXE_roost"))
            .args(args)
            .env("ROOST_API_URL", &url)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
        assert!(cancelled.load(Ordering::SeqCst), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_cancel_that_the_platform_does_not_answer() {
    let running = || async { Json(json!([deployment(false)])) };
    let silent = || async { std::future::pending::<Json<Value>>().await };
    let router = Router::new()
        .route("/v1/apps/web/deployments", get(running))
        .route("/v1/apps/web/deployments/d1/cancel", post(silent));
    let (url, _tasks) = listen(router).await;
    let folder = tempfile::tempdir().unwrap();
    let mut watcher = Watcher::run(&url, folder.path(), &["ops", "cancel", "-a", "web"]);
    watcher.wait_for("cancelling deployment d1");
    watcher.press_ctrl_c();
    let (code, text) = watcher.end();
    assert_eq!(code, Some(130), "{text}");
    assert!(text.contains("roost ops watch -a web d1"), "{text}");
}
