//! What a workflow's declaration says about its steps, without the code in them. Checked once,
//! when the workflow is registered; [`crate::decide`] reads nothing else of it.

use crate::limits;
use crate::record::Direction;
use crate::retry::{OnFail, RetryPolicy, Trying};
use std::collections::BTreeSet;
use std::time::Duration;

/// One step of an outline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOutline {
    /// Its name, which the journal keeps.
    pub name: &'static str,
    /// Time that each attempt has, done or undone.
    pub timeout: Duration,
    /// How often it is tried; by default what fits its place.
    pub retry: Option<RetryPolicy>,
    /// Whether there is something to undo.
    pub has_undo: bool,
    /// Whether it comes to an end by itself when the run is asked to turn back.
    pub winds_down: bool,
}

/// The steps of a workflow in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// The steps.
    pub steps: Vec<StepOutline>,
    /// The index of the first step past the point of no return.
    pub point_of_no_return: Option<usize>,
}

/// A workflow's declaration contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutlineError {
    /// Nothing to do.
    #[error("it has no steps")]
    Empty,
    /// More steps than anybody can follow.
    #[error("it has {0} steps; {max} are the most", max = limits::STEPS_MAX)]
    TooLong(usize),
    /// A name that the journal cannot tell apart from another one, or that is empty.
    #[error("step name `{0}` is empty or used twice")]
    Name(&'static str),
    /// An undo that nothing calls.
    #[error("step `{0}` is past the point of no return and has an undo")]
    UndoPastPoint(&'static str),
    /// Options or an undo before the first step, or two points of no return.
    #[error("{0}")]
    Order(&'static str),
}

impl Outline {
    /// Says what is wrong with the outline, if something is.
    pub fn check(&self) -> Result<(), OutlineError> {
        if self.steps.is_empty() {
            return Err(OutlineError::Empty);
        }
        if self.steps.len() > limits::STEPS_MAX {
            return Err(OutlineError::TooLong(self.steps.len()));
        }
        let mut names = BTreeSet::new();
        for (idx, step) in self.steps.iter().enumerate() {
            if step.name.is_empty() || !names.insert(step.name) {
                return Err(OutlineError::Name(step.name));
            }
            if self.is_past_point(idx) && step.has_undo {
                return Err(OutlineError::UndoPastPoint(step.name));
            }
        }
        Ok(())
    }

    /// Whether a step is past the point of no return.
    pub fn is_past_point(&self, idx: usize) -> bool {
        self.point_of_no_return.is_some_and(|point| idx >= point)
    }

    /// How often and how long a step is tried.
    pub fn trying(&self, idx: usize, direction: Direction) -> Trying {
        let step = &self.steps[idx];
        let (policy, on_fail) = match direction {
            Direction::Do if self.is_past_point(idx) => {
                let policy = step.retry.unwrap_or(RetryPolicy::NO_WAY_BACK);
                (policy, OnFail::TryAgain)
            }
            Direction::Do => (step.retry.unwrap_or(RetryPolicy::STEP), OnFail::GiveUp),
            Direction::Undo => (RetryPolicy::NO_WAY_BACK, OnFail::GiveUp),
        };
        Trying {
            policy,
            timeout: step.timeout,
            on_fail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Outline, OutlineError, StepOutline};
    use crate::limits;
    use crate::record::Direction;
    use crate::retry::{OnFail, RetryPolicy};

    fn step(name: &'static str) -> StepOutline {
        StepOutline {
            name,
            timeout: limits::STEP_TIMEOUT,
            retry: None,
            has_undo: false,
            winds_down: false,
        }
    }

    fn outline(steps: Vec<StepOutline>, point_of_no_return: Option<usize>) -> Outline {
        Outline {
            steps,
            point_of_no_return,
        }
    }

    #[test]
    fn an_outline_that_contradicts_itself_is_refused() {
        let undone = StepOutline {
            has_undo: true,
            ..step("b")
        };
        for (outline, error) in [
            (outline(vec![], None), OutlineError::Empty),
            (outline(vec![step("")], None), OutlineError::Name("")),
            (
                outline(vec![step("a"), step("b"), step("a")], None),
                OutlineError::Name("a"),
            ),
            (
                outline(vec![step("a"), undone], Some(1)),
                OutlineError::UndoPastPoint("b"),
            ),
            (
                outline(vec![step("a"); limits::STEPS_MAX + 1], None),
                OutlineError::TooLong(limits::STEPS_MAX + 1),
            ),
        ] {
            assert_eq!(outline.check(), Err(error));
        }
    }

    #[test]
    fn a_step_is_tried_as_long_as_its_place_asks_for() {
        let never = StepOutline {
            retry: Some(RetryPolicy::NEVER),
            ..step("b")
        };
        let outline = outline(vec![step("a"), never, step("c")], Some(2));
        let policy = |idx, direction| outline.trying(idx, direction).policy;
        assert_eq!(policy(0, Direction::Do), RetryPolicy::STEP);
        assert_eq!(policy(1, Direction::Do), RetryPolicy::NEVER);
        assert_eq!(policy(1, Direction::Undo), RetryPolicy::NO_WAY_BACK);
        assert_eq!(policy(2, Direction::Do), RetryPolicy::NO_WAY_BACK);
        let on_fail = |idx| outline.trying(idx, Direction::Do).on_fail;
        assert_eq!((on_fail(0), on_fail(2)), (OnFail::GiveUp, OnFail::TryAgain));
    }
}
