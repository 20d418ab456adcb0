//! Commands in a running machine, by a helper process of the shim's program.

use super::limits::{EXEC_ARGS_MAX, EXEC_DRAIN_TIMEOUT, EXEC_REPORT_TIMEOUT};
use crate::driver::DriverError;
use parking_lot::Mutex;
use roost_model::limits::EXEC_OUTPUT_BYTES_MAX;
use roost_proto::shim::{LaunchFault, ShimExecOutcome};
use roost_proto::worker::{ExecCommand, ExecOutcome};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// Distinguishes the commands of one process.
static EXEC_COUNTER: AtomicU64 = AtomicU64::new(0);

/// One stream's output, as much as is kept.
#[derive(Debug, Default)]
struct Capture {
    bytes: Vec<u8>,
    truncated: bool,
}

/// Runs a command in the machine of a run directory.
pub(super) async fn run(
    shim: &Path,
    run_dir: &Path,
    command: ExecCommand,
) -> Result<ExecOutcome, DriverError> {
    if command.command.is_empty() || command.command.len() > EXEC_ARGS_MAX {
        return Err(DriverError::Refused(format!(
            "a command has between 1 and {EXEC_ARGS_MAX} words"
        )));
    }
    if command.command.iter().any(|word| word.contains('\0')) {
        return Err(DriverError::Refused(
            "a word of the command has a zero byte".to_owned(),
        ));
    }
    let number = EXEC_COUNTER.fetch_add(1, Ordering::Relaxed);
    let outcome_path = run_dir.join(format!("exec-{}-{number}.json", std::process::id()));
    let result = run_helper(shim, run_dir, &outcome_path, command).await;
    // Present whatever happened, unless the helper did not get that far.
    let _ = tokio::fs::remove_file(&outcome_path).await;
    result
}

async fn run_helper(
    shim: &Path,
    run_dir: &Path,
    outcome_path: &PathBuf,
    command: ExecCommand,
) -> Result<ExecOutcome, DriverError> {
    let host = |reason: String| DriverError::Host {
        operation: "run a command".to_owned(),
        reason,
    };
    let mut child = Command::new(shim)
        .arg("exec")
        .arg(run_dir)
        .arg(outcome_path)
        .arg(command.timeout.as_millis().to_string())
        .args(&command.command)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // The command dies with its helper.
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| host(format!("start {}: {error}", shim.display())))?;
    let limit = command.timeout.saturating_add(EXEC_REPORT_TIMEOUT);
    let (stdout, stderr) = (
        Mutex::new(Capture::default()),
        Mutex::new(Capture::default()),
    );
    converse(&mut child, &command.stdin, &stdout, &stderr, limit)
        .await
        .map_err(|error| host(error.to_string()))?;

    let text = tokio::fs::read(outcome_path).await.unwrap_or_default();
    let (stdout, mut stderr) = (stdout.into_inner(), stderr.into_inner());
    match serde_json::from_slice(&text) {
        Ok(ShimExecOutcome::Ended {
            exit_code,
            timed_out,
        }) => {
            if timed_out {
                let note = format!(
                    "\nroost: killed, since its time of {} s was up\n",
                    command.timeout.as_secs_f32()
                );
                stderr.bytes.extend_from_slice(note.as_bytes());
            }
            let truncated = stdout.truncated || stderr.truncated;
            Ok(ExecOutcome {
                exit_code,
                stdout: stdout.bytes,
                stderr: stderr.bytes,
                truncated,
            })
        }
        Ok(ShimExecOutcome::Failed {
            fault: LaunchFault::Machine,
            message,
        }) => Err(DriverError::Refused(message)),
        Ok(ShimExecOutcome::Failed {
            fault: LaunchFault::Host,
            message,
        }) => Err(host(message)),
        Err(_) => Err(host(format!(
            "its helper did not report: {}",
            String::from_utf8_lossy(&stderr.bytes).trim()
        ))),
    }
}

/// Feeds and reads a helper until it has ended.
async fn converse(
    child: &mut Child,
    input: &[u8],
    stdout: &Mutex<Capture>,
    stderr: &Mutex<Capture>,
    limit: Duration,
) -> io::Result<()> {
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(out), Some(err)) = pipes else {
        return Err(io::Error::other("a pipe is missing"));
    };
    let feed = async move {
        // A command that does not want its input is no failure.
        let _ = stdin.write_all(input).await;
    };
    let streams = async {
        tokio::join!(feed, read_into(out, stdout), read_into(err, stderr));
    };
    tokio::pin!(streams);
    let mut streams_ended = false;
    let deadline = tokio::time::sleep(limit);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            status = child.wait() => { status?; break; }
            () = &mut streams, if !streams_ended => streams_ended = true,
            () = &mut deadline => {
                child.start_kill()?;
                child.wait().await?;
                break;
            }
        }
    }
    if !streams_ended {
        // Something that the command left behind may hold its output open.
        let _ = tokio::time::timeout(EXEC_DRAIN_TIMEOUT, streams).await;
    }
    Ok(())
}

/// Keeps the beginning of a stream, and reads on so that its writer does not stall.
async fn read_into(mut stream: impl AsyncRead + Unpin, capture: &Mutex<Capture>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        let mut capture = capture.lock();
        let room = EXEC_OUTPUT_BYTES_MAX.saturating_sub(capture.bytes.len());
        capture.bytes.extend_from_slice(&buffer[..n.min(room)]);
        capture.truncated |= n > room;
    }
}
