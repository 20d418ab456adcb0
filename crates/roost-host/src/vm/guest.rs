//! What the driver asks of the agent in a guest.

use super::limits::{
    AGENT_TIMEOUT, EXEC_ARGS_MAX, EXEC_REPORT_TIMEOUT, PROCESS_NAME_CHARS_MAX,
    PROCESS_TEXT_CHARS_MAX, PROCESSES_MAX, STDIN_PART_BYTES, STDIN_PARTS_MAX,
};
use crate::driver::DriverError;
use crate::shim::{Shims, host};
use crate::vmm::session::{message_of, printable};
use roost_agent::host::Channel;
use roost_agent::proto::agent_client::AgentClient;
use roost_agent::proto::exec_input::Input;
use roost_agent::proto::exec_output::Output;
use roost_agent::proto::{
    ExecExit, ExecInput, ExecOutput, ExecStart, ListeningSocketsRequest, ProcessesRequest,
};
use roost_model::id::MachineId;
use roost_model::limits::EXEC_OUTPUT_BYTES_MAX;
use roost_proto::vm::agent_path;
use roost_proto::worker::{
    ExecCommand, ExecOutcome, LISTENING_SOCKETS_MAX, ListeningSocket, Process,
};
use rustix::fs::{Mode, OFlags};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status, Streaming};

/// A client of the agent.
pub(super) type Agent = AgentClient<Channel>;

/// Connects to the agent of a machine that runs.
pub(super) async fn dial(shims: &Shims, id: &MachineId) -> Result<Agent, DriverError> {
    if shims.running(id).await.is_none() {
        return Err(DriverError::NotRunning(id.clone()));
    }
    let unreachable = |reason: String| host("reach the agent in the guest", reason);
    // Its path may be longer than a socket address may be.
    let dir = rustix::fs::open(
        shims.run_dir(id),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| unreachable(error.to_string()))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    match timeout(AGENT_TIMEOUT, roost_agent::host::dial(&agent_path(&path))).await {
        Ok(Ok(agent)) => Ok(agent),
        Ok(Err(error)) => Err(unreachable(roost_model::error::chain(&error))),
        Err(_) => Err(unreachable("no answer".into())),
    }
}

/// What the agent answers to a question that needs no work of it.
async fn answer<T>(
    operation: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, DriverError> {
    match timeout(AGENT_TIMEOUT, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(refused(operation, &status)),
        Err(_) => Err(host(operation, "the guest does not answer")),
    }
}

/// The guest's processes, with what they listen on.
pub(super) async fn processes(agent: &mut Agent) -> Result<Vec<Process>, DriverError> {
    let call = agent.processes(ProcessesRequest {});
    let reply = answer("list the machine's processes", call).await?;
    let sockets = owned_sockets(agent).await?;
    let mut processes = reply.processes;
    processes.sort_by_key(|process| process.pid);
    let processes = processes.into_iter().map(|process| {
        let own = sockets.iter().filter(|(owner, _)| *owner == process.pid);
        let directory = printable(&process.directory, PROCESS_TEXT_CHARS_MAX);
        Process {
            pid: process.pid,
            command: printable(&process.command, PROCESS_TEXT_CHARS_MAX),
            directory: (!directory.is_empty()).then_some(directory),
            age: Duration::from_millis(process.age_ms),
            cpu_time: Duration::from_micros(process.cpu_us),
            memory: process.memory_bytes,
            listening: own.map(|(_, socket)| socket.clone()).collect(),
        }
    });
    Ok(processes.take(PROCESSES_MAX).collect())
}

/// The sockets that the guest's processes listen on.
pub(super) async fn listening_sockets(
    agent: &mut Agent,
) -> Result<Vec<ListeningSocket>, DriverError> {
    let sockets = owned_sockets(agent).await?.into_iter();
    Ok(sockets.map(|(_, socket)| socket).collect())
}

/// The same, each with the id of the process that has it; zero if nobody knows.
async fn owned_sockets(agent: &mut Agent) -> Result<Vec<(u32, ListeningSocket)>, DriverError> {
    let call = agent.listening_sockets(ListeningSocketsRequest {});
    let reply = answer("list the machine's sockets", call).await?;
    let sockets = reply.sockets.into_iter().filter_map(|socket| {
        let address: IpAddr = socket.address.parse().ok()?;
        let port = u16::try_from(socket.port).ok()?;
        let name = printable(&socket.process, PROCESS_NAME_CHARS_MAX);
        // As the host's kernel names its tables.
        let protocol = match (socket.protocol.as_str(), address) {
            ("tcp", IpAddr::V4(_)) => "tcp",
            ("tcp", IpAddr::V6(_)) => "tcp6",
            ("udp", IpAddr::V4(_)) => "udp",
            ("udp", IpAddr::V6(_)) => "udp6",
            _ => return None,
        };
        let listening = ListeningSocket {
            protocol: protocol.to_owned(),
            address: SocketAddr::new(address, port),
            process: (!name.is_empty()).then_some(name),
        };
        Some((socket.pid, listening))
    });
    Ok(sockets.take(LISTENING_SOCKETS_MAX).collect())
}

/// Runs a command; its output is cut at [`EXEC_OUTPUT_BYTES_MAX`] per stream.
pub(super) async fn exec(
    agent: &mut Agent,
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
    let limit = command.timeout.saturating_add(EXEC_REPORT_TIMEOUT);
    match timeout(limit, converse(agent, command)).await {
        Ok(result) => result,
        Err(_) => Err(host("run a command", "the guest does not answer")),
    }
}

async fn converse(agent: &mut Agent, command: ExecCommand) -> Result<ExecOutcome, DriverError> {
    let (sender, receiver) = mpsc::channel(STDIN_PARTS_MAX);
    let start = ExecStart {
        args: command.command.clone(),
        timeout_ms: u64::try_from(command.timeout.as_millis()).unwrap_or(u64::MAX),
        ..ExecStart::default()
    };
    let feed = async {
        let parts = command.stdin.chunks(STDIN_PART_BYTES);
        let parts = parts.map(|part| Input::Stdin(part.to_vec().into()));
        let inputs = std::iter::once(Input::Start(start))
            .chain(parts)
            .chain(std::iter::once(Input::StdinClosed(true)));
        for input in inputs {
            let message = ExecInput { input: Some(input) };
            // A command that does not want its input is no failure.
            if sender.send(message).await.is_err() {
                break;
            }
        }
        // Kept open: the end of the inputs would end the command. Its end is
        // told by its outputs alone.
        std::future::pending::<Infallible>().await
    };
    let run = async {
        let call = agent.exec(ReceiverStream::new(receiver)).await;
        collect(
            call.map_err(|status| refused("run a command", &status))?
                .into_inner(),
        )
        .await
    };
    tokio::select! {
        result = run => into_outcome(result?, command.timeout),
        never = feed => match never {},
    }
}

#[derive(Default)]
struct Collected {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
    exit: Option<ExecExit>,
}

impl Collected {
    fn take(&mut self, output: Output) {
        let (kept, data) = match output {
            Output::Stdout(data) => (&mut self.stdout, data),
            Output::Stderr(data) => (&mut self.stderr, data),
            Output::Exit(exit) => {
                self.exit = Some(exit);
                return;
            }
        };
        let room = EXEC_OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&data[..data.len().min(room)]);
        self.truncated |= data.len() > room;
    }
}

async fn collect(mut stream: Streaming<ExecOutput>) -> Result<Collected, DriverError> {
    let mut collected = Collected::default();
    while collected.exit.is_none() {
        match stream.message().await {
            Ok(Some(message)) => {
                if let Some(output) = message.output {
                    collected.take(output);
                }
            }
            Ok(None) => return Err(host("run a command", "the guest did not report its end")),
            Err(status) => return Err(refused("run a command", &status)),
        }
    }
    Ok(collected)
}

fn into_outcome(collected: Collected, limit: Duration) -> Result<ExecOutcome, DriverError> {
    let Collected {
        stdout,
        mut stderr,
        truncated,
        exit,
    } = collected;
    let exit = exit.ok_or_else(|| host("run a command", "the guest did not report its end"))?;
    if exit.timed_out {
        let note = format!(
            "\nroost: killed, since its time of {} s was up\n",
            limit.as_secs_f32()
        );
        stderr.extend_from_slice(note.as_bytes());
    }
    Ok(ExecOutcome {
        exit_code: exit.exit_code,
        stdout,
        stderr,
        truncated,
    })
}

/// An error of the agent; what the request is at fault for is told as such.
fn refused(operation: &str, status: &Status) -> DriverError {
    let message = message_of(status);
    match status.code() {
        Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound => {
            DriverError::Refused(message)
        }
        Code::Unimplemented => DriverError::Refused(
            "the guest's roost-init is of a version that cannot; restart the machine".to_owned(),
        ),
        _ => host(operation, message),
    }
}

#[cfg(test)]
mod tests {
    use super::Collected;
    use roost_agent::proto::exec_output::Output;
    use roost_model::limits::EXEC_OUTPUT_BYTES_MAX;

    #[test]
    fn endless_output_of_a_command_is_kept_up_to_the_limit() {
        let mut collected = Collected::default();
        for _ in 0..40 {
            collected.take(Output::Stdout(vec![b'x'; 64 * 1024].into()));
        }
        assert_eq!(collected.stdout.len(), EXEC_OUTPUT_BYTES_MAX);
        assert!(collected.truncated);
    }
}
