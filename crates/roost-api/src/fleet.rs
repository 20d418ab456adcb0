//! The workers of all nodes as one.
//!
//! ```text
//!   refresh, every few seconds ──▶ capacity() of each node ──▶ view, last heard
//!   calls for a machine ──▶ home ──▶ the worker that has it
//!   lists ──▶ every node that answers, and what the others said last
//! ```
//!
//! - A machine's home is known from what is recorded, from lists and answers; one that is not
//!   known is asked for on nodes that have not told theirs yet.
//! - A node that has not answered for a while is [`Standing::Suspect`], then [`Standing::Lost`].
//! - A list is whole, or an error: machines of a silent node are listed as it last told, and
//!   each says so. Only machines of a lost node that has not told since this process began are
//!   left out.
//! - A machine that must not be (see `roost_store::placements::Fence`) is as good as removed:
//!   no list shows it, and it is not found.
//!
//! The workers have the last word. What is known here may be old, is lost when the process
//! ends, and is asked for anew.

mod calls;
mod destroyed;
mod nodes;
mod removal;
mod standing;
mod under_way;
mod wishes;

pub(crate) use calls::not_recorded;
pub(crate) use standing::Standing;

use crate::limits;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use nodes::Nodes;
use parking_lot::Mutex;
use roost_model::error::chain;
use roost_model::id::{MachineId, NodeId};
use roost_model::name::{AppName, RegionCode};
use roost_model::placement::{Choice, PlacementRequest, Refusal};
use roost_proto::worker::{MachineStatus, WorkerApi, WorkerError};
use roost_runtime::clock::Clock;
use roost_runtime::tasks::Tasks;
use roost_store::placements::Fence;
use roost_store::{Store, StoreError};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// The workers of all nodes.
pub(crate) struct Fleet {
    store: Store,
    clock: Arc<dyn Clock>,
    nodes: Mutex<Nodes>,
    /// Changes when there may be something to reconcile.
    changes: watch::Sender<u64>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

impl Fleet {
    /// No nodes yet.
    pub(crate) fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            nodes: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Adds a node, or another way to one.
    pub(crate) fn join(&self, id: NodeId, worker: Arc<dyn WorkerApi>) {
        self.nodes.lock().join(id, worker);
    }

    /// Reads where machines are, before any request.
    pub(crate) async fn load(&self) -> Result<(), StoreError> {
        let placements = self.store.placements().await?;
        {
            let mut nodes = self.nodes.lock();
            for placement in placements {
                if let Some(machine) = placement.machine {
                    nodes.settle(&placement.node, machine, placement.app);
                }
            }
        }
        self.load_fences().await
    }

    /// Reads what must not be.
    pub(crate) async fn load_fences(&self) -> Result<(), StoreError> {
        let fences = self.store.fences().await?;
        fences.into_iter().for_each(|fence| self.fence(fence));
        Ok(())
    }

    /// Asks every node how it is, again and again.
    pub(crate) fn watch(self: &Arc<Self>, tasks: &Tasks) {
        let (fleet, stop) = (Arc::clone(self), tasks.stopping());
        tasks.spawn("fleet", async move {
            loop {
                // Cancel-safe: it only asks.
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = fleet.refresh() => {}
                }
                // Cancel-safe: it only waits.
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(limits::REFRESH_INTERVAL) => {}
                }
            }
        });
    }

    /// Asks every node how it is.
    async fn refresh(&self) {
        let ids: Vec<NodeId> = self.nodes.lock().by_id.keys().cloned().collect();
        self.look_at(ids).await;
    }

    /// Asks those nodes how they are whose view is older than `since`.
    pub(crate) async fn refresh_older(&self, since: Instant) {
        let ids = self.nodes.lock().seen_before(since);
        self.look_at(ids).await;
    }

    /// Asks these nodes how they are. One that does not answer is silent for longer, nothing more.
    pub(crate) async fn look_at(&self, ids: Vec<NodeId>) {
        let look = |id: NodeId| -> BoxFuture<'_, Result<(), WorkerError>> {
            Box::pin(async move {
                let asked_at = Instant::now();
                let worker = self.worker(&id)?;
                self.nodes.lock().asked(&id);
                let view = self.ask_soon(&id, worker.capacity()).await?;
                self.nodes.lock().set_view(&id, view, asked_at);
                Ok(())
            })
        };
        let looks: Vec<_> = ids.into_iter().map(look).collect();
        let mut looks = stream::iter(looks).buffer_unordered(limits::FAN_OUT);
        while let Some(looked) = looks.next().await {
            if let Err(error) = looked {
                tracing::debug!(error = chain(&error), "a node was not looked at");
            }
        }
    }

    pub(crate) fn worker(&self, id: &NodeId) -> Result<Arc<dyn WorkerApi>, WorkerError> {
        let nodes = self.nodes.lock();
        let node = nodes.by_id.get(id);
        let worker = node.map(|node| Arc::clone(&node.worker));
        worker.ok_or_else(|| WorkerError::Unreachable {
            node: id.clone(),
            reason: "it is no node of this platform".into(),
        })
    }

    /// The answer of a node, which is heard by it.
    pub(crate) async fn ask<T>(
        &self,
        id: &NodeId,
        call: impl Future<Output = Result<T, WorkerError>>,
    ) -> Result<T, WorkerError> {
        let answer = call.await;
        if !matches!(answer, Err(WorkerError::Unreachable { .. })) {
            let before = self.nodes.lock().heard(id);
            if before != Standing::Answers {
                tracing::info!(node = %id, "node answers again");
                self.wake_reconcilers();
            }
        }
        answer
    }

    /// The same for a question whose answer is not worth a long wait.
    pub(crate) async fn ask_soon<T>(
        &self,
        id: &NodeId,
        call: impl Future<Output = Result<T, WorkerError>>,
    ) -> Result<T, WorkerError> {
        let in_time = async {
            let answer = timeout(limits::ASK_TIMEOUT, call).await;
            answer.unwrap_or_else(|_| Err(silent(id, limits::ASK_TIMEOUT)))
        };
        self.ask(id, in_time).await
    }

    /// All machines, or those of one app, in order of their creation.
    pub(crate) async fn machines(
        &self,
        app: Option<&AppName>,
    ) -> Result<Vec<MachineStatus>, WorkerError> {
        let ids: Vec<NodeId> = self.nodes.lock().by_id.keys().cloned().collect();
        let list = |id| -> BoxFuture<'_, _> { Box::pin(self.machines_of(id, app)) };
        let lists: Vec<_> = ids.iter().map(list).collect();
        let mut lists = stream::iter(lists).buffer_unordered(limits::FAN_OUT);
        let mut all = vec![];
        while let Some(list) = lists.next().await {
            all.extend(list?);
        }
        all.sort_by(|a: &MachineStatus, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(all)
    }

    /// The machines of a node, or what it said of them when it last did.
    async fn machines_of(
        &self,
        id: &NodeId,
        app: Option<&AppName>,
    ) -> Result<Vec<MachineStatus>, WorkerError> {
        let standing = self.standing(id);
        let list = match standing {
            Standing::Answers => self.list(id, app).await,
            Standing::Suspect | Standing::Lost => Err(silent(id, self.nodes.lock().silence(id))),
        };
        let mut machines = match list {
            Err(WorkerError::Unreachable { node, reason }) => {
                let known = self.nodes.lock().last_machines(id, app);
                match known {
                    Some(known) => known,
                    // What has to run of them is started elsewhere.
                    None if standing == Standing::Lost => vec![],
                    None => return Err(WorkerError::Unreachable { node, reason }),
                }
            }
            list => list?,
        };
        let nodes = self.nodes.lock();
        machines.retain(|status| !nodes.is_fenced(id, status));
        Ok(machines)
    }

    /// The machines that a node says it has, fenced ones with them.
    pub(crate) async fn list(
        &self,
        id: &NodeId,
        app: Option<&AppName>,
    ) -> Result<Vec<MachineStatus>, WorkerError> {
        let worker = self.worker(id)?;
        let asked_at = Instant::now();
        let list = self.ask_soon(id, worker.machines(app)).await?;
        self.nodes.lock().set_machines(id, app, &list, asked_at);
        Ok(list)
    }

    /// Chooses a node, from what is known of them.
    pub(crate) fn choose(&self, request: PlacementRequest) -> Result<Choice, Refusal> {
        self.nodes.lock().choose(request)
    }

    pub(crate) fn standing(&self, id: &NodeId) -> Standing {
        self.nodes.lock().standing(id)
    }

    /// Whether at least half of the nodes answer. Else it is this process that is cut off, and
    /// what is on the others runs.
    pub(crate) fn is_majority(&self) -> bool {
        let standings = self.standings();
        let answers = |(_, standing): &&(NodeId, Standing)| *standing == Standing::Answers;
        standings.iter().filter(answers).count() * 2 >= standings.len()
    }

    /// The node that has a machine, or had it when that had to go, as far as is known.
    pub(crate) fn node_of(&self, machine: &MachineId) -> Option<NodeId> {
        self.nodes.lock().node_of(machine)
    }

    /// Machines of nodes that answer, as these last told.
    pub(crate) fn known(&self, wanted: impl Fn(&MachineStatus) -> bool) -> Vec<MachineStatus> {
        self.nodes.lock().known(wanted)
    }

    /// For how long a node has not answered.
    pub(crate) fn silence(&self, id: &NodeId) -> Duration {
        self.nodes.lock().silence(id)
    }

    /// All nodes with their standing.
    pub(crate) fn standings(&self) -> Vec<(NodeId, Standing)> {
        let nodes = self.nodes.lock();
        let ids = nodes.by_id.keys();
        ids.map(|id| (id.clone(), nodes.standing(id))).collect()
    }

    /// Whether some node is in this region, as far as is known.
    pub(crate) fn has_region(&self, region: &RegionCode) -> bool {
        self.nodes.lock().has_region(region)
    }

    /// A machine as it was when its node last told.
    pub(crate) fn last_known(&self, id: &MachineId) -> Option<MachineStatus> {
        self.nodes.lock().last_known(id).cloned()
    }

    /// Notes a machine that a node answered with.
    pub(crate) fn remember(&self, node: &NodeId, status: &MachineStatus) {
        self.nodes.lock().remember(node, status.clone());
    }

    /// Notes what must not be. It is recorded already.
    pub(crate) fn fence(&self, fence: Fence) {
        self.nodes.lock().fence(fence);
        self.wake_reconcilers();
    }

    /// Forgets a fence, for good.
    pub(crate) async fn lift(&self, fence: &Fence) -> Result<(), StoreError> {
        self.store.lift_fence(fence).await?;
        self.nodes.lock().lift(fence);
        Ok(())
    }

    /// All that must not be.
    pub(crate) fn fences(&self) -> Vec<Fence> {
        self.nodes.lock().fences().cloned().collect()
    }

    pub(crate) fn wake_reconcilers(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Changes when there may be something to reconcile.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// A node that has not answered for so long.
fn silent(id: &NodeId, silent_for: Duration) -> WorkerError {
    WorkerError::Unreachable {
        node: id.clone(),
        reason: format!("it has not answered for {} s", silent_for.as_secs()),
    }
}

#[cfg(test)]
mod tests;
