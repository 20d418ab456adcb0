//! The session with the agent in the guest, and the requests made over it.

use crate::handshake::LaunchError;
use crate::limits::{AGENT_CALL_TIMEOUT, AGENT_LOST_TIMEOUT};
use roost_agent::host::{Channel, client};
use roost_agent::proto::agent_client::AgentClient;
use roost_agent::proto::{
    AfterRestoreRequest, BootReply, BootRequest, PrepareSnapshotRequest, SignalRequest, WatchEvent,
    WatchRequest,
};
use roost_host::vmm::Vm;
use roost_host::vmm::session::{self, OpenSession, OpenSessionError, message_of};
use roost_runtime::tasks::Tasks;
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

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
        let opened = session::open(vm.as_mut(), limit, AGENT_LOST_TIMEOUT).await?;
        Ok(Self::over(opened, tasks))
    }

    fn over(opened: OpenSession, tasks: &Tasks) -> Self {
        let end = CancellationToken::new();
        let (driver, ended) = (opened.driver, end.clone());
        tasks.spawn("agent session", async move {
            tokio::select! {
                _ = driver => {}
                () = ended.cancelled() => {}
            }
        });
        Self {
            client: client(opened.channel.clone()),
            channel: opened.channel,
            end,
        }
    }

    /// Ends it and lets go of the stream, of which there is one at a time.
    pub(crate) fn close(&self) {
        self.end.cancel();
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
                Err(LaunchError::machine(message_of(&status)))
            }
            Err(status) => Err(LaunchError::host(format!(
                "start the app in the guest: {}",
                message_of(&status)
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
