//! Where one part's wish meets another part's offer.

use crate::config::NodeConfig;
use anyhow::{Context as _, Result};
use async_trait::async_trait;
use roost_api::FolderBuilder;
use roost_auth::token::TokenSecret;
use roost_host::buildah::{BuildRegistry, Buildah, BuildahSettings};
use roost_host::net::addresses::{MACHINES_MAX, NodeNetwork};
use roost_image::build::{Builder, BuilderSettings};
use roost_image::{Images, ImagesConfig};
use roost_model::id::MachineId;
use roost_model::size::ByteSize;
use roost_observe::retention::RetentionLimits;
use roost_observe::store::LogStore;
use roost_worker::{AddressAllocator, Housekeeper};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Longest build of a Dockerfile.
const BUILD_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// How this node keeps and fetches images.
pub(crate) fn images_config(config: &NodeConfig) -> ImagesConfig {
    let port = config.api_port();
    ImagesConfig {
        insecure_registries: config.insecure_registries.clone(),
        local_registries: ["localhost", "127.0.0.1", "[::1]"]
            .map(|host| format!("{host}:{port}"))
            .to_vec(),
        ..ImagesConfig::new(config.paths.images())
    }
}

/// Builds folders into the built-in registry; Dockerfiles by buildah, which may
/// use images of that registry with the node's own token.
pub(crate) fn builder(
    config: &NodeConfig,
    images: &Images,
    token: &TokenSecret,
) -> Result<FolderBuilder> {
    let dir = config.paths.builds();
    let buildah = Buildah::prepare(BuildahSettings {
        dir: dir.join("buildah"),
        registry: Some(BuildRegistry {
            address: format!("localhost:{}", config.api_port()),
            token: token.expose().to_owned(),
        }),
        timeout: BUILD_TIMEOUT,
    })
    .context("prepare builds")?;
    let scratch_dir = dir.join("work");
    let settings = BuilderSettings {
        serve_program: config.serve.clone(),
        scratch_dir: scratch_dir.clone(),
        dockerfile_builder: Some(Arc::new(buildah)),
    };
    let uploads = dir.join("uploads");
    roost_runtime::fs::ensure_no_dir(&uploads)?;
    roost_runtime::fs::ensure_dir(&uploads)?;
    roost_runtime::fs::ensure_dir(&scratch_dir)?;
    let builder = Builder::new(images.store().clone(), settings);
    Ok(FolderBuilder {
        builder,
        scratch_dir: uploads,
    })
}

/// Addresses by slot, from the node's networks.
pub(crate) fn addresses(network: NodeNetwork) -> AddressAllocator {
    Arc::new(move |slot| {
        // The worker has at most a thousand slots, the network some four thousand addresses.
        let idx = u16::try_from(slot)
            .unwrap_or(MACHINES_MAX - 1)
            .min(MACHINES_MAX - 1);
        network
            .address(idx)
            .expect("the index is below MACHINES_MAX")
    })
}

/// Image garbage and old logs, with the worker's periodic pass.
pub(crate) fn housekeeper(
    images: Images,
    logs: LogStore,
    images_max: ByteSize,
) -> Arc<dyn Housekeeper> {
    Arc::new(NodeHousekeeper {
        images,
        logs,
        images_max,
    })
}

struct NodeHousekeeper {
    images: Images,
    logs: LogStore,
    images_max: ByteSize,
}

#[async_trait]
impl Housekeeper for NodeHousekeeper {
    async fn run_once(&self, machines: HashSet<MachineId>) {
        match self.images.collect_garbage(self.images_max).await {
            Ok(report) => tracing::debug!(?report, "collected image garbage"),
            Err(error) => {
                tracing::warn!(error = %roost_model::error::chain(&error), "cannot collect image garbage")
            }
        }
        let now = roost_runtime::clock::now();
        match self
            .logs
            .retain_once(machines, RetentionLimits::default(), now)
            .await
        {
            Ok(report) => tracing::debug!(?report, "dropped old logs"),
            Err(error) => {
                tracing::warn!(error = %roost_model::error::chain(&error), "cannot drop old logs")
            }
        }
    }
}
