//! The worker's bounds.

use roost_fsm::journal::PruneRule;
use std::time::Duration;

/// Most machines of one node unless the configuration says less.
///
/// Each needs 65,536 host user ids, and ids are 32 bits wide.
pub(crate) const MACHINES_MAX: u32 = 60_000;
/// The host id at which the first machine's range begins.
pub(crate) const ID_RANGE_FIRST: u32 = 1_000_000;
/// Host ids per machine.
pub(crate) const ID_RANGE_SIZE: u32 = 65_536;
/// Events kept per machine; older ones are dropped.
pub(crate) const EVENTS_PER_MACHINE_MAX: u32 = 200;
/// Longest wait for a state (Machines API: 60 s).
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest one driver launch may take; the image is on disk by then.
///
/// The driver bounds its own steps: an emulated guest has 180 s to be resumed in
/// vain, 180 s to boot and 180 s to start its app.
pub(crate) const LAUNCH_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest wait for the proof of a rung; an emulated guest that boots in vain is given up after
/// 180 s.
pub(crate) const PROOF_TIMEOUT: Duration = Duration::from_secs(200);
/// Longest pull and unpack of an image.
pub(crate) const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1_800);
/// Time beyond that of a suspend for the driver to clean up.
pub(crate) const SUSPEND_MARGIN: Duration = Duration::from_secs(60);
/// Longest reason for a failed start or suspend that is kept.
pub(crate) const REASON_BYTES_MAX: usize = 4_096;
/// Starts that fail because of the host are tried this often within `restart::WINDOW`.
pub(crate) const HOST_FAILURES_MAX: u32 = 3;
/// Longest one driver call (signal, remove, exec set-up) may take.
pub(crate) const DRIVER_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// After SIGKILL the kernel ends a process at once; after this the driver removes it by force.
pub(crate) const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait before a failed removal, adoption or database write is tried again.
pub(crate) const RETRY_DELAY: Duration = Duration::from_secs(1);
/// After a machine is withdrawn, the edge may still be sending what it had already routed.
pub(crate) const DRAIN_SETTLE: Duration = Duration::from_millis(50);
/// How often the gauge is read while draining.
pub(crate) const DRAIN_POLL: Duration = Duration::from_millis(20);
/// Pause after the first try of a port that is not open yet; doubles with each further one.
///
/// Small programs listen within milliseconds, and requests wait for this.
pub(crate) const PROBE_INTERVAL_FIRST: Duration = Duration::from_millis(2);
/// The most that it grows to while the machine is young.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// From this age of a machine on, a port that is not open yet is tried more rarely.
pub(crate) const PROBE_FAST_PERIOD: Duration = Duration::from_secs(60);
/// The interval from then on.
pub(crate) const PROBE_INTERVAL_SLOW: Duration = Duration::from_secs(1);
/// Longest one such try may take.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after the first run of a check that has not passed yet; doubles with each further one.
pub(crate) const FIRST_PASS_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The most that it grows to while the machine is young.
pub(crate) const FIRST_PASS_INTERVAL: Duration = Duration::from_millis(250);
/// The same of checks that run a command.
pub(crate) const FIRST_PASS_INTERVAL_OF_COMMANDS: Duration = Duration::from_secs(2);
/// The first run of a check of a machine that was just started comes within this time.
pub(crate) const CHECK_FIRST_PAUSE_MAX: Duration = Duration::from_millis(5);
/// The first runs of checks that passed before the worker was restarted are spread over this time,
/// or their interval if that is shorter.
pub(crate) const CHECK_SPREAD_MAX: Duration = Duration::from_secs(30);
/// Checks over the network that run at the same moment on one node.
///
/// One that hangs costs a connection and little memory, for a minute at most.
pub(crate) const CHECKS_IN_FLIGHT_MAX: usize = 512;
/// Checks that run a command at the same moment on one node; each costs processes, and up to twice
/// `EXEC_OUTPUT_BYTES_MAX`.
pub(crate) const COMMAND_CHECKS_IN_FLIGHT_MAX: usize = 16;
/// Checks that run at the same moment in one machine.
pub(crate) const CHECKS_PER_MACHINE_MAX: usize = 4;
/// Text of a check's answer that is kept.
pub(crate) const CHECK_OUTPUT_BYTES_MAX: usize = 512;
/// Largest status line and headers that a check reads, in bytes.
pub(crate) const CHECK_HEAD_BYTES_MAX: u32 = 32 * 1024;
/// Largest message that a gRPC check reads.
pub(crate) const CHECK_GRPC_BYTES_MAX: usize = 4 * 1024;
/// What a machine may send ahead to a gRPC check; the least that HTTP/2 knows for a connection.
pub(crate) const CHECK_WINDOW_BYTES: u32 = 65_535;
/// Wait for the start of a body once the status is known.
pub(crate) const CHECK_BODY_WAIT: Duration = Duration::from_millis(500);
/// Time that start waits for machines to be adopted; late ones go on by themselves.
pub(crate) const ADOPT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked for machines whose schedule is due: so late may one be started.
pub(crate) const SCHEDULE_INTERVAL: Duration = Duration::from_secs(1);
/// Of the time without traffic before a machine is put to sleep, one part in so many passes between
/// two looks.
pub(crate) const SLEEP_LOOKS: u32 = 10;
/// Most time between two such looks, and least.
pub(crate) const SLEEP_INTERVAL_MAX: Duration = Duration::from_secs(10);
pub(crate) const SLEEP_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// How long fewer machines may be awake than are to be before others are woken, if machines are not
/// put to sleep sooner: a node that is started again, or cannot be reached for a moment, is back by
/// then.
pub(crate) const LACK_MAX: Duration = Duration::from_secs(30);
/// Machines that are woken at one such look, so that those that relied on one node do not come all
/// at once.
pub(crate) const LACK_STARTS_MAX: usize = 50;
/// Machines that are started at one look, so that those of the same minute do not come all at once.
pub(crate) const SCHEDULE_STARTS_MAX: u32 = 50;
/// How often the housekeeper runs.
pub(crate) const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(30);
/// How long the record of a destroyed machine is kept.
pub(crate) const DESTROYED_RETENTION: Duration = Duration::from_secs(3_600);
/// Longest time for which room is held for a machine to come.
pub(crate) const RESERVATION_MAX: Duration = Duration::from_secs(900);
/// Longest request id.
pub(crate) const REQUEST_ID_BYTES_MAX: usize = 128;
/// Longest text of why a machine is on this node; of a longer one the rest is dropped.
pub(crate) const PLACEMENT_BYTES_MAX: usize = 1_024;
/// Which operations of machines are forgotten.
pub(crate) const OPERATIONS_KEPT: PruneRule = PruneRule {
    keep_for: Duration::from_secs(30 * 24 * 3600),
    keep_per_subject: 50,
    batch: 1_000,
};
