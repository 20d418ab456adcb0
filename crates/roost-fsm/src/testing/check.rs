//! The checker of workflows.
//!
//! A test of a workflow writes a [`Scenario`] and calls [`check_all`], best on paused time
//! (`#[tokio::test(start_paused = true)]`): pauses between attempts then cost nothing.

mod play;

use super::meddle::{Meddling, Mischief};
use super::mortal::Side;
use crate::engine::{EngineBuilder, RegisterError, Timing};
use crate::outline::Outline;
use crate::record::{Direction, Status, Story, Subject};
use crate::workflow::{StepError, Workflow};
use async_trait::async_trait;
use play::Case;
use std::fmt;
use std::time::Duration;

/// Kills of one run; it would not end otherwise.
const KILLS_MAX: usize = 10_000;

/// A world in which a workflow runs, and what must hold in it afterwards.
#[async_trait]
pub trait Scenario: Send + Sync {
    /// The workflow that is checked.
    type Workflow: Workflow;

    /// The workflow as a process makes it when it starts: all that it remembers by itself is
    /// new, all outside things are those of this world.
    fn workflow(&self) -> Self::Workflow;

    /// What the run is told.
    fn params(&self) -> <Self::Workflow as Workflow>::Params;

    /// What the run acts on.
    fn subject(&self) -> Subject {
        Subject::new("test/1").expect("a short text")
    }

    /// How long the leases of this world's processes last. Where time cannot be paused, short
    /// ones keep the checks short.
    fn timing(&self) -> Timing {
        Timing {
            lease: Duration::from_secs(2),
            heartbeat_interval: Duration::from_millis(500),
            look_interval: Duration::from_millis(200),
        }
    }

    /// Adds the workflows that the steps run as children.
    fn register_children(&self, builder: EngineBuilder) -> Result<EngineBuilder, RegisterError> {
        Ok(builder)
    }

    /// Says what is wrong with the world after a run that ended so. Of a run that did not
    /// succeed nothing may be left; of one that did, everything, and once.
    async fn check(&self, end: Status) -> Result<(), String>;
}

/// How much was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Runs that were played.
    pub n_runs: usize,
}

/// A workflow is wrong.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub struct Flaw {
    /// What was done to it.
    pub case: String,
    /// What was wrong then.
    pub problem: String,
    /// What had happened.
    pub story: Option<Story>,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "when {}: {}", self.case, self.problem)?;
        let Some(story) = &self.story else {
            return Ok(());
        };
        let reason = story.run.reason.as_deref().unwrap_or("");
        write!(f, "\nthe run is {}: {reason}", story.run.status)?;
        for record in &story.steps {
            let outcome = record
                .outcome
                .map_or("under way", |outcome| outcome.as_str());
            let reason = record.reason.as_deref().unwrap_or("");
            write!(
                f,
                "\n  {} {} #{}: {outcome} {reason}",
                record.direction, record.step, record.attempt
            )?;
        }
        Ok(())
    }
}

/// The same text: it is what `unwrap` shows.
impl fmt::Debug for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// All of the checks.
pub async fn check_all<S: Scenario>(make: impl AsyncFn() -> S) -> Result<Checked, Flaw> {
    let mut n_runs = 0;
    n_runs += fail_each_step(&make).await?.n_runs;
    n_runs += run_each_step_twice(&make).await?.n_runs;
    n_runs += cancel_at_each_step(&make).await?.n_runs;
    n_runs += kill_at_each_journal_write(&make).await?.n_runs;
    Ok(Checked { n_runs })
}

/// Fails each step, before and after it did its work, for good and for once; and each undo for
/// once.
pub async fn fail_each_step<S: Scenario>(make: impl AsyncFn() -> S) -> Result<Checked, Flaw> {
    let outline = outline_of::<S>();
    let mut cases = vec![Case::plain(
        "nothing is done to it",
        vec![],
        Status::Succeeded,
    )];
    for (step_idx, step) in outline.steps.iter().enumerate() {
        let name = step.name;
        let is_past_point = outline.is_past_point(step_idx);
        let on = |mischief| Meddling {
            step_idx,
            direction: Direction::Do,
            mischief,
        };
        let failed = if is_past_point {
            Status::Succeeded
        } else {
            Status::Failed
        };
        let is_tried_once = outline.trying(step_idx, Direction::Do).policy.attempts_max == 1;
        let retried = if is_tried_once {
            failed
        } else {
            Status::Succeeded
        };
        // Past the point of no return an error for good happens once: it is tried again.
        let fail = if is_past_point { again() } else { for_good() };
        cases.extend([
            Case::plain(
                format!("step {name} fails before it does anything"),
                vec![on(Mischief::FailBefore(for_good()))],
                failed,
            ),
            Case::plain(
                format!("step {name} fails after it did its work"),
                vec![on(Mischief::FailAfter(fail))],
                failed,
            ),
            Case::plain(
                format!("step {name} is tried again though it did its work"),
                vec![on(Mischief::FailAfter(again()))],
                retried,
            ),
        ]);
    }
    for (undo, name) in undos(&outline) {
        for (what, mischief) in [
            ("before it does anything", Mischief::FailBefore(again())),
            ("after it did its work", Mischief::FailAfter(again())),
        ] {
            let meddlings = turned_back_with(
                &outline,
                Meddling {
                    mischief,
                    ..undo.clone()
                },
            );
            let what = format!("the undo of step {name} fails once {what}");
            cases.push(Case::plain(what, meddlings, Status::Failed));
        }
    }
    play_all(&make, cases).await
}

/// Runs each step twice, and each undo.
pub async fn run_each_step_twice<S: Scenario>(make: impl AsyncFn() -> S) -> Result<Checked, Flaw> {
    let outline = outline_of::<S>();
    let mut cases = vec![];
    for (step_idx, step) in outline.steps.iter().enumerate() {
        let twice = Meddling {
            step_idx,
            direction: Direction::Do,
            mischief: Mischief::Twice,
        };
        let what = format!("step {} runs twice", step.name);
        cases.push(Case::plain(what, vec![twice], Status::Succeeded));
    }
    for (undo, name) in undos(&outline) {
        let meddlings = turned_back_with(&outline, undo);
        let what = format!("the undo of step {name} runs twice");
        cases.push(Case::plain(what, meddlings, Status::Failed));
    }
    play_all(&make, cases).await
}

/// Cancels the run while each step before the point of no return is under way: before and after
/// it did its work.
pub async fn cancel_at_each_step<S: Scenario>(make: impl AsyncFn() -> S) -> Result<Checked, Flaw> {
    let outline = outline_of::<S>();
    let mut cases = vec![];
    for (step_idx, step) in outline.steps.iter().enumerate() {
        for (what, mischief) in [
            ("begins", Mischief::HangBefore),
            ("ends", Mischief::HangAfter),
        ] {
            if outline.is_past_point(step_idx) {
                continue;
            }
            let hang = Meddling {
                step_idx,
                direction: Direction::Do,
                mischief,
            };
            let what = format!("it is cancelled as step {} {what}", step.name);
            cases.push(Case {
                cancels: true,
                ..Case::plain(what, vec![hang], Status::Cancelled)
            });
        }
    }
    play_all(&make, cases).await
}

/// Kills the process at each journal write, before and after it, on the way forward and on the
/// way back. The process is started again, or another one takes over.
pub async fn kill_at_each_journal_write<S: Scenario>(
    make: impl AsyncFn() -> S,
) -> Result<Checked, Flaw> {
    let outline = outline_of::<S>();
    let mut ways = vec![("on the way forward", vec![], Status::Succeeded)];
    if let Some(turn) = turn_back(&outline) {
        ways.push(("on the way back", vec![turn], Status::Failed));
    }
    let mut n_runs = 0;
    for (way, meddlings, expected) in ways {
        for side in [Side::Before, Side::After] {
            for n_writes in 0.. {
                let case = Case {
                    kill: Some((n_writes, side)),
                    ..Case::plain(
                        format!("killed {side:?} journal write {n_writes} {way}"),
                        meddlings.clone(),
                        expected,
                    )
                };
                n_runs += 1;
                let was_killed = case.play(&make().await).await?;
                if !was_killed {
                    break;
                }
                if n_writes == KILLS_MAX {
                    return Err(case.flaw(format!("{KILLS_MAX} journal writes and no end"), None));
                }
            }
        }
    }
    Ok(Checked { n_runs })
}

fn outline_of<S: Scenario>() -> Outline {
    <S::Workflow as Workflow>::steps().into_outline()
}

fn again() -> StepError {
    StepError::Retry("made to fail once".into())
}

fn for_good() -> StepError {
    StepError::Fail("made to fail".into())
}

/// A failure that makes the run undo as much as it can: the last step that may fail for good
/// does, after it did its work.
fn turn_back(outline: &Outline) -> Option<Meddling> {
    let n_reversible = outline.point_of_no_return.unwrap_or(outline.steps.len());
    Some(Meddling {
        step_idx: n_reversible.checked_sub(1)?,
        direction: Direction::Do,
        mischief: Mischief::FailAfter(for_good()),
    })
}

fn turned_back_with(outline: &Outline, undo: Meddling) -> Vec<Meddling> {
    turn_back(outline).into_iter().chain([undo]).collect()
}

/// Each undo, run twice.
fn undos(outline: &Outline) -> Vec<(Meddling, &'static str)> {
    let steps = outline.steps.iter().enumerate();
    let undos = steps.filter(|(_, step)| step.has_undo);
    undos
        .map(|(step_idx, step)| {
            let twice = Meddling {
                step_idx,
                direction: Direction::Undo,
                mischief: Mischief::Twice,
            };
            (twice, step.name)
        })
        .collect()
}

async fn play_all<S: Scenario>(
    make: &impl AsyncFn() -> S,
    cases: Vec<Case>,
) -> Result<Checked, Flaw> {
    let n_runs = cases.len();
    for case in cases {
        case.play(&make().await).await?;
    }
    Ok(Checked { n_runs })
}
