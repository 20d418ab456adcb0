//! Manifests, image indexes and image configs: what they may say, and reading them.
//!
//! Both families are read: OCI, and Docker's schema 2. [`parse_manifest`] and
//! [`parse_image_config`] are pure and take bytes from strangers.
//! Unknown fields are ignored, as both specifications ask.

mod config;

pub use config::{ImageConfig, ParseImageConfigError, ParsedImageConfig, parse_image_config};

use crate::limits::{
    IMAGE_BYTES_MAX, INDEX_MANIFESTS_MAX, LAYER_BYTES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX,
};
use crate::platform::Platform;
use roost_model::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A Docker manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// An OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// A plain tar layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A gzip layer.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A zstd layer.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// What a client that can read all of them sends as `Accept`.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A document is not a manifest that roost reads.
#[derive(Debug, thiserror::Error)]
pub enum ParseManifestError {
    /// Too large.
    #[error("manifest has {size} bytes, and {MANIFEST_BYTES_MAX} is the most")]
    TooLarge {
        /// How large it is.
        size: u64,
    },
    /// Not JSON of the right form.
    #[error("manifest is not JSON of the expected form")]
    Json(#[source] serde_json::Error),
    /// The first manifest format, without digests of the configuration.
    #[error(
        "manifest has schema version 1, which roost does not read; push the image again with a current tool"
    )]
    SchemaOne,
    /// Another schema version.
    #[error("manifest has schema version {version}, not 2")]
    SchemaVersion {
        /// What it says.
        version: u64,
    },
    /// A media type that is neither a manifest nor an index.
    #[error("manifest has media type `{media_type}`, which roost does not read")]
    MediaType {
        /// What it says.
        media_type: String,
    },
    /// More layers or manifests than allowed.
    #[error("manifest lists {count} {what}, and {count_max} is the most")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        count_max: usize,
    },
    /// The layers are too large together or one by one.
    #[error("manifest announces layers of {size} bytes, and {size_max} is the most")]
    LayersTooLarge {
        /// How large.
        size: u64,
        /// The limit.
        size_max: u64,
    },
}

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// For which CPU, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of artifact, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free notes.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Whether the content may not be distributed by registries.
    pub fn is_foreign(&self) -> bool {
        self.media_type.contains("nondistributable") || self.media_type.contains("foreign")
    }
}

/// Some writers say `null` for an empty map or list.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// One image.
    Image(ImageManifest),
    /// The same image for several CPUs.
    Index(ImageIndex),
}

/// One image: its config and its layers, lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// The media type, as written or as the form implies.
    pub media_type: String,
    /// What kind of artifact, if it is not an image.
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What this refers to, such as a signed image.
    pub subject: Option<Descriptor>,
    /// Free notes.
    pub annotations: BTreeMap<String, String>,
}

/// Manifests for several CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageIndex {
    /// The media type, as written or as the form implies.
    pub media_type: String,
    /// What kind of artifact.
    pub artifact_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// What this refers to.
    pub subject: Option<Descriptor>,
    /// Free notes.
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// The media type.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Image(manifest) => &manifest.media_type,
            Self::Index(index) => &index.media_type,
        }
    }

    /// What kind of artifact: its own word, else the config's media type.
    pub fn artifact_type(&self) -> Option<String> {
        match self {
            Self::Image(manifest) => manifest
                .artifact_type
                .clone()
                .or_else(|| Some(manifest.config.media_type.clone())),
            Self::Index(index) => index.artifact_type.clone(),
        }
    }

    /// What this refers to.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Image(manifest) => manifest.subject.as_ref(),
            Self::Index(index) => index.subject.as_ref(),
        }
    }

    /// Free notes.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Image(manifest) => &manifest.annotations,
            Self::Index(index) => &index.annotations,
        }
    }

    /// Everything that it needs: config and layers, or manifests.
    pub fn children(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, list) = match self {
            Self::Image(manifest) => (Some(&manifest.config), &manifest.layers),
            Self::Index(index) => (None, &index.manifests),
        };
        config.into_iter().chain(list)
    }
}

/// Both forms at once; which one it is follows from the media type, else from the fields.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
}

/// Only what tells the first format apart: its lists do not fit the others' types.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawVersion {
    schema_version: u64,
}

/// Reads a manifest or an index.
pub fn parse_manifest(bytes: &[u8]) -> Result<Manifest, ParseManifestError> {
    let size = bytes.len() as u64;
    if size > MANIFEST_BYTES_MAX {
        return Err(ParseManifestError::TooLarge { size });
    }
    let RawVersion { schema_version } =
        serde_json::from_slice(bytes).map_err(ParseManifestError::Json)?;
    match schema_version {
        1 => return Err(ParseManifestError::SchemaOne),
        2 => {}
        version => return Err(ParseManifestError::SchemaVersion { version }),
    }
    let raw: RawManifest = serde_json::from_slice(bytes).map_err(ParseManifestError::Json)?;
    debug_assert_eq!(raw.schema_version, 2);
    let is_index = match raw.media_type.as_deref() {
        Some(OCI_INDEX | DOCKER_LIST) => true,
        Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
        Some(other) => {
            let media_type = other.chars().take(120).collect();
            return Err(ParseManifestError::MediaType { media_type });
        }
        None => raw.manifests.is_some(),
    };
    // A document that is both would be read differently by different clients.
    if raw.manifests.is_some() && (raw.config.is_some() || raw.layers.is_some()) {
        return Err(missing("either `manifests`, or `config` and `layers`"));
    }
    if is_index {
        index(raw).map(Manifest::Index)
    } else {
        image(raw).map(Manifest::Image)
    }
}

fn missing(what: &str) -> ParseManifestError {
    ParseManifestError::Json(serde::de::Error::custom(format!("it needs {what}")))
}

fn index(raw: RawManifest) -> Result<ImageIndex, ParseManifestError> {
    let manifests = raw.manifests.ok_or_else(|| missing("`manifests`"))?;
    let count = manifests.len();
    if count > INDEX_MANIFESTS_MAX {
        let count_max = INDEX_MANIFESTS_MAX;
        return Err(ParseManifestError::TooMany {
            what: "manifests",
            count,
            count_max,
        });
    }
    Ok(ImageIndex {
        media_type: raw.media_type.unwrap_or_else(|| OCI_INDEX.to_owned()),
        artifact_type: raw.artifact_type,
        manifests,
        subject: raw.subject,
        annotations: raw.annotations,
    })
}

fn image(raw: RawManifest) -> Result<ImageManifest, ParseManifestError> {
    let config = raw.config.ok_or_else(|| missing("`config`"))?;
    let layers = raw.layers.ok_or_else(|| missing("`layers`"))?;
    let count = layers.len();
    if count > LAYERS_MAX {
        return Err(ParseManifestError::TooMany {
            what: "layers",
            count,
            count_max: LAYERS_MAX,
        });
    }
    let largest = layers.iter().map(|layer| layer.size).max().unwrap_or(0);
    if largest > LAYER_BYTES_MAX {
        return Err(ParseManifestError::LayersTooLarge {
            size: largest,
            size_max: LAYER_BYTES_MAX,
        });
    }
    let size = layers
        .iter()
        .fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
    if size > IMAGE_BYTES_MAX {
        return Err(ParseManifestError::LayersTooLarge {
            size,
            size_max: IMAGE_BYTES_MAX,
        });
    }
    Ok(ImageManifest {
        media_type: raw.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned()),
        artifact_type: raw.artifact_type,
        config,
        layers,
        subject: raw.subject,
        annotations: raw.annotations,
    })
}

#[cfg(test)]
mod tests;
