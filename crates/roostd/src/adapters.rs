//! Where one part's wish meets another part's offer.

use crate::config::NodeConfig;
use anyhow::{Context as _, Result};
use async_trait::async_trait;
use roost_api::{ApiState, FolderBuilder};
use roost_auth::token::TokenSecret;
use roost_edge::{AccessLog, Network};
use roost_host::buildah::{BuildRegistry, Buildah, BuildahSettings};
use roost_host::net::addresses::{APPS_PREFIX, MACHINES_MAX, NodeNetwork};
use roost_image::build::{Builder, BuilderSettings};
use roost_image::{Images, ImagesConfig};
use roost_model::error::chain;
use roost_model::id::MachineId;
use roost_model::size::ByteSize;
use roost_observe::access::{AccessFile, AccessShare};
use roost_observe::retention::RetentionLimits;
use roost_observe::store::LogStore;
use roost_proto::rest::RequestRecord;
use roost_runtime::clock;
use roost_runtime::tasks::Tasks;
use roost_worker::{AddressAllocator, Housekeeper};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Time between two passes over images.
const IMAGE_UPKEEP_INTERVAL: Duration = Duration::from_secs(300);
/// Longest build of a Dockerfile.
const BUILD_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// What the layers of earlier Dockerfile builds may take; removed above it, and made anew.
const BUILD_STORAGE_BYTES_MAX: u64 = 10 << 30;

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

/// The addresses at which the node's machines reach apps through the edge.
pub(crate) fn private_network(network: NodeNetwork) -> Option<Network> {
    Network::parse(&format!("{}/{APPS_PREFIX}", network.apps_ipv6()))
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
        storage_bytes_max: BUILD_STORAGE_BYTES_MAX,
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
    let builder = Builder::new(images.clone(), settings);
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

/// Drops old logs with the worker's periodic pass.
pub(crate) fn housekeeper(logs: LogStore) -> Arc<dyn Housekeeper> {
    Arc::new(LogHousekeeper { logs })
}

struct LogHousekeeper {
    logs: LogStore,
}

#[async_trait]
impl Housekeeper for LogHousekeeper {
    async fn run_once(&self, machines: HashSet<MachineId>) {
        match self
            .logs
            .retain_once(machines, RetentionLimits::default(), clock::now())
            .await
        {
            Ok(report) => tracing::debug!(?report, "dropped old logs"),
            Err(error) => tracing::warn!(error = %chain(&error), "cannot drop old logs"),
        }
    }
}

/// The edge's access log, if it has one. Records are written until `tasks` are asked to stop.
pub(crate) fn access_log(config: &NodeConfig, tasks: &Tasks) -> Result<Option<Arc<dyn AccessLog>>> {
    if config.access_log == AccessShare::Off {
        return Ok(None);
    }
    let file = AccessFile::open(&config.paths.access(), tasks).context("open the access log")?;
    let share = config.access_log;
    Ok(Some(Arc::new(SharedAccessFile { share, file })))
}

/// The access log that has a share of the requests.
struct SharedAccessFile {
    share: AccessShare,
    file: AccessFile,
}

impl AccessLog for SharedAccessFile {
    fn wants(&self, is_failure: bool, random: u64) -> bool {
        self.share.wants(is_failure, random)
    }

    fn record(&self, record: &Arc<RequestRecord>) {
        self.file.record(record);
    }

    fn n_dropped(&self) -> u64 {
        self.file.n_dropped()
    }
}

/// Keeps the images of releases and collects the rest, again and again.
pub(crate) fn keep_images(api: ApiState, images: Images, images_max: ByteSize, tasks: &Tasks) {
    let stop = tasks.stopping();
    tasks.spawn("image upkeep", async move {
        let mut tick = tokio::time::interval(IMAGE_UPKEEP_INTERVAL);
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: the token remembers that it fired.
                () = stop.cancelled() => return,
                // Cancel-safe: a tick not taken comes again.
                _ = tick.tick() => keep_images_once(&api, &images, images_max).await,
            }
        }
    });
}

async fn keep_images_once(api: &ApiState, images: &Images, images_max: ByteSize) {
    // Nothing is collected before it is known what must stay.
    match api.retain_images_once(images.store(), clock::now()).await {
        Ok(report) => tracing::debug!(?report, "kept the images of releases"),
        Err(error) => {
            return tracing::warn!(error = %chain(&error), "cannot keep the images of releases");
        }
    }
    match images.collect_garbage(images_max).await {
        Ok(report) => tracing::debug!(?report, "collected image garbage"),
        Err(error) => tracing::warn!(error = %chain(&error), "cannot collect image garbage"),
    }
}
