//! When a check passes and fails, and when it is asked again. Pure.

use crate::limits;
use roost_model::machine::{Check, CheckKind};
use roost_proto::worker::CheckResult;
use std::time::Duration;

/// How one run of a check counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It failed at a time when failures do not count.
    Excused,
}

/// The result of a check, with what its last runs were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Streak {
    /// The result.
    pub(super) result: CheckResult,
    /// The last so many runs passed.
    pub(super) n_passed: u32,
    /// The last so many runs that count failed.
    pub(super) n_failed: u32,
}

impl Streak {
    /// Of a check that has not run yet.
    pub(super) fn new(result: CheckResult) -> Self {
        Self {
            result,
            n_passed: 0,
            n_failed: 0,
        }
    }

    /// The result after one more run.
    pub(super) fn after(self, outcome: Outcome, check: &Check) -> Self {
        let mut next = self;
        match outcome {
            Outcome::Passed => {
                next.n_failed = 0;
                next.n_passed = self.n_passed.saturating_add(1);
                if next.n_passed >= check.success_threshold {
                    next.result = CheckResult::Passing;
                }
            }
            Outcome::Failed => {
                next.n_passed = 0;
                next.n_failed = self.n_failed.saturating_add(1);
                if next.n_failed >= check.failure_threshold {
                    next.result = CheckResult::Critical;
                }
            }
            Outcome::Excused => next.n_passed = 0,
        }
        next
    }
}

/// What is known of a check between two runs. Times are of a clock that nobody sets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// Whether it has ever passed.
    pub(super) has_passed: bool,
    /// How often it was asked.
    pub(super) n_asked: u32,
    /// Time since the checks of the machine began.
    pub(super) age: Duration,
    /// Time since a failure was last counted.
    pub(super) since_failure: Option<Duration>,
}

/// Whether a failure now counts.
///
/// Not in the time of grace, and once per interval: a check that has not
/// passed yet runs more often than its config says.
pub(super) fn counts(check: &Check, grace_period: Duration, progress: &Progress) -> bool {
    // Pauses are shortened by up to a tenth.
    let apart = check.interval.mul_f64(0.85);
    progress.age >= grace_period && progress.since_failure.is_none_or(|since| since >= apart)
}

/// Pause before the first run. `draw` is a random number from 0 to 1.
///
/// What is known to be well can wait: after a start of the worker the checks
/// of all its machines begin at once.
pub(super) fn first_pause(check: &Check, is_trusted: bool, draw: f64) -> Duration {
    let most = if is_trusted {
        check.interval.min(limits::CHECK_SPREAD_MAX)
    } else {
        limits::CHECK_FIRST_PAUSE_MAX
    };
    most.mul_f64(draw.clamp(0.0, 1.0))
}

/// Pause after a run, give or take a tenth by `draw`, a random number from 0 to 1.
pub(super) fn pause(check: &Check, progress: &Progress, draw: f64) -> Duration {
    let is_starting = !progress.has_passed && progress.age < limits::PROBE_FAST_PERIOD;
    let interval = if is_starting {
        let (least, most) = match check.kind {
            CheckKind::Tcp { .. } | CheckKind::Http(_) | CheckKind::Grpc(_) => {
                (limits::FIRST_PASS_INTERVAL_MIN, limits::FIRST_PASS_INTERVAL)
            }
            // Costs a process each.
            CheckKind::Exec { .. } => (
                limits::FIRST_PASS_INTERVAL,
                limits::FIRST_PASS_INTERVAL_OF_COMMANDS,
            ),
        };
        let doublings = progress.n_asked.saturating_sub(1).min(16);
        let grown = least.saturating_mul(1 << doublings);
        check.interval.min(grown.min(most))
    } else {
        check.interval
    };
    interval.mul_f64(0.9 + 0.2 * draw.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Progress, Streak, counts, first_pause, pause};
    use proptest::prelude::*;
    use roost_model::machine::{Check, CheckKind};
    use roost_proto::worker::CheckResult;
    use std::time::Duration;

    fn check(success_threshold: u32, failure_threshold: u32) -> Check {
        Check {
            success_threshold,
            failure_threshold,
            ..Check::new(CheckKind::Tcp { port: 1 })
        }
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop::sample::select(vec![Outcome::Passed, Outcome::Failed, Outcome::Excused])
    }

    fn result() -> impl Strategy<Value = CheckResult> {
        let all = [
            CheckResult::Waiting,
            CheckResult::Passing,
            CheckResult::Critical,
        ];
        prop::sample::select(all.to_vec())
    }

    proptest! {
        #[test]
        fn a_result_turns_only_after_enough_runs_in_a_row(
            begin in result(),
            outcomes in prop::collection::vec(outcome(), 1..60),
            n_successes in 1_u32..5,
            n_failures in 1_u32..5,
        ) {
            let check = check(n_successes, n_failures);
            let mut streak = Streak::new(begin);
            for (idx, outcome) in outcomes.iter().enumerate() {
                let before = streak.result;
                streak = streak.after(*outcome, &check);
                let past = &outcomes[..=idx];
                let n_passed = past.iter().rev().take_while(|o| **o == Outcome::Passed).count();
                let counted = past.iter().rev().filter(|o| **o != Outcome::Excused);
                let n_failed = counted.take_while(|o| **o == Outcome::Failed).count();
                let expected = if n_passed >= n_successes as usize {
                    CheckResult::Passing
                } else if *outcome == Outcome::Failed && n_failed >= n_failures as usize {
                    CheckResult::Critical
                } else {
                    before
                };
                prop_assert_eq!(streak.result, expected);
            }
        }

        #[test]
        fn a_pause_is_about_the_interval_once_a_check_has_passed_and_never_longer_before(
            interval_ms in 1_u64..100_000, n_asked: u32, age_s in 0_u64..1_000, draw in -1.0..2.0,
        ) {
            let mut check = check(1, 1);
            check.interval = Duration::from_millis(interval_ms);
            let age = Duration::from_secs(age_s);
            let mut progress = Progress { n_asked, age, ..Progress::default() };
            let longest = check.interval.mul_f64(1.1001);
            let starting = pause(&check, &progress, draw);
            prop_assert!(starting > Duration::ZERO && starting <= longest);
            progress.has_passed = true;
            let settled = pause(&check, &progress, draw);
            prop_assert!(settled >= check.interval.mul_f64(0.8999) && settled <= longest);
            prop_assert!(first_pause(&check, true, draw) <= check.interval);
        }
    }

    #[test]
    fn a_check_that_never_passes_is_asked_at_its_interval_in_the_end() {
        let check = check(1, 1);
        let at = |n_asked, age| Progress {
            n_asked,
            age,
            ..Progress::default()
        };
        let young = pause(&check, &at(1, Duration::ZERO), 0.5);
        assert!(young < Duration::from_millis(50), "{young:?}");
        let old = pause(&check, &at(9, Duration::from_secs(3_600)), 0.5);
        assert_eq!(old, check.interval);
    }

    #[test]
    fn failures_count_after_the_time_of_grace_and_once_per_interval() {
        let check = check(1, 1);
        let grace = Duration::from_secs(5);
        let at = |age, since_failure: Option<u64>| Progress {
            age: Duration::from_secs(age),
            since_failure: since_failure.map(Duration::from_secs),
            ..Progress::default()
        };
        assert!(!counts(&check, grace, &at(4, None)));
        assert!(counts(&check, grace, &at(5, None)));
        assert!(!counts(&check, grace, &at(7, Some(2))));
        assert!(counts(&check, grace, &at(15, Some(10))));
    }
}
