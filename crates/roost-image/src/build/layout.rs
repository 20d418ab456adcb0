//! Takes the one image of an OCI layout folder into a repository.
//!
//! The folder was written by a builder on this node; digests are verified all
//! the same, as for anything that enters the store.

use crate::limits::{BLOB_READ_BYTES, MANIFEST_BYTES_MAX};
use crate::manifest::{Descriptor, Manifest, ParseManifestError, parse_manifest};
use crate::store::{CommitBlobError, ContentStore, PutManifestError, StoreError};
use bytes::Bytes;
use roost_model::digest::Digest;
use roost_model::image_ref::ImageRef;
use roost_runtime::fs::{FileError, IoContext as _, read_bounded};
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt as _;

/// An image of a layout could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeLayoutError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Index or manifest cannot be read.
    #[error("read the built image")]
    Manifest(#[source] ParseManifestError),
    /// There is not exactly one image.
    #[error("the build gave {count} images where one was expected")]
    Count {
        /// How many there are.
        count: usize,
    },
    /// Content does not match its digest.
    #[error("take a blob of the built image")]
    Blob(#[source] CommitBlobError),
    /// The manifest was refused.
    #[error("store the manifest of the built image")]
    Put(#[source] PutManifestError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes the image; returns its digest and the compressed size of its layers.
pub(super) async fn take(
    store: &ContentStore,
    layout: &Path,
    target: &ImageRef,
) -> Result<(Digest, u64), TakeLayoutError> {
    let index = read_bounded(&layout.join("index.json"), MANIFEST_BYTES_MAX)?;
    let index = parse_manifest(&index).map_err(TakeLayoutError::Manifest)?;
    let images: Vec<&Descriptor> = match &index {
        Manifest::Index(index) => index.manifests.iter().collect(),
        Manifest::Image(_) => Vec::new(),
    };
    let [image] = images.as_slice() else {
        return Err(TakeLayoutError::Count {
            count: images.len(),
        });
    };
    let bytes = read_bounded(&blob_path(layout, &image.digest), MANIFEST_BYTES_MAX)?;
    let Manifest::Image(manifest) = parse_manifest(&bytes).map_err(TakeLayoutError::Manifest)?
    else {
        return Err(TakeLayoutError::Count { count: 0 });
    };
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        take_blob(store, layout, &blob.digest).await?;
        store.link_blob(&target.repository, &blob.digest).await?;
    }
    let (repository, tag) = (target.repository.as_str(), target.tag.as_deref());
    let put = store
        .put_manifest(repository, Bytes::from(bytes), &manifest.media_type, tag)
        .await;
    let size = manifest.layers.iter().map(|layer| layer.size).sum();
    Ok((put.map_err(TakeLayoutError::Put)?, size))
}

fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

async fn take_blob(
    store: &ContentStore,
    layout: &Path,
    digest: &Digest,
) -> Result<(), TakeLayoutError> {
    if store.has(digest).await? {
        return Ok(());
    }
    let path = blob_path(layout, digest);
    let mut file = tokio::fs::File::open(&path).await.on("open", &path)?;
    let mut writer = store.begin_blob().await?;
    let mut buffer = vec![0; BLOB_READ_BYTES];
    loop {
        let n_read = file.read(&mut buffer).await.on("read", &path)?;
        if n_read == 0 {
            break;
        }
        writer.write(&buffer[..n_read]).await?;
    }
    writer
        .commit(digest)
        .await
        .map(drop)
        .map_err(TakeLayoutError::Blob)
}
