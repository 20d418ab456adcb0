//! The contract of the command line, leaf by leaf, with the real program.
//!
//! Every command prints JSON with `--json`; every command that changes
//! something changes nothing with `--dry-run`. A new command must be added to
//! [`leaves`], and says there whether it changes something.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use axum::extract::{Path, Request};
use axum::response::IntoResponse as _;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path as FilePath, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinSet;

/// What a command does to the world.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It looks.
    Reads,
    /// It changes something, and is run with `--dry-run` here.
    Changes,
}

/// Every command with arguments with which it succeeds.
#[expect(clippy::too_many_lines, reason = "one line for each command")]
fn leaves() -> Vec<(&'static str, Vec<&'static str>, Kind)> {
    use Kind::{Changes, Reads};
    let web = vec!["-a", "web"];
    let with = |args: &[&'static str]| [args, &["-a", "web"]].concat();
    vec![
        (
            "up",
            vec![
                "--data-dir",
                "new",
                "--api-port",
                "0",
                "--http-port",
                "0",
                "--https-port",
                "0",
            ],
            Changes,
        ),
        ("down", vec!["--data-dir", "old"], Changes),
        ("launch", vec!["site"], Changes),
        (
            "deploy",
            with(&[
                "site",
                "--image",
                "nginx",
                "--strategy",
                "canary",
                "--canary-percent",
                "5",
            ]),
            Changes,
        ),
        ("apps list", vec![], Reads),
        ("apps create", vec!["absent"], Changes),
        ("apps show", vec!["web"], Reads),
        ("apps destroy", vec!["web"], Changes),
        ("machines list", web.clone(), Reads),
        ("machines status", with(&["m1"]), Reads),
        ("machines start", with(&["m1"]), Changes),
        ("machines stop", with(&["m1"]), Changes),
        ("machines suspend", with(&["m1"]), Changes),
        ("machines restart", with(&["m1"]), Changes),
        ("machines destroy", with(&["m1"]), Changes),
        ("machines exec", vec!["m1", "--", "true"], Changes),
        ("machines wait", with(&["m1"]), Reads),
        ("machines run", with(&["nginx", "--port", "80"]), Changes),
        ("machines create", with(&["nginx"]), Changes),
        ("machines update", with(&["m1", "--memory", "512"]), Changes),
        ("machines clone", with(&["m1"]), Changes),
        ("machines cordon", with(&["m1"]), Changes),
        ("machines uncordon", with(&["m1"]), Changes),
        ("machines signal", with(&["m1", "SIGHUP"]), Changes),
        ("machines ps", with(&["m1"]), Reads),
        ("machines metadata list", with(&["m1"]), Reads),
        ("machines metadata set", with(&["m1", "a", "b"]), Changes),
        ("machines metadata remove", with(&["m1", "a"]), Changes),
        ("machines leases list", web.clone(), Reads),
        ("machines leases clear", with(&["m1"]), Changes),
        ("status", web.clone(), Reads),
        ("logs", web.clone(), Reads),
        ("secrets list", web.clone(), Reads),
        ("secrets set", with(&["A=1"]), Changes),
        ("secrets unset", with(&["A"]), Changes),
        ("secrets import", web.clone(), Changes),
        ("certs list", web.clone(), Reads),
        ("certs add", with(&["www.example.com"]), Changes),
        ("certs show", with(&["www.example.com"]), Reads),
        ("certs check", with(&["www.example.com"]), Changes),
        ("certs remove", with(&["www.example.com"]), Changes),
        ("ips list", web.clone(), Reads),
        ("ips allocate-v4", web.clone(), Changes),
        ("ips allocate-v6", with(&["--private"]), Changes),
        ("ips release", with(&["192.0.2.1"]), Changes),
        ("releases", web.clone(), Reads),
        ("rollback", web.clone(), Changes),
        ("ops list", web.clone(), Reads),
        ("ops show", with(&["run_1"]), Reads),
        ("ops watch", with(&["d1"]), Reads),
        ("ops cancel", vec!["-a", "busy"], Changes),
        ("why machine", with(&["m1"]), Reads),
        ("why request", vec!["req1"], Reads),
        ("exec", vec!["-a", "web", "--", "true"], Changes),
        ("open", with(&["--print"]), Reads),
        ("doctor", vec![], Reads),
        ("login", vec![], Changes),
        ("version", vec![], Reads),
        ("completion", vec!["bash"], Reads),
        ("config show", vec!["-c", "config"], Reads),
        ("config validate", vec!["-c", "config"], Reads),
        ("help", vec!["errors", "port-in-use"], Reads),
    ]
}

/// A custom host name of the app.
fn certificates() -> Router {
    let certificate = json!({"hostname": "www.example.com", "app": "web", "source": "acme",
        "status": "pending", "created_at": 0});
    let ok = |value: Value| get(move || async move { Json(value) });
    Router::new()
        .route(
            "/v1/apps/web/certificates",
            ok(json!({"certificates": [certificate.clone()]})),
        )
        .route("/v1/apps/web/certificates/www.example.com", ok(certificate))
}

/// What is asked about the machine and the operations.
fn parts_of_app() -> Router {
    let process = json!({"pid": 1, "stime": 10, "rtime": 1000, "command": "app", "directory": "/", "cpu": 1,
        "rss": 4096, "listen_sockets": [{"proto": "tcp", "address": "0.0.0.0:80"}]});
    let address = json!({"ip": "192.0.2.1", "type": "v4", "region": "local", "created_at": 0});
    let lease = json!({"status": "success", "data": {"expires_at": 1, "owner": "ann", "description": "",
        "version": "i"}});
    let operation = json!({"id": "run_1", "kind": "start", "subject": "machine/m1", "cause": {"kind": "user"},
        "status": "succeeded", "created_at": 0, "ended_at": 1});
    let request = json!({"request_id": "req1", "trace_id": "t", "at": 0, "edge": "n1", "region": "local",
        "table_version": 1, "client": "::1", "protocol": "HTTP/1.1", "tls": false, "method": "GET",
        "host": "web.localhost", "path": "/", "app": "web", "machine": "m1", "status": 200,
        "response_bytes": 2, "complete": true, "first_byte_us": 1, "total_us": 2, "attempts": [],
        "spans": []});
    let ok = |value: Value| get(move || async move { Json(value) });
    Router::new()
        .route("/v1/requests/req1", ok(request))
        .route("/v1/apps/web/machines/m1/wait", ok(json!({"ok": true})))
        .route("/v1/apps/web/machines/m1/ps", ok(json!([process])))
        .route("/v1/apps/web/machines/m1/events", ok(json!([])))
        .route("/v1/apps/web/machines/m1/metadata", ok(json!({"a": "b"})))
        .route("/v1/apps/web/machines/m1/lease", ok(lease))
        .route("/v1/apps/web/ip_assignments", ok(json!({"ips": [address]})))
        .route("/v1/apps/web/operations", ok(json!([operation.clone()])))
        .route("/v1/apps/web/operations/run_1", ok(operation))
}

/// An API that answers every question and counts every request to change something.
async fn serve(n_changes: Arc<AtomicUsize>) -> (String, JoinSet<()>) {
    let app = json!({"id": "a1", "name": "web", "status": "deployed", "machine_count": 1,
        "current_release": 2, "urls": ["http://web.localhost"], "created_at": 0});
    let machine = json!({"id": "m1", "name": "web-1", "app": "web", "state": "started", "region": "local",
        "instance_id": "i", "private_ip": "::1", "private_ipv4": "10.0.0.1", "image_ref": {"repository": "x"},
        "config": {"image": "x"}, "rung": "container", "checks": [], "cordoned": false,
        "created_at": "", "updated_at": ""});
    let release = |version: u64| {
        json!({"id": "r", "version": version, "image": "x", "status": "succeeded", "current": version == 2,
            "config": {"image": "x"}, "created_at": 0})
    };
    let deployment = |id: &str, status: &str| json!({"id": id, "app": "web", "release": 2, "status": status, "steps": [], "urls": [], "created_at": 0});
    let log = json!({"time": "2026-01-01T00:00:00Z", "app": "web", "machine": "m1", "region": "local",
        "stream": "stdout", "message": "hi"});
    let secrets = json!({"secrets": [{"name": "A", "digest": "d", "created_at": 0, "updated_at": 0}], "version": 1});
    let ok = |value: Value| get(move || async move { Json(value) });
    let shown = app.clone();
    let one_app = move |Path(name): Path<String>| async move {
        if ["web", "busy"].contains(&name.as_str()) {
            let mut shown = shown;
            shown["name"] = name.into();
            return Json(shown).into_response();
        }
        let body = json!({"error": "no such app", "code": "app-not-found", "request_id": "r1"});
        (axum::http::StatusCode::NOT_FOUND, Json(body)).into_response()
    };
    let unexpected = move |request: Request| async move {
        if request.method() != "GET" {
            n_changes.fetch_add(1, Ordering::Relaxed);
        }
        axum::http::StatusCode::NOT_IMPLEMENTED
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route(
            "/v1/token",
            ok(json!({"id": "t1", "name": "admin", "scope": "admin", "created_at": 0})),
        )
        .route("/v1/apps", ok(json!({"apps": [app], "total_apps": 1})))
        .route("/v1/apps/{app}", get(one_app))
        .route("/v1/apps/web/machines", ok(json!([machine])))
        .route("/v1/apps/web/machines/m1", ok(machine.clone()))
        .merge(parts_of_app().merge(certificates()))
        .route("/v1/apps/web/releases", ok(json!([release(2), release(1)])))
        .route("/v1/apps/web/secrets", ok(secrets))
        .route(
            "/v1/apps/busy/releases",
            ok(json!([release(2), release(1)])),
        )
        .route(
            "/v1/apps/busy/deployments",
            ok(json!([deployment("d2", "running")])),
        )
        .route("/v1/apps/web/logs", ok(json!([log])))
        .route(
            "/v1/apps/web/deployments",
            ok(json!([deployment("d1", "succeeded")])),
        )
        .route(
            "/v1/apps/web/deployments/d1",
            ok(deployment("d1", "succeeded")),
        )
        .fallback(unexpected.clone())
        .method_not_allowed_fallback(unexpected);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, tasks)
}

/// A folder with the program, a `roostd` beside it that finds every host good, and files to work on.
struct World {
    dir: tempfile::TempDir,
    url: String,
}

impl World {
    fn new(url: String) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["home", "old", "site", "config"] {
            std::fs::create_dir(path(folder)).unwrap();
        }
        std::fs::hard_link(env!("CARGO_BIN_EXE_roost"), path("roost")).unwrap();
        let answer = r#"{"checks": [{"name": "kernel", "status": "pass", "detail": "6"}]}"#;
        std::fs::write(path("roostd"), format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(path("roostd"), executable).unwrap();
        std::fs::write(path("old/roostd.log"), "").unwrap();
        std::fs::write(path("site/index.html"), "hi").unwrap();
        std::fs::write(
            path("config/roost.toml"),
            "app = 'web'\n[build]\nimage = 'x'\n",
        )
        .unwrap();
        Self { dir, url }
    }

    async fn run(&self, args: Vec<String>) -> Output {
        let mut command = Command::new(self.dir.path().join("roost"));
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path().join("home"))
            .env("ROOST_API_URL", &self.url)
            .env("ROOST_TOKEN", "t")
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let run = move || {
            let mut child = command.spawn().unwrap();
            // Commands that do not read may have closed it.
            let _ = child.stdin.take().unwrap().write_all(b"A=1\nB=2\n");
            child.wait_with_output().unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    fn files(&self) -> BTreeSet<PathBuf> {
        fn walk(folder: &FilePath, found: &mut BTreeSet<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                }
                found.insert(path);
            }
        }
        let mut found = BTreeSet::new();
        walk(self.dir.path(), &mut found);
        found
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Every command without commands under it, as the program itself lists them.
async fn leaves_of_the_program(world: &World) -> BTreeSet<String> {
    let mut leaves = BTreeSet::new();
    let mut unseen = vec![String::new()];
    while let Some(command) = unseen.pop() {
        let output = world.run(words(&format!("help --json {command}"))).await;
        let help: Value = serde_json::from_slice(&output.stdout).unwrap();
        let below = help["commands"].as_array().unwrap();
        if below.is_empty() {
            leaves.insert(command.trim().to_owned());
        }
        let below = below.iter().map(|name| name.as_str().unwrap());
        unseen.extend(below.map(|name| format!("{command} {name}")));
    }
    leaves
}

#[tokio::test]
async fn every_command_prints_json_and_every_changing_one_can_be_tried_without_a_change() {
    let n_changes = Arc::new(AtomicUsize::new(0));
    let (url, _tasks) = serve(Arc::clone(&n_changes)).await;
    let world = World::new(url);
    let listed: BTreeSet<String> = leaves().iter().map(|leaf| leaf.0.to_owned()).collect();
    assert_eq!(leaves_of_the_program(&world).await, listed);
    let files = world.files();
    for (leaf, args, kind) in leaves() {
        let mut line = words(leaf);
        line.push("--json".into());
        if kind == Kind::Changes {
            line.push("--dry-run".into());
        }
        line.extend(args.into_iter().map(str::to_owned));
        let output = world.run(line).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{leaf}: {stderr}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        let objects: Vec<Value> = stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{leaf}: {line}")))
            .collect();
        assert!(!objects.is_empty(), "{leaf} says nothing: {stderr}");
        if kind == Kind::Changes {
            assert!(
                objects.iter().any(|object| object["type"] == "dry-run"),
                "{leaf}: {stdout}"
            );
        }
        assert_eq!(
            n_changes.load(Ordering::Relaxed),
            0,
            "{leaf} changed something"
        );
        assert_eq!(world.files(), files, "{leaf} made or removed a file");
    }
}

#[tokio::test]
async fn errors_are_json_too_and_exit_codes_are_those_of_the_contract() {
    let (url, _tasks) = serve(Arc::new(AtomicUsize::new(0))).await;
    let world = World::new(url);
    for (line, exit, code) in [
        ("stauts", 2, "usage"),
        ("", 2, "usage"),
        ("machines", 2, "usage"),
        ("status -a web --tmeout 3", 2, "usage"),
        ("status -a absent", 3, "app-not-found"),
        ("apps create web --dry-run", 5, "name-taken"),
        ("apps destroy web", 2, "usage"),
        ("deploy -a web --image nginx --canary-percent 5", 2, "usage"),
        ("apps destroy busy --dry-run", 5, "deploy-in-progress"),
        ("rollback -a busy --dry-run", 5, "deploy-in-progress"),
        (
            "machines stop nosuch -a web --dry-run",
            3,
            "machine-not-found",
        ),
        ("help errors nosuch", 3, "not-found"),
        (
            "status -a web --api-url http://127.0.0.1:1",
            1,
            "api-unreachable",
        ),
    ] {
        let output = world.run(words(&format!("{line} --json"))).await;
        assert_eq!(output.status.code(), Some(exit), "{line}");
        assert!(output.stdout.is_empty(), "{line}");
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(
            (&error["code"], &error["exit_code"]),
            (&json!(code), &json!(exit)),
            "{line}"
        );
        let has_next_step = error["hints"]
            .as_array()
            .is_some_and(|hints| !hints.is_empty());
        assert!(has_next_step, "{line}: {error}");
    }
}
