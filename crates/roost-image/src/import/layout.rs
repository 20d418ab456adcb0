//! OCI layouts: `index.json` and blobs by digest, in a folder or from an archive.

use super::{COPY_BYTES, ImportError, Named, candidates, form, unclear};
use crate::beneath::{Folder, OpenBeneathError};
use crate::images::Images;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::manifest::{Descriptor, ImageIndex, Manifest, parse_manifest};
use bytes::Bytes;
use roost_model::digest::Digest;
use roost_runtime::fs::IoContext as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt as _;

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
pub(super) async fn read_index(folder: &Path) -> Result<Vec<u8>, ImportError> {
    let folder = folder.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let path = folder.join("index.json");
        let file = open(&folder, "index.json")?
            .ok_or_else(|| form("has no index.json, so it is no OCI layout"))?;
        let mut content = Vec::new();
        let mut bounded = file.take(MANIFEST_BYTES_MAX + 1);
        bounded.read_to_end(&mut content).on("read", &path)?;
        if content.len() as u64 > MANIFEST_BYTES_MAX {
            let problem = format!("has an index of more than {MANIFEST_BYTES_MAX} bytes");
            return Err(form(problem));
        }
        Ok(content)
    });
    reading.await.map_err(|_| ImportError::Interrupted)?
}

/// Opens a file of a layout, where it has it. The folder may be a user's.
fn open(folder: &Path, inside: &str) -> Result<Option<File>, ImportError> {
    match Folder::open(folder)?.open_file(Path::new(inside)) {
        Ok(file) => Ok(Some(file)),
        Err(OpenBeneathError::NotFound) => Ok(None),
        Err(OpenBeneathError::File(error)) => Err(error.into()),
        Err(problem) => Err(form(format!("has `{inside}`, which {problem}"))),
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
        let (mut manifest, mut bytes) = self.layout_manifest(&descriptor, blobs).await?;
        if let Manifest::Index(inner) = &manifest {
            let chosen = self.choose(inner).map_err(ImportError::Image)?;
            (manifest, bytes) = self.layout_manifest(chosen, blobs).await?;
        }
        for blob in manifest.children() {
            self.take_blob(blob, blobs).await?;
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
        descriptor: &Descriptor,
        blobs: Blobs<'_>,
    ) -> Result<(Manifest, Bytes), ImportError> {
        self.take_blob(descriptor, blobs).await?;
        let digest = &descriptor.digest;
        let bytes = self.store().read_blob(digest, MANIFEST_BYTES_MAX).await?;
        let bytes = bytes.ok_or(ImportError::Interrupted)?;
        let manifest = self.parse(digest, &bytes).map_err(ImportError::Image)?;
        Ok((manifest, bytes))
    }

    /// Sees to it that the store has a blob of the layout.
    async fn take_blob(
        &self,
        descriptor: &Descriptor,
        blobs: Blobs<'_>,
    ) -> Result<(), ImportError> {
        let digest = &descriptor.digest;
        if self.store().has(digest).await? {
            return Ok(());
        }
        let lacking = || form(format!("lacks blob {digest}"));
        let Blobs::Folder(folder) = blobs else {
            return Err(lacking());
        };
        let (file, path) = open_blob(folder, digest).await?.ok_or_else(lacking)?;
        let size = file.metadata().await.on("look at", &path)?.len();
        if size != descriptor.size {
            let wanted = descriptor.size;
            let problem = format!("has a damaged blob {digest}: {size} bytes, not {wanted}");
            return Err(form(problem));
        }
        let mut writer = self.store().begin_blob().await?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut file = file.take(size);
        loop {
            match file.read(&mut buffer).await.on("read", &path)? {
                0 => break,
                n => writer.write(&buffer[..n]).await?,
            }
        }
        let committed = writer.commit(digest).await;
        committed.map(drop).map_err(ImportError::Blob)
    }
}

/// A blob's file, where the folder has it, and its path for errors.
async fn open_blob(
    folder: &Path,
    digest: &Digest,
) -> Result<Option<(tokio::fs::File, PathBuf)>, ImportError> {
    let inside = format!("blobs/sha256/{}", digest.hex());
    let (folder, path) = (folder.to_owned(), folder.join(&inside));
    let file = tokio::task::spawn_blocking(move || open(&folder, &inside)).await;
    let file = file.map_err(|_| ImportError::Interrupted)??;
    Ok(file.map(|file| (tokio::fs::File::from_std(file), path)))
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
