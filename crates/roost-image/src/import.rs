//! Importing images from files: an OCI layout folder or archive, and what `docker save` writes.
//!
//! An archive is never unpacked: each member goes into the store under its own
//! digest, and members are then found by name or digest. So no path of an
//! archive ever becomes a path on the disk.

use crate::images::{Image, Images, ReadImageError};
use crate::limits::{ARCHIVE_MEMBERS_MAX, CONFIG_BYTES_MAX, MANIFEST_BYTES_MAX};
use crate::manifest::{
    DOCKER_CONFIG, Descriptor, Manifest, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use crate::store::{BlobWriter, CommitBlobError, ContentStore, PutManifestError, StoreError};
use crate::unpack::stream::{Compression, decompress};
use bytes::Bytes;
use roost_model::digest::Digest;
use roost_model::image_ref::ImageRef;
use roost_runtime::fs::{FileError, IoContext as _, read_bounded};
use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Bytes copied at once.
const COPY_BYTES: usize = 256 * 1024;

/// Images could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is no archive, or a damaged one.
    #[error("read archive {}", path.display())]
    Archive {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It holds no image in a form that roost reads.
    #[error("{} {problem}", path.display())]
    Form {
        /// Which folder or archive.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An image in it cannot be used.
    #[error("image in {} cannot be used", path.display())]
    Image {
        /// Which folder or archive.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ReadImageError,
    },
    /// A blob is not what its name says.
    #[error("take a blob of {} into the store", path.display())]
    Blob {
        /// Which folder or archive.
        path: PathBuf,
        /// Why not.
        #[source]
        source: CommitBlobError,
    },
    /// A manifest was refused.
    #[error("take a manifest of {} into the store", path.display())]
    Manifest {
        /// Which folder or archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: PutManifestError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work was cut off by the end of the process.
    #[error("the import was interrupted")]
    Interrupted,
}

/// `index.json` of a layout.
#[derive(Debug, serde::Deserialize)]
struct LayoutIndex {
    manifests: Vec<Descriptor>,
}

/// One entry of `manifest.json` in what `docker save` writes.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    layers: Vec<String>,
}

/// What an archive's members became.
#[derive(Debug, Default)]
struct Members {
    blobs: HashMap<String, (Digest, u64, Compression)>,
    links: HashMap<String, String>,
}

impl Members {
    fn find(&self, name: &str) -> Option<&(Digest, u64, Compression)> {
        // Old writers store a layer once and link to it.
        let name = self.links.get(name).map_or(name, String::as_str);
        self.blobs.get(name)
    }
}

impl Images {
    /// Imports an OCI layout folder into the built-in registry, as `name`.
    pub async fn import_layout(
        &self,
        path: &Path,
        name: &ImageRef,
    ) -> Result<Vec<Image>, ImportError> {
        let index = read_bounded(&path.join("index.json"), MANIFEST_BYTES_MAX)?;
        self.import_index(path, &index, name, Some(path)).await
    }

    /// Imports an OCI or `docker save` archive, plain or compressed, as `name`.
    pub async fn import_archive(
        &self,
        path: &Path,
        name: &ImageRef,
    ) -> Result<Vec<Image>, ImportError> {
        let members = {
            let (path, store) = (path.to_owned(), self.store().clone());
            let runtime = tokio::runtime::Handle::current();
            tokio::task::spawn_blocking(move || take_members(&path, &store, &runtime))
        };
        let members = members.await.map_err(|_| ImportError::Interrupted)??;
        if let Some((digest, ..)) = members.find("index.json") {
            let index = self.store().read_blob(digest, MANIFEST_BYTES_MAX).await?;
            return self
                .import_index(path, &index.unwrap_or_default(), name, None)
                .await;
        }
        let Some((digest, ..)) = members.find("manifest.json") else {
            let problem = "has neither index.json nor manifest.json, so it is no image archive";
            return Err(form(path, problem));
        };
        let saved = self
            .store()
            .read_blob(digest, MANIFEST_BYTES_MAX)
            .await?
            .unwrap_or_default();
        let saved: Vec<SavedImage> = serde_json::from_slice(&saved)
            .map_err(|error| form(path, format!("has a bad manifest.json: {error}")))?;
        if saved.len() != 1 {
            return Err(form(path, format!("holds {} images, not one", saved.len())));
        }
        let mut images = Vec::new();
        for image in &saved {
            images.push(self.import_saved(path, image, &members, name).await?);
        }
        Ok(images)
    }

    async fn import_index(
        &self,
        path: &Path,
        index: &[u8],
        name: &ImageRef,
        folder: Option<&Path>,
    ) -> Result<Vec<Image>, ImportError> {
        let index: LayoutIndex = serde_json::from_slice(index)
            .map_err(|error| form(path, format!("has a bad index.json: {error}")))?;
        if index.manifests.len() != 1 {
            return Err(form(
                path,
                format!("holds {} images, not one", index.manifests.len()),
            ));
        }
        let mut images = Vec::new();
        for descriptor in &index.manifests {
            let unusable = |source| ImportError::Image {
                path: path.to_owned(),
                source,
            };
            let (mut digest, mut bytes) = self.manifest_of(path, descriptor, folder).await?;
            let mut manifest = self.parse(&digest, &bytes).map_err(unusable)?;
            if let Manifest::Index(inner) = &manifest {
                let chosen = self.choose(inner).map_err(unusable)?;
                (digest, bytes) = self.manifest_of(path, chosen, folder).await?;
                manifest = self.parse(&digest, &bytes).map_err(unusable)?;
            }
            for blob in manifest.children() {
                self.take_blob(path, &blob.digest, folder).await?;
            }
            images.push(self.name_image(path, &manifest, bytes, name).await?);
        }
        Ok(images)
    }

    async fn manifest_of(
        &self,
        path: &Path,
        descriptor: &Descriptor,
        folder: Option<&Path>,
    ) -> Result<(Digest, Bytes), ImportError> {
        self.take_blob(path, &descriptor.digest, folder).await?;
        let bytes = self
            .store()
            .read_blob(&descriptor.digest, MANIFEST_BYTES_MAX)
            .await?;
        Ok((descriptor.digest.clone(), bytes.unwrap_or_default()))
    }

    /// Copies a blob of a layout folder into the store; one of an archive is there already.
    async fn take_blob(
        &self,
        path: &Path,
        digest: &Digest,
        folder: Option<&Path>,
    ) -> Result<(), ImportError> {
        if self.store().has(digest).await? {
            return Ok(());
        }
        let Some(folder) = folder else {
            return Err(form(path, format!("lacks blob {digest}")));
        };
        let source = folder.join("blobs/sha256").join(digest.hex());
        let mut file = tokio::fs::File::open(&source).await.on("open", &source)?;
        let mut writer = self.store().begin_blob().await?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let n = tokio::io::AsyncReadExt::read(&mut file, &mut buffer).await;
            match n.on("read", &source)? {
                0 => break,
                n => writer.write(&buffer[..n]).await?,
            }
        }
        let committed = writer.commit(digest).await;
        committed.map_err(|source| ImportError::Blob {
            path: path.to_owned(),
            source,
        })?;
        Ok(())
    }

    /// Makes a manifest for an image that came without one.
    async fn import_saved(
        &self,
        path: &Path,
        saved: &SavedImage,
        members: &Members,
        name: &ImageRef,
    ) -> Result<Image, ImportError> {
        let find = |member: &str| {
            members
                .find(member)
                .ok_or_else(|| form(path, format!("lacks `{member}`")))
        };
        let descriptor = |media_type: &str, digest: &Digest, size: u64| Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.clone(),
            size,
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
        };
        let (digest, size, _) = find(&saved.config)?;
        if *size > CONFIG_BYTES_MAX {
            return Err(form(path, format!("has an image config of {size} bytes")));
        }
        let config = descriptor(DOCKER_CONFIG, digest, *size);
        let mut layers = Vec::new();
        for layer in &saved.layers {
            let (digest, size, compression) = find(layer)?;
            let media_type = match compression {
                Compression::None => OCI_LAYER,
                Compression::Gzip => OCI_LAYER_GZIP,
                Compression::Zstd => OCI_LAYER_ZSTD,
            };
            layers.push(descriptor(media_type, digest, *size));
        }
        let json = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
        });
        let bytes = Bytes::from(json.to_string());
        let digest = self.store().put_bytes(bytes.clone()).await?;
        let manifest = self
            .parse(&digest, &bytes)
            .map_err(|source| ImportError::Image {
                path: path.to_owned(),
                source,
            })?;
        self.name_image(path, &manifest, bytes, name).await
    }

    /// Puts an image whose blobs are in the store into the built-in registry.
    async fn name_image(
        &self,
        path: &Path,
        manifest: &Manifest,
        bytes: Bytes,
        name: &ImageRef,
    ) -> Result<Image, ImportError> {
        let store = self.store();
        // Read before it is named, so that one that cannot be used gets no name.
        let digest = store.put_detached_manifest(bytes.clone(), manifest).await?;
        let unusable = |source| ImportError::Image {
            path: path.to_owned(),
            source,
        };
        let image = self.image(&digest).await.map_err(unusable)?;
        let image = image.ok_or_else(|| form(path, "does not hold all of its image"))?;
        for blob in manifest.children() {
            store.link_blob(&name.repository, &blob.digest).await?;
        }
        let tag = Some(name.tag_or_latest());
        store
            .put_manifest(&name.repository, bytes, manifest.media_type(), tag)
            .await
            .map_err(|source| ImportError::Manifest {
                path: path.to_owned(),
                source,
            })?;
        Ok(image)
    }
}

fn form(path: &Path, problem: impl Into<String>) -> ImportError {
    ImportError::Form {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

/// Takes each file of an archive into the store; runs on a blocking thread.
fn take_members(
    path: &Path,
    store: &ContentStore,
    runtime: &tokio::runtime::Handle,
) -> Result<Members, ImportError> {
    let broken = |source| ImportError::Archive {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).on("open", path)?;
    let mut reader = decompress(file).map_err(broken)?;
    let mut members = Members::default();
    let mut buffer = vec![0; COPY_BYTES];
    let damaged = |error: crate::unpack::UnpackError| broken(std::io::Error::other(error));
    while let Some(entry) = crate::unpack::next_entry(&mut reader).map_err(damaged)? {
        if members.blobs.len() + members.links.len() >= ARCHIVE_MEMBERS_MAX {
            return Err(form(
                path,
                format!("has more than {ARCHIVE_MEMBERS_MAX} members"),
            ));
        }
        let name = String::from_utf8_lossy(&entry.path)
            .trim_start_matches("./")
            .to_owned();
        match entry.kind {
            crate::unpack::EntryKind::File => {}
            crate::unpack::EntryKind::Symlink | crate::unpack::EntryKind::HardLink => {
                let target = String::from_utf8_lossy(&entry.link);
                let target = target.trim_start_matches("../").trim_start_matches("./");
                members.links.insert(name, target.to_owned());
                continue;
            }
            _ => continue,
        }
        let mut writer: BlobWriter = runtime.block_on(store.begin_blob())?;
        let mut start = Vec::new();
        let mut content = (&mut reader).take(entry.size);
        loop {
            let n = content.read(&mut buffer).map_err(broken)?;
            if n == 0 {
                break;
            }
            if start.is_empty() {
                start.extend_from_slice(&buffer[..n.min(8)]);
            }
            runtime.block_on(writer.write(&buffer[..n]))?;
        }
        if writer.written() != entry.size {
            return Err(form(path, format!("ends inside `{name}`")));
        }
        let padding = crate::unpack::padding(entry.size);
        std::io::copy(&mut (&mut reader).take(padding), &mut std::io::sink()).map_err(broken)?;
        let (digest, size) = runtime.block_on(writer.finish())?;
        members
            .blobs
            .insert(name, (digest, size, Compression::of(&start)));
    }
    Ok(members)
}

#[cfg(test)]
mod tests;
