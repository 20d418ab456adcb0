//! What an end or a failed start leads to, and the words for it. Pure.

use super::StartFailure;
use crate::lifecycle::{AfterExit, AfterFailure};
use crate::limits;
use crate::store::row::{NewEvent, Row, Wanted};
use roost_model::machine::{ExitCause, MachineExit, MachineState, RestartPolicy, RestartWhen};
use roost_model::restart::{RestartDecision, WINDOW, decide};
use roost_model::time::Timestamp;

/// What is to be recorded of an end.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ending {
    /// How the process ended, when there was one.
    pub(super) exit: Option<MachineExit>,
    /// Why the machine is in the state that follows, for people.
    pub(super) reason: Option<String>,
    /// The event to append.
    pub(super) event: NewEvent,
    /// Whether the machine is to stay down unless somebody asked anew.
    pub(super) settles: bool,
    /// Whether the machine is to be removed now.
    pub(super) destroys: bool,
    /// When a restart was decided on, and when it is due.
    pub(super) restart: Option<(Timestamp, Timestamp)>,
}

impl Ending {
    /// Nothing was found of a machine that was running.
    pub(super) fn gone() -> Self {
        Self::without_exit("its process was gone when roostd started again, as after a reboot")
    }

    /// Nothing was found of a machine whose suspend failed.
    pub(super) fn gone_in_suspend() -> Self {
        Self::without_exit("its process was gone after it could not be suspended")
    }

    /// It is to be gone, and its driver kills it.
    pub(super) fn killed_in_suspend() -> Self {
        Self::without_exit("it was destroyed while it was being suspended")
    }

    fn without_exit(reason: &str) -> Self {
        Self {
            exit: None,
            reason: Some(reason.into()),
            event: NewEvent::by_worker("exit", serde_json::json!({ "reason": reason })),
            settles: false,
            destroys: false,
            restart: None,
        }
    }
}

/// Decides about a process that ended. `generation` is the one that ran.
pub(super) fn after_exit(
    row: &Row,
    generation: u64,
    exit: MachineExit,
    now: Timestamp,
) -> (AfterExit, Ending) {
    let is_requested = row.wanted != Wanted::Run || row.generation != generation;
    // Nobody asked, and yet it was being stopped: for a check that failed.
    let is_unhealthy = !is_requested && row.state == MachineState::Stopping;
    let cause = match exit.cause {
        ExitCause::App if is_unhealthy => ExitCause::Unhealthy,
        cause => cause,
    };
    let exit = MachineExit { cause, ..exit };
    let after = if is_requested {
        let is_removed =
            row.spec.auto_destroy && matches!(row.wanted, Wanted::Rest | Wanted::Suspend);
        if is_removed {
            AfterExit::Destroy
        } else {
            AfterExit::Stay
        }
    } else {
        match decide(row.spec.restart, exit, &row.restarts, now) {
            RestartDecision::At(at) => AfterExit::RestartAt(at),
            RestartDecision::Stay if row.spec.auto_destroy => AfterExit::Destroy,
            RestartDecision::Stay => AfterExit::Stay,
            RestartDecision::GiveUp { .. } => AfterExit::GiveUp,
        }
    };
    let mut reason = match &row.state_reason {
        Some(ailment) if exit.cause == ExitCause::Unhealthy => ailment.clone(),
        _ => describe_exit(exit, row.spec.guest.memory.as_mib()),
    };
    let mut restart = None;
    match after {
        AfterExit::RestartAt(at) => {
            restart = Some((now, at));
            reason = format!("{reason}; starts again in {} ms", at.since(now).as_millis());
        }
        AfterExit::GiveUp => {
            let n_restarts = row.restarts.len();
            reason = format!(
                "{reason}; gave up after {n_restarts} restarts within {} minutes",
                WINDOW.as_secs() / 60
            );
        }
        AfterExit::Stay | AfterExit::Destroy => {}
    }
    let detail = serde_json::json!({
        "exit_event": {
            "exit_code": exit.exit_code,
            "guest_exit_code": exit.exit_code,
            "guest_signal": exit.signal.unwrap_or(-1),
            "signal": exit.signal.unwrap_or(-1),
            "oom_killed": exit.oom_killed,
            "cause": exit.cause.as_str(),
            "requested_stop": is_requested,
            "restarting": restart.is_some(),
            "exited_at": now.as_ms(),
        },
        "restart_count": row.restarts.len(),
        "reason": reason,
    });
    let ending = Ending {
        exit: Some(exit),
        reason: Some(reason),
        event: NewEvent::by_worker("exit", detail),
        settles: matches!(after, AfterExit::Stay | AfterExit::GiveUp),
        destroys: after == AfterExit::Destroy,
        restart,
    };
    (after, ending)
}

/// Decides about a start that failed.
pub(super) fn after_failure(
    row: &Row,
    failure: &StartFailure,
    now: Timestamp,
) -> (AfterFailure, Ending) {
    let policy = RestartPolicy {
        when: RestartWhen::OnFailure,
        retries_max: limits::HOST_FAILURES_MAX,
    };
    let failed = MachineExit {
        exit_code: 1,
        signal: None,
        oom_killed: false,
        cause: ExitCause::App,
    };
    let after = match decide(policy, failed, &row.restarts, now) {
        RestartDecision::At(at) if failure.is_transient => AfterFailure::RetryAt(at),
        RestartDecision::At(_) | RestartDecision::Stay | RestartDecision::GiveUp { .. } => {
            AfterFailure::GiveUp
        }
    };
    let restart = match after {
        AfterFailure::RetryAt(at) => Some((now, at)),
        AfterFailure::GiveUp => None,
    };
    let detail = serde_json::json!({
        "error": bounded(&failure.reason),
        "restarting": restart.is_some(),
    });
    let ending = Ending {
        exit: None,
        reason: Some(bounded(&failure.reason)),
        event: NewEvent::by_worker("launch_failed", detail),
        settles: restart.is_none(),
        destroys: false,
        restart,
    };
    (after, ending)
}

fn describe_exit(exit: MachineExit, memory_mib: u64) -> String {
    if let Some(cause) = exit.cause.below_the_app() {
        return cause.to_owned();
    }
    match (exit.oom_killed, exit.signal) {
        (true, _) => format!("killed for using more than its {memory_mib} MiB of memory"),
        (false, Some(signal)) => format!("ended by signal {signal}"),
        (false, None) => format!("exited with code {}", exit.exit_code),
    }
}

/// The text, or as much of it as is kept.
pub(super) fn bounded(text: &str) -> String {
    let end = text.floor_char_boundary(limits::REASON_BYTES_MAX);
    match text.split_at(end) {
        (whole, "") => whole.to_owned(),
        (start, _) => format!("{start}…"),
    }
}

#[cfg(test)]
mod tests {
    use super::{after_exit, bounded, describe_exit};
    use crate::lifecycle::AfterExit;
    use crate::limits::REASON_BYTES_MAX;
    use crate::store::row::Wanted;
    use crate::tests::samples;
    use roost_model::machine::{ExitCause, MachineExit, MachineState};
    use roost_model::time::Timestamp;

    #[test]
    fn a_reason_is_kept_in_full_up_to_a_bound_and_cut_between_characters() {
        let whole = "a".repeat(REASON_BYTES_MAX);
        assert_eq!(bounded(&whole), whole);
        let cut = bounded(&format!("b{}", "ä".repeat(REASON_BYTES_MAX)));
        assert!(cut.starts_with("bä") && cut.ends_with("ä…"));
        assert!(cut.len() <= REASON_BYTES_MAX + '…'.len_utf8());
    }

    #[test]
    fn a_clean_end_of_a_machine_that_was_stopped_for_its_health_is_a_failure() {
        let now = Timestamp::from_ms(10_000);
        let clean = MachineExit {
            exit_code: 0,
            signal: None,
            oom_killed: false,
            cause: ExitCause::App,
        };
        let mut row = samples::row();
        (row.wanted, row.state) = (Wanted::Run, MachineState::Stopping);
        row.state_reason = Some("its check c failed".into());
        let (after, ending) = after_exit(&row, row.generation, clean, now);
        assert!(matches!(after, AfterExit::RestartAt(_)), "{after:?}");
        assert!(
            ending
                .reason
                .unwrap()
                .starts_with("its check c failed; starts again")
        );
        // Asked for meanwhile, or by itself: no failure.
        row.wanted = Wanted::Rest;
        let (after, ending) = after_exit(&row, row.generation, clean, now);
        assert_eq!((after, ending.exit), (AfterExit::Stay, Some(clean)));
        (row.wanted, row.state) = (Wanted::Run, MachineState::Started);
        let (after, ending) = after_exit(&row, row.generation, clean, now);
        assert_eq!((after, ending.exit), (AfterExit::Stay, Some(clean)));
    }

    #[test]
    fn what_ended_below_the_app_is_not_told_as_an_exit_code_of_the_app() {
        let exit = |cause| MachineExit {
            exit_code: 137,
            signal: None,
            oom_killed: false,
            cause,
        };
        assert_eq!(
            describe_exit(exit(ExitCause::App), 256),
            "exited with code 137"
        );
        for cause in ExitCause::ALL
            .into_iter()
            .filter(|cause| *cause != ExitCause::App)
        {
            let text = describe_exit(exit(cause), 256);
            assert!(!text.contains("137"), "{text}");
        }
    }
}
