//! Bounds of the guest's first process.

use std::time::Duration;

/// User and group ids are below this, as in containers, where each machine has so many.
pub(crate) const IDS_MAX: u32 = 65_536;
/// Most processes of an app.
pub(crate) const PROCESSES_MAX: usize = 64;
/// Threads for calls that may block: module loading, files.
pub(crate) const BLOCKING_THREADS_MAX: usize = 4;
/// How long such a thread waits for work: for ever, since in a guest full of
/// processes no other can be started.
pub(crate) const BLOCKING_THREADS_KEEP_ALIVE: Duration = Duration::MAX;
/// Time for a device to appear after its driver was loaded.
pub(crate) const DEVICE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks for a device.
pub(crate) const DEVICE_POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Pause before a serial port that nobody holds at the other end is tried again.
pub(crate) const PORT_RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// Pause before the next connection is accepted when one could not be.
pub(crate) const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Connections on the vsock port that wait to be accepted.
pub(crate) const VSOCK_BACKLOG: i32 = 4;

/// Bytes read from an output pipe at once (the size of a pipe).
pub(crate) const OUTPUT_READ_BYTES: usize = roost_agent::limits::PART_BYTES_MAX;
/// Output of the app that nobody has fetched; more makes the app wait.
pub(crate) const OUTPUT_UNSENT_BYTES_MAX: usize = 512 * 1024;
/// Output kept after it was fetched, for a node whose session broke before it arrived:
/// more than a session has under way (HTTP/2 window and buffers).
pub(crate) const OUTPUT_SENT_BYTES_MAX: usize = 512 * 1024;
/// Lines of init that are kept above that, when nobody fetches.
pub(crate) const OUTPUT_INIT_BYTES_MAX: usize = 64 * 1024;
/// What keeping one piece of output costs beyond its bytes.
pub(crate) const OUTPUT_EVENT_COST_BYTES: usize = 64;
/// Silence of a pipe after which nothing more is expected once the app has ended.
pub(crate) const OUTPUT_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Most reads from a pipe once the app has ended: a pipe holds one such read.
pub(crate) const OUTPUT_DRAIN_READS_MAX: u32 = 16;
/// Time of the other processes of an app to end after the first has.
pub(crate) const PROCESSES_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Commands that run at once beside the app.
pub(crate) const EXEC_SESSIONS_MAX: usize = 64;
/// Input of a command that it has not read; more makes the caller wait.
pub(crate) const EXEC_STDIN_BYTES_MAX: usize = 256 * 1024;
/// Pieces of output of a command on their way to the caller.
pub(crate) const EXEC_OUTPUT_QUEUE: usize = 4;
/// Time to read the rest of a command's output once it has ended.
pub(crate) const EXEC_DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Time for the processes of a cgroup to end after they were killed, or to be frozen.
pub(crate) const CGROUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks at a cgroup.
pub(crate) const CGROUP_POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Time that the rest of the output and the report of the end have to be fetched
/// before the guest is powered off.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between the answer to a shutdown and the end, for the answer to arrive.
pub(crate) const POWER_OFF_DELAY: Duration = Duration::from_millis(50);
/// Time for dirty pages to reach the disks at shutdown.
pub(crate) const SYNC_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that an app has to stop.
pub(crate) const STOP_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Tries to unmount a disk.
pub(crate) const UNMOUNT_TRIES: u32 = 5;
/// Pause between them.
pub(crate) const UNMOUNT_INTERVAL: Duration = Duration::from_millis(100);

/// Most addresses of a guest.
pub(crate) const ADDRESSES_MAX: usize = 64;
/// Most of the image's `/etc/hosts` that is kept, bytes.
pub(crate) const HOSTS_BYTES_MAX: u64 = 1024 * 1024;
/// Longest file of `/proc` that is read, bytes.
pub(crate) const PROC_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most sockets that are listed.
pub(crate) const SOCKETS_MAX: usize = 1_024;
/// Most processes that are listed, or searched for the owners of sockets.
pub(crate) const PROCESSES_SEARCHED_MAX: usize = 4_096;
/// Most open files of one process that are searched.
pub(crate) const FILES_SEARCHED_MAX: usize = 4_096;
/// Most that is read of a process's arguments.
pub(crate) const PROCESS_COMMAND_BYTES_MAX: u64 = 4_096;
/// Most that is read of a process's state, which the kernel writes.
pub(crate) const PROCESS_STATUS_BYTES_MAX: u64 = 16 * 1024;
/// Most that is told of all processes at once: half of what the node takes in one message.
pub(crate) const PROCESSES_BYTES_MAX: usize = roost_agent::limits::REPLY_BYTES_MAX / 2;
/// What is told of a process beside its texts, at most.
pub(crate) const PROCESS_COST_BYTES: usize = 64;
