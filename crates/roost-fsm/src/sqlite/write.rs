//! What happens in a run.

use super::rows::{ms, run, run_id};
use super::{JournalContext as _, history, next_revision};
use crate::journal::{CancelAnswer, Entry, Fence, JournalError, Recorded};
use crate::record::{Cancel, Direction, Run, Status, Turn, cut};
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use rusqlite::{Params, Transaction, params};

/// Writes what happened in a run, if the fence is that of the newest lease.
pub fn record(
    transaction: &Transaction<'_>,
    fence: &Fence,
    entries: &[Entry],
    now: Timestamp,
) -> Result<Recorded, JournalError> {
    let id = &fence.run;
    let mut present = run(transaction, id)?.ok_or_else(|| JournalError::NotFound(id.clone()))?;
    if present.epoch != fence.epoch || present.status.is_ended() {
        return Err(JournalError::Fenced(id.clone()));
    }
    // Decided before anything is written: the caller's transaction may go on.
    if entries.contains(&Entry::PointPassed) && present.cancel.is_some() {
        return Ok(Recorded::AskedToTurnBack(story(transaction, id)?));
    }
    for entry in entries {
        append(transaction, &mut present, entry, now)?;
    }
    let revision = next_revision(transaction)?;
    execute(
        transaction,
        "UPDATE runs SET revision = ?2 WHERE id = ?1",
        params![id.as_str(), revision],
    )?;
    Ok(Recorded::Written(story(transaction, id)?))
}

fn append(
    transaction: &Transaction<'_>,
    run: &mut Run,
    entry: &Entry,
    now: Timestamp,
) -> Result<(), JournalError> {
    let n_written = match entry {
        Entry::StepStarted {
            step,
            direction,
            attempt,
        } => start_step(transaction, run, step, *direction, *attempt, now)?,
        Entry::StepEnded {
            outcome,
            reason,
            output,
            retry_at,
        } => execute(
            transaction,
            "UPDATE run_steps
             SET ended_ms = ?2, outcome = ?3, reason = ?4, output = ?5, retry_at_ms = ?6
             WHERE run_id = ?1 AND outcome IS NULL",
            params![
                run.id.as_str(),
                ms(now),
                outcome.as_str(),
                reason.clone().map(cut),
                output,
                retry_at.map(ms)
            ],
        )?,
        Entry::PointPassed => execute(
            transaction,
            "UPDATE runs SET is_past_point = 1 WHERE id = ?1 AND status = 'running'",
            [run.id.as_str()],
        )?,
        Entry::TurnedBack { turn, reason } => turn_back(transaction, run, *turn, reason, now)?,
        Entry::Ended { status, reason } => end(transaction, run, *status, reason.clone(), now)?,
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

fn start_step(
    transaction: &Transaction<'_>,
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
        transaction,
        "INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms)
         SELECT ?1, (SELECT COALESCE(MAX(seq), 0) + 1 FROM run_steps WHERE run_id = ?1),
                ?2, ?3, ?4, ?5
         WHERE NOT EXISTS (SELECT 1 FROM run_steps WHERE run_id = ?1 AND outcome IS NULL)",
        params![run.id.as_str(), step, direction.as_str(), attempt, ms(now)],
    )
}

fn turn_back(
    transaction: &Transaction<'_>,
    run: &mut Run,
    turn: Turn,
    reason: &str,
    now: Timestamp,
) -> Result<usize, JournalError> {
    let n_written = execute(
        transaction,
        "UPDATE runs SET status = 'undoing', turn = ?2, reason = ?3
         WHERE id = ?1 AND status = 'running' AND NOT is_past_point",
        params![run.id.as_str(), turn.as_str(), cut(reason.to_owned())],
    )?;
    run.status = Status::Undoing;
    let children: Vec<String> = transaction
        .prepare_cached("SELECT id FROM runs WHERE parent = ?1 AND ended_ms IS NULL")
        .and_then(|mut statement| {
            statement
                .query_map([run.id.as_str()], |row| row.get(0))?
                .collect()
        })
        .during("read the children of a run")?;
    let cancel = Cancel {
        at: now,
        turn: Turn::Cancelled,
        reason: format!("its parent {} turned back", run.id),
    };
    for child in children {
        ask_cancel(transaction, &run_id(&child)?, &cancel)?;
    }
    Ok(n_written)
}

fn end(
    transaction: &Transaction<'_>,
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
        transaction,
        "UPDATE runs SET status = ?2, reason = ?3, ended_ms = ?4,
             holder = NULL, lease_until_ms = NULL
         WHERE id = ?1 AND ended_ms IS NULL
           AND NOT EXISTS (SELECT 1 FROM run_steps WHERE run_id = ?1 AND outcome IS NULL)",
        params![run.id.as_str(), status.as_str(), reason.map(cut), ms(now)],
    )
}

/// Asks a run to turn back. One that has not begun ends at once.
pub fn ask_cancel(
    transaction: &Transaction<'_>,
    id: &RunId,
    cancel: &Cancel,
) -> Result<CancelAnswer, JournalError> {
    let present = run(transaction, id)?.ok_or_else(|| JournalError::NotFound(id.clone()))?;
    match present.status {
        Status::Queued => {
            end_unbegun(transaction, id, cancel)?;
            Ok(CancelAnswer::Ended)
        }
        Status::Running if present.is_past_point => Ok(CancelAnswer::PastPoint),
        Status::Running if present.cancel.is_some() => Ok(CancelAnswer::Asked),
        Status::Running => {
            set_cancel(transaction, id, cancel)?;
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
pub(super) fn end_unbegun(
    transaction: &Transaction<'_>,
    id: &RunId,
    cancel: &Cancel,
) -> Result<(), JournalError> {
    set_cancel(transaction, id, cancel)?;
    execute(
        transaction,
        "UPDATE runs SET status = ?2, turn = ?3, reason = ?4, ended_ms = ?5
         WHERE id = ?1 AND status = 'queued'",
        params![
            id.as_str(),
            cancel.turn.ends_as().as_str(),
            cancel.turn.as_str(),
            cut(cancel.reason.clone()),
            ms(cancel.at)
        ],
    )?;
    Ok(())
}

/// Records a request to turn back.
pub(super) fn set_cancel(
    transaction: &Transaction<'_>,
    id: &RunId,
    cancel: &Cancel,
) -> Result<(), JournalError> {
    let revision = next_revision(transaction)?;
    execute(
        transaction,
        "UPDATE runs SET cancel_at_ms = ?2, cancel_turn = ?3, cancel_reason = ?4, revision = ?5
         WHERE id = ?1",
        params![
            id.as_str(),
            ms(cancel.at),
            cancel.turn.as_str(),
            cut(cancel.reason.clone()),
            revision
        ],
    )?;
    Ok(())
}

fn execute(
    transaction: &Transaction<'_>,
    statement: &str,
    params: impl Params,
) -> Result<usize, JournalError> {
    transaction
        .prepare_cached(statement)
        .and_then(|mut statement| statement.execute(params))
        .during("record what happened in a run")
}

fn story(transaction: &Transaction<'_>, id: &RunId) -> Result<crate::record::Story, JournalError> {
    history::load(transaction, id)?.ok_or_else(|| JournalError::NotFound(id.clone()))
}
