//! What is to be done about one machine. Pure.

use crate::limits;
use crate::reconcile::has_passed;
use roost_model::id::{InstanceId, MachineId};
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
        /// Its version.
        version: InstanceId,
        /// Whether it runs only when somebody starts it, if that is not changing.
        rests: Option<bool>,
        /// Whether new traffic is kept from it.
        is_cordoned: bool,
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
    /// It is being changed or removed just now.
    UnderWay,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    Nothing,
    /// Record it as its node tells of it.
    Note,
    /// Record that its removal did not happen, unless its node is about it.
    NoteStays {
        /// The machine.
        machine: MachineId,
    },
    /// Record the machine that came of a request whose answer was lost.
    Settle {
        /// The machine.
        machine: MachineId,
        /// Its version.
        version: InstanceId,
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

impl Action {
    /// Whether it changes nothing but what is recorded.
    pub(super) fn is_note(&self) -> bool {
        match self {
            Self::Nothing
            | Self::Note
            | Self::NoteStays { .. }
            | Self::Settle { .. }
            | Self::GiveUp => true,
            Self::GoOn | Self::MakeAnew { .. } | Self::Remove { .. } => false,
        }
    }
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
        && *seen != Seen::UnderWay
    {
        let reason = format!("release v{release} does not serve");
        return Action::Remove { reason };
    }
    match (&placement.machine, seen) {
        (_, Seen::UnderWay | Seen::Silent) => Action::Nothing,
        (Some(machine), Seen::There { .. }) if let Some(since) = placement.leaving_since => {
            let machine = machine.clone();
            if has_passed(since, limits::LATE_CALL_MAX, now) {
                Action::NoteStays { machine }
            } else {
                Action::Nothing
            }
        }
        (Some(_), Seen::Missing) if placement.leaving_since.is_some() => Action::GiveUp,
        (_, Seen::Lost { .. }) if placement.leaving_since.is_some() => Action::Nothing,
        (Some(_), Seen::There { .. }) if is_as_recorded(placement, seen) => Action::Nothing,
        (Some(_), Seen::There { .. }) => Action::Note,
        (
            None,
            Seen::There {
                machine, version, ..
            },
        ) => Action::Settle {
            machine: machine.clone(),
            version: version.clone(),
        },
        (None, Seen::Missing | Seen::Lost { .. }) if placement.is_kept => Action::GoOn,
        (None, Seen::Missing) if has_passed(placement.placed_at, limits::COMING_MAX, now) => {
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

fn is_as_recorded(placement: &Placement, seen: &Seen) -> bool {
    let Seen::There {
        version,
        rests,
        is_cordoned,
        ..
    } = seen
    else {
        return false;
    };
    placement.version.as_ref() == Some(version)
        && rests.is_none_or(|rests| rests == placement.rests)
        && *is_cordoned == placement.is_cordoned
}

#[cfg(test)]
mod tests;
