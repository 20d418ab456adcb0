//! The image config: what to run, and the diff ids of the layers.

use super::null_is_default;
use crate::limits::LAYERS_MAX;
use crate::platform::Platform;
use roost_model::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A document is not an image config that roost reads.
#[derive(Debug, thiserror::Error)]
pub enum ParseImageConfigError {
    /// Not JSON of the right form.
    #[error("image config is not JSON of the expected form")]
    Json(#[source] serde_json::Error),
    /// More diff ids than layers are allowed.
    #[error("image config lists {count} layers, and {LAYERS_MAX} is the most")]
    TooManyLayers {
        /// How many.
        count: usize,
    },
}

/// What an image wants to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// First words of the command.
    pub entrypoint: Vec<String>,
    /// Further words, replaced by a user's own.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]` by name or number; empty for root.
    pub user: String,
    /// Where to start; empty for `/`.
    pub workdir: String,
    /// `80/tcp`, in order.
    pub exposed_ports: Vec<String>,
    /// How to ask it to stop: `SIGTERM` or a number.
    pub stop_signal: Option<String>,
    /// Free notes.
    pub labels: BTreeMap<String, String>,
}

/// All that roost takes from an image config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedImageConfig {
    /// What to run.
    pub config: ImageConfig,
    /// For which CPU.
    pub platform: Platform,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Debug, Deserialize)]
struct RawConfig {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    config: RawRun,
    rootfs: RawRootfs,
}

#[derive(Debug, Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<Digest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    user: String,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_is_default")]
    stop_signal: String,
    #[serde(deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
}

/// Reads an image config.
pub fn parse_image_config(bytes: &[u8]) -> Result<ParsedImageConfig, ParseImageConfigError> {
    let raw: RawConfig = serde_json::from_slice(bytes).map_err(ParseImageConfigError::Json)?;
    let count = raw.rootfs.diff_ids.len();
    if count > LAYERS_MAX {
        return Err(ParseImageConfigError::TooManyLayers { count });
    }
    let run = raw.config;
    let or = |text: String, default: &str| {
        if text.is_empty() {
            default.to_owned()
        } else {
            text
        }
    };
    Ok(ParsedImageConfig {
        config: ImageConfig {
            entrypoint: run.entrypoint,
            cmd: run.cmd,
            env: run.env,
            user: run.user,
            workdir: run.working_dir,
            exposed_ports: run.exposed_ports.into_keys().collect(),
            stop_signal: Some(run.stop_signal).filter(|signal| !signal.is_empty()),
            labels: run.labels,
        },
        platform: Platform {
            os: or(raw.os, "linux"),
            architecture: or(raw.architecture, "unknown"),
            variant: raw.variant.filter(|variant| !variant.is_empty()),
        },
        diff_ids: raw.rootfs.diff_ids,
    })
}
