//! The API's deploy workflow over a worker on another node.

use crate::cluster::Cluster;
use crate::real;
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _};
use http_body_util::BodyExt as _;
use roost_api::ports::{
    ImageBuilder, ImageSource, LogSelection, LogSource, PortError, PulledImage,
};
use roost_api::{ApiParts, ApiState, NodeFacts};
use roost_auth::seal::SealingKey;
use roost_image::store::ContentStore;
use roost_model::digest::Digest;
use roost_model::image_ref::ImageRef;
use roost_model::name::{AppName, RegionCode};
use roost_proto::logs::LogRecord;
use roost_proto::rest::{BuildEvent, BuildPlan, PullProgress};
use roost_proto::worker::WorkerApi;
use roost_runtime::clock::SystemClock;
use roost_runtime::tasks::Tasks;
use roost_store::Store;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

const PATIENCE: Duration = Duration::from_secs(60);

/// Images that are there, no logs, no builds.
struct Ports;

#[async_trait]
impl ImageSource for Ports {
    async fn pull(
        &self,
        _: &ImageRef,
        _: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<PulledImage, PortError> {
        Ok(PulledImage {
            digest: Digest::from_sha256([9; 32]),
            size_bytes: 1,
        })
    }
}

#[async_trait]
impl LogSource for Ports {
    async fn query(&self, _: LogSelection) -> Result<Vec<LogRecord>, PortError> {
        Ok(vec![])
    }
    fn follow(&self, _: LogSelection) -> BoxStream<'static, LogRecord> {
        futures_util::stream::empty().boxed()
    }
    async fn remove_app(&self, _: &AppName) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl ImageBuilder for Ports {
    async fn build(
        &self,
        _: AppName,
        _: BuildPlan,
        _: BoxStream<'static, std::io::Result<Bytes>>,
        _: mpsc::Sender<BuildEvent>,
    ) {
    }
}

/// An API that knows its worker through this.
struct Api {
    router: Router,
    token: String,
}

impl Api {
    async fn start(dir: &Path, worker: Arc<dyn WorkerApi>, tasks: &Tasks) -> Self {
        let state = ApiState::new(ApiParts {
            store: Store::open(&dir.join("control.db")).await.unwrap(),
            workers: vec![(crate::cluster::node(1), worker)],
            images: Arc::new(Ports),
            logs: Arc::new(Ports),
            builder: Arc::new(Ports),
            node: NodeFacts {
                version: "0.1.0".into(),
                region: RegionCode::parse("local").unwrap(),
                domains: vec!["localhost".into()],
                http_port: 8080,
                https_port: 8443,
                registry: "localhost:4280".into(),
            },
            sealing_key: Arc::new(SealingKey::open_or_create(&dir.join("seal.key")).unwrap()),
            clock: Arc::new(SystemClock),
            tasks: tasks.clone(),
        });
        state.resume().await.unwrap();
        let token = state.mint_admin_token("test").await.unwrap();
        let images = ContentStore::open(&dir.join("images")).await.unwrap();
        Self {
            token: token.expose().to_owned(),
            router: roost_api::router(state, images),
        }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
            .body(Body::from(match body {
                Value::Null => String::new(),
                body => body.to_string(),
            }));
        let answer = self.router.clone().oneshot(request.unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(status.is_success(), "{method} {path}: {status} {body:?}");
        serde_json::from_slice(&body).unwrap_or(Value::Null)
    }

    async fn deploy(&self, config: Value, count: u32) -> Value {
        let path = "/v1/apps/web/deployments";
        let body = json!({"config": config, "count": count});
        let begun = self.call("POST", path, body).await;
        let path = format!("{path}/{}", begun["id"].as_str().unwrap());
        let start = tokio::time::Instant::now();
        loop {
            let deployment = self.call("GET", &path, Value::Null).await;
            if !deployment["finished_at"].is_null() {
                return deployment;
            }
            assert!(start.elapsed() < PATIENCE, "{deployment}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn an_app_is_deployed_and_replaced_on_the_worker_of_another_node() {
    // What every machine's port leads to: fakes are on loopback.
    let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = app.local_addr().unwrap().port();
    let (cluster, tasks, dir) = (Cluster::new(), Tasks::new(), tempfile::tempdir().unwrap());
    tasks.spawn("app", {
        let stop = tasks.stopping();
        async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = app.accept() => {}
                }
            }
        }
    });
    let real = real::start().await;
    let remote = cluster.remote(real.worker.clone()).await;
    let api = Api::start(dir.path(), Arc::new(remote.worker.clone()), &tasks).await;
    api.call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    for version in ["1", "2"] {
        let config = json!({
            "image": format!("hello:{version}"),
            "services": [{"internal_port": port}],
        });
        let deployment = api.deploy(config, 2).await;
        assert_eq!(deployment["status"], "succeeded", "{deployment}");
        let machines = real.worker.machines(None).await.unwrap();
        let serving = machines.iter().filter(|machine| !machine.cordoned);
        let versions: Vec<&str> = serving
            .map(|machine| machine.spec.metadata["roost_release_version"].as_str())
            .collect();
        assert_eq!(versions, [version; 2]);
    }
    assert!(tasks.shutdown(PATIENCE).await);
    remote.shut_down().await;
}
