//! OCI layouts: `index.json` and blobs by digest, in a folder or from an archive.

use super::{COPY_BYTES, ImportError, Named, candidates, form, unclear};
use crate::images::Images;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::manifest::{Descriptor, ImageIndex, Manifest, parse_manifest};
use bytes::Bytes;
use roost_model::digest::Digest;
use roost_runtime::fs::{FileError, IoContext as _, read_bounded};
use std::io::ErrorKind;
use std::path::Path;

/// Where writers put the names of an image: the specification's place, and containerd's.
const NAME_ANNOTATIONS: [&str; 2] = [
    "org.opencontainers.image.ref.name",
    "io.containerd.image.name",
];

/// Where the blobs of a layout are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Blobs<'p> {
    /// In this folder; they are copied into the store when they are wanted.
    Folder(&'p Path),
    /// In the store, as far as the archive had them.
    Store,
}

/// The `index.json` of a folder.
pub(super) fn read_index(folder: &Path) -> Result<Vec<u8>, ImportError> {
    match read_bounded(&folder.join("index.json"), MANIFEST_BYTES_MAX) {
        Err(error) if is_not_found(&error) => {
            Err(form("has no index.json, so it is no OCI layout"))
        }
        result => Ok(result?),
    }
}

impl Images {
    /// The manifest of the wanted image of a layout; all of its blobs are in the store then.
    pub(super) async fn find_in_layout(
        &self,
        index: &[u8],
        wanted: Option<&str>,
        blobs: Blobs<'_>,
    ) -> Result<(Manifest, Bytes), ImportError> {
        let index = match parse_manifest(index).map_err(ImportError::Index)? {
            Manifest::Index(index) => index,
            Manifest::Image(_) => return Err(form("has an index.json that is no index")),
        };
        let descriptor = self.choose_in_layout(&index, wanted)?;
        let (mut manifest, mut bytes) = self.layout_manifest(&descriptor.digest, blobs).await?;
        if let Manifest::Index(inner) = &manifest {
            let chosen = self.choose(inner).map_err(ImportError::Image)?;
            (manifest, bytes) = self.layout_manifest(&chosen.digest, blobs).await?;
        }
        for blob in manifest.children() {
            self.take_blob(&blob.digest, blobs).await?;
        }
        Ok((manifest, bytes))
    }

    fn choose_in_layout(
        &self,
        index: &ImageIndex,
        wanted: Option<&str>,
    ) -> Result<Descriptor, ImportError> {
        let images: Vec<Named<&Descriptor>> = index.manifests.iter().map(named).collect();
        let mut found = candidates(&images, wanted);
        // One image with two names is listed twice.
        found.sort_by_key(|image| &image.image.digest);
        found.dedup_by_key(|image| &image.image.digest);
        match found.as_slice() {
            [one] => Ok(one.image.clone()),
            // One image for several CPUs, without an index of its own.
            [first, ..]
                if found
                    .iter()
                    .all(|other| other.names == first.names && other.image.platform.is_some()) =>
            {
                let variants = ImageIndex {
                    manifests: found.iter().map(|image| image.image.clone()).collect(),
                    ..index.clone()
                };
                let chosen = self.choose(&variants).map_err(ImportError::Image)?;
                Ok(chosen.clone())
            }
            _ => Err(unclear(&images, wanted)),
        }
    }

    async fn layout_manifest(
        &self,
        digest: &Digest,
        blobs: Blobs<'_>,
    ) -> Result<(Manifest, Bytes), ImportError> {
        self.take_blob(digest, blobs).await?;
        let bytes = self.store().read_blob(digest, MANIFEST_BYTES_MAX).await?;
        let bytes = bytes.ok_or(ImportError::Interrupted)?;
        let manifest = self.parse(digest, &bytes).map_err(ImportError::Image)?;
        Ok((manifest, bytes))
    }

    /// Sees to it that the store has a blob of the layout.
    async fn take_blob(&self, digest: &Digest, blobs: Blobs<'_>) -> Result<(), ImportError> {
        if self.store().has(digest).await? {
            return Ok(());
        }
        let lacking = || form(format!("lacks blob {digest}"));
        let Blobs::Folder(folder) = blobs else {
            return Err(lacking());
        };
        let path = folder.join("blobs/sha256").join(digest.hex());
        let mut file = match tokio::fs::File::open(&path).await.on("open", &path) {
            Err(error) if is_not_found(&error) => return Err(lacking()),
            result => result?,
        };
        let mut writer = self.store().begin_blob().await?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let n = tokio::io::AsyncReadExt::read(&mut file, &mut buffer).await;
            match n.on("read", &path)? {
                0 => break,
                n => writer.write(&buffer[..n]).await?,
            }
        }
        let committed = writer.commit(digest).await;
        committed.map(drop).map_err(ImportError::Blob)
    }
}

fn named(descriptor: &Descriptor) -> Named<&Descriptor> {
    let names = NAME_ANNOTATIONS
        .iter()
        .filter_map(|&key| descriptor.annotations.get(key).cloned());
    Named {
        names: names.collect(),
        image: descriptor,
    }
}

fn is_not_found(error: &FileError) -> bool {
    error.source.kind() == ErrorKind::NotFound
}
