//! This node in its cluster: who it is, its worker and its edge for other nodes.
//!
//! A node is a cluster of its own, and so keeps the authority. The API of this
//! process asks the worker in process, whether it is served or not.

use crate::config::NodeConfig;
use anyhow::{Context as _, Result};
use roost_auth::cluster::{ClusterAuthority, ClusterIdentity, Peer, Role};
use roost_auth::seal::SealingKey;
use roost_auth::tickets::TicketKeys;
use roost_model::error::chain;
use roost_runtime::clock::{Clock as _, SystemClock};
use roost_runtime::tasks::Tasks;
use roost_worker::Worker;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How often the keys of session tickets are looked at: a small part of the time that each is used.
const TICKETS_LOOK_INTERVAL: Duration = Duration::from_secs(3600);

/// Answers other nodes at this address, with an identity that is kept good.
pub(crate) async fn serve_worker(
    address: SocketAddr,
    config: &NodeConfig,
    worker: Arc<Worker>,
    key: &SealingKey,
    tasks: &Tasks,
) -> Result<()> {
    let identity = identity(config, Role::Worker, key, tasks)?;
    let address = roost_rpc::serve(address, worker, &identity, tasks).await?;
    tracing::info!(%address, "the worker answers other nodes");
    Ok(())
}

/// The identity of this node's edge, if it is to have to do with others.
pub(crate) fn edge_identity(
    config: &NodeConfig,
    tasks: &Tasks,
) -> Result<Option<Arc<ClusterIdentity>>> {
    if config.edge_peers_listen.is_none() {
        return Ok(None);
    }
    let key = SealingKey::open_or_create(&config.paths.sealing_key());
    let key = key.context("open the sealing key")?;
    identity(config, Role::Edge, &key, tasks).map(Some)
}

/// The keys of session tickets, the same on all nodes of the cluster; kept new as long as the
/// tasks run. What is wrong with them keeps nobody from being served.
pub(crate) fn ticket_keys(config: &NodeConfig, tasks: &Tasks) -> Option<Arc<TicketKeys>> {
    let keys = match open_ticket_keys(config) {
        Ok(keys) => Arc::new(keys),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::error!(error, "no TLS session will be resumed");
            return None;
        }
    };
    let (rotated, stop) = (keys.clone(), tasks.stopping());
    tasks.spawn("ticket keys", async move {
        // By the clock and not by one long sleep: clocks are set, and hosts sleep.
        let mut tick = tokio::time::interval(TICKETS_LOOK_INTERVAL);
        loop {
            // Cancel-safe: the token remembers that it fired, a tick not taken comes again.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let now = SystemClock.now();
            if let Err(error) = rotated.rotate(now) {
                let error = chain(&error);
                tracing::warn!(error, "the newest secret of session tickets is not kept");
            }
            if rotated.is_ahead(now) {
                tracing::warn!(
                    "the clock was far ahead once: other nodes take no session tickets of this \
                     one; copy `cluster/tickets` of another node"
                );
            }
        }
    });
    Some(keys)
}

fn open_ticket_keys(config: &NodeConfig) -> Result<TicketKeys> {
    let key = SealingKey::open_or_create(&config.paths.sealing_key());
    let key = Arc::new(key.context("open the sealing key")?);
    let path = config.paths.session_tickets();
    Ok(TicketKeys::open(&path, key, SystemClock.now())?)
}

/// Who this node is in a role; kept good as long as the tasks run.
fn identity(
    config: &NodeConfig,
    role: Role,
    key: &SealingKey,
    tasks: &Tasks,
) -> Result<Arc<ClusterIdentity>> {
    let authority = ClusterAuthority::open(&config.paths.cluster(), key)
        .context("open the cluster's authority")?;
    let node = config.node.id.clone();
    let identity = ClusterIdentity::new(&authority, Peer { node, role }, SystemClock.now())?;
    let authority = Arc::new(authority);
    roost_rpc::keep_renewed(identity.clone(), authority, Arc::new(SystemClock), tasks);
    Ok(identity)
}
