//! The root file systems of VMs: files that are derived from layers and kept like them.

use super::metadata::{DigestColumn, Metadata, now_column, to_column, touch_root_image};
use super::{ContentStore, StoreError, dir_names};
use roost_model::digest::Digest;
use roost_runtime::fs::{IoContext as _, ensure_dir, ensure_no_file};
use rusqlite::params;
use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Others may open a file whose name they know, as hypervisors do, and list nothing.
const FOLDER_MODE: u32 = 0o711;
/// What `st_blocks` counts, whatever the file system.
const STAT_BLOCK_BYTES: u64 = 512;

impl ContentStore {
    /// Where the root file system is, or would be.
    pub(crate) fn root_image_path(&self, id: &Digest) -> PathBuf {
        self.inner.root.join("root-images").join(id.hex())
    }

    /// A new name for a root file system that is being written.
    pub(crate) fn root_image_temporary_path(&self) -> PathBuf {
        let number = self.inner.upload_next.fetch_add(1, Ordering::Relaxed);
        let name = format!("tmp-{number}");
        self.inner.root.join("root-images").join(name)
    }

    /// Records that an image needs this root file system, and its use now;
    /// returns whether it is there.
    pub(crate) async fn use_root_image(
        &self,
        manifest: &Digest,
        id: &Digest,
    ) -> Result<bool, StoreError> {
        let (manifest, id) = (DigestColumn(manifest.clone()), DigestColumn(id.clone()));
        self.inner
            .metadata
            .run("record root image", move |tx| {
                tx.prepare_cached(
                    "INSERT OR IGNORE INTO image_root_images (manifest, root_image) VALUES (?1, ?2)",
                )?
                .execute(params![manifest, id])?;
                touch_root_image(tx, &id)?;
                tx.prepare_cached("SELECT 1 FROM root_images WHERE id = ?1")?
                    .exists([id])
            })
            .await
    }

    /// Makes a root file system that was written to `temporary` durable, and
    /// gives it its name and its record. After an error neither is there.
    pub(crate) fn place_root_image_blocking(
        &self,
        id: &Digest,
        file: &File,
        temporary: &Path,
    ) -> Result<(), StoreError> {
        file.sync_all().on("sync", temporary)?;
        // Less than its length where it has holes.
        let blocks = file.metadata().on("look at", temporary)?.blocks();
        let size = to_column(blocks * STAT_BLOCK_BYTES);
        let target = self.root_image_path(id);
        std::fs::rename(temporary, &target).on("rename to", &target)?;
        let recorded = self.sync_root_images().and_then(|()| {
            let row = params![DigestColumn(id.clone()), size, now_column()];
            self.inner
                .metadata
                .run_blocking("record root image", |tx| {
                    tx.execute(
                        "INSERT INTO root_images (id, size, used_ms) VALUES (?1, ?2, ?3)
                         ON CONFLICT (id) DO UPDATE SET used_ms = excluded.used_ms",
                        row,
                    )
                })
                .map(drop)
        });
        if recorded.is_err()
            && let Err(error) = ensure_no_file(&target)
        {
            tracing::warn!(error = %error, "a root image without a record stays until the next start");
        }
        recorded
    }

    fn sync_root_images(&self) -> Result<(), StoreError> {
        let folder = self.inner.root.join("root-images");
        let opened = File::open(&folder).on("open", &folder)?;
        Ok(opened.sync_all().on("sync", &folder)?)
    }
}

/// Makes the folder, and brings it in step with the metadata after a crash.
pub(super) fn open_root_images(dir: &Path, metadata: &Metadata) -> Result<(), StoreError> {
    ensure_dir(dir)?;
    std::fs::set_permissions(dir, Permissions::from_mode(FOLDER_MODE)).on("set mode of", dir)?;
    let mut known = metadata.root_images_blocking()?;
    for name in dir_names(dir)? {
        if known.remove(&name).is_none() {
            ensure_no_file(&dir.join(&name))?;
        }
    }
    metadata.forget_root_images_blocking(known.into_keys().collect())
}
