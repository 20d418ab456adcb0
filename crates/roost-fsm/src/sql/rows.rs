//! Rows of the journal's tables as records.

use super::{Sql, Value, values};
use crate::journal::JournalError;
use crate::record::{
    Cancel, Direction, Kind, Lease, Outcome, Run, Status, StepRecord, Subject, Turn,
};
use roost_model::id::RunId;
use roost_model::time::Timestamp;

/// One row, read column by column in the order of the statement.
#[derive(Debug)]
pub struct Row {
    columns: std::vec::IntoIter<Value>,
}

impl Row {
    /// A row with these columns.
    pub fn new(columns: Vec<Value>) -> Self {
        Self {
            columns: columns.into_iter(),
        }
    }

    fn next(&mut self) -> Value {
        self.columns.next().unwrap_or(Value::Null)
    }

    pub(super) fn find_integer(&mut self) -> Result<Option<i64>, JournalError> {
        match self.next() {
            Value::Null => Ok(None),
            Value::Integer(number) => Ok(Some(number)),
            Value::Text(text) => Err(damaged("a row", format!("`{text}` is no number"))),
        }
    }

    pub(super) fn find_text(&mut self) -> Result<Option<String>, JournalError> {
        match self.next() {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            Value::Integer(number) => Err(damaged("a row", format!("{number} is no text"))),
        }
    }

    fn find_time(&mut self) -> Result<Option<Timestamp>, JournalError> {
        let ms = self.find_integer()?;
        Ok(ms.map(|ms| Timestamp::from_ms(u64::try_from(ms).unwrap_or(0))))
    }

    pub(super) fn integer(&mut self) -> Result<i64, JournalError> {
        self.find_integer()?.ok_or_else(missing)
    }

    pub(super) fn number(&mut self) -> Result<u32, JournalError> {
        let number = self.integer()?;
        u32::try_from(number).map_err(|error| damaged("a row", format!("{number}: {error}")))
    }

    pub(super) fn flag(&mut self) -> Result<bool, JournalError> {
        Ok(self.integer()? != 0)
    }

    pub(super) fn text(&mut self) -> Result<String, JournalError> {
        self.find_text()?.ok_or_else(missing)
    }

    fn time(&mut self) -> Result<Timestamp, JournalError> {
        self.find_time()?.ok_or_else(missing)
    }

    pub(super) fn kind(&mut self) -> Result<Kind, JournalError> {
        Ok(Kind {
            name: self.text()?,
            version: self.number()?,
        })
    }
}

/// A statement that reads runs, see [`run_of`].
macro_rules! select_runs {
    ($rest:literal) => {
        concat!(
            "SELECT id, workflow, version, subject, key, parent, cause, params, status, turn,
                 reason, cancel_at_ms, cancel_turn, cancel_reason, is_past_point, created_ms,
                 started_ms, ended_ms, epoch, holder, lease_until_ms, revision
             FROM runs ",
            $rest
        )
    };
}
pub(super) use select_runs;

fn run_of(mut row: Row) -> Result<Run, JournalError> {
    let id = row.text()?;
    let what = format!("run {id}");
    let damaged = |problem: String| damaged(&what, problem);
    let turn = |word: String| Turn::parse(&word).ok_or_else(|| damaged(unknown("turn", &word)));
    Ok(Run {
        id: run_id(&id)?,
        kind: row.kind()?,
        subject: Subject::new(row.text()?).map_err(|error| damaged(error.to_string()))?,
        key: row.find_text()?,
        parent: row.find_text()?.as_deref().map(run_id).transpose()?,
        cause: row.text()?,
        params: row.text()?,
        status: {
            let word = row.text()?;
            Status::parse(&word).ok_or_else(|| damaged(unknown("status", &word)))?
        },
        turn: row.find_text()?.map(turn).transpose()?,
        reason: row.find_text()?,
        cancel: match (row.find_time()?, row.find_text()?, row.find_text()?) {
            (Some(at), Some(word), Some(reason)) => Some(Cancel {
                at,
                turn: turn(word)?,
                reason,
            }),
            (None, None, None) => None,
            _ => return Err(damaged("half a request to cancel".into())),
        },
        is_past_point: row.flag()?,
        created_at: row.time()?,
        started_at: row.find_time()?,
        ended_at: row.find_time()?,
        epoch: to_u64(row.integer()?),
        lease: match (row.find_text()?, row.find_time()?) {
            (Some(holder), Some(until)) => Some(Lease { holder, until }),
            (None, None) => None,
            _ => return Err(damaged("half a lease".into())),
        },
        revision: to_u64(row.integer()?),
    })
}

/// The runs that a statement of [`select_runs`] selects.
pub(super) async fn runs<S: Sql>(
    sql: &mut S,
    statement: &'static str,
    values: Vec<Value>,
) -> Result<Vec<Run>, JournalError> {
    let rows = sql.rows("read runs", statement, values).await?;
    rows.into_iter().map(run_of).collect()
}

/// One run.
pub(super) async fn run<S: Sql>(sql: &mut S, id: &RunId) -> Result<Option<Run>, JournalError> {
    let found = runs(sql, select_runs!("WHERE id = ?1"), values![id.as_str()]);
    Ok(found.await?.pop())
}

/// The attempts of a run, oldest first.
pub(super) async fn steps<S: Sql>(
    sql: &mut S,
    run: &RunId,
) -> Result<Vec<StepRecord>, JournalError> {
    let rows = sql.rows(
        "read the steps of a run",
        "SELECT seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output,
             retry_at_ms
         FROM run_steps WHERE run_id = ?1 ORDER BY seq",
        values![run.as_str()],
    );
    let steps = rows.await?.into_iter().map(|row| step_of(run, row));
    steps.collect()
}

fn step_of(run: &RunId, mut row: Row) -> Result<StepRecord, JournalError> {
    let damaged =
        |what: &str, word: &str| damaged(&format!("a step of run {run}"), unknown(what, word));
    Ok(StepRecord {
        seq: row.number()?,
        step: row.text()?,
        direction: {
            let word = row.text()?;
            Direction::parse(&word).ok_or_else(|| damaged("direction", &word))?
        },
        attempt: row.number()?,
        started_at: row.time()?,
        ended_at: row.find_time()?,
        outcome: match row.find_text()? {
            Some(word) => Some(Outcome::parse(&word).ok_or_else(|| damaged("outcome", &word))?),
            None => None,
        },
        reason: row.find_text()?,
        output: row.find_text()?,
        retry_at: row.find_time()?,
    })
}

/// A run's id as it is stored.
pub(super) fn run_id(text: &str) -> Result<RunId, JournalError> {
    RunId::parse(text).map_err(|error| damaged(&format!("run {text}"), error.to_string()))
}

pub(super) fn damaged(what: &str, problem: impl Into<String>) -> JournalError {
    JournalError::Damaged {
        what: what.to_owned(),
        problem: problem.into(),
    }
}

fn missing() -> JournalError {
    damaged("a row", "a value is missing")
}

fn unknown(what: &str, word: &str) -> String {
    format!("unknown {what} `{word}`")
}

fn to_u64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
