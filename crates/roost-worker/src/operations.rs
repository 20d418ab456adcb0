//! Operations: what is done to a machine, on whose behalf, step by step.
//!
//! Every request that changes what is wanted of a machine, and every restart by
//! policy, opens an operation in the transaction that records it. The machine's
//! owner alone acts, as its lifecycle says; each phase that it enters is a step
//! of the operation, and the operation ends when what is wanted is so. A newer
//! request takes the place of the one under way.
//!
//! They are kept in the journal's tables (`roost_fsm`), as runs that no engine
//! executes: their fence is the one owner, and what a kill cuts off is taken up
//! from the machine's row. What is decided here is pure.

use crate::lifecycle::{Event, Phase, Rest, Wish};
use crate::store::row::{NewEvent, WORKER};
use roost_fsm::record::Outcome;

mod journal;
mod store;

pub(crate) use journal::{begin, list, note};
pub(crate) use roost_fsm::view::{operation, operation_with_steps};

/// What a machine's owner notes of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// The step under way ended.
    StepEnded {
        /// How.
        outcome: Outcome,
        /// Why, unless it was done.
        reason: Option<String>,
    },
    /// The machine entered a phase that takes time.
    StepStarted(&'static str),
    /// What was wanted is so, or never will be.
    Ended(End),
}

/// How an operation ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// What was wanted is so.
    Succeeded,
    /// It never will be.
    Failed(String),
}

/// The kind of operation that an event opens.
pub(crate) fn opened_by(event: &NewEvent) -> Option<&'static str> {
    match event.kind {
        "create" | "start" | "stop" | "suspend" | "restart" | "update" | "destroy"
            if event.source != WORKER =>
        {
            Some(event.kind)
        }
        "exit" if event.detail["exit_event"]["restarting"] == true => Some("restart"),
        _ => None,
    }
}

/// What the step is called that a phase is; none for phases that are an end.
pub(crate) fn step_of(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Adopting => Some("adopt"),
        Phase::Resolving => Some("resolve_image"),
        Phase::Launching => Some("launch"),
        Phase::Draining | Phase::Quieting => Some("drain"),
        Phase::Suspending => Some("write_snapshot"),
        Phase::Terminating => Some("signal"),
        Phase::Killing => Some("kill"),
        Phase::BackingOff(_) => Some("back_off"),
        Phase::Removing => Some("remove"),
        Phase::Running | Phase::Resting(_) | Phase::Gone => None,
    }
}

/// What a move from one phase to the next says of the step that the first was.
/// `reason` is why it failed, where it did.
pub(crate) fn notes_of(from: Phase, to: Phase, event: Event, reason: Option<&str>) -> Vec<Note> {
    let mut notes = vec![];
    if step_of(from).is_some() {
        notes.push(Note::StepEnded {
            outcome: outcome_of(from, to, event),
            reason: reason.map(str::to_owned),
        });
    }
    notes.extend(step_of(to).map(Note::StepStarted));
    notes
}

fn outcome_of(from: Phase, to: Phase, event: Event) -> Outcome {
    match (event, from, to) {
        (Event::StartFailed(_), _, Phase::BackingOff(_)) => Outcome::Retry,
        (Event::StartFailed(_) | Event::SuspendFailed, ..) => Outcome::Failed,
        // Ended before the drain, the snapshot or the start was through.
        (Event::Exited(_), Phase::Draining | Phase::Quieting | Phase::Suspending, _) => {
            Outcome::CutOff
        }
        // Something else was wanted before it was through.
        (Event::Kick(_), ..) => Outcome::Dropped,
        (
            Event::Exited(_)
            | Event::AdoptedRunning
            | Event::AdoptedSuspended
            | Event::AdoptedGone
            | Event::Resolved
            | Event::Launched
            | Event::Drained
            | Event::Suspended
            | Event::SignalTimedOut
            | Event::BackoffElapsed
            | Event::Unhealthy
            | Event::Removed,
            ..,
        ) => Outcome::Done,
    }
}

/// Whether an operation of this kind is at its end in a phase where nothing
/// more is done for what is wanted. `reason` is why the machine rests, for people.
pub(crate) fn end_of(kind: &str, phase: Phase, wish: Wish, reason: Option<&str>) -> Option<End> {
    let failed = |otherwise: &str| {
        let reason = reason.filter(|text| !text.is_empty());
        Some(End::Failed(reason.unwrap_or(otherwise).to_owned()))
    };
    match (phase, wish) {
        // It could not be suspended, and is wanted to run on.
        (Phase::Running, Wish::Run) if kind == "suspend" => failed("it was not suspended"),
        (Phase::Resting(Rest::Failed), Wish::Rest) if starts(kind) => failed("it did not start"),
        (Phase::Running, Wish::Run)
        | (Phase::Resting(_), Wish::Rest | Wish::Suspend)
        | (Phase::Gone, _) => Some(End::Succeeded),
        (
            Phase::Adopting
            | Phase::Resting(_)
            | Phase::Resolving
            | Phase::Launching
            | Phase::Running
            | Phase::Draining
            | Phase::Quieting
            | Phase::Suspending
            | Phase::Terminating
            | Phase::Killing
            | Phase::BackingOff(_)
            | Phase::Removing,
            _,
        ) => None,
    }
}

fn starts(kind: &str) -> bool {
    matches!(kind, "create" | "start" | "restart" | "update")
}

#[cfg(test)]
mod tests;
