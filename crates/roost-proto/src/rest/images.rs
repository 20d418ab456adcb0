//! How images come to the platform: built or imported from an upload, or pulled.

use super::ErrorBody;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The answer to a finished build (the last line of its progress stream).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum BuildEvent {
    /// A line of the build's output or progress.
    Progress {
        /// A sentence for people.
        message: String,
    },
    /// The image is in the built-in registry.
    Done {
        /// The reference to deploy, with its digest.
        image: String,
        /// Compressed size of its layers.
        size_bytes: u64,
    },
    /// The build failed.
    Failed {
        /// What and why.
        error: ErrorBody,
    },
}

/// `POST /v1/apps/{app}/builds`: how to build, as the query `plan` (JSON); the body is a tar of the folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum BuildPlan {
    /// A static site: the folder `root` is served on port 8080.
    Static {
        /// Folder within the upload.
        root: String,
    },
    /// One static executable.
    Binary {
        /// File within the upload.
        path: String,
        /// Arguments.
        #[serde(default)]
        args: Vec<String>,
    },
    /// An image that was saved: an OCI layout folder or archive, or what `docker save` writes.
    Archive {
        /// File or folder within the upload.
        path: String,
        /// Its name in the archive; needed when that holds several images.
        #[serde(default)]
        image: Option<String>,
    },
    /// A Dockerfile, built with buildah on the node.
    Dockerfile {
        /// File within the upload.
        dockerfile: String,
        /// Build arguments.
        #[serde(default)]
        args: BTreeMap<String, String>,
        /// The stage to stop at.
        #[serde(default)]
        target: Option<String>,
    },
}

/// `POST /v1/apps/{app}/images`: an image that the platform is to have ready for a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImageRequest {
    /// The image reference.
    pub image: String,
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PullProgress {
    /// Layers that are whole.
    pub layers_done: u64,
    /// Layers of the image.
    pub layers_total: u64,
    /// Compressed bytes that are here, from the registry or from before.
    pub bytes_done: u64,
    /// Compressed bytes of the image.
    pub bytes_total: u64,
}

/// One line of the answer to a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum PullEvent {
    /// More of the image is here.
    Progress(PullProgress),
    /// The image is whole on the node.
    Done {
        /// The reference that was asked for, pinned to the digest: what to deploy.
        image: String,
        /// Compressed size of its layers.
        size_bytes: u64,
    },
    /// The pull failed.
    Failed {
        /// What and why.
        error: ErrorBody,
    },
}
