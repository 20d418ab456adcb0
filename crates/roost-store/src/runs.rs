//! Runs of workflows in the control database: the journal of the engine.
//!
//! What is decided and written is `roost_fsm::sql`; here its statements are run, each
//! transaction one of the store's. Its tables are in SQLite's own words.

use crate::error::Attempt as _;
use crate::{Store, StoreError};
use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use roost_fsm::journal::{
    CancelAnswer, Claim, Entry, Fence, Filter, Journal, JournalError, NewRun, Opened, PruneRule,
    Recorded, Renewal,
};
use roost_fsm::record::{Cancel, Run, Story};
use roost_fsm::sql::{self, Row, Sql, Value};
use roost_model::error::chain;
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Row as _, Sqlite, Transaction, TypeInfo as _, ValueRef as _};

/// Runs the statements of the journal on a connection.
pub(crate) struct Statements<'c>(pub(crate) &'c mut SqliteConnection);

impl Sql for Statements<'_> {
    fn execute<'a>(
        &'a mut self,
        operation: &'static str,
        statement: &'static str,
        values: Vec<Value>,
    ) -> BoxFuture<'a, Result<usize, JournalError>> {
        async move {
            let result = bound(statement, values).execute(&mut *self.0).await;
            let n_rows = result.attempt(operation)?.rows_affected();
            Ok(usize::try_from(n_rows).unwrap_or(usize::MAX))
        }
        .boxed()
    }

    fn rows<'a>(
        &'a mut self,
        operation: &'static str,
        statement: &'static str,
        values: Vec<Value>,
    ) -> BoxFuture<'a, Result<Vec<Row>, JournalError>> {
        async move {
            let rows = bound(statement, values).fetch_all(&mut *self.0).await;
            let rows = rows.attempt(operation)?;
            let rows: Result<Vec<Row>, sqlx::Error> = rows.iter().map(row).collect();
            Ok(rows.attempt(operation)?)
        }
        .boxed()
    }
}

fn bound(statement: &'static str, values: Vec<Value>) -> Query<'static, Sqlite, SqliteArguments> {
    let query = sqlx::query(statement);
    values.into_iter().fold(query, |query, value| match value {
        Value::Null => query.bind(None::<i64>),
        Value::Integer(number) => query.bind(number),
        Value::Text(text) => query.bind(text),
    })
}

fn row(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    let columns = (0..row.len()).map(|idx| {
        let value = row.try_get_raw(idx)?;
        if value.is_null() {
            return Ok(Value::Null);
        }
        if value.type_info().name() == "TEXT" {
            return row.try_get(idx).map(Value::Text);
        }
        row.try_get(idx).map(Value::Integer)
    });
    Ok(Row::new(columns.collect::<Result<_, sqlx::Error>>()?))
}

/// The store as the journal of an engine.
#[derive(Debug, Clone)]
pub struct RunJournal {
    store: Store,
}

impl RunJournal {
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, JournalError> {
        Ok(self.store.begin("begin to record a run").await?)
    }
}

async fn commit(transaction: Transaction<'static, Sqlite>) -> Result<(), JournalError> {
    let committed = transaction.commit().await;
    Ok(committed.attempt("record a run")?)
}

impl Store {
    /// The journal of the runs in this database.
    pub fn runs(&self) -> RunJournal {
        RunJournal {
            store: self.clone(),
        }
    }

    /// The run that was recorded under a key.
    pub async fn run_with_key(&self, key: &str) -> Result<Option<Run>, StoreError> {
        let connection = self.pool.acquire().await;
        let mut connection = connection.attempt("look up a run")?;
        Ok(sql::with_key(&mut Statements(&mut connection), key).await?)
    }
}

#[async_trait]
impl Journal for RunJournal {
    async fn open(&self, new: NewRun) -> Result<Opened, JournalError> {
        let mut transaction = self.begin().await?;
        let opened = sql::open(&mut Statements(&mut transaction), &new).await?;
        commit(transaction).await?;
        Ok(opened)
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Run>, JournalError> {
        // Looks without a lock first: most of the time there is nothing.
        let connection = self.store.pool.acquire().await;
        let mut connection = connection.attempt("look for runs to execute")?;
        if sql::claimable(&mut Statements(&mut connection), &claim)
            .await?
            .is_empty()
        {
            return Ok(vec![]);
        }
        drop(connection);
        let mut transaction = self.begin().await?;
        let runs = sql::claim(&mut Statements(&mut transaction), &claim).await?;
        commit(transaction).await?;
        Ok(runs)
    }

    async fn renew(
        &self,
        fences: Vec<Fence>,
        until: Timestamp,
    ) -> Result<Vec<Renewal>, JournalError> {
        let mut transaction = self.begin().await?;
        let renewals = sql::renew(&mut Statements(&mut transaction), &fences, until).await?;
        commit(transaction).await?;
        Ok(renewals)
    }

    async fn record(
        &self,
        fence: Fence,
        entries: Vec<Entry>,
        now: Timestamp,
    ) -> Result<Recorded, JournalError> {
        let mut transaction = self.begin().await?;
        let recorded =
            sql::record(&mut Statements(&mut transaction), &fence, &entries, now).await?;
        commit(transaction).await?;
        Ok(recorded)
    }

    async fn ask_cancel(&self, run: RunId, cancel: Cancel) -> Result<CancelAnswer, JournalError> {
        let mut transaction = self.begin().await?;
        let answer = sql::ask_cancel(&mut Statements(&mut transaction), &run, &cancel).await?;
        commit(transaction).await?;
        Ok(answer)
    }

    async fn load(&self, run: RunId) -> Result<Option<Story>, JournalError> {
        // A run and its steps, as they were at one moment.
        let transaction = self.store.pool.begin().await;
        let mut transaction = transaction.attempt("read a run")?;
        sql::load(&mut Statements(&mut transaction), &run).await
    }

    async fn list(&self, filter: Filter) -> Result<Vec<Run>, JournalError> {
        let connection = self.store.pool.acquire().await;
        let mut connection = connection.attempt("list runs")?;
        sql::list(&mut Statements(&mut connection), &filter).await
    }

    async fn prune(&self, rule: PruneRule, now: Timestamp) -> Result<usize, JournalError> {
        let mut transaction = self.begin().await?;
        let n_runs = sql::prune(&mut Statements(&mut transaction), &rule, now).await?;
        commit(transaction).await?;
        Ok(n_runs)
    }
}

impl From<StoreError> for JournalError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DiskFull { operation, .. } => Self::Full { operation },
            error @ StoreError::Corrupt { .. } => Self::Damaged {
                what: "the control database".into(),
                problem: chain(&error),
            },
            error => Self::Storage {
                operation: "use the control database",
                source: Box::new(error),
            },
        }
    }
}
