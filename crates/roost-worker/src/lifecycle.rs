//! What a machine's owner does next: a pure function of phase and event.
//!
//! ```text
//!            wanted: run                 image here            launched
//!  Resting ───────────────▶ Resolving ─────────────▶ Launching ─────────▶ Running
//!    ▲  ▲ failed                │ failed                │ failed          │   │
//!    │  └───────────────────────┴───────────────────────┘                 │   │
//!    │                              BackingOff ◀── ended, policy restarts ┘   │
//!    │                                                                        │ wanted:
//!    │      exited              exited               timer         drained    │ rest,
//!    └── Killing ◀── timer ── Terminating ◀────────────────────── Draining ◀──┘ new version,
//!        (an unhealthy machine goes on to BackingOff, by policy)                 unhealthy
//!
//!           wanted: suspend            drained              snapshot is whole
//!  Running ────────────────▶ Quieting ─────────▶ Suspending ───────────────▶ Resting
//!     ▲                                              │ failed
//!     └─────────────────── Adopting ◀────────────────┘
//!
//!  any without a process ── wanted: gone ──▶ Removing ──▶ Gone
//!  Running, Quieting, Draining, Terminating ── wanted: gone ──▶ Killing
//!  Suspending ── wanted: gone ──▶ Removing: the driver kills what runs
//! ```
//!
//! A suspended machine rests with a snapshot. Wanted to run, it starts like any
//! other, and its driver goes on from the snapshot; wanted to rest, it lets go of it.
//!
//! Owners send `Kick` with what is wanted after every transition, so a phase
//! that cannot act on a wish yet simply stays; the wish is not lost, because
//! it is in the database and not in the event.

use roost_model::machine::MachineState;
use roost_model::time::Timestamp;

/// Where the owner is with its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Finding out what became of a process that an earlier `roostd` launched,
    /// or that could not be suspended.
    Adopting,
    /// No process, nothing under way.
    Resting(Rest),
    /// Making the image present.
    Resolving,
    /// The driver is launching.
    Launching,
    /// A process runs.
    Running,
    /// Withdrawn; requests under way may finish.
    Draining,
    /// Withdrawn, to be suspended; requests under way may finish.
    Quieting,
    /// The driver is writing a snapshot. Nobody watches for its end meanwhile.
    Suspending,
    /// The stop signal was sent.
    Terminating,
    /// SIGKILL was sent.
    Killing,
    /// Ended; to be started again at this time.
    BackingOff(Timestamp),
    /// Being removed.
    Removing,
    /// Removed.
    Gone,
}

/// How a machine without a process came to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Never started.
    Created,
    /// Ended, or was stopped.
    Stopped,
    /// A snapshot is kept.
    Suspended,
    /// Could not be started, or used up its restarts.
    Failed,
}

/// What the database says is wanted of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Run, and what was last launched is the newest version.
    Run,
    /// Run, and what was last launched (if anything) is out of date.
    RunNewer,
    /// Do not run.
    Rest,
    /// Do not run, and keep a snapshot.
    Suspend,
    /// Do not exist.
    Gone,
}

/// What an end of the process leads to, by restart policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterExit {
    /// Start it again then.
    RestartAt(Timestamp),
    /// It is done.
    Stay,
    /// It used up its restarts.
    GiveUp,
    /// It is done and is to be removed.
    Destroy,
}

/// What became of an attempt to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterFailure {
    /// The host was at fault: try again then.
    RetryAt(Timestamp),
    /// Trying again would not help.
    GiveUp,
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The owner woke up; this is wanted now.
    Kick(Wish),
    /// The process of an earlier `roostd` runs.
    AdoptedRunning,
    /// The process is gone and a whole snapshot is here.
    AdoptedSuspended,
    /// Nothing is left of the process of an earlier `roostd`.
    AdoptedGone,
    /// The image is present.
    Resolved,
    /// The process runs.
    Launched,
    /// Image or launch failed.
    StartFailed(AfterFailure),
    /// The process ended.
    Exited(AfterExit),
    /// A check fails that asks for the machine to be stopped.
    Unhealthy,
    /// No requests are under way, or the drain time is over.
    Drained,
    /// The snapshot is whole and the process is gone.
    Suspended,
    /// There is no snapshot; what became of the process is not known.
    SuspendFailed,
    /// The time after a signal is over.
    SignalTimedOut,
    /// The restart time has come.
    BackoffElapsed,
    /// Nothing is left of the machine.
    Removed,
}

/// What the owner does about it, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Begin to make the image present.
    Resolve,
    /// Give up making the image present.
    CancelResolve,
    /// Record that a process may exist, then launch it.
    Launch,
    /// Record that it runs, watch for its end, begin its checks.
    Announce,
    /// Record which check asks for a stop.
    RecordUnhealthy,
    /// End its checks and take it out of traffic.
    Withdraw,
    /// Wait for requests under way.
    Drain,
    /// Have the driver write a snapshot, and stop watching for the end.
    Suspend,
    /// Record that a snapshot is kept and no process runs.
    RecordSuspended,
    /// Record that it is to run on.
    RecordSuspendFailed,
    /// Find out what became of the process.
    Adopt,
    /// Record that it rests without a snapshot, then have the driver drop it.
    DiscardSnapshot,
    /// Send the stop signal and set the timer.
    SignalStop,
    /// Send SIGKILL and set the timer.
    SignalKill,
    /// Have the driver remove a process that SIGKILL did not end.
    ForceRemove,
    /// Record the end, then clear what is left on the host.
    RecordEnd,
    /// Set the timer for the restart.
    ArmBackoff(Timestamp),
    /// Record that it rests.
    RecordRest,
    /// Begin to remove it.
    Remove,
    /// Record that it is removed and free its slot.
    Forget,
}

impl Phase {
    /// The state of the Machines API that the phase shows as.
    pub(crate) fn state(self) -> MachineState {
        match self {
            Self::Resting(Rest::Created) => MachineState::Created,
            Self::Resting(Rest::Stopped) => MachineState::Stopped,
            Self::Resting(Rest::Suspended) => MachineState::Suspended,
            Self::Resting(Rest::Failed) => MachineState::Failed,
            Self::Resolving | Self::Launching | Self::BackingOff(_) => MachineState::Starting,
            Self::Adopting | Self::Running => MachineState::Started,
            Self::Draining | Self::Terminating | Self::Killing => MachineState::Stopping,
            Self::Quieting | Self::Suspending => MachineState::Suspending,
            Self::Removing => MachineState::Destroying,
            Self::Gone => MachineState::Destroyed,
        }
    }
}

/// The next phase and what to do on the way.
pub(crate) fn on_event(phase: Phase, event: Event) -> (Phase, Vec<Action>) {
    match event {
        Event::Kick(wish) => on_kick(phase, wish),
        Event::Exited(after) => on_exit(phase, after),
        Event::AdoptedRunning => match phase {
            Phase::Adopting => (Phase::Running, vec![Action::Announce]),
            phase => (phase, vec![]),
        },
        Event::AdoptedSuspended => match phase {
            Phase::Adopting => suspended(),
            phase => (phase, vec![]),
        },
        Event::AdoptedGone => match phase {
            // What is wanted decides what follows: the owner kicks next.
            Phase::Adopting => (Phase::Resting(Rest::Stopped), vec![Action::RecordEnd]),
            phase => (phase, vec![]),
        },
        Event::Resolved => match phase {
            Phase::Resolving => (Phase::Launching, vec![Action::Launch]),
            phase => (phase, vec![]),
        },
        Event::Launched => match phase {
            Phase::Launching => (Phase::Running, vec![Action::Announce]),
            phase => (phase, vec![]),
        },
        Event::StartFailed(after) => on_start_failed(phase, after),
        Event::Unhealthy => match phase {
            Phase::Running => (
                Phase::Draining,
                vec![Action::RecordUnhealthy, Action::Withdraw, Action::Drain],
            ),
            phase => (phase, vec![]),
        },
        Event::Drained => match phase {
            Phase::Draining => (Phase::Terminating, vec![Action::SignalStop]),
            Phase::Quieting => (Phase::Suspending, vec![Action::Suspend]),
            phase => (phase, vec![]),
        },
        Event::Suspended => match phase {
            Phase::Suspending => suspended(),
            phase => (phase, vec![]),
        },
        Event::SuspendFailed => match phase {
            Phase::Suspending => (
                Phase::Adopting,
                vec![Action::RecordSuspendFailed, Action::Adopt],
            ),
            phase => (phase, vec![]),
        },
        Event::SignalTimedOut => match phase {
            Phase::Terminating => (Phase::Killing, vec![Action::SignalKill]),
            Phase::Killing => (Phase::Killing, vec![Action::ForceRemove]),
            phase => (phase, vec![]),
        },
        Event::BackoffElapsed => match phase {
            Phase::BackingOff(_) => (Phase::Resolving, vec![Action::Resolve]),
            phase => (phase, vec![]),
        },
        Event::Removed => match phase {
            Phase::Removing => (Phase::Gone, vec![Action::Forget]),
            phase => (phase, vec![]),
        },
    }
}

fn suspended() -> (Phase, Vec<Action>) {
    (
        Phase::Resting(Rest::Suspended),
        vec![Action::RecordSuspended],
    )
}

fn on_kick(phase: Phase, wish: Wish) -> (Phase, Vec<Action>) {
    match (phase, wish) {
        (Phase::Resting(_), Wish::Run | Wish::RunNewer) => {
            (Phase::Resolving, vec![Action::Resolve])
        }
        (Phase::Resting(_), Wish::Gone) => (Phase::Removing, vec![Action::Remove]),
        (Phase::Resting(Rest::Suspended), Wish::Rest) => {
            (Phase::Resting(Rest::Stopped), vec![Action::DiscardSnapshot])
        }

        (Phase::Resolving, Wish::RunNewer) => (
            Phase::Resolving,
            vec![Action::CancelResolve, Action::Resolve],
        ),
        (Phase::Resolving, Wish::Rest | Wish::Suspend) => (
            Phase::Resting(Rest::Stopped),
            vec![Action::CancelResolve, Action::RecordRest],
        ),
        (Phase::Resolving, Wish::Gone) => {
            (Phase::Removing, vec![Action::CancelResolve, Action::Remove])
        }

        // Also what is removed by force: those whom it serves are not to blame.
        (Phase::Running, Wish::RunNewer | Wish::Rest | Wish::Gone) => {
            (Phase::Draining, vec![Action::Withdraw, Action::Drain])
        }
        (Phase::Running, Wish::Suspend) => (Phase::Quieting, vec![Action::Withdraw, Action::Drain]),
        // It drains on, but not for a snapshot.
        (Phase::Quieting, Wish::Gone) => (Phase::Draining, vec![]),
        // Its stop time-out is not waited for: whoever asks does not want to wait.
        (Phase::Terminating, Wish::Gone) => (Phase::Killing, vec![Action::SignalKill]),
        // Paused, it would not see a signal: the driver kills it.
        (Phase::Suspending, Wish::Gone) => {
            (Phase::Removing, vec![Action::RecordEnd, Action::Remove])
        }

        (Phase::BackingOff(_), Wish::RunNewer) => (Phase::Resolving, vec![Action::Resolve]),
        (Phase::BackingOff(_), Wish::Rest | Wish::Suspend) => {
            (Phase::Resting(Rest::Stopped), vec![Action::RecordRest])
        }
        (Phase::BackingOff(_), Wish::Gone) => (Phase::Removing, vec![Action::Remove]),

        // As wanted already.
        (phase @ (Phase::Resolving | Phase::Running | Phase::BackingOff(_)), Wish::Run)
        | (phase @ Phase::Resting(Rest::Created | Rest::Stopped | Rest::Failed), Wish::Rest)
        | (phase @ Phase::Resting(_), Wish::Suspend) => (phase, vec![]),

        // Cannot be turned round half-way: the owner kicks again when it is done.
        (
            phase @ (Phase::Quieting | Phase::Suspending | Phase::Terminating),
            Wish::Run | Wish::RunNewer | Wish::Rest | Wish::Suspend,
        )
        | (
            phase @ (Phase::Adopting
            | Phase::Launching
            | Phase::Draining
            | Phase::Killing
            | Phase::Removing
            | Phase::Gone),
            Wish::Run | Wish::RunNewer | Wish::Rest | Wish::Suspend | Wish::Gone,
        ) => (phase, vec![]),
    }
}

/// What a restart policy has no say about, since somebody asked for the end,
/// is told as [`AfterExit::Stay`].
fn on_exit(phase: Phase, after: AfterExit) -> (Phase, Vec<Action>) {
    match phase {
        Phase::Adopting
        | Phase::Running
        | Phase::Draining
        | Phase::Quieting
        | Phase::Suspending
        | Phase::Terminating
        | Phase::Killing => {}
        // Without a process: told late or twice.
        Phase::Resting(_)
        | Phase::Resolving
        | Phase::Launching
        | Phase::BackingOff(_)
        | Phase::Removing
        | Phase::Gone => return (phase, vec![]),
    }
    match after {
        AfterExit::RestartAt(at) => (
            Phase::BackingOff(at),
            vec![Action::RecordEnd, Action::ArmBackoff(at)],
        ),
        AfterExit::Stay => (Phase::Resting(Rest::Stopped), vec![Action::RecordEnd]),
        AfterExit::GiveUp => (Phase::Resting(Rest::Failed), vec![Action::RecordEnd]),
        AfterExit::Destroy => (Phase::Removing, vec![Action::RecordEnd, Action::Remove]),
    }
}

fn on_start_failed(phase: Phase, after: AfterFailure) -> (Phase, Vec<Action>) {
    match (phase, after) {
        (Phase::Resolving | Phase::Launching, AfterFailure::RetryAt(at)) => (
            Phase::BackingOff(at),
            vec![Action::RecordEnd, Action::ArmBackoff(at)],
        ),
        (Phase::Resolving | Phase::Launching, AfterFailure::GiveUp) => {
            (Phase::Resting(Rest::Failed), vec![Action::RecordEnd])
        }
        (
            phase @ (Phase::Adopting
            | Phase::Resting(_)
            | Phase::Running
            | Phase::Draining
            | Phase::Quieting
            | Phase::Suspending
            | Phase::Terminating
            | Phase::Killing
            | Phase::BackingOff(_)
            | Phase::Removing
            | Phase::Gone),
            AfterFailure::RetryAt(_) | AfterFailure::GiveUp,
        ) => (phase, vec![]),
    }
}

#[cfg(test)]
pub(crate) mod tests;
