//! Which node gets a machine: the pure choice over what is known of the nodes, and what
//! follows when the node that was chosen does not take it.
//!
//! ```text
//!   choose ──▶ record node and reason ──▶ ask the worker ──▶ record the machine
//!     ▲                                        │
//!     ├── it has no room: it declined ─────────┤
//!     └── no answer, twice: fenced there ──────┘  if the machine is kept, else an error
//! ```
//!
//! A request never has two machines that count. Its node is recorded before that is asked, so
//! that a repetition, also after a kill, asks the same one, which knows the request. When the
//! answer is lost nobody knows whether there is a machine. One that is *kept*, see [`is_kept`],
//! is then asked of another node, and in the same transaction a fence says that it must not be
//! on the first: that has it removed as soon as it answers, and gets none of the app before. One that
//! is not kept might do twice what it must do once: it is repeated on its node only.

mod blueprint;

pub(crate) use blueprint::{blueprint, is_kept, rests, told};

use crate::error::ApiError;
use crate::fleet::not_recorded;
use crate::limits;
use crate::reconcile::has_passed;
use crate::state::ApiState;
use crate::view::rfc3339;
use roost_model::error::{Blame, Classify, ErrorCode, Retry};
use roost_model::id::NodeId;
use roost_model::machine::{MachineSpec, Rung};
use roost_model::placement::{NodeRefusal, PlacementRequest, Reason, Refusal};
use roost_proto::rest::PlacementRefusal;
use roost_proto::worker::{Asker, Cause, CreateMachine, MachineStatus, WorkerError};
use roost_runtime::points;
use roost_store::StoreError;
use roost_store::placements::{Chosen, Fence, Placement};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Why there is no new machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// No node takes it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The worker did not make it.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl From<StoreError> for CreateError {
    fn from(error: StoreError) -> Self {
        Self::Worker(not_recorded(&error))
    }
}

impl CreateError {
    fn inner(&self) -> &dyn Classify {
        match self {
            Self::Refused(error) => error,
            Self::Worker(error) => error,
        }
    }
}

impl Classify for CreateError {
    fn blame(&self) -> Blame {
        self.inner().blame()
    }

    fn retry(&self) -> Retry {
        self.inner().retry()
    }

    fn code(&self) -> ErrorCode {
        self.inner().code()
    }

    fn hint(&self) -> Option<String> {
        self.inner().hint()
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        let refusals = match &error {
            CreateError::Refused(refusal) => refusals(refusal),
            CreateError::Worker(_) => Vec::new(),
        };
        Self {
            refusals,
            ..Self::of(&error)
        }
    }
}

fn refusals(refusal: &Refusal) -> Vec<PlacementRefusal> {
    let nodes = refusal.nodes.iter();
    nodes
        .map(|refused| PlacementRefusal {
            node: refused.node.to_string(),
            reason: refused.reason.as_str().to_owned(),
            message: refused.reason.to_string(),
            advice: refused.reason.advice().to_owned(),
        })
        .collect()
}

/// Chooses a node for a machine and creates it there. May be repeated.
pub(crate) async fn create(
    state: &ApiState,
    request: CreateMachine,
    asker: &Asker,
) -> Result<MachineStatus, CreateError> {
    // Boxed: they are large, and part of what every creation waits for.
    let search = Box::pin(Search::begin(state, request, asker)).await?;
    search.run().await
}

/// Has a machine of another node, or of none any more, made anew. `None` when it is not as it
/// was seen any more.
pub(crate) async fn create_anew(
    state: &ApiState,
    seen: &Placement,
    request: CreateMachine,
    reason: &str,
) -> Result<Option<MachineStatus>, CreateError> {
    let mut chosen = choose(state, &request.spec, &BTreeMap::new()).await?;
    chosen.why = format!("{reason}; {}", chosen.why);
    let fence = fence(state, seen, reason);
    let moved = state.store.move_placement(seen, &chosen, Some(&fence));
    if !moved.await? {
        return Ok(None);
    }
    state.worker.fence(fence);
    let search = Search {
        state,
        at: find(state, &request.request_id).await?,
        request,
        asker: &Cause::Reconciler.into(),
        was_asked: false,
        excluded: BTreeMap::new(),
    };
    search.run().await.map(Some)
}

/// The search of a node for a machine.
struct Search<'a> {
    state: &'a ApiState,
    asker: &'a Asker,
    request: CreateMachine,
    /// The node that is asked next.
    at: Placement,
    /// Whether an earlier try may have asked it: the answer to that is not known.
    was_asked: bool,
    /// Nodes that were asked in vain.
    excluded: BTreeMap<NodeId, Reason>,
}

impl<'a> Search<'a> {
    /// Goes on with the node that an earlier try chose, or chooses one.
    async fn begin(
        state: &'a ApiState,
        request: CreateMachine,
        asker: &'a Asker,
    ) -> Result<Self, CreateError> {
        let (store, spec) = (&state.store, &request.spec);
        let (at, was_asked) = match store.placement(&request.request_id).await? {
            Some(mut at) => {
                let now = state.clock.now();
                // What an earlier try asked cannot come any more after so long.
                let was_asked = !has_passed(at.placed_at, limits::COMING_MAX, now);
                store.ask_placement_again(&at.request_id, now).await?;
                if at.machine.is_none() {
                    at.placed_at = now;
                }
                (at, was_asked)
            }
            None => {
                let app = store.app(&spec.app).await?;
                let chosen = choose(state, spec, &BTreeMap::new()).await?;
                let key = (request.request_id.as_str(), app.id.as_str(), &spec.name);
                // Not when the same request came twice; it has its node then.
                let is_first = match store.begin_placement(key, &blueprint(spec), &chosen).await {
                    Err(StoreError::Exists(what)) => {
                        let holder = store.placement_of_name(&app.id, &spec.name).await?;
                        let text = name_is_taken(&what, holder.as_ref());
                        return Err(WorkerError::Conflict(text).into());
                    }
                    is_first => is_first?,
                };
                points::pass("control.db-node-chosen");
                (find(state, &request.request_id).await?, !is_first)
            }
        };
        Ok(Self {
            state,
            asker,
            request,
            at,
            was_asked,
            excluded: BTreeMap::new(),
        })
    }

    async fn run(mut self) -> Result<MachineStatus, CreateError> {
        for _ in 0..limits::PLACEMENT_ATTEMPTS {
            if let Some(status) = Box::pin(self.ask()).await? {
                return Ok(status);
            }
        }
        self.give_up().await?;
        Err(self.refusal().into())
    }

    /// Asks the node that is next. None: it is another one's turn.
    async fn ask(&mut self) -> Result<Option<MachineStatus>, CreateError> {
        let (answer, is_one_lost) = match self.ask_once().await {
            // The answer may have been lost on its way.
            Err(WorkerError::Unreachable { .. }) => {
                tokio::time::sleep(limits::LOST_ANSWER_PAUSE).await;
                (self.ask_once().await, true)
            }
            answer => (answer, false),
        };
        // One that declines now may still get an earlier question whose answer was lost.
        let may_be_there = is_one_lost || self.was_asked;
        let is_kept = is_kept(&self.request.spec);
        match answer {
            Ok(status) => self.settle(status).await.map(Some),
            Err(error) if declines(&error) && !may_be_there => {
                let said = error.to_string();
                self.move_on(Reason::Declined { said }, None).await?;
                Ok(None)
            }
            Err(error) if declines(&error) && is_kept => {
                let why = "the answer to its creation was lost, and then there was no room";
                let fence = fence(self.state, &self.at, why);
                let said = error.to_string();
                self.move_on(Reason::Declined { said }, Some(fence)).await?;
                Ok(None)
            }
            Err(error) if is_one_lost && is_kept && error.retry() != Retry::Never => {
                let why = "the answer to its creation was lost, and another node was asked";
                let fence = fence(self.state, &self.at, why);
                self.move_on(Reason::Fenced, Some(fence)).await?;
                Ok(None)
            }
            Err(error) => {
                if error.retry() == Retry::Never {
                    self.give_up().await?;
                }
                Err(error.into())
            }
        }
    }

    async fn ask_once(&self) -> Result<MachineStatus, WorkerError> {
        let (fleet, at) = (&self.state.worker, &self.at);
        let request = CreateMachine {
            request_id: match at.attempt {
                0 => at.request_id.clone(),
                // Another request: the node may have been asked before, and know the first.
                attempt => format!("{}-{attempt}", at.request_id),
            },
            placement: Some(at.why.clone()),
            ..self.request.clone()
        };
        let worker = fleet.worker(&at.node)?;
        let call = worker.create_machine(request, self.asker);
        let status = fleet.ask(&at.node, call).await?;
        fleet.remember(&at.node, &status);
        Ok(status)
    }

    async fn settle(&self, status: MachineStatus) -> Result<MachineStatus, CreateError> {
        let (state, at) = (self.state, &self.at);
        let settled = state.store.settle_placement(
            &at.request_id,
            at.attempt,
            (&status.id, &status.instance_id),
        );
        if settled.await? {
            points::pass("control.db-machine-known");
            return Ok(status);
        }
        // Nobody wants it any more: its app was deleted, or another node is asked for it. Who
        // asked for it may not remove it: it can be leased from its beginning on.
        let asker = Asker::from(Cause::Reconciler);
        let removed = state.worker.destroy_machine(&status.id, true, &asker);
        match removed.await {
            Ok(()) | Err(WorkerError::NotFound(_)) => {}
            Err(WorkerError::Unreachable { .. }) => {
                let fence = Fence {
                    machine: Some(status.id.clone()),
                    ..fence(state, at, "nobody wanted it any more when it was made")
                };
                state.store.fence_out(&status.id, &fence).await?;
                state.worker.fence(fence);
            }
            Err(error) => return Err(error.into()),
        }
        let text = format!("machine {} was removed while it was made", status.spec.name);
        Err(WorkerError::Conflict(text).into())
    }

    /// Chooses another node. The one before is fenced if it may have made the machine.
    async fn move_on(&mut self, reason: Reason, fence: Option<Fence>) -> Result<(), CreateError> {
        let (state, left) = (self.state, self.at.node.clone());
        tracing::info!(machine = %self.at.name, node = %left, %reason, "another node is chosen");
        self.excluded.insert(left.clone(), reason);
        if fence.is_none() {
            // What was known of it was wrong.
            state.worker.look_at(vec![left]).await;
        }
        let chosen = match choose(state, &self.request.spec, &self.excluded).await {
            Ok(chosen) => chosen,
            Err(refusal) => {
                // One that may have made the machine is asked again at the next try.
                if fence.is_none() {
                    self.give_up().await?;
                }
                return Err(refusal.into());
            }
        };
        let moved = state
            .store
            .move_placement(&self.at, &chosen, fence.as_ref());
        if !moved.await? {
            let text = format!("machine {} is placed by another request", self.at.name);
            return Err(WorkerError::Conflict(text).into());
        }
        if let Some(fence) = fence {
            state.worker.fence(fence);
        }
        self.at = find(state, &self.at.request_id).await?;
        self.was_asked = false;
        Ok(())
    }

    /// Forgets the request. Not one that a reconciler made: that machine was there once, and is
    /// tried again.
    async fn give_up(&self) -> Result<(), StoreError> {
        if self.asker.cause == Cause::Reconciler {
            return Ok(());
        }
        self.state.store.give_up_placement(&self.at).await?;
        Ok(())
    }

    /// As many nodes as may be were asked; the next one was not.
    fn refusal(self) -> Refusal {
        let nodes = self.excluded.into_iter();
        Refusal {
            nodes: nodes
                .map(|(node, reason)| NodeRefusal { node, reason })
                .collect(),
        }
    }
}

/// Why another request cannot have the name of a machine, and until when.
fn name_is_taken(what: &str, holder: Option<&Placement>) -> String {
    match holder {
        Some(holder) if holder.machine.is_none() && holder.is_kept => format!(
            "node {} was asked for {what} and has not answered yet; it is asked again, and another \
             one in its place if need be",
            holder.node
        ),
        Some(holder) if holder.machine.is_none() => format!(
            "node {} was asked for {what} and has not answered yet: repeat that request, or wait: \
             the name is free again once the node answers that it has none, from {} on",
            holder.node,
            rfc3339(holder.placed_at.after(limits::COMING_MAX))
        ),
        _ => format!("the app has {what} already; choose another name"),
    }
}

/// Whether a worker said that it has not made a machine, and that another may.
fn declines(error: &WorkerError) -> bool {
    error.retry() == Retry::ElsewhereNow || matches!(error, WorkerError::DiskFull(_))
}

async fn find(state: &ApiState, request_id: &str) -> Result<Placement, StoreError> {
    let found = state.store.placement(request_id).await?;
    // Its app was deleted meanwhile.
    found.ok_or_else(|| StoreError::NotFound(format!("machine of request `{request_id}`")))
}

/// What must not be on the node of a placement any more.
pub(crate) fn fence(state: &ApiState, of: &Placement, why: &str) -> Fence {
    Fence {
        node: of.node.clone(),
        app: of.app.clone(),
        name: of.name.clone(),
        machine: of.machine.clone(),
        why: why.to_owned(),
        since: state.clock.now(),
    }
}

async fn choose(
    state: &ApiState,
    spec: &MachineSpec,
    excluded: &BTreeMap<NodeId, Reason>,
) -> Result<Chosen, Refusal> {
    let (fleet, began) = (&state.worker, Instant::now());
    let choice = match fleet.choose(wanted(spec, excluded)) {
        // A node may have room again, or have come, since it was looked at.
        Err(_) => {
            fleet.refresh_older(began).await;
            fleet.choose(wanted(spec, excluded))?
        }
        Ok(choice) => choice,
    };
    Ok(Chosen {
        why: format!("node {}: {}", choice.node, choice.why),
        node: choice.node,
        at: state.clock.now(),
    })
}

fn wanted(spec: &MachineSpec, excluded: &BTreeMap<NodeId, Reason>) -> PlacementRequest {
    PlacementRequest {
        app: spec.app.clone(),
        group: spec.process_group().to_owned(),
        regions: vec![spec.region.clone()],
        guest: spec.guest,
        isolation: spec.isolation,
        isolation_floor: Rung::Container,
        labels: BTreeMap::new(),
        volume_node: None,
        alone: false,
        image: spec.image.digest.as_ref().map(ToString::to_string),
        spread_slack: 0,
        excluded: excluded.clone(),
    }
}

#[cfg(test)]
mod tests;
