//! A guest whose agent does what a test says, and the VM that it is in.

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;
use roost_agent::guest::{self, StreamKind};
use roost_agent::proto::agent_server::Agent;
use roost_agent::proto::watch_event::Event;
use roost_agent::proto::{self, WatchEvent};
use roost_host::vmm::{AgentStream, Vm, VmEnd, VmStats, VmmError};
use roost_runtime::tasks::Tasks;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// How much a stream to the guest holds.
const STREAM_BYTES: usize = 64 * 1024;

/// How long an agent that refuses to work takes for it.
const REFUSAL_DELAY: Duration = Duration::from_secs(5);

/// What happens when the guest's state is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Snapshots {
    Fail,
    Hang,
}

/// The guest, as both sides see it.
#[derive(Debug)]
pub(super) struct State {
    events: Vec<WatchEvent>,
    /// A frozen app says nothing.
    pub(super) is_frozen: bool,
    /// Whether nobody takes streams.
    pub(super) is_silent: bool,
    /// Whether its agent greets, and after a while refuses all else.
    pub(super) refuses_to_work: bool,
    pub(super) refuses_to_freeze: bool,
    /// How many times it refuses to let the app run on.
    pub(super) n_refusals_to_thaw: u32,
    pub(super) snapshots: Snapshots,
    /// What was done to the VM.
    pub(super) calls: Vec<&'static str>,
    /// Signals that the app got.
    pub(super) signals: Vec<i32>,
    end: Option<VmEnd>,
}

/// A guest, or the VM that it is in. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct TestGuest {
    state: watch::Sender<State>,
    /// Cuts the stream that is open.
    cut: Arc<Mutex<CancellationToken>>,
    tasks: Tasks,
}

impl TestGuest {
    pub(super) fn new(tasks: &Tasks) -> Self {
        Self {
            state: watch::Sender::new(State {
                events: Vec::new(),
                is_frozen: false,
                is_silent: false,
                refuses_to_work: false,
                refuses_to_freeze: false,
                n_refusals_to_thaw: 0,
                snapshots: Snapshots::Fail,
                calls: Vec::new(),
                signals: Vec::new(),
                end: None,
            }),
            cut: Arc::default(),
            tasks: tasks.clone(),
        }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    /// Waits until the guest is as it should be.
    pub(super) async fn until(&self, holds: impl FnMut(&State) -> bool) {
        self.state.subscribe().wait_for(holds).await.unwrap();
    }

    pub(super) fn n_calls(&self, call: &str) -> usize {
        let state = self.state.borrow();
        state.calls.iter().filter(|name| **name == call).count()
    }

    /// The app writes a line.
    pub(super) fn say(&self, line: &str) {
        self.happen(Event::Output(proto::Output {
            stream: proto::OutputStream::Stdout.into(),
            data: format!("{line}\n").into(),
            ..proto::Output::default()
        }));
    }

    /// The app exits.
    pub(super) fn exit(&self, exit_code: i32) {
        self.happen(Event::Exit(proto::AppExit {
            exit_code,
            ..proto::AppExit::default()
        }));
    }

    fn happen(&self, event: Event) {
        self.change(|state| {
            let sequence = u64::try_from(state.events.len()).unwrap() + 1;
            let event = Some(event);
            state.events.push(WatchEvent { sequence, event });
        });
    }

    /// The stream to the agent breaks.
    pub(super) fn cut(&self) {
        self.cut.lock().cancel();
    }

    fn called(&self, call: &'static str) {
        self.change(|state| state.calls.push(call));
    }
}

#[async_trait]
impl Vm for TestGuest {
    fn pid(&self) -> u32 {
        0
    }

    async fn open_agent(&mut self) -> Result<Box<dyn AgentStream>, VmmError> {
        self.called("open_agent");
        if self.state.borrow().is_silent {
            return Err(VmmError::Ended("nobody listens".into()));
        }
        let cut = CancellationToken::new();
        *self.cut.lock() = cut.clone();
        let (ours, theirs) = tokio::io::duplex(STREAM_BYTES);
        let (acceptor, sessions) = guest::sessions();
        self.tasks.spawn("guest's stream", async move {
            tokio::select! {
                _ = acceptor.run(theirs, StreamKind::Connection) => {}
                () = cut.cancelled() => {}
            }
        });
        let service = guest::service(self.clone());
        self.tasks.spawn("guest's agent", async move {
            let server = guest::server().add_service(service);
            let _ = server.serve_with_incoming(sessions).await;
        });
        Ok(Box::new(ours))
    }

    fn take_console(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>> {
        None
    }

    async fn pause(&mut self) -> Result<(), VmmError> {
        self.called("pause");
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), VmmError> {
        self.called("resume");
        Ok(())
    }

    async fn snapshot(&mut self, _: &Path) -> Result<(), VmmError> {
        self.called("snapshot");
        self.until(|state| state.snapshots == Snapshots::Fail).await;
        Err(VmmError::Unusable("the disk is full".into()))
    }

    async fn stats(&self) -> Result<VmStats, VmmError> {
        Err(VmmError::Unusable("not a process".into()))
    }

    async fn ended(&mut self) -> VmEnd {
        let mut state = self.state.subscribe();
        let ended = state.wait_for(|state| state.end.is_some()).await.unwrap();
        ended.end.clone().unwrap()
    }

    async fn kill(&mut self) -> Result<(), VmmError> {
        self.called("kill");
        self.change(|state| {
            state.end = Some(VmEnd {
                exit_code: None,
                signal: Some(9),
                message: String::new(),
            });
        });
        self.cut();
        Ok(())
    }
}

fn unimplemented<T>() -> Result<T, Status> {
    Err(Status::unimplemented("this guest has no such thing"))
}

#[async_trait]
impl Agent for TestGuest {
    async fn hello(
        &self,
        _: Request<proto::HelloRequest>,
    ) -> Result<Response<proto::HelloReply>, Status> {
        Ok(Response::new(proto::HelloReply::default()))
    }

    async fn boot(
        &self,
        _: Request<proto::BootRequest>,
    ) -> Result<Response<proto::BootReply>, Status> {
        unimplemented()
    }

    type WatchStream = BoxStream<'static, Result<WatchEvent, Status>>;

    /// The events from a number on, each as soon as it has happened.
    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if self.state.borrow().refuses_to_work {
            tokio::time::sleep(REFUSAL_DELAY).await;
            return unimplemented();
        }
        let next = request.get_ref().from_sequence;
        let state = self.state.subscribe();
        let events = stream::unfold((state, next), |(mut state, next)| async move {
            let find = |state: &State| {
                let mut events = state.events.iter().filter(|_| !state.is_frozen);
                events.find(|event| event.sequence >= next).cloned()
            };
            let changed = state.wait_for(|state| find(state).is_some()).await;
            let event = find(&*changed.ok()?)?;
            let next = event.sequence + 1;
            Some((Ok(event), (state, next)))
        });
        Ok(Response::new(events.boxed()))
    }

    async fn signal(
        &self,
        request: Request<proto::SignalRequest>,
    ) -> Result<Response<proto::SignalReply>, Status> {
        self.change(|state| state.signals.push(request.get_ref().signal));
        Ok(Response::new(proto::SignalReply {}))
    }

    async fn prepare_snapshot(
        &self,
        _: Request<proto::PrepareSnapshotRequest>,
    ) -> Result<Response<proto::PrepareSnapshotReply>, Status> {
        // It is frozen even so: what was done when it failed is not undone.
        self.change(|state| state.is_frozen = true);
        if self.state.borrow().refuses_to_freeze {
            return Err(Status::internal("a file system cannot be written"));
        }
        Ok(Response::new(proto::PrepareSnapshotReply {}))
    }

    async fn after_restore(
        &self,
        _: Request<proto::AfterRestoreRequest>,
    ) -> Result<Response<proto::AfterRestoreReply>, Status> {
        let mut is_refused = false;
        self.change(|state| {
            is_refused = state.n_refusals_to_thaw > 0;
            state.n_refusals_to_thaw = state.n_refusals_to_thaw.saturating_sub(1);
            state.is_frozen = is_refused;
        });
        if is_refused {
            return Err(Status::internal("not now"));
        }
        Ok(Response::new(proto::AfterRestoreReply {}))
    }

    type ExecStream = BoxStream<'static, Result<proto::ExecOutput, Status>>;

    async fn exec(
        &self,
        _: Request<Streaming<proto::ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        unimplemented()
    }

    type ReadFileStream = BoxStream<'static, Result<proto::FilePart, Status>>;

    async fn read_file(
        &self,
        _: Request<proto::ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        unimplemented()
    }

    async fn write_file(
        &self,
        _: Request<Streaming<proto::WriteFilePart>>,
    ) -> Result<Response<proto::WriteFileReply>, Status> {
        unimplemented()
    }

    async fn stats(
        &self,
        _: Request<proto::StatsRequest>,
    ) -> Result<Response<proto::StatsReply>, Status> {
        unimplemented()
    }

    async fn processes(
        &self,
        _: Request<proto::ProcessesRequest>,
    ) -> Result<Response<proto::ProcessesReply>, Status> {
        unimplemented()
    }

    async fn listening_sockets(
        &self,
        _: Request<proto::ListeningSocketsRequest>,
    ) -> Result<Response<proto::ListeningSocketsReply>, Status> {
        unimplemented()
    }

    async fn shutdown(
        &self,
        _: Request<proto::ShutdownRequest>,
    ) -> Result<Response<proto::ShutdownReply>, Status> {
        unimplemented()
    }
}
