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
//! - [`server`]: the listener for other edges. What comes there is
//!   [`crate::exchange`]'s, which for such a request picks one machine and answers at once.
//!
//! The edge of the machine's node has the last word: it counts, holds to the
//! hard limit, queues and wakes. What the first edge knows of those machines is
//! its own share of their load.

pub(crate) mod client;
pub(crate) mod peers;
pub(crate) mod server;
pub(crate) mod wire;

use roost_auth::cluster::ClusterIdentity;
use std::net::SocketAddr;
use std::sync::Arc;

/// How an edge and those of other nodes hand requests to each other.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Addresses for other edges; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Who this edge is: of the role `edge`.
    pub identity: Arc<ClusterIdentity>,
}
