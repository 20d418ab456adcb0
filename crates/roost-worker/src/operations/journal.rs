//! How operations are written: on transactions of the worker's database.

use super::{End, Note};
use crate::store::StoreError;
use roost_fsm::journal::{Entry, Filter, JournalError, NewRun, Opened};
use roost_fsm::record::{Direction, Kind, Outcome, Run, Status, Story, Subject, Turn};
use roost_fsm::sqlite;
use roost_fsm::workflow::OnBusy;
use roost_model::id::{MachineId, RunId};
use roost_model::time::Timestamp;
use rusqlite::{Connection, Transaction};

/// Who writes operations: the owner of the machine, in whichever process it is.
const HOLDER: &str = "worker";
/// The version of what operations' steps are called.
const VERSION: u32 = 1;

/// Opens an operation of a machine; one that is under way ends here.
pub(crate) fn begin(
    transaction: &Transaction<'_>,
    machine: &MachineId,
    kind: &str,
    cause: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let id = RunId::from_ulid(ulid::Ulid::generate());
    let subject = subject(machine)?;
    if let Some(earlier) = active(transaction, &subject)? {
        let entries = superseded(transaction, &earlier, &id, kind)?;
        sqlite::record(transaction, &earlier.fence(), &entries, now)?;
    }
    let new = NewRun {
        id: id.clone(),
        kind: Kind {
            name: kind.to_owned(),
            version: VERSION,
        },
        subject,
        on_busy: OnBusy::Refuse,
        key: None,
        parent: None,
        cause: cause.to_owned(),
        params: "null".to_owned(),
        created_at: now,
    };
    match sqlite::open(transaction, &new)? {
        Opened::New { .. } => {}
        // The one that was under way has ended in this transaction.
        other => {
            return Err(StoreError::Damaged {
                machine: machine.to_string(),
                problem: format!("its operations: {other:?}"),
            });
        }
    }
    sqlite::take(transaction, &id, HOLDER, now, now)?;
    Ok(())
}

fn superseded(
    transaction: &Transaction<'_>,
    earlier: &Run,
    by: &RunId,
    kind: &str,
) -> Result<Vec<Entry>, StoreError> {
    let reason = format!("gave way to {kind} ({by})");
    let mut entries = vec![];
    if open_step(transaction, &earlier.id)?.is_some() {
        entries.push(step_ended(Outcome::Dropped, Some(reason.clone())));
    }
    if earlier.status == Status::Running && !earlier.is_past_point {
        entries.push(Entry::TurnedBack {
            turn: Turn::Superseded,
            reason: reason.clone(),
        });
    }
    entries.push(Entry::Ended {
        status: Status::Superseded,
        reason: Some(reason),
    });
    Ok(entries)
}

/// Writes what the owner noted of the operation under way; without one, nothing.
pub(crate) fn note(
    transaction: &Transaction<'_>,
    machine: &MachineId,
    notes: &[Note],
    now: Timestamp,
) -> Result<(), StoreError> {
    // Most records of a machine bring none.
    if notes.is_empty() {
        return Ok(());
    }
    let Some(run) = active(transaction, &subject(machine)?)? else {
        return Ok(());
    };
    let Some(mut story) = sqlite::load(transaction, &run.id)? else {
        return Ok(());
    };
    let fence = run.fence();
    for note in notes {
        let entries = entries_of(&story, note);
        if !entries.is_empty() {
            sqlite::record(transaction, &fence, &entries, now)?;
            match sqlite::load(transaction, &run.id)? {
                Some(after) if !after.run.status.is_ended() => story = after,
                Some(_) | None => return Ok(()),
            }
        }
    }
    Ok(())
}

/// What a note adds to the story so far. A note that was written before, or
/// that belongs to an operation that ended, adds nothing.
fn entries_of(story: &Story, note: &Note) -> Vec<Entry> {
    let open = story.open_attempt();
    match note {
        Note::StepEnded { outcome, reason } => open
            .map(|_| step_ended(*outcome, reason.clone()))
            .into_iter()
            .collect(),
        Note::StepStarted(step) => {
            let earlier = open.map(|_| step_ended(Outcome::CutOff, None));
            let n_before = story.attempts(step, Direction::Do).len();
            let started = Entry::StepStarted {
                step: (*step).to_owned(),
                direction: Direction::Do,
                attempt: u32::try_from(n_before + 1).unwrap_or(u32::MAX),
            };
            earlier.into_iter().chain([started]).collect()
        }
        Note::Ended(end) => {
            let step = open.map(|_| step_ended(Outcome::Done, None));
            step.into_iter().chain(ended(end)).collect()
        }
    }
}

fn ended(end: &End) -> Vec<Entry> {
    match end {
        End::Succeeded => vec![Entry::Ended {
            status: Status::Succeeded,
            reason: None,
        }],
        End::Failed(reason) => vec![
            Entry::TurnedBack {
                turn: Turn::Failed,
                reason: reason.clone(),
            },
            Entry::Ended {
                status: Status::Failed,
                reason: Some(reason.clone()),
            },
        ],
    }
}

fn step_ended(outcome: Outcome, reason: Option<String>) -> Entry {
    Entry::StepEnded {
        outcome,
        reason,
        output: None,
        retry_at: None,
    }
}

/// The operations of a machine, or of all, newest first, without their steps.
pub(crate) fn list(
    connection: &Connection,
    machine: Option<&MachineId>,
    only_unfinished: bool,
    limit: u32,
) -> Result<Vec<Run>, StoreError> {
    let filter = Filter {
        subject: machine.map(subject).transpose()?,
        only_unfinished,
        limit: Some(limit),
        ..Filter::default()
    };
    Ok(sqlite::list(connection, &filter)?)
}

/// The operation under way.
fn active(transaction: &Transaction<'_>, subject: &Subject) -> Result<Option<Run>, StoreError> {
    let filter = Filter {
        subject: Some(subject.clone()),
        only_unfinished: true,
        limit: Some(1),
        ..Filter::default()
    };
    Ok(sqlite::list(transaction, &filter)?.pop())
}

fn open_step(transaction: &Transaction<'_>, id: &RunId) -> Result<Option<String>, StoreError> {
    let story = sqlite::load(transaction, id)?;
    Ok(story.and_then(|story| story.open_attempt().map(|record| record.step.clone())))
}

fn subject(machine: &MachineId) -> Result<Subject, StoreError> {
    Subject::new(format!("machine/{machine}")).map_err(|error| StoreError::Damaged {
        machine: machine.to_string(),
        problem: error.to_string(),
    })
}

impl From<JournalError> for StoreError {
    fn from(source: JournalError) -> Self {
        Self::Journal(source)
    }
}
