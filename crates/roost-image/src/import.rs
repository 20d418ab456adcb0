//! Importing images from files: an OCI layout folder or archive, and what `docker save` writes.
//!
//! An archive is never unpacked: each member goes into the store under its own
//! digest, and members are then found by name or digest. So no path of an
//! archive ever becomes a path on the disk.
//!
//! `layout` and `archive` find the one image that is wanted; here it gets its name.

mod archive;
mod layout;

use crate::images::{Image, Images, ReadImageError};
use crate::manifest::{Manifest, ParseManifestError};
use crate::store::{CommitBlobError, PutManifestError, StoreError};
use bytes::Bytes;
use layout::Blobs;
use roost_model::error::{Blame, CallerFault, Classify, ErrorCode, Retry};
use roost_model::image_ref::ImageRef;
use roost_runtime::fs::{FileError, IoContext as _};
use std::path::Path;

/// Bytes copied at once.
const COPY_BYTES: usize = 256 * 1024;
/// Most names of images that an error shows.
const NAMES_SHOWN: usize = 10;
/// Most characters of such a name.
const NAME_CHARS_SHOWN: usize = 120;

/// An image could not be imported. Which archive it was is the caller's to say.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is no archive, or a damaged one.
    #[error("it is not a whole archive")]
    Archive(#[source] std::io::Error),
    /// It holds no image in a form that roost reads.
    #[error("it {problem}")]
    Form {
        /// What is wrong.
        problem: String,
    },
    /// Its index is not one.
    #[error("its index.json is not valid")]
    Index(#[source] ParseManifestError),
    /// It holds several images, or not the one that is wanted.
    #[error("{}", describe_choice(wanted.as_deref(), *n_images, names))]
    Choice {
        /// The name that was asked for, if one was.
        wanted: Option<String>,
        /// How many images there are.
        n_images: usize,
        /// What they are called; not each need have a name.
        names: Vec<String>,
    },
    /// The image in it cannot be used.
    #[error("the image in it cannot be used")]
    Image(#[source] ReadImageError),
    /// A blob is not what its name says.
    #[error("a blob in it is damaged")]
    Blob(#[source] CommitBlobError),
    /// A manifest was refused.
    #[error("take its manifest into the store")]
    Manifest(#[source] PutManifestError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work was cut off by the end of the process.
    #[error("the import was interrupted")]
    Interrupted,
}

fn describe_choice(wanted: Option<&str>, n_images: usize, names: &[String]) -> String {
    let names = if names.is_empty() {
        "without names".to_owned()
    } else {
        names.join(", ")
    };
    match wanted {
        Some(wanted) => format!("it does not hold `{wanted}`, but {n_images} images: {names}"),
        None => format!("it holds {n_images} images, not one: {names}"),
    }
}

impl Classify for ImportError {
    fn blame(&self) -> Blame {
        match self {
            Self::File(_)
            | Self::Store(_)
            | Self::Interrupted
            | Self::Image(ReadImageError::Store(_))
            | Self::Blob(CommitBlobError::Store(_))
            | Self::Manifest(PutManifestError::Store(_)) => Blame::Environment,
            Self::Archive(_)
            | Self::Form { .. }
            | Self::Index(_)
            | Self::Choice { .. }
            | Self::Image(_)
            | Self::Blob(_)
            | Self::Manifest(_) => Blame::Caller(CallerFault::Invalid),
        }
    }

    fn retry(&self) -> Retry {
        match self.blame() {
            Blame::Caller(_) => Retry::Never,
            Blame::Environment | Blame::Internal => Retry::Backoff,
        }
    }

    fn code(&self) -> ErrorCode {
        ErrorCode(match (self.blame(), self) {
            (Blame::Environment | Blame::Internal, _) => "image-store-failed",
            (Blame::Caller(_), Self::Choice { .. }) => "archive-image-unclear",
            (Blame::Caller(_), Self::Image(_)) => "image-unusable",
            (Blame::Caller(_), _) => "archive-invalid",
        })
    }

    fn hint(&self) -> Option<String> {
        let hint = match self.code().0 {
            "archive-image-unclear" => "name the one to deploy: --archive-image NAME",
            "image-unusable" => "build or save the image again, for this node's processor",
            "archive-invalid" => {
                "save it again: `docker save IMAGE -o FILE`, or `skopeo copy … oci-archive:FILE`"
            }
            _ => "check the node's disk",
        };
        Some(hint.to_owned())
    }
}

impl Images {
    /// Imports one image of an OCI layout folder, or of an OCI or `docker save`
    /// archive, plain or compressed, into the built-in registry as `name`.
    ///
    /// `wanted` says which one by the name it has in there; without it there
    /// must be only one.
    pub async fn import(
        &self,
        path: &Path,
        wanted: Option<&str>,
        name: &ImageRef,
    ) -> Result<Image, ImportError> {
        let metadata = tokio::fs::metadata(path).await.on("look at", path)?;
        let (manifest, bytes) = if metadata.is_dir() {
            let index = layout::read_index(path).await?;
            self.find_in_layout(&index, wanted, Blobs::Folder(path))
                .await?
        } else {
            self.find_in_archive(path, wanted).await?
        };
        self.name_image(&manifest, bytes, name).await
    }

    /// Puts an image whose blobs are in the store into the built-in registry.
    async fn name_image(
        &self,
        manifest: &Manifest,
        bytes: Bytes,
        name: &ImageRef,
    ) -> Result<Image, ImportError> {
        let store = self.store();
        // Read before it is named, so that one that cannot be used gets no name.
        let digest = store.put_detached_manifest(bytes.clone(), manifest).await?;
        let image = self.image(&digest).await.map_err(ImportError::Image)?;
        let image = image.ok_or_else(|| form("does not hold all of its image"))?;
        for blob in manifest.children() {
            store.link_blob(&name.repository, &blob.digest).await?;
        }
        let tag = Some(name.tag_or_latest());
        store
            .put_manifest(&name.repository, bytes, manifest.media_type(), tag)
            .await
            .map_err(ImportError::Manifest)?;
        Ok(image)
    }
}

/// A name out of an archive, at a length that can be printed.
fn shown(name: &str) -> String {
    name.chars().take(NAME_CHARS_SHOWN).collect()
}

fn form(problem: impl Into<String>) -> ImportError {
    ImportError::Form {
        problem: problem.into(),
    }
}

/// An image of an archive, and what it is called there.
struct Named<T> {
    names: Vec<String>,
    image: T,
}

/// The images that `wanted` may mean: those of that name, or all.
fn candidates<'i, T>(images: &'i [Named<T>], wanted: Option<&str>) -> Vec<&'i Named<T>> {
    let fits = |image: &&Named<T>| {
        wanted.is_none_or(|wanted| image.names.iter().any(|name| name == wanted))
    };
    images.iter().filter(fits).collect()
}

/// Says which images there are, when it does not follow which one is meant.
fn unclear<T>(images: &[Named<T>], wanted: Option<&str>) -> ImportError {
    if images.is_empty() {
        return form("holds no image");
    }
    let mut names: Vec<String> = images
        .iter()
        .flat_map(|image| &image.names)
        .map(|name| shown(name))
        .collect();
    names.sort();
    names.dedup();
    names.truncate(NAMES_SHOWN);
    ImportError::Choice {
        wanted: wanted.map(shown),
        n_images: images.len(),
        names,
    }
}

#[cfg(test)]
mod tests;
