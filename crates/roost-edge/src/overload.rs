//! Whether the edge has more to do than it can. Then it refuses what is new at once, rather
//! than be late for all: requests by 503, other connections by closing them.
//!
//! Two signs: its tasks run late, and its process has nearly all the memory that it may have.
//! The kernel's own figures of pressure are none: on virtual machines they can stand near 100 %
//! at rest.

use crate::limits;
use crate::shared::Shared;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The state of an edge.
#[derive(Debug, Default)]
pub(crate) struct Overload(AtomicBool);

impl Overload {
    /// Whether nothing new is taken.
    pub(crate) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, is_on: bool) -> bool {
        self.0.swap(is_on, Ordering::Relaxed) != is_on
    }
}

/// What was seen last.
#[derive(Debug, Default)]
struct Signs {
    late_in_a_row: u32,
    is_full: bool,
    /// Since when, and with how many bytes.
    full_since: Option<(Instant, u64)>,
}

impl Signs {
    fn late_by(&mut self, late: Duration, most: Duration) {
        self.late_in_a_row = if late > most {
            self.late_in_a_row.saturating_add(1)
        } else {
            0
        };
    }

    /// What the allocator has may never be given back: unless it grows, it counts for a while only.
    fn memory(&mut self, used: u64, most: u64, now: Instant) {
        let percent = most / 100;
        if used <= percent * limits::OVERLOAD_MEMORY_PERCENT {
            (self.is_full, self.full_since) = (false, None);
            return;
        }
        match self.full_since {
            Some((since, bytes)) if used <= bytes + percent => {
                self.is_full = now.duration_since(since) < limits::OVERLOAD_MEMORY_LONGEST;
            }
            _ => (self.is_full, self.full_since) = (true, Some((now, used))),
        }
    }

    fn is_overload(&self) -> bool {
        self.is_full || self.late_in_a_row >= limits::OVERLOAD_LATE_TICKS
    }
}

/// Looks again and again.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let (late_max, memory_max) = (shared.config.late_max, shared.config.memory_max);
    let mut tick = interval(limits::OVERLOAD_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut signs = Signs::default();
    let (mut last, mut n_ticks) = (Instant::now(), 0_u32);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.graceful.cancelled() => return,
        }
        let took = last.elapsed();
        last = Instant::now();
        signs.late_by(took.saturating_sub(limits::OVERLOAD_TICK), late_max);
        if n_ticks.is_multiple_of(limits::OVERLOAD_MEMORY_TICKS)
            && let Some(most) = memory_max
            && let Some(used) = memory_used()
        {
            signs.memory(used, most, last);
        }
        n_ticks = n_ticks.wrapping_add(1);
        let is_overload = signs.is_overload();
        if shared.overload.set(is_overload) {
            let (late_ms, is_full) = (took.as_millis(), signs.is_full);
            if is_overload {
                tracing::warn!(
                    late_ms,
                    is_full,
                    "the edge takes nothing new: it has more to do than it can"
                );
            } else {
                tracing::info!("the edge takes requests again");
            }
        }
    }
}

/// Memory of this process that is not only in files.
fn memory_used() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let anonymous = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = anonymous.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::{Signs, memory_used};
    use std::time::Duration;
    use tokio::time::Instant;

    #[test]
    fn one_pause_is_no_overload_and_several_in_a_row_are() {
        let (most, late) = (Duration::from_secs(1), Duration::from_secs(5));
        let mut signs = Signs::default();
        let mut seen = Vec::new();
        for late in [late, late, most, late, late, late, late, most] {
            signs.late_by(late, most);
            seen.push(signs.is_overload());
        }
        assert_eq!(seen, [false, false, false, false, false, true, true, false]);
    }

    #[test]
    fn memory_counts_from_nine_tenths_on() {
        let mut signs = Signs::default();
        let begun = Instant::now();
        for (used, after, expected) in [
            (0, 0, false),
            (900, 1, false),
            (901, 2, true),
            (899, 3, false),
            (901, 4, true),
            (911, 33, true),
            (911, 34, false),
            (912, 35, true),
            (913, 64, true),
            (913, 65, false),
        ] {
            signs.memory(used, 1_000, begun + Duration::from_secs(after));
            assert_eq!(signs.is_overload(), expected, "{used} after {after}");
        }
        assert!(memory_used().unwrap() > 64 * 1024);
    }
}
