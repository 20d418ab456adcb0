//! From a folder to an image in the built-in registry.
//!
//! A static site and a single program need no base image and no network: their
//! layers are written here, and equal inputs give equal layers. A Dockerfile
//! goes to whoever may start programs ([`DockerfileBuilder`]), and its result
//! is imported from an OCI layout, as are images that were saved elsewhere.
//!
//! The folder comes from a user: paths in the plan must stay within it once all
//! links are followed.

mod context;
mod elf;
mod layer;
#[cfg(test)]
mod tests;
mod tree;

pub use context::{ReceiveContextError, receive_context};
pub use elf::ExecutableError;
pub use layer::WriteLayerError;

use crate::images::Images;
use crate::import::ImportError;
use crate::manifest::{OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::platform::Platform;
use crate::store::{PutManifestError, StoreError};
use bytes::Bytes;
use layer::{Entry, Layer};
use roost_model::error::{Blame, CallerFault, Classify, ErrorCode, Retry};
use roost_model::id::BuildId;
use roost_model::image_ref::ImageRef;
use roost_model::name::AppName;
use roost_proto::dockerfile::{BuildDockerfileError, DockerfileBuild, DockerfileBuilder};
use roost_proto::rest::BuildPlan;
use roost_runtime::fs::{FileError, IoContext as _, ensure_dir, ensure_no_dir};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// The user and group of images that roost makes: nobody in particular.
const USER: &str = "65532:65532";

/// A folder could not be made an image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Something that the plan names is not in the folder.
    #[error("the upload has no {what} `{path}`")]
    Missing {
        /// `folder`, `file` or `Dockerfile`.
        what: &'static str,
        /// As the plan names it.
        path: String,
    },
    /// Something that the plan names lies outside of the folder.
    #[error("`{path}` leads out of the upload")]
    Outside {
        /// As the plan names it.
        path: String,
    },
    /// The program cannot run alone in a machine.
    #[error("`{path}` cannot be the program of an image")]
    Executable {
        /// As the plan names it.
        path: String,
        /// Why.
        #[source]
        source: ExecutableError,
    },
    /// No Dockerfile can be built on this node.
    #[error("this node builds no Dockerfiles")]
    NoDockerfileBuilder,
    /// The Dockerfile could not be built.
    #[error("build `{path}`")]
    Dockerfile {
        /// As the plan names it.
        path: String,
        /// Why.
        #[source]
        source: BuildDockerfileError,
    },
    /// What the Dockerfile gave could not be imported.
    #[error("take over the built image")]
    Layout(#[source] ImportError),
    /// A saved image could not be imported.
    #[error("import `{path}`")]
    Archive {
        /// As the plan names it.
        path: String,
        /// Why not.
        #[source]
        source: ImportError,
    },
    /// A layer could not be written.
    #[error("pack the files")]
    Layer(#[from] WriteLayerError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The image could not be put into the registry.
    #[error("store the image")]
    Manifest(#[source] PutManifestError),
    /// The store failed.
    #[error("store the image")]
    Store(#[from] StoreError),
    /// The work was cut off by the end of the process.
    #[error("the build was interrupted")]
    Interrupted,
}

impl BuildError {
    /// Whether the disk is full.
    fn is_no_space(&self) -> bool {
        match self {
            Self::Dockerfile { source, .. } => source.is_no_space(),
            _ => crate::is_no_space(self),
        }
    }
}

impl Classify for BuildError {
    fn blame(&self) -> Blame {
        match self {
            _ if self.is_no_space() => Blame::Environment,
            Self::Missing { .. }
            | Self::Outside { .. }
            | Self::Executable { .. }
            | Self::Layer(WriteLayerError::Tree(_))
            | Self::Dockerfile {
                source: BuildDockerfileError::Failed { .. },
                ..
            } => Blame::Caller(CallerFault::Invalid),
            Self::Archive { source, .. } => source.blame(),
            _ => Blame::Environment,
        }
    }

    fn retry(&self) -> Retry {
        match self.blame() {
            Blame::Caller(_) => Retry::Never,
            Blame::Environment | Blame::Internal => Retry::Backoff,
        }
    }

    fn code(&self) -> ErrorCode {
        if self.is_no_space() {
            ErrorCode("disk-full")
        } else if let Self::Archive { source, .. } = self {
            source.code()
        } else {
            ErrorCode("build-failed")
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            _ if self.is_no_space() => {
                Some("free space on the disk of the node's data folder, then try again".into())
            }
            Self::Missing { .. } | Self::Outside { .. } => {
                Some("check `[build]` in roost.toml, and that .dockerignore keeps the file".into())
            }
            Self::Executable { source, .. } => source.hint(),
            Self::Archive { source, .. } => source.hint(),
            Self::Dockerfile {
                source: BuildDockerfileError::Missing { debian_package, .. },
                ..
            } => Some(format!(
                "install it on the node: apt-get install {debian_package}"
            )),
            _ => None,
        }
    }
}

/// An image that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// Where it is in the built-in registry, with tag and digest.
    pub reference: ImageRef,
    /// Compressed size of its layers.
    pub size_bytes: u64,
}

/// What a [`Builder`] works with.
#[derive(Clone)]
pub struct BuilderSettings {
    /// The `roost-serve` program for this CPU, statically linked.
    pub serve_program: PathBuf,
    /// A folder for unfinished work; its content is the builder's to remove.
    pub scratch_dir: PathBuf,
    /// Who builds Dockerfiles, if anybody can.
    pub dockerfile_builder: Option<Arc<dyn DockerfileBuilder>>,
}

impl std::fmt::Debug for BuilderSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuilderSettings")
            .field("serve_program", &self.serve_program)
            .field("scratch_dir", &self.scratch_dir)
            .finish_non_exhaustive()
    }
}

/// Makes images of folders.
#[derive(Debug, Clone)]
pub struct Builder {
    images: Images,
    settings: BuilderSettings,
}

/// What one image is made of, apart from its layers.
struct Recipe {
    entries: Vec<Vec<Entry>>,
    config: Value,
}

impl Builder {
    /// A builder for the repositories of these images.
    pub fn new(images: Images, settings: BuilderSettings) -> Self {
        Self { images, settings }
    }

    /// Builds `context_dir` by `plan` as `APP:BUILD`; lines for people go to `progress`.
    ///
    /// A failed or dropped build leaves no image; blobs that were stored
    /// already go at a later collection.
    pub async fn build(
        &self,
        context_dir: &Path,
        plan: &BuildPlan,
        app: &AppName,
        build_id: &BuildId,
        progress: &mpsc::Sender<String>,
    ) -> Result<BuiltImage, BuildError> {
        let tag = build_id
            .as_str()
            .trim_start_matches(BuildId::PREFIX)
            .to_owned();
        let target = ImageRef {
            registry: None,
            repository: app.as_str().to_owned(),
            tag: Some(tag),
            digest: None,
        };
        let context_dir = std::fs::canonicalize(context_dir).on("open", context_dir)?;
        let built = match plan {
            BuildPlan::Static { root } => {
                let recipe = self.site(&context_dir, root)?;
                tell(progress, format!("packing the site `{root}`")).await;
                self.pack(recipe, &target).await?
            }
            BuildPlan::Binary { path, args } => {
                let recipe = program(&context_dir, path, args, app)?;
                tell(progress, format!("packing the program `{path}`")).await;
                self.pack(recipe, &target).await?
            }
            BuildPlan::Dockerfile {
                dockerfile,
                args,
                target: stage,
            } => {
                let file = file_within(&context_dir, dockerfile, "Dockerfile")?;
                let scratch = self.settings.scratch_dir.join(build_id.as_str());
                let scratch = Scratch::create(scratch)?;
                let build = DockerfileBuild {
                    context_dir,
                    dockerfile: file,
                    args: args.clone(),
                    target: stage.clone(),
                    layout_dir: scratch.0.join("image"),
                };
                let built = self.dockerfile(&build, dockerfile, &target, progress).await;
                // It may hold gigabytes. Its removal logs what went wrong, and goes on without a listener.
                drop(tokio::task::spawn_blocking(move || drop(scratch)).await);
                built?
            }
            BuildPlan::Archive { path, image } => {
                let file = within(&context_dir, path, "archive")?;
                tell(progress, format!("importing `{path}`")).await;
                let failed = |source| BuildError::Archive {
                    path: path.clone(),
                    source,
                };
                let import = self.import(&file, image.as_deref(), &target);
                import.await.map_err(failed)?
            }
        };
        tell(
            progress,
            format!("image {} ({} bytes)", built.reference, built.size_bytes),
        )
        .await;
        Ok(built)
    }

    fn site(&self, context_dir: &Path, root: &str) -> Result<Recipe, BuildError> {
        let folder = within(context_dir, root, "folder")?;
        if !folder.is_dir() {
            return Err(BuildError::Missing {
                what: "folder",
                path: root.to_owned(),
            });
        }
        let server = Entry::Program {
            path: "roost-serve".into(),
            source: self.settings.serve_program.clone(),
        };
        let config = json!({
            "User": USER,
            "Entrypoint": ["/roost-serve", "--root", "/site", "--port", "8080"],
            "ExposedPorts": { "8080/tcp": {} },
            "WorkingDir": "/site",
        });
        let site = Entry::Tree {
            path: "site".into(),
            source: folder,
        };
        Ok(Recipe {
            entries: vec![vec![server], vec![site]],
            config,
        })
    }

    async fn pack(&self, recipe: Recipe, target: &ImageRef) -> Result<BuiltImage, BuildError> {
        let store = self.images.store();
        let mut layers = Vec::new();
        for entries in recipe.entries {
            layers.push(layer::write(store, entries).await?);
        }
        let platform = Platform::native();
        let config = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": recipe.config,
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>(),
            },
            // Buildah takes no image as a base that says nothing of its layers.
            "history": vec![json!({ "created_by": "roost" }); layers.len()],
        });
        let config = Bytes::from(config.to_string());
        let config_size = config.len();
        let config_digest = store.put_bytes(config).await?;
        let repository = target.repository.as_str();
        for digest in layers
            .iter()
            .map(|layer| &layer.digest)
            .chain([&config_digest])
        {
            store.link_blob(repository, digest).await?;
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": { "mediaType": OCI_CONFIG, "digest": config_digest, "size": config_size },
            "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
        });
        let bytes = Bytes::from(manifest.to_string());
        let tag = target.tag.as_deref();
        let digest = store
            .put_manifest(repository, bytes, OCI_MANIFEST, tag)
            .await;
        Ok(BuiltImage {
            reference: target.with_digest(digest.map_err(BuildError::Manifest)?),
            size_bytes: layers.iter().map(|layer| layer.size).sum(),
        })
    }

    async fn dockerfile(
        &self,
        build: &DockerfileBuild,
        path: &str,
        target: &ImageRef,
        progress: &mpsc::Sender<String>,
    ) -> Result<BuiltImage, BuildError> {
        let builder = &self.settings.dockerfile_builder;
        let builder = builder.as_ref().ok_or(BuildError::NoDockerfileBuilder)?;
        let failed = |source| BuildError::Dockerfile {
            path: path.to_owned(),
            source,
        };
        builder.build(build, progress).await.map_err(failed)?;
        tell(progress, "taking over the built image".to_owned()).await;
        let import = self.import(&build.layout_dir, None, target);
        import.await.map_err(BuildError::Layout)
    }

    async fn import(
        &self,
        path: &Path,
        wanted: Option<&str>,
        target: &ImageRef,
    ) -> Result<BuiltImage, ImportError> {
        let image = self.images.import(path, wanted, target).await?;
        Ok(BuiltImage {
            reference: target.with_digest(image.digest),
            size_bytes: image.size_bytes,
        })
    }
}

/// A listener that went away is no reason to stop.
async fn tell(progress: &mpsc::Sender<String>, line: String) {
    drop(progress.send(line).await);
}

fn descriptor(layer: &Layer) -> Value {
    json!({ "mediaType": OCI_LAYER_GZIP, "digest": layer.digest, "size": layer.size })
}

fn program(
    context_dir: &Path,
    path: &str,
    args: &[String],
    app: &AppName,
) -> Result<Recipe, BuildError> {
    let file = file_within(context_dir, path, "file")?;
    elf::check_static(&file).map_err(|source| BuildError::Executable {
        path: path.to_owned(),
        source,
    })?;
    let inside = format!("app/{app}");
    let mut command = vec![format!("/{inside}")];
    command.extend(args.iter().cloned());
    let entries = vec![
        Entry::Program {
            path: inside,
            source: file,
        },
        Entry::Text {
            path: "etc/passwd".into(),
            content: "root:x:0:0:root:/:/sbin/nologin\napp:x:65532:65532:app:/app:/sbin/nologin\n",
        },
        Entry::Text {
            path: "etc/group".into(),
            content: "root:x:0:\napp:x:65532:\n",
        },
    ];
    let config = json!({ "User": USER, "Entrypoint": command, "WorkingDir": "/app" });
    Ok(Recipe {
        entries: vec![entries],
        config,
    })
}

/// The file that `path` names in the folder, with all links followed.
fn within(context_dir: &Path, path: &str, what: &'static str) -> Result<PathBuf, BuildError> {
    let missing = || BuildError::Missing {
        what,
        path: path.to_owned(),
    };
    if Path::new(path).is_absolute() {
        return Err(BuildError::Outside {
            path: path.to_owned(),
        });
    }
    let found = std::fs::canonicalize(context_dir.join(path)).map_err(|_| missing())?;
    if found.starts_with(context_dir) {
        Ok(found)
    } else {
        Err(BuildError::Outside {
            path: path.to_owned(),
        })
    }
}

/// As [`within`], and a regular file.
fn file_within(context_dir: &Path, path: &str, what: &'static str) -> Result<PathBuf, BuildError> {
    let found = within(context_dir, path, what)?;
    if found.is_file() {
        Ok(found)
    } else {
        let path = path.to_owned();
        Err(BuildError::Missing { what, path })
    }
}

/// A folder that goes when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn create(path: PathBuf) -> Result<Self, FileError> {
        ensure_no_dir(&path)?;
        ensure_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = ensure_no_dir(&self.0) {
            tracing::warn!(error = %roost_model::error::chain(&error), "scratch folder stays");
        }
    }
}
