//! How the machines of a release answer: what a judge of a new release compares.
//!
//! Everything here counts from the start of the edge. A judge that wants to know of
//! a window of time takes a reading at its begin and one at its end, and compares
//! what has come in between ([`SideBySide::since`]).

use roost_model::canary::Between;
use std::time::Duration;

/// Upper bounds of the buckets of latencies, in microseconds; the last bucket has none.
pub const LATENCY_BOUNDS_US: [u64; 13] = [
    1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000,
];

/// How many buckets there are.
pub const LATENCY_BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;

/// The bucket of a latency.
pub fn latency_bucket(us: u64) -> usize {
    LATENCY_BOUNDS_US.partition_point(|bound| *bound < us)
}

/// What lies in a bucket.
fn bounds(bucket: usize) -> Between {
    let bound = |idx: usize| LATENCY_BOUNDS_US.get(idx).copied();
    let above = bucket.checked_sub(1).and_then(bound).unwrap_or(0);
    Between {
        above: Duration::from_micros(above),
        at_most: bound(bucket).map(Duration::from_micros),
    }
}

/// How long answers took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latencies {
    /// Answers by bucket.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl Latencies {
    /// How many answers.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
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
    fn place(&self, share: f64) -> Option<(usize, f64)> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = share.clamp(0.0, 1.0) * to_f64(count);
        let mut below = 0;
        for (idx, n) in self.buckets.iter().enumerate() {
            if *n > 0 && to_f64(below + n) >= wanted {
                let part = (wanted - to_f64(below)).max(0.0) / to_f64(*n);
                return Some((idx, part.min(1.0)));
            }
            below += n;
        }
        None
    }

    /// With those of another as well.
    pub fn add(&mut self, other: &Self) {
        for (own, others) in self.buckets.iter_mut().zip(other.buckets) {
            *own += others;
        }
        self.sum_us += other.sum_us;
    }

    fn since(&self, earlier: &Self) -> Self {
        let mut buckets = self.buckets;
        for (own, earlier) in buckets.iter_mut().zip(earlier.buckets) {
            *own = own.saturating_sub(earlier);
        }
        Self {
            buckets,
            sum_us: self.sum_us.saturating_sub(earlier.sum_us),
        }
    }
}

/// Requests to the machines of a release, and what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReleaseTraffic {
    /// Answers by class of their status: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub answers: [u64; 5],
    /// Requests that the machine did not answer: it could not be reached, hung up, or took
    /// too long.
    pub unanswered: u64,
    /// How long the answers took that are no 5xx, from the request sent to the answer's header:
    /// errors that come at once say nothing of how fast a release is.
    pub latencies: Latencies,
}

impl ReleaseTraffic {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.answers.iter().sum::<u64>() + self.unanswered
    }

    /// Requests that were answered with a 5xx, or not at all.
    pub fn errors(&self) -> u64 {
        self.answers[4] + self.unanswered
    }

    /// The share of errors, 0 to 1; `None` without requests.
    pub fn error_rate(&self) -> Option<f64> {
        let requests = self.requests();
        (requests > 0).then(|| to_f64(self.errors()) / to_f64(requests))
    }

    /// What has come since an earlier reading. A reading that is not earlier, as after a
    /// restart of the edge, counts as none.
    pub fn since(&self, earlier: &Self) -> Self {
        let is_earlier =
            earlier.requests() <= self.requests() && earlier.unanswered <= self.unanswered;
        if !is_earlier {
            return *self;
        }
        let mut answers = self.answers;
        for (own, earlier) in answers.iter_mut().zip(earlier.answers) {
            *own = own.saturating_sub(earlier);
        }
        Self {
            answers,
            unanswered: self.unanswered - earlier.unanswered,
            latencies: self.latencies.since(&earlier.latencies),
        }
    }
}

/// Two releases of an app beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SideBySide {
    /// The release that serves, say.
    pub a: ReleaseTraffic,
    /// The one that is tried out.
    pub b: ReleaseTraffic,
}

impl SideBySide {
    /// What has come since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            a: self.a.since(&earlier.a),
            b: self.b.since(&earlier.b),
        }
    }
}

/// Counts are far below 2^52, where each has a number of its own.
#[expect(clippy::cast_precision_loss, reason = "shares need no more digits")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::{Latencies, ReleaseTraffic, latency_bucket};
    use std::time::Duration;

    fn latencies(all_ms: &[u64]) -> Latencies {
        let mut latencies = Latencies::default();
        for ms in all_ms {
            latencies.buckets[latency_bucket(ms * 1000)] += 1;
            latencies.sum_us += ms * 1000;
        }
        latencies
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_answer() {
        assert_eq!(Latencies::default().quantile(0.5), None);
        let ninety_fast = [vec![4; 90], vec![400; 10]].concat();
        let latencies = latencies(&ninety_fast);
        for (share, from_ms, to_ms) in [(0.5, 2, 5), (0.9, 2, 5), (0.95, 200, 500), (1.0, 200, 500)]
        {
            let found = latencies.quantile(share).unwrap();
            let bucket = Duration::from_millis(from_ms)..=Duration::from_millis(to_ms);
            assert!(bucket.contains(&found), "{share}: {found:?}");
        }
    }

    #[test]
    fn what_is_slower_than_all_buckets_is_as_slow_as_the_last() {
        let found = latencies(&[60_000]).quantile(0.5);
        assert_eq!(found, Some(Duration::from_secs(10)));
        // A bound belongs to the bucket below it.
        assert_eq!(latency_bucket(1000), 0);
        assert_eq!(latency_bucket(1001), 1);
    }

    #[test]
    fn errors_are_5xx_and_what_is_not_answered_in_the_window() {
        let earlier = ReleaseTraffic {
            answers: [0, 90, 0, 0, 10],
            unanswered: 5,
            latencies: latencies(&[4; 100]),
        };
        let now = ReleaseTraffic {
            answers: [0, 96, 0, 1, 11],
            unanswered: 7,
            latencies: latencies(&[4; 108]),
        };
        let window = now.since(&earlier);
        assert_eq!((window.requests(), window.errors()), (10, 3));
        assert_eq!(window.error_rate(), Some(0.3));
        assert_eq!(window.latencies.count(), 8);
        assert_eq!(earlier.since(&now), earlier, "the edge has been restarted");
        assert_eq!(ReleaseTraffic::default().error_rate(), None);
    }
}
