//! When to renew, and when to try again. Chance comes from the caller, from 0 to 1.

use crate::limits;
use roost_model::time::Timestamp;
use std::time::Duration;

/// When a certificate is to be renewed: after two thirds of its life, or up to a twentieth of
/// its life before that, so that certificates of one day are not renewed in one moment.
pub fn renew_at(not_before: Timestamp, not_after: Timestamp, chance: f64) -> Timestamp {
    let life = not_after.since(not_before);
    not_before.after(life.mul_f64(2.0 / 3.0 - 0.05 * chance.clamp(0.0, 1.0)))
}

/// When to try again after so many failures in a row; up to a tenth later.
pub fn retry_at(now: Timestamp, n_failures: u64, chance: f64) -> Timestamp {
    let step = usize::try_from(n_failures.saturating_sub(1)).unwrap_or(usize::MAX);
    let last = limits::BACKOFF.len() - 1;
    now.after(later(limits::BACKOFF[step.min(last)], chance))
}

/// When to try again after the authority has said that it is too much.
pub fn after_rate_limit(now: Timestamp, asked: Option<Duration>, chance: f64) -> Timestamp {
    let wait = asked.unwrap_or(limits::RATE_LIMITED);
    now.after(later(wait.min(limits::RETRY_AFTER_MAX), chance))
}

fn later(wait: Duration, chance: f64) -> Duration {
    wait.mul_f64(1.0 + 0.1 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::{after_rate_limit, renew_at, retry_at};
    use roost_model::time::Timestamp;
    use std::time::Duration;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const START: Timestamp = Timestamp::from_ms(1_700_000_000_000);

    #[test]
    fn a_certificate_of_ninety_days_is_renewed_well_before_its_end_and_not_with_all_others() {
        let end = START.after(DAY * 90);
        for (chance, days) in [(0.0, 60.0), (0.5, 57.75), (1.0, 55.5)] {
            let after = renew_at(START, end, chance).since(START).as_secs_f64();
            assert!(
                (after / DAY.as_secs_f64() - days).abs() < 0.01,
                "{chance}: {after}"
            );
        }
    }

    #[test]
    fn failures_wait_longer_and_longer_and_fewer_than_five_fit_into_an_hour() {
        let mut at = START;
        let mut n_in_first_hour = 1;
        for n_failures in 1..10 {
            let next = retry_at(at, n_failures, 0.0);
            assert!(next > at && next.since(at) <= DAY);
            at = next;
            n_in_first_hour += u64::from(at.since(START) < Duration::from_secs(3600));
        }
        assert_eq!(n_in_first_hour, 4);
        assert_eq!(retry_at(START, u64::MAX, 0.0), START.after(DAY));
    }

    #[test]
    fn an_authority_is_left_alone_for_as_long_as_it_asks_but_not_for_ever() {
        let hour = Duration::from_secs(3600);
        assert_eq!(after_rate_limit(START, None, 0.0), START.after(hour));
        let asked = after_rate_limit(START, Some(hour * 5), 0.0);
        assert_eq!(asked, START.after(hour * 5));
        let endless = after_rate_limit(START, Some(DAY * 365), 1.0);
        assert!(endless.since(START) < DAY * 8);
    }
}
