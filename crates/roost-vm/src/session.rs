//! The session with the agent in the guest, and the requests made over it.

use crate::console::Console;
use crate::handshake::LaunchError;
use crate::limits::{AGENT_CALL_TIMEOUT, AGENT_LOST_TIMEOUT, AGENT_RETRY_PAUSE};
use roost_agent::host::{Channel, ConnectError, ConnectOptions, Connection, client, connect};
use roost_agent::proto::agent_client::AgentClient;
use roost_agent::proto::{
    AfterRestoreRequest, BootReply, BootRequest, HelloRequest, PrepareSnapshotRequest,
    SignalRequest, WatchEvent, WatchRequest,
};
use roost_host::vmm::Vm;
use roost_model::error::chain;
use roost_runtime::tasks::Tasks;
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

/// Why there is no session.
#[derive(Debug)]
pub(crate) enum OpenSessionError {
    /// The hypervisor has ended.
    Ended(String),
    /// Nobody in the guest answered in time.
    Silent(String),
    /// Somebody answered, and not as an agent does.
    Wrong(String),
}

/// A live session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// For requests of others.
    pub(crate) channel: Channel,
    client: AgentClient<Channel>,
    /// Ends the task that moves its bytes, and lets go of the stream.
    end: CancellationToken,
}

impl Session {
    /// Opens one as soon as the guest answers; gives up after `limit`.
    pub(crate) async fn open(
        vm: &mut Box<dyn Vm>,
        limit: Duration,
        tasks: &Tasks,
    ) -> Result<Self, OpenSessionError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let silent = |why: String| OpenSessionError::Silent(why);
            if left.is_zero() {
                return Err(silent(format!(
                    "its agent did not answer within {} s",
                    limit.as_secs()
                )));
            }
            let stream = match timeout(left, vm.open_agent()).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(_)) => {
                    // Nobody listens yet, or never will.
                    tokio::select! {
                        end = vm.ended() => return Err(ended(&end)),
                        () = sleep(AGENT_RETRY_PAUSE) => continue,
                    }
                }
                Err(_) => continue,
            };
            let options = ConnectOptions {
                answer_within: left,
                ping_timeout: AGENT_LOST_TIMEOUT,
                ..ConnectOptions::default()
            };
            let connection = tokio::select! {
                end = vm.ended() => return Err(ended(&end)),
                connection = connect(stream, &options) => connection,
            };
            match connection {
                Ok(connection) => {
                    let session = Self::over(connection, tasks);
                    match session.greet().await {
                        Ok(()) => return Ok(session),
                        Err(status) => {
                            session.close();
                            if status.code() == Code::Unimplemented {
                                return Err(OpenSessionError::Wrong(format!(
                                    "its agent does not greet: {}",
                                    printable(status.message())
                                )));
                            }
                            // A guest that is short of time may answer the next one.
                            sleep(AGENT_RETRY_PAUSE).await;
                        }
                    }
                }
                Err(ConnectError::Silent(_)) => {}
                Err(error @ (ConnectError::Garbage(_) | ConnectError::OtherVersion(_))) => {
                    return Err(OpenSessionError::Wrong(chain(&error)));
                }
                Err(_) => sleep(AGENT_RETRY_PAUSE).await,
            }
        }
    }

    fn over(connection: Connection, tasks: &Tasks) -> Self {
        let end = CancellationToken::new();
        let (driver, ended) = (connection.driver, end.clone());
        tasks.spawn("agent session", async move {
            tokio::select! {
                _ = driver => {}
                () = ended.cancelled() => {}
            }
        });
        Self {
            client: client(connection.channel.clone()),
            channel: connection.channel,
            end,
        }
    }

    /// Ends it and lets go of the stream, of which there is one at a time.
    pub(crate) fn close(&self) {
        self.end.cancel();
    }

    /// Makes sure that an agent is there.
    async fn greet(&self) -> Result<(), Status> {
        let mut client = self.client.clone();
        let call = client.hello(HelloRequest {});
        within(AGENT_CALL_TIMEOUT, call).await.map(|_| ())
    }

    /// Sets the guest up and starts the app.
    pub(crate) async fn boot(
        &self,
        request: BootRequest,
        limit: Duration,
    ) -> Result<BootReply, LaunchError> {
        let mut client = self.client.clone();
        match within(limit, client.boot(request)).await {
            Ok(reply) => Ok(reply),
            // The machine's own config: no such user, no such program, …
            Err(status)
                if matches!(
                    status.code(),
                    Code::FailedPrecondition | Code::InvalidArgument
                ) =>
            {
                Err(LaunchError::machine(printable(status.message())))
            }
            Err(status) => Err(LaunchError::host(format!(
                "start the app in the guest: {}",
                printable(status.message())
            ))),
        }
    }

    /// What happens to the app from the output event of this number on.
    pub(crate) async fn watch(&self, from_sequence: u64) -> Result<Streaming<WatchEvent>, Status> {
        let mut client = self.client.clone();
        within(
            AGENT_CALL_TIMEOUT,
            client.watch(WatchRequest { from_sequence }),
        )
        .await
    }

    /// Sends a signal to the app.
    pub(crate) async fn signal(&self, signal: i32) -> Result<(), Status> {
        let mut client = self.client.clone();
        let call = client.signal(SignalRequest { signal });
        within(AGENT_CALL_TIMEOUT, call).await.map(|_| ())
    }

    /// Freezes the app and writes what the guest has buffered.
    pub(crate) async fn prepare_snapshot(&self, limit: Duration) -> Result<(), Status> {
        let mut client = self.client.clone();
        let call = client.prepare_snapshot(PrepareSnapshotRequest {});
        within(limit, call).await.map(|_| ())
    }

    /// Sets the clock, feeds the random number generator and lets the app run on.
    pub(crate) async fn after_restore(&self, request: AfterRestoreRequest) -> Result<(), Status> {
        let mut client = self.client.clone();
        let call = client.after_restore(request);
        within(AGENT_CALL_TIMEOUT, call).await.map(|_| ())
    }
}

impl OpenSessionError {
    /// For people, with what the guest's console says.
    pub(crate) fn message(&self, console: &Console) -> String {
        let (Self::Ended(why) | Self::Silent(why) | Self::Wrong(why)) = self;
        if console.has_panic() {
            return format!("the guest's kernel panicked; {}", console.quote());
        }
        format!("the guest did not boot: {why}; {}", console.quote())
    }
}

fn ended(end: &roost_host::vmm::VmEnd) -> OpenSessionError {
    OpenSessionError::Ended(describe_end(end))
}

/// How a hypervisor ended, for people.
pub(crate) fn describe_end(end: &roost_host::vmm::VmEnd) -> String {
    let how = match (end.signal, end.exit_code) {
        (Some(signal), _) => format!("by signal {signal}"),
        (None, Some(code)) => format!("with code {code}"),
        (None, None) => "somehow".to_owned(),
    };
    match end.message.trim() {
        "" => format!("its hypervisor ended {how}"),
        message => format!("its hypervisor ended {how}: {message}"),
    }
}

/// A message of the guest, which may be of any length and of anything.
fn printable(message: &str) -> String {
    const CHARS_MAX: usize = 1_000;
    let chars = message.chars().filter(|char| !char.is_control());
    chars.take(CHARS_MAX).collect()
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(limit, call).await {
        Ok(result) => result.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer of the guest within {} s",
            limit.as_secs()
        ))),
    }
}
