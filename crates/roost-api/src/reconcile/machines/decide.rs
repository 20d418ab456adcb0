//! What is to be done about one machine. Pure.

use crate::limits;
use roost_model::id::MachineId;
use roost_model::time::Timestamp;
use roost_store::placements::Placement;
use std::time::Duration;

/// What is to be seen of a machine on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is there.
    There {
        /// Its id.
        machine: MachineId,
        /// Whether it runs only when somebody starts it.
        rests: bool,
    },
    /// The node has none of its name, or another one.
    Missing,
    /// The node did not answer just now.
    Silent,
    /// The node has not answered for long.
    Lost {
        /// For so long.
        silent_for: Duration,
    },
    /// Its removal is being asked for.
    Leaving,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    Nothing,
    /// Record that it rests, or runs.
    NoteRest {
        /// The machine.
        machine: MachineId,
        /// Whether it rests.
        rests: bool,
    },
    /// Record that its removal did not happen, unless its node is about it.
    NoteStays {
        /// The machine.
        machine: MachineId,
    },
    /// Record the machine that came of a request whose answer was lost.
    Settle {
        /// The machine.
        machine: MachineId,
    },
    /// Forget it: nobody wants it.
    GiveUp,
    /// Ask for it again.
    GoOn,
    /// Make it on another node, or again.
    MakeAnew {
        /// Why, for people.
        reason: String,
    },
    /// Remove it: it is one too many.
    Remove {
        /// Why, for people.
        reason: String,
    },
}

/// What is to be done about a machine of an app with this release, of which no deployment is
/// under way.
pub(super) fn decide(
    placement: &Placement,
    seen: &Seen,
    current_release: Option<u64>,
    now: Timestamp,
) -> Action {
    if let Some(release) = placement.release_version
        && current_release != Some(release)
        && *seen != Seen::Leaving
    {
        let reason = format!("release v{release} does not serve");
        return Action::Remove { reason };
    }
    match (&placement.machine, seen) {
        (_, Seen::Leaving | Seen::Silent) => Action::Nothing,
        (Some(machine), Seen::There { .. }) if placement.is_leaving => Action::NoteStays {
            machine: machine.clone(),
        },
        (Some(_), Seen::Missing) if placement.is_leaving => Action::GiveUp,
        (_, Seen::Lost { .. }) if placement.is_leaving => Action::Nothing,
        (Some(machine), Seen::There { rests, .. }) if *rests != placement.rests => {
            Action::NoteRest {
                machine: machine.clone(),
                rests: *rests,
            }
        }
        (Some(_), Seen::There { .. }) => Action::Nothing,
        (None, Seen::There { machine, .. }) => Action::Settle {
            machine: machine.clone(),
        },
        (None, Seen::Missing | Seen::Lost { .. }) if placement.is_kept => Action::GoOn,
        (None, Seen::Missing) if now.since(placement.placed_at) >= limits::COMING_MAX => {
            Action::GiveUp
        }
        (None, Seen::Missing | Seen::Lost { .. }) => Action::Nothing,
        (Some(_), Seen::Missing) if !placement.is_kept || placement.rests => Action::GiveUp,
        (Some(_), Seen::Missing) => Action::MakeAnew {
            reason: format!("it vanished from node {}", placement.node),
        },
        (Some(_), Seen::Lost { .. }) if !placement.is_kept || placement.rests => Action::Nothing,
        (Some(_), Seen::Lost { silent_for }) => Action::MakeAnew {
            reason: format!(
                "its node {} has not answered for {} s",
                placement.node,
                silent_for.as_secs()
            ),
        },
    }
}

#[cfg(test)]
mod tests;
