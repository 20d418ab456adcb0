//! This node in its cluster: who it is, and its worker for other nodes.
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
    let authority = ClusterAuthority::open(&config.paths.cluster(), key)
        .context("open the cluster's authority")?;
    let peer = Peer {
        node: config.node.id.clone(),
        role: Role::Worker,
    };
    let identity = ClusterIdentity::new(&authority, peer, SystemClock.now())?;
    let address = roost_rpc::serve(address, worker, &identity, tasks).await?;
    roost_rpc::keep_renewed(identity, Arc::new(authority), Arc::new(SystemClock), tasks);
    tracing::info!(%address, "the worker answers other nodes");
    Ok(())
}
