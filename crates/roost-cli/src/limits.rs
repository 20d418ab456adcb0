//! Bounds of the client.

use std::time::Duration;

/// Most bytes of a folder that is sent for a build.
pub(crate) const UPLOAD_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Most bytes of a saved image that is sent: what the platform takes.
pub(crate) const ARCHIVE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Most files of a folder that is sent for a build.
pub(crate) const UPLOAD_FILES_MAX: usize = 100_000;
/// Largest file that is put into a machine by `[[files]]`.
pub(crate) const MACHINE_FILE_BYTES_MAX: u64 = 512 * 1024;
/// Chunks of an upload that wait for the network.
pub(crate) const UPLOAD_CHUNKS_QUEUED: usize = 16;
/// Longest line of a stream of events.
pub(crate) const STREAM_LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Time for one request that is not a stream.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);
/// Time for the answer about a command in a machine to come, after the time that the command has.
pub(crate) const EXEC_MARGIN: Duration = Duration::from_secs(30);
/// Time for a request that creates something to be answered, with all its repetitions.
pub(crate) const CREATE_TIMEOUT: Duration = Duration::from_secs(900);
/// Time that a repetition waits for an API whose connection broke.
pub(crate) const RECONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time without news after which it is said what is being waited for.
pub(crate) const NEWS_INTERVAL: Duration = Duration::from_secs(10);
/// Difference of the clocks of client and platform from which the doctor warns.
pub(crate) const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5);
/// Time for a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the platform to tell names while a shell completes a line.
pub(crate) const COMPLETION_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after a Ctrl-C in which a second one cancels the deploy.
pub(crate) const SECOND_INTERRUPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for a deploy when `--timeout` is absent.
pub(crate) const DEPLOY_TIMEOUT: Duration = Duration::from_secs(1800);
/// Time for `roostd` to answer after it was started.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for the URL of a new release to answer.
pub(crate) const PROOF_TIMEOUT: Duration = Duration::from_secs(8);
/// Pause between two attempts.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Time between two looks at an operation that is watched.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_millis(250);
