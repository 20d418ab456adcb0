//! Any worker, put on a socket.

use crate::client::REQUEST_ID;
use crate::convert::request::{
    Change, Create, Destroy, Events, Exec, Get, GetOperation, GiveBack, List, Processes, Rungs,
    SetCordoned, SetMetadata, Signal, Sockets, Stop, Take, Update, View, Wait,
};
use crate::convert::{Wire, failure_to_wire};
use crate::limits;
use crate::listener::Listener;
use crate::proto;
use crate::proto::worker_server::{Worker, WorkerServer};
use roost_auth::cluster::{ClusterIdentity, IdentityError, Role};
use roost_auth::policy::allow_worker_call;
use roost_model::id::ReservationId;
use roost_proto::worker::{OperationFilter, Reserve, WorkerApi, WorkerError};
use roost_runtime::tasks::Tasks;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};

/// A worker could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nobody can listen there.
    #[error("listen on {address} for the worker's API")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// This process's identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Serves a worker to those of the cluster that may ask it, until `tasks` are
/// asked to end. Returns the address, which tells the port where none was given.
pub async fn serve(
    address: SocketAddr,
    worker: Arc<dyn WorkerApi>,
    identity: &Arc<ClusterIdentity>,
    tasks: &Tasks,
) -> Result<SocketAddr, ServeError> {
    let tls = TlsAcceptor::from(Arc::new(identity.server_config()?));
    let refused = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    let server = Listener {
        worker,
        tls,
        connections: Arc::new(Semaphore::new(limits::CONNECTIONS_MAX)),
        tasks: tasks.clone(),
    };
    tasks.spawn("worker-rpc", server.accept_from(listener));
    Ok(bound)
}

/// A worker, as one connection sees it.
pub(crate) struct WorkerService {
    worker: Arc<dyn WorkerApi>,
    role: Option<Role>,
}

impl WorkerService {
    pub(crate) fn new(worker: Arc<dyn WorkerApi>, role: Option<Role>) -> Self {
        Self { worker, role }
    }

    pub(crate) fn into_server(self) -> WorkerServer<Self> {
        WorkerServer::new(self)
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::MESSAGE_BYTES_MAX)
    }

    /// The one way in: who may, what is asked, in which time.
    async fn act<R, T, F>(
        &self,
        request: Request<R::Message>,
        act: impl FnOnce(Arc<dyn WorkerApi>, R) -> F,
    ) -> Result<T, Status>
    where
        R: Wire,
        F: Future<Output = Result<T, WorkerError>>,
    {
        allow_worker_call(self.role)
            .map_err(|denied| Status::permission_denied(denied.to_string()))?;
        let id = request.metadata().get(REQUEST_ID);
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or("-").to_owned();
        let message = request.into_inner();
        let outcome = match R::from_wire(message) {
            // Who asks gives up by itself; this bounds who does not.
            Ok(request) => {
                let act = act(Arc::clone(&self.worker), request);
                match timeout(limits::CALL_TIMEOUT_MAX, act).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(WorkerError::Internal("the call took too long".into())),
                }
            }
            Err(error) => Err(WorkerError::Invalid(format!(
                "a request that this node's version cannot read: {error}"
            ))),
        };
        outcome.map_err(|error| {
            tracing::debug!(request = id, %error, "a call of the worker was refused");
            failure_to_wire(&error)
        })
    }

    /// A call with one message as its answer.
    async fn answer<R, T, F>(
        &self,
        request: Request<R::Message>,
        act: impl FnOnce(Arc<dyn WorkerApi>, R) -> F,
    ) -> Result<Response<T::Message>, Status>
    where
        R: Wire,
        T: Wire,
        F: Future<Output = Result<T, WorkerError>>,
    {
        let answer = self.act(request, act).await?;
        Ok(Response::new(answer.to_wire()))
    }
}

/// Items of an answer, one message each.
type Items<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

fn items<T: Wire>(items: Vec<T>) -> Response<Items<T::Message>> {
    let items: Vec<_> = items.iter().map(|item| Ok(item.to_wire())).collect();
    Response::new(tokio_stream::iter(items))
}

#[tonic::async_trait]
impl Worker for WorkerService {
    async fn capacity(
        &self,
        request: Request<proto::CapacityRequest>,
    ) -> Result<Response<proto::NodeView>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, View| async move { worker.capacity().await };
        self.answer(request, act).await
    }

    async fn reserve(
        &self,
        request: Request<proto::ReserveRequest>,
    ) -> Result<Response<proto::Reservation>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, request: Reserve| async move {
            worker.reserve(request).await
        };
        self.answer(request, act).await
    }

    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Result<Response<proto::Done>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, id: ReservationId| async move {
            worker.release(&id).await
        };
        self.answer(request, act).await
    }

    async fn create_machine(
        &self,
        request: Request<proto::CreateMachineRequest>,
    ) -> Result<Response<proto::Machine>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Create { request, asker }| async move {
            worker.create_machine(request, &asker).await
        };
        self.answer(request, act).await
    }

    async fn update_machine(
        &self,
        request: Request<proto::UpdateMachineRequest>,
    ) -> Result<Response<proto::Machine>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Update { id, request, asker }| async move {
            worker.update_machine(&id, request, &asker).await
        };
        self.answer(request, act).await
    }

    async fn get_machine(
        &self,
        request: Request<proto::GetMachineRequest>,
    ) -> Result<Response<proto::Machine>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Get { id }| async move { worker.machine(&id).await };
        self.answer(request, act).await
    }

    type ListMachinesStream = Items<proto::Machine>;

    async fn list_machines(
        &self,
        request: Request<proto::ListMachinesRequest>,
    ) -> Result<Response<Self::ListMachinesStream>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, list: List| async move {
            match list {
                List::Present(app) => worker.machines(app.as_ref()).await,
                List::Destroyed(app) => worker.destroyed_machines(&app).await,
            }
        };
        self.act(request, act).await.map(items)
    }

    async fn start_machine(
        &self,
        request: Request<proto::ChangeRequest>,
    ) -> Result<Response<proto::Machine>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Change { id, asker }| async move {
            worker.start_machine(&id, &asker).await
        };
        self.answer(request, act).await
    }

    async fn stop_machine(
        &self,
        request: Request<proto::StopMachineRequest>,
    ) -> Result<Response<proto::Machine>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, stop: Stop| async move {
            let Stop {
                id,
                signal,
                timeout,
                asker,
            } = stop;
            worker.stop_machine(&id, signal, timeout, &asker).await
        };
        self.answer(request, act).await
    }

    async fn suspend_machine(
        &self,
        request: Request<proto::ChangeRequest>,
    ) -> Result<Response<proto::Machine>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Change { id, asker }| async move {
            worker.suspend_machine(&id, &asker).await
        };
        self.answer(request, act).await
    }

    async fn rungs(
        &self,
        request: Request<proto::RungsRequest>,
    ) -> Result<Response<proto::RungsAnswer>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Rungs| async move { worker.rungs().await };
        self.answer(request, act).await
    }

    async fn restart_machine(
        &self,
        request: Request<proto::ChangeRequest>,
    ) -> Result<Response<proto::Machine>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Change { id, asker }| async move {
            worker.restart_machine(&id, &asker).await
        };
        self.answer(request, act).await
    }

    async fn signal_machine(
        &self,
        request: Request<proto::SignalMachineRequest>,
    ) -> Result<Response<proto::Done>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Signal { id, signal, asker }| async move {
            worker.signal_machine(&id, signal, &asker).await
        };
        self.answer(request, act).await
    }

    async fn destroy_machine(
        &self,
        request: Request<proto::DestroyMachineRequest>,
    ) -> Result<Response<proto::Done>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Destroy { id, force, asker }| async move {
            worker.destroy_machine(&id, force, &asker).await
        };
        self.answer(request, act).await
    }

    async fn set_cordoned(
        &self,
        request: Request<proto::SetCordonedRequest>,
    ) -> Result<Response<proto::Machine>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, request: SetCordoned| async move {
            let SetCordoned {
                id,
                cordoned,
                asker,
            } = request;
            worker.set_cordoned(&id, cordoned, &asker).await
        };
        self.answer(request, act).await
    }

    async fn set_metadata(
        &self,
        request: Request<proto::SetMetadataRequest>,
    ) -> Result<Response<proto::Machine>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, request: SetMetadata| async move {
            let SetMetadata {
                id,
                key,
                value,
                asker,
            } = request;
            worker.set_metadata(&id, &key, value, &asker).await
        };
        self.answer(request, act).await
    }

    async fn wait_machine(
        &self,
        request: Request<proto::WaitMachineRequest>,
    ) -> Result<Response<proto::Machine>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Wait { id, wait }| async move {
            worker.wait_machine(&id, wait).await
        };
        self.answer(request, act).await
    }

    type MachineEventsStream = Items<proto::MachineEvent>;

    async fn machine_events(
        &self,
        request: Request<proto::MachineEventsRequest>,
    ) -> Result<Response<Self::MachineEventsStream>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Events { id, limit }| async move {
            let limit = limit.min(limits::ITEMS_MAX);
            worker.machine_events(&id, limit).await
        };
        self.act(request, act).await.map(items)
    }

    async fn exec(
        &self,
        request: Request<proto::ExecRequest>,
    ) -> Result<Response<proto::ExecAnswer>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Exec { id, command }| async move {
            worker.exec(&id, command).await
        };
        self.answer(request, act).await
    }

    type ProcessesStream = Items<proto::Process>;

    async fn processes(
        &self,
        request: Request<proto::ProcessesRequest>,
    ) -> Result<Response<Self::ProcessesStream>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Processes { id }| async move {
            worker.processes(&id).await
        };
        self.act(request, act).await.map(items)
    }

    async fn listening_sockets(
        &self,
        request: Request<proto::ListeningSocketsRequest>,
    ) -> Result<Response<proto::ListeningSocketsAnswer>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Sockets { id }| async move {
            worker.listening_sockets(&id).await
        };
        self.answer(request, act).await
    }

    async fn take_lease(
        &self,
        request: Request<proto::TakeLeaseRequest>,
    ) -> Result<Response<proto::Lease>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Take { id, terms, asker }| async move {
            worker.take_lease(&id, terms, &asker).await
        };
        self.answer(request, act).await
    }

    async fn get_lease(
        &self,
        request: Request<proto::ChangeRequest>,
    ) -> Result<Response<proto::GetLeaseAnswer>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, Change { id, asker }| async move {
            worker.lease(&id, &asker).await
        };
        self.answer(request, act).await
    }

    async fn release_lease(
        &self,
        request: Request<proto::ReleaseLeaseRequest>,
    ) -> Result<Response<proto::Done>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, GiveBack { id, how, asker }| async move {
            worker.release_lease(&id, how, &asker).await
        };
        self.answer(request, act).await
    }

    type OperationsStream = Items<proto::Operation>;

    async fn operations(
        &self,
        request: Request<proto::OperationsRequest>,
    ) -> Result<Response<Self::OperationsStream>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, filter: OperationFilter| async move {
            worker.operations(filter).await
        };
        self.act(request, act).await.map(items)
    }

    async fn get_operation(
        &self,
        request: Request<proto::GetOperationRequest>,
    ) -> Result<Response<proto::GetOperationAnswer>, Status> {
        let act = |worker: Arc<dyn WorkerApi>, GetOperation { id }| async move {
            worker.operation(&id).await
        };
        self.answer(request, act).await
    }
}
