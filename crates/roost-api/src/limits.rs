//! Bounds of the API.

use roost_fsm::RetryPolicy;
use std::time::Duration;

/// Largest JSON body.
pub const BODY_BYTES_MAX: usize = roost_model::limits::API_BODY_BYTES_MAX;
/// Longest time that a JSON body may take to arrive.
pub const BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Most machines that one deployment may ask for.
pub const DEPLOY_MACHINES_MAX: u32 = 200;
/// Most requests that change something worked on at once; their callers may have left.
pub const WORK_MAX: usize = 1_000;
/// Times that a deployment is planned anew because another one came in between.
pub const PLAN_ATTEMPTS: u32 = 5;
/// Longest and default time that a machine may take to become healthy.
pub const WAIT_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// See [`WAIT_TIMEOUT_MAX`].
pub const WAIT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
/// Longest long-poll of `wait`.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Time between two looks at a machine that is to become healthy.
pub const HEALTH_POLL: Duration = Duration::from_millis(50);
/// Time between two looks at what was seen of a canary.
pub(crate) const CANARY_POLL: Duration = Duration::from_millis(200);
/// So long a verdict has to stand before it counts: edges of other nodes tell once a second of what
/// they have seen.
pub(crate) const CANARY_LAG: Duration = Duration::from_secs(3);
/// Time between two looks at the canary itself, which asks its node.
pub(crate) const CANARY_STATE_POLL: Duration = Duration::from_secs(1);
/// How long a machine may run before its deployment says that it does not listen where it should.
pub const LISTEN_NOTICE_AFTER: Duration = Duration::from_secs(3);
/// Time between two looks at what such a machine listens on.
pub const LISTEN_NOTICE_POLL: Duration = Duration::from_secs(1);
/// Most times that a deployment says so of one machine.
pub const LISTEN_NOTICES_MAX: usize = 3;
/// How long a machine without checks must stay up to count as healthy.
pub const SETTLE: Duration = Duration::from_secs(1);
/// After this many ends of its process a new machine counts as broken.
pub const EXITS_MAX: usize = 3;
/// How long an old machine may take to come back when a deployment is undone, beyond its stop time-out.
pub const RESTORE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an old machine may take to stop, beyond its own stop time-out.
pub const STOP_MARGIN: Duration = Duration::from_secs(60);
/// Attempts at an action of the worker that must not be given up at once.
pub const WORKER_ATTEMPTS: u32 = 5;
/// First wait between such attempts; it doubles.
pub const WORKER_BACKOFF: Duration = Duration::from_millis(200);
/// How a step of a deployment is tried again that could not use the control database. Whether a
/// machine fails is decided in the step, and not tried again.
pub(crate) const DEPLOY_RETRY: RetryPolicy = RetryPolicy {
    attempts_max: 3_000,
    budget: Duration::from_secs(24 * 3_600).saturating_add(DEPLOY_STEP_TIMEOUT),
    pause_first: Duration::from_millis(500),
    pause_max: Duration::from_secs(30),
};
/// Longest time that one attempt of a step of a deployment may take: that of all its machines.
pub(crate) const DEPLOY_STEP_TIMEOUT: Duration =
    WAIT_TIMEOUT_MAX.saturating_mul(2 * DEPLOY_MACHINES_MAX);
/// First wait before a deletion is taken up again; it doubles.
pub const TAKE_UP_BACKOFF: Duration = Duration::from_secs(1);
/// Longest such wait.
pub const TAKE_UP_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Most old machines that one deployment removes at once.
pub(crate) const RETIRE_AT_ONCE: usize = 8;
/// How long the machines of an app that is deleted may take to go.
pub const DESTROY_TIMEOUT: Duration = Duration::from_secs(120);
/// Last log lines in a deployment's error.
pub const LOG_TAIL_LINES: usize = 20;
/// Events in an answer about one machine.
pub const MACHINE_EVENTS: usize = 20;
/// Most events in an answer that lists them.
pub const MACHINE_EVENTS_MAX: usize = 200;
/// Log records in an answer when none are asked for, and most.
pub const LOG_RECORDS_DEFAULT: usize = 100;
/// See [`LOG_RECORDS_DEFAULT`].
pub const LOG_RECORDS_MAX: usize = 10_000;
/// Messages that wait for a slow reader of a stream.
pub const STREAM_QUEUE: usize = 64;
/// Shortest time between two reports of how far a pull is.
pub const PULL_REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// How often an event stream looks again when nothing woke it.
pub const STREAM_POLL: Duration = Duration::from_secs(1);
/// Time between two comments that keep an idle event stream open.
pub const STREAM_KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Default and longest time of one `exec`.
pub const EXEC_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// See [`EXEC_TIMEOUT_DEFAULT`].
pub const EXEC_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Most secrets changed by one request.
pub const SECRET_CHANGES_MAX: usize = 500;
/// How many releases of an app keep their images, the newest first, for rollbacks.
pub const RELEASES_KEPT: usize = 10;
/// A build that no release uses keeps its image this long, so that it can still be deployed.
pub const UNUSED_BUILD_AGE: Duration = Duration::from_secs(24 * 3600);
/// Most operations that are listed.
pub(crate) const OPERATIONS: u32 = 100;
/// How long a lease holds when its taker does not say.
pub(crate) const LEASE_TTL_DEFAULT: Duration = Duration::from_secs(30);
/// Most entries of metadata that one machine is given one by one.
pub(crate) const METADATA_ENTRIES_MAX: usize = 100;
/// Longest key of such an entry.
pub(crate) const METADATA_KEY_BYTES_MAX: usize = 128;
/// Longest value of such an entry.
pub(crate) const METADATA_VALUE_BYTES_MAX: usize = 4_096;
/// Time between two questions to each node how it is.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// Longest time for an answer to what the fleet itself asks.
pub(crate) const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Most nodes that are asked at once. Those that do not answer take the longest, and must not
/// keep the others from being asked before they are suspect.
pub(crate) const FAN_OUT: usize = 512;
/// A node that was silent for so long gets no new machines.
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_secs(15);
/// A node that was silent for so long is lost: what has to run is started elsewhere.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(60);
/// Most nodes that are asked for one machine, one after the other.
pub(crate) const PLACEMENT_ATTEMPTS: u32 = 5;
/// Wait before a creation whose answer was lost is repeated on the same node.
pub(crate) const LOST_ANSWER_PAUSE: Duration = Duration::from_millis(200);
/// How long a creation whose answer was lost may still be under way on its node.
pub(crate) const LATE_CALL_MAX: Duration = Duration::from_secs(60);
/// A request for a machine whose node answers without it is forgotten then, unless the machine is
/// kept. Its node is asked twice, one after the other, and either call may come late.
pub(crate) const COMING_MAX: Duration = LATE_CALL_MAX.saturating_mul(2);
/// Time between two looks of a reconciler; half as much again at most, by chance.
pub(crate) const RECONCILE_INTERVAL: Duration = Duration::from_secs(20);
/// Wait of a reconciler that left something undone, because it was much or it failed.
pub(crate) const RECONCILE_PAUSE: Duration = Duration::from_secs(1);
/// Most machines that one look of a reconciler makes or removes: a node that is lost does not
/// bury the others.
pub(crate) const RECONCILE_ACTIONS_MAX: usize = 20;
/// Most machines of which one look records what their nodes tell.
pub(crate) const RECONCILE_NOTES_MAX: usize = 500;
/// Longest wait for the addresses of a host name.
pub(crate) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait before an order that a certificate authority works on is looked at again.
pub(crate) const ORDER_POLL: Duration = Duration::from_secs(2);
/// A certificate is not renewed sooner than so long after it was issued, whatever its life.
pub(crate) const RENEW_MIN: Duration = Duration::from_secs(3600);
/// Most certificates that one look works on.
pub(crate) const CERTIFICATES_PER_LOOK: i64 = 20;
/// Most pieces of work on one certificate in one look; from order to chain there are fewer.
pub(crate) const CERTIFICATE_STEPS_MAX: usize = 8;
/// Most of these at once.
pub(crate) const RECONCILE_AT_ONCE: usize = 8;
/// Most characters of a request's id that an error repeats.
pub(crate) const REQUEST_ID_SHOWN_MAX: usize = 64;
/// Private addresses of apps.
pub(crate) const PRIVATE_ADDRESSES_MAX: u128 = 4_096;
