//! Each case by example.

use super::{Action, Seen, decide};
use crate::limits;
use roost_model::id::{InstanceId, MachineId, NodeId};
use roost_model::time::Timestamp;
use roost_store::placements::Placement;

const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);
const LOST: Seen = Seen::Lost {
    silent_for: limits::LOST_AFTER,
};

fn machine() -> MachineId {
    MachineId::from_bytes([1; 7])
}

fn version(n: u128) -> InstanceId {
    InstanceId::from_ulid(n.into())
}

fn there(rests: bool) -> Seen {
    Seen::There {
        machine: machine(),
        version: version(1),
        rests: Some(rests),
        is_cordoned: false,
    }
}

/// A machine of release 3.
fn kept() -> Placement {
    Placement {
        request_id: "r1".into(),
        app_id: "app_1".into(),
        app: "web".to_owned().try_into().unwrap(),
        name: "web-v3-1".to_owned().try_into().unwrap(),
        release_version: Some(3),
        is_kept: true,
        node: NodeId::from_ulid(ulid::Ulid::nil()),
        why: String::new(),
        attempt: 0,
        machine: Some(machine()),
        version: Some(version(1)),
        rests: false,
        is_cordoned: false,
        leaving_since: None,
        placed_at: NOW,
    }
}

fn by_hand() -> Placement {
    Placement {
        release_version: None,
        is_kept: false,
        ..kept()
    }
}

fn decided(placement: &Placement, seen: &Seen) -> Action {
    decide(placement, seen, Some(3), NOW)
}

fn is_made_anew(placement: &Placement, seen: &Seen) -> bool {
    matches!(decided(placement, seen), Action::MakeAnew { .. })
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    assert_eq!(decided(&kept(), &there(false)), Action::Nothing);
    assert_eq!(decided(&by_hand(), &there(false)), Action::Nothing);
    assert_eq!(decided(&kept(), &Seen::Silent), Action::Nothing);
}

#[test]
fn a_kept_machine_that_ran_is_made_anew_when_it_vanished_or_its_node_is_lost() {
    for seen in [Seen::Missing, LOST] {
        assert!(is_made_anew(&kept(), &seen), "{seen:?}");
    }
}

#[test]
fn a_machine_that_rested_or_is_not_kept_waits_for_its_node_and_is_forgotten_with_it() {
    let rested = Placement {
        rests: true,
        ..kept()
    };
    for placement in [rested, by_hand()] {
        assert_eq!(decided(&placement, &LOST), Action::Nothing);
        assert_eq!(decided(&placement, &Seen::Missing), Action::GiveUp);
    }
}

#[test]
fn what_somebody_removed_does_not_come_back() {
    let leaving = Placement {
        leaving_since: Some(NOW),
        ..kept()
    };
    assert_eq!(decided(&leaving, &Seen::Missing), Action::GiveUp);
    assert_eq!(decided(&leaving, &LOST), Action::Nothing);
    assert_eq!(decided(&kept(), &Seen::UnderWay), Action::Nothing);
    // A kill came between the wish and the worker; or the call is still on its way.
    assert_eq!(decided(&leaving, &there(false)), Action::Nothing);
    let stays = Action::NoteStays { machine: machine() };
    let late = NOW.after(limits::LATE_CALL_MAX);
    assert_eq!(decide(&leaving, &there(false), Some(3), late), stays);
}

#[test]
fn a_machine_of_a_release_that_does_not_serve_is_removed() {
    for current in [None, Some(4)] {
        for seen in [there(false), Seen::Missing, Seen::Silent, LOST] {
            let action = decide(&kept(), &seen, current, NOW);
            assert!(matches!(action, Action::Remove { .. }), "{seen:?}");
        }
    }
}

#[test]
fn a_request_without_an_answer_goes_on_or_is_forgotten_in_time() {
    let unanswered = |placement| Placement {
        machine: None,
        ..placement
    };
    let settle = Action::Settle {
        machine: machine(),
        version: version(1),
    };
    assert_eq!(decided(&unanswered(kept()), &there(false)), settle);
    for seen in [Seen::Missing, LOST] {
        assert_eq!(decided(&unanswered(kept()), &seen), Action::GoOn);
        assert_eq!(decided(&unanswered(by_hand()), &seen), Action::Nothing);
    }
    let late = NOW.after(limits::COMING_MAX);
    let action = decide(&unanswered(by_hand()), &Seen::Missing, Some(3), late);
    assert_eq!(action, Action::GiveUp);
}

#[test]
fn what_its_node_tells_is_noted_and_what_is_changing_is_not() {
    let told = |version, rests, is_cordoned| Seen::There {
        machine: machine(),
        version,
        rests,
        is_cordoned,
    };
    for seen in [
        told(version(1), Some(true), false),
        told(version(2), Some(false), false),
        told(version(1), None, true),
    ] {
        assert_eq!(decided(&kept(), &seen), Action::Note, "{seen:?}");
    }
    let stops = told(version(1), None, false);
    assert_eq!(decided(&kept(), &stops), Action::Nothing);
    let asked = Placement {
        version: None,
        ..kept()
    };
    assert_eq!(decided(&asked, &there(false)), Action::Note);
}
