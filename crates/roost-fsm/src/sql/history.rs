//! Reading runs, and forgetting old ones.

use super::rows::{run, runs, select_runs, steps};
use super::{Sql, number, to_i64, values};
use crate::journal::{Filter, JournalError, PruneRule};
use crate::limits;
use crate::record::{Run, Story, Subject};
use roost_model::id::RunId;
use roost_model::time::Timestamp;

/// One run with all that happened in it.
pub async fn load<S: Sql>(sql: &mut S, id: &RunId) -> Result<Option<Story>, JournalError> {
    let Some(run) = run(sql, id).await? else {
        return Ok(None);
    };
    Ok(Some(Story {
        steps: steps(sql, id).await?,
        n_children_unfinished: count_children(sql, id).await?,
        run,
    }))
}

/// How many children of a run have not ended.
pub(super) async fn count_children<S: Sql>(sql: &mut S, id: &RunId) -> Result<u32, JournalError> {
    let statement = "SELECT COUNT(*) FROM runs WHERE parent = ?1 AND ended_ms IS NULL";
    let operation = "count the children of a run";
    number(sql, operation, statement, values![id.as_str()]).await
}

/// Runs without their steps.
pub async fn list<S: Sql>(sql: &mut S, filter: &Filter) -> Result<Vec<Run>, JournalError> {
    let statement = match filter.changed_after {
        Some(_) => select_runs!(
            "WHERE (?1 IS NULL OR subject = ?1) AND (?2 IS NULL OR parent = ?2)
               AND (?3 = 0 OR ended_ms IS NULL) AND (?4 IS NULL OR revision > ?4)
             ORDER BY revision LIMIT ?5"
        ),
        None => select_runs!(
            "WHERE (?1 IS NULL OR subject = ?1) AND (?2 IS NULL OR parent = ?2)
               AND (?3 = 0 OR ended_ms IS NULL) AND (?4 IS NULL OR revision > ?4)
             ORDER BY ordinal DESC LIMIT ?5"
        ),
    };
    let limit = filter
        .limit
        .map_or(limits::LIST_MAX, |limit| limit.min(limits::LIST_MAX));
    let values = values![
        filter.subject.as_ref().map(Subject::as_str),
        filter.parent.as_ref().map(RunId::as_str),
        filter.only_unfinished,
        filter.changed_after.map(to_i64),
        limit,
    ];
    runs(sql, statement, values).await
}

/// Forgets old runs and says how many; their children and steps go with them.
pub async fn prune<S: Sql>(
    sql: &mut S,
    rule: &PruneRule,
    now: Timestamp,
) -> Result<usize, JournalError> {
    let keep_ms = u64::try_from(rule.keep_for.as_millis()).unwrap_or(u64::MAX);
    let oldest = Timestamp::from_ms(now.as_ms().saturating_sub(keep_ms));
    sql.execute(
        "forget old runs",
        "DELETE FROM runs WHERE ordinal IN (
             SELECT ordinal FROM (
                 SELECT ordinal, ended_ms, status,
                        ROW_NUMBER() OVER (PARTITION BY subject ORDER BY ordinal DESC) AS place
                 FROM runs WHERE ended_ms IS NOT NULL AND parent IS NULL)
             WHERE ended_ms < ?1 OR (place > ?2 AND status <> 'stuck')
             ORDER BY ordinal LIMIT ?3)",
        values![oldest, rule.keep_per_subject, rule.batch],
    )
    .await
}
