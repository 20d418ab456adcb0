//! Named references that keep images from being collected.

use super::metadata::{DigestColumn, now_column, to_column, touch};
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
                     ON CONFLICT (owner) DO UPDATE SET digest = excluded.digest
                     WHERE digest <> excluded.digest",
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

    /// The owners whose names begin with `prefix`, in order.
    pub async fn owners(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let prefix = prefix.to_owned();
        self.inner
            .metadata
            .run("list owners", move |tx| {
                let mut statement =
                    tx.prepare_cached("SELECT owner FROM owners WHERE owner >= ?1 ORDER BY owner")?;
                let owners = statement.query_map([&prefix], |row| row.get::<_, String>(0))?;
                // Names in order: those with the prefix come first.
                owners
                    .take_while(|owner| {
                        owner
                            .as_ref()
                            .map_or(true, |owner| owner.starts_with(&prefix))
                    })
                    .collect()
            })
            .await
    }

    /// Records unpacked layers and their sizes.
    pub(crate) async fn add_layers(&self, layers: Vec<(Digest, u64)>) -> Result<(), StoreError> {
        self.inner
            .metadata
            .run("record layers", move |tx| {
                let mut insert = tx.prepare_cached(
                    "INSERT INTO layers (diff_id, size, used_ms) VALUES (?1, ?2, ?3)
                     ON CONFLICT (diff_id) DO UPDATE SET used_ms = excluded.used_ms",
                )?;
                for (diff_id, size) in layers {
                    insert.execute(params![
                        DigestColumn(diff_id),
                        to_column(size),
                        now_column()
                    ])?;
                }
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

    /// Records that an image needs these layers, and their use now; returns
    /// those that are not unpacked.
    ///
    /// One transaction, which writes nothing when a moment ago it was the
    /// same: starts of machines wait for it.
    pub(crate) async fn use_image_layers(
        &self,
        manifest: &Digest,
        diff_ids: &[Digest],
    ) -> Result<Vec<Digest>, StoreError> {
        let manifest = DigestColumn(manifest.clone());
        let diff_ids: Vec<DigestColumn> = diff_ids.iter().cloned().map(DigestColumn).collect();
        self.inner
            .metadata
            .run("record image layers", move |tx| {
                let mut insert = tx.prepare_cached(
                    "INSERT OR IGNORE INTO image_layers (manifest, diff_id) VALUES (?1, ?2)",
                )?;
                let mut has = tx.prepare_cached("SELECT 1 FROM layers WHERE diff_id = ?1")?;
                let mut absent = Vec::new();
                for diff_id in &diff_ids {
                    insert.execute(params![manifest, diff_id])?;
                    if !has.exists([diff_id])? {
                        absent.push(diff_id.0.clone());
                    }
                }
                touch(tx, &diff_ids)?;
                Ok(absent)
            })
            .await
    }
}
