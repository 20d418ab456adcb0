//! The guest's wall clock and random numbers, which it gets from the node.

use crate::failure::{Attempt as _, Failure};
use crate::sys;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use std::fs::File;
use std::time::Duration;

/// Shortest seed that is accepted, bytes: as much as the kernel's generator holds.
const SEED_BYTES_MIN: usize = 32;
/// Longest seed that is accepted, bytes.
const SEED_BYTES_MAX: usize = 512;
const NS_PER_SECOND: i64 = 1_000_000_000;

/// The wall clock, nanoseconds since the epoch.
pub(crate) fn now_unix_ns() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec
        .saturating_mul(NS_PER_SECOND)
        .saturating_add(now.tv_nsec)
}

/// Time since the kernel started, suspension included.
pub(crate) fn since_kernel_start() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// Steps the wall clock.
pub(crate) fn set(unix_ns: i64) -> Result<(), Failure> {
    if unix_ns <= 0 {
        return Err(Failure::request("the time of the node is missing"));
    }
    let time = Timespec {
        tv_sec: unix_ns / NS_PER_SECOND,
        tv_nsec: unix_ns % NS_PER_SECOND,
    };
    clock_settime(ClockId::Realtime, time).attempt("set the clock")
}

/// Feeds the kernel's random number generator, and has it start anew from that.
pub(crate) fn seed(seed: &[u8]) -> Result<(), Failure> {
    if !(SEED_BYTES_MIN..=SEED_BYTES_MAX).contains(&seed.len()) {
        return Err(Failure::request(format!(
            "the random seed has {} bytes, not {SEED_BYTES_MIN} to {SEED_BYTES_MAX}",
            seed.len()
        )));
    }
    let generator = File::options()
        .write(true)
        .open("/dev/urandom")
        .attempt("open /dev/urandom")?;
    sys::add_entropy(&generator, seed).attempt("seed the random numbers")
}
