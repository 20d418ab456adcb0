//! For how long machines are missed before others are woken, and how many are.

use super::{Alike, Elsewhere, Group, Lacks, Room};
use crate::limits;
use crate::sleep::region::tests as region;
use roost_model::id::MachineId;
use roost_model::name::{AppName, RegionCode};
use roost_proto::traffic::{Endpoint, EndpointHealth};
use std::time::Duration;
use tokio::time::Instant;

#[test]
fn a_lack_that_is_over_before_long_wakes_nobody_however_often_it_comes() {
    let (web, other) = ["web", "other"].map(alike).into();
    let second = |n| Duration::from_secs(n);
    let (begun, mut lacks) = (Instant::now(), Lacks::default());
    for n in [0, 40, 80] {
        assert!(!lacks.lasts(&web, second(30), begun + second(n)));
        assert!(!lacks.lasts(&web, second(30), begun + second(n + 29)));
        lacks.0.remove(&web);
    }
    assert!(!lacks.lasts(&web, second(30), begun + second(120)));
    assert!(!lacks.lasts(&other, second(30), begun + second(149)));
    assert!(lacks.lasts(&web, second(30), begun + second(150)));
    assert!(!lacks.lasts(&web, second(60), begun + second(150)));
}

#[test]
fn who_is_waited_for_is_waited_for_until_what_it_has_woken_is_up() {
    let id = MachineId::from_bytes([5; 7]);
    let group = Group {
        n_running: 0,
        asleep: vec![(&id, 1)],
    };
    let (alike, own) = (region::alike(), region::node(5));
    let (begun, mut lacks) = (Instant::now(), Lacks::default());
    let mut is_due = |second: u64, health: &EndpointHealth| {
        let before = Endpoint {
            health: health.clone(),
            ..region::awake(1, 1)
        };
        let elsewhere = Elsewhere::of(&alike, &own, &[before]);
        let (patience, now) = (Duration::from_secs(30), begun + Duration::from_secs(second));
        lacks.are_due(&alike, (&group, &elsewhere), patience, now)
    };
    let asleep = EndpointHealth::Asleep("stopped".into());
    let starting = EndpointHealth::Down("starting".into());
    let failing = EndpointHealth::Failing("not checked yet".into());
    let seconds = [
        (&asleep, [0, 15, 30]),
        (&starting, [40, 70, 100]),
        (&failing, [110, 140, 169]),
        (&EndpointHealth::Passing, [170, 200, 230]),
        // Its turn is over if it does not come up.
        (&failing, [240, 270, 299]),
    ];
    for (health, seconds) in seconds {
        for second in seconds {
            assert!(!is_due(second, health), "{second}");
        }
    }
    assert!(is_due(300, &failing));
}

#[test]
fn no_more_are_woken_than_may_be_at_once_nor_than_their_own_minimum() {
    let n_woken = |mut room: Room, minima: &[usize]| {
        let mut n_woken = 0;
        for n_kept in minima {
            if room.has_for(*n_kept) {
                room.take();
                n_woken += 1;
            }
        }
        n_woken
    };
    let room = |n_running, n_starts| Room {
        n_running,
        n_starts,
    };
    let max = limits::LACK_STARTS_MAX;
    let many = [usize::MAX; 2 * limits::LACK_STARTS_MAX];
    assert_eq!(n_woken(room(0, max), &many), max);
    assert_eq!(n_woken(room(0, 3), &[5; 9]), 3);
    assert_eq!(n_woken(room(4, max), &[5; 9]), 1);
    assert_eq!(n_woken(room(1, max), &[1, 2, 2, 1]), 1);
}

fn alike(app: &str) -> Alike {
    let region = RegionCode::parse("fra").unwrap();
    (AppName::parse(app).unwrap(), region, vec![])
}
