//! A worker on another node.

use crate::convert::request::{
    Change, Create, Destroy, Events, Exec, Get, GetOperation, GiveBack, List, Processes, Rungs,
    SetCordoned, SetMetadata, Signal, Sockets, Stop, Take, Update, View, Wait,
};
use crate::convert::{BadMessage, Wire, failure_from_wire};
use crate::limits;
use crate::proto::worker_client::WorkerClient;
use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use roost_auth::cluster::{ClusterIdentity, IdentityError, Peer, Role};
use roost_model::error::chain;
use roost_model::id::{MachineId, NodeId, RequestId, ReservationId, RunId};
use roost_model::machine::StopSignal;
use roost_model::name::AppName;
use roost_model::placement::NodeView;
use roost_proto::worker::{
    Asker, CreateMachine, ExecCommand, ExecOutcome, Lease, ListeningSocket, MachineEvent,
    MachineStatus, Operation, OperationFilter, Process, ReleaseLease, Reservation, Reserve,
    RungStatus, TakeLease, UpdateMachine, WaitFor, WorkerApi, WorkerError,
};
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

/// Name of the metadata that tells calls apart in logs.
pub(crate) const REQUEST_ID: &str = "roost-request-id";

/// A client of a worker could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RemoteWorkerError {
    /// This process's identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The node's id makes no name.
    #[error("name the worker of a node")]
    Name(#[from] InvalidDnsNameError),
}

/// The worker of another node. It connects at the first call, and again after
/// the connection was lost; it never sends a call twice.
#[derive(Debug, Clone)]
pub struct RemoteWorker {
    node: NodeId,
    client: WorkerClient<Channel>,
}

impl RemoteWorker {
    /// The worker of `node`, at this address, as `identity` sees it.
    pub fn new(
        node: NodeId,
        address: SocketAddr,
        identity: &Arc<ClusterIdentity>,
    ) -> Result<Self, RemoteWorkerError> {
        let peer = Peer {
            node: node.clone(),
            role: Role::Worker,
        };
        let name = ServerName::try_from(peer.name())?;
        let tls = TlsConnector::from(Arc::new(identity.client_config()?));
        let connector = tower::service_fn(move |_| {
            let (tls, name) = (tls.clone(), name.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                // Only a performance hint: a socket that refuses it still works.
                let _ = stream.set_nodelay(true);
                tls.connect(name, stream).await.map(TokioIo::new)
            }
        });
        // The connector encrypts; the address here is only a name.
        let channel = Endpoint::from_static("http://worker")
            .connect_timeout(limits::CONNECT_TIMEOUT)
            .http2_keep_alive_interval(limits::PING_INTERVAL)
            .keep_alive_timeout(limits::PING_TIMEOUT)
            .http2_max_header_list_size(limits::HEADERS_BYTES_MAX)
            .connect_with_connector_lazy(connector);
        let client = WorkerClient::new(channel)
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::MESSAGE_BYTES_MAX);
        Ok(Self { node, client })
    }

    /// A client for one call; clones share the connection.
    fn client(&self) -> WorkerClient<Channel> {
        self.client.clone()
    }

    /// The call's message, unless the other side would not read it.
    fn request<R: Wire>(
        &self,
        request: &R,
        within: Duration,
    ) -> Result<Request<R::Message>, WorkerError> {
        let message = request.to_wire();
        let n_bytes = message.encoded_len();
        if n_bytes > limits::MESSAGE_BYTES_MAX {
            return Err(WorkerError::Invalid(format!(
                "the request has {n_bytes} bytes; {} are possible",
                limits::MESSAGE_BYTES_MAX
            )));
        }
        let mut request = Request::new(message);
        request.set_timeout(within);
        let id = RequestId::from_ulid(ulid::Ulid::generate());
        if let Ok(id) = MetadataValue::<Ascii>::try_from(id.as_str()) {
            request.metadata_mut().insert(REQUEST_ID, id);
        }
        Ok(request)
    }

    /// The answer to a call within its time.
    async fn within<T>(
        &self,
        time: Duration,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, WorkerError> {
        match timeout(time, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(self.refusal(&status)),
            Err(_) => Err(self.unreachable(format!("no answer within {} s", time.as_secs()))),
        }
    }

    async fn answer<T: Wire>(
        &self,
        time: Duration,
        call: impl Future<Output = Result<Response<T::Message>, Status>>,
    ) -> Result<T, WorkerError> {
        let answer = self.within(time, call).await?.into_inner();
        T::from_wire(answer).map_err(|error| self.bad_answer(&error))
    }

    /// The items of a streamed answer.
    async fn items<T: Wire>(
        &self,
        call: impl Future<Output = Result<Response<Streaming<T::Message>>, Status>>,
    ) -> Result<Vec<T>, WorkerError> {
        let all = async {
            let mut stream = call.await?.into_inner();
            let (mut items, mut n_bytes) = (Vec::new(), 0);
            while let Some(item) = stream.message().await? {
                n_bytes += item.encoded_len();
                if items.len() >= limits::ITEMS_MAX || n_bytes > limits::ITEMS_BYTES_MAX {
                    return Err(Status::out_of_range("the answer has too many items"));
                }
                items.push(item);
            }
            Ok(items)
        };
        let items = self.within(limits::CALL_TIMEOUT, all).await?.into_iter();
        let items = items.map(T::from_wire).collect::<Result<_, _>>();
        items.map_err(|error| self.bad_answer(&error))
    }

    async fn list(&self, list: List) -> Result<Vec<MachineStatus>, WorkerError> {
        let request = self.request(&list, limits::CALL_TIMEOUT)?;
        let mut client = self.client();
        self.items(client.list_machines(request)).await
    }

    /// What the worker refused with; all else is the network, or a version.
    fn refusal(&self, status: &Status) -> WorkerError {
        if let Some(refusal) = failure_from_wire(status) {
            return refusal;
        }
        let node = &self.node;
        match status.code() {
            Code::Unimplemented => WorkerError::Invalid(format!(
                "the worker of node {node} is of a version that cannot do this"
            )),
            Code::OutOfRange => {
                WorkerError::Internal(format!("the worker of node {node}: {}", status.message()))
            }
            _ => self.unreachable(chain(status)),
        }
    }

    fn unreachable(&self, reason: String) -> WorkerError {
        let node = self.node.clone();
        WorkerError::Unreachable { node, reason }
    }

    fn bad_answer(&self, error: &BadMessage) -> WorkerError {
        let node = &self.node;
        WorkerError::Internal(format!(
            "the worker of node {node} gave an answer of another version: {error}"
        ))
    }
}

/// A call that asks the worker itself to wait.
fn with_margin(time: Duration) -> Duration {
    time.saturating_add(limits::CALL_MARGIN)
        .min(limits::CALL_TIMEOUT_MAX)
}

/// One call: `call!(self, rpc, request)`, with the time it may take as a fourth.
macro_rules! call {
    ($self:ident, $rpc:ident, $request:expr) => {
        call!($self, $rpc, $request, limits::CALL_TIMEOUT)
    };
    ($self:ident, $rpc:ident, $request:expr, $time:expr) => {{
        let time = $time;
        let request = $self.request(&$request, time)?;
        let mut client = $self.client();
        $self.answer(time, client.$rpc(request)).await
    }};
}

#[async_trait]
impl WorkerApi for RemoteWorker {
    async fn capacity(&self) -> Result<NodeView, WorkerError> {
        call!(self, capacity, View)
    }

    async fn reserve(&self, request: Reserve) -> Result<Reservation, WorkerError> {
        call!(self, reserve, request)
    }

    async fn release(&self, id: &ReservationId) -> Result<(), WorkerError> {
        call!(self, release, *id)
    }

    async fn create_machine(
        &self,
        request: CreateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let asker = asker.clone();
        call!(self, create_machine, Create { request, asker })
    }

    async fn update_machine(
        &self,
        id: &MachineId,
        request: UpdateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        call!(self, update_machine, Update { id, request, asker })
    }

    async fn machine(&self, id: &MachineId) -> Result<MachineStatus, WorkerError> {
        call!(self, get_machine, Get { id: id.clone() })
    }

    async fn machines(&self, app: Option<&AppName>) -> Result<Vec<MachineStatus>, WorkerError> {
        self.list(List::Present(app.cloned())).await
    }

    async fn destroyed_machines(&self, app: &AppName) -> Result<Vec<MachineStatus>, WorkerError> {
        self.list(List::Destroyed(app.clone())).await
    }

    async fn start_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        call!(self, start_machine, Change { id, asker })
    }

    async fn stop_machine(
        &self,
        id: &MachineId,
        signal: Option<StopSignal>,
        timeout: Option<Duration>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let stop = Stop {
            id: id.clone(),
            signal,
            timeout,
            asker: asker.clone(),
        };
        call!(self, stop_machine, stop)
    }

    async fn suspend_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        call!(self, suspend_machine, Change { id, asker })
    }

    async fn rungs(&self) -> Result<Vec<RungStatus>, WorkerError> {
        call!(self, rungs, Rungs)
    }

    async fn restart_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        call!(self, restart_machine, Change { id, asker })
    }

    async fn signal_machine(
        &self,
        id: &MachineId,
        signal: StopSignal,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        call!(self, signal_machine, Signal { id, signal, asker })
    }

    async fn destroy_machine(
        &self,
        id: &MachineId,
        force: bool,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        call!(self, destroy_machine, Destroy { id, force, asker })
    }

    async fn set_cordoned(
        &self,
        id: &MachineId,
        cordoned: bool,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let request = SetCordoned {
            id: id.clone(),
            cordoned,
            asker: asker.clone(),
        };
        call!(self, set_cordoned, request)
    }

    async fn set_metadata(
        &self,
        id: &MachineId,
        key: &str,
        value: Option<String>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let request = SetMetadata {
            id: id.clone(),
            key: key.to_owned(),
            value,
            asker: asker.clone(),
        };
        call!(self, set_metadata, request)
    }

    async fn wait_machine(
        &self,
        id: &MachineId,
        wait: WaitFor,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, time) = (id.clone(), with_margin(wait.timeout));
        call!(self, wait_machine, Wait { id, wait }, time)
    }

    async fn machine_events(
        &self,
        id: &MachineId,
        limit: usize,
    ) -> Result<Vec<MachineEvent>, WorkerError> {
        let id = id.clone();
        let request = self.request(&Events { id, limit }, limits::CALL_TIMEOUT)?;
        let mut client = self.client();
        self.items(client.machine_events(request)).await
    }

    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, WorkerError> {
        let (id, time) = (id.clone(), with_margin(command.timeout));
        call!(self, exec, Exec { id, command }, time)
    }

    async fn processes(&self, id: &MachineId) -> Result<Vec<Process>, WorkerError> {
        let request = self.request(&Processes { id: id.clone() }, limits::CALL_TIMEOUT)?;
        let mut client = self.client();
        self.items(client.processes(request)).await
    }

    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, WorkerError> {
        call!(self, listening_sockets, Sockets { id: id.clone() })
    }

    async fn take_lease(
        &self,
        id: &MachineId,
        terms: TakeLease,
        asker: &Asker,
    ) -> Result<Lease, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        call!(self, take_lease, Take { id, terms, asker })
    }

    async fn lease(&self, id: &MachineId, asker: &Asker) -> Result<Option<Lease>, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        call!(self, get_lease, Change { id, asker })
    }

    async fn release_lease(
        &self,
        id: &MachineId,
        how: ReleaseLease,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        call!(self, release_lease, GiveBack { id, how, asker })
    }

    async fn operations(&self, filter: OperationFilter) -> Result<Vec<Operation>, WorkerError> {
        let request = self.request(&filter, limits::CALL_TIMEOUT)?;
        let mut client = self.client();
        self.items(client.operations(request)).await
    }

    async fn operation(&self, id: &RunId) -> Result<Option<Operation>, WorkerError> {
        call!(self, get_operation, GetOperation { id: id.clone() })
    }
}
