//! Rolling deploys as a pure plan.
//!
//! A plan is a list of slots and the order in which they are worked on. Each
//! slot starts its new machine, if it has one, before it stops its old one, so
//! an app never has fewer machines than the smaller of its old and new count.

use crate::id::MachineId;

/// What a deployment does about one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotWork {
    /// Start a new machine, then stop this one.
    Replace(MachineId),
    /// Start a new machine beside the others.
    Add,
    /// Stop this one without a successor.
    Remove(MachineId),
}

/// How many machines a deployment works on at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxUnavailable {
    /// This many, at least one.
    Count(u32),
    /// This share of the machines, rounded down, at least one.
    Fraction(f64),
}

/// A number that is neither a count nor a share.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{0} is neither a whole number from 1 nor a fraction between 0 and 1")]
pub struct ParseMaxUnavailableError(pub f64);

impl MaxUnavailable {
    /// A third of the machines, as on Fly.io.
    pub const DEFAULT: Self = Self::Fraction(0.33);

    /// Reads `2` as a count and `0.33` as a share.
    pub fn from_number(number: f64) -> Result<Self, ParseMaxUnavailableError> {
        if number > 0.0 && number < 1.0 {
            return Ok(Self::Fraction(number));
        }
        // Whole numbers up to 10 000 are exact in a double.
        (1..=10_000_u32)
            .find(|count| f64::from(*count) == number)
            .map(Self::Count)
            .ok_or(ParseMaxUnavailableError(number))
    }

    fn batch_size(self, n_slots: usize) -> usize {
        match self {
            Self::Count(count) => usize::try_from(count).unwrap_or(usize::MAX).max(1),
            // The largest count that does not exceed the share.
            Self::Fraction(share) => (1..=n_slots)
                .rev()
                .find(|size| {
                    let to_f64 = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
                    to_f64(*size) <= to_f64(n_slots) * share
                })
                .unwrap_or(1),
        }
    }
}

/// What a deployment will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One entry per machine that is replaced, added or removed.
    pub slots: Vec<SlotWork>,
    /// Indexes into `slots`: batches one after the other, a batch's slots together.
    pub batches: Vec<Vec<usize>>,
}

/// Plans the way from the machines of now to `n_wanted` machines of a new release. With
/// `is_canary` the first of them comes alone.
pub fn plan(
    current: &[MachineId],
    n_wanted: usize,
    max_unavailable: MaxUnavailable,
    is_canary: bool,
) -> Plan {
    let n_replaced = current.len().min(n_wanted);
    let mut slots: Vec<SlotWork> = current[..n_replaced]
        .iter()
        .cloned()
        .map(SlotWork::Replace)
        .collect();
    slots.extend(std::iter::repeat_n(SlotWork::Add, n_wanted - n_replaced));
    let n_new = slots.len();
    slots.extend(current[n_replaced..].iter().cloned().map(SlotWork::Remove));
    let indexes: Vec<usize> = (0..n_new).collect();
    let (first, others) = indexes.split_at(usize::from(is_canary).min(n_new));
    let others = others.chunks(max_unavailable.batch_size(n_new));
    let mut batches: Vec<Vec<usize>> = std::iter::once(first)
        .chain(others)
        .filter(|batch| !batch.is_empty())
        .map(<[usize]>::to_vec)
        .collect();
    // Removals come last, when every machine of the new release is healthy.
    if slots.len() > n_new {
        batches.push((n_new..slots.len()).collect());
    }
    Plan { slots, batches }
}

#[cfg(test)]
mod tests {
    use super::{MaxUnavailable, Plan, SlotWork, plan};
    use crate::id::MachineId;
    use proptest::prelude::*;

    fn machines(n: usize) -> Vec<MachineId> {
        (0..n)
            .map(|idx| MachineId::from_bytes([u8::try_from(idx).unwrap(), 0, 0, 0, 0, 0, 1]))
            .collect()
    }

    #[test]
    fn a_first_deploy_only_adds() {
        let expected = Plan {
            slots: vec![SlotWork::Add],
            batches: vec![vec![0]],
        };
        assert_eq!(plan(&[], 1, MaxUnavailable::DEFAULT, false), expected);
    }

    #[test]
    fn a_third_of_three_is_one_at_a_time_and_of_nine_is_two() {
        let sizes = |n, is_canary| -> Vec<usize> {
            let plan = plan(&machines(n), n, MaxUnavailable::DEFAULT, is_canary);
            plan.batches.iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(3, false), [1, 1, 1]);
        assert_eq!(sizes(9, false), [2, 2, 2, 2, 1]);
        assert_eq!(sizes(9, true), [1, 2, 2, 2, 2], "a canary comes alone");
        assert_eq!(sizes(1, true), [1]);
    }

    #[test]
    fn numbers_are_counts_or_shares() {
        assert_eq!(
            MaxUnavailable::from_number(2.0),
            Ok(MaxUnavailable::Count(2))
        );
        assert_eq!(
            MaxUnavailable::from_number(0.5),
            Ok(MaxUnavailable::Fraction(0.5))
        );
        for bad in [0.0, -1.0, 1.5, f64::NAN, f64::INFINITY] {
            assert!(MaxUnavailable::from_number(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_old_machine_goes_and_exactly_the_wanted_number_comes(
            n_current in 0_usize..40,
            n_wanted in 0_usize..40,
            count in 1_u32..50,
            share in 0.01_f64..0.99,
            by_share in any::<bool>(),
            is_canary in any::<bool>(),
        ) {
            let max = if by_share { MaxUnavailable::Fraction(share) } else { MaxUnavailable::Count(count) };
            let current = machines(n_current);
            let plan = plan(&current, n_wanted, max, is_canary);
            let mut gone = vec![];
            let mut n_new = 0;
            for slot in &plan.slots {
                match slot {
                    SlotWork::Replace(old) => { gone.push(old.clone()); n_new += 1; }
                    SlotWork::Add => n_new += 1,
                    SlotWork::Remove(old) => gone.push(old.clone()),
                }
            }
            gone.sort();
            prop_assert_eq!(gone, current);
            prop_assert_eq!(n_new, n_wanted);
            let order: Vec<usize> = plan.batches.iter().flatten().copied().collect();
            prop_assert_eq!(order, (0..plan.slots.len()).collect::<Vec<_>>());
            // Nothing is taken away before every new machine is there.
            let first_removal = plan.slots.iter().position(|slot| matches!(slot, SlotWork::Remove(_)));
            if let Some(first) = first_removal {
                prop_assert_eq!(&plan.batches[plan.batches.len() - 1][0], &first);
            }
        }
    }
}
