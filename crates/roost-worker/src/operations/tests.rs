//! What phases and events mean for an operation.

use super::{End, end_of, notes_of, opened_by, step_of};
use crate::lifecycle::tests::PHASES;
use crate::lifecycle::{Event, Phase, Rest, Wish};
use crate::store::row::NewEvent;
use roost_proto::worker::Cause;

#[test]
fn a_phase_that_takes_time_is_a_step_and_never_an_end() {
    for phase in PHASES {
        for wish in [
            Wish::Run,
            Wish::RunNewer,
            Wish::Rest,
            Wish::Suspend,
            Wish::Gone,
        ] {
            let end = end_of("start", phase, wish, None);
            assert!(
                step_of(phase).is_none() || end.is_none(),
                "{phase:?} {wish:?}"
            );
        }
    }
}

#[test]
fn what_did_not_come_true_is_told_with_its_reason() {
    let failed = end_of(
        "start",
        Phase::Resting(Rest::Failed),
        Wish::Rest,
        Some("no such image"),
    );
    assert_eq!(failed, Some(End::Failed("no such image".into())));
    let runs_on = end_of("suspend", Phase::Running, Wish::Run, Some("disk full"));
    assert_eq!(runs_on, Some(End::Failed("disk full".into())));
    // A machine that failed before and is stopped is as it was wanted.
    let stopped = end_of("stop", Phase::Resting(Rest::Failed), Wish::Rest, Some("x"));
    assert_eq!(stopped, Some(End::Succeeded));
}

#[test]
fn a_move_ends_the_step_before_it_begins_the_next() {
    use super::Note;
    let notes = notes_of(Phase::Resolving, Phase::Launching, Event::Resolved, None);
    assert!(
        matches!(
            notes.as_slice(),
            [Note::StepEnded { .. }, Note::StepStarted("launch")]
        ),
        "{notes:?}"
    );
    let notes = notes_of(Phase::Launching, Phase::Running, Event::Launched, None);
    assert!(
        matches!(notes.as_slice(), [Note::StepEnded { .. }]),
        "{notes:?}"
    );
}

#[test]
fn only_what_changes_the_wish_or_restarts_opens_an_operation() {
    let cause = Cause::AppDeletion;
    assert_eq!(opened_by(&NewEvent::asked("stop", &cause)), Some("stop"));
    assert_eq!(opened_by(&NewEvent::asked("cordon", &cause)), None);
    // A machine that has started, as the worker saw.
    let seen = NewEvent::by_worker("start", serde_json::json!({ "pid": 7 }));
    assert_eq!(opened_by(&seen), None);
    let exit = |restarting: bool| {
        let detail = serde_json::json!({ "exit_event": { "restarting": restarting } });
        NewEvent::by_worker("exit", detail)
    };
    assert_eq!(opened_by(&exit(true)), Some("restart"));
    assert_eq!(opened_by(&exit(false)), None);
}
