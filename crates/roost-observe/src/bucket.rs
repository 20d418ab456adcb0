//! How much may be written: a token bucket that opens and shuts.
//!
//! A plain bucket that is always empty lets one line in many through, and
//! nobody can read such a log. This one stays shut, once it is empty, until
//! a second's worth has come in, so that what is kept comes in whole pieces.

use std::time::Instant;

/// Tokens are counted in billionths of a byte, so that no part of one is lost.
const SCALE: u128 = 1_000_000_000;

/// A token bucket; a token is a byte.
#[derive(Debug)]
pub(crate) struct Bucket {
    bytes_per_second: u128,
    burst: u128,
    tokens: u128,
    filled_at: Instant,
    is_shut: bool,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(bytes_per_second: u64, burst_bytes: u64, now: Instant) -> Self {
        let burst = u128::from(burst_bytes) * SCALE;
        Self {
            bytes_per_second: u128::from(bytes_per_second),
            burst,
            tokens: burst,
            filled_at: now,
            is_shut: false,
        }
    }

    /// Takes `bytes` out if they are there.
    pub(crate) fn admit(&mut self, bytes: u64, now: Instant) -> bool {
        let cost = u128::from(bytes) * SCALE;
        if self.stays_shut(now) || (self.is_shut && self.tokens < cost) {
            return false;
        }
        self.is_shut = self.tokens < cost;
        if !self.is_shut {
            self.tokens -= cost;
        }
        !self.is_shut
    }

    /// Whether anything would be refused, however small.
    pub(crate) fn stays_shut(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.is_shut && self.tokens < self.reopens_at()
    }

    /// Whether the last bytes were refused.
    pub(crate) fn is_shut(&self) -> bool {
        self.is_shut
    }

    fn reopens_at(&self) -> u128 {
        (self.bytes_per_second * SCALE).min(self.burst)
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at).as_nanos();
        let added = passed.saturating_mul(self.bytes_per_second);
        self.tokens = self.tokens.saturating_add(added).min(self.burst);
        self.filled_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::Bucket;
    use std::time::{Duration, Instant};

    /// How many lines of 10 bytes come through in `seconds`, at one each millisecond.
    fn n_admitted(bucket: &mut Bucket, start: Instant, seconds: u64) -> usize {
        (0..seconds * 1_000)
            .filter(|ms| bucket.admit(10, start + Duration::from_millis(*ms)))
            .count()
    }

    #[test]
    fn the_burst_comes_through_at_once_and_no_more() {
        let now = Instant::now();
        let mut bucket = Bucket::new(100, 1_000, now);
        assert_eq!((0..500).filter(|_| bucket.admit(10, now)).count(), 100);
        assert!(bucket.is_shut());
    }

    #[test]
    fn what_stays_below_the_rate_is_never_refused() {
        let now = Instant::now();
        let mut bucket = Bucket::new(10_000, 20, now);
        assert_eq!(n_admitted(&mut bucket, now, 60), 60_000);
    }

    #[test]
    fn a_flood_is_held_to_the_rate_and_kept_in_whole_pieces() {
        let now = Instant::now();
        // 10,000 bytes a second come in.
        let mut bucket = Bucket::new(1_000, 2_000, now);
        let (mut n_kept, mut n_pieces, mut was_kept) = (0_u64, 0_u64, false);
        for ms in 0..60_000 {
            let is_kept = bucket.admit(10, now + Duration::from_millis(ms));
            n_pieces += u64::from(is_kept && !was_kept);
            n_kept += u64::from(is_kept);
            was_kept = is_kept;
        }
        let bytes = n_kept * 10;
        assert!((50_000..=62_000).contains(&bytes), "{bytes}");
        assert!(n_pieces <= 60, "{n_pieces}");
    }

    #[test]
    fn it_is_full_again_after_a_silence_and_never_fuller() {
        let now = Instant::now();
        let mut bucket = Bucket::new(100, 1_000, now);
        while bucket.admit(10, now) {}
        let later = now + Duration::from_secs(3_600);
        assert_eq!((0..500).filter(|_| bucket.admit(10, later)).count(), 100);
    }

    #[test]
    fn steps_of_time_that_are_shorter_than_a_byte_count() {
        let now = Instant::now();
        let mut bucket = Bucket::new(1_000, 10, now);
        assert!(bucket.admit(10, now));
        // 100 ns are a ten-thousandth of a byte.
        let is_admitted =
            (1..=200_000).any(|step| bucket.admit(10, now + Duration::from_nanos(100) * step));
        assert!(is_admitted);
    }

    #[test]
    fn a_clock_that_stands_still_or_a_line_beyond_the_burst_does_no_harm() {
        let now = Instant::now();
        let mut bucket = Bucket::new(10, 100, now + Duration::from_secs(1));
        assert!(!bucket.admit(1_000, now), "before its own time");
        assert!(bucket.admit(50, now + Duration::from_secs(20)));
    }
}
