//! The metadata database: one SQLite connection, used by one operation at a time.
//!
//! Operations run on blocking threads; a semaphore keeps those that wait from
//! occupying one. Commits are synced (`synchronous=FULL`): a push that was
//! acknowledged survives a power cut.

use super::StoreError;
use crate::limits::USE_RESOLUTION_MS;
use parking_lot::Mutex;
use roost_model::digest::Digest;
use roost_runtime::clock;
use roost_runtime::fs::{IoContext as _, ensure_no_file};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Applied in order; the database's `user_version` counts those that were.
const MIGRATIONS: [&str; 2] = [include_str!("schema.sql"), include_str!("root_images.sql")];

/// The metadata of one store.
#[derive(Debug)]
pub(super) struct Metadata {
    connection: Arc<Mutex<Connection>>,
    turn: Semaphore,
}

/// A digest as a column.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DigestColumn(pub Digest);

impl ToSql for DigestColumn {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.as_str()))
    }
}

impl FromSql for DigestColumn {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Digest::parse(value.as_str()?)
            .map(Self)
            .map_err(|error| FromSqlError::Other(error.into()))
    }
}

/// A size as a column: SQLite integers are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SizeColumn(pub u64);

impl FromSql for SizeColumn {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let signed = value.as_i64()?;
        u64::try_from(signed)
            .map(Self)
            .map_err(|_| FromSqlError::OutOfRange(signed))
    }
}

/// A count or time as a column: SQLite integers are signed.
pub(super) fn to_column(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The time now, in milliseconds, as a column.
pub(super) fn now_column() -> i64 {
    to_column(clock::now().as_ms())
}

impl Metadata {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = open_connection(path).map_err(|source| StoreError::Database {
            operation: "open metadata",
            source,
        })?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            turn: Semaphore::new(1),
        })
    }

    /// Runs `work` in one transaction on a blocking thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let interrupted = StoreError::Interrupted { operation };
        let Ok(_turn) = self.turn.acquire().await else {
            return Err(interrupted);
        };
        let connection = Arc::clone(&self.connection);
        let done = tokio::task::spawn_blocking(move || in_transaction(&connection, work));
        match done.await {
            Ok(result) => result.map_err(|source| StoreError::Database { operation, source }),
            Err(_cut_off) => Err(interrupted),
        }
    }

    /// Runs `work` in one transaction on this thread.
    pub(super) fn run_blocking<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        in_transaction(&self.connection, work)
            .map_err(|source| StoreError::Database { operation, source })
    }

    pub(super) async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let digest = DigestColumn(digest.clone());
        self.run("look up blob", move |tx| {
            tx.prepare_cached("SELECT size FROM blobs WHERE digest = ?1")?
                .query_row([digest], |row| {
                    row.get::<_, SizeColumn>(0).map(|size| size.0)
                })
                .optional()
        })
        .await
    }

    /// Gives a blob its name and records it: both, or neither.
    pub(super) async fn place_blob(
        &self,
        digest: &Digest,
        size: u64,
        source: PathBuf,
        target: PathBuf,
    ) -> Result<(), StoreError> {
        let operation = "record blob";
        let interrupted = StoreError::Interrupted { operation };
        let Ok(_turn) = self.turn.acquire().await else {
            return Err(interrupted);
        };
        let connection = Arc::clone(&self.connection);
        let digest = DigestColumn(digest.clone());
        let done = tokio::task::spawn_blocking(move || {
            // One lock over both: nobody else can be between a name and its row.
            let mut connection = connection.lock();
            std::fs::rename(&source, &target).on("rename to", &target)?;
            let recorded = transact(&mut connection, |tx| add_blob(tx, &digest, size));
            if recorded.is_err()
                && !has_blob(&connection, &digest).unwrap_or(true)
                && let Err(error) = ensure_no_file(&target)
            {
                tracing::warn!(error = %error, "a blob without a record stays until the next start");
            }
            recorded.map_err(|source| StoreError::Database { operation, source })
        });
        done.await.unwrap_or(Err(interrupted))
    }

    pub(super) async fn touch(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let digests: Vec<DigestColumn> = digests.iter().cloned().map(DigestColumn).collect();
        self.run("record use", move |tx| touch(tx, &digests)).await
    }

    /// All blobs by the hexadecimal digits of their digest.
    pub(super) fn blobs_blocking(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.sizes_by_hex("SELECT substr(digest, 8), size FROM blobs")
    }

    /// All unpacked layers by the hexadecimal digits of their diff id.
    pub(super) fn layers_blocking(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.sizes_by_hex("SELECT substr(diff_id, 8), size FROM layers")
    }

    /// All root file systems by the hexadecimal digits of their id.
    pub(super) fn root_images_blocking(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.sizes_by_hex("SELECT substr(id, 8), size FROM root_images")
    }

    fn sizes_by_hex(&self, query: &'static str) -> Result<BTreeMap<String, u64>, StoreError> {
        self.run_blocking("list content", |tx| {
            let mut statement = tx.prepare(query)?;
            let rows =
                statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, SizeColumn>(1)?.0)))?;
            rows.collect()
        })
    }

    pub(super) fn forget_blobs_blocking(&self, names: Vec<String>) -> Result<(), StoreError> {
        self.run_blocking("forget blobs", |tx| {
            for name in names {
                tx.execute("DELETE FROM blobs WHERE digest = 'sha256:' || ?1", [name])?;
            }
            Ok(())
        })
    }

    pub(super) fn forget_layers_blocking(&self, names: Vec<String>) -> Result<(), StoreError> {
        self.run_blocking("forget layers", |tx| {
            for name in names {
                tx.execute("DELETE FROM layers WHERE diff_id = 'sha256:' || ?1", [name])?;
            }
            Ok(())
        })
    }

    pub(super) fn forget_root_images_blocking(&self, names: Vec<String>) -> Result<(), StoreError> {
        self.run_blocking("forget root images", |tx| {
            for name in names {
                tx.execute("DELETE FROM root_images WHERE id = 'sha256:' || ?1", [name])?;
            }
            Ok(())
        })
    }
}

/// Records that these blobs and layers are used now.
///
/// A use of moments ago is not renewed: nothing is then written, and there is
/// nothing to sync. The collector counts in hours.
pub(super) fn touch(tx: &Transaction<'_>, digests: &[DigestColumn]) -> rusqlite::Result<()> {
    let now = now_column();
    let before = now.saturating_sub(to_column(USE_RESOLUTION_MS));
    let mut blob =
        tx.prepare_cached("UPDATE blobs SET used_ms = ?2 WHERE digest = ?1 AND used_ms < ?3")?;
    let mut layer =
        tx.prepare_cached("UPDATE layers SET used_ms = ?2 WHERE diff_id = ?1 AND used_ms < ?3")?;
    for digest in digests {
        blob.execute(params![digest, now, before])?;
        layer.execute(params![digest, now, before])?;
    }
    Ok(())
}

/// Records that a root file system is used now; see [`touch`].
pub(super) fn touch_root_image(tx: &Transaction<'_>, id: &DigestColumn) -> rusqlite::Result<()> {
    let now = now_column();
    let before = now.saturating_sub(to_column(USE_RESOLUTION_MS));
    tx.prepare_cached("UPDATE root_images SET used_ms = ?2 WHERE id = ?1 AND used_ms < ?3")?
        .execute(params![id, now, before])?;
    Ok(())
}

fn add_blob(tx: &Transaction<'_>, digest: &DigestColumn, size: u64) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO blobs (digest, size, used_ms) VALUES (?1, ?2, ?3)
         ON CONFLICT (digest) DO UPDATE SET used_ms = excluded.used_ms",
    )?
    .execute(params![digest, to_column(size), now_column()])?;
    Ok(())
}

fn has_blob(connection: &Connection, digest: &DigestColumn) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM blobs WHERE digest = ?1")?
        .exists([digest])
}

fn in_transaction<T>(
    connection: &Mutex<Connection>,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    transact(&mut connection.lock(), work)
}

fn transact<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let value = work(&tx)?;
    tx.commit()?;
    Ok(value)
}

fn open_connection(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.set_prepared_statement_cache_capacity(32);
    let applied: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (version, migration) in (1_u32..).zip(MIGRATIONS).skip(applied as usize) {
        let tx = connection.transaction()?;
        tx.execute_batch(migration)?;
        tx.pragma_update(None, "user_version", version)?;
        tx.commit()?;
    }
    Ok(connection)
}
