//! Whether the edge has more to do than it can. Then it refuses what is new at once, rather
//! than be late for all: requests by 503, other connections by closing them.
//!
//! Two signs: its tasks run late, and its process has nearly all the memory that it may have.
//! Each thread is late by itself, and refuses what comes to it; memory is short for all.
//! The kernel's own figures of pressure are none: on virtual machines they can stand near 100 %
//! at rest.

use crate::lanes::Lane;
use crate::limits;
use crate::shared::Shared;
use roost_runtime::tasks::Tasks;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

/// What the threads of an edge have in common of it: memory.
#[derive(Debug, Default)]
pub(crate) struct Overload(AtomicBool);

impl Overload {
    /// Whether there is no memory for anything new.
    pub(crate) fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, is_full: bool) -> bool {
        self.0.swap(is_full, Ordering::Relaxed) != is_full
    }
}

/// How often in a row a thread was late.
#[derive(Debug, Default)]
struct Lateness(u32);

impl Lateness {
    /// Whether that is too often.
    fn late_by(&mut self, late: Duration, most: Duration) -> bool {
        self.0 = if late > most {
            self.0.saturating_add(1)
        } else {
            0
        };
        self.0 >= limits::OVERLOAD_LATE_TICKS
    }
}

/// What was seen of the memory last.
#[derive(Debug, Default)]
struct Memory {
    /// Since when it is short, and with how many bytes.
    full_since: Option<(Instant, u64)>,
}

impl Memory {
    /// Whether it is short. What the allocator has may never be given back: unless it grows, it
    /// counts for a while only.
    fn is_full(&mut self, used: u64, most: u64, now: Instant) -> bool {
        let percent = most / 100;
        if used <= percent * limits::OVERLOAD_MEMORY_PERCENT {
            self.full_since = None;
            return false;
        }
        match self.full_since {
            Some((since, bytes)) if used <= bytes + percent => {
                now.duration_since(since) < limits::OVERLOAD_MEMORY_LONGEST
            }
            _ => {
                self.full_since = Some((now, used));
                true
            }
        }
    }
}

/// Looks again and again, at each thread and at the memory.
pub(crate) fn watch(shared: &Arc<Shared>, tasks: &Tasks) {
    for lane in shared.lanes.all() {
        let _at = lane.enter();
        tasks.spawn("edge-late", watch_lane(shared.clone(), lane.clone()));
    }
    if let Some(most) = shared.config.memory_max {
        tasks.spawn("edge-memory", watch_memory(shared.clone(), most));
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn watch_lane(shared: Arc<Shared>, lane: Arc<Lane>) {
    let mut tick = ticks(limits::OVERLOAD_TICK);
    let (mut last, mut lateness) = (Instant::now(), Lateness::default());
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.graceful.cancelled() => return,
        }
        let took = last.elapsed();
        last = Instant::now();
        let late = took.saturating_sub(limits::OVERLOAD_TICK);
        let is_late = lateness.late_by(late, shared.config.late_max);
        if lane.set_late(is_late) {
            let (late_ms, thread) = (late.as_millis(), crate::lanes::number());
            say(
                is_late,
                &format_args!("thread {thread} of it is {late_ms} ms late"),
            );
        }
    }
}

async fn watch_memory(shared: Arc<Shared>, most: u64) {
    let mut tick = ticks(limits::OVERLOAD_MEMORY_TICK);
    let mut memory = Memory::default();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.graceful.cancelled() => return,
        }
        let Some(used) = memory_used() else { continue };
        let is_full = memory.is_full(used, most, Instant::now());
        if shared.overload.set(is_full) {
            say(
                is_full,
                &format_args!("it has {used} bytes of memory of {most}"),
            );
        }
    }
}

fn say(is_overload: bool, seen: &dyn std::fmt::Display) {
    if is_overload {
        tracing::warn!(%seen, "the edge takes nothing new: it has more to do than it can");
    } else {
        tracing::info!(%seen, "the edge takes requests again");
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
    use super::{Lateness, Memory, memory_used};
    use std::time::Duration;
    use tokio::time::Instant;

    #[test]
    fn one_pause_is_no_overload_and_several_in_a_row_are() {
        let (most, late) = (Duration::from_secs(1), Duration::from_secs(5));
        let mut lateness = Lateness::default();
        let seen = [late, late, most, late, late, late, late, most];
        let seen = seen.map(|late| lateness.late_by(late, most));
        assert_eq!(seen, [false, false, false, false, false, true, true, false]);
    }

    #[test]
    fn memory_counts_from_nine_tenths_on() {
        let mut memory = Memory::default();
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
            let is_full = memory.is_full(used, 1_000, begun + Duration::from_secs(after));
            assert_eq!(is_full, expected, "{used} after {after}");
        }
        assert!(memory_used().unwrap() > 64 * 1024);
    }
}
