//! A control plane over nodes: the real one, with a real database, and simulated workers.

use crate::clock::Clock;
use crate::link::{Faults, Link};
use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use roost_api::{ApiParts, ApiState, testing};
use roost_fsm::testing::TokioClock;
use roost_image::store::ContentStore;
use roost_model::id::MachineId;
use roost_model::name::RegionCode;
use roost_proto::worker::WorkerApi;
use roost_runtime::tasks::Tasks;
use roost_store::Store;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tower::ServiceExt as _;

/// Longest wait for tasks to end, of the time that passes.
const END_TIMEOUT: Duration = Duration::from_secs(600);

/// One life of the control plane.
#[derive(Clone)]
struct Api {
    router: Router,
    token: String,
    store: Store,
    tasks: Tasks,
}

/// The nodes, and the control plane over them.
pub(crate) struct World {
    pub(crate) links: Vec<Arc<Link>>,
    /// Machines that went with the disk of their node.
    pub(crate) wiped: Mutex<BTreeSet<MachineId>>,
    api: Mutex<Option<Api>>,
    clock: Arc<Clock>,
    /// The same for all lives of the control plane.
    wall_clock: TokioClock,
    pub(crate) tasks: Tasks,
    dir: TempDir,
}

impl World {
    pub(crate) async fn start(seed: u64, n_nodes: u64) -> Arc<Self> {
        let tasks = Tasks::new();
        let region = RegionCode::parse("local").unwrap();
        let link = |n| Link::new(seed, n, &region, &tasks);
        // Each write waits for the disk: a real one would be what is measured.
        let memory = Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let world = Arc::new(Self {
            links: (0..n_nodes).map(link).collect(),
            wiped: Mutex::default(),
            api: Mutex::new(None),
            clock: Clock::start(&tasks),
            wall_clock: TokioClock::new(),
            tasks,
            dir: dir.unwrap(),
        });
        world.open().await;
        world
    }

    async fn open(&self) {
        let dir = self.dir.path();
        let worker = |link: &Arc<Link>| (link.id.clone(), Arc::clone(link) as Arc<dyn WorkerApi>);
        let parts = ApiParts {
            clock: Arc::new(self.wall_clock),
            ..testing::parts(dir, self.links.iter().map(worker).collect()).await
        };
        let (store, tasks) = (parts.store.clone(), parts.tasks.clone());
        let state = ApiState::new(parts);
        let token = state.mint_admin_token("test").await.unwrap();
        let images = ContentStore::open(&dir.join("images")).await.unwrap();
        state.resume().await.unwrap();
        self.clock.follow(Some(store.clone()));
        *self.api.lock() = Some(Api {
            token: token.expose().to_owned(),
            router: roost_api::router(state, images),
            store,
            tasks,
        });
    }

    /// Ends the control plane wherever it is, and starts another one over its database.
    pub(crate) async fn restart(&self) {
        let api = self.api.lock().take();
        if let Some(api) = api {
            api.tasks.kill().await;
            self.close(api.store).await;
        }
        self.open().await;
    }

    async fn close(&self, store: Store) {
        self.clock.follow(None);
        store.close().await;
    }

    pub(crate) async fn end(&self) {
        let api = self.api.lock().take();
        if let Some(api) = api {
            assert!(api.tasks.shutdown(END_TIMEOUT).await, "its tasks end");
            self.close(api.store).await;
        }
        self.tasks.stop();
    }

    /// How many machines were ever made.
    pub(crate) fn n_made(&self) -> u64 {
        self.links.iter().map(|link| link.worker.n_made()).sum()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.links.iter().for_each(|link| link.set_faults(faults));
    }

    pub(crate) fn store(&self) -> Store {
        self.store_if_open().expect("it is open")
    }

    /// None while there is no control plane.
    pub(crate) fn store_if_open(&self) -> Option<Store> {
        self.api.lock().as_ref().map(|api| api.store.clone())
    }

    /// A request; none while there is no control plane.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Value,
    ) -> Option<(u16, Value)> {
        let api = self.api.lock().clone()?;
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", api.token));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let request = request.body(Body::from(body)).unwrap();
        let answer = api.router.oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}
