//! Pulling: the built-in registry first, then the one that the reference names.

use crate::images::{
    Image, Images, LayerDescriptor, ReadImageError, UnpackedLayer, combine, unusable,
};
use crate::limits::{CONFIG_BYTES_MAX, LAYERS_PARALLEL};
use crate::manifest::{Descriptor, ImageManifest, Manifest};
use crate::remote::{RemoteError, Repository};
use crate::store::{ManifestReference, Pin, StoreError};
use crate::unpack::UnpackError;
use futures_util::stream::TryStreamExt as _;
use parking_lot::Mutex;
use roost_model::digest::Digest;
use roost_model::image_ref::{ImageRef, REGISTRY_DEFAULT};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where Docker Hub's registry really is.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// Hears how a pull goes on.
pub trait PullProgress: Send + Sync {
    /// It is known what will come: so many layers, with so many compressed bytes in all.
    fn started(&self, _n_layers: usize, _bytes_total: u64) {}
    /// So many more bytes are here, from the network or already in the store.
    fn advanced(&self, _bytes: u64) {}
    /// A layer is in the store, whole.
    fn layer_done(&self, _digest: &Digest) {}
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl PullProgress for NoProgress {}

/// An image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The built-in registry does not have it.
    #[error("image `{reference}` is not in the built-in registry")]
    NotFound {
        /// What was asked for.
        reference: ImageRef,
    },
    /// The registry does not give it.
    #[error("pull image `{reference}`")]
    Remote {
        /// What was asked for.
        reference: ImageRef,
        /// Why not.
        #[source]
        source: RemoteError,
    },
    /// It is not an image that this node can run.
    #[error("image `{reference}` cannot be used")]
    Unusable {
        /// What was asked for.
        reference: ImageRef,
        /// Why not.
        #[source]
        source: ReadImageError,
    },
    /// The store failed.
    #[error("store image `{reference}`")]
    Store {
        /// What was asked for.
        reference: ImageRef,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// Why, before the reference is added.
enum Fault {
    Remote(RemoteError),
    Unusable(ReadImageError),
    Store(StoreError),
}

impl From<RemoteError> for Fault {
    fn from(error: RemoteError) -> Self {
        Self::Remote(error)
    }
}
impl From<ReadImageError> for Fault {
    fn from(error: ReadImageError) -> Self {
        Self::Unusable(error)
    }
}
impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fault {
    fn of(self, reference: &ImageRef) -> PullError {
        let reference = reference.clone();
        match self {
            Self::Remote(RemoteError::Store(source)) | Self::Store(source) => {
                PullError::Store { reference, source }
            }
            Self::Remote(source) => PullError::Remote { reference, source },
            Self::Unusable(source) => PullError::Unusable { reference, source },
        }
    }
}

impl Images {
    /// Makes the image whole in the store, and returns it.
    ///
    /// A name without a registry is looked up in the built-in registry first,
    /// then on Docker Hub.
    pub async fn pull(
        &self,
        reference: &ImageRef,
        progress: &dyn PullProgress,
    ) -> Result<Image, PullError> {
        let local = &self.inner.config.local_registries;
        let is_local = reference
            .registry
            .as_ref()
            .is_some_and(|name| local.contains(name));
        if is_local || reference.registry.is_none() {
            let found = self
                .local_image(reference)
                .await
                .map_err(|fault| fault.of(reference))?;
            if let Some(image) = found {
                report_whole(&image, progress);
                return Ok(image);
            }
            if is_local {
                return Err(PullError::NotFound {
                    reference: reference.clone(),
                });
            }
        }
        self.remote_image(reference, progress)
            .await
            .map_err(|fault| fault.of(reference))
    }

    async fn local_image(&self, reference: &ImageRef) -> Result<Option<Image>, Fault> {
        let store = &self.inner.store;
        let wanted = match &reference.digest {
            Some(digest) => ManifestReference::Digest(digest.clone()),
            None => ManifestReference::Tag(reference.tag_or_latest().to_owned()),
        };
        let Some(found) = store.manifest(&reference.repository, &wanted).await? else {
            return Ok(None);
        };
        let Some(image) = self.image(&found.digest).await? else {
            return Err(unusable(&found.digest, "is not whole in the store; push it again").into());
        };
        self.touch(&image).await?;
        Ok(Some(image))
    }

    async fn touch(&self, image: &Image) -> Result<(), StoreError> {
        let layers = image.layers.iter().map(|layer| layer.digest.clone());
        let digests: Vec<Digest> = layers.chain([image.digest.clone()]).collect();
        self.inner.store.touch(&digests).await
    }

    async fn remote_image(
        &self,
        reference: &ImageRef,
        progress: &dyn PullProgress,
    ) -> Result<Image, Fault> {
        // What is pinned by digest and here already needs no network.
        if let Some(digest) = &reference.digest
            && let Some(image) = self.image(digest).await?
        {
            report_whole(&image, progress);
            self.touch(&image).await?;
            return Ok(image);
        }
        let store = &self.inner.store;
        let remote = &self.inner.remote;
        let repository = self.repository(reference);
        let mut fetched = remote
            .manifest(&repository, reference.manifest_reference())
            .await?;
        let mut manifest = self.parse(&fetched.digest, &fetched.bytes)?;
        if let Manifest::Index(index) = &manifest {
            let chosen = self.choose(index)?;
            fetched = remote.manifest(&repository, chosen.digest.as_str()).await?;
            manifest = self.parse(&fetched.digest, &fetched.bytes)?;
        }
        let Manifest::Image(image_manifest) = &manifest else {
            return Err(unusable(&fetched.digest, "is an index inside an index").into());
        };
        let _pins: Vec<Pin> = manifest
            .children()
            .map(|child| &child.digest)
            .chain([&fetched.digest])
            .map(|digest| store.pin(digest))
            .collect();
        let config = self.fetch_config(&repository, image_manifest).await?;
        let config = self.parse_config(image_manifest, &config)?;
        let image = combine(fetched.digest.clone(), image_manifest, config)?;
        progress.started(image.distinct_layers().len(), image.size_bytes);
        self.fetch_layers(&repository, image_manifest, &image, progress)
            .await?;
        store
            .put_detached_manifest(fetched.bytes, &manifest)
            .await?;
        self.touch(&image).await?;
        Ok(image)
    }

    async fn fetch_config(
        &self,
        repository: &Repository,
        manifest: &ImageManifest,
    ) -> Result<bytes::Bytes, Fault> {
        let config = &manifest.config;
        if config.size > CONFIG_BYTES_MAX {
            let problem = format!(
                "has {} bytes, and {CONFIG_BYTES_MAX} is the most",
                config.size
            );
            return Err(unusable(&config.digest, problem).into());
        }
        self.fetch_blob(repository, config, &|_bytes| {}).await?;
        let content = self
            .inner
            .store
            .read_blob(&config.digest, CONFIG_BYTES_MAX)
            .await?;
        content.ok_or_else(|| unusable(&config.digest, "went away while it was pulled").into())
    }

    /// Downloads the layers, and unpacks each while the others are on their way.
    async fn fetch_layers(
        &self,
        repository: &Repository,
        manifest: &ImageManifest,
        image: &Image,
        progress: &dyn PullProgress,
    ) -> Result<(), Fault> {
        // Both lists are of the same length: the config was checked against the manifest.
        let layers = manifest.layers.iter().zip(&image.layers);
        let distinct: BTreeMap<&Digest, (&Descriptor, &LayerDescriptor)> =
            layers.map(|pair| (&pair.0.digest, pair)).collect();
        let unpacked = Mutex::new(Vec::new());
        let fetched = futures_util::stream::iter(distinct.into_values().map(Ok))
            .try_for_each_concurrent(LAYERS_PARALLEL, |(layer, described)| {
                let unpacked = &unpacked;
                async move {
                    // A download that starts again must not count twice.
                    let reported = AtomicU64::new(0);
                    let advance = |bytes: u64| {
                        let before = reported.load(Ordering::Relaxed);
                        let now = before.saturating_add(bytes).min(layer.size);
                        reported.store(now, Ordering::Relaxed);
                        progress.advanced(now - before);
                    };
                    self.fetch_blob(repository, layer, &advance).await?;
                    advance(u64::MAX);
                    progress.layer_done(&layer.digest);
                    match self.unpack_ahead(described).await {
                        Ok(layer) => unpacked.lock().extend(layer),
                        // Whoever wants the layers gets the error; the image itself is whole.
                        Err(error) => note_not_unpacked(&layer.digest, &error),
                    }
                    Ok::<_, Fault>(())
                }
            })
            .await;
        let unpacked: Vec<UnpackedLayer> = unpacked.into_inner();
        if let Err(error) = self.record_unpacked(unpacked).await {
            note_not_unpacked(&image.digest, &error);
        }
        fetched
    }

    /// Downloads a blob unless it is here or somebody else is at it.
    async fn fetch_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        advanced: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Fault> {
        let store = &self.inner.store;
        let _turn = self.inner.blob_flights.turn(&blob.digest).await;
        match store.blob_size(&blob.digest).await? {
            Some(size) if size == blob.size => Ok(()),
            Some(size) => {
                let problem = format!("has {size} bytes, and its manifest says {}", blob.size);
                Err(unusable(&blob.digest, problem).into())
            }
            None => Ok(self
                .inner
                .remote
                .blob(store, repository, blob, advanced)
                .await?),
        }
    }

    /// Where a reference leads.
    fn repository(&self, reference: &ImageRef) -> Repository {
        let registry = reference.registry.as_deref().unwrap_or(REGISTRY_DEFAULT);
        let is_hub = matches!(registry, REGISTRY_DEFAULT | "index.docker.io");
        let host = if is_hub { DOCKER_HUB } else { registry };
        let is_official = is_hub && !reference.repository.contains('/');
        let prefix = if is_official { "library/" } else { "" };
        let is_insecure = self
            .inner
            .config
            .insecure_registries
            .iter()
            .any(|name| name == registry);
        let scheme = if is_insecure || is_loopback(host) {
            "http"
        } else {
            "https"
        };
        Repository {
            base: format!("{scheme}://{host}"),
            registry: registry.to_owned(),
            name: format!("{prefix}{}", reference.repository),
        }
    }
}

/// What is here already was pulled in no time.
fn report_whole(image: &Image, progress: &dyn PullProgress) {
    let layers = image.distinct_layers();
    progress.started(layers.len(), image.size_bytes);
    progress.advanced(image.size_bytes);
    for digest in layers.keys() {
        progress.layer_done(digest);
    }
}

fn note_not_unpacked(digest: &Digest, error: &UnpackError) {
    let error = roost_model::error::chain(error);
    tracing::debug!(%digest, error, "not unpacked while pulling");
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_address = |address: std::net::IpAddr| address.is_loopback();
    name == "localhost" || name.parse().is_ok_and(is_address)
}

#[cfg(test)]
mod tests;
