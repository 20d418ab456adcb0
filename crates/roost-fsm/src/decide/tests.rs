//! Every way that a run of a small outline can go, and random ways of larger ones.
//!
//! A run is played: what [`next`] says is applied to a story in memory, with an outcome that
//! the test chooses. Whatever is chosen, the run ends, does its steps in order, undoes exactly
//! what it began, and never turns back from beyond the point of no return.

use super::{Attempt, Move, next};
use crate::limits;
use crate::outline::{Outline, StepOutline};
use crate::record::{
    Cancel, Direction, Kind, Outcome, Run, Status, StepRecord, Story, Subject, Turn,
};
use proptest::prelude::*;
use roost_model::id::RunId;
use roost_model::time::Timestamp;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const NOW: Timestamp = Timestamp::from_ms(1_000);

fn outline(has_undo: &[bool], point_of_no_return: Option<usize>) -> Outline {
    let steps = has_undo
        .iter()
        .enumerate()
        .map(|(idx, has_undo)| StepOutline {
            name: NAMES[idx],
            timeout: limits::STEP_TIMEOUT,
            retry: None,
            has_undo: *has_undo && point_of_no_return.is_none_or(|point| idx < point),
            winds_down: false,
        });
    let outline = Outline {
        steps: steps.collect(),
        point_of_no_return,
    };
    assert_eq!(outline.check(), Ok(()));
    outline
}

fn story() -> Story {
    Story {
        run: Run {
            id: RunId::from_ulid(ulid::Ulid::from_parts(1, 1)),
            kind: Kind {
                name: "test".into(),
                version: 1,
            },
            subject: Subject::new("thing/1").unwrap(),
            key: None,
            parent: None,
            cause: "test".into(),
            params: "null".into(),
            status: Status::Running,
            turn: None,
            reason: None,
            cancel: None,
            is_past_point: false,
            created_at: NOW,
            started_at: Some(NOW),
            ended_at: None,
            epoch: 1,
            lease: None,
            revision: 1,
        },
        steps: vec![],
        n_children_unfinished: 0,
    }
}

/// What the test lets happen at one attempt.
#[derive(Debug, Clone, Copy)]
enum Luck {
    Ends(Outcome),
    /// The run is cancelled while the step is under way.
    CancelledDuring,
    /// The run is cancelled after the step is done, before the next one.
    CancelledAfter,
}

const LUCK: [Luck; 6] = [
    Luck::Ends(Outcome::Done),
    Luck::Ends(Outcome::Retry),
    Luck::Ends(Outcome::Failed),
    Luck::Ends(Outcome::CutOff),
    Luck::CancelledDuring,
    Luck::CancelledAfter,
];

fn cancel(story: &mut Story) {
    // The journal refuses it past the point of no return.
    if !story.run.is_past_point && story.run.status == Status::Running {
        story.run.cancel = Some(Cancel {
            at: NOW,
            turn: Turn::Cancelled,
            reason: "asked".into(),
        });
    }
}

fn play_attempt(outline: &Outline, story: &mut Story, attempt: &Attempt, luck: Luck) {
    story.run.is_past_point |= attempt.passes_point;
    let may_turn_back = attempt.direction == Direction::Do && !story.run.is_past_point;
    let outcome = match luck {
        Luck::Ends(outcome) => outcome,
        Luck::CancelledDuring if may_turn_back => Outcome::Dropped,
        Luck::CancelledDuring | Luck::CancelledAfter => Outcome::Done,
    };
    let seq = u32::try_from(story.steps.len()).unwrap() + 1;
    story.steps.push(StepRecord {
        seq,
        step: outline.steps[attempt.step_idx].name.to_owned(),
        direction: attempt.direction,
        attempt: attempt.number,
        started_at: NOW,
        ended_at: Some(NOW),
        outcome: Some(outcome),
        reason: Some("luck".into()),
        output: Some("null".into()),
        retry_at: None,
    });
    if matches!(luck, Luck::CancelledDuring | Luck::CancelledAfter) {
        cancel(story);
    }
}

/// Plays a run to its end, or until `luck` is used up: then `None`.
fn play(outline: &Outline, luck: &[Luck]) -> Option<Story> {
    let mut story = story();
    let mut luck = luck.iter();
    loop {
        match next(outline, &story) {
            Move::Attempt(attempt) => {
                check_attempt(outline, &story, &attempt);
                play_attempt(outline, &mut story, &attempt, *luck.next()?);
            }
            Move::TurnBack { turn, reason } => {
                assert!(
                    !story.run.is_past_point,
                    "turned back from beyond the point"
                );
                assert_eq!(story.run.status, Status::Running);
                story.run.status = Status::Undoing;
                story.run.turn = Some(turn);
                story.run.reason = Some(reason);
            }
            Move::AwaitChildren => panic!("it has no children"),
            Move::End { status, reason } => {
                story.run.status = status;
                story.run.reason = reason;
                check_end(outline, &story);
            }
            Move::Nothing => return Some(story),
        }
    }
}

fn is_done(story: &Story, step: &str, direction: Direction) -> bool {
    let attempts = story.attempts(step, direction);
    attempts
        .iter()
        .any(|record| record.outcome == Some(Outcome::Done))
}

fn has_begun(story: &Story, step: &str) -> bool {
    !story.attempts(step, Direction::Do).is_empty()
}

fn check_attempt(outline: &Outline, story: &Story, attempt: &Attempt) {
    let (before, rest) = outline.steps.split_at(attempt.step_idx);
    let step = &rest[0];
    assert!(!is_done(story, step.name, attempt.direction), "done twice");
    match attempt.direction {
        Direction::Do => {
            assert_eq!(story.run.status, Status::Running);
            assert!(
                before
                    .iter()
                    .all(|step| is_done(story, step.name, Direction::Do))
            );
            assert!(rest[1..].iter().all(|step| !has_begun(story, step.name)));
        }
        Direction::Undo => {
            assert_eq!(story.run.status, Status::Undoing);
            assert!(!story.run.is_past_point, "undone past the point");
            assert!(has_begun(story, step.name), "undone though never begun");
            let later_are_undone = rest[1..].iter().all(|later| {
                !later.has_undo
                    || !has_begun(story, later.name)
                    || is_done(story, later.name, Direction::Undo)
            });
            assert!(later_are_undone, "undone out of order");
        }
    }
}

fn check_end(outline: &Outline, story: &Story) {
    let all_done = || {
        let mut steps = outline.steps.iter();
        steps.all(|step| is_done(story, step.name, Direction::Do))
    };
    let all_undone = || {
        let mut steps = outline.steps.iter();
        steps.all(|step| {
            !step.has_undo
                || !has_begun(story, step.name)
                || is_done(story, step.name, Direction::Undo)
        })
    };
    match story.run.status {
        Status::Succeeded => assert!(all_done()),
        Status::Failed | Status::Cancelled => {
            assert!(all_undone());
            assert!(story.run.reason.is_some());
        }
        Status::Stuck => assert!(story.run.is_past_point || !all_undone()),
        status @ (Status::Queued | Status::Running | Status::Undoing | Status::Superseded) => {
            panic!("ended as {status}")
        }
    }
}

/// All sequences of luck up to the length at which each of them has ended the run or is cut.
fn play_all(outline: &Outline, luck: &mut Vec<Luck>, n_left: usize, ended: &mut Vec<Status>) {
    if let Some(story) = play(outline, luck) {
        ended.push(story.run.status);
        return;
    }
    if n_left == 0 {
        return;
    }
    for next_luck in LUCK {
        luck.push(next_luck);
        play_all(outline, luck, n_left - 1, ended);
        luck.pop();
    }
}

#[test]
fn every_way_of_a_run_of_three_steps_keeps_the_rules() {
    for undos in 0..8_u8 {
        let has_undo: Vec<bool> = (0..3).map(|idx| undos & (1 << idx) != 0).collect();
        for point in [None, Some(0), Some(1), Some(2), Some(3)] {
            let mut ended = vec![];
            play_all(&outline(&has_undo, point), &mut vec![], 6, &mut ended);
            assert!(ended.contains(&Status::Succeeded));
            let can_turn_back = point != Some(0);
            assert_eq!(ended.contains(&Status::Failed), can_turn_back);
            assert_eq!(ended.contains(&Status::Cancelled), can_turn_back);
        }
    }
}

proptest! {
    #[test]
    fn any_way_of_a_longer_run_keeps_the_rules_and_ends(
        has_undo in prop::collection::vec(any::<bool>(), 1..=5),
        point in prop::option::of(0_usize..=5),
        luck in prop::collection::vec(prop::sample::select(LUCK.to_vec()), 0..40),
    ) {
        let point = point.filter(|point| *point <= has_undo.len());
        let outline = outline(&has_undo, point);
        let mut luck = luck;
        // From some point on all goes well.
        luck.extend([Luck::Ends(Outcome::Done); 20]);
        prop_assert!(play(&outline, &luck).is_some());
    }
}

#[test]
fn a_run_waits_for_its_children_before_it_undoes_or_ends() {
    let outline = outline(&[true], None);
    let mut story = story();
    let Move::Attempt(attempt) = next(&outline, &story) else {
        panic!("the first step comes first");
    };
    play_attempt(&outline, &mut story, &attempt, Luck::Ends(Outcome::Done));
    story.n_children_unfinished = 1;
    assert_eq!(next(&outline, &story), Move::AwaitChildren);
    story.run.status = Status::Undoing;
    assert_eq!(next(&outline, &story), Move::AwaitChildren);
    story.n_children_unfinished = 0;
    assert!(matches!(next(&outline, &story), Move::Attempt(_)));
}

#[test]
fn an_undo_that_failed_for_good_says_what_it_was_for() {
    let outline = outline(&[true], None);
    let luck = [Luck::Ends(Outcome::Failed), Luck::Ends(Outcome::Failed)];
    let end = play(&outline, &luck).unwrap();
    assert_eq!(end.run.status, Status::Stuck);
    let reason = end.run.reason.unwrap();
    assert_eq!(reason, "a could not be undone: luck; after: luck");
}

#[test]
fn a_step_that_was_dropped_or_failed_is_undone_too() {
    let outline = outline(&[true, true], None);
    for luck in [Luck::Ends(Outcome::Failed), Luck::CancelledDuring] {
        let done = Luck::Ends(Outcome::Done);
        let end = play(&outline, &[done, luck, done, done]).unwrap();
        assert!(is_done(&end, "b", Direction::Undo));
        assert!(is_done(&end, "a", Direction::Undo));
    }
}
