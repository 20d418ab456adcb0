//! A guest's agent that greets, echoes and floods.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{Stream, StreamExt, stream};
use roost_agent::guest::{self, StreamKind};
use roost_agent::proto::exec_input::Input;
use roost_agent::proto::exec_output::Output;
use roost_agent::proto::{self, agent_server::Agent};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, Streaming};

/// What runs in the guest, as seen from outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestAgent {
    /// Commands that are running.
    pub(crate) n_commands: Arc<AtomicUsize>,
    /// Parts of output that were taken.
    pub(crate) n_parts: Arc<AtomicUsize>,
}

impl TestAgent {
    /// Serves on `stream` in `tasks`.
    pub(crate) fn serve<S>(&self, tasks: &mut JoinSet<()>, stream: S, kind: StreamKind)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (acceptor, sessions) = guest::sessions();
        let service = guest::service(self.clone());
        tasks.spawn(async move {
            acceptor.run(stream, kind).await;
        });
        tasks.spawn(async move {
            let served = guest::server().add_service(service);
            served.serve_with_incoming(sessions).await.unwrap();
        });
    }
}

/// Counts one command for as long as it lives.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counter))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

type Part = Result<proto::ExecOutput, Status>;

fn part(output: Output) -> Part {
    Ok(proto::ExecOutput {
        output: Some(output),
    })
}

/// Sends every input back; its end is an exit with code 7.
fn cat(inputs: Streaming<proto::ExecInput>, running: Running) -> impl Stream<Item = Part> {
    stream::unfold(Some((inputs, running)), |state| async {
        let (mut inputs, running) = state?;
        let input = match inputs.message().await {
            Ok(input) => input.and_then(|input| input.input),
            Err(status) => return Some((Err(status), None)),
        };
        if let Some(Input::Stdin(bytes)) = input {
            return Some((part(Output::Stdout(bytes)), Some((inputs, running))));
        }
        let exit = proto::ExecExit {
            exit_code: 7,
            ..Default::default()
        };
        Some((part(Output::Exit(exit)), None))
    })
}

#[tonic::async_trait]
impl Agent for TestAgent {
    async fn hello(
        &self,
        _: Request<proto::HelloRequest>,
    ) -> Result<Response<proto::HelloReply>, Status> {
        Ok(Response::new(proto::HelloReply {
            init_version: "test".to_owned(),
            ..Default::default()
        }))
    }

    /// Answers with the number of bytes of the files.
    async fn boot(
        &self,
        request: Request<proto::BootRequest>,
    ) -> Result<Response<proto::BootReply>, Status> {
        let files = &request.get_ref().files;
        let n_bytes: usize = files.iter().map(|file| file.content.len()).sum();
        Ok(Response::new(proto::BootReply {
            pid: u32::try_from(n_bytes).unwrap(),
            ..Default::default()
        }))
    }

    type ExecStream = Pin<Box<dyn Stream<Item = Part> + Send>>;

    /// `cat`, `yes`, `hang` or `brood`.
    async fn exec(
        &self,
        request: Request<Streaming<proto::ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut inputs = request.into_inner();
        let first = inputs.message().await?.and_then(|input| input.input);
        let Some(Input::Start(start)) = first else {
            return Err(Status::invalid_argument("no start"));
        };
        let running = Running::new(&self.n_commands);
        let n_parts = Arc::clone(&self.n_parts);
        match start.args.first().map(String::as_str) {
            Some("cat") => Ok(Response::new(cat(inputs, running).boxed())),
            Some("yes") => {
                let parts = stream::repeat_with(move || {
                    let _ = &running;
                    n_parts.fetch_add(1, Ordering::SeqCst);
                    part(Output::Stdout(vec![b'y'; 16 * 1024].into()))
                });
                Ok(Response::new(parts.boxed()))
            }
            Some("hang") => {
                let held = (inputs, running);
                let nothing = stream::once(async move {
                    let _held = held;
                    std::future::pending().await
                });
                Ok(Response::new(nothing.boxed()))
            }
            Some("brood") => {
                let _held = running;
                std::future::pending().await
            }
            _ => Err(Status::not_found("no such program")),
        }
    }

    type WatchStream = stream::Empty<Result<proto::WatchEvent, Status>>;

    async fn watch(
        &self,
        _: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(stream::empty()))
    }

    type ReadFileStream = stream::Empty<Result<proto::FilePart, Status>>;

    async fn read_file(
        &self,
        _: Request<proto::ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        Ok(Response::new(stream::empty()))
    }

    async fn write_file(
        &self,
        _: Request<Streaming<proto::WriteFilePart>>,
    ) -> Result<Response<proto::WriteFileReply>, Status> {
        Err(Status::unimplemented("test"))
    }

    async fn signal(
        &self,
        _: Request<proto::SignalRequest>,
    ) -> Result<Response<proto::SignalReply>, Status> {
        Err(Status::unimplemented("test"))
    }

    async fn stats(
        &self,
        _: Request<proto::StatsRequest>,
    ) -> Result<Response<proto::StatsReply>, Status> {
        Err(Status::unimplemented("test"))
    }

    /// More than the host takes.
    async fn listening_sockets(
        &self,
        _: Request<proto::ListeningSocketsRequest>,
    ) -> Result<Response<proto::ListeningSocketsReply>, Status> {
        let socket = proto::ListeningSocket {
            process: "x".repeat(roost_agent::limits::REPLY_BYTES_MAX),
            ..Default::default()
        };
        Ok(Response::new(proto::ListeningSocketsReply {
            sockets: vec![socket],
        }))
    }

    async fn processes(
        &self,
        _: Request<proto::ProcessesRequest>,
    ) -> Result<Response<proto::ProcessesReply>, Status> {
        Err(Status::unimplemented("test"))
    }

    async fn prepare_snapshot(
        &self,
        _: Request<proto::PrepareSnapshotRequest>,
    ) -> Result<Response<proto::PrepareSnapshotReply>, Status> {
        Err(Status::unimplemented("test"))
    }

    async fn after_restore(
        &self,
        _: Request<proto::AfterRestoreRequest>,
    ) -> Result<Response<proto::AfterRestoreReply>, Status> {
        Err(Status::unimplemented("test"))
    }

    async fn shutdown(
        &self,
        _: Request<proto::ShutdownRequest>,
    ) -> Result<Response<proto::ShutdownReply>, Status> {
        Err(Status::unimplemented("test"))
    }
}
