//! Whether a run may be recorded, and its first row.

use super::history::count_children;
use super::rows::{run, runs, select_runs};
use super::write::{end_unbegun, set_cancel};
use super::{Sql, next_revision, values};
use crate::journal::{JournalError, NewRun, Opened};
use crate::limits;
use crate::record::{Cancel, Run, Status, Turn, cut};
use crate::workflow::OnBusy;
use roost_model::id::RunId;

/// Records a run as queued, unless something speaks against it.
pub async fn open<S: Sql>(sql: &mut S, new: &NewRun) -> Result<Opened, JournalError> {
    let earlier = match &new.key {
        Some(key) => with_key(sql, key).await?,
        None => None,
    };
    if let Some(earlier) = earlier {
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
        && let Some(refusal) = refused_as_child(sql, new, parent).await?
    {
        return Ok(refusal);
    }
    let others = runs(
        sql,
        select_runs!("WHERE subject = ?1 AND ended_ms IS NULL ORDER BY ordinal"),
        values![new.subject.as_str()],
    )
    .await?;
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
        (OnBusy::Supersede, Some(_)) => superseded = supersede(sql, new, &others).await?,
    }
    insert(sql, new).await?;
    match run(sql, &new.id).await? {
        Some(run) => Ok(Opened::New { run, superseded }),
        None => Err(JournalError::NotFound(new.id.clone())),
    }
}

/// The run with this key.
pub async fn with_key<S: Sql>(sql: &mut S, key: &str) -> Result<Option<Run>, JournalError> {
    let found = runs(sql, select_runs!("WHERE key = ?1"), values![key]);
    Ok(found.await?.pop())
}

async fn refused_as_child<S: Sql>(
    sql: &mut S,
    new: &NewRun,
    parent: &RunId,
) -> Result<Option<Opened>, JournalError> {
    if count_children(sql, parent).await? >= limits::CHILDREN_MAX {
        return Ok(Some(Opened::TooManyRelatives(parent.clone())));
    }
    let mut above = Some(parent.clone());
    let mut n_above = 0;
    while let Some(id) = above {
        let ancestor = run(sql, &id).await?;
        let ancestor = ancestor.ok_or_else(|| JournalError::NotFound(id.clone()))?;
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
async fn supersede<S: Sql>(
    sql: &mut S,
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
            end_unbegun(sql, &other.id, &cancel).await?;
        } else if other.status == Status::Running && !other.is_past_point && other.cancel.is_none()
        {
            set_cancel(sql, &other.id, &cancel).await?;
            asked.push(other.id.clone());
        }
    }
    Ok(asked)
}

async fn insert<S: Sql>(sql: &mut S, new: &NewRun) -> Result<(), JournalError> {
    let revision = next_revision(sql).await?;
    sql.execute(
        "record a run",
        "INSERT INTO runs (id, workflow, version, subject, key, parent, cause, params,
                           status, created_ms, revision)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        values![
            new.id.as_str(),
            new.kind.name.as_str(),
            new.kind.version,
            new.subject.as_str(),
            new.key.as_deref(),
            new.parent.as_ref().map(RunId::as_str),
            cut(new.cause.clone()),
            new.params.as_str(),
            Status::Queued.as_str(),
            new.created_at,
            revision,
        ],
    )
    .await?;
    Ok(())
}
