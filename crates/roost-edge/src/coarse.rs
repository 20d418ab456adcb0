//! A clock that is some milliseconds late, and costs a fraction of a look at the real one: for
//! what is measured in tenths of seconds and noted for each request.

use nix::time::{ClockId, clock_gettime};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// It is no later than this: a tick of a kernel with 100 a second.
pub(crate) const LATE_MAX: Duration = Duration::from_millis(10);

/// The same moment by both clocks, or a little earlier by the first.
static ORIGIN: LazyLock<(Instant, Duration)> = LazyLock::new(|| {
    // In this order: what passes in between makes the coarse clock late, not early.
    let origin = Instant::now();
    let then = read(ClockId::CLOCK_MONOTONIC);
    (origin, then.unwrap_or_default())
});

/// Now, or up to a tick of the kernel ago (at most [`LATE_MAX`]); never a later moment than
/// [`Instant::now`] would give.
pub(crate) fn now() -> Instant {
    let (origin, then) = *ORIGIN;
    match read(ClockId::CLOCK_MONOTONIC_COARSE) {
        Some(now) => origin + now.saturating_sub(then),
        None => Instant::now(),
    }
}

/// Milliseconds since a moment.
pub(crate) fn ms_since(moment: Instant) -> u64 {
    let since = now().saturating_duration_since(moment);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn read(clock: ClockId) -> Option<Duration> {
    clock_gettime(clock).ok().map(Duration::from)
}

#[cfg(test)]
mod tests {
    use super::now;
    use std::time::{Duration, Instant};

    #[test]
    fn it_goes_with_the_real_clock_and_is_never_ahead_of_it() {
        for _ in 0..200 {
            let before = Instant::now();
            let coarse = now();
            assert!(coarse <= Instant::now());
            assert!(before.saturating_duration_since(coarse) < Duration::from_millis(100));
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}
