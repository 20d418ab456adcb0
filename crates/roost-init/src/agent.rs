//! The service that the node calls.

use crate::boot::{self, Booted};
use crate::children::Children;
use crate::clock;
use crate::console::say;
use crate::copy;
use crate::exec::{self, ExecOutputs};
use crate::failure::Failure;
use crate::limits::EXEC_SESSIONS_MAX;
use crate::output::Output;
use crate::process::{self, Recipe};
use crate::shutdown;
use crate::tasks::Tasks;
use crate::{processes, sockets, stats};
use futures_util::Stream;
use parking_lot::Mutex;
use roost_agent::proto::agent_server::Agent;
use roost_agent::proto::{
    AfterRestoreReply, AfterRestoreRequest, BootReply, BootRequest, ExecInput, FilePart,
    HelloReply, HelloRequest, ListeningSocketsReply, ListeningSocketsRequest, PrepareSnapshotReply,
    PrepareSnapshotRequest, ProcessesReply, ProcessesRequest, ReadFileRequest, ShutdownReply,
    ShutdownRequest, SignalReply, SignalRequest, StatsReply, StatsRequest, WatchEvent,
    WatchRequest, WriteFilePart, WriteFileReply, exec_input,
};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status, Streaming};

type Reply<T> = Result<Response<T>, Status>;
type Outcome = Result<BootReply, Failure>;

/// What this guest is, shared by all calls. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Time from the start of the kernel to that of init.
    started: Duration,
    children: Children,
    output: Arc<Output>,
    tasks: Tasks,
    /// Whether the modules that the app waits for are loaded.
    modules: watch::Receiver<bool>,
    is_boot_asked: Mutex<bool>,
    /// The outcome of the boot, once there is one.
    outcome: watch::Sender<Option<Outcome>>,
    booted: Mutex<Option<Arc<Booted>>>,
    exec_sessions: Arc<Semaphore>,
    freeze: tokio::sync::Mutex<Freeze>,
}

/// Whether the app is held for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freeze {
    Running,
    Frozen,
}

impl Guest {
    /// A guest that waits for its boot message.
    pub(crate) fn new(
        started: Duration,
        children: Children,
        tasks: Tasks,
        modules: watch::Receiver<bool>,
    ) -> Self {
        let inner = Inner {
            started,
            children,
            output: Arc::new(Output::new()),
            tasks,
            modules,
            is_boot_asked: Mutex::new(false),
            outcome: watch::Sender::new(None),
            booted: Mutex::new(None),
            exec_sessions: Arc::new(Semaphore::new(EXEC_SESSIONS_MAX)),
            freeze: tokio::sync::Mutex::new(Freeze::Running),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    fn booted(&self) -> Result<Arc<Booted>, Status> {
        let booted = self.inner.booted.lock().clone();
        booted.ok_or_else(|| Status::failed_precondition("the app was not started"))
    }

    /// Waits until the boot was carried out, well or badly.
    pub(crate) async fn boot_carried_out(&self) {
        // The sender is in `self`.
        let mut outcome = self.inner.outcome.subscribe();
        let _ = outcome.wait_for(Option::is_some).await;
    }

    fn uptime(&self) -> Duration {
        clock::since_kernel_start().saturating_sub(self.inner.started)
    }

    /// Boots, whatever becomes of the call that asked for it.
    async fn carry_out_boot(self, request: BootRequest) {
        let arrived = clock::since_kernel_start();
        let inner = &self.inner;
        let mut modules = inner.modules.clone();
        // An error means that the loader is gone, having loaded what it could.
        let _ = modules.wait_for(|loaded| *loaded).await;
        let result = boot::boot(
            &request,
            inner.children.clone(),
            inner.output.clone(),
            inner.tasks.clone(),
        )
        .await;
        let outcome = match result {
            Ok(booted) => {
                let reply = BootReply {
                    pid: booted.app.pid(),
                    init_to_app_us: micros(self.uptime()),
                    boot_to_app_us: micros(clock::since_kernel_start().saturating_sub(arrived)),
                };
                // For the console: the log has it from the node.
                say(format_args!("started {}", booted.app.recipe.program()));
                *inner.booted.lock() = Some(Arc::new(booted));
                Ok(reply)
            }
            Err(failure) => {
                let line = format!("boot failed: {}", failure.message);
                say(&line);
                inner.output.say(&line);
                Err(failure)
            }
        };
        inner.outcome.send_replace(Some(outcome));
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Does what may block on a thread of its own.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Status::internal(error.to_string()))??)
}

#[tonic::async_trait]
impl Agent for Guest {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;
    type ExecStream = ExecOutputs;
    type ReadFileStream = Pin<Box<dyn Stream<Item = Result<FilePart, Status>> + Send>>;

    async fn hello(&self, _request: Request<HelloRequest>) -> Reply<HelloReply> {
        let uname = rustix::system::uname();
        Ok(Response::new(HelloReply {
            init_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: uname.release().to_string_lossy().into_owned(),
            booted: self.inner.booted.lock().is_some(),
            uptime_us: micros(self.uptime()),
        }))
    }

    async fn boot(&self, request: Request<BootRequest>) -> Reply<BootReply> {
        let is_first = !std::mem::replace(&mut *self.inner.is_boot_asked.lock(), true);
        if is_first {
            let boot = self.clone().carry_out_boot(request.into_inner());
            self.inner.tasks.spawn(boot);
        }
        let mut outcome = self.inner.outcome.subscribe();
        let outcome = outcome
            .wait_for(Option::is_some)
            .await
            .map_err(|_| Status::internal("the boot was given up"))?
            .clone();
        match outcome {
            Some(Ok(reply)) => Ok(Response::new(reply)),
            Some(Err(failure)) => Err(failure.into()),
            None => Err(Status::internal("the boot has no outcome")),
        }
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Reply<Self::WatchStream> {
        let output = self.inner.output.clone();
        let cursor = output.watch(request.into_inner().from_sequence);
        let events = futures_util::stream::unfold((output, cursor), |(output, mut cursor)| async {
            let event = output.next(&mut cursor).await?;
            Some((Ok(event), (output, cursor)))
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn signal(&self, request: Request<SignalRequest>) -> Reply<SignalReply> {
        let signal = process::signal(request.into_inner().signal)?;
        let booted = self.booted()?;
        if booted.app.has_ended() {
            return Err(Status::failed_precondition("the app has ended"));
        }
        booted.app.signal(signal);
        Ok(Response::new(SignalReply {}))
    }

    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Reply<Self::ExecStream> {
        let mut input = request.into_inner();
        let Some(exec_input::Input::Start(start)) =
            input.message().await?.and_then(|first| first.input)
        else {
            return Err(Status::invalid_argument("the first input is not a start"));
        };
        let booted = self.booted()?;
        if booted.app.has_ended() {
            return Err(Status::failed_precondition("the app has ended"));
        }
        let permit = self.inner.exec_sessions.clone().try_acquire_owned();
        let Ok(permit) = permit else {
            return Err(Status::resource_exhausted(format!(
                "{EXEC_SESSIONS_MAX} commands run already"
            )));
        };
        // A process that joins a frozen group stops before it is a program.
        let freeze = self.inner.freeze.lock().await;
        if *freeze == Freeze::Frozen {
            return Err(Status::unavailable("the guest is being suspended"));
        }
        let recipe = Recipe::of_command(&start, &booted.app.recipe)?;
        let limit = booted.app.open_files_max;
        let outputs = exec::start(&recipe, limit, &start, input, &booted.around, permit)?;
        Ok(Response::new(outputs))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<WriteFilePart>>,
    ) -> Reply<WriteFileReply> {
        self.booted()?;
        let bytes = copy::write(request.into_inner()).await?;
        Ok(Response::new(WriteFileReply { bytes }))
    }

    async fn read_file(&self, request: Request<ReadFileRequest>) -> Reply<Self::ReadFileStream> {
        self.booted()?;
        let parts = copy::read(request.into_inner().path).await?;
        Ok(Response::new(Box::pin(parts)))
    }

    async fn stats(&self, _request: Request<StatsRequest>) -> Reply<StatsReply> {
        let booted = self.booted()?;
        let stats = in_background(move || stats::collect(&booted.disks)).await?;
        Ok(Response::new(stats))
    }

    async fn listening_sockets(
        &self,
        _request: Request<ListeningSocketsRequest>,
    ) -> Reply<ListeningSocketsReply> {
        self.booted()?;
        let sockets = in_background(sockets::list).await?;
        Ok(Response::new(ListeningSocketsReply { sockets }))
    }

    async fn processes(&self, _request: Request<ProcessesRequest>) -> Reply<ProcessesReply> {
        self.booted()?;
        let processes = in_background(processes::list).await?;
        Ok(Response::new(ProcessesReply { processes }))
    }

    async fn prepare_snapshot(
        &self,
        _request: Request<PrepareSnapshotRequest>,
    ) -> Reply<PrepareSnapshotReply> {
        let mut freeze = self.inner.freeze.lock().await;
        // A guest without an app may be a template of others.
        let booted = self.inner.booted.lock().clone();
        if let Some(booted) = booted {
            *freeze = Freeze::Frozen;
            if let Err(failure) = booted.around.cgroups.freeze().await {
                booted.around.cgroups.thaw()?;
                *freeze = Freeze::Running;
                return Err(failure.into());
            }
        }
        shutdown::sync().await;
        Ok(Response::new(PrepareSnapshotReply {}))
    }

    async fn after_restore(
        &self,
        request: Request<AfterRestoreRequest>,
    ) -> Reply<AfterRestoreReply> {
        let request = request.into_inner();
        // First the random numbers: nothing may run on with those of the snapshot.
        clock::seed(&request.random_seed)?;
        clock::set(request.clock_unix_ns)?;
        let mut freeze = self.inner.freeze.lock().await;
        let booted = self.inner.booted.lock().clone();
        if let Some(booted) = booted {
            booted.around.cgroups.thaw()?;
        }
        *freeze = Freeze::Running;
        Ok(Response::new(AfterRestoreReply {}))
    }

    async fn shutdown(&self, request: Request<ShutdownRequest>) -> Reply<ShutdownReply> {
        let request = request.into_inner();
        let signal = process::signal(request.signal)?;
        let timeout = Duration::from_millis(request.timeout_ms);
        let booted = self.inner.booted.lock().clone();
        let stopped = shutdown::begin(
            booted,
            self.inner.output.clone(),
            signal,
            timeout,
            &self.inner.tasks,
        );
        // An error means that the guest goes down without a word, which it does not.
        let _ = stopped.await;
        Ok(Response::new(ShutdownReply {}))
    }
}
