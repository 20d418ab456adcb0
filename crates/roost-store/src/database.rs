//! Opening the control database.

use crate::error::{Attempt as _, StoreError};
use crate::limits;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{SqlSafeStr as _, Sqlite, Transaction};
use std::path::Path;

/// The migrations in order. Each is applied once; none is ever edited.
const MIGRATIONS: &[(i64, &str, &str)] =
    &[(1, "control", include_str!("../migrations/0001_control.sql"))];

/// The control database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) pool: SqlitePool,
}

impl Store {
    /// Opens the database file, makes it if it is missing, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A deployment's journal must survive a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(limits::BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(limits::CONNECTIONS_MAX)
            .acquire_timeout(limits::ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await
            .attempt("open the control database")?;
        migrator().run(&pool).await.map_err(StoreError::Migrate)?;
        let store = Self { pool };
        store.forget_unfinished_requests().await?;
        Ok(store)
    }

    /// Closes the database; later calls fail.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(crate) async fn begin(
        &self,
        operation: &'static str,
    ) -> Result<Transaction<'static, Sqlite>, StoreError> {
        // A reader that turns into a writer can fail with "busy" at once; a
        // transaction that begins as a writer waits its turn.
        self.pool
            .begin_with("BEGIN IMMEDIATE")
            .await
            .attempt(operation)
    }
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS
        .iter()
        .map(|(version, name, sql)| {
            Migration::new(
                *version,
                (*name).into(),
                MigrationType::Simple,
                sql.into_sql_str(),
                false,
            )
        })
        .collect();
    Migrator::with_migrations(migrations)
}

pub(crate) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn to_u64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Store;
    use crate::StoreError;

    #[tokio::test]
    async fn a_database_opens_twice_and_a_damaged_one_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.db");
        Store::open(&path).await.unwrap().close().await;
        Store::open(&path).await.unwrap().close().await;
        std::fs::write(&path, vec![b'x'; 8192]).unwrap();
        let error = Store::open(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}
