//! What tests put an API together from.

#[cfg(test)]
pub(crate) mod cluster;

use crate::host_names::HostNameParts;
use crate::ports::{ImageBuilder, ImageSource, LogSelection, LogSource, PortError, PulledImage};
use crate::state::{ApiParts, NodeFacts};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use roost_auth::seal::SealingKey;
use roost_model::digest::Digest;
use roost_model::id::NodeId;
use roost_model::image_ref::ImageRef;
use roost_model::name::{AppName, RegionCode};
use roost_proto::logs::LogRecord;
use roost_proto::rest::{BuildEvent, BuildPlan, PullProgress};
use roost_proto::worker::WorkerApi;
use roost_runtime::clock::SystemClock;
use roost_runtime::tasks::Tasks;
use roost_store::Store;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Every image is there; no logs, no builds.
#[derive(Debug, Clone, Copy)]
pub struct Ports;

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
        stream::empty().boxed()
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

/// Parts whose database is in this folder, in the region `local`.
///
/// # Panics
///
/// When the database or the key cannot be made.
#[expect(clippy::expect_used, reason = "a step that fails is a test that fails")]
pub async fn parts(dir: &Path, workers: Vec<(NodeId, Arc<dyn WorkerApi>)>) -> ApiParts {
    let store = Store::open(&dir.join("control.db")).await;
    let sealing_key = SealingKey::open_or_create(&dir.join("seal.key"));
    ApiParts {
        store: store.expect("the database opens"),
        workers,
        images: Arc::new(Ports),
        logs: Arc::new(Ports),
        builder: Arc::new(Ports),
        node: NodeFacts {
            version: "0.1.0".into(),
            region: RegionCode::parse("local").expect("it is a region"),
            domains: vec!["localhost".into()],
            http_port: 8080,
            https_port: 8443,
            registry: "localhost:4280".into(),
            edge_addresses: vec![],
            private_addresses: None,
        },
        host_names: HostNameParts::default(),
        sealing_key: Arc::new(sealing_key.expect("the key is there or made")),
        clock: Arc::new(SystemClock),
        tasks: Tasks::new(),
    }
}
