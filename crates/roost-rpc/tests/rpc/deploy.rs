//! The API's deploy workflow over a worker on another node.

use crate::cluster::Cluster;
use crate::real;
use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt as _;
use roost_api::{ApiParts, ApiState, testing};
use roost_image::store::ContentStore;
use roost_proto::worker::WorkerApi;
use roost_runtime::tasks::Tasks;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt as _;

const PATIENCE: Duration = Duration::from_secs(60);

/// An API that knows its worker through this.
struct Api {
    router: Router,
    token: String,
}

impl Api {
    async fn start(dir: &Path, worker: Arc<dyn WorkerApi>, tasks: &Tasks) -> Self {
        let workers = vec![(crate::cluster::node(1), worker)];
        let state = ApiState::new(ApiParts {
            tasks: tasks.clone(),
            ..testing::parts(dir, workers).await
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
    let (_node, run) = real::start().await;
    let remote = cluster.remote(run.worker.clone()).await;
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
        let machines = run.worker.machines(None).await.unwrap();
        let serving = machines.iter().filter(|machine| !machine.cordoned);
        let versions: Vec<&str> = serving
            .map(|machine| machine.spec.metadata["roost_release_version"].as_str())
            .collect();
        assert_eq!(versions, [version; 2]);
    }
    assert!(tasks.shutdown(PATIENCE).await);
    remote.shut_down().await;
}
