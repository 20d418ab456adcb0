//! The root file systems of VMs: one file per list of layers, written once.

use super::{Image, Images};
use crate::erofs::{FORMAT_VERSION, WriteErofsError, write_erofs};
use crate::store::{ContentStore, Pin, StoreError};
use crate::unpack::UnpackError;
use roost_model::digest::Digest;
use roost_runtime::fs::{FileError, IoContext as _, ensure_no_file};
use sha2::{Digest as _, Sha256};
use std::fs::{File, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Each VM's hypervisor runs as a user of its own.
const FILE_MODE: u32 = 0o644;

/// A root file system could not be built. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum BuildRootImageError {
    /// A layer could not be unpacked.
    #[error("unpack layers for root image")]
    Unpack(#[from] UnpackError),
    /// The layers do not fit a root file system, or could not be read.
    #[error("write root image")]
    Write(#[from] WriteErofsError),
    /// A file of the store could not be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work was cut off by the end of the process.
    #[error("building the root image was interrupted")]
    Interrupted,
}

impl Images {
    /// The layers of an image, merged, as a file that holds a read-only EROFS
    /// file system: the root of a VM.
    ///
    /// Written once for all images of the same layers; callers that come at
    /// the same time share the work, and it goes on when they are dropped. The
    /// file belongs to the store, never changes, and may be read by everybody.
    /// It stays while somebody [retains](Images::retain) the image, which the
    /// caller does first, and goes with it.
    pub async fn root_image(&self, image: &Image) -> Result<PathBuf, BuildRootImageError> {
        let store = &self.inner.store;
        let (id, uuid) = root_image_id(image);
        let path = store.root_image_path(&id);
        let diff_ids = image.layers.iter().map(|layer| &layer.diff_id);
        let pins: Vec<Pin> = diff_ids.chain([&id]).map(|id| store.pin(id)).collect();
        if store.use_root_image(&image.digest, &id).await? {
            return Ok(path);
        }
        // Who has this turn may wait for those of layers; never the other way round.
        let turn = self.inner.root_image_flights.turn(&id).await;
        if store.use_root_image(&image.digest, &id).await? {
            return Ok(path);
        }
        let layers = self.rootfs_layers(image).await?;
        let slot = Arc::clone(&self.inner.unpacks).acquire_owned().await;
        let store = store.clone();
        // Turn and pins go along: the work goes on when the caller is dropped.
        let done = tokio::task::spawn_blocking(move || {
            let built = build(&store, &id, uuid, &layers);
            drop((slot, turn, pins));
            built
        });
        done.await.map_err(|_| BuildRootImageError::Interrupted)??;
        Ok(path)
    }
}

/// What names a root file system, and the id that its superblock carries.
fn root_image_id(image: &Image) -> (Digest, [u8; 16]) {
    let mut hash = Sha256::new_with_prefix(format!("roost root image {FORMAT_VERSION}\n"));
    for layer in &image.layers {
        hash.update(layer.diff_id.as_str());
        hash.update("\n");
    }
    let hash: [u8; 32] = hash.finalize().into();
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&hash[..16]);
    // RFC 9562 section 5.8: version 8, of our own making.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    (Digest::from_sha256(hash), uuid)
}

fn build(
    store: &ContentStore,
    id: &Digest,
    uuid: [u8; 16],
    layers: &[PathBuf],
) -> Result<(), BuildRootImageError> {
    let temporary = store.root_image_temporary_path();
    let built = write_to(&temporary, uuid, layers)
        .and_then(|file| Ok(store.place_root_image_blocking(id, &file, &temporary)?));
    if built.is_err()
        && let Err(error) = ensure_no_file(&temporary)
    {
        tracing::warn!(error = %error, "half a root image stays until the next start");
    }
    built
}

fn write_to(path: &Path, uuid: [u8; 16], layers: &[PathBuf]) -> Result<File, BuildRootImageError> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(FILE_MODE);
    let file = options.open(path).on("create", path)?;
    write_erofs(layers, uuid, &file)?;
    // The process's umask may have taken bits away.
    let permissions = Permissions::from_mode(FILE_MODE);
    file.set_permissions(permissions).on("set mode of", path)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
