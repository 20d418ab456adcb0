//! Whether a machine that ended is started again, and when.

use crate::machine::{ExitCause, MachineExit, RestartPolicy, RestartWhen};
use crate::time::Timestamp;
use std::time::Duration;

/// Restarts are counted within this window (Fly.io: 5 minutes).
pub const WINDOW: Duration = Duration::from_secs(300);
/// The first wait; it doubles with each restart in the window.
pub const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// The longest wait.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What to do with a machine whose process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartDecision {
    /// Start it again at this time.
    At(Timestamp),
    /// Leave it stopped: the policy asks for no restart after such an end.
    Stay,
    /// Leave it failed: it used up its restarts.
    GiveUp {
        /// How many restarts there were within the window.
        n_restarts: u32,
    },
}

/// Decides about a machine that ended at `now` without having been asked to.
///
/// `restarts` are the times of its earlier restarts, in any order.
pub fn decide(
    policy: RestartPolicy,
    exit: MachineExit,
    restarts: &[Timestamp],
    now: Timestamp,
) -> RestartDecision {
    let wanted = match policy.when {
        RestartWhen::No => false,
        // The end of what is below the app is a failure, whatever its code.
        RestartWhen::OnFailure => exit.exit_code != 0 || exit.cause != ExitCause::App,
        RestartWhen::Always => true,
    };
    if !wanted {
        return RestartDecision::Stay;
    }
    let recent = restarts.iter().filter(|at| is_recent(**at, now)).count();
    let n_restarts = u32::try_from(recent).unwrap_or(u32::MAX);
    if policy.when == RestartWhen::OnFailure && n_restarts >= policy.retries_max {
        return RestartDecision::GiveUp { n_restarts };
    }
    RestartDecision::At(now.after(backoff(n_restarts)))
}

/// Whether a restart counts: it is at most as long ago as the window. One that
/// lies further ahead than that is of a clock that was set back since.
pub fn is_recent(restart: Timestamp, now: Timestamp) -> bool {
    now.since(restart) < WINDOW && restart.since(now) < WINDOW
}

fn backoff(n_restarts: u32) -> Duration {
    let factor = 1_u32 << n_restarts.min(16);
    BACKOFF_MIN.saturating_mul(factor).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::{BACKOFF_MAX, RestartDecision, WINDOW, decide};
    use crate::machine::{ExitCause, MachineExit, RestartPolicy, RestartWhen};
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_ms(10_000_000);

    fn exit(exit_code: i32) -> MachineExit {
        MachineExit {
            exit_code,
            signal: None,
            oom_killed: false,
            cause: ExitCause::App,
        }
    }

    fn policy(when: RestartWhen) -> RestartPolicy {
        RestartPolicy {
            when,
            retries_max: 3,
        }
    }

    #[test]
    fn a_clean_end_is_restarted_only_by_always() {
        let clean = exit(0);
        assert_eq!(
            decide(policy(RestartWhen::No), clean, &[], NOW),
            RestartDecision::Stay
        );
        assert_eq!(
            decide(policy(RestartWhen::OnFailure), clean, &[], NOW),
            RestartDecision::Stay
        );
        assert!(matches!(
            decide(policy(RestartWhen::Always), clean, &[], NOW),
            RestartDecision::At(_)
        ));
    }

    #[test]
    fn an_end_below_the_app_is_a_failure_whatever_its_code() {
        let lost = MachineExit {
            cause: ExitCause::Hypervisor,
            ..exit(0)
        };
        assert!(matches!(
            decide(policy(RestartWhen::OnFailure), lost, &[], NOW),
            RestartDecision::At(_)
        ));
        assert_eq!(
            decide(policy(RestartWhen::No), lost, &[], NOW),
            RestartDecision::Stay
        );
    }

    #[test]
    fn waits_grow_and_the_budget_ends() {
        let mut restarts = vec![];
        let mut last_wait = std::time::Duration::ZERO;
        for _ in 0..3 {
            let RestartDecision::At(at) =
                decide(policy(RestartWhen::OnFailure), exit(1), &restarts, NOW)
            else {
                panic!("within the budget");
            };
            assert!(at.since(NOW) > last_wait);
            last_wait = at.since(NOW);
            restarts.push(NOW);
        }
        assert_eq!(
            decide(policy(RestartWhen::OnFailure), exit(1), &restarts, NOW),
            RestartDecision::GiveUp { n_restarts: 3 }
        );
    }

    #[test]
    fn restarts_outside_the_window_are_forgotten() {
        let later = NOW.after(WINDOW);
        let decision = decide(policy(RestartWhen::OnFailure), exit(1), &[NOW; 3], later);
        assert!(matches!(decision, RestartDecision::At(_)));
    }

    #[test]
    fn a_clock_set_back_does_not_use_up_the_budget_for_days() {
        let of_later = NOW.after(10 * WINDOW);
        let decision = decide(policy(RestartWhen::OnFailure), exit(1), &[of_later; 3], NOW);
        assert!(matches!(decision, RestartDecision::At(_)));
        // By a moment only: they are those of just now.
        let of_now = NOW.after(WINDOW / 2);
        let decision = decide(policy(RestartWhen::OnFailure), exit(1), &[of_now; 3], NOW);
        assert_eq!(decision, RestartDecision::GiveUp { n_restarts: 3 });
    }

    #[test]
    fn always_never_gives_up_and_waits_at_most_a_minute() {
        let decision = decide(policy(RestartWhen::Always), exit(1), &[NOW; 500], NOW);
        assert_eq!(decision, RestartDecision::At(NOW.after(BACKOFF_MAX)));
    }
}
