//! Named references that keep images from being collected.

use super::metadata::{DigestColumn, now_column, to_column};
use super::{ContentStore, StoreError};
use roost_model::digest::Digest;
use rusqlite::params;

impl ContentStore {
    /// Makes `owner` (such as `machine:ID`) hold this image, and no other any more.
    pub async fn retain(&self, owner: &str, digest: &Digest) -> Result<(), StoreError> {
        let (owner, digest) = (owner.to_owned(), DigestColumn(digest.clone()));
        self.inner
            .metadata
            .run("retain image", move |tx| {
                tx.execute(
                    "INSERT INTO owners (owner, digest) VALUES (?1, ?2)
                     ON CONFLICT (owner) DO UPDATE SET digest = excluded.digest",
                    params![owner, digest],
                )?;
                Ok(())
            })
            .await
    }

    /// Ends what `owner` holds; one that holds nothing is fine.
    pub async fn release(&self, owner: &str) -> Result<(), StoreError> {
        let owner = owner.to_owned();
        self.inner
            .metadata
            .run("release image", move |tx| {
                tx.execute("DELETE FROM owners WHERE owner = ?1", [owner])?;
                Ok(())
            })
            .await
    }

    /// Records an unpacked layer.
    pub(crate) async fn add_layer(&self, diff_id: &Digest, size: u64) -> Result<(), StoreError> {
        let diff_id = DigestColumn(diff_id.clone());
        self.inner
            .metadata
            .run("record layer", move |tx| {
                tx.execute(
                    "INSERT INTO layers (diff_id, size, used_ms) VALUES (?1, ?2, ?3)
                     ON CONFLICT (diff_id) DO UPDATE SET used_ms = excluded.used_ms",
                    params![diff_id, to_column(size), now_column()],
                )?;
                Ok(())
            })
            .await
    }

    /// Whether the layer is unpacked, whole.
    pub(crate) async fn has_layer(&self, diff_id: &Digest) -> Result<bool, StoreError> {
        let diff_id = DigestColumn(diff_id.clone());
        self.inner
            .metadata
            .run("look up layer", move |tx| {
                tx.prepare_cached("SELECT 1 FROM layers WHERE diff_id = ?1")?
                    .exists([diff_id])
            })
            .await
    }

    /// Records which unpacked layers an image needs.
    pub(crate) async fn link_image_layers(
        &self,
        manifest: &Digest,
        diff_ids: &[Digest],
    ) -> Result<(), StoreError> {
        let manifest = DigestColumn(manifest.clone());
        let diff_ids: Vec<DigestColumn> = diff_ids.iter().cloned().map(DigestColumn).collect();
        self.inner
            .metadata
            .run("record image layers", move |tx| {
                let mut insert = tx.prepare_cached(
                    "INSERT OR IGNORE INTO image_layers (manifest, diff_id) VALUES (?1, ?2)",
                )?;
                for diff_id in &diff_ids {
                    insert.execute(params![manifest, diff_id])?;
                }
                Ok(())
            })
            .await
    }
}
