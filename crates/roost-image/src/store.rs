//! The content-addressed store of one node.
//!
//! ```text
//! ROOT/metadata.sqlite          what is known about the content (WAL)
//! ROOT/blobs/sha256/HEX         whole, verified, immutable
//! ROOT/partial/HEX              a download to resume; never trusted
//! ROOT/partial/upload-N-N       an upload of this process; gone after a crash
//! ROOT/layers/HEX               an unpacked layer, by diff id
//! ROOT/layers/tmp-N             being unpacked; gone after a crash
//! ROOT/root-images/HEX          the merged layers of an image as one file system
//! ROOT/root-images/tmp-N        being written; gone after a crash
//! ```
//!
//! A blob appears under its name by one `rename` after its whole content was
//! hashed and synced, and a row in the metadata follows. [`ContentStore::open`]
//! brings both back in step: a file without a row is removed, and so is a row
//! without a file.

mod blob_writer;
mod collect;
mod manifests;
mod metadata;
mod owners;
mod pins;
mod root_images;
#[cfg(test)]
mod tests;

pub use blob_writer::{BlobWriter, CommitBlobError};
pub use collect::GcReport;
pub use manifests::{ManifestReference, PutManifestError, Referrer, StoredManifest};
pub(crate) use pins::Pin;

use crate::limits::PARTIAL_AGE_MAX;
use bytes::Bytes;
use metadata::Metadata;
use pins::Pins;
use roost_model::digest::Digest;
use roost_runtime::fs::{FileError, IoContext as _, ensure_dir, ensure_no_dir, ensure_no_file};
use root_images::open_root_images;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("image store: {0}")]
    File(#[source] FileError),
    /// The metadata database failed.
    #[error("image store: {operation}")]
    Database {
        /// What was attempted.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: rusqlite::Error,
    },
    /// The operation was cut off by the end of the process.
    #[error("image store: {operation} was interrupted")]
    Interrupted {
        /// What was attempted.
        operation: &'static str,
    },
    /// A blob is larger than it may be for this use.
    #[error("blob {digest} has {size} bytes, and {bytes_max} is the most here")]
    TooLarge {
        /// Which blob.
        digest: Digest,
        /// Its size.
        size: u64,
        /// The limit.
        bytes_max: u64,
    },
}

impl From<FileError> for StoreError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// The content-addressed store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ContentStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    metadata: Metadata,
    pins: Pins,
    upload_next: AtomicU64,
}

impl ContentStore {
    /// Opens the store under `root`, and cleans what a crash left.
    pub async fn open(root: &Path) -> Result<Self, StoreError> {
        let root = root.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            for dir in ["blobs/sha256", "partial", "layers"] {
                ensure_dir(&root.join(dir))?;
            }
            let metadata = Metadata::open(&root.join("metadata.sqlite"))?;
            clean_partial(&root.join("partial"))?;
            clean_layers(&root.join("layers"), &metadata)?;
            clean_blobs(&root.join("blobs/sha256"), &metadata)?;
            open_root_images(&root.join("root-images"), &metadata)?;
            Ok(Inner {
                root,
                metadata,
                pins: Pins::default(),
                upload_next: AtomicU64::new(0),
            })
        });
        let inner = opened
            .await
            .map_err(|_| StoreError::Interrupted { operation: "open" })?;
        inner.map(|inner| Self {
            inner: Arc::new(inner),
        })
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Where the blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.inner.root.join("blobs/sha256").join(digest.hex())
    }

    /// The size of a blob; `None` when it is not in the store.
    pub async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        self.inner.metadata.blob_size(digest).await
    }

    /// Whether the blob is in the store, whole and verified.
    pub async fn has(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.blob_size(digest).await?.is_some())
    }

    /// Opens a blob for reading, with its size; `None` when it is not in the store.
    pub async fn open_blob(
        &self,
        digest: &Digest,
    ) -> Result<Option<(tokio::fs::File, u64)>, StoreError> {
        let Some(size) = self.blob_size(digest).await? else {
            return Ok(None);
        };
        let path = self.blob_path(digest);
        let file = tokio::fs::File::open(&path).await.on("open", &path)?;
        Ok(Some((file, size)))
    }

    /// The whole content of a small blob; `None` when it is not in the store.
    pub async fn read_blob(
        &self,
        digest: &Digest,
        bytes_max: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        match self.blob_size(digest).await? {
            None => Ok(None),
            Some(size) if size > bytes_max => Err(StoreError::TooLarge {
                digest: digest.clone(),
                size,
                bytes_max,
            }),
            Some(_) => {
                let path = self.blob_path(digest);
                let content = tokio::fs::read(&path).await.on("read", &path)?;
                Ok(Some(Bytes::from(content)))
            }
        }
    }

    /// Starts a blob whose digest is not known yet, such as an upload.
    pub async fn begin_blob(&self) -> Result<BlobWriter, StoreError> {
        let number = self.inner.upload_next.fetch_add(1, Ordering::Relaxed);
        let name = format!("upload-{}-{number}", std::process::id());
        BlobWriter::create(self.clone(), self.inner.root.join("partial").join(name)).await
    }

    /// Starts or continues the download of a known blob.
    ///
    /// What an earlier attempt got is hashed again first;
    /// [`BlobWriter::written`] says how much there is. One writer at a time
    /// may exist per digest.
    pub(crate) async fn resume_blob(&self, digest: &Digest) -> Result<BlobWriter, StoreError> {
        let path = self.inner.root.join("partial").join(digest.hex());
        BlobWriter::resume(self.clone(), path).await
    }

    /// Stores `content` and returns its digest.
    pub async fn put_bytes(&self, content: Bytes) -> Result<Digest, StoreError> {
        let digest = Digest::from_sha256(Sha256::digest(&content).into());
        if self.has(&digest).await? {
            self.touch(std::slice::from_ref(&digest)).await?;
            return Ok(digest);
        }
        let mut writer = self.begin_blob().await?;
        writer.write(&content).await?;
        match writer.commit(&digest).await {
            Ok(_size) => Ok(digest),
            Err(CommitBlobError::Store(error)) => Err(error),
            Err(CommitBlobError::Mismatch { .. }) => Err(StoreError::Interrupted {
                operation: "store content",
            }),
        }
    }

    /// Records that these blobs were used now.
    pub(crate) async fn touch(&self, digests: &[Digest]) -> Result<(), StoreError> {
        self.inner.metadata.touch(digests).await
    }

    /// Keeps a digest from being collected while the pin lives.
    pub(crate) fn pin(&self, digest: &Digest) -> Pin {
        self.inner.pins.pin(digest)
    }

    /// Where the unpacked layer is, or would be.
    pub(crate) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.inner.root.join("layers").join(diff_id.hex())
    }

    /// A new name for a layer that is being unpacked.
    pub(crate) fn layer_temporary_path(&self) -> PathBuf {
        let number = self.inner.upload_next.fetch_add(1, Ordering::Relaxed);
        self.inner.root.join("layers").join(format!("tmp-{number}"))
    }
}

fn dir_names(dir: &Path) -> Result<Vec<String>, FileError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).on("list", dir)? {
        let entry = entry.on("list", dir)?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn clean_partial(dir: &Path) -> Result<(), StoreError> {
    for name in dir_names(dir)? {
        let path = dir.join(&name);
        let age = std::fs::metadata(&path)
            .and_then(|data| data.modified())
            .on("look at", &path)?;
        let is_old = age.elapsed().is_ok_and(|age| age > PARTIAL_AGE_MAX);
        if name.starts_with("upload-") || is_old {
            ensure_no_file(&path)?;
        }
    }
    Ok(())
}

fn clean_layers(dir: &Path, metadata: &Metadata) -> Result<(), StoreError> {
    let mut known = metadata.layers_blocking()?;
    for name in dir_names(dir)? {
        if known.remove(&name).is_none() {
            ensure_no_dir(&dir.join(&name))?;
        }
    }
    metadata.forget_layers_blocking(known.into_keys().collect())
}

fn clean_blobs(dir: &Path, metadata: &Metadata) -> Result<(), StoreError> {
    let mut known: BTreeMap<String, u64> = metadata.blobs_blocking()?;
    for name in dir_names(dir)? {
        let path = dir.join(&name);
        let size = std::fs::metadata(&path).on("look at", &path)?.len();
        if known.get(&name) == Some(&size) {
            known.remove(&name);
        } else {
            ensure_no_file(&path)?;
        }
    }
    metadata.forget_blobs_blocking(known.into_keys().collect())
}
