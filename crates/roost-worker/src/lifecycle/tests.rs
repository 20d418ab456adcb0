//! The transition table.

use super::{Action, AfterExit, AfterFailure, Event, Phase, Rest, Wish, on_event};
use roost_model::time::Timestamp;

const AT: Timestamp = Timestamp::from_ms(5);

/// Every phase.
pub(crate) const PHASES: [Phase; 16] = [
    Phase::Adopting,
    Phase::Resting(Rest::Created),
    Phase::Resting(Rest::Stopped),
    Phase::Resting(Rest::Suspended),
    Phase::Resting(Rest::Failed),
    Phase::Resolving,
    Phase::Launching,
    Phase::Running,
    Phase::Draining,
    Phase::Quieting,
    Phase::Suspending,
    Phase::Terminating,
    Phase::Killing,
    Phase::BackingOff(AT),
    Phase::Removing,
    Phase::Gone,
];

const EVENTS: [Event; 23] = [
    Event::Kick(Wish::Run),
    Event::Kick(Wish::RunNewer),
    Event::Kick(Wish::Rest),
    Event::Kick(Wish::Gone),
    Event::AdoptedRunning,
    Event::AdoptedGone,
    Event::Resolved,
    Event::Launched,
    Event::StartFailed(AfterFailure::RetryAt(AT)),
    Event::StartFailed(AfterFailure::GiveUp),
    Event::Exited(AfterExit::RestartAt(AT)),
    Event::Exited(AfterExit::Stay),
    Event::Exited(AfterExit::GiveUp),
    Event::Exited(AfterExit::Destroy),
    Event::Drained,
    Event::SignalTimedOut,
    Event::BackoffElapsed,
    Event::Removed,
    Event::Kick(Wish::Suspend),
    Event::AdoptedSuspended,
    Event::Suspended,
    Event::SuspendFailed,
    Event::Unhealthy,
];

fn run(start: Phase, events: &[Event]) -> (Phase, Vec<Action>) {
    let mut phase = start;
    let mut actions = vec![];
    for event in events {
        let (next, more) = on_event(phase, *event);
        phase = next;
        actions.extend(more);
    }
    (phase, actions)
}

fn has_process(phase: Phase) -> bool {
    match phase {
        Phase::Running
        | Phase::Draining
        | Phase::Quieting
        | Phase::Suspending
        | Phase::Terminating
        | Phase::Killing => true,
        // May have one.
        Phase::Adopting | Phase::Launching => true,
        Phase::Resting(_)
        | Phase::Resolving
        | Phase::BackingOff(_)
        | Phase::Removing
        | Phase::Gone => false,
    }
}

#[test]
fn a_machine_starts_in_order_and_is_announced_once() {
    let (phase, actions) = run(
        Phase::Resting(Rest::Created),
        &[
            Event::Kick(Wish::RunNewer),
            Event::Resolved,
            Event::Launched,
            Event::Launched,
        ],
    );
    assert_eq!(phase, Phase::Running);
    assert_eq!(actions, [Action::Resolve, Action::Launch, Action::Announce]);
}

#[test]
fn a_stop_while_launching_is_not_lost() {
    let (phase, actions) = run(
        Phase::Launching,
        &[
            Event::Kick(Wish::Rest),
            Event::Launched,
            Event::Kick(Wish::Rest),
            Event::Drained,
        ],
    );
    assert_eq!(phase, Phase::Terminating);
    assert_eq!(
        actions,
        [
            Action::Announce,
            Action::Withdraw,
            Action::Drain,
            Action::SignalStop
        ]
    );
}

#[test]
fn a_stop_while_the_image_is_pulled_ends_the_pull() {
    let (phase, actions) = run(
        Phase::Resolving,
        &[Event::Kick(Wish::Rest), Event::Resolved],
    );
    assert_eq!(phase, Phase::Resting(Rest::Stopped));
    assert_eq!(actions, [Action::CancelResolve, Action::RecordRest]);
}

#[test]
fn a_process_that_ignores_signals_is_killed_and_then_removed() {
    let (phase, actions) = run(
        Phase::Draining,
        &[Event::Drained, Event::SignalTimedOut, Event::SignalTimedOut],
    );
    assert_eq!(phase, Phase::Killing);
    assert_eq!(
        actions,
        [Action::SignalStop, Action::SignalKill, Action::ForceRemove]
    );
}

#[test]
fn what_is_to_be_gone_is_drained_and_then_killed_however_far_its_stop_is() {
    let gone = Event::Kick(Wish::Gone);
    for (phase, expected) in [
        (Phase::Running, &[Action::Withdraw, Action::Drain][..]),
        (Phase::Draining, &[]),
        (Phase::Quieting, &[]),
    ] {
        let (next, actions) = run(phase, &[gone, gone, gone]);
        assert_eq!((next, &*actions), (Phase::Draining, expected), "{phase:?}");
    }
    for events in [
        &[Event::Drained, gone, gone][..],
        &[gone, Event::Drained, gone],
    ] {
        let (next, actions) = run(Phase::Draining, events);
        assert_eq!(next, Phase::Killing, "{events:?}");
        assert_eq!(
            actions,
            [Action::SignalStop, Action::SignalKill],
            "one of each is enough"
        );
    }
}

#[test]
fn a_suspended_machine_keeps_its_snapshot_until_it_is_wanted_otherwise() {
    let (phase, actions) = run(
        Phase::Running,
        &[
            Event::Kick(Wish::Suspend),
            Event::Kick(Wish::Suspend),
            Event::Drained,
            Event::Suspended,
            Event::Kick(Wish::Suspend),
        ],
    );
    assert_eq!(phase, Phase::Resting(Rest::Suspended));
    assert_eq!(
        actions,
        [
            Action::Withdraw,
            Action::Drain,
            Action::Suspend,
            Action::RecordSuspended
        ]
    );
    for (wish, action) in [
        (Wish::Run, Action::Resolve),
        (Wish::RunNewer, Action::Resolve),
        (Wish::Rest, Action::DiscardSnapshot),
        (Wish::Gone, Action::Remove),
    ] {
        let (_, actions) = on_event(phase, Event::Kick(wish));
        assert_eq!(actions, [action], "{wish:?}");
    }
}

#[test]
fn a_suspend_that_fails_finds_out_what_became_of_the_machine() {
    let events = [
        Event::Kick(Wish::Run),
        Event::SuspendFailed,
        Event::Kick(Wish::Run),
    ];
    let (phase, actions) = run(Phase::Suspending, &events);
    assert_eq!(phase, Phase::Adopting);
    assert_eq!(actions, [Action::RecordSuspendFailed, Action::Adopt]);
    let (phase, actions) = on_event(phase, Event::AdoptedSuspended);
    assert_eq!(phase, Phase::Resting(Rest::Suspended));
    assert_eq!(actions, [Action::RecordSuspended]);
}

#[test]
fn an_update_stops_and_then_starts() {
    let (phase, actions) = run(
        Phase::Running,
        &[
            Event::Kick(Wish::RunNewer),
            Event::Drained,
            Event::Exited(AfterExit::Stay),
            Event::Kick(Wish::RunNewer),
        ],
    );
    assert_eq!(phase, Phase::Resolving);
    assert_eq!(
        actions,
        [
            Action::Withdraw,
            Action::Drain,
            Action::SignalStop,
            Action::RecordEnd,
            Action::Resolve
        ],
        "without back-off"
    );
}

#[test]
fn an_unhealthy_machine_is_stopped_in_order_and_its_policy_decides() {
    for (after, end) in [
        (AfterExit::RestartAt(AT), Phase::BackingOff(AT)),
        (AfterExit::Stay, Phase::Resting(Rest::Stopped)),
        (AfterExit::GiveUp, Phase::Resting(Rest::Failed)),
    ] {
        let events = [
            Event::Unhealthy,
            Event::Kick(Wish::Run),
            Event::Drained,
            Event::Exited(after),
        ];
        let (phase, actions) = run(Phase::Running, &events);
        assert_eq!(phase, end);
        let stop = [
            Action::RecordUnhealthy,
            Action::Withdraw,
            Action::Drain,
            Action::SignalStop,
            Action::RecordEnd,
        ];
        assert_eq!(actions[..stop.len()], stop);
    }
    for phase in PHASES.into_iter().filter(|phase| *phase != Phase::Running) {
        assert_eq!(
            on_event(phase, Event::Unhealthy),
            (phase, vec![]),
            "{phase:?}"
        );
    }
}

#[test]
fn an_adopted_end_is_handled_as_one_seen_live() {
    for after in [
        AfterExit::RestartAt(AT),
        AfterExit::Stay,
        AfterExit::GiveUp,
        AfterExit::Destroy,
    ] {
        assert_eq!(
            on_event(Phase::Adopting, Event::Exited(after)),
            on_event(Phase::Running, Event::Exited(after))
        );
    }
}

#[test]
fn nothing_wakes_what_is_gone() {
    for event in EVENTS {
        assert_eq!(
            on_event(Phase::Gone, event),
            (Phase::Gone, vec![]),
            "{event:?}"
        );
    }
}

#[test]
fn a_process_is_never_left_without_its_end_recorded() {
    for phase in PHASES {
        for event in EVENTS {
            let (next, actions) = on_event(phase, event);
            if has_process(phase) && !has_process(next) {
                assert!(
                    actions.contains(&Action::RecordEnd)
                        || actions.contains(&Action::RecordSuspended),
                    "{phase:?} {event:?}: {actions:?}"
                );
            }
            if !has_process(phase) && has_process(next) {
                assert_eq!(actions, [Action::Launch], "{phase:?} {event:?}");
            }
        }
    }
}

#[test]
fn a_machine_with_a_process_is_not_removed_before_its_end() {
    // The record of the end of one that is being suspended kills what runs.
    let is_meant = |phase: &Phase| has_process(*phase) && *phase != Phase::Suspending;
    for phase in PHASES.into_iter().filter(is_meant) {
        let (next, actions) = on_event(phase, Event::Kick(Wish::Gone));
        assert_ne!(next, Phase::Removing, "{phase:?}");
        assert!(!actions.contains(&Action::Remove), "{phase:?}");
    }
}

#[test]
fn a_repeated_event_does_nothing_the_second_time() {
    // A timer fires again only because it was set again, and a pull that is
    // out of date is begun anew at each kick until it is recorded as begun.
    let may_repeat = |phase, event| {
        matches!(
            (phase, event),
            (Phase::Killing | Phase::Terminating, Event::SignalTimedOut)
                | (_, Event::Kick(Wish::RunNewer))
        )
    };
    for phase in PHASES {
        for event in EVENTS {
            let (next, _) = on_event(phase, event);
            let (again, actions) = on_event(next, event);
            if !may_repeat(phase, event) && !matches!(event, Event::Kick(_)) {
                assert_eq!((again, actions), (next, vec![]), "{phase:?} {event:?}");
            }
        }
    }
}
