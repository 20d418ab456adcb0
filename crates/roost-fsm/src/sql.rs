//! The journal's tables: what is decided and written in a transaction, whoever runs the
//! statements.
//!
//! Each function runs on a transaction of the caller ([`Sql`]), so that he can write rows of his
//! own and the first record of a run in one: all or nothing. [`crate::sqlite`] is this over a
//! blocking connection; a database with an asynchronous one implements [`Sql`] itself.
//!
//! [`SCHEMA`] is what a database's migrations take in. A version that was released is never
//! changed: what is added later is another text for another migration.

mod history;
mod leases;
mod open;
mod rows;
mod write;

pub use history::{list, load, prune};
pub use leases::{claim, claimable, renew, take};
pub use open::{open, with_key};
pub use rows::Row;
pub use write::{ask_cancel, record};

use crate::journal::JournalError;
use futures_util::future::BoxFuture;
use roost_model::time::Timestamp;

/// The tables of the journal. Foreign keys must be switched on, and `synchronous` be `FULL`:
/// what was answered is on disk.
pub const SCHEMA: &str = include_str!("sql/schema.sql");

/// Runs statements of SQLite, in one transaction. Parameters are `?1`, `?2`, ….
pub trait Sql {
    /// Runs a statement that changes rows, and says how many.
    fn execute<'a>(
        &'a mut self,
        operation: &'static str,
        statement: &'static str,
        values: Vec<Value>,
    ) -> BoxFuture<'a, Result<usize, JournalError>>;

    /// Runs a statement that has rows as its result.
    fn rows<'a>(
        &'a mut self,
        operation: &'static str,
        statement: &'static str,
        values: Vec<Value>,
    ) -> BoxFuture<'a, Result<Vec<Row>, JournalError>>;
}

/// A value of a parameter or a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// None.
    Null,
    /// A number, a flag, or a time in milliseconds since the epoch.
    Integer(i64),
    /// A text.
    Text(String),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Integer(flag.into())
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Integer(to_i64(time.as_ms()))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The values of a statement's parameters.
macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$($crate::sql::Value::from($value)),*] };
}
use values;

/// The number that a statement has as its result.
async fn number<S: Sql>(
    sql: &mut S,
    operation: &'static str,
    statement: &'static str,
    values: Vec<Value>,
) -> Result<u32, JournalError> {
    let rows = sql.rows(operation, statement, values).await?;
    match rows.into_iter().next() {
        Some(mut row) => row.number(),
        None => Err(rows::damaged("the journal", format!("{operation}: no row"))),
    }
}

/// The revision of the change that is being made.
async fn next_revision<S: Sql>(sql: &mut S) -> Result<i64, JournalError> {
    const COUNT: &str = "count the change of a run";
    let statement = "UPDATE run_revision SET newest = newest + 1 RETURNING newest";
    let rows = sql.rows(COUNT, statement, vec![]).await?;
    match rows.into_iter().next() {
        Some(mut row) => row.integer(),
        None => Err(rows::damaged("the table run_revision", "it has no row")),
    }
}

fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
