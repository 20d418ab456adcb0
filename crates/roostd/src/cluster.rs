//! This node in its cluster: who it is, its worker and its edge for other nodes.
//!
//! A node is a cluster of its own, and so keeps the authority. The API of this
//! process asks the worker in process, whether it is served or not.

use crate::config::NodeConfig;
use anyhow::{Context as _, Result};
use roost_auth::cluster::{ClusterAuthority, ClusterIdentity, Peer, Role};
use roost_auth::seal::SealingKey;
use roost_runtime::clock::{Clock as _, SystemClock};
use roost_runtime::tasks::Tasks;
use roost_worker::Worker;
use std::net::SocketAddr;
use std::sync::Arc;

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
