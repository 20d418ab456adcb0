//! Whether a run may be recorded, and its first row.

use super::rows::{ms, run, runs};
use super::write::{end_unbegun, set_cancel};
use super::{JournalContext as _, next_revision};
use crate::journal::{JournalError, NewRun, Opened};
use crate::limits;
use crate::record::{Cancel, Run, Status, Turn, cut};
use crate::workflow::OnBusy;
use roost_model::id::RunId;
use rusqlite::{Transaction, params};

/// Records a run as queued, unless something speaks against it.
pub fn open(transaction: &Transaction<'_>, new: &NewRun) -> Result<Opened, JournalError> {
    if let Some(earlier) = with_key(transaction, new)? {
        let is_same = earlier.kind.name == new.kind.name
            && earlier.subject == new.subject
            && earlier.params == new.params;
        return Ok(if is_same {
            Opened::Repeated(earlier)
        } else {
            Opened::KeyTaken(earlier.id)
        });
    }
    if let Some(parent) = &new.parent
        && let Some(refusal) = refused_as_child(transaction, new, parent)?
    {
        return Ok(refusal);
    }
    let others = runs(
        transaction,
        "WHERE subject = ?1 AND ended_ms IS NULL ORDER BY ordinal",
        [new.subject.as_str()],
    )?;
    let mut superseded = vec![];
    match (new.on_busy, others.first()) {
        (_, None) => {}
        (OnBusy::Refuse, Some(first)) => return Ok(Opened::Busy(first.id.clone())),
        (OnBusy::Queue, Some(_)) => {
            let n_waiting = others.iter().filter(|run| run.status == Status::Queued);
            if n_waiting.count() >= usize::try_from(limits::QUEUE_MAX).unwrap_or(usize::MAX) {
                return Ok(Opened::QueueFull);
            }
        }
        (OnBusy::Supersede, Some(_)) => superseded = supersede(transaction, new, &others)?,
    }
    insert(transaction, new)?;
    match run(transaction, &new.id)? {
        Some(run) => Ok(Opened::New { run, superseded }),
        None => Err(JournalError::NotFound(new.id.clone())),
    }
}

fn with_key(transaction: &Transaction<'_>, new: &NewRun) -> Result<Option<Run>, JournalError> {
    match &new.key {
        Some(key) => Ok(runs(transaction, "WHERE key = ?1", [key])?.pop()),
        None => Ok(None),
    }
}

fn refused_as_child(
    transaction: &Transaction<'_>,
    new: &NewRun,
    parent: &RunId,
) -> Result<Option<Opened>, JournalError> {
    let n_siblings: u32 = transaction
        .prepare_cached("SELECT COUNT(*) FROM runs WHERE parent = ?1 AND ended_ms IS NULL")
        .and_then(|mut statement| statement.query_row([parent.as_str()], |row| row.get(0)))
        .during("count the children of a run")?;
    if n_siblings >= limits::CHILDREN_MAX {
        return Ok(Some(Opened::TooManyRelatives(parent.clone())));
    }
    let mut above = Some(parent.clone());
    let mut n_above = 0;
    while let Some(id) = above {
        let ancestor = run(transaction, &id)?.ok_or_else(|| JournalError::NotFound(id.clone()))?;
        if n_above == 0 && ancestor.status != Status::Running {
            return Ok(Some(Opened::ParentTurnsBack(ancestor.id)));
        }
        if ancestor.subject == new.subject {
            return Ok(Some(Opened::WaitsForItself(ancestor.id)));
        }
        n_above += 1;
        if n_above >= limits::DEPTH_MAX {
            return Ok(Some(Opened::TooManyRelatives(parent.clone())));
        }
        above = ancestor.parent;
    }
    Ok(None)
}

/// Asks the other runs of the subject to give way. Those that wait end at once.
fn supersede(
    transaction: &Transaction<'_>,
    new: &NewRun,
    others: &[Run],
) -> Result<Vec<RunId>, JournalError> {
    let cancel = Cancel {
        at: new.created_at,
        turn: Turn::Superseded,
        reason: format!("run {} took its place", new.id),
    };
    let mut asked = vec![];
    for other in others {
        if other.status == Status::Queued {
            end_unbegun(transaction, &other.id, &cancel)?;
        } else if other.status == Status::Running && !other.is_past_point && other.cancel.is_none()
        {
            set_cancel(transaction, &other.id, &cancel)?;
            asked.push(other.id.clone());
        }
    }
    Ok(asked)
}

fn insert(transaction: &Transaction<'_>, new: &NewRun) -> Result<(), JournalError> {
    let revision = next_revision(transaction)?;
    transaction
        .prepare_cached(
            "INSERT INTO runs (id, workflow, version, subject, key, parent, cause, params,
                               status, created_ms, revision)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                new.id.as_str(),
                new.kind.name,
                new.kind.version,
                new.subject.as_str(),
                new.key,
                new.parent.as_ref().map(RunId::as_str),
                cut(new.cause.clone()),
                new.params,
                Status::Queued.as_str(),
                ms(new.created_at),
                revision,
            ])
        })
        .during("record a run")?;
    Ok(())
}
