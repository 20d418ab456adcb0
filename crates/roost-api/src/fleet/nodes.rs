//! What is known of the nodes: how they stood when they last answered.

use super::standing::{Standing, standing};
use roost_model::id::{MachineId, NodeId};
use roost_model::name::AppName;
use roost_model::placement::{self, Choice, ClusterView, NodeView, PlacementRequest};
use roost_model::placement::{NodeRefusal, Reason, Refusal};
use roost_proto::worker::{MachineStatus, WorkerApi};
use roost_store::placements::Fence;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A node's place in the fleet.
pub(super) struct Node {
    pub(super) worker: Arc<dyn WorkerApi>,
    /// When it was asked first how it is since it last answered anything.
    unanswered_since: Option<Instant>,
    /// Where its view is, and when it was asked for that.
    view: Option<(usize, Instant)>,
    /// Its machines as it last said; none before its first list.
    machines: Option<HashMap<MachineId, MachineStatus>>,
    /// Machines whose home it is, those and others that were heard of, and when.
    homed: HashMap<MachineId, Instant>,
    /// Apps of which it had machines when this process began.
    apps_before: BTreeSet<AppName>,
}

impl Node {
    /// For how long it owes an answer. One that is not asked is not silent.
    fn silence(&self) -> Duration {
        self.unanswered_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// All nodes, and what is known of them.
#[derive(Default)]
pub(super) struct Nodes {
    pub(super) by_id: BTreeMap<NodeId, Node>,
    view: ClusterView,
    homes: HashMap<MachineId, NodeId>,
    /// What must not be, by node.
    fences: BTreeMap<NodeId, Vec<Fence>>,
    /// Machines that this process is changing or removing, and how often.
    pub(super) under_way: HashMap<MachineId, usize>,
}

impl Nodes {
    /// Adds a node, or another way to one.
    pub(super) fn join(&mut self, id: NodeId, worker: Arc<dyn WorkerApi>) {
        let node = Node {
            worker,
            unanswered_since: None,
            view: None,
            machines: None,
            homed: HashMap::new(),
            apps_before: BTreeSet::new(),
        };
        if let Some(old) = self.by_id.insert(id.clone(), node)
            && let Some(new) = self.by_id.get_mut(&id)
        {
            let Node { worker, .. } = std::mem::replace(new, old);
            (new.worker, new.unanswered_since) = (worker, None);
        }
    }

    pub(super) fn silence(&self, id: &NodeId) -> Duration {
        self.by_id.get(id).map_or(Duration::MAX, Node::silence)
    }

    /// The only node counts as answering: there is no other to ask.
    pub(super) fn standing(&self, id: &NodeId) -> Standing {
        if self.by_id.len() == 1 && self.by_id.contains_key(id) {
            return Standing::Answers;
        }
        standing(self.silence(id))
    }

    /// Notes that a node answered; how it stood before.
    pub(super) fn heard(&mut self, id: &NodeId) -> Standing {
        let before = self.standing(id);
        if let Some(node) = self.by_id.get_mut(id) {
            node.unanswered_since = None;
        }
        before
    }

    /// Notes that a node is being asked how it is.
    pub(super) fn asked(&mut self, id: &NodeId) {
        if let Some(node) = self.by_id.get_mut(id) {
            node.unanswered_since.get_or_insert_with(Instant::now);
        }
    }

    /// Takes a view that was asked for at `asked_at`, unless a newer one is there.
    pub(super) fn set_view(&mut self, id: &NodeId, view: NodeView, asked_at: Instant) {
        let Some(node) = self.by_id.get_mut(id) else {
            return;
        };
        match &mut node.view {
            Some((_, newer)) if *newer > asked_at => {}
            Some((idx, at)) => {
                (self.view.nodes[*idx], *at) = (view, asked_at);
            }
            none => {
                *none = Some((self.view.nodes.len(), asked_at));
                self.view.nodes.push(view);
            }
        }
    }

    /// Nodes that answer, and whose view is not known or was asked for before `since`.
    pub(super) fn seen_before(&self, since: Instant) -> Vec<NodeId> {
        let is_old = |node: &Node| node.view.is_none_or(|(_, at)| at < since);
        let answers = |id: &NodeId| self.standing(id) == Standing::Answers;
        let old = self.by_id.iter().filter(|(_, node)| is_old(node));
        old.map(|(id, _)| id.clone())
            .filter(|id| answers(id))
            .collect()
    }

    /// Whether some node is in this region, as far as is known.
    pub(super) fn has_region(&self, region: &roost_model::name::RegionCode) -> bool {
        self.view.nodes.iter().any(|node| node.region == *region)
    }

    /// Chooses a node, and counts the machine as if it were there: so that requests at the
    /// same moment do not all go to the same node.
    pub(super) fn choose(&mut self, mut request: PlacementRequest) -> Result<Choice, Refusal> {
        for (id, fences) in &self.fences {
            if fences.iter().any(|fence| fence.app == request.app) {
                request.excluded.insert(id.clone(), Reason::Fenced);
            }
        }
        for (id, node) in &self.by_id {
            if self.standing(id) != Standing::Answers {
                let seconds = node.silence().as_secs();
                request
                    .excluded
                    .insert(id.clone(), Reason::Silent { seconds });
            }
        }
        match placement::choose(&self.view, &request) {
            Ok(choice) => {
                let node = self.by_id.get(&choice.node);
                if let Some((idx, _)) = node.and_then(|node| node.view) {
                    self.view.nodes[idx].add(&request);
                }
                Ok(choice)
            }
            Err(mut refusal) => {
                let unseen = self.by_id.iter().filter(|(_, node)| node.view.is_none());
                refusal.nodes.extend(unseen.map(|(id, node)| NodeRefusal {
                    node: id.clone(),
                    reason: Reason::Silent {
                        seconds: node.silence().as_secs(),
                    },
                }));
                Err(refusal)
            }
        }
    }

    /// The node that has a machine, as far as is known.
    pub(super) fn home(&self, machine: &MachineId) -> Option<NodeId> {
        self.homes.get(machine).cloned()
    }

    fn set_home(&mut self, machine: MachineId, id: &NodeId) {
        if let Some(node) = self.by_id.get_mut(id) {
            node.homed.insert(machine.clone(), Instant::now());
        }
        self.homes.insert(machine, id.clone());
    }

    fn leave_home(&mut self, machine: &MachineId, id: &NodeId) {
        if let Some(node) = self.by_id.get_mut(id) {
            node.homed.remove(machine);
        }
        if self.homes.get(machine) == Some(id) {
            self.homes.remove(machine);
        }
    }

    /// Notes the node that has a machine, as it was recorded before this process began.
    pub(super) fn settle(&mut self, id: &NodeId, machine: MachineId, app: AppName) {
        self.set_home(machine, id);
        if let Some(node) = self.by_id.get_mut(id) {
            node.apps_before.insert(app);
        }
    }

    /// Nodes that have not told their machines since this process began, and how they stand.
    pub(super) fn untold(&self) -> impl Iterator<Item = (&NodeId, Standing)> {
        let nodes = self.by_id.iter();
        let untold = nodes.filter(|(_, node)| node.machines.is_none());
        untold.map(|(id, _)| (id, self.standing(id)))
    }

    /// The node that has a machine, or had it when that had to go.
    pub(super) fn node_of(&self, machine: &MachineId) -> Option<NodeId> {
        self.home(machine).or_else(|| {
            let mut fences = self.fences();
            let fence = fences.find(|fence| fence.machine.as_ref() == Some(machine));
            fence.map(|fence| fence.node.clone())
        })
    }

    /// Machines of nodes that answer, as these last told.
    pub(super) fn known(&self, wanted: impl Fn(&MachineStatus) -> bool) -> Vec<MachineStatus> {
        let answering = self
            .by_id
            .iter()
            .filter(|(id, _)| self.standing(id) == Standing::Answers);
        let machines = answering.filter_map(|(_, node)| node.machines.as_ref());
        let wanted = machines
            .flat_map(HashMap::values)
            .filter(|status| wanted(status));
        wanted.cloned().collect()
    }

    /// A machine as it was when its node last told.
    pub(super) fn last_known(&self, machine: &MachineId) -> Option<&MachineStatus> {
        let node = self.by_id.get(self.homes.get(machine)?)?;
        node.machines.as_ref()?.get(machine)
    }

    /// Notes what a node said of a machine.
    pub(super) fn remember(&mut self, id: &NodeId, status: MachineStatus) {
        self.set_home(status.id.clone(), id);
        if let Some(node) = self.by_id.get_mut(id)
            && let Some(machines) = &mut node.machines
        {
            machines.insert(status.id.clone(), status);
        }
    }

    /// Notes that a machine is on a node no more.
    pub(super) fn forget(&mut self, id: &NodeId, machine: &MachineId) {
        self.leave_home(machine, id);
        self.unlist(id, machine);
    }

    /// Notes that a machine is being removed: it is not listed once its node is silent.
    pub(super) fn unlist(&mut self, id: &NodeId, machine: &MachineId) {
        if let Some(node) = self.by_id.get_mut(id)
            && let Some(machines) = &mut node.machines
        {
            machines.remove(machine);
        }
    }

    /// Notes a node's answer to a question for its machines, or for those of one app, that was
    /// asked at `asked_at`. What was heard of a machine since stays.
    pub(super) fn set_machines(
        &mut self,
        id: &NodeId,
        app: Option<&AppName>,
        machines: &[MachineStatus],
        asked_at: Instant,
    ) {
        let Some(node) = self.by_id.get_mut(id) else {
            return;
        };
        let homed = &mut node.homed;
        let newer = homed.iter().filter(|(_, heard_at)| **heard_at >= asked_at);
        let newer: HashSet<MachineId> = newer.map(|(machine, _)| machine.clone()).collect();
        match (&mut node.machines, app) {
            (Some(known), Some(app)) => {
                known.retain(|id, status| status.spec.app != *app || newer.contains(id));
            }
            // Of the others nothing is known yet.
            (None, Some(_)) => {
                for status in machines {
                    self.set_home(status.id.clone(), id);
                }
                return;
            }
            (known, None) => {
                known
                    .get_or_insert_default()
                    .retain(|id, _| newer.contains(id));
                let older: Vec<MachineId> = homed
                    .extract_if(|id, _| !newer.contains(id))
                    .map(|(id, _)| id)
                    .collect();
                for machine in older {
                    self.leave_home(&machine, id);
                }
            }
        }
        let older = machines.iter().filter(|status| !newer.contains(&status.id));
        for status in older {
            self.remember(id, status.clone());
        }
    }

    /// The machines that a node had when it last told all, with a word about its silence. None
    /// when it has not told, and is known to have some.
    pub(super) fn last_machines(
        &self,
        id: &NodeId,
        app: Option<&AppName>,
    ) -> Option<Vec<MachineStatus>> {
        let node = self.by_id.get(id)?;
        let Some(known) = &node.machines else {
            let has_some = match app {
                Some(app) => node.apps_before.contains(app),
                None => !node.apps_before.is_empty(),
            };
            return (!has_some).then(Vec::new);
        };
        let seconds = self.silence(id).as_secs();
        let of_app = known
            .values()
            .filter(|status| app.is_none_or(|app| status.spec.app == *app));
        let as_of_then = |status: &MachineStatus| MachineStatus {
            state_reason: Some(format!(
                "node {id} has not answered for {seconds} s; this is what it said before"
            )),
            ..status.clone()
        };
        Some(of_app.map(as_of_then).collect())
    }

    /// Notes a fence, in place of an earlier one for the same name.
    pub(super) fn fence(&mut self, fence: Fence) {
        self.lift(&fence);
        if let Some(machine) = &fence.machine {
            self.forget(&fence.node, machine);
        }
        let fences = self.fences.entry(fence.node.clone()).or_default();
        fences.push(fence);
    }

    /// Notes that a fence is no more.
    pub(super) fn lift(&mut self, fence: &Fence) {
        if let Some(fences) = self.fences.get_mut(&fence.node) {
            fences.retain(|other| (&other.app, &other.name) != (&fence.app, &fence.name));
            if fences.is_empty() {
                self.fences.remove(&fence.node);
            }
        }
    }

    /// All that must not be.
    pub(super) fn fences(&self) -> impl Iterator<Item = &Fence> {
        self.fences.values().flatten()
    }

    /// Whether a machine must not be on a node: it is as good as removed.
    pub(super) fn is_fenced(&self, node: &NodeId, status: &MachineStatus) -> bool {
        let mut fences = self.fences.get(node).into_iter().flatten();
        fences.any(|fence| match &fence.machine {
            Some(machine) => *machine == status.id,
            None => fence.app == status.spec.app && fence.name == status.spec.name,
        })
    }

    /// Whether a machine must not be, on whatever node it is.
    pub(super) fn is_fenced_out(&self, machine: &MachineId) -> bool {
        self.fences()
            .any(|fence| fence.machine.as_ref() == Some(machine))
    }
}

#[cfg(test)]
mod tests;
