//! Every machine that is wanted is there, once.
//!
//! What is wanted is recorded per machine (`roost_store::placements`), when it is created, by
//! whomever; so the wanted count of a process group in a region is the count of its records. A
//! removal that was asked for takes the record along: what somebody destroyed does not come back.
//!
//! A machine that vanished, or whose node is lost, is made anew if it is *kept*
//! ([`crate::placement::is_kept`]) and did not rest. A machine of a release that does not serve
//! is one too many. While a deployment of the app is under way, its machines are that one's.

mod decide;

use super::{Pass, ReconcileError, Reconciler};
use crate::app::secrets;
use crate::fleet::Standing;
use crate::limits;
use crate::placement::{self, CreateError};
use crate::state::ApiState;
use async_trait::async_trait;
use decide::{Action, Seen, decide};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use rand::seq::SliceRandom as _;
use roost_model::error::chain;
use roost_model::id::{MachineId, NodeId};
use roost_model::name::MachineName;
use roost_proto::machine_config::MachineIdentity;
use roost_proto::worker::{
    Asker, Cause, CreateMachine, Launch, MachineStatus, OperationFilter, WorkerError,
};
use roost_store::StoreError;
use roost_store::placements::Placement;
use roost_store::records::AppRecord;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// See the module.
pub(super) struct Machines(pub(super) ApiState);

/// What a node says that it has.
type List = HashMap<(String, MachineName), MachineStatus>;
type Lists = BTreeMap<NodeId, List>;

#[async_trait]
impl Reconciler for Machines {
    fn name(&self) -> &'static str {
        "machines"
    }

    async fn pass(&self) -> Result<Pass, ReconcileError> {
        let state = &self.0;
        // The order matters. What is recorded, and then not listed, has vanished. A deployment
        // that is not under way when the machines are known has not made any of them since, and
        // its release serves by the time that the apps are read.
        let placements = state.store.placements().await?;
        let lists = self.lists().await?;
        let deploying = self.deploying().await?;
        let apps = state.store.apps().await?;
        let apps: BTreeMap<&str, &AppRecord> = apps
            .iter()
            .filter(|app| app.deleting_at.is_none() && !deploying.contains(&app.id))
            .map(|app| (app.id.as_str(), app))
            .collect();
        let mut pass = Pass::default();
        let (mut notes, mut todo) = (vec![], vec![]);
        let may_move = state.worker.is_majority();
        if !may_move {
            tracing::warn!("nothing is started elsewhere while most nodes are silent");
        }
        for placement in &placements {
            let Some(app) = apps.get(placement.app_id.as_str()) else {
                continue;
            };
            let seen = self.seen(placement, &lists);
            match decide(placement, &seen, app.current_release, state.clock.now()) {
                Action::Nothing => {}
                Action::MakeAnew { .. } if !may_move => {}
                note if note.is_note() => notes.push((*app, placement, note)),
                action => todo.push((*app, placement, action)),
            }
        }
        let is_too_much = cut(&mut todo, limits::RECONCILE_ACTIONS_MAX);
        pass.is_more = cut(&mut notes, limits::RECONCILE_NOTES_MAX);
        let lists = &lists;
        let act = |(app, placement, action)| -> BoxFuture<'_, _> {
            Box::pin(async move {
                let done = self.act(app, placement, action, lists).await;
                (placement, done)
            })
        };
        let acts: Vec<_> = notes.into_iter().chain(todo).map(act).collect();
        let mut acts = stream::iter(acts).buffer_unordered(limits::RECONCILE_AT_ONCE);
        while let Some((placement, done)) = acts.next().await {
            match done {
                Ok(done) => {
                    pass.is_more |= is_too_much;
                    pass.done.extend(done);
                }
                Err(error) => {
                    let (app, machine, error) = (&placement.app, &placement.name, chain(&error));
                    tracing::warn!(%app, %machine, error, "not as it should be yet");
                }
            }
        }
        Ok(pass)
    }
}

impl Machines {
    /// The machines of every node that answers.
    async fn lists(&self) -> Result<Lists, ReconcileError> {
        let fleet = &self.0.worker;
        let list = |node: NodeId| -> BoxFuture<'_, _> {
            Box::pin(async move {
                let list = fleet.list(&node, None).await;
                (node, list)
            })
        };
        let lists: Vec<_> = fleet.answering().into_iter().map(list).collect();
        let mut lists = stream::iter(lists).buffer_unordered(limits::FAN_OUT);
        let mut all = Lists::new();
        while let Some((node, list)) = lists.next().await {
            match list {
                Ok(list) => {
                    let by_name = list.into_iter().map(|status| {
                        let name = (status.spec.app.to_string(), status.spec.name.clone());
                        (name, status)
                    });
                    all.insert(node, by_name.collect());
                }
                // It is silent; what that means is told by the time.
                Err(error @ WorkerError::Unreachable { .. }) => {
                    tracing::debug!(%node, error = chain(&error), "not listed");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(all)
    }

    async fn deploying(&self) -> Result<BTreeSet<String>, ReconcileError> {
        let unfinished = self.0.store.unfinished_deployments(None).await?;
        let apps = unfinished.into_iter().map(|record| record.app_id);
        Ok(apps.collect())
    }

    /// What is to be seen of a placement.
    fn seen(&self, placement: &Placement, lists: &Lists) -> Seen {
        let fleet = &self.0.worker;
        if let Some(machine) = &placement.machine
            && fleet.is_under_way(machine)
        {
            return Seen::UnderWay;
        }
        let node = &placement.node;
        if fleet.standing(node) == Standing::Lost {
            let silent_for = fleet.silence(node);
            return Seen::Lost { silent_for };
        }
        let Some(list) = lists.get(node) else {
            return Seen::Silent;
        };
        match status(placement, list) {
            Some(status) => Seen::There {
                machine: status.id.clone(),
                version: status.instance_id.clone(),
                rests: placement::rests(status.state),
                is_cordoned: status.cordoned,
            },
            None => Seen::Missing,
        }
    }

    /// What was done, for people.
    async fn act(
        &self,
        app: &AppRecord,
        placement: &Placement,
        action: Action,
        lists: &Lists,
    ) -> Result<Option<String>, ActError> {
        let (store, name) = (&self.0.store, &placement.name);
        let mut no_deletion_begins = None;
        if matches!(action, Action::GoOn | Action::MakeAnew { .. }) {
            no_deletion_begins = Some(self.0.machine_gates.of(&app.id).read_owned().await);
            if store.app_by_id(&app.id).await?.deleting_at.is_some() {
                return Ok(None);
            }
        }
        let done = match action {
            Action::Nothing => None,
            Action::Note => {
                let list = lists.get(&placement.node);
                if let Some(status) = list.and_then(|list| status(placement, list)) {
                    let told = placement::told(status);
                    store.note_placement(placement, &told).await?;
                }
                None
            }
            Action::NoteStays { machine } => {
                if let Some(since) = placement.leaving_since
                    && !self.is_being_removed(&placement.node, &machine).await?
                {
                    store.set_staying(&machine, since, None).await?;
                }
                None
            }
            Action::Settle { machine, version } => {
                let (request_id, attempt) = (&placement.request_id, placement.attempt);
                let machine = (&machine, &version);
                store.settle_placement(request_id, attempt, machine).await?;
                None
            }
            Action::GiveUp => {
                store.give_up_placement(placement).await?;
                None
            }
            Action::GoOn => {
                let request = self.request(app, placement).await?;
                let asker = Asker::from(Cause::Reconciler);
                let status = placement::create(&self.0, request, &asker).await?;
                Some(format!("machine {name} is made: {}", status.id))
            }
            Action::MakeAnew { reason } => {
                let request = self.request(app, placement).await?;
                let made = placement::create_anew(&self.0, placement, request, &reason);
                let made = made.await?;
                made.map(|status| format!("{reason}: machine {name} is {} now", status.id))
            }
            Action::Remove { reason } => {
                self.remove(placement).await?;
                Some(format!("machine {name} is removed: {reason}"))
            }
        };
        drop(no_deletion_begins);
        Ok(done)
    }

    /// Whether its node knows of the removal that was asked for, and is about it.
    async fn is_being_removed(
        &self,
        node: &NodeId,
        machine: &MachineId,
    ) -> Result<bool, WorkerError> {
        let under_way = OperationFilter {
            machine: Some(machine.clone()),
            only_unfinished: true,
            limit: 1,
            ..OperationFilter::default()
        };
        let worker = self.0.worker.worker(node)?;
        let operations = self.0.worker.ask(node, worker.operations(under_way));
        Ok(operations
            .await?
            .iter()
            .any(|operation| operation.kind == "destroy"))
    }

    async fn remove(&self, placement: &Placement) -> Result<(), ActError> {
        let (fleet, asker) = (&self.0.worker, Asker::from(Cause::Reconciler));
        let Some(machine) = &placement.machine else {
            // What may have come of the request must not be, either.
            let fence = placement::fence(&self.0, placement, "its release does not serve");
            if self.0.store.fence_request(placement, &fence).await? {
                fleet.fence(fence);
            }
            return Ok(());
        };
        match fleet.destroy_machine(machine, true, &asker).await {
            // Also one that its node does not know any more.
            Err(WorkerError::NotFound(_)) => Ok(self.0.store.forget_placement(machine).await?),
            removed => Ok(removed?),
        }
    }

    /// The request that makes a machine anew.
    async fn request(
        &self,
        app: &AppRecord,
        placement: &Placement,
    ) -> Result<CreateMachine, ActError> {
        let blueprint = self.0.store.blueprint(&placement.request_id).await?;
        let identity = MachineIdentity {
            app: placement.app.clone(),
            name: placement.name.clone(),
            region: blueprint.region,
        };
        let spec = blueprint.config.to_recorded_spec(identity);
        let spec = spec.map_err(|faults| {
            let problems = faults.iter().map(ToString::to_string).collect::<Vec<_>>();
            ActError::Request(problems.join("; "))
        })?;
        let secrets = secrets::open_all(&self.0, app).await;
        Ok(CreateMachine {
            request_id: placement.request_id.clone(),
            spec,
            secrets: secrets.map_err(|error| ActError::Request(error.message))?,
            launch: Launch::Start,
            cordoned: placement.is_cordoned,
            reservation: None,
            lease: None,
            placement: None,
        })
    }
}

/// What is to be done was not.
#[derive(Debug, thiserror::Error)]
enum ActError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Create(#[from] CreateError),
    /// What it was asked to be cannot be asked for any more.
    #[error("{0}")]
    Request(String),
}

/// Leaves so many, by chance: those that cannot be done now never keep the others waiting.
/// Whether there were more.
fn cut<T>(all: &mut Vec<T>, n_max: usize) -> bool {
    all.shuffle(&mut rand::rng());
    let is_too_much = all.len() > n_max;
    all.truncate(n_max);
    is_too_much
}

/// A machine as its node tells of it.
fn status<'a>(placement: &Placement, list: &'a List) -> Option<&'a MachineStatus> {
    let name = (placement.app.to_string(), placement.name.clone());
    let status = list.get(&name)?;
    let is_it = |id: &MachineId| *id == status.id;
    placement
        .machine
        .as_ref()
        .is_none_or(is_it)
        .then_some(status)
}

#[cfg(test)]
mod tests;
