//! The journal in SQLite.
//!
//! The functions of this module run on a transaction of the caller, so that he can write rows
//! of his own and the first record of a run in one: all or nothing. [`SqliteJournal`] runs each
//! in a transaction of its own, over a connection that it shares with the database that the
//! tables belong to.
//!
//! An owner that executes runs by itself, without an engine, does so in the transactions that it
//! makes anyway: [`open()`] and [`take()`] with the wish, [`record()`] with each thing that it did,
//! [`crate::journal::Entry::Ended`] with the last. A run that gives way to a newer one of its
//! subject has to end before the newer one is taken.
//!
//! [`SCHEMA`] is what a database's migrations take in. A version that was released is never
//! changed: what is added later is another text for another migration.

mod history;
mod leases;
mod open;
mod rows;
mod write;

pub use history::{list, load, prune};
pub use leases::{claim, renew, take};
pub use open::open;
pub use write::{ask_cancel, record};

use crate::journal::{
    CancelAnswer, Claim, Entry, Fence, Filter, Journal, JournalError, NewRun, Opened, PruneRule,
    Recorded, Renewal,
};
use crate::record::{Cancel, Run, Story};
use async_trait::async_trait;
use parking_lot::Mutex;
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};
use std::sync::Arc;

/// The tables of the journal.
pub const SCHEMA: &str = include_str!("sqlite/schema.sql");

/// A connection that several parts of a process use in turn.
pub type SharedConnection = Arc<Mutex<Connection>>;

/// A journal in a SQLite database. Cheap to clone.
#[derive(Clone)]
pub struct SqliteJournal {
    connection: SharedConnection,
}

impl std::fmt::Debug for SqliteJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteJournal").finish_non_exhaustive()
    }
}

impl SqliteJournal {
    /// The journal in a database that has its tables, foreign keys switched on, and
    /// `synchronous=FULL`: what was answered is on disk.
    pub fn new(connection: SharedConnection) -> Self {
        Self { connection }
    }

    /// A journal in memory, for tests of workflows.
    #[cfg(any(test, feature = "testing"))]
    pub fn in_memory() -> Result<Self, JournalError> {
        Self::in_shared_memory().map(|(journal, _)| journal)
    }

    /// The same with its connection.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn in_shared_memory() -> Result<(Self, SharedConnection), JournalError> {
        let connection = Connection::open_in_memory().during("open a journal in memory")?;
        connection
            .pragma_update(None, "foreign_keys", "ON")
            .during("set foreign keys")?;
        connection.execute_batch(SCHEMA).during("make the tables")?;
        let connection = Arc::new(Mutex::new(connection));
        Ok((Self::new(Arc::clone(&connection)), connection))
    }

    /// Runs a transaction on a thread that may block.
    async fn write<T, F>(&self, work: F) -> Result<T, JournalError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, JournalError> + Send + 'static,
    {
        self.run(move |connection| {
            let transaction = connection
                // A reader that turns into a writer can fail with "busy" at once.
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .during("begin a transaction")?;
            let value = work(&transaction)?;
            transaction.commit().during("commit")?;
            Ok(value)
        })
        .await
    }

    async fn run<T, F>(&self, work: F) -> Result<T, JournalError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, JournalError> + Send + 'static,
    {
        let connection = Arc::clone(&self.connection);
        // Goes on to its end also if the caller is dropped.
        tokio::task::spawn_blocking(move || work(&mut connection.lock()))
            .await
            .map_err(|error| JournalError::Storage {
                operation: "use the journal",
                source: Box::new(error),
            })?
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn open(&self, new: NewRun) -> Result<Opened, JournalError> {
        self.write(move |transaction| open(transaction, &new)).await
    }

    async fn claim(&self, asked: Claim) -> Result<Vec<Run>, JournalError> {
        // Looks without a lock first: most of the time there is nothing.
        let to_look = asked.clone();
        let found = self
            .run(move |connection| leases::claimable(connection, &to_look))
            .await?;
        if found.is_empty() {
            return Ok(vec![]);
        }
        self.write(move |transaction| claim(transaction, &asked))
            .await
    }

    async fn renew(
        &self,
        fences: Vec<Fence>,
        until: Timestamp,
    ) -> Result<Vec<Renewal>, JournalError> {
        self.write(move |transaction| renew(transaction, &fences, until))
            .await
    }

    async fn record(
        &self,
        fence: Fence,
        entries: Vec<Entry>,
        now: Timestamp,
    ) -> Result<Recorded, JournalError> {
        self.write(move |transaction| record(transaction, &fence, &entries, now))
            .await
    }

    async fn ask_cancel(&self, run: RunId, cancel: Cancel) -> Result<CancelAnswer, JournalError> {
        self.write(move |transaction| ask_cancel(transaction, &run, &cancel))
            .await
    }

    async fn load(&self, run: RunId) -> Result<Option<Story>, JournalError> {
        self.run(move |connection| load(connection, &run)).await
    }

    async fn list(&self, filter: Filter) -> Result<Vec<Run>, JournalError> {
        self.run(move |connection| list(connection, &filter)).await
    }

    async fn prune(&self, rule: PruneRule, now: Timestamp) -> Result<usize, JournalError> {
        self.write(move |transaction| prune(transaction, &rule, now))
            .await
    }
}

/// Adds the operation to an SQLite error, and tells a full disk from other failures.
trait JournalContext<T> {
    fn during(self, operation: &'static str) -> Result<T, JournalError>;
}

impl<T> JournalContext<T> for Result<T, rusqlite::Error> {
    fn during(self, operation: &'static str) -> Result<T, JournalError> {
        self.map_err(|source| {
            let is_full = source.sqlite_error().is_some_and(|error| {
                error.code == rusqlite::ErrorCode::DiskFull
                    // No room for the index of the write-ahead log.
                    || error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
            });
            if is_full {
                return JournalError::Full { operation };
            }
            JournalError::Storage {
                operation,
                source: Box::new(source),
            }
        })
    }
}

/// The revision of the change that is being made.
fn next_revision(transaction: &Transaction<'_>) -> Result<i64, JournalError> {
    let newest: Option<i64> = transaction
        .prepare_cached("UPDATE run_revision SET newest = newest + 1 RETURNING newest")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)).optional())
        .during("count the change of a run")?;
    newest.ok_or_else(|| JournalError::Damaged {
        what: "the table run_revision".into(),
        problem: "it has no row".into(),
    })
}

fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
