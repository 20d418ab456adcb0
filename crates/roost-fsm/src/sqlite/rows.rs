//! Rows of the journal's tables as records.

use super::{JournalContext as _, to_i64};
use crate::journal::JournalError;
use crate::record::{
    Cancel, Direction, Kind, Lease, Outcome, Run, Status, StepRecord, Subject, Turn,
};
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use rusqlite::{Connection, Params, Row};

/// Columns as SQLite has them, before anything is checked.
struct RawRun {
    id: String,
    kind: Kind,
    subject: String,
    key: Option<String>,
    parent: Option<String>,
    cause: String,
    params: String,
    status: String,
    turn: Option<String>,
    reason: Option<String>,
    cancel_at_ms: Option<i64>,
    cancel_turn: Option<String>,
    cancel_reason: Option<String>,
    is_past_point: bool,
    created_ms: i64,
    started_ms: Option<i64>,
    ended_ms: Option<i64>,
    epoch: i64,
    holder: Option<String>,
    lease_until_ms: Option<i64>,
    revision: i64,
}

impl RawRun {
    fn read(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            id: row.get("id")?,
            kind: Kind {
                name: row.get("workflow")?,
                version: row.get("version")?,
            },
            subject: row.get("subject")?,
            key: row.get("key")?,
            parent: row.get("parent")?,
            cause: row.get("cause")?,
            params: row.get("params")?,
            status: row.get("status")?,
            turn: row.get("turn")?,
            reason: row.get("reason")?,
            cancel_at_ms: row.get("cancel_at_ms")?,
            cancel_turn: row.get("cancel_turn")?,
            cancel_reason: row.get("cancel_reason")?,
            is_past_point: row.get("is_past_point")?,
            created_ms: row.get("created_ms")?,
            started_ms: row.get("started_ms")?,
            ended_ms: row.get("ended_ms")?,
            epoch: row.get("epoch")?,
            holder: row.get("holder")?,
            lease_until_ms: row.get("lease_until_ms")?,
            revision: row.get("revision")?,
        })
    }

    fn check(self) -> Result<Run, JournalError> {
        let what = format!("run {}", self.id);
        let damaged = |problem: String| JournalError::Damaged {
            what: what.clone(),
            problem,
        };
        let turn = |word: String| Turn::parse(&word).ok_or_else(|| damaged(unknown("turn", &word)));
        Ok(Run {
            cancel: match (self.cancel_at_ms, self.cancel_turn, self.cancel_reason) {
                (Some(at_ms), Some(word), Some(reason)) => Some(Cancel {
                    at: timestamp(at_ms),
                    turn: turn(word)?,
                    reason,
                }),
                (None, None, None) => None,
                _ => return Err(damaged("half a request to cancel".into())),
            },
            lease: match (self.holder, self.lease_until_ms) {
                (Some(holder), Some(until_ms)) => Some(Lease {
                    holder,
                    until: timestamp(until_ms),
                }),
                (None, None) => None,
                _ => return Err(damaged("half a lease".into())),
            },
            subject: Subject::new(self.subject).map_err(|error| damaged(error.to_string()))?,
            parent: self.parent.as_deref().map(run_id).transpose()?,
            status: Status::parse(&self.status)
                .ok_or_else(|| damaged(unknown("status", &self.status)))?,
            turn: self.turn.map(turn).transpose()?,
            id: run_id(&self.id)?,
            kind: self.kind,
            key: self.key,
            cause: self.cause,
            params: self.params,
            reason: self.reason,
            is_past_point: self.is_past_point,
            created_at: timestamp(self.created_ms),
            started_at: self.started_ms.map(timestamp),
            ended_at: self.ended_ms.map(timestamp),
            epoch: to_u64(self.epoch),
            revision: to_u64(self.revision),
        })
    }
}

/// The runs that `rest` of a statement selects.
pub(super) fn runs(
    connection: &Connection,
    rest: &str,
    params: impl Params,
) -> Result<Vec<Run>, JournalError> {
    const READ: &str = "read runs";
    let mut statement = connection
        .prepare_cached(&format!("SELECT * FROM runs {rest}"))
        .during(READ)?;
    let raw: Vec<RawRun> = statement
        .query_map(params, RawRun::read)
        .and_then(Iterator::collect)
        .during(READ)?;
    raw.into_iter().map(RawRun::check).collect()
}

/// One run.
pub(super) fn run(connection: &Connection, id: &RunId) -> Result<Option<Run>, JournalError> {
    Ok(runs(connection, "WHERE id = ?1", [id.as_str()])?.pop())
}

/// The attempts of a run, oldest first.
pub(super) fn steps(connection: &Connection, run: &RunId) -> Result<Vec<StepRecord>, JournalError> {
    const READ: &str = "read the steps of a run";
    let mut statement = connection
        .prepare_cached("SELECT * FROM run_steps WHERE run_id = ?1 ORDER BY seq")
        .during(READ)?;
    let raw: Vec<(String, Option<String>, StepRecord)> = statement
        .query_map([run.as_str()], step)
        .and_then(Iterator::collect)
        .during(READ)?;
    let damaged = |problem: String| JournalError::Damaged {
        what: format!("a step of run {run}"),
        problem,
    };
    raw.into_iter()
        .map(|(direction, outcome, mut step)| {
            step.direction = Direction::parse(&direction)
                .ok_or_else(|| damaged(unknown("direction", &direction)))?;
            step.outcome = outcome
                .map(|word| Outcome::parse(&word).ok_or_else(|| damaged(unknown("outcome", &word))))
                .transpose()?;
            Ok(step)
        })
        .collect()
}

/// A step with its direction and outcome still as words.
fn step(row: &Row<'_>) -> Result<(String, Option<String>, StepRecord), rusqlite::Error> {
    let step = StepRecord {
        seq: row.get("seq")?,
        step: row.get("step")?,
        direction: Direction::Do,
        attempt: row.get("attempt")?,
        started_at: timestamp(row.get("started_ms")?),
        ended_at: row.get::<_, Option<i64>>("ended_ms")?.map(timestamp),
        outcome: None,
        reason: row.get("reason")?,
        output: row.get("output")?,
        retry_at: row.get::<_, Option<i64>>("retry_at_ms")?.map(timestamp),
    };
    Ok((row.get("direction")?, row.get("outcome")?, step))
}

/// A run's id as it is stored.
pub(super) fn run_id(text: &str) -> Result<RunId, JournalError> {
    RunId::parse(text).map_err(|error| JournalError::Damaged {
        what: format!("run {text}"),
        problem: error.to_string(),
    })
}

fn unknown(what: &str, word: &str) -> String {
    format!("unknown {what} `{word}`")
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_ms(to_u64(ms))
}

fn to_u64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn ms(time: Timestamp) -> i64 {
    to_i64(time.as_ms())
}
