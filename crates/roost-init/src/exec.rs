//! Commands beside the app, with and without a terminal.
//!
//! Each is a session of its own: what its time or its caller's leaving ends is
//! the whole process group. One task per command moves input and output; when
//! the caller does not read, the command waits in its next write.

mod input;
mod terminal;

use crate::app::{Surroundings, output_pipe, pipe};
use crate::cgroup::Member;
use crate::children::{Child, Children, Exit};
use crate::descriptor::{Descriptor, OutputPipe};
use crate::failure::{Attempt as _, Failure};
use crate::limits::{EXEC_DRAIN_TIMEOUT, EXEC_OUTPUT_QUEUE};
use crate::process::{Recipe, Terminal};
use bytes::Bytes;
use input::{Feed, Input};
use roost_agent::proto::{ExecExit, ExecInput, ExecOutput, ExecStart, exec_output};
use rustix::process::{Pid, Signal};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// What a caller gets.
pub(crate) type ExecOutputs = ReceiverStream<Result<ExecOutput, Status>>;
type Sender = mpsc::Sender<Result<ExecOutput, Status>>;
/// One stream of a command's output.
type Outlet = (Arc<Descriptor>, fn(Bytes) -> exec_output::Output);

/// A command that was started.
struct Command {
    child: Child,
    input: Input,
    outlets: Vec<Outlet>,
}

/// Kills a command's processes when their task ends before they do.
struct KillGuard {
    children: Children,
    leader: Pid,
}

impl Drop for KillGuard {
    fn drop(&mut self) {
        self.children.signal_group(self.leader, Signal::KILL);
    }
}

/// Starts a command; on the event loop's thread only (see [`Children`]).
pub(crate) fn start(
    recipe: &Recipe,
    open_files_max: u64,
    start: &ExecStart,
    input: Streaming<ExecInput>,
    around: &Surroundings,
    permit: OwnedSemaphorePermit,
) -> Result<ExecOutputs, Failure> {
    let command = match &start.terminal {
        Some(size) => terminal::start(recipe, open_files_max, size, around)?,
        None => start_on_pipes(recipe, open_files_max, around)?,
    };
    let timeout = (start.timeout_ms > 0).then(|| Duration::from_millis(start.timeout_ms));
    let (sender, receiver) = mpsc::channel(EXEC_OUTPUT_QUEUE);
    let guard = KillGuard {
        children: around.children.clone(),
        leader: command.child.pid,
    };
    around.tasks.spawn(async move {
        drive(command, input, timeout, &guard, sender).await;
        drop((guard, permit));
    });
    Ok(ReceiverStream::new(receiver))
}

fn start_on_pipes(
    recipe: &Recipe,
    open_files_max: u64,
    around: &Surroundings,
) -> Result<Command, Failure> {
    let (stdin, stdin_writer) = pipe(recipe).attempt("make a pipe")?;
    let (stdout_reader, stdout) = output_pipe(recipe)?;
    let (stderr_reader, stderr) = output_pipe(recipe)?;
    let mut command = recipe.command(
        (&around.cgroups, Member::Command),
        open_files_max,
        Terminal::None,
    )?;
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    let child = spawn(recipe, &mut command, around)?;
    let stdin = Descriptor::new(stdin_writer.into()).attempt("set up a pipe")?;
    Ok(Command {
        child,
        input: Input::Pipe(stdin),
        outlets: vec![
            (Arc::new(stdout_reader), exec_output::Output::Stdout),
            (Arc::new(stderr_reader), exec_output::Output::Stderr),
        ],
    })
}

fn spawn(
    recipe: &Recipe,
    command: &mut std::process::Command,
    around: &Surroundings,
) -> Result<Child, Failure> {
    around
        .children
        .spawn(command)
        .map_err(|error| recipe.explain(&error))
}

/// From the start of a command to the report of its end.
async fn drive(
    command: Command,
    input: Streaming<ExecInput>,
    timeout: Option<Duration>,
    guard: &KillGuard,
    sender: Sender,
) {
    let (ended, _) = watch::channel(false);
    let outlets = command.outlets.into_iter().map(|(descriptor, wrap)| {
        let pipe = OutputPipe::new(descriptor, ended.subscribe(), EXEC_DRAIN_TIMEOUT);
        forward(pipe, wrap, &sender)
    });
    let outlets = futures_util::future::join_all(outlets);
    let feed = Feed::new(input, command.input, &guard.children, guard.leader).run();
    let exit = async {
        let result = wait(command.child, timeout, guard, feed).await;
        ended.send_replace(true);
        result
    };
    let both = async { tokio::join!(exit, outlets) };
    let exit = tokio::select! {
        // Cancel-safe: the caller has gone, and what is dropped is nobody's.
        () = sender.closed() => return,
        (exit, _) = both => exit,
    };
    let _ = sender
        .send(Ok(output(exec_output::Output::Exit(exit))))
        .await;
}

/// Waits for the end of a command, feeding it meanwhile.
async fn wait(
    mut child: Child,
    timeout: Option<Duration>,
    guard: &KillGuard,
    feed: impl Future<Output = ()>,
) -> ExecExit {
    let deadline = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(feed, deadline);
    let (mut is_fed, mut timed_out) = (false, false);
    let exit = loop {
        tokio::select! {
            biased;
            // Cancel-safe: the end stays in the channel.
            exit = &mut child.exit => break exit.unwrap_or(Exit { code: -1, signal: 0 }),
            // Cancel-safe: all are pinned and go on where they were.
            () = &mut deadline, if !timed_out => {
                timed_out = true;
                guard.children.signal_group(guard.leader, Signal::KILL);
            }
            () = &mut feed, if !is_fed => is_fed = true,
        }
    };
    ExecExit {
        exit_code: exit.code,
        signal: exit.signal,
        timed_out,
    }
}

async fn forward(mut pipe: OutputPipe, wrap: fn(Bytes) -> exec_output::Output, sender: &Sender) {
    while let Some(data) = pipe.next().await {
        if sender.send(Ok(output(wrap(data)))).await.is_err() {
            return;
        }
    }
}

fn output(output: exec_output::Output) -> ExecOutput {
    ExecOutput {
        output: Some(output),
    }
}
