//! Opening the control database.

use crate::error::{Attempt as _, StoreError};
use crate::idempotency::UnderWay;
use crate::limits;
use parking_lot::Mutex;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _, SqlSafeStr as _, Sqlite, Transaction};
use std::path::Path;
use std::sync::Arc;

/// The migrations in order. Each is applied once; none is ever edited.
pub(crate) const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "control", include_str!("../migrations/0001_control.sql")),
    (
        2,
        "deletion",
        include_str!("../migrations/0002_deletion.sql"),
    ),
    (3, "runs", roost_fsm::sql::SCHEMA),
    (
        4,
        "placements",
        include_str!("../migrations/0004_placements.sql"),
    ),
    (5, "wishes", include_str!("../migrations/0005_wishes.sql")),
    (
        6,
        "host names",
        include_str!("../migrations/0006_host_names.sql"),
    ),
    (7, "canary", include_str!("../migrations/0007_canary.sql")),
    (
        8,
        "addresses",
        include_str!("../migrations/0008_addresses.sql"),
    ),
];

/// The control database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) pool: SqlitePool,
    pub(crate) under_way: UnderWay,
    /// Never used. The last connection that closes removes the shared-memory file, and while
    /// the disk is full it cannot be made again: not even reading would work then.
    keeper: Arc<Mutex<Option<SqliteConnection>>>,
}

impl Store {
    /// Opens the database file, makes it if it is missing, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        const OPEN: &str = "open the control database";
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A deployment's journal must survive a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(limits::BUSY_TIMEOUT);
        let mut keeper = options.connect().await.attempt(OPEN)?;
        let pool = SqlitePoolOptions::new()
            .max_connections(limits::CONNECTIONS_MAX)
            .acquire_timeout(limits::ACQUIRE_TIMEOUT)
            // SQLite ends a transaction by itself when the disk is full. sqlx counts it as open
            // for ever, and would begin no other one, so such a connection is closed.
            .before_acquire(|connection, _| {
                let reusable = !connection.is_in_transaction();
                Box::pin(async move { Ok(reusable) })
            })
            .connect_with(options)
            .await
            .attempt(OPEN)?;
        migrate(&pool, MIGRATIONS).await?;
        // Only a connection that has read something holds the shared-memory file.
        sqlx::query("SELECT COUNT(*) FROM apps")
            .execute(&mut keeper)
            .await
            .attempt(OPEN)?;
        Ok(Self {
            pool,
            under_way: UnderWay::default(),
            keeper: Arc::new(Mutex::new(Some(keeper))),
        })
    }

    /// Closes the database; later calls fail.
    pub async fn close(&self) {
        self.pool.close().await;
        let keeper = self.keeper.lock().take();
        if let Some(keeper) = keeper {
            // What is not closed in order is put in order by the next one that opens it.
            drop(keeper.close().await);
        }
    }

    /// Whether no caller waits for the database. Its threads know nothing of a paused clock.
    #[cfg(feature = "testing")]
    pub fn is_idle(&self) -> bool {
        usize::try_from(self.pool.size()) == Ok(self.pool.num_idle())
    }

    /// Lets the database have `n_pages` pages, or those that it has if they are more: a disk
    /// that is full, or has room again. A connection made later has no limit.
    #[cfg(any(test, feature = "testing"))]
    pub async fn limit_pages(&self, n_pages: u32) -> Result<(), StoreError> {
        // The limit is each connection's own, so all of them are taken at once.
        let mut connections = vec![];
        for _ in 0..limits::CONNECTIONS_MAX {
            let mut connection = self.pool.acquire().await.attempt("limit the pages")?;
            let pragma = format!("PRAGMA max_page_count = {n_pages}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(pragma))
                .execute(&mut *connection)
                .await
                .attempt("limit the pages")?;
            connections.push(connection);
        }
        for mut connection in connections {
            // Dropped, it would be back at some later time, and another be made meanwhile.
            connection.return_to_pool().await;
        }
        Ok(())
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

/// Applies those migrations that the database does not have yet.
pub(crate) async fn migrate(
    pool: &SqlitePool,
    migrations: &[(i64, &str, &'static str)],
) -> Result<(), StoreError> {
    let migrations = migrations
        .iter()
        .map(|(version, name, sql)| {
            Migration::new(
                *version,
                (*name).to_owned().into(),
                MigrationType::Simple,
                sql.into_sql_str(),
                false,
            )
        })
        .collect();
    Migrator::with_migrations(migrations)
        .run(pool)
        .await
        .map_err(StoreError::Migrate)
}

pub(crate) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn to_u64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
