//! What affinity promises, for any values and machines.

use super::Affinity;
use crate::choose::Candidate;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use roost_model::id::MachineId;
use roost_model::machine::SessionKey;

const OPEN: Candidate = Candidate {
    load: 3,
    soft_limit: 1,
    hard_limit: Some(4),
    is_new: false,
    distance: 0,
    is_out: false,
};

fn ids(numbers: impl IntoIterator<Item = u16>) -> Vec<String> {
    let id = |number: u16| {
        let [a, b] = number.to_be_bytes();
        MachineId::from_bytes([a, b, 0, 0, 0, 0, 0]).to_string()
    };
    numbers.into_iter().map(id).collect()
}

/// The machine of a value, while some take nothing.
fn machine_of<'a>(value: u64, near: &'a [String], closed: &[&str]) -> Option<&'a str> {
    let look = |number: usize| Candidate {
        is_out: closed.contains(&near[number].as_str()),
        ..OPEN
    };
    let id = |number: usize| near[number].as_str();
    let class = 0..near.len();
    let number = Affinity::Header(value).choose(&[class], id, look);
    number.map(|number| near[number].as_str())
}

proptest! {
    #[test]
    fn a_value_moves_only_when_its_machine_goes_or_a_new_one_takes_it(
        value in any::<u64>(),
        numbers in prop::collection::btree_set(any::<u16>(), 2..20),
        gone in any::<prop::sample::Index>(),
    ) {
        let all = ids(numbers.iter().copied());
        let before = machine_of(value, &all, &[]).unwrap();
        let gone = gone.get(&all);
        let rest: Vec<String> = all.iter().filter(|id| *id != gone).cloned().collect();
        let after = machine_of(value, &rest, &[]).unwrap();
        if before != gone.as_str() {
            prop_assert_eq!(before, after);
        }
        // One that takes nothing is as good as gone, and the order says nothing.
        prop_assert_eq!(machine_of(value, &all, &[gone]), Some(after));
        let turned: Vec<String> = all.iter().rev().cloned().collect();
        prop_assert_eq!(machine_of(value, &turned, &[]), Some(before));
    }

    #[test]
    fn the_nearest_class_that_takes_it_has_the_machine(
        value in any::<u64>(),
        n_near in 1..5_usize,
        n_far in 1..5_usize,
        is_full in any::<bool>(),
    ) {
        let all = ids(0..u16::try_from(n_near + n_far).unwrap());
        let look = |number: usize| Candidate {
            load: if is_full && number < n_near { 4 } else { 3 },
            ..OPEN
        };
        let classes = [0..n_near, n_near..all.len()];
        let number = Affinity::Header(value).choose(&classes, |number| all[number].as_str(), look);
        prop_assert_eq!(number.unwrap() < n_near, !is_full);
    }
}

#[test]
fn values_spread_evenly_and_a_new_machine_takes_its_share_from_all() {
    let all = ids([1, 2, 3, 4, 5]);
    let values = || {
        (0..10_000_u32).map(|n| {
            let session = format!("session-{n}");
            let value = HeaderValue::from_str(&session).unwrap();
            let headers = HeaderMap::from_iter([(HeaderName::from_static("x-s"), value)]);
            match Affinity::take(&SessionKey::Header("x-s".into()), &mut headers.clone()) {
                Some(Affinity::Header(value)) => value,
                other => panic!("{other:?}"),
            }
        })
    };
    for id in &all {
        let n = values().filter(|value| machine_of(*value, &all, &[]) == Some(id));
        let n = n.count();
        assert!((1800..2200).contains(&n), "{id} has {n} of 10000");
        // What it had goes to all of the others.
        let had = values().filter(|value| machine_of(*value, &all, &[]) == Some(id));
        let next: Vec<_> = had.map(|value| machine_of(value, &all, &[id])).collect();
        for other in all.iter().filter(|other| *other != id) {
            let n = next.iter().filter(|next| **next == Some(other)).count();
            assert!((400..600).contains(&n), "{other} gets {n} of {id}");
        }
    }
}

/// It is not to change from one version to the next: edges of both serve at the same time.
#[test]
fn the_machine_of_a_value_is_fixed() {
    let all = ids(0..8);
    let of = |value: u64| machine_of(value, &all, &[]).unwrap()[..4].to_owned();
    let machines: Vec<String> = (0..6).map(of).collect();
    assert_eq!(machines, ["0004", "0002", "0004", "0001", "0005", "0003"]);
}

#[test]
fn a_cookie_that_names_no_machine_is_none_and_the_app_sees_none() {
    let key = SessionKey::Cookie("s".into());
    for (line, machine, left) in [
        (
            "a=1; s=01020304050607; b=2",
            Some("01020304050607"),
            Some("a=1; b=2"),
        ),
        ("s=01020304050607", Some("01020304050607"), None),
        (
            "s=A; a=1; s=01020304050607; s=B",
            Some("01020304050607"),
            Some("a=1"),
        ),
        ("s=0102030405060G", None, None),
        ("s=../../etc; a=1", None, Some("a=1")),
        ("s=; a=1", None, Some("a=1")),
        ("a=1", None, Some("a=1")),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", HeaderValue::from_static(line));
        let found = Affinity::take(&key, &mut headers);
        let machine = machine.map(|id| MachineId::parse(id).unwrap());
        let name = "s".to_owned();
        assert_eq!(found, Some(Affinity::Cookie { name, machine }), "{line}");
        let after = headers.get("cookie").map(|line| line.to_str().unwrap());
        assert_eq!(after, left, "{line}");
    }
}
