//! Reading runs, and forgetting old ones.

use super::rows::{ms, run, runs, steps};
use super::{JournalContext as _, to_i64};
use crate::journal::{Filter, JournalError, PruneRule};
use crate::limits;
use crate::record::{Run, Story, Subject};
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use rusqlite::{Connection, Transaction, params};

/// One run with all that happened in it.
pub fn load(connection: &Connection, id: &RunId) -> Result<Option<Story>, JournalError> {
    let Some(run) = run(connection, id)? else {
        return Ok(None);
    };
    let n_children_unfinished = connection
        .prepare_cached("SELECT COUNT(*) FROM runs WHERE parent = ?1 AND ended_ms IS NULL")
        .and_then(|mut statement| statement.query_row([id.as_str()], |row| row.get(0)))
        .during("count the children of a run")?;
    Ok(Some(Story {
        steps: steps(connection, id)?,
        n_children_unfinished,
        run,
    }))
}

/// Runs without their steps.
pub fn list(connection: &Connection, filter: &Filter) -> Result<Vec<Run>, JournalError> {
    let order = match filter.changed_after {
        Some(_) => "revision",
        None => "ordinal DESC",
    };
    let limit = filter
        .limit
        .map_or(limits::LIST_MAX, |limit| limit.min(limits::LIST_MAX));
    runs(
        connection,
        &format!(
            "WHERE (?1 IS NULL OR subject = ?1) AND (?2 IS NULL OR parent = ?2)
               AND (?3 = 0 OR ended_ms IS NULL) AND (?4 IS NULL OR revision > ?4)
             ORDER BY {order} LIMIT ?5"
        ),
        params![
            filter.subject.as_ref().map(Subject::as_str),
            filter.parent.as_ref().map(RunId::as_str),
            filter.only_unfinished,
            filter.changed_after.map(to_i64),
            limit
        ],
    )
}

/// Forgets old runs and says how many; their children and steps go with them.
pub fn prune(
    transaction: &Transaction<'_>,
    rule: &PruneRule,
    now: Timestamp,
) -> Result<usize, JournalError> {
    let keep_ms = u64::try_from(rule.keep_for.as_millis()).unwrap_or(u64::MAX);
    let oldest = Timestamp::from_ms(now.as_ms().saturating_sub(keep_ms));
    transaction
        .prepare_cached(
            "DELETE FROM runs WHERE ordinal IN (
                 SELECT ordinal FROM (
                     SELECT ordinal, ended_ms, status,
                            ROW_NUMBER() OVER (PARTITION BY subject ORDER BY ordinal DESC) AS place
                     FROM runs WHERE ended_ms IS NOT NULL AND parent IS NULL)
                 WHERE ended_ms < ?1 OR (place > ?2 AND status <> 'stuck')
                 ORDER BY ordinal LIMIT ?3)",
        )
        .and_then(|mut statement| {
            statement.execute(params![ms(oldest), rule.keep_per_subject, rule.batch])
        })
        .during("forget old runs")
}
