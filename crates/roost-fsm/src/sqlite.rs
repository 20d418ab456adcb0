//! The journal in SQLite over a blocking connection.
//!
//! The functions of this module are those of [`crate::sql`] on a transaction of the caller.
//! [`SqliteJournal`] runs each in a transaction of its own, over a connection that it shares with
//! the database that the tables belong to.
//!
//! An owner that executes runs by itself, without an engine, does so in the transactions that it
//! makes anyway: [`open()`] and [`take()`] with the wish, [`record()`] with each thing that it did,
//! [`crate::journal::Entry::Ended`] with the last. A run that gives way to a newer one of its
//! subject has to end before the newer one is taken.

use crate::journal::{
    CancelAnswer, Claim, Entry, Fence, Filter, Journal, JournalError, NewRun, Opened, PruneRule,
    Recorded, Renewal,
};
use crate::record::{Cancel, Run, Story};
pub use crate::sql::SCHEMA;
use crate::sql::{self, Row, Sql, Value};
use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, Transaction, TransactionBehavior, params_from_iter};
use std::sync::Arc;

/// Runs statements at once: each future is ready when it is made.
struct Blocking<'c>(&'c Connection);

impl Sql for Blocking<'_> {
    fn execute<'a>(
        &'a mut self,
        operation: &'static str,
        statement: &'static str,
        values: Vec<Value>,
    ) -> BoxFuture<'a, Result<usize, JournalError>> {
        let n_rows = self
            .0
            .prepare_cached(statement)
            .and_then(|mut statement| statement.execute(params_from_iter(values)))
            .during(operation);
        std::future::ready(n_rows).boxed()
    }

    fn rows<'a>(
        &'a mut self,
        operation: &'static str,
        statement: &'static str,
        values: Vec<Value>,
    ) -> BoxFuture<'a, Result<Vec<Row>, JournalError>> {
        let rows = self.0.prepare_cached(statement).and_then(|mut statement| {
            let n_columns = statement.column_count();
            let rows = statement.query_map(params_from_iter(values), |row| {
                let columns = (0..n_columns).map(|idx| row.get(idx));
                Ok(Row::new(columns.collect::<Result<_, _>>()?))
            })?;
            rows.collect()
        });
        std::future::ready(rows.during(operation)).boxed()
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

impl FromSql for Value {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Null => Ok(Self::Null),
            ValueRef::Integer(number) => Ok(Self::Integer(number)),
            ValueRef::Text(_) => Ok(Self::Text(value.as_str()?.to_owned())),
            ValueRef::Real(_) | ValueRef::Blob(_) => Err(FromSqlError::InvalidType),
        }
    }
}

/// The result of statements that [`Blocking`] runs.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let result = future.now_or_never();
    result.expect("futures of a blocking connection are ready")
}

/// See [`sql::open()`].
pub fn open(transaction: &Transaction<'_>, new: &NewRun) -> Result<Opened, JournalError> {
    at_once(sql::open(&mut Blocking(transaction), new))
}

/// See [`sql::claim()`].
pub fn claim(transaction: &Transaction<'_>, claim: &Claim) -> Result<Vec<Run>, JournalError> {
    at_once(sql::claim(&mut Blocking(transaction), claim))
}

/// See [`sql::take()`].
pub fn take(
    transaction: &Transaction<'_>,
    id: &RunId,
    holder: &str,
    until: Timestamp,
    now: Timestamp,
) -> Result<Run, JournalError> {
    at_once(sql::take(
        &mut Blocking(transaction),
        id,
        holder,
        until,
        now,
    ))
}

/// See [`sql::renew()`].
pub fn renew(
    transaction: &Transaction<'_>,
    fences: &[Fence],
    until: Timestamp,
) -> Result<Vec<Renewal>, JournalError> {
    at_once(sql::renew(&mut Blocking(transaction), fences, until))
}

/// See [`sql::record()`].
pub fn record(
    transaction: &Transaction<'_>,
    fence: &Fence,
    entries: &[Entry],
    now: Timestamp,
) -> Result<Recorded, JournalError> {
    at_once(sql::record(&mut Blocking(transaction), fence, entries, now))
}

/// See [`sql::ask_cancel()`].
pub fn ask_cancel(
    transaction: &Transaction<'_>,
    id: &RunId,
    cancel: &Cancel,
) -> Result<CancelAnswer, JournalError> {
    at_once(sql::ask_cancel(&mut Blocking(transaction), id, cancel))
}

/// See [`sql::load()`].
pub fn load(connection: &Connection, id: &RunId) -> Result<Option<Story>, JournalError> {
    at_once(sql::load(&mut Blocking(connection), id))
}

/// See [`sql::list()`].
pub fn list(connection: &Connection, filter: &Filter) -> Result<Vec<Run>, JournalError> {
    at_once(sql::list(&mut Blocking(connection), filter))
}

/// See [`sql::prune()`].
pub fn prune(
    transaction: &Transaction<'_>,
    rule: &PruneRule,
    now: Timestamp,
) -> Result<usize, JournalError> {
    at_once(sql::prune(&mut Blocking(transaction), rule, now))
}

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
            .run(move |connection| at_once(sql::claimable(&mut Blocking(connection), &to_look)))
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

#[cfg(test)]
mod tests;
