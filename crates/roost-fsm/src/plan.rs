//! What a workflow's declaration says about its steps, without the code in them. Checked once,
//! when the workflow is registered; [`crate::decide`] reads nothing else of it.

use crate::limits;
use crate::record::Direction;
use crate::retry::{OnFail, RetryPolicy, Trying};
use std::collections::BTreeSet;
use std::time::Duration;

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPlan {
    /// Its name, which the journal keeps.
    pub name: &'static str,
    /// Time that each attempt has, done or undone.
    pub timeout: Duration,
    /// How often it is tried; by default what fits its place.
    pub retry: Option<RetryPolicy>,
    /// Whether there is something to undo.
    pub has_undo: bool,
}

/// The steps of a workflow in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<StepPlan>,
    /// The index of the first step past the point of no return.
    pub point_of_no_return: Option<usize>,
}

/// A workflow's declaration contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
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

impl Plan {
    /// Says what is wrong with the plan, if something is.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.steps.is_empty() {
            return Err(PlanError::Empty);
        }
        if self.steps.len() > limits::STEPS_MAX {
            return Err(PlanError::TooLong(self.steps.len()));
        }
        let mut names = BTreeSet::new();
        for (idx, step) in self.steps.iter().enumerate() {
            if step.name.is_empty() || !names.insert(step.name) {
                return Err(PlanError::Name(step.name));
            }
            if self.is_past_point(idx) && step.has_undo {
                return Err(PlanError::UndoPastPoint(step.name));
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
