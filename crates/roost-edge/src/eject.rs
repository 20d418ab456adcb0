//! Passive ejection: a machine whose requests fail gets none for a while.
//!
//! Beside the worker's checks, which see a machine every few seconds, the edge
//! sees each request. Five in a row that got no answer eject, and so do more
//! bad outcomes than good ones within ten seconds, with the app's own errors
//! among the bad; for one second, and twice as long each time until a request
//! succeeds, up to a minute. When that time is over, one request a second is
//! let through to find out.

use crate::limits;
use std::time::Duration;

/// How a request to a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was answered.
    Answered,
    /// It was answered with a 5xx: the app's word, not a lack of one.
    Error,
    /// The machine was not reached, or did not answer.
    NoAnswer,
}

/// One machine's record. Times are since any fixed moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ejection {
    /// Requests without an answer since the last one with.
    in_a_row: u32,
    /// Successes and failures of each of the last seconds, by second modulo length.
    seconds: [(u32, u32); limits::EJECTION_WINDOW_SECONDS],
    /// The second that was written last.
    newest: u64,
    /// Times ejected since the last success.
    times: u32,
    /// Until when nothing goes there; over when it is past.
    until: Option<Duration>,
    /// Whether a request is finding out if it is well again.
    is_probed: bool,
}

impl Ejection {
    /// Notes how a request ended; whether the machine has earned an ejection by it.
    pub(crate) fn note(&mut self, now: Duration, outcome: Outcome) -> bool {
        self.forget(now.as_secs());
        let slot = &mut self.seconds[index(self.newest)];
        if outcome != Outcome::NoAnswer {
            self.in_a_row = 0;
        }
        if outcome == Outcome::Answered {
            slot.0 = slot.0.saturating_add(1);
            // What began before the ejection says nothing about it.
            if self.is_probed {
                (self.times, self.until, self.is_probed) = (0, None, false);
            }
            return false;
        }
        slot.1 = slot.1.saturating_add(1);
        if outcome == Outcome::NoAnswer {
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
        let sum =
            |(a, b): (u32, u32), (c, d): &(u32, u32)| (a.saturating_add(*c), b.saturating_add(*d));
        let (good, bad) = self.seconds.iter().fold((0, 0), sum);
        let is_burst = good.saturating_add(bad) >= limits::EJECTION_SAMPLES_MIN && bad > good;
        // One that failed when it was let through again is out again at once.
        if self.times > 0 {
            return self.is_probed;
        }
        self.in_a_row >= limits::EJECTION_FAILURES_IN_A_ROW || is_burst
    }

    /// Ejects it; `spread` of 0 to 1 makes machines that failed together come back apart.
    pub(crate) fn eject(&mut self, now: Duration, spread: f64) {
        let doubled = limits::EJECTION_FIRST.saturating_mul(1 << self.times.min(16));
        let jitter = 0.8 + 0.4 * spread.clamp(0.0, 1.0);
        self.until = Some(now + doubled.min(limits::EJECTION_LONGEST).mul_f64(jitter));
        self.times = self.times.saturating_add(1);
        self.is_probed = false;
    }

    /// Whether it has been ejected and has not been well since.
    pub(crate) fn is_doubted(&self) -> bool {
        self.times > 0
    }

    /// Whether nothing goes there now.
    pub(crate) fn is_out(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// A request goes there: while it is not known to be well, no other for a second.
    pub(crate) fn let_through(&mut self, now: Duration) {
        if self.times > 0 {
            self.until = Some(now + limits::EJECTION_PROBE_INTERVAL);
            self.is_probed = true;
        }
    }

    fn forget(&mut self, second: u64) {
        let passed = second.saturating_sub(self.newest);
        for back in 0..passed.min(limits::EJECTION_WINDOW_SECONDS as u64) {
            self.seconds[index(second - back)] = (0, 0);
        }
        self.newest = self.newest.max(second);
    }
}

fn index(second: u64) -> usize {
    usize::try_from(second % limits::EJECTION_WINDOW_SECONDS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Ejection, Outcome};
    use crate::limits;
    use std::time::Duration;

    fn at(ms: u64) -> Duration {
        Duration::from_secs(100) + Duration::from_millis(ms)
    }

    #[test]
    fn five_failures_in_a_row_eject_and_four_do_not() {
        let mut record = Ejection::default();
        for _ in 0..3 {
            for _ in 1..limits::EJECTION_FAILURES_IN_A_ROW {
                assert!(!record.note(at(0), Outcome::NoAnswer));
            }
            assert!(!record.note(at(0), Outcome::Answered));
        }
        // By now most of the last seconds' requests have failed; of those of old nothing counts.
        for _ in 1..limits::EJECTION_FAILURES_IN_A_ROW {
            assert!(!record.note(at(60_000), Outcome::NoAnswer));
        }
        assert!(record.note(at(60_000), Outcome::NoAnswer));
    }

    #[test]
    fn errors_of_the_app_eject_only_as_a_burst() {
        let mut record = Ejection::default();
        for _ in 1..limits::EJECTION_SAMPLES_MIN {
            assert!(!record.note(at(0), Outcome::Error));
        }
        assert!(record.note(at(0), Outcome::Error));
        let mut record = Ejection::default();
        for _ in 0..limits::EJECTION_FAILURES_IN_A_ROW {
            assert!(!record.note(at(0), Outcome::NoAnswer) && !record.note(at(0), Outcome::Error));
        }
    }

    #[test]
    fn a_burst_of_failures_ejects_though_some_succeed() {
        let mut record = Ejection::default();
        let ejected = (0..limits::EJECTION_SAMPLES_MIN + 2).find(|n| {
            record.note(
                at(u64::from(*n) * 100),
                if n % 3 == 0 {
                    Outcome::Answered
                } else {
                    Outcome::Error
                },
            )
        });
        assert_eq!(ejected, Some(limits::EJECTION_SAMPLES_MIN - 1));
    }

    #[test]
    fn each_ejection_is_twice_as_long_until_a_success() {
        let mut record = Ejection::default();
        record.eject(at(0), 0.5);
        assert!(record.is_out(at(999)) && !record.is_out(at(1000)));
        record.let_through(at(1000));
        assert!(record.is_out(at(1500)), "one request at a time finds out");
        assert!(record.note(at(1500), Outcome::NoAnswer));
        record.eject(at(1500), 0.5);
        assert!(record.is_out(at(3499)) && !record.is_out(at(3500)));
        assert!(!record.note(at(3600), Outcome::Answered));
        assert!(record.is_doubted(), "that request had begun before");
        record.let_through(at(3700));
        assert!(!record.note(at(3800), Outcome::Answered));
        assert!(!record.is_out(at(3800)) && !record.is_doubted());
        for _ in 0..20 {
            record.eject(at(5000), 0.5);
        }
        assert!(!record.is_out(at(5000) + limits::EJECTION_LONGEST));
    }
}
