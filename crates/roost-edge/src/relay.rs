//! From edge to edge: a request for a machine of another node goes to the edge
//! of that node, by HTTP/2 over mutual TLS.
//!
//! ```text
//! client ─▶ edge (a) ── route, pick ──▶ peers ══ TLS ══▶ server ── pick, connect, forward ──▶ machine
//!              ▲                          │                 │
//!              └── another machine ◀── "elsewhere: reason" ─┘   (no byte has reached the app)
//! ```
//!
//! - [`wire`]: the one private header of a request, and the one of its answer. They are
//!   believed between edges only; what a client sends under the name is taken away.
//! - [`peers`]: the kept connections to edges of other nodes.
//! - [`client`]: a request, a raw connection or a wish to wake goes out.
//! - [`tables`]: what edges tell each other of their machines.
//! - [`loads`]: the same of what those are serving.
//! - [`tallies`]: the same of how releases that are tried out answer.
//! - [`lines`]: what the two have in common.
//! - [`beside`]: which of the two an edge has asked for, and what it is to be told next.
//! - [`distance`]: how long the way to another edge is.
//! - [`server`]: the listener for other edges. What comes there is
//!   [`crate::exchange`]'s, which for such a request picks one machine and answers at once.
//!
//! The edge of the machine's node has the last word: it counts, holds to the
//! hard limit, queues and wakes. What the first edge knows of the load of those
//! machines is its own share, and what it was told of the others' a second ago.

pub(crate) mod beside;
pub(crate) mod client;
pub(crate) mod distance;
mod lines;
pub(crate) mod loads;
pub(crate) mod peers;
pub(crate) mod server;
mod tables;
pub(crate) mod tallies;
pub(crate) mod wire;

use crate::BindError;
use crate::limits;
use crate::shared::Shared;
use crate::sockets::Sockets;
use roost_auth::cluster::ClusterIdentity;
use roost_proto::traffic::PeerNode;
use roost_runtime::tasks::Tasks;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// How an edge and those of other nodes hand requests to each other.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Addresses for other edges; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Who this edge is: of the role `edge`.
    pub identity: Arc<ClusterIdentity>,
    /// The edges whose machines this one learns of by asking them.
    pub peers: Vec<PeerNode>,
}

/// The port for other edges, before anybody is let in.
pub(crate) struct Door {
    listeners: Vec<Arc<TcpListener>>,
    tls: Option<TlsAcceptor>,
    /// Whose tables are followed.
    peers: Vec<PeerNode>,
}

impl Door {
    /// Listens, if this edge is to have to do with others.
    pub(crate) fn open(relay: Option<&RelayConfig>, sockets: &Sockets) -> Result<Self, BindError> {
        let addresses = relay.map_or(&[][..], |relay| &relay.listen);
        let tls = relay.map(|relay| relay.identity.server_config());
        Ok(Self {
            listeners: crate::listen_all(sockets, addresses, "other edges")?,
            peers: relay.map(|relay| relay.peers.clone()).unwrap_or_default(),
            tls: tls.transpose()?.map(|tls| TlsAcceptor::from(Arc::new(tls))),
        })
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        crate::addresses(&self.listeners)
    }

    /// Serves other edges. Ends when each that is followed has told of its machines or was not
    /// reached, after [`limits::RELAY_CONNECT_TIMEOUT`] at the latest: before that, apps that
    /// have machines only there would be unknown here.
    pub(crate) async fn serve(self, shared: &Arc<Shared>, tasks: &Tasks) {
        let Some(tls) = self.tls else { return };
        // First, for edges that begin at the same time and wait for each other's tables.
        for listener in self.listeners {
            let accept = server::accept_loop(shared.clone(), listener, tls.clone());
            tasks.spawn("edge-relay", accept);
        }
        // Nothing is sent: it is closed when all have dropped their ends.
        let (first, mut all_heard) = mpsc::channel::<()>(1);
        for node in self.peers {
            let follow = tables::follow(shared.clone(), Arc::new(node), first.clone());
            tasks.spawn("edge-table", follow);
        }
        drop(first);
        // What is late then comes when it comes.
        let _ = timeout(limits::RELAY_CONNECT_TIMEOUT, all_heard.recv()).await;
    }
}
