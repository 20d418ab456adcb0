//! Bounds of durable workflows.

use std::time::Duration;

/// Longest subject of a run.
pub const SUBJECT_BYTES_MAX: usize = 200;
/// Longest key of a run.
pub const KEY_BYTES_MAX: usize = 300;
/// Longest parameters of a run, as JSON.
pub const PARAMS_BYTES_MAX: usize = 256 * 1024;
/// Longest output of a step, as JSON.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Longest reason or cause that is kept; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 4_096;
/// Most steps of a workflow.
pub const STEPS_MAX: usize = 100;
/// Runs of one subject that may wait for their turn.
pub const QUEUE_MAX: u32 = 16;
/// Generations of runs: a child of a child of a run, and no more.
pub const DEPTH_MAX: u32 = 3;
/// Unfinished children of one run.
pub const CHILDREN_MAX: u32 = 256;
/// Runs without a parent that one engine executes at the same moment. Children come on top:
/// their parents wait for them.
pub const RUNS_UNDER_WAY_MAX: usize = 256;

/// How long a lease lasts without a heartbeat.
pub const LEASE: Duration = Duration::from_secs(15);
/// Pause between two heartbeats; two may fail before a lease ends.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Pause between two looks for runs that nobody holds, when nothing says that there are some.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Pause between two looks at a run that is waited for: another process may execute it.
pub const WAIT_POLL: Duration = Duration::from_secs(1);
/// Pause after a journal that could not be used; doubles with each further failure.
pub const JOURNAL_BACKOFF: Duration = Duration::from_millis(200);
/// The most that it grows to.
pub const JOURNAL_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Time that one attempt of a step has, unless it says otherwise.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Attempts of one step in one direction that may be cut off by the end of a process.
///
/// They say nothing about the step, unless it is the step that ends the process. An undo, or a
/// step past the point of no return, is tried further.
pub const CUT_OFFS_MAX: usize = 20;
/// Pause before each further one of those.
pub const CUT_OFF_PAUSE: Duration = Duration::from_secs(60);

/// How long an ended run is kept.
pub const KEEP_FOR: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Ended runs kept of one subject.
pub const KEEP_PER_SUBJECT: u32 = 50;
/// Pause between two prunings.
pub const PRUNE_INTERVAL: Duration = Duration::from_secs(600);
/// Most runs that one pruning removes.
pub const PRUNE_BATCH: u32 = 500;
/// Most runs in one answer that lists them.
pub const LIST_MAX: u32 = 500;
