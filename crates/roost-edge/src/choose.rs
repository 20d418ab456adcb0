//! The choice of a machine, as a pure function.
//!
//! A class is the edge's region, or others that are as near as each other. The
//! nearest class that has a machine below its hard limit is taken, and in
//! it those below their soft limit before the others. Among those: of two, the
//! one with the smaller share of its soft limit, for which a farther one counts
//! as fuller than it is. Two are better than the least
//! loaded of all, since every edge would send to that one until it hears of the
//! others' traffic.

use crate::relay::distance::Distance;
use std::cmp::Ordering;
use std::ops::Range;

/// What the choice knows about a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// What it is serving.
    pub(crate) load: usize,
    /// From here on others are preferred; at least 1.
    pub(crate) soft_limit: usize,
    /// From here on it gets nothing.
    pub(crate) hard_limit: Option<usize>,
    /// Whether it began to take traffic only now.
    pub(crate) is_new: bool,
    /// How far it is: see [`crate::relay::distance`].
    pub(crate) distance: Distance,
    /// Whether it is out of the question for this request.
    pub(crate) is_out: bool,
}

impl Candidate {
    /// Whether it may have the request.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_out && self.hard_limit.is_none_or(|limit| self.load < limit)
    }

    fn is_liked(&self) -> bool {
        self.is_open() && self.load < self.soft_limit
    }

    /// Eighths of requests. A new machine counts as a quarter full, so that it is not flooded;
    /// each class of distance as an eighth.
    fn weighted_load(&self) -> usize {
        let ramp = if self.is_new {
            self.soft_limit.div_ceil(4)
        } else {
            0
        };
        (self.load + ramp) * 8 + self.soft_limit * usize::from(self.distance)
    }

    fn is_busier_than(&self, other: &Self) -> bool {
        let (own, theirs) = (self.weighted_load(), other.weighted_load());
        own.saturating_mul(other.soft_limit) > theirs.saturating_mul(self.soft_limit)
    }
}

/// What came of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The machine with this number.
    Machine(usize),
    /// Some would do, but all of these are at their hard limits.
    Full,
    /// None would do.
    Nobody,
}

/// Chooses among machines that are numbered class by class, the nearest class first.
///
/// `turn` counts the choices: among equals the machines take turns.
pub(crate) fn choose(
    classes: &[Range<usize>],
    turn: usize,
    look: impl Fn(usize) -> Candidate,
) -> Choice {
    let mut is_full = false;
    for class in classes.iter().filter(|class| !class.is_empty()) {
        // The usual case, without a look at all of them.
        let (first, second) = two_of(class.len(), turn);
        let first = Looked::at(class.start + first, &look);
        let second = if class.len() == 1 {
            first
        } else {
            Looked::at(class.start + second, &look)
        };
        let best = first.or(second);
        let is_sure = best.machine.is_liked() && !first.machine.is_out && !second.machine.is_out;
        if is_sure || (class.len() <= 2 && best.machine.is_open()) {
            return Choice::Machine(best.number);
        }
        let all = class.clone().map(|number| Looked::at(number, &look));
        let open: Vec<Looked> = all.filter(|it| it.machine.is_open()).collect();
        let liked: Vec<Looked> = open
            .iter()
            .copied()
            .filter(|it| it.machine.is_liked())
            .collect();
        let preferred = if liked.is_empty() { &open } else { &liked };
        if !preferred.is_empty() {
            let (first, second) = two_of(preferred.len(), turn);
            return Choice::Machine(preferred[first].or(preferred[second]).number);
        }
        is_full |= class.clone().any(|i| !look(i).is_out);
    }
    if is_full {
        Choice::Full
    } else {
        Choice::Nobody
    }
}

/// Two different numbers below `count`, if there are two: the first by turns, the second at random.
fn two_of(count: usize, turn: usize) -> (usize, usize) {
    let first = turn % count;
    // Fibonacci hashing: neighbouring turns get far-apart numbers.
    let random = (turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    let others = (count - 1).max(1) as u64;
    let step = 1 + usize::try_from(random % others).unwrap_or(0);
    (first, (first + step) % count)
}

/// A machine that was looked at.
#[derive(Debug, Clone, Copy)]
struct Looked {
    number: usize,
    machine: Candidate,
}

impl Looked {
    fn at(number: usize, look: impl Fn(usize) -> Candidate) -> Self {
        let machine = look(number);
        Self { number, machine }
    }

    /// This one, or the other if that is better.
    fn or(self, other: Self) -> Self {
        let rank = |it: &Candidate| (it.is_open(), it.is_liked());
        let is_other = match rank(&other.machine).cmp(&rank(&self.machine)) {
            Ordering::Less => false,
            Ordering::Equal => self.machine.is_busier_than(&other.machine),
            Ordering::Greater => true,
        };
        if is_other { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Choice, choose};
    use proptest::prelude::*;

    const IDLE: Candidate = Candidate {
        load: 0,
        soft_limit: 20,
        hard_limit: None,
        is_new: false,
        distance: 0,
        is_out: false,
    };

    fn candidate() -> impl Strategy<Value = Candidate> {
        let hard = proptest::option::of(0..12_usize);
        let flags = (any::<bool>(), any::<bool>());
        (0..12_usize, 1..8_usize, hard, 0..7_u8, flags).prop_map(
            |(load, soft_limit, hard_limit, distance, (is_new, is_out))| Candidate {
                load,
                soft_limit,
                hard_limit,
                is_new,
                distance,
                is_out,
            },
        )
    }

    proptest! {
        #[test]
        fn the_choice_is_of_the_best_band_of_the_nearest_class(
            near in proptest::collection::vec(candidate(), 0..6),
            far in proptest::collection::vec(candidate(), 0..6),
            turn in any::<usize>(),
        ) {
            let all: Vec<Candidate> = near.iter().chain(&far).copied().collect();
            let classes = [0..near.len(), near.len()..all.len()];
            match choose(&classes, turn, |i| all[i]) {
                Choice::Machine(i) => {
                    prop_assert!(all[i].is_open());
                    prop_assert!(i < near.len() || !near.iter().any(Candidate::is_open));
                    let class = if i < near.len() { &near } else { &far };
                    prop_assert!(all[i].is_liked() || !class.iter().any(Candidate::is_liked));
                }
                Choice::Full => {
                    prop_assert!(!all.iter().any(Candidate::is_open));
                    prop_assert!(all.iter().any(|candidate| !candidate.is_out));
                }
                Choice::Nobody => prop_assert!(all.iter().all(|candidate| candidate.is_out)),
            }
        }
    }

    proptest! {
        #[test]
        fn of_two_that_are_as_full_the_nearer_one_and_of_two_as_near_the_less_full_one(
            one in candidate(),
            load in 0..12_usize,
            distance in 0..7_u8,
            turn in any::<usize>(),
        ) {
            let one = Candidate { is_out: false, hard_limit: None, ..one };
            for other in [Candidate { distance, ..one }, Candidate { load, ..one }] {
                let both = [one, other];
                let class = 0..both.len();
                let Choice::Machine(chosen) = choose(&[class], turn, |i| both[i]) else {
                    panic!("both have room")
                };
                let (chosen, left) = (both[chosen], both[1 - chosen]);
                prop_assert!(chosen.distance <= left.distance && chosen.load <= left.load);
            }
        }
    }

    #[test]
    fn a_farther_machine_gets_its_share_once_the_nearer_one_is_busy() {
        let far = Candidate {
            distance: 4,
            ..IDLE
        };
        assert_eq!(loads_after(vec![IDLE, far], 10), [10, 0]);
        // Half of its soft limit: from there on they take turns.
        assert_eq!(loads_after(vec![IDLE, far], 30), [20, 10]);
    }

    /// What each of some machines has after this many requests that never end.
    fn loads_after(mut machines: Vec<Candidate>, requests: usize) -> Vec<usize> {
        for turn in 0..requests {
            let class = 0..machines.len();
            let Choice::Machine(i) = choose(&[class], turn, |i| machines[i]) else {
                panic!("all have room")
            };
            machines[i].load += 1;
        }
        machines.iter().map(|machine| machine.load).collect()
    }

    #[test]
    fn equals_take_turns() {
        assert_eq!(loads_after(vec![IDLE; 4], 40), [10; 4]);
    }

    #[test]
    fn load_follows_the_soft_limits() {
        let large = Candidate {
            soft_limit: 60,
            ..IDLE
        };
        let loads = loads_after(vec![IDLE, large], 40);
        assert!((9..=11).contains(&loads[0]), "{loads:?}");
    }

    #[test]
    fn a_new_machine_gets_its_share_later() {
        let new = Candidate {
            is_new: true,
            ..IDLE
        };
        let loads = loads_after(vec![IDLE, new], 20);
        assert!(loads[1] < loads[0] && loads[1] > 0, "{loads:?}");
    }
}
