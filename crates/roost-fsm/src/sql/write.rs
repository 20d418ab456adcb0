//! What happens in a run.

use super::rows::{run, run_id};
use super::{Sql, Value, history, next_revision, values};
use crate::journal::{CancelAnswer, Entry, Fence, JournalError, Recorded};
use crate::record::{Cancel, Direction, Run, Status, Story, Turn, cut};
use roost_model::id::RunId;
use roost_model::time::Timestamp;

/// Writes what happened in a run, if the fence is that of the newest lease.
pub async fn record<S: Sql>(
    sql: &mut S,
    fence: &Fence,
    entries: &[Entry],
    now: Timestamp,
) -> Result<Recorded, JournalError> {
    let id = &fence.run;
    let mut present = run(sql, id)
        .await?
        .ok_or_else(|| JournalError::NotFound(id.clone()))?;
    if present.epoch != fence.epoch || present.status.is_ended() {
        return Err(JournalError::Fenced(id.clone()));
    }
    // Decided before anything is written: the caller's transaction may go on.
    if entries.contains(&Entry::PointPassed) && present.cancel.is_some() {
        return Ok(Recorded::AskedToTurnBack(story(sql, id).await?));
    }
    for entry in entries {
        append(sql, &mut present, entry, now).await?;
    }
    let revision = next_revision(sql).await?;
    execute(
        sql,
        "UPDATE runs SET revision = ?2 WHERE id = ?1",
        values![id.as_str(), revision],
    )
    .await?;
    Ok(Recorded::Written(story(sql, id).await?))
}

async fn append<S: Sql>(
    sql: &mut S,
    run: &mut Run,
    entry: &Entry,
    now: Timestamp,
) -> Result<(), JournalError> {
    let n_written = match entry {
        Entry::StepStarted {
            step,
            direction,
            attempt,
        } => start_step(sql, run, step, *direction, *attempt, now).await?,
        Entry::StepEnded {
            outcome,
            reason,
            output,
            retry_at,
        } => {
            execute(
                sql,
                "UPDATE run_steps
             SET ended_ms = ?2, outcome = ?3, reason = ?4, output = ?5, retry_at_ms = ?6
             WHERE run_id = ?1 AND outcome IS NULL",
                values![
                    run.id.as_str(),
                    now,
                    outcome.as_str(),
                    reason.clone().map(cut),
                    output.as_deref(),
                    *retry_at
                ],
            )
            .await?
        }
        Entry::PointPassed => {
            execute(
                sql,
                "UPDATE runs SET is_past_point = 1 WHERE id = ?1 AND status = 'running'",
                values![run.id.as_str()],
            )
            .await?
        }
        Entry::TurnedBack { turn, reason } => turn_back(sql, run, *turn, reason, now).await?,
        Entry::Ended { status, reason } => end(sql, run, *status, reason.clone(), now).await?,
    };
    if n_written == 1 {
        return Ok(());
    }
    Err(JournalError::OutOfOrder {
        run: run.id.clone(),
        status: run.status,
        entry: entry.name(),
    })
}

async fn start_step<S: Sql>(
    sql: &mut S,
    run: &Run,
    step: &str,
    direction: Direction,
    attempt: u32,
    now: Timestamp,
) -> Result<usize, JournalError> {
    let may_begin = match direction {
        Direction::Do => Status::Running,
        Direction::Undo => Status::Undoing,
    };
    if run.status != may_begin {
        return Ok(0);
    }
    execute(
        sql,
        "INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms)
         SELECT ?1, (SELECT COALESCE(MAX(seq), 0) + 1 FROM run_steps WHERE run_id = ?1),
                ?2, ?3, ?4, ?5
         WHERE NOT EXISTS (SELECT 1 FROM run_steps WHERE run_id = ?1 AND outcome IS NULL)",
        values![run.id.as_str(), step, direction.as_str(), attempt, now],
    )
    .await
}

async fn turn_back<S: Sql>(
    sql: &mut S,
    run: &mut Run,
    turn: Turn,
    reason: &str,
    now: Timestamp,
) -> Result<usize, JournalError> {
    let n_written = execute(
        sql,
        "UPDATE runs SET status = 'undoing', turn = ?2, reason = ?3
         WHERE id = ?1 AND status = 'running' AND NOT is_past_point",
        values![run.id.as_str(), turn.as_str(), cut(reason.to_owned())],
    )
    .await?;
    run.status = Status::Undoing;
    let children = sql.rows(
        "read the children of a run",
        "SELECT id FROM runs WHERE parent = ?1 AND ended_ms IS NULL",
        values![run.id.as_str()],
    );
    let children = children.await?;
    let cancel = Cancel {
        at: now,
        turn: Turn::Cancelled,
        reason: format!("its parent {} turned back", run.id),
    };
    for mut child in children {
        ask_cancel(sql, &run_id(&child.text()?)?, &cancel).await?;
    }
    Ok(n_written)
}

async fn end<S: Sql>(
    sql: &mut S,
    run: &mut Run,
    status: Status,
    reason: Option<String>,
    now: Timestamp,
) -> Result<usize, JournalError> {
    if !status.is_ended() {
        return Ok(0);
    }
    run.status = status;
    execute(
        sql,
        "UPDATE runs SET status = ?2, reason = ?3, ended_ms = ?4,
             holder = NULL, lease_until_ms = NULL
         WHERE id = ?1 AND ended_ms IS NULL
           AND NOT EXISTS (SELECT 1 FROM run_steps WHERE run_id = ?1 AND outcome IS NULL)",
        values![run.id.as_str(), status.as_str(), reason.map(cut), now],
    )
    .await
}

/// Asks a run to turn back. One that has not begun ends at once.
pub async fn ask_cancel<S: Sql>(
    sql: &mut S,
    id: &RunId,
    cancel: &Cancel,
) -> Result<CancelAnswer, JournalError> {
    let present = run(sql, id)
        .await?
        .ok_or_else(|| JournalError::NotFound(id.clone()))?;
    match present.status {
        Status::Queued => {
            end_unbegun(sql, id, cancel).await?;
            Ok(CancelAnswer::Ended)
        }
        Status::Running if present.is_past_point => Ok(CancelAnswer::PastPoint),
        Status::Running if present.cancel.is_some() => Ok(CancelAnswer::Asked),
        Status::Running => {
            set_cancel(sql, id, cancel).await?;
            Ok(CancelAnswer::Asked)
        }
        Status::Undoing => Ok(CancelAnswer::TurnsBackAlready),
        Status::Succeeded
        | Status::Failed
        | Status::Cancelled
        | Status::Superseded
        | Status::Stuck => Ok(CancelAnswer::EndedBefore(present.status)),
    }
}

/// Ends a run that is queued.
pub(super) async fn end_unbegun<S: Sql>(
    sql: &mut S,
    id: &RunId,
    cancel: &Cancel,
) -> Result<(), JournalError> {
    set_cancel(sql, id, cancel).await?;
    execute(
        sql,
        "UPDATE runs SET status = ?2, turn = ?3, reason = ?4, ended_ms = ?5
         WHERE id = ?1 AND status = 'queued'",
        values![
            id.as_str(),
            cancel.turn.ends_as().as_str(),
            cancel.turn.as_str(),
            cut(cancel.reason.clone()),
            cancel.at
        ],
    )
    .await?;
    Ok(())
}

/// Records a request to turn back.
pub(super) async fn set_cancel<S: Sql>(
    sql: &mut S,
    id: &RunId,
    cancel: &Cancel,
) -> Result<(), JournalError> {
    let revision = next_revision(sql).await?;
    execute(
        sql,
        "UPDATE runs SET cancel_at_ms = ?2, cancel_turn = ?3, cancel_reason = ?4, revision = ?5
         WHERE id = ?1",
        values![
            id.as_str(),
            cancel.at,
            cancel.turn.as_str(),
            cut(cancel.reason.clone()),
            revision
        ],
    )
    .await?;
    Ok(())
}

async fn execute<S: Sql>(
    sql: &mut S,
    statement: &'static str,
    values: Vec<Value>,
) -> Result<usize, JournalError> {
    let operation = "record what happened in a run";
    sql.execute(operation, statement, values).await
}

async fn story<S: Sql>(sql: &mut S, id: &RunId) -> Result<Story, JournalError> {
    let story = history::load(sql, id).await?;
    story.ok_or_else(|| JournalError::NotFound(id.clone()))
}
