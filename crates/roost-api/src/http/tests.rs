//! The API as a client sees it, over a worker in memory.

use crate::ports::{ImageBuilder, ImageSource, LogSelection, LogSource, PortError};
use crate::state::{ApiParts, ApiState, NodeFacts};
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use roost_auth::seal::SealingKey;
use roost_model::digest::Digest;
use roost_model::image_ref::ImageRef;
use roost_model::name::{AppName, RegionCode};
use roost_proto::logs::{LogRecord, LogStream};
use roost_proto::rest::{BuildEvent, BuildPlan};
use roost_runtime::tasks::Tasks;
use roost_store::Store;
use roost_testkit::sim_worker::{Fate, SimWorker};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

/// Images, logs and builds that need no disk.
struct Fakes;

#[async_trait]
impl ImageSource for Fakes {
    async fn pin(&self, image: &ImageRef) -> Result<Digest, PortError> {
        if image.repository == "missing" {
            return Err(PortError::invalid(
                "image-not-found",
                format!("image {image} does not exist"),
            ));
        }
        Ok(Digest::from_sha256([7; 32]))
    }
}

#[async_trait]
impl LogSource for Fakes {
    async fn query(&self, selection: LogSelection) -> Result<Vec<LogRecord>, PortError> {
        Ok(vec![LogRecord {
            time: "2026-01-01T00:00:00.000Z".into(),
            app: selection.app.to_string(),
            machine: selection
                .machine
                .map(|id| id.to_string())
                .unwrap_or_default(),
            region: "local".into(),
            stream: LogStream::Stderr,
            level: None,
            message: "cannot open config".into(),
            fields: None,
            truncated: false,
        }])
    }

    fn follow(&self, selection: LogSelection) -> BoxStream<'static, LogRecord> {
        stream::once(async move { Fakes.query(selection).await.unwrap().remove(0) }).boxed()
    }

    async fn remove_app(&self, _app: &AppName) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl ImageBuilder for Fakes {
    async fn build(
        &self,
        app: AppName,
        _plan: BuildPlan,
        upload: BoxStream<'static, std::io::Result<Bytes>>,
        events: mpsc::Sender<BuildEvent>,
    ) {
        let size: usize = upload
            .map(|chunk| chunk.unwrap().len())
            .fold(0, |sum, n| async move { sum + n })
            .await;
        let image = format!("{app}:built");
        events
            .send(BuildEvent::Done {
                image,
                size_bytes: u64::try_from(size).unwrap(),
            })
            .await
            .unwrap();
    }
}

/// A platform in memory, and its database on disk.
pub(crate) struct Platform {
    pub(crate) worker: Arc<SimWorker>,
    pub(crate) state: ApiState,
    router: Router,
    token: String,
}

impl Platform {
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::start_with(dir, Arc::new(SimWorker::new())).await
    }

    /// Starts again over the same database and the machines that ran on.
    pub(crate) async fn start_with(dir: &Path, worker: Arc<SimWorker>) -> Self {
        let state = ApiState::new(ApiParts {
            store: Store::open(&dir.join("control.db")).await.unwrap(),
            worker: worker.clone(),
            images: Arc::new(Fakes),
            logs: Arc::new(Fakes),
            builder: Arc::new(Fakes),
            node: NodeFacts {
                version: "0.1.0".into(),
                region: RegionCode::parse("local").unwrap(),
                isolation: "container".into(),
                domains: vec!["localhost".into()],
                http_port: 8080,
                https_port: 8443,
                registry: "localhost:4280".into(),
            },
            sealing_key: Arc::new(SealingKey::open_or_create(&dir.join("seal.key")).unwrap()),
            tasks: Tasks::new(),
        });
        let token = state
            .mint_admin_token("test")
            .await
            .unwrap()
            .expose()
            .to_owned();
        let router = super::api_router(state.clone());
        Self {
            worker,
            state,
            router,
            token,
        }
    }

    pub(crate) async fn stop(&self) {
        self.state.tasks.stop();
        self.state.tasks.shutdown(Duration::from_secs(10)).await;
        self.state.store.close().await;
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, String) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert!(
            response.headers().contains_key("roost-request-id"),
            "each answer names its request"
        );
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let (status, text) = self
            .send(self.request(method, path).body(body).unwrap())
            .await;
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    /// Begins a deployment and waits for its end.
    pub(crate) async fn deploy(&self, app: &str, body: Value) -> Value {
        let (status, deployment) = self
            .call("POST", &format!("/v1/apps/{app}/deployments"), body)
            .await;
        assert_eq!(status, 201, "{deployment}");
        self.finished(app, deployment["id"].as_str().unwrap()).await
    }

    pub(crate) async fn finished(&self, app: &str, id: &str) -> Value {
        for _ in 0..1000 {
            let (_, deployment) = self
                .call(
                    "GET",
                    &format!("/v1/apps/{app}/deployments/{id}"),
                    Value::Null,
                )
                .await;
            if !deployment["finished_at"].is_null() {
                return deployment;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("deployment {id} did not end");
    }

    pub(crate) async fn machines(&self, app: &str) -> Vec<Value> {
        let (_, machines) = self
            .call("GET", &format!("/v1/apps/{app}/machines"), Value::Null)
            .await;
        machines.as_array().unwrap().clone()
    }
}

pub(crate) fn web(image: &str) -> Value {
    json!({"image": image, "services": [{"internal_port": 8080}]})
}

#[tokio::test]
async fn without_a_token_every_route_says_401_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    let document = serde_json::to_value(super::openapi()).unwrap();
    let mut n_routes = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| ["get", "post", "delete", "put"].contains(&key.as_str()))
        {
            let path = path
                .replace("{app}", "web")
                .replace("{id}", "00000000000000")
                .replace("{name}", "A");
            let request = Request::builder()
                .method(method.to_uppercase().as_str())
                .uri(path.replace("{version}", "1"))
                .header("authorization", "Bearer roost_wrong");
            let (status, text) = platform.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(status, 401, "{method} {path}: {text}");
            let error: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(error["code"], "unauthenticated");
            assert!(error["request_id"].as_str().unwrap().starts_with("req_"));
            n_routes += 1;
        }
    }
    assert!(n_routes > 30, "{n_routes}");
    let healthz = Request::builder()
        .uri("/healthz")
        .body(Body::empty())
        .unwrap();
    assert_eq!(platform.send(healthz).await.0, 200);
    platform.stop().await;
}

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
async fn a_body_that_never_ends_is_refused_at_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    let endless =
        stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 65536])));
    let request = platform
        .request("POST", "/v1/apps")
        .body(Body::from_stream(endless))
        .unwrap();
    assert_eq!(platform.send(request).await.0, 413);
    platform.stop().await;
}

#[tokio::test]
async fn a_machine_goes_through_its_life_by_the_machines_api() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "other"}))
        .await;
    let body = json!({"config": web("hello"), "name": "one"});
    let (status, machine) = platform.call("POST", "/v1/apps/web/machines", body).await;
    assert_eq!(
        (status.as_u16(), &machine["state"]),
        (201, &json!("started")),
        "{machine}"
    );
    let path = format!("/v1/apps/web/machines/{}", machine["id"].as_str().unwrap());
    let ok = async |method: &str, suffix: &str, body: Value| {
        let (status, answer) = platform
            .call(method, &format!("{path}{suffix}"), body)
            .await;
        assert!(status.is_success(), "{method} {suffix}: {answer}");
        answer
    };
    ok(
        "POST",
        "/stop",
        json!({"signal": "SIGTERM", "timeout": "5s"}),
    )
    .await;
    ok("GET", "/wait?state=stopped&timeout=5", Value::Null).await;
    assert_eq!(
        ok("POST", "/start", Value::Null).await["previous_state"],
        "stopped"
    );
    ok("POST", "/restart", Value::Null).await;
    ok("POST", "/signal", json!({"signal": 1})).await;
    ok("POST", "/cordon", Value::Null).await;
    assert_eq!(ok("GET", "", Value::Null).await["cordoned"], true);
    ok("POST", "/uncordon", Value::Null).await;
    assert_eq!(
        ok("POST", "/exec", json!({"cmd": "echo 'a b'"})).await["stdout"],
        "echo a b"
    );
    assert_eq!(
        ok("GET", "/events?limit=1", Value::Null).await[0]["type"],
        "uncordon"
    );
    let (status, error) = platform
        .call(
            "GET",
            &format!("{path}/wait?state=stopped&timeout=0"),
            Value::Null,
        )
        .await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (408, &json!("wait-timeout"))
    );
    ok("DELETE", "?force=true", Value::Null).await;
    ok("GET", "/wait?state=destroyed", Value::Null).await;
    platform.stop().await;
}

#[tokio::test]
async fn a_machine_is_kept_from_other_apps_old_versions_and_careless_removal() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    for app in ["web", "other"] {
        platform
            .call("POST", "/v1/apps", json!({"app_name": app}))
            .await;
    }
    let body = json!({"config": web("hello")});
    let (_, machine) = platform.call("POST", "/v1/apps/web/machines", body).await;
    let path = format!("/v1/apps/web/machines/{}", machine["id"].as_str().unwrap());
    let elsewhere = path.replace("/web/", "/other/");
    assert_eq!(
        platform.call("GET", &elsewhere, Value::Null).await.0,
        404,
        "another app's machine is not seen"
    );
    assert_eq!(platform.call("DELETE", &path, Value::Null).await.0, 409);
    let update = json!({"config": web("hello:2"), "current_version": "01ARZ3NDEKTSV4RRFFQ69G5FAV"});
    assert_eq!(
        platform.call("POST", &path, update).await.1["code"],
        "machine-conflict"
    );
    platform.stop().await;
}

#[tokio::test]
async fn a_repeated_request_with_one_key_makes_one_thing() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let send = async |image: &str| {
        let request = platform
            .request("POST", "/v1/apps/web/machines")
            .header("idempotency-key", "k1");
        let body = Body::from(json!({"config": web(image)}).to_string());
        let (status, text) = platform.send(request.body(body).unwrap()).await;
        (
            status.as_u16(),
            serde_json::from_str::<Value>(&text).unwrap(),
        )
    };
    let (first, second) = (send("hello").await, send("hello").await);
    assert_eq!((first.0, &first.1["id"]), (201, &second.1["id"]));
    assert_eq!(send("changed").await.1["code"], "idempotency-mismatch");
    assert_eq!(platform.machines("web").await.len(), 1);
    platform.stop().await;
}

#[tokio::test]
async fn secrets_reach_machines_and_never_an_answer_or_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let body = json!({"values": {"KEY": "hunter2secret", "GONE": "hunter2secret"}});
    let (status, first) = platform.call("POST", "/v1/apps/web/secrets", body).await;
    assert_eq!((status.as_u16(), &first["version"]), (200, &json!(1)));
    assert_eq!(
        first["secrets"][0]["digest"], first["secrets"][1]["digest"],
        "equal values look equal"
    );
    platform
        .call("DELETE", "/v1/apps/web/secrets/GONE", Value::Null)
        .await;
    let deployment = platform
        .deploy("web", json!({"config": web("hello")}))
        .await;
    assert_eq!(deployment["status"], "succeeded", "{deployment}");
    let machines = platform.machines("web").await;
    let id = roost_model::id::MachineId::parse(machines[0]["id"].as_str().unwrap()).unwrap();
    let given = platform.worker.secrets(&id).unwrap();
    assert_eq!(
        given.0.into_iter().collect::<Vec<_>>(),
        [("KEY".to_owned(), "hunter2secret".to_owned())]
    );
    for path in [
        "",
        "/machines",
        "/secrets",
        "/secrets?",
        "/releases",
        "/deployments",
    ] {
        let (_, answer) = platform
            .call("GET", &format!("/v1/apps/web{path}"), Value::Null)
            .await;
        assert!(!answer.to_string().contains("hunter2"), "{path}");
    }
    platform.stop().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(
            !bytes.windows(7).any(|window| window == b"hunter2"),
            "no file holds the value"
        );
    }
}

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

#[test]
fn the_committed_openapi_document_is_the_one_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/roost-v1.json");
    let text = serde_json::to_string_pretty(&super::openapi()).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text,
        "openapi/roost-v1.json is old: run the test with UPDATE=1"
    );
}
