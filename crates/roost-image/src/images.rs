//! [`Images`]: the images of one node, from reference to unpacked layers.

mod layers;
mod root_image;

pub(crate) use layers::UnpackedLayer;
pub use root_image::BuildRootImageError;

use crate::flight::Flights;
use crate::limits::{
    BACKOFF_MIN, CONFIG_BYTES_MAX, GARBAGE_AGE_MIN, MANIFEST_BYTES_MAX, STALL_TIMEOUT,
    UNPACKS_PARALLEL,
};
use crate::manifest::{
    ImageConfig, ImageManifest, Manifest, ParseImageConfigError, ParseManifestError,
    ParsedImageConfig, parse_image_config, parse_manifest,
};
use crate::platform::Platform;
use crate::remote::{Credentials, Remote, Waits};
use crate::store::{ContentStore, GcReport, StoreError};
use roost_model::digest::Digest;
use roost_model::size::ByteSize;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How images are kept and fetched on a node.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// Folder of the store.
    pub root: PathBuf,
    /// What this node can run.
    pub platform: Platform,
    /// Registries (`host:port`) that may be reached by plain HTTP, besides loopback.
    pub insecure_registries: Vec<String>,
    /// Registry names (`host:port`) that mean the built-in registry.
    pub local_registries: Vec<String>,
    /// Credentials by registry, as users name it (`docker.io`).
    pub credentials: BTreeMap<String, Credentials>,
    /// A download without a byte for this long is broken off and resumed.
    pub stall_timeout: Duration,
    /// Wait before the second attempt of a download; doubles with each further one.
    pub backoff_min: Duration,
    /// Content used within this time is not collected.
    pub garbage_age_min: Duration,
}

impl ImagesConfig {
    /// The usual settings, with the store in `root`.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            platform: Platform::native(),
            insecure_registries: Vec::new(),
            local_registries: Vec::new(),
            credentials: BTreeMap::new(),
            stall_timeout: STALL_TIMEOUT,
            backoff_min: BACKOFF_MIN,
            garbage_age_min: GARBAGE_AGE_MIN,
        }
    }
}

/// The images could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("open the image store {}", root.display())]
pub struct OpenImagesError {
    /// Where it is.
    pub root: PathBuf,
    /// Why not.
    #[source]
    pub source: StoreError,
}

/// An image of the store could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadImageError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its manifest is not one.
    #[error("manifest {digest} is not valid")]
    Manifest {
        /// Which one.
        digest: Digest,
        /// Why not.
        #[source]
        source: ParseManifestError,
    },
    /// Its config is not one.
    #[error("image config {digest} is not valid")]
    Config {
        /// Which one.
        digest: Digest,
        /// Why not.
        #[source]
        source: ParseImageConfigError,
    },
    /// It is for another CPU.
    #[error("image is for {found}, and this node runs {wanted}")]
    Platform {
        /// What the image is for, one or several.
        found: String,
        /// What this node runs.
        wanted: Platform,
    },
    /// Its parts do not fit each other, or are of a kind that roost does not run.
    #[error("image {digest} {problem}")]
    Unusable {
        /// Which one.
        digest: Digest,
        /// What is wrong.
        problem: String,
    },
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDescriptor {
    /// Digest of the blob.
    pub digest: Digest,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// What the manifest says it is.
    pub media_type: String,
    /// Size of the blob in bytes.
    pub size: u64,
}

/// An image that is whole in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of the manifest for this platform.
    pub digest: Digest,
    /// What to run.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<LayerDescriptor>,
    /// Sum of the blobs.
    pub size_bytes: u64,
}

impl Image {
    /// Compressed size of each layer; one that occurs twice is one.
    pub(crate) fn distinct_layers(&self) -> BTreeMap<&Digest, u64> {
        let layers = self.layers.iter();
        layers.map(|layer| (&layer.digest, layer.size)).collect()
    }
}

/// The images of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    pub(crate) inner: Arc<ImagesInner>,
}

#[derive(Debug)]
pub(crate) struct ImagesInner {
    pub config: ImagesConfig,
    pub store: ContentStore,
    pub remote: Remote,
    pub blob_flights: Flights,
    layer_flights: Flights,
    root_image_flights: Flights,
    unpacks: Arc<Semaphore>,
}

impl Images {
    /// Opens the store, and cleans what a crash left half-written.
    pub async fn open(config: ImagesConfig) -> Result<Self, OpenImagesError> {
        let store = ContentStore::open(&config.root)
            .await
            .map_err(|source| OpenImagesError {
                root: config.root.clone(),
                source,
            })?;
        let waits = Waits {
            stall: config.stall_timeout,
            backoff: config.backoff_min,
        };
        let remote = Remote::new(config.credentials.clone(), waits);
        let unpacks = Arc::new(Semaphore::new(UNPACKS_PARALLEL));
        let inner = ImagesInner {
            config,
            store,
            remote,
            blob_flights: Flights::default(),
            layer_flights: Flights::default(),
            root_image_flights: Flights::default(),
            unpacks,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The content under the images.
    pub fn store(&self) -> &ContentStore {
        &self.inner.store
    }

    /// Makes `owner` (such as `machine:ID`) hold this image, and no other any more.
    pub async fn retain(&self, owner: &str, digest: &Digest) -> Result<(), StoreError> {
        self.inner.store.retain(owner, digest).await
    }

    /// Ends what `owner` holds; one that holds nothing is fine.
    pub async fn release(&self, owner: &str) -> Result<(), StoreError> {
        self.inner.store.release(owner).await
    }

    /// Removes what nobody needs, least recently used first, until `bytes_max` are used.
    pub async fn collect_garbage(&self, bytes_max: ByteSize) -> Result<GcReport, StoreError> {
        let age_min = self.inner.config.garbage_age_min;
        self.inner.store.collect_garbage(bytes_max, age_min).await
    }

    /// An image by the digest of its manifest or index; `None` unless all of it is in the store.
    pub async fn image(&self, digest: &Digest) -> Result<Option<Image>, ReadImageError> {
        let store = &self.inner.store;
        let Some(bytes) = store.read_blob(digest, MANIFEST_BYTES_MAX).await? else {
            return Ok(None);
        };
        let mut digest = digest.clone();
        let mut manifest = self.parse(&digest, &bytes)?;
        if let Manifest::Index(index) = &manifest {
            digest = self.choose(index)?.digest.clone();
            let Some(bytes) = store.read_blob(&digest, MANIFEST_BYTES_MAX).await? else {
                return Ok(None);
            };
            manifest = self.parse(&digest, &bytes)?;
        }
        let Manifest::Image(manifest) = manifest else {
            return Err(unusable(&digest, "is an index inside an index"));
        };
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if !store.has(&blob.digest).await? {
                return Ok(None);
            }
        }
        let config = store
            .read_blob(&manifest.config.digest, CONFIG_BYTES_MAX)
            .await?;
        let Some(config) = config else {
            return Ok(None);
        };
        let config = self.parse_config(&manifest, &config)?;
        combine(digest, &manifest, config).map(Some)
    }

    pub(crate) fn parse(&self, digest: &Digest, bytes: &[u8]) -> Result<Manifest, ReadImageError> {
        let manifest = parse_manifest(bytes).map_err(|source| ReadImageError::Manifest {
            digest: digest.clone(),
            source,
        })?;
        if let Manifest::Image(image) = &manifest {
            check_layers(digest, image)?;
        }
        Ok(manifest)
    }

    /// The manifest of an index for this platform.
    pub(crate) fn choose<'i>(
        &self,
        index: &'i crate::manifest::ImageIndex,
    ) -> Result<&'i crate::manifest::Descriptor, ReadImageError> {
        let wanted = &self.inner.config.platform;
        let fit = |platform: &Option<Platform>| match platform {
            Some(platform) => wanted.fit(platform),
            // An index of one image often does not say; its config will.
            None => Some(0),
        };
        let best = index
            .manifests
            .iter()
            .filter_map(|manifest| fit(&manifest.platform).map(|fit| (fit, manifest)))
            .reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map(|(_, manifest)| manifest).ok_or_else(|| {
            let mut found: Vec<String> = index
                .manifests
                .iter()
                .filter_map(|manifest| manifest.platform.as_ref().map(ToString::to_string))
                .filter(|platform| !platform.starts_with("unknown/"))
                .collect();
            found.dedup();
            let found = if found.is_empty() {
                "nothing".to_owned()
            } else {
                found.join(", ")
            };
            ReadImageError::Platform {
                found,
                wanted: wanted.clone(),
            }
        })
    }

    pub(crate) fn parse_config(
        &self,
        manifest: &ImageManifest,
        bytes: &[u8],
    ) -> Result<ParsedImageConfig, ReadImageError> {
        let digest = manifest.config.digest.clone();
        let config = parse_image_config(bytes).map_err(|source| ReadImageError::Config {
            digest: digest.clone(),
            source,
        })?;
        let wanted = &self.inner.config.platform;
        if wanted.fit(&config.platform).is_none() {
            let found = config.platform.to_string();
            return Err(ReadImageError::Platform {
                found,
                wanted: wanted.clone(),
            });
        }
        if config.diff_ids.len() != manifest.layers.len() {
            let problem = format!(
                "has {} layers, and its config lists {}",
                manifest.layers.len(),
                config.diff_ids.len()
            );
            return Err(unusable(&digest, problem));
        }
        Ok(config)
    }
}

fn check_layers(digest: &Digest, manifest: &ImageManifest) -> Result<(), ReadImageError> {
    if let Some(layer) = manifest.layers.iter().find(|layer| layer.is_foreign()) {
        let problem = format!(
            "has layer {} of type `{}`, which registries may not distribute; \
             build the image from a base without such layers",
            layer.digest, layer.media_type
        );
        return Err(unusable(digest, problem));
    }
    let is_tar = |media_type: &str| {
        ["tar", "tar+gzip", "tar.gzip", "tar+zstd", "tar.zstd"]
            .iter()
            .any(|end| {
                media_type
                    .strip_suffix(end)
                    .is_some_and(|start| start.ends_with(['.', '+', '/']))
            })
    };
    if let Some(layer) = manifest
        .layers
        .iter()
        .find(|layer| !is_tar(&layer.media_type))
    {
        let problem = format!(
            "has a layer of type `{}`, which is no archive",
            layer.media_type
        );
        return Err(unusable(digest, problem));
    }
    Ok(())
}

pub(crate) fn unusable(digest: &Digest, problem: impl Into<String>) -> ReadImageError {
    ReadImageError::Unusable {
        digest: digest.clone(),
        problem: problem.into(),
    }
}

pub(crate) fn combine(
    digest: Digest,
    manifest: &ImageManifest,
    config: ParsedImageConfig,
) -> Result<Image, ReadImageError> {
    let layers: Vec<LayerDescriptor> = manifest
        .layers
        .iter()
        .zip(config.diff_ids)
        .map(|(layer, diff_id)| LayerDescriptor {
            digest: layer.digest.clone(),
            diff_id,
            media_type: layer.media_type.clone(),
            size: layer.size,
        })
        .collect();
    let mut image = Image {
        digest,
        config: config.config,
        layers,
        size_bytes: 0,
    };
    image.size_bytes = image.distinct_layers().values().sum();
    Ok(image)
}
