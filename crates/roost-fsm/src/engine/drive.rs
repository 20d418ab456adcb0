//! One run from where its story stands to its end.

use super::Engine;
use super::leases::{Hold, asked_to_turn_back, lost};
use crate::context::Cx;
use crate::decide::{self, Attempt, Move};
use crate::journal::{Entry, Fence, JournalError, Recorded};
use crate::limits;
use crate::record::{Direction, Outcome, Run, Status, Story, attempt_of};
use crate::retry::{Verdict, judge};
use crate::workflow::{Registered, StepError};
use futures_util::FutureExt as _;
use roost_model::error::chain;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::Instrument as _;

/// Executes a run until it ends, the lease is lost, or the engine stops.
pub(super) async fn drive(
    engine: Engine,
    run: Run,
    workflow: Arc<dyn Registered>,
    hold: watch::Receiver<Hold>,
) {
    let span =
        tracing::info_span!("run", run = %run.id, workflow = %run.kind, subject = %run.subject);
    let fence = run.fence();
    let seat = Seat {
        engine: engine.clone(),
        fence: fence.clone(),
    };
    let walk = Walk {
        engine: engine.clone(),
        workflow,
        fence: fence.clone(),
        hold: hold.clone(),
    };
    let stop = engine.inner.tasks.stopping();
    tokio::select! {
        biased;
        // Cancel-safe: the token remembers that it fired. What is dropped below is begun again
        // by the next holder.
        () = stop.cancelled() => give_back(&engine, fence).await,
        // Cancel-safe: it only waits. The next holder begins again what is dropped.
        () = lost(hold) => tracing::warn!(parent: &span, "lease lost"),
        // Cancel-safe: what is not recorded happens again.
        () = Box::pin(walk.run()).instrument(span.clone()) => {}
    }
    drop(seat);
    // The next run of its subject may begin, and its parent goes on.
    engine.kick();
    engine.changed();
}

/// The place of a run among those that the engine executes; free again when it is dropped.
struct Seat {
    engine: Engine,
    fence: Fence,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.engine.leave(&self.fence);
    }
}

/// Lets others take the run at once.
async fn give_back(engine: &Engine, fence: Fence) {
    let now = engine.inner.clock.now();
    if let Err(error) = engine.inner.journal.renew(vec![fence], now).await {
        // Its lease ends by itself.
        tracing::debug!(error = chain(&error), "run not given back");
    }
}

struct Walk {
    engine: Engine,
    workflow: Arc<dyn Registered>,
    fence: Fence,
    hold: watch::Receiver<Hold>,
}

impl Walk {
    /// Takes the run up from its journal until it has ended.
    async fn run(self) {
        let mut pause = limits::JOURNAL_BACKOFF;
        loop {
            match self.advance().await {
                Ok(()) => return,
                Err(error @ (JournalError::Fenced(_) | JournalError::NotFound(_))) => {
                    tracing::info!(error = chain(&error), "run left to others");
                    return;
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "run waits for its journal");
                    sleep(pause).await;
                    pause = (pause * 2).min(limits::JOURNAL_BACKOFF_MAX);
                }
            }
        }
    }

    async fn advance(&self) -> Result<(), JournalError> {
        // From before the story is read, so that no end of a child is missed.
        let mut changes = self.engine.changes();
        let mut story = self.engine.story(&self.fence.run).await?;
        if story.open_attempt().is_some() {
            story = self.record(vec![ended(Outcome::CutOff)]).await?;
        }
        loop {
            story = match decide::next(self.workflow.outline(), &story) {
                Move::Attempt(attempt) => self.attempt(story, &attempt).await?,
                Move::TurnBack { turn, reason } => {
                    tracing::info!(reason, "run turns back");
                    let story = self
                        .record(vec![Entry::TurnedBack { turn, reason }])
                        .await?;
                    self.engine.tell_children_to_turn_back(&self.fence.run);
                    // Children that had not begun have ended.
                    self.engine.kick();
                    story
                }
                Move::AwaitChildren => {
                    self.engine.wait_changed(&mut changes).await;
                    self.engine.story(&self.fence.run).await?
                }
                Move::End { status, reason } => {
                    if status == Status::Stuck {
                        tracing::error!(reason, "run is stuck, a person must look");
                    } else {
                        tracing::info!(%status, reason, "run ended");
                    }
                    self.record(vec![Entry::Ended { status, reason }]).await?
                }
                Move::Nothing => return Ok(()),
            }
        }
    }

    /// Writes; returns the story that follows, also when the run was asked to turn back instead.
    async fn record(&self, entries: Vec<Entry>) -> Result<Story, JournalError> {
        let inner = &self.engine.inner;
        let now = inner.clock.now();
        let recorded = inner
            .journal
            .record(self.fence.clone(), entries, now)
            .await?;
        self.engine.changed();
        match recorded {
            Recorded::Written(story) | Recorded::AskedToTurnBack(story) => Ok(story),
        }
    }

    async fn attempt(&self, story: Story, attempt: &Attempt) -> Result<Story, JournalError> {
        let outline = self.workflow.outline();
        let may_turn_back = attempt.direction == Direction::Do && !story.run.is_past_point;
        let policy = outline.trying(attempt.step_idx, attempt.direction).policy;
        let pause = attempt.not_before.map_or(Duration::ZERO, |at| {
            // A clock that was set back makes no longer pause.
            at.since(self.engine.inner.clock.now())
                .min(policy.pause_max)
        });
        if !pause.is_zero() {
            tokio::select! {
                biased;
                // Cancel-safe: it only waits.
                () = asked_to_turn_back(self.hold.clone()), if may_turn_back => {
                    return self.engine.story(&self.fence.run).await;
                }
                // Cancel-safe: it only waits.
                () = sleep(pause) => {}
            }
        }
        let started = Entry::StepStarted {
            step: outline.steps[attempt.step_idx].name.to_owned(),
            direction: attempt.direction,
            attempt: attempt.number,
        };
        let entries = if attempt.passes_point {
            vec![Entry::PointPassed, started]
        } else {
            vec![started]
        };
        let story = self.record(entries).await?;
        if story.open_attempt().is_none() {
            // Asked to turn back just before the point of no return.
            return Ok(story);
        }
        let may_turn_back = may_turn_back && !story.run.is_past_point;
        let ended = self.perform(&story, attempt, may_turn_back).await;
        self.record(vec![ended]).await
    }

    /// The attempt itself, and what is to be recorded of it.
    async fn perform(&self, story: &Story, attempt: &Attempt, may_turn_back: bool) -> Entry {
        let outline = self.workflow.outline();
        let step = &outline.steps[attempt.step_idx];
        let trying = outline.trying(attempt.step_idx, attempt.direction);
        let cx = Cx::new(self.engine.clone(), story, step.name, self.hold.clone());
        let span = tracing::info_span!("step", step = step.name, direction = %attempt.direction);
        let act = self
            .workflow
            .attempt(attempt.step_idx, attempt.direction, cx)
            .instrument(span);
        let result = tokio::select! {
            biased;
            // Cancel-safe: it only waits. The step may be dropped at any await, see `workflow`.
            () = asked_to_turn_back(self.hold.clone()), if may_turn_back && !step.winds_down => {
                return ended(Outcome::Dropped);
            }
            // Cancel-safe: the same.
            result = timeout(trying.timeout, AssertUnwindSafe(act).catch_unwind()) => result,
        };
        let error = match result {
            Ok(Ok(Ok(output))) => {
                return Entry::StepEnded {
                    outcome: Outcome::Done,
                    reason: None,
                    output: Some(output),
                    retry_at: None,
                };
            }
            Ok(Ok(Err(_))) if may_turn_back && self.hold.borrow().turns_back => {
                return ended(Outcome::Dropped);
            }
            Ok(Ok(Err(error))) => error,
            Ok(Err(_panic)) => StepError::Retry("it panicked".into()),
            Err(_elapsed) => {
                let seconds = trying.timeout.as_secs_f32();
                StepError::Retry(format!("not done after {seconds} s"))
            }
        };
        let attempts = story.attempts(step.name, attempt.direction);
        let now = self.engine.inner.clock.now();
        let dice = self.engine.dice();
        let (outcome, reason, retry_at) = match judge(&trying, &attempts, error, now, dice) {
            Verdict::Again { at, reason } => (Outcome::Retry, reason, Some(at)),
            Verdict::GiveUp { reason } => (Outcome::Failed, reason, None),
        };
        let what = attempt_of(step.name, attempt.direction);
        tracing::info!(what, %outcome, reason, "attempt failed");
        Entry::StepEnded {
            outcome,
            reason: Some(reason),
            output: None,
            retry_at,
        }
    }
}

/// The end of an attempt that came to nothing of its own.
fn ended(outcome: Outcome) -> Entry {
    Entry::StepEnded {
        outcome,
        reason: None,
        output: None,
        retry_at: None,
    }
}
