//! Garbage collection: the least recently used content that nobody needs goes first.
//!
//! Needed is what an owner, a tag, or a manifest that is itself needed refers
//! to; what refers to a needed manifest as its subject; and what is pinned by
//! a running operation. Content used within the grace time also stays: an
//! upload is stored piece by piece before a manifest names the pieces.

use super::metadata::{DigestColumn, SizeColumn, now_column};
use super::{ContentStore, StoreError};
use roost_model::digest::Digest;
use roost_model::size::ByteSize;
use roost_runtime::fs::{ensure_no_dir, ensure_no_file};
use rusqlite::{Transaction, params};
use std::time::Duration;

/// What one collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Blobs that were removed.
    pub n_blobs: u64,
    /// Unpacked layers that were removed.
    pub n_layers: u64,
    /// Root file systems of VMs that were removed.
    pub n_root_images: u64,
    /// Bytes that were freed.
    pub freed: ByteSize,
    /// Bytes that are left.
    pub left: ByteSize,
}

/// One thing that may be removed.
#[derive(Debug)]
struct Candidate {
    kind: Kind,
    digest: Digest,
    size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blob,
    Layer,
    RootImage,
}

/// What is needed, from the roots down; `UNION` ends loops.
const CANDIDATES: &str = "
    WITH RECURSIVE needed (digest) AS (
        SELECT digest FROM owners
        UNION SELECT digest FROM tags
        UNION SELECT found.digest FROM needed JOIN (
            SELECT parent AS holder, child AS digest FROM edges
            UNION ALL SELECT subject, digest FROM manifests WHERE subject IS NOT NULL
        ) AS found ON found.holder = needed.digest
    )
    SELECT 'blob', digest, size, used_ms FROM blobs
        WHERE digest NOT IN (SELECT digest FROM needed) AND used_ms <= ?1
    UNION ALL
    SELECT 'layer', diff_id, size, used_ms FROM layers
        WHERE used_ms <= ?1 AND diff_id NOT IN (
            SELECT diff_id FROM image_layers JOIN needed ON needed.digest = image_layers.manifest)
    UNION ALL
    SELECT 'root image', id, size, used_ms FROM root_images
        WHERE used_ms <= ?1 AND id NOT IN (
            SELECT root_image FROM image_root_images
                JOIN needed ON needed.digest = image_root_images.manifest)
    ORDER BY used_ms, digest";

impl ContentStore {
    /// Removes content that nobody needs until at most `bytes_max` are used.
    ///
    /// Content used within `age_min` stays. The result may be above
    /// `bytes_max` when what is needed is.
    pub async fn collect_garbage(
        &self,
        bytes_max: ByteSize,
        age_min: Duration,
    ) -> Result<GcReport, StoreError> {
        let used_before = now_column() - i64::try_from(age_min.as_millis()).unwrap_or(i64::MAX);
        let (mut left, candidates) = self
            .inner
            .metadata
            .run("find garbage", move |tx| {
                Ok((total(tx)?, candidates(tx, used_before)?))
            })
            .await?;
        let mut report = GcReport::default();
        for candidate in candidates {
            if left <= bytes_max.bytes() {
                break;
            }
            let size = candidate.size;
            let kind = candidate.kind;
            if self.remove_unpinned(candidate, used_before).await? {
                left = left.saturating_sub(size);
                report.freed = ByteSize(report.freed.bytes() + size);
                match kind {
                    Kind::Blob => report.n_blobs += 1,
                    Kind::Layer => report.n_layers += 1,
                    Kind::RootImage => report.n_root_images += 1,
                }
            }
        }
        report.left = ByteSize(left);
        Ok(report)
    }

    /// Removes one thing unless somebody pinned or used it meanwhile.
    async fn remove_unpinned(
        &self,
        candidate: Candidate,
        used_before: i64,
    ) -> Result<bool, StoreError> {
        let store = self.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let Candidate { kind, digest, .. } = candidate;
            // Nobody can pin while the row and the file go.
            let pins = store.inner.pins.freeze();
            if pins.contains_key(&digest) {
                return Ok(false);
            }
            let statement = match kind {
                Kind::Blob => "DELETE FROM blobs WHERE digest = ?1 AND used_ms <= ?2",
                Kind::Layer => "DELETE FROM layers WHERE diff_id = ?1 AND used_ms <= ?2",
                Kind::RootImage => "DELETE FROM root_images WHERE id = ?1 AND used_ms <= ?2",
            };
            let column = DigestColumn(digest.clone());
            let n_rows = store.inner.metadata.run_blocking("remove garbage", |tx| {
                tx.execute(statement, params![column, used_before])
            })?;
            if n_rows == 0 {
                return Ok(false);
            }
            // After the row: a file without a row is removed at the next start.
            match kind {
                Kind::Blob => ensure_no_file(&store.blob_path(&digest))?,
                Kind::RootImage => ensure_no_file(&store.root_image_path(&digest))?,
                Kind::Layer => {
                    let doomed = store.layer_temporary_path();
                    match std::fs::rename(store.layer_path(&digest), &doomed) {
                        Ok(()) => {
                            drop(pins);
                            ensure_no_dir(&doomed)?;
                        }
                        Err(_already_gone) => {}
                    }
                }
            }
            Ok(true)
        });
        removed.await.map_err(|_| StoreError::Interrupted {
            operation: "remove garbage",
        })?
    }

    /// Bytes of all blobs, unpacked layers and root file systems.
    pub async fn bytes_used(&self) -> Result<ByteSize, StoreError> {
        self.inner
            .metadata
            .run("add up sizes", total)
            .await
            .map(ByteSize)
    }
}

fn total(tx: &Transaction<'_>) -> rusqlite::Result<u64> {
    tx.query_row(
        "SELECT coalesce((SELECT sum(size) FROM blobs), 0)
            + coalesce((SELECT sum(size) FROM layers), 0)
            + coalesce((SELECT sum(size) FROM root_images), 0)",
        [],
        |row| row.get::<_, SizeColumn>(0).map(|size| size.0),
    )
}

fn candidates(tx: &Transaction<'_>, used_before: i64) -> rusqlite::Result<Vec<Candidate>> {
    let mut statement = tx.prepare(CANDIDATES)?;
    let rows = statement.query_map([used_before], |row| {
        let kind: String = row.get(0)?;
        let DigestColumn(digest) = row.get(1)?;
        let kind = match kind.as_str() {
            "blob" => Kind::Blob,
            "layer" => Kind::Layer,
            _ => Kind::RootImage,
        };
        Ok(Candidate {
            kind,
            digest,
            size: row.get::<_, SizeColumn>(2)?.0,
        })
    })?;
    rows.collect()
}
