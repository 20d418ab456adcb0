//! What the tests of every workflow and every journal call.
//!
//! - [`check`]: fails each step, runs each step twice, cancels at each step, and kills the
//!   process at each journal write; the workflow's author says what must hold at the end.
//! - [`contract`]: what every [`crate::Journal`] has to do.

pub mod check;
pub mod contract;
mod meddle;
pub(crate) mod mortal;
#[cfg(test)]
mod tests;

pub use check::{
    Checked, Flaw, Scenario, cancel_at_each_step, check_all, fail_each_step,
    kill_at_each_journal_write, run_each_step_twice,
};

use roost_model::time::Timestamp;
use roost_runtime::clock::Clock;
use tokio::time::Instant;

/// A wall clock that goes as tokio's does, so that a test may pause both.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    began: Instant,
}

impl TokioClock {
    /// When such clocks begin: 2026-01-01.
    const EPOCH: Timestamp = Timestamp::from_ms(1_767_225_600_000);

    /// A clock that begins now.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
        }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Self::EPOCH.after(self.began.elapsed())
    }
}
