//! Commands against a small API on a port of its own.

use crate::args::Cli;
use crate::error::CliError;
use crate::output::Output;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser as _;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

/// Serves `router` until the set is dropped; gives its URL.
async fn serve(router: Router) -> (String, JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, tasks)
}

async fn roost(url: &str, args: &[&str]) -> Result<u8, CliError> {
    let global = ["roost", "--api-url", url, "--token", "t", "--quiet"];
    let all = global.iter().chain(args);
    let cli = Cli::try_parse_from(all).unwrap();
    let output = Output {
        json: false,
        quiet: true,
        verbose: false,
        yes: cli.global.yes,
    };
    Box::pin(crate::run(cli, output)).await
}

fn app(name: &str, url: &str) -> Value {
    json!({"id": "a1", "name": name, "status": "deployed", "machine_count": 1, "current_release": 1,
        "urls": [url], "created_at": 0})
}

fn fail(status: u16, code: &str) -> axum::response::Response {
    let body = json!({"error": "no", "code": code, "request_id": "r1"});
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

fn deployment(status: &str, url: &str, error: Value) -> Value {
    json!({"id": "d1", "app": "web", "release": 2, "status": status, "error": error,
        "steps": [{"seq": 1, "name": "create", "status": "done", "message": "m", "at": 0}],
        "urls": [url], "created_at": 0})
}

/// An API where `web` can be deployed, with the end that is given.
fn deploy_api(url: String, end: &'static str, error: Value) -> Router {
    let shown = url.clone();
    let pending = deployment("pending", &url, Value::Null);
    let ended = deployment(end, &url, error);
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route(
            "/v1/apps/{app}",
            get(move |Path(name): Path<String>| async move { Json(app(&name, &shown)) }),
        )
        .route(
            "/v1/apps/web/deployments",
            post(move || async move { Json(pending) }),
        )
        .route(
            "/v1/apps/web/deployments/d1",
            get(move || async move { Json(ended) }),
        )
}

/// Deploys; gives the end and the number of requests that the app's URL got.
async fn deploy_ends(end: &'static str, error: Value) -> (Result<u8, CliError>, usize) {
    let n_requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&n_requests);
    let proof = Router::new().route(
        "/",
        get(move || async move {
            counter.fetch_add(1, Ordering::Relaxed);
            "hello"
        }),
    );
    let (proof_url, _proof_tasks) = serve(proof).await;
    let (url, _tasks) = serve(deploy_api(proof_url, end, error)).await;
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "deploy",
        dir.path().to_str().unwrap(),
        "-a",
        "web",
        "--image",
        "nginx",
        "--internal-port",
        "80",
    ];
    (roost(&url, &args).await, n_requests.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_deploy_follows_to_the_end_and_proves_the_url() {
    let (result, n_requests) = deploy_ends("succeeded", Value::Null).await;
    assert_eq!((result.unwrap(), n_requests), (0, 1));
}

/// Deploys `nginx:1` where a pull is answered with these lines, each time with the next.
///
/// Gives the end, and the image that the deployment was asked for.
async fn deploy_after_pulls(answers: &'static [&'static str]) -> (Result<u8, CliError>, Value) {
    let asked = Arc::new(tokio::sync::Mutex::new(Value::Null));
    let n_pulls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&asked);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let begun = deployment("succeeded", &silent, Value::Null);
    let ended = begun.clone();
    let router = Router::new()
        .route(
            "/v1/apps/web",
            get(move || async move { Json(app("web", &silent)) }),
        )
        .route(
            "/v1/apps/web/images",
            post(move || async move {
                answers[n_pulls
                    .fetch_add(1, Ordering::Relaxed)
                    .min(answers.len() - 1)]
            }),
        )
        .route(
            "/v1/apps/web/deployments",
            post(move |Json(request): Json<Value>| async move {
                *seen.lock().await = request["config"]["image"].clone();
                Json(begun)
            }),
        )
        .route(
            "/v1/apps/web/deployments/d1",
            get(move || async move { Json(ended) }),
        );
    let (url, _tasks) = serve(router).await;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let result = roost(&url, &["deploy", folder, "-a", "web", "--image", "nginx:1"]).await;
    let asked = asked.lock().await.clone();
    (result, asked)
}

const PULLED_HALF: &str = "{\"type\":\"progress\",\"layers_done\":1,\"layers_total\":2,\
    \"bytes_done\":10,\"bytes_total\":30}\n";
const PULLED: &str = "{\"type\":\"done\",\"image\":\"nginx:1@sha256:abc\",\"size_bytes\":30}\n";

#[tokio::test]
async fn what_the_platform_pulled_is_deployed_although_the_first_answer_was_cut_off() {
    let (result, image) = deploy_after_pulls(&[PULLED_HALF, PULLED]).await;
    assert_eq!(result.unwrap(), 0);
    assert_eq!(image, "nginx:1@sha256:abc");
}

#[tokio::test]
async fn a_pull_that_fails_begins_no_deployment() {
    const FAILED: &str = "{\"type\":\"failed\",\"error\":{\"error\":\"it broke\",\
        \"code\":\"registry-unavailable\"}}\n";
    let (result, image) = deploy_after_pulls(&[FAILED]).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.exit as i32, error.code.as_str()),
        (1, "registry-unavailable")
    );
    assert_eq!(image, Value::Null);
}

#[tokio::test]
async fn a_good_deploy_whose_url_does_not_answer_is_still_a_good_deploy() {
    // A port on which nothing listens: the app may not speak HTTP.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (url, _tasks) = serve(deploy_api(silent, "succeeded", Value::Null)).await;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let args = [
        "deploy",
        folder,
        "-a",
        "web",
        "--image",
        "x",
        "--internal-port",
        "80",
    ];
    assert_eq!(roost(&url, &args).await.unwrap(), 0);
}

#[tokio::test]
async fn a_failed_deploy_says_that_the_old_release_serves() {
    let cause = json!({"code": "unhealthy", "message": "port 80 does not answer"});
    let error = deploy_ends("failed", cause).await.0.unwrap_err();
    assert_eq!(error.exit as i32, 1);
    assert!(
        error.render().contains("release 1 still serves"),
        "{}",
        error.render()
    );
}

#[tokio::test]
async fn a_deploy_that_outlasts_the_wait_goes_on_and_exits_with_7() {
    let (url, _tasks) = serve(deploy_api(
        "http://127.0.0.1:9".into(),
        "running",
        Value::Null,
    ))
    .await;
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "deploy",
        dir.path().to_str().unwrap(),
        "-a",
        "web",
        "--image",
        "nginx",
        "--timeout",
        "1",
    ];
    let error = roost(&url, &args).await.unwrap_err();
    assert_eq!((error.exit as i32, error.code.as_str()), (7, "detached"));
}

#[tokio::test]
async fn no_wait_of_a_deploy_or_a_cancel_is_longer_than_the_time_limit() {
    /// A pull of which nothing is heard.
    async fn silent() -> Json<Value> {
        std::future::pending().await
    }
    let running = || deployment("running", "http://127.0.0.1:9", Value::Null);
    let router = Router::new()
        .route(
            "/v1/apps/{app}",
            get(|Path(name): Path<String>| async move { Json(app(&name, "")) }),
        )
        .route("/v1/apps/web/images", post(silent))
        .route("/v1/apps/web/builds", post(silent))
        .route("/v1/apps/slow/images", post(|| async { fail(404, "x") }))
        .route("/v1/apps/slow/deployments", post(silent))
        .route(
            "/v1/apps/web/deployments",
            get(move || async move { Json(json!([running()])) }),
        )
        .route(
            "/v1/apps/web/deployments/d1",
            get(move || async move { Json(running()) }),
        )
        .route(
            "/v1/apps/web/deployments/d1/cancel",
            post(move || async move { Json(running()) }),
        );
    let (url, _tasks) = serve(router).await;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), "FROM scratch").unwrap();
    for (args, what) in [
        (
            &["deploy", folder, "-a", "web", "--image", "nginx"][..],
            "no deploy has begun",
        ),
        (&["deploy", folder, "-a", "web"], "no deploy has begun"),
        (
            &["deploy", folder, "-a", "slow", "--image", "nginx"],
            // On a busy machine the time is over before the deploy was asked for.
            "for the ",
        ),
        (&["ops", "cancel", "-a", "web"], "carries on undoing"),
    ] {
        let args = [args, &["--timeout", "1"]].concat();
        let error = roost(&url, &args).await.unwrap_err();
        assert_eq!((error.exit as i32, error.code.as_str()), (7, "detached"));
        assert!(error.message.contains(what), "{error}");
        assert!(error.message.contains("after 1 s"), "{error}");
    }
}

#[tokio::test]
async fn an_answer_of_the_api_becomes_the_exit_code_with_the_request_id() {
    for (status, code, exit) in [
        (404, "app-not-found", 3),
        (401, "unauthorized", 4),
        (409, "conflict", 5),
        (503, "no-capacity", 6),
    ] {
        let router = Router::new().route(
            "/v1/apps/{app}",
            get(move || async move { fail(status, code) }),
        );
        let (url, _tasks) = serve(router).await;
        let error = roost(&url, &["status", "-a", "web"]).await.unwrap_err();
        assert_eq!(
            (error.exit as i32, error.request_id.as_deref()),
            (exit, Some("r1")),
            "{status}"
        );
    }
}

#[tokio::test]
async fn an_api_that_is_not_there_is_named_with_a_next_step() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = roost(&url, &["apps", "list"]).await.unwrap_err();
    assert_eq!(error.code, "api-unreachable");
    assert!(error.render().contains(&url) && error.render().contains("roost up"));
}

#[tokio::test]
async fn exec_exits_with_the_code_of_the_command() {
    let machine = json!({"id": "m1", "name": "web-1", "app": "web", "state": "started", "region": "local",
        "instance_id": "i", "private_ip": "::1", "private_ipv4": "10.0.0.1", "image_ref": {"repository": "x"},
        "config": {"image": "x"}, "rung": "container", "checks": [], "cordoned": false,
        "created_at": "", "updated_at": ""});
    let router = Router::new()
        .route(
            "/v1/apps/web/machines",
            get(move || async move { Json(json!([machine])) }),
        )
        .route(
            "/v1/apps/web/machines/m1/exec",
            post(|| async { Json(json!({"exit_code": 42, "stdout": "", "stderr": ""})) }),
        );
    let (url, _tasks) = serve(router).await;
    assert_eq!(
        roost(&url, &["exec", "-a", "web", "--", "false"])
            .await
            .unwrap(),
        42
    );
    assert_eq!(
        roost(
            &url,
            &["machines", "exec", "web-1", "-a", "web", "--", "false"]
        )
        .await
        .unwrap(),
        42
    );
}

#[tokio::test]
async fn names_and_files_that_are_wrong_are_refused_before_any_request() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let nowhere = "http://127.0.0.1:9";
    for name in ["a/b", "..", &"x".repeat(300)] {
        assert_eq!(
            roost(nowhere, &["status", "-a", name])
                .await
                .unwrap_err()
                .exit as i32,
            2,
            "{name}"
        );
    }
    assert_eq!(
        roost(nowhere, &["deploy", folder, "-a", "web"])
            .await
            .unwrap_err()
            .exit as i32,
        2,
        "nothing to build"
    );
    std::fs::write(
        dir.path().join("roost.toml"),
        "app = 'web'\n[build]\nstatc = 'x'\n",
    )
    .unwrap();
    let error = roost(nowhere, &["deploy", folder]).await.unwrap_err();
    assert!(
        error.render().contains("did you mean `static`?"),
        "{}",
        error.render()
    );
    std::fs::write(
        dir.path().join("roost.toml"),
        "app = 'web'\n[deploy]\nrelease_command = 'migrate'\n",
    )
    .unwrap();
    let error = roost(nowhere, &["deploy", folder, "--image", "x"])
        .await
        .unwrap_err();
    assert!(
        error.render().contains("--skip-release-command"),
        "{}",
        error.render()
    );
    let error = roost(nowhere, &["config", "validate", "-c", "/does/not/exist"])
        .await
        .unwrap_err();
    assert_eq!(error.exit as i32, 3);
}

#[tokio::test]
async fn destruction_without_a_terminal_names_the_flag() {
    let router = Router::new().route(
        "/v1/apps/{app}",
        get(|| async { Json(app("web", "http://x")) })
            .delete(|| async { Json(json!({"ok": true})) }),
    );
    let (url, _tasks) = serve(router).await;
    let error = Output {
        json: true,
        quiet: true,
        verbose: false,
        yes: false,
    }
    .confirm("destroy it", "web")
    .unwrap_err();
    assert!(error.render().contains("--yes"));
    assert_eq!(
        roost(&url, &["apps", "destroy", "web", "--yes"])
            .await
            .unwrap(),
        0
    );
}

/// Reads one request and gives its idempotency key.
async fn read_key(stream: &mut tokio::net::TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"}") {
        let n_bytes = stream.read_buf(&mut text).await.unwrap();
        assert!(n_bytes > 0, "the request ended early");
    }
    let text = String::from_utf8(text).unwrap();
    let mut lines = text.lines();
    let key = lines.find_map(|line| line.strip_prefix("idempotency-key: "));
    key.expect("a request that creates something has a key")
        .to_owned()
}

#[tokio::test]
async fn a_request_to_create_whose_connection_breaks_is_repeated_with_its_key() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        let first_key = read_key(&mut first).await;
        drop(first);
        let answer = |body: Value, status: &str| {
            let body = body.to_string();
            let length = body.len();
            format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            )
        };
        let (mut second, _) = listener.accept().await.unwrap();
        let second_key = read_key(&mut second).await;
        let busy = json!({"error": "no", "code": "request-in-progress", "request_id": "r1"});
        let busy = answer(busy, "409 Conflict");
        second.write_all(busy.as_bytes()).await.unwrap();
        drop(second);
        let (mut third, _) = listener.accept().await.unwrap();
        let third_key = read_key(&mut third).await;
        let done = answer(json!({"ok": true}), "201 Created");
        third.write_all(done.as_bytes()).await.unwrap();
        (first_key, second_key, third_key)
    });
    let client = crate::client::Client::new(crate::settings::Target {
        api_url: url,
        token: None,
    })
    .unwrap();
    let body = json!({"app_name": "web"});
    let answer: Value = client.create("/v1/apps", Some(&body)).await.unwrap();
    assert_eq!(answer["ok"], true);
    let (first, second, third) = tasks.join_next().await.unwrap().unwrap();
    assert_eq!((&first, &first), (&second, &third));
    assert!(!first.is_empty());
}

#[tokio::test]
async fn a_program_that_is_not_in_the_image_ends_exec_as_in_a_shell() {
    let machine = json!({"id": "m1", "name": "web-1", "app": "web", "state": "started", "region": "local",
        "instance_id": "i", "private_ip": "::1", "private_ipv4": "10.0.0.1", "image_ref": {"repository": "x"},
        "config": {"image": "x"}, "rung": "container", "checks": [], "cordoned": false,
        "created_at": "", "updated_at": ""});
    let router = Router::new()
        .route(
            "/v1/apps/web/machines",
            get(move || async move { Json(json!([machine])) }),
        )
        .route(
            "/v1/apps/web/machines/m1/exec",
            post(|| async { fail(422, "machine-invalid") }),
        );
    let (url, _tasks) = serve(router).await;
    let error = roost(&url, &["exec", "-a", "web", "--", "nosuch"])
        .await
        .unwrap_err();
    assert_eq!(error.exit as i32, 127);
}

#[tokio::test]
async fn secrets_with_deploy_bring_the_change_to_running_machines() {
    let (proof_url, _proof_tasks) =
        serve(Router::new().route("/", get(|| async { "hello" }))).await;
    let n_deploys = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&n_deploys);
    let begun = deployment("pending", &proof_url, Value::Null);
    let list = || async { Json(json!({"secrets": [], "version": 1})) };
    let router = deploy_api(proof_url, "succeeded", Value::Null)
        .route("/v1/apps/web/secrets", get(list).post(list))
        .route(
            "/v1/apps/web/redeploy",
            post(move || async move {
                counter.fetch_add(1, Ordering::Relaxed);
                Json(begun)
            }),
        );
    let (url, _tasks) = serve(router).await;
    for (args, n_wanted) in [
        (&["secrets", "set", "A=1", "-a", "web"][..], 0),
        (&["secrets", "set", "A=1", "-a", "web", "--deploy"][..], 1),
        (&["secrets", "unset", "A", "-a", "web", "--deploy"][..], 2),
    ] {
        assert_eq!(roost(&url, args).await.unwrap(), 0);
        assert_eq!(n_deploys.load(Ordering::Relaxed), n_wanted, "{args:?}");
    }
}

#[tokio::test]
async fn a_deployment_that_another_followed_is_not_said_to_serve() {
    let n_requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&n_requests);
    let proof = get(move || async move {
        counter.fetch_add(1, Ordering::Relaxed);
        "hello"
    });
    let (proof_url, _proof_tasks) = serve(Router::new().route("/", proof)).await;
    let old = deployment("succeeded", &proof_url, Value::Null);
    let listed = json!([old]);
    let mut now = app("web", &proof_url);
    now["current_release"] = 5.into();
    let router = Router::new()
        .route("/v1/apps/web", get(move || async move { Json(now) }))
        .route(
            "/v1/apps/web/deployments",
            get(move || async move { Json(listed) }),
        )
        .route(
            "/v1/apps/web/deployments/d1",
            get(move || async move { Json(old) }),
        );
    let (url, _tasks) = serve(router).await;
    let code = roost(&url, &["ops", "watch", "-a", "web", "d1"]).await;
    assert_eq!(code.unwrap(), 0);
    assert_eq!(n_requests.load(Ordering::Relaxed), 0, "it was proven");
}
