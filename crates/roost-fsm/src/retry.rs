//! Whether and when a step that failed is tried again. Pure.

use crate::limits;
use crate::record::{Outcome, StepRecord};
use crate::workflow::StepError;
use roost_model::time::Timestamp;
use std::time::Duration;

/// How often and for how long a step is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most attempts. Those cut off by the end of a process do not count.
    pub attempts_max: u32,
    /// Most time spent on attempts and the pauses between them.
    pub budget: Duration,
    /// Pause after the first failure; doubles with each further one.
    pub pause_first: Duration,
    /// The most that it grows to.
    pub pause_max: Duration,
}

impl RetryPolicy {
    /// Of a step, unless it says otherwise: some minutes, then the run turns back.
    pub const STEP: Self = Self {
        attempts_max: 8,
        budget: Duration::from_secs(300),
        pause_first: Duration::from_millis(500),
        pause_max: Duration::from_secs(30),
    };
    /// Of an undo, and of a step past the point of no return: about a day, for there is no
    /// other way out.
    pub const NO_WAY_BACK: Self = Self {
        attempts_max: 300,
        budget: Duration::from_secs(24 * 3_600),
        pause_first: Duration::from_millis(500),
        pause_max: Duration::from_secs(300),
    };
    /// Fails at the first failure.
    pub const NEVER: Self = Self {
        attempts_max: 1,
        budget: Duration::ZERO,
        pause_first: Duration::ZERO,
        pause_max: Duration::ZERO,
    };
}

/// What [`StepError::Fail`] comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFail {
    /// The step has failed for good.
    GiveUp,
    /// It is tried again whatever its error says: past the point of no return.
    TryAgain,
}

/// One step in one direction, as far as trying it goes.
#[derive(Debug, Clone, Copy)]
pub struct Trying {
    /// How often.
    pub policy: RetryPolicy,
    /// Time that each attempt has.
    pub timeout: Duration,
    /// Whether it may fail for good at once.
    pub on_fail: OnFail,
}

/// What follows from a failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again, not before this.
    Again {
        /// When.
        at: Timestamp,
        /// Why it failed.
        reason: String,
    },
    /// It has failed for good.
    GiveUp {
        /// Why.
        reason: String,
    },
}

/// Judges an attempt that failed `now`; `attempts` are all of its step and direction, this one
/// the last. `dice` is a random number.
pub fn judge(
    trying: &Trying,
    attempts: &[&StepRecord],
    error: StepError,
    now: Timestamp,
    dice: u64,
) -> Verdict {
    let reason = match (error, trying.on_fail) {
        (StepError::Fail(reason), OnFail::GiveUp) => return Verdict::GiveUp { reason },
        (StepError::Fail(reason), OnFail::TryAgain) | (StepError::Retry(reason), _) => reason,
    };
    let policy = &trying.policy;
    let n_failed = n_failed(attempts);
    let pause = pause(policy, n_failed, dice);
    let spent = time_spent(trying, attempts, now);
    if n_failed >= policy.attempts_max || spent + pause > policy.budget {
        let seconds = spent.as_secs();
        return Verdict::GiveUp {
            reason: format!("{reason} (given up after {n_failed} attempts in {seconds} s)"),
        };
    }
    Verdict::Again {
        at: now.after(pause),
        reason,
    }
}

/// Attempts that failed, with the one that is judged. What cut the others off was not their own.
fn n_failed(attempts: &[&StepRecord]) -> u32 {
    let failed = attempts.iter().filter(|record| {
        matches!(
            record.outcome,
            None | Some(Outcome::Retry | Outcome::Failed)
        )
    });
    u32::try_from(failed.count()).unwrap_or(u32::MAX)
}

/// The pause after the `n_failed`-th failure: half of it fixed, half of it random, so that
/// many runs that failed together do not come back together.
pub fn pause(policy: &RetryPolicy, n_failed: u32, dice: u64) -> Duration {
    let doublings = n_failed.saturating_sub(1).min(31);
    let full = policy
        .pause_first
        .saturating_mul(1 << doublings)
        .min(policy.pause_max);
    let half_ms = u64::try_from(full.as_millis() / 2).unwrap_or(u64::MAX);
    Duration::from_millis(half_ms + dice % (half_ms.saturating_add(1)))
}

/// Time spent on attempts and pauses so far.
///
/// Counted piece by piece, each at most what it can have lasted: a clock that jumps, or a day
/// in which no process ran, uses up no budget.
fn time_spent(trying: &Trying, attempts: &[&StepRecord], now: Timestamp) -> Duration {
    let mut spent = Duration::ZERO;
    let mut previous_end = None;
    for record in attempts {
        let end = record.ended_at.unwrap_or(now);
        spent += end.since(record.started_at).min(trying.timeout);
        if let Some(previous_end) = previous_end {
            spent += record
                .started_at
                .since(previous_end)
                .min(trying.policy.pause_max);
        }
        previous_end = Some(end);
    }
    spent
}

/// Where a step stands in one direction, by its attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It was never begun.
    Untouched,
    /// It is to be tried again, not before the time if there is one.
    Due {
        /// The number of the next attempt.
        attempt: u32,
        /// When.
        not_before: Option<Timestamp>,
    },
    /// It is done.
    Done,
    /// It failed for good.
    GaveUp {
        /// Why.
        reason: String,
    },
}

/// What many attempts that were cut off lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCutOffs {
    /// The step has failed for good: there is a way back.
    GiveUp,
    /// It is tried again after a pause: there is no other way.
    Pause,
}

/// Where a step stands after these attempts, oldest first.
pub fn standing(attempts: &[&StepRecord], on_cut_offs: OnCutOffs) -> Standing {
    let Some(last) = attempts.last() else {
        return Standing::Untouched;
    };
    let attempt = last.attempt.saturating_add(1);
    match last.outcome {
        Some(Outcome::Done) => Standing::Done,
        Some(Outcome::Failed) => Standing::GaveUp {
            reason: last.reason.clone().unwrap_or_default(),
        },
        Some(Outcome::Retry) => Standing::Due {
            attempt,
            not_before: last.retry_at,
        },
        // An attempt that is open here belongs to a process that is gone.
        Some(Outcome::CutOff | Outcome::Dropped) | None => {
            let n_cut_off = attempts
                .iter()
                .filter(|record| matches!(record.outcome, Some(Outcome::CutOff) | None))
                .count();
            let not_before = match on_cut_offs {
                _ if n_cut_off <= limits::CUT_OFFS_MAX => None,
                OnCutOffs::Pause => Some(last.started_at.after(limits::CUT_OFF_PAUSE)),
                OnCutOffs::GiveUp => {
                    let reason = format!("cut off {n_cut_off} times: does it end its process?");
                    return Standing::GaveUp { reason };
                }
            };
            Standing::Due {
                attempt,
                not_before,
            }
        }
    }
}

#[cfg(test)]
mod tests;
