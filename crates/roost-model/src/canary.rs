//! The judge of a canary: whether a release that is tried out beside the one that serves goes on.

use crate::split::Split;
use std::time::Duration;

/// How a canary is tried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Canary {
    /// What it gets of the app's requests.
    pub split: Split,
    /// The longest time that it is watched.
    pub wait: Duration,
    /// What it is judged by.
    pub rules: Rules,
}

/// What a canary is judged by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// It is judged as soon as it has had so many requests.
    pub requests: u64,
    /// How much larger its share of errors may be than that of the release that serves, 0 to 1.
    pub more_errors: f64,
    /// How many times as slow it may be, by the latency that 95 of 100 answers do not exceed.
    pub times_slower: f64,
}

impl Canary {
    /// A tenth of the requests, for a minute at most.
    pub const PERCENT_DEFAULT: u8 = 10;
    /// See [`Self::PERCENT_DEFAULT`].
    pub const WAIT_DEFAULT: Duration = Duration::from_secs(60);
    /// The longest time that a canary may be watched.
    pub const WAIT_MAX: Duration = Duration::from_secs(3600);
}

impl Rules {
    /// What a canary is judged by unless the deployment says otherwise.
    pub const DEFAULT: Self = Self {
        requests: 100,
        more_errors: 0.05,
        times_slower: 2.0,
    };
    /// Fewer errors than these say nothing, whatever their share.
    pub const ERRORS_MIN: u64 = 5;
    /// A canary that does not do is given up as soon as it has had so many requests.
    pub const REQUESTS_MIN: u64 = 20;
    /// Of fewer answers on either side latencies are not compared.
    pub const ANSWERS_MIN: u64 = 50;
    /// Less than so much slower is not slower.
    pub const SLOWER_MIN: Duration = Duration::from_millis(50);
}

/// What was seen of a release while the canary was watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Requests to its machines.
    pub requests: u64,
    /// Those that were answered with a 5xx, or not at all.
    pub errors: u64,
    /// What is known of the latency that 95 of 100 answers did not exceed.
    pub p95: Option<Between>,
}

/// What is known of a latency that was counted, not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Between {
    /// It is not shorter than this.
    pub above: Duration,
    /// And not longer than this; `None` if nobody knows.
    pub at_most: Option<Duration>,
}

impl Seen {
    #[expect(clippy::cast_precision_loss, reason = "shares need no more digits")]
    fn error_rate(&self) -> f64 {
        self.errors as f64 / self.requests.max(1) as f64
    }
}

/// What becomes of a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the deployment goes on.
    pub has_passed: bool,
    /// Why, for people.
    pub reason: String,
}

/// Judges a canary by what was seen of it and of the release that serves.
pub fn judge(rules: &Rules, old: &Seen, new: &Seen) -> Verdict {
    let failed = |reason| Verdict {
        has_passed: false,
        reason,
    };
    let percent = |rate: f64| format!("{:.1} %", rate * 100.0);
    let (old_rate, new_rate) = (old.error_rate(), new.error_rate());
    if new.errors >= Rules::ERRORS_MIN && new_rate > old_rate + rules.more_errors {
        return failed(format!(
            "{} of its requests failed, {} of those of the release that serves; at most {} more may",
            percent(new_rate),
            percent(old_rate),
            percent(rules.more_errors),
        ));
    }
    let has_answers =
        |seen: &Seen| seen.requests - seen.errors.min(seen.requests) >= Rules::ANSWERS_MIN;
    if let (Some(old_p95), Some(new_p95)) = (old.p95, new.p95)
        && let Some(old_most) = old_p95.at_most
        && has_answers(old)
        && has_answers(new)
        // Surely slower, wherever between their bounds the two are.
        && new_p95.above >= old_most.mul_f64(rules.times_slower)
        && new_p95.above >= old_most + Rules::SLOWER_MIN
    {
        return failed(format!(
            "more than 5 % of its answers took longer than {} ms, and 95 % of those of the release \
             that serves came within {} ms; {} times as long is the most",
            new_p95.above.as_millis(),
            old_most.as_millis(),
            rules.times_slower,
        ));
    }
    let reason = match new.requests {
        0 => "it has answered no request, so only its checks speak for it".to_owned(),
        n if n < rules.requests => {
            format!(
                "nothing speaks against it, after {n} requests of {}",
                rules.requests
            )
        }
        n => format!("{} of its {n} requests failed", percent(new_rate)),
    };
    Verdict {
        has_passed: true,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::{Between, Rules, Seen, judge};
    use std::time::Duration;

    fn seen(requests: u64, errors: u64, p95_ms: u64) -> Seen {
        Seen {
            requests,
            errors,
            p95: (requests > errors).then(|| {
                let exact = Duration::from_millis(p95_ms);
                Between {
                    above: exact,
                    at_most: Some(exact),
                }
            }),
        }
    }

    fn passes(old: Seen, new: Seen) -> bool {
        judge(&Rules::DEFAULT, &old, &new).has_passed
    }

    #[test]
    fn a_canary_fails_by_more_errors_and_not_by_those_that_the_old_release_has_too() {
        assert!(!passes(seen(900, 0, 10), seen(100, 6, 10)));
        assert!(
            passes(seen(900, 0, 10), seen(100, 5, 10)),
            "5 % is the most"
        );
        assert!(passes(seen(900, 90, 10), seen(100, 14, 10)));
        assert!(!passes(seen(900, 90, 10), seen(100, 16, 10)));
        assert!(
            !passes(Seen::default(), seen(6, 6, 0)),
            "also of few requests"
        );
        assert!(
            passes(seen(900, 0, 10), seen(4, 4, 0)),
            "few errors are chance"
        );
        let verdict = judge(&Rules::DEFAULT, &seen(900, 9, 10), &seen(100, 50, 10));
        assert!(
            verdict
                .reason
                .starts_with("50.0 % of its requests failed, 1.0 % of those"),
            "{}",
            verdict.reason
        );
    }

    #[test]
    fn a_canary_fails_when_it_is_slow_if_there_are_enough_answers_to_tell() {
        assert!(!passes(seen(900, 0, 60), seen(100, 0, 130)));
        assert!(passes(seen(900, 0, 60), seen(100, 0, 119)));
        assert!(
            passes(seen(900, 0, 10), seen(100, 0, 50)),
            "too little to matter"
        );
        assert!(passes(seen(900, 0, 60), seen(49, 0, 500)));
        assert!(passes(seen(49, 0, 60), seen(100, 0, 500)));
    }

    #[test]
    fn without_requests_a_canary_passes_and_the_judge_says_so() {
        let verdict = judge(&Rules::DEFAULT, &seen(900, 0, 10), &Seen::default());
        assert!(verdict.has_passed && verdict.reason.contains("answered no request"));
    }
}
