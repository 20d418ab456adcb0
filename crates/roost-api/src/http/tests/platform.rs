//! A platform in memory: real API and database, a worker that only remembers.

use crate::ports::{ImageBuilder, ImageSource, LogSelection, LogSource, PortError, PulledImage};
use crate::state::{ApiParts, ApiState};
use crate::testing;
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use roost_auth::token::TokenSecret;
use roost_model::digest::Digest;
use roost_model::id::NodeId;
use roost_model::image_ref::ImageRef;
use roost_model::name::AppName;
use roost_model::time::Timestamp;
use roost_proto::logs::{LogRecord, LogStream};
use roost_proto::rest::{BuildEvent, BuildPlan, PullProgress};
use roost_proto::worker::WorkerApi as _;
use roost_store::records::TokenRecord;
use roost_testkit::sim_worker::SimWorker;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

/// Longer than anything takes here, also on a busy machine with a slow disk.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Images and builds that need no disk.
struct Fakes;

/// Logs that need no disk.
#[derive(Default)]
pub(crate) struct FakeLogs {
    worker: Arc<SimWorker>,
    /// How many removals fail from now on.
    pub(super) n_refusals: AtomicU32,
}

#[async_trait]
impl ImageSource for Fakes {
    async fn pull(
        &self,
        image: &ImageRef,
        report: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<PulledImage, PortError> {
        let failed = |code, what| Err(PortError::invalid(code, format!("image {image} {what}")));
        if image.repository == "missing" {
            return failed("image-not-found", "does not exist");
        }
        report(PullProgress {
            layers_done: 1,
            layers_total: 2,
            bytes_done: 10,
            bytes_total: 30,
        });
        if image.repository == "cut-off" {
            return failed("registry-unavailable", "went away");
        }
        Ok(PulledImage {
            digest: Digest::from_sha256([7; 32]),
            size_bytes: 30,
        })
    }
}

#[async_trait]
impl LogSource for FakeLogs {
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
            program: None,
            level: None,
            message: "cannot open config".into(),
            fields: None,
            truncated: false,
        }])
    }

    fn follow(&self, selection: LogSelection) -> BoxStream<'static, LogRecord> {
        let logs = Self::default();
        stream::once(async move { logs.query(selection).await.unwrap().remove(0) }).boxed()
    }

    /// Fails while machines are there: they would write on.
    async fn remove_app(&self, app: &AppName) -> Result<(), PortError> {
        let n_machines = self.worker.machines(Some(app)).await.unwrap().len();
        let less = |n: u32| n.checked_sub(1);
        let refused = self.n_refusals.fetch_update(SeqCst, SeqCst, less).is_ok();
        if n_machines > 0 || refused {
            let message = format!("{n_machines} machines write logs");
            return Err(PortError::invalid("logs-unreadable", message));
        }
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
        let done = BuildEvent::Done {
            image,
            size_bytes: u64::try_from(size).unwrap(),
        };
        // A client may leave before the end of its build.
        let _ = events.send(done).await;
    }
}

/// A platform in memory, and its database on disk.
pub(crate) struct Platform {
    pub(crate) worker: Arc<SimWorker>,
    pub(super) logs: Arc<FakeLogs>,
    pub(crate) state: ApiState,
    router: Router,
    token: String,
}

impl Platform {
    pub(crate) async fn start(dir: &Path) -> Self {
        let platform = Self::start_with(dir, Arc::new(SimWorker::new())).await;
        platform.state.resume().await.unwrap();
        platform
    }

    /// Over a database and machines that are there already; nothing is taken up yet.
    pub(crate) async fn start_with(dir: &Path, worker: Arc<SimWorker>) -> Self {
        Self::start_of(testing::parts(dir, vec![]).await, worker).await
    }

    /// With these parts, but for machines, images, logs and builds.
    pub(super) async fn start_of(parts: ApiParts, worker: Arc<SimWorker>) -> Self {
        let logs = Arc::new(FakeLogs {
            worker: worker.clone(),
            ..FakeLogs::default()
        });
        let node = NodeId::from_ulid(ulid::Ulid::nil());
        let state = ApiState::new(ApiParts {
            workers: vec![(node, worker.clone())],
            images: Arc::new(Fakes),
            logs: logs.clone(),
            builder: Arc::new(Fakes),
            ..parts
        });
        let token = state
            .mint_admin_token("test")
            .await
            .unwrap()
            .expose()
            .to_owned();
        let router = crate::http::api_router(state.clone());
        Self {
            worker,
            logs,
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

    /// A token that may do everything with this app.
    pub(super) async fn deploy_token(&self, app: &str) -> String {
        let secret = TokenSecret::generate().unwrap();
        let record = TokenRecord {
            id: format!("tok_{app}"),
            name: app.to_owned(),
            hash: secret.hash().to_hex(),
            scope: format!("deploy:{app}"),
            created_at: Timestamp::from_ms(1),
        };
        self.state.store.add_token(&record).await.unwrap();
        secret.expose().to_owned()
    }

    /// The same platform, seen by the holder of another token.
    pub(super) fn seen_with(&self, token: String) -> Self {
        Self {
            worker: Arc::clone(&self.worker),
            logs: Arc::clone(&self.logs),
            state: self.state.clone(),
            router: self.router.clone(),
            token,
        }
    }

    /// A request with an idempotency key.
    pub(super) async fn call_with_key(&self, path: &str, key: &str, body: Value) -> (u16, Value) {
        let request = self.request("POST", path).header("idempotency-key", key);
        let body = Body::from(body.to_string());
        let (status, text) = self.send(request.body(body).unwrap()).await;
        (status.as_u16(), serde_json::from_str(&text).unwrap())
    }

    pub(super) async fn call_redeploy(&self, key: &str) -> (u16, Value) {
        self.call_with_key("/v1/apps/web/redeploy", key, Value::Null)
            .await
    }

    pub(super) fn token(&self) -> String {
        self.token.clone()
    }

    pub(super) async fn send(&self, request: Request<Body>) -> (StatusCode, String) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert!(
            response.headers().contains_key("roost-request-id"),
            "each answer names its request"
        );
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    pub(super) async fn status_of(&self, request: Request<Body>) -> StatusCode {
        let response = self.router.clone().oneshot(request).await;
        response.unwrap().status()
    }

    pub(super) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        self.call_of(self.request(method, path), body).await
    }

    /// The same with one more header.
    pub(super) async fn call_with_header(
        &self,
        method: &str,
        path: &str,
        (name, value): (&str, &str),
        body: Value,
    ) -> (StatusCode, Value) {
        let request = self.request(method, path).header(name, value);
        self.call_of(request, body).await
    }

    async fn call_of(&self, request: http::request::Builder, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let (status, text) = self.send(request.body(body).unwrap()).await;
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
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
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
