//! How long answers took, counted finely enough to tell two releases apart.
//!
//! Buckets are as wide as a sixteenth of what is in them: those below 16 µs have a
//! number each, and from there each doubling is cut into sixteen. So all that is read
//! from them is off by 6.25 % at most, and the whole range takes [`Latencies::BUCKETS`].

use roost_model::canary::Between;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Into so many buckets a doubling is cut.
const PARTS: u64 = 16;
/// Its logarithm.
const PARTS_BITS: u32 = PARTS.ilog2();
/// From here on, in microseconds, all are in the last bucket: a little more than two minutes.
const BEYOND_US: u64 = 1 << 27;

/// Counts of latencies by bucket; those that have none are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(u16, u64)>", into = "Vec<(u16, u64)>")]
pub struct Latencies(BTreeMap<u16, u64>);

impl Latencies {
    /// How many buckets there are.
    pub const BUCKETS: usize = bucket_below(BEYOND_US) + 1;

    /// The bucket of a latency in microseconds.
    pub fn bucket(us: u64) -> usize {
        if us >= BEYOND_US {
            return Self::BUCKETS - 1;
        }
        bucket_below(us)
    }

    /// Those of as many answers as each bucket has.
    pub fn of(counts: impl IntoIterator<Item = (usize, u64)>) -> Self {
        let some = counts.into_iter().filter(|(_, n)| *n > 0);
        let last = Self::BUCKETS - 1;
        let some = some.map(|(idx, n)| (u16::try_from(idx.min(last)).unwrap_or(u16::MAX), n));
        Self::from(some.collect::<Vec<_>>())
    }

    /// The counts that are not zero.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.0.values().copied()
    }

    /// How many answers.
    pub fn count(&self) -> u64 {
        self.counts().fold(0, u64::saturating_add)
    }

    /// The latency that this share of the answers (0 to 1) did not exceed, by a guess at where
    /// in its bucket it is; `None` without answers.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let (idx, part) = self.place(share)?;
        let Between { above, at_most } = bounds(idx);
        // Of what is beyond the last bound nothing more is known.
        let to = at_most.unwrap_or(above);
        Some(above + (to - above).mul_f64(part))
    }

    /// All that is sure of the same latency: the bounds of its bucket.
    pub fn quantile_bounds(&self, share: f64) -> Option<Between> {
        self.place(share).map(|(idx, _)| bounds(idx))
    }

    /// The bucket of a share of the answers, and which part of that bucket belongs to it.
    fn place(&self, share: f64) -> Option<(u16, f64)> {
        let wanted = share.clamp(0.0, 1.0) * to_f64(self.count());
        let mut below = 0_u64;
        for (&idx, &n) in &self.0 {
            if to_f64(below.saturating_add(n)) >= wanted {
                let part = (wanted - to_f64(below)).max(0.0) / to_f64(n);
                return Some((idx, part.min(1.0)));
            }
            below = below.saturating_add(n);
        }
        None
    }

    /// With those of another as well.
    pub fn add(&mut self, other: &Self) {
        for (&idx, &n) in &other.0 {
            let own = self.0.entry(idx).or_default();
            *own = own.saturating_add(n);
        }
    }

    /// Those that have come since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |idx| earlier.0.get(idx).copied().unwrap_or_default();
        let more = self
            .0
            .iter()
            .map(|(idx, n)| (*idx, n.saturating_sub(before(idx))));
        Self(more.filter(|(_, n)| *n > 0).collect())
    }
}

impl From<Vec<(u16, u64)>> for Latencies {
    fn from(counts: Vec<(u16, u64)>) -> Self {
        let mut all = BTreeMap::<u16, u64>::new();
        let last = u16::try_from(Self::BUCKETS - 1).unwrap_or(u16::MAX);
        for (idx, n) in counts.into_iter().filter(|(_, n)| *n > 0) {
            let own = all.entry(idx.min(last)).or_default();
            *own = own.saturating_add(n);
        }
        Self(all)
    }
}

impl From<Latencies> for Vec<(u16, u64)> {
    fn from(latencies: Latencies) -> Self {
        latencies.0.into_iter().collect()
    }
}

/// The bucket of what is below [`BEYOND_US`], or of that itself.
#[expect(
    clippy::cast_possible_truncation,
    reason = "there are some hundred buckets"
)]
const fn bucket_below(us: u64) -> usize {
    if us < PARTS {
        return us as usize;
    }
    let shift = us.ilog2() - PARTS_BITS;
    (shift as usize) * PARTS as usize + (us >> shift) as usize
}

/// What lies in a bucket.
fn bounds(bucket: u16) -> Between {
    let from = |bucket: u64| match bucket / PARTS {
        0 => bucket,
        doubling => (PARTS + bucket % PARTS) << (doubling - 1),
    };
    let above = from(bucket.into());
    let to = from(u64::from(bucket) + 1);
    Between {
        above: Duration::from_micros(above),
        at_most: (above < BEYOND_US).then(|| Duration::from_micros(to)),
    }
}

/// Counts are far below 2^52, where each has a number of its own.
#[expect(clippy::cast_precision_loss, reason = "shares need no more digits")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::{BEYOND_US, Latencies, bounds};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::time::Duration;

    fn of(all_us: &[u64]) -> Latencies {
        Latencies::of(all_us.iter().map(|us| (Latencies::bucket(*us), 1)))
    }

    /// Latencies of all sizes, as likely to be small as large.
    fn any_us() -> impl Strategy<Value = u64> {
        (0_u32..27).prop_flat_map(|doubling| 0..=(1_u64 << doubling))
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut from = Duration::ZERO;
        for bucket in 0..Latencies::BUCKETS {
            let found = bounds(bucket.try_into().unwrap());
            assert_eq!(found.above, from);
            from = found.at_most.unwrap_or(from);
        }
        assert_eq!(from, Duration::from_micros(BEYOND_US));
        assert_eq!(Latencies::BUCKETS, 385);
    }

    #[test]
    fn of_what_is_beyond_all_buckets_nothing_is_known_but_that() {
        let beyond = Duration::from_micros(BEYOND_US);
        let latencies = of(&[BEYOND_US, u64::MAX]);
        assert_eq!(latencies.quantile(0.5), Some(beyond));
        let found = latencies.quantile_bounds(0.5).unwrap();
        assert_eq!((found.above, found.at_most), (beyond, None));
        assert_eq!(Latencies::default().quantile(0.5), None);
    }

    #[test]
    fn counts_that_are_sent_may_be_zero_or_as_high_as_can_be() {
        let sent = serde_json::from_str::<Latencies>("[[7,0],[9,1]]").unwrap();
        assert_eq!(sent, Latencies::of([(9, 1)]));
        let high = 1_u64 << 63;
        let many = Latencies::of([(7, high), (9, high)]);
        assert_eq!(many.quantile(1.0), Some(Duration::from_micros(10)));
    }

    proptest! {
        #[test]
        fn a_latency_lies_in_its_bucket_which_is_a_sixteenth_wide(us in 0..BEYOND_US) {
            let bucket = u16::try_from(Latencies::bucket(us)).unwrap();
            let found = bounds(bucket);
            let (from, to) = (found.above.as_micros(), found.at_most.unwrap().as_micros());
            prop_assert!((from..to).contains(&us.into()), "{us}: {found:?}");
            prop_assert!((to - from) * 16 <= from.max(16), "{us}: {found:?}");
        }

        #[test]
        fn a_quantile_is_off_by_a_sixteenth_at_most_and_its_bounds_are_sure(
            mut all in vec(any_us(), 1..300),
            share in 0.0..=1.0_f64,
        ) {
            let latencies = of(&all);
            all.sort_unstable();
            // The smallest that so many do not exceed.
            let enough = |rank: usize| super::to_f64(rank as u64) >= share * super::to_f64(all.len() as u64);
            let rank = (1..=all.len()).find(|rank| enough(*rank)).unwrap();
            let exact = Duration::from_micros(all[rank - 1]);
            let found = latencies.quantile(share).unwrap();
            let off = found.abs_diff(exact);
            prop_assert!(off <= exact / 16 + Duration::from_micros(1), "{found:?} for {exact:?}");
            let sure = latencies.quantile_bounds(share).unwrap();
            prop_assert!(sure.above <= exact && exact <= sure.at_most.unwrap());
        }

        #[test]
        fn what_has_come_since_is_what_was_added(
            before in vec(any_us(), 0..50),
            more in vec(any_us(), 0..50),
        ) {
            let (before, more) = (of(&before), of(&more));
            let mut now = before.clone();
            now.add(&more);
            prop_assert_eq!(now.since(&before), more.clone());
            prop_assert_eq!(before.since(&now), Latencies::default(), "never below zero");
            let sent = serde_json::to_string(&now).unwrap();
            prop_assert_eq!(serde_json::from_str::<Latencies>(&sent).unwrap(), now);
        }
    }
}
