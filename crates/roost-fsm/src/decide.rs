//! What a run does next: a pure function of its outline and its story.
//!
//! Forward, the first step in the outline that is not done is the next one. Back, it is the last
//! step in the outline that was begun and is not undone. A step counts as begun with its first
//! attempt, whether that succeeded, failed or was dropped half-way: all of these may have
//! left something behind.

use crate::outline::Outline;
use crate::record::{Direction, Status, Story, Turn};
use crate::retry::{OnCutOffs, Standing, standing};
use roost_model::time::Timestamp;

/// What a run does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// An attempt of a step.
    Attempt(Attempt),
    /// It undoes from now on.
    TurnBack {
        /// Why.
        turn: Turn,
        /// In words.
        reason: String,
    },
    /// Its children must end first.
    AwaitChildren,
    /// It ends.
    End {
        /// As what.
        status: Status,
        /// Why, if it has not succeeded.
        reason: Option<String>,
    },
    /// It has ended.
    Nothing,
}

/// An attempt of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The step's place in the outline.
    pub step_idx: usize,
    /// Done or undone.
    pub direction: Direction,
    /// Which attempt in this direction, from 1.
    pub number: u32,
    /// Not before this.
    pub not_before: Option<Timestamp>,
    /// Whether the run passes its point of no return with it.
    pub passes_point: bool,
}

/// What follows from what happened so far.
pub fn next(outline: &Outline, story: &Story) -> Move {
    match story.run.status {
        Status::Queued | Status::Running => match &story.run.cancel {
            Some(cancel) if !story.run.is_past_point => Move::TurnBack {
                turn: cancel.turn,
                reason: cancel.reason.clone(),
            },
            Some(_) | None => forward(outline, story),
        },
        Status::Undoing => back(outline, story),
        Status::Succeeded
        | Status::Failed
        | Status::Cancelled
        | Status::Superseded
        | Status::Stuck => Move::Nothing,
    }
}

fn forward(outline: &Outline, story: &Story) -> Move {
    for step_idx in 0..outline.steps.len() {
        let is_past_point = outline.is_past_point(step_idx);
        let (number, not_before) = match where_is(outline, story, step_idx, Direction::Do) {
            Standing::Done => continue,
            Standing::Untouched => (1, None),
            Standing::Due {
                attempt,
                not_before,
            } => (attempt, not_before),
            Standing::GaveUp { reason } if is_past_point => {
                return end_when_alone(story, Status::Stuck, Some(reason));
            }
            Standing::GaveUp { reason } => {
                return Move::TurnBack {
                    turn: Turn::Failed,
                    reason,
                };
            }
        };
        return Move::Attempt(Attempt {
            step_idx,
            direction: Direction::Do,
            number,
            not_before,
            passes_point: is_past_point && !story.run.is_past_point,
        });
    }
    end_when_alone(story, Status::Succeeded, None)
}

fn back(outline: &Outline, story: &Story) -> Move {
    // What a child does while its parent undoes would not be undone.
    if story.n_children_unfinished > 0 {
        return Move::AwaitChildren;
    }
    for step_idx in (0..outline.steps.len()).rev() {
        if !outline.steps[step_idx].has_undo {
            continue;
        }
        if where_is(outline, story, step_idx, Direction::Do) == Standing::Untouched {
            continue;
        }
        let (number, not_before) = match where_is(outline, story, step_idx, Direction::Undo) {
            Standing::Done => continue,
            Standing::Untouched => (1, None),
            Standing::Due {
                attempt,
                not_before,
            } => (attempt, not_before),
            Standing::GaveUp { reason } => {
                let name = outline.steps[step_idx].name;
                let why = story.run.reason.as_deref().unwrap_or("it turned back");
                return Move::End {
                    status: Status::Stuck,
                    reason: Some(format!(
                        "{name} could not be undone: {reason}; after: {why}"
                    )),
                };
            }
        };
        return Move::Attempt(Attempt {
            step_idx,
            direction: Direction::Undo,
            number,
            not_before,
            passes_point: false,
        });
    }
    Move::End {
        status: story.run.turn.unwrap_or(Turn::Failed).ends_as(),
        reason: story.run.reason.clone(),
    }
}

fn end_when_alone(story: &Story, status: Status, reason: Option<String>) -> Move {
    if story.n_children_unfinished > 0 {
        Move::AwaitChildren
    } else {
        Move::End { status, reason }
    }
}

fn where_is(outline: &Outline, story: &Story, step_idx: usize, direction: Direction) -> Standing {
    let on_cut_offs = match direction {
        Direction::Do if !outline.is_past_point(step_idx) => OnCutOffs::GiveUp,
        Direction::Do | Direction::Undo => OnCutOffs::Pause,
    };
    let attempts = story.attempts(outline.steps[step_idx].name, direction);
    standing(&attempts, on_cut_offs)
}

#[cfg(test)]
mod tests;
