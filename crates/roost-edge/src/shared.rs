//! What all exchanges of an edge share.

use crate::BindError;
use crate::certificates::CertificateSource;
use crate::config::EdgeConfig;
use crate::lanes::Lanes;
use crate::limits;
use crate::meter::Series;
use crate::names::Names;
use crate::overload::Overload;
use crate::rates::Clients;
use crate::recent::Recent;
use crate::relay::loads::OwnLoads;
use crate::relay::peers::Peers;
use crate::relay::tallies::{OwnTallies, PeerTallies};
use crate::sockets::Sockets;
use crate::table::Router;
use crate::tls::Tls;
use crate::udp::Datagrams;
use crate::wake::Control;
use http::HeaderValue;
use parking_lot::Mutex;
use roost_proto::traffic::{MachineFiles, PortTable};
use roost_runtime::tasks::Tasks;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all exchanges of an edge share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: EdgeConfig,
    /// The configured domains in lower case.
    pub(crate) domains: Vec<String>,
    pub(crate) region: HeaderValue,
    pub(crate) https_port: Option<u16>,
    pub(crate) router: Arc<Router>,
    pub(crate) names: Arc<Names>,
    pub(crate) tls: Tls,
    /// Wakes machines that sleep.
    pub(crate) sleep: Control,
    /// Opens static files of machines: the worker that is there now.
    pub(crate) files: Mutex<Option<Arc<dyn MachineFiles>>>,
    pub(crate) file_openings: Arc<Semaphore>,
    /// Bounds the answers that are being compressed.
    pub(crate) compressions: Arc<Semaphore>,
    /// What became of the ports that apps ask for.
    pub(crate) ports: watch::Sender<Arc<PortTable>>,
    pub(crate) visitors: Clients,
    /// What serves clients.
    pub(crate) lanes: Lanes,
    pub(crate) overload: Overload,
    /// Edges of other nodes.
    pub(crate) peers: Arc<Peers>,
    /// What they are told of the load of this node's machines.
    pub(crate) loads: OwnLoads,
    /// The same of the releases that are tried out.
    pub(crate) own_tallies: OwnTallies,
    /// What they have told of the releases that are tried out.
    pub(crate) tallies: PeerTallies,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) waiters: Semaphore,
    /// Bounds and counts of flows.
    pub(crate) datagrams: Datagrams,
    /// Bytes of request bodies that are kept.
    pub(crate) kept: Arc<AtomicUsize>,
    /// Requests that have ended.
    pub(crate) recent: Arc<Recent>,
    /// Counts of requests that are for no app.
    pub(crate) nobody: Series,
    /// Client connections, their streams and tunnels.
    pub(crate) clients: TaskTracker,
    /// Connections to machines.
    pub(crate) backends: TaskTracker,
    pub(crate) sockets: Sockets,
    /// What accepts connections.
    pub(crate) accepting: TaskTracker,
    /// Fires when another edge has the sockets: what is connected goes on here.
    pub(crate) retired: CancellationToken,
    /// Fires when no new work should be taken.
    pub(crate) graceful: CancellationToken,
    /// Fires when the time for that is over.
    pub(crate) kill: CancellationToken,
}

impl Shared {
    /// That of an edge that begins with these sockets.
    pub(crate) fn new(
        config: EdgeConfig,
        router: Arc<Router>,
        certificates: Arc<dyn CertificateSource>,
        sockets: Sockets,
        https_port: Option<u16>,
        lanes: Lanes,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, BindError> {
        let names = Names::new(config.names.clone());
        let tls = Tls::new(names.clone(), certificates, config.tickets.clone())
            .map_err(BindError::Tls)?;
        let backends = TaskTracker::new();
        let peers = Peers::new(config.relay.as_ref(), backends.clone())?;
        router.counter().attach_peers(&peers);
        Ok(Arc::new(Self {
            peers,
            loads: OwnLoads::default(),
            own_tallies: OwnTallies::default(),
            tallies: PeerTallies::default(),
            domains: lower_case(&config.domains),
            region: HeaderValue::from_str(config.region.as_str())
                .unwrap_or(HeaderValue::from_static("unknown")),
            https_port,
            router,
            names,
            tls,
            sleep: Mutex::new(config.sleep.clone()),
            files: Mutex::new(config.files.clone()),
            file_openings: Arc::new(Semaphore::new(limits::FILE_OPENINGS_MAX)),
            compressions: Arc::new(Semaphore::new(limits::COMPRESSIONS_MAX)),
            ports: watch::Sender::default(),
            visitors: Clients::new(config.rates),
            lanes,
            overload: Overload::default(),
            connections: Arc::new(Semaphore::new(config.connections_max)),
            waiters: Semaphore::new(limits::WAITERS_MAX),
            datagrams: Datagrams::default(),
            kept: Arc::default(),
            recent: Recent::new(),
            nobody: Series::new(config.region.clone()),
            clients: TaskTracker::new(),
            backends,
            sockets,
            accepting: TaskTracker::new(),
            retired: CancellationToken::new(),
            graceful: tasks.stopping().child_token(),
            kill: CancellationToken::new(),
            config,
        }))
    }

    /// Whether nothing new is taken: the edge has no memory left, or this thread of it more to
    /// do than it can.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.overload.is_full() || self.lanes.is_late_here()
    }
}

fn lower_case(domains: &[String]) -> Vec<String> {
    let domains = domains.iter().map(|domain| domain.trim_matches('.'));
    domains.map(str::to_ascii_lowercase).collect()
}
