//! Tests of retrying: numbers, budgets, clocks that jump.

use super::{OnCutOffs, OnFail, RetryPolicy, Standing, Trying, Verdict, judge, pause, standing};
use crate::limits;
use crate::record::{Direction, Outcome, StepRecord};
use crate::workflow::StepError;
use proptest::prelude::*;
use roost_model::time::Timestamp;
use std::time::Duration;

const POLICY: RetryPolicy = RetryPolicy {
    attempts_max: 3,
    budget: Duration::from_secs(100),
    pause_first: Duration::from_secs(1),
    pause_max: Duration::from_secs(4),
};
const TRYING: Trying = Trying {
    policy: POLICY,
    timeout: Duration::from_secs(10),
    on_fail: OnFail::GiveUp,
};

fn attempt(number: u32, started_ms: u64, ended_ms: u64, outcome: Outcome) -> StepRecord {
    StepRecord {
        seq: number,
        step: "a".into(),
        direction: Direction::Do,
        attempt: number,
        started_at: Timestamp::from_ms(started_ms),
        ended_at: Some(Timestamp::from_ms(ended_ms)),
        outcome: Some(outcome),
        reason: Some("because".into()),
        output: None,
        retry_at: None,
    }
}

/// The attempt that is judged: it has no end yet.
fn open(number: u32, started_ms: u64) -> StepRecord {
    StepRecord {
        ended_at: None,
        outcome: None,
        reason: None,
        ..attempt(number, started_ms, 0, Outcome::Done)
    }
}

fn judge_at(trying: &Trying, attempts: &[StepRecord], error: StepError, now_ms: u64) -> Verdict {
    let attempts: Vec<&StepRecord> = attempts.iter().collect();
    judge(trying, &attempts, error, Timestamp::from_ms(now_ms), 0)
}

fn again() -> StepError {
    StepError::Retry("busy".into())
}

#[test]
fn pauses_double_up_to_the_most() {
    let full: Vec<u64> = (1..=5)
        .map(|n_failed| pause(&POLICY, n_failed, u64::MAX / 2).as_secs())
        .collect();
    assert!(full.is_sorted(), "{full:?}");
    assert_eq!(pause(&POLICY, 1, 500), Duration::from_secs(1));
    assert_eq!(pause(&POLICY, 2, 1_000), Duration::from_secs(2));
    assert_eq!(pause(&POLICY, 3, 2_000), Duration::from_secs(4));
    assert_eq!(pause(&POLICY, 9, 2_000), Duration::from_secs(4));
}

#[test]
fn the_last_attempt_gives_up_and_says_how_often_it_was_tried() {
    let attempts = [
        attempt(1, 0, 10, Outcome::Retry),
        attempt(2, 20, 30, Outcome::Retry),
        open(3, 2_000),
    ];
    let verdict = judge_at(&TRYING, &attempts[..2], again(), 30);
    assert!(matches!(verdict, Verdict::Again { .. }), "{verdict:?}");
    let Verdict::GiveUp { reason } = judge_at(&TRYING, &attempts, again(), 3_000) else {
        panic!("tried for ever");
    };
    assert!(
        reason.starts_with("busy (given up after 3 attempts"),
        "{reason}"
    );
}

#[test]
fn a_failure_for_good_is_not_tried_again_before_the_point_of_no_return() {
    let fail = || StepError::Fail("no such image".into());
    let verdict = judge_at(&TRYING, &[open(1, 0)], fail(), 5);
    let reason = "no such image".to_owned();
    assert_eq!(verdict, Verdict::GiveUp { reason });
    let past_point = Trying {
        on_fail: OnFail::TryAgain,
        ..TRYING
    };
    let verdict = judge_at(&past_point, &[open(1, 0)], fail(), 5);
    assert!(matches!(verdict, Verdict::Again { .. }), "{verdict:?}");
}

#[test]
fn attempts_that_were_cut_off_use_up_no_attempts() {
    let attempts = [
        attempt(1, 0, 10, Outcome::CutOff),
        attempt(2, 20, 30, Outcome::CutOff),
        attempt(3, 40, 50, Outcome::Dropped),
        open(4, 60),
    ];
    let verdict = judge_at(&TRYING, &attempts, again(), 70);
    assert!(matches!(verdict, Verdict::Again { .. }), "{verdict:?}");
}

#[test]
fn the_budget_counts_attempts_and_pauses() {
    let trying = Trying {
        policy: RetryPolicy {
            attempts_max: 1_000,
            budget: Duration::from_secs(20),
            ..POLICY
        },
        ..TRYING
    };
    // 9 s, a pause of 2 s, 9 s: 20 s are spent, and the next pause is over the budget.
    let attempts = [attempt(1, 0, 9_000, Outcome::Retry), open(2, 11_000)];
    assert!(matches!(
        judge_at(&trying, &attempts, again(), 20_000),
        Verdict::GiveUp { .. }
    ));
    assert!(matches!(
        judge_at(&trying, &attempts, again(), 12_000),
        Verdict::Again { .. }
    ));
}

#[test]
fn a_clock_that_jumps_ahead_costs_one_attempts_time_at_most() {
    let year_ms = 365 * 24 * 3_600 * 1_000;
    let verdict = judge_at(&TRYING, &[open(1, 0)], again(), year_ms);
    assert!(matches!(verdict, Verdict::Again { .. }), "{verdict:?}");
    // A year in which no process ran.
    let attempts = [attempt(1, 0, 10, Outcome::Retry), open(2, year_ms)];
    let verdict = judge_at(&TRYING, &attempts, again(), year_ms + 5);
    assert!(matches!(verdict, Verdict::Again { .. }), "{verdict:?}");
}

#[test]
fn a_step_that_ends_its_process_each_time_is_given_up() {
    let n_cut_off = u32::try_from(limits::CUT_OFFS_MAX).unwrap();
    let mut attempts: Vec<StepRecord> = (1..=n_cut_off)
        .map(|number| attempt(number, 0, 1, Outcome::CutOff))
        .collect();
    let stands = |attempts: &[StepRecord], on_cut_offs| {
        standing(&attempts.iter().collect::<Vec<_>>(), on_cut_offs)
    };
    for on_cut_offs in [OnCutOffs::GiveUp, OnCutOffs::Pause] {
        let due = Standing::Due {
            attempt: n_cut_off + 1,
            not_before: None,
        };
        assert_eq!(stands(&attempts, on_cut_offs), due);
    }
    attempts.push(attempt(n_cut_off + 1, 5, 6, Outcome::CutOff));
    let given_up = stands(&attempts, OnCutOffs::GiveUp);
    assert!(matches!(given_up, Standing::GaveUp { .. }));
    // Where there is no way back it goes on, more slowly.
    let due = Standing::Due {
        attempt: n_cut_off + 2,
        not_before: Some(Timestamp::from_ms(5).after(limits::CUT_OFF_PAUSE)),
    };
    assert_eq!(stands(&attempts, OnCutOffs::Pause), due);
}

#[test]
fn where_a_step_stands_follows_from_its_last_attempt() {
    let stands = |record: StepRecord| standing(&[&record], OnCutOffs::GiveUp);
    assert_eq!(standing(&[], OnCutOffs::GiveUp), Standing::Untouched);
    assert_eq!(stands(attempt(1, 0, 1, Outcome::Done)), Standing::Done);
    let due = |not_before| Standing::Due {
        attempt: 2,
        not_before,
    };
    let retry = StepRecord {
        retry_at: Some(Timestamp::from_ms(7)),
        ..attempt(1, 0, 1, Outcome::Retry)
    };
    assert_eq!(stands(retry), due(Some(Timestamp::from_ms(7))));
    assert_eq!(stands(attempt(1, 0, 1, Outcome::CutOff)), due(None));
    assert_eq!(stands(attempt(1, 0, 1, Outcome::Dropped)), due(None));
    assert_eq!(stands(open(1, 0)), due(None));
    let reason = "because".to_owned();
    assert_eq!(
        stands(attempt(1, 0, 1, Outcome::Failed)),
        Standing::GaveUp { reason }
    );
}

proptest! {
    #[test]
    fn a_pause_is_between_half_and_all_of_its_size(
        n_failed in 0_u32..200, dice: u64, first_ms in 0_u64..10_000, max_ms in 0_u64..1_000_000,
    ) {
        let policy = RetryPolicy {
            pause_first: Duration::from_millis(first_ms),
            pause_max: Duration::from_millis(max_ms),
            ..POLICY
        };
        let doubled = first_ms.saturating_mul(1 << n_failed.saturating_sub(1).min(31));
        let full = doubled.min(max_ms);
        let pause_ms = u64::try_from(pause(&policy, n_failed, dice).as_millis()).unwrap();
        prop_assert!(pause_ms <= full && pause_ms >= full / 2);
    }

    #[test]
    fn nothing_is_tried_for_ever(
        step_ms in 0_u64..20_000, dice: u64, attempts_max in 1_u32..20, budget_s in 0_u64..100,
    ) {
        let trying = Trying {
            policy: RetryPolicy { attempts_max, budget: Duration::from_secs(budget_s), ..POLICY },
            ..TRYING
        };
        let mut now = Timestamp::from_ms(0);
        let mut attempts: Vec<StepRecord> = vec![];
        for number in 1..=attempts_max {
            let mut all = attempts.clone();
            all.push(open(number, now.as_ms()));
            let end = now.after(Duration::from_millis(step_ms));
            let all: Vec<&StepRecord> = all.iter().collect();
            match judge(&trying, &all, again(), end, dice) {
                Verdict::GiveUp { .. } => return Ok(()),
                Verdict::Again { at, .. } => {
                    attempts.push(attempt(number, now.as_ms(), end.as_ms(), Outcome::Retry));
                    prop_assert!(at >= end);
                    now = at;
                }
            }
        }
        prop_assert!(false, "{attempts_max} attempts were the most");
    }
}
