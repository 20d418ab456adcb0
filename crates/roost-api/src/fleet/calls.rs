//! Calls for one machine, each to the worker that has it; and calls for all workers.

use super::{Fleet, Standing, silent};
use crate::limits;
use crate::placement::blueprint;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use roost_model::error::chain;
use roost_model::id::{MachineId, NodeId, RunId};
use roost_model::machine::{Rung, StopSignal};
use roost_proto::worker::{
    Asker, ExecCommand, ExecOutcome, Launch, Lease, ListeningSocket, MachineEvent, MachineStatus,
    Operation, OperationFilter, Process, ReleaseLease, RungStatus, TakeLease, UpdateMachine,
    WaitFor, WorkerApi, WorkerError,
};
use roost_store::placements::Change;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// The worker that has a machine.
pub(super) struct Home {
    pub(super) node: NodeId,
    pub(super) worker: Arc<dyn WorkerApi>,
}

impl Fleet {
    /// The worker that has a machine. For one that is neither recorded nor listed, the nodes
    /// are asked that have not told their machines yet.
    pub(super) async fn home(&self, id: &MachineId) -> Result<Home, WorkerError> {
        let known = {
            let nodes = self.nodes.lock();
            if nodes.is_fenced_out(id) {
                return Err(WorkerError::NotFound(id.clone()));
            }
            nodes.home(id)
        };
        let node = match known {
            Some(node) => node,
            None => self.look_for(id).await?,
        };
        let worker = self.worker(&node)?;
        Ok(Home { node, worker })
    }

    async fn look_for(&self, id: &MachineId) -> Result<NodeId, WorkerError> {
        let look = |node: NodeId| -> BoxFuture<'_, Result<NodeId, WorkerError>> {
            Box::pin(async move {
                let worker = self.worker(&node)?;
                let status = self.ask_soon(&node, worker.machine(id)).await?;
                self.remember(&node, &status);
                Ok(node)
            })
        };
        let untold: Vec<_> = {
            let nodes = self.nodes.lock();
            let untold = nodes.untold();
            untold
                .map(|(id, standing)| (id.clone(), standing))
                .collect()
        };
        let answers = |(_, standing): &&(NodeId, Standing)| *standing == Standing::Answers;
        let looks = untold.iter().filter(answers);
        let looks: Vec<_> = looks.map(|(id, _)| look(id.clone())).collect();
        let mut looks = stream::iter(looks).buffer_unordered(limits::FAN_OUT);
        let mut failure = None;
        while let Some(look) = looks.next().await {
            match look {
                Ok(node) => return Ok(node),
                Err(WorkerError::NotFound(_)) => {}
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let mut unheard = untold.iter().filter(|node| !answers(node));
        Err(match unheard.next() {
            Some((node, _)) => silent(node, self.nodes.lock().silence(node)),
            None => WorkerError::NotFound(id.clone()),
        })
    }

    /// Nodes that answer.
    pub(crate) fn answering(&self) -> Vec<NodeId> {
        let answers = self
            .standings()
            .into_iter()
            .filter(|(_, standing)| *standing == Standing::Answers);
        answers.map(|(id, _)| id).collect()
    }

    /// The answer of a machine's worker.
    async fn at<T>(
        &self,
        home: &Home,
        id: &MachineId,
        call: impl Future<Output = Result<T, WorkerError>>,
    ) -> Result<T, WorkerError> {
        let answer = self.ask(&home.node, call).await;
        if matches!(answer, Err(WorkerError::NotFound(_))) {
            self.nodes.lock().forget(&home.node, id);
        }
        answer
    }

    /// The same, where the answer is what the machine is now.
    pub(super) async fn status_at(
        &self,
        home: &Home,
        id: &MachineId,
        call: impl Future<Output = Result<MachineStatus, WorkerError>>,
    ) -> Result<MachineStatus, WorkerError> {
        let status = self.at(home, id, call).await?;
        self.remember(&home.node, &status);
        Ok(status)
    }

    pub(crate) async fn machine(&self, id: &MachineId) -> Result<MachineStatus, WorkerError> {
        let home = self.home(id).await?;
        self.status_at(&home, id, home.worker.machine(id)).await
    }

    pub(crate) async fn update_machine(
        &self,
        id: &MachineId,
        request: UpdateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let home = self.home(id).await?;
        let wanted = Change {
            blueprint: Some(blueprint(&request.spec)),
            // One that is not to be started was at rest, or is refused.
            rests: Some(request.launch == Launch::Skip),
            ..Change::default()
        };
        let call = home.worker.update_machine(id, request, asker);
        self.change(&home, id, wanted, call).await
    }

    pub(crate) async fn set_metadata(
        &self,
        id: &MachineId,
        key: &str,
        value: Option<String>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let home = self.home(id).await?;
        let call = home.worker.set_metadata(id, key, value, asker);
        self.change(&home, id, Change::default(), call).await
    }

    pub(crate) async fn start_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let home = self.home(id).await?;
        let call = home.worker.start_machine(id, asker);
        self.change(&home, id, runs(true), call).await
    }

    pub(crate) async fn stop_machine(
        &self,
        id: &MachineId,
        signal: Option<StopSignal>,
        timeout: Option<Duration>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let home = self.home(id).await?;
        let call = home.worker.stop_machine(id, signal, timeout, asker);
        self.change(&home, id, runs(false), call).await
    }

    pub(crate) async fn suspend_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let home = self.home(id).await?;
        let call = home.worker.suspend_machine(id, asker);
        self.change(&home, id, runs(false), call).await
    }

    pub(crate) async fn restart_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let home = self.home(id).await?;
        let call = home.worker.restart_machine(id, asker);
        self.change(&home, id, runs(true), call).await
    }

    pub(crate) async fn set_cordoned(
        &self,
        id: &MachineId,
        cordoned: bool,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let home = self.home(id).await?;
        let wanted = Change {
            is_cordoned: Some(cordoned),
            ..Change::default()
        };
        let call = home.worker.set_cordoned(id, cordoned, asker);
        self.change(&home, id, wanted, call).await
    }

    pub(crate) async fn wait_machine(
        &self,
        id: &MachineId,
        wait: WaitFor,
    ) -> Result<MachineStatus, WorkerError> {
        let home = self.home(id).await?;
        self.status_at(&home, id, home.worker.wait_machine(id, wait))
            .await
    }

    pub(crate) async fn signal_machine(
        &self,
        id: &MachineId,
        signal: StopSignal,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let home = self.home(id).await?;
        self.at(&home, id, home.worker.signal_machine(id, signal, asker))
            .await
    }

    pub(crate) async fn take_lease(
        &self,
        id: &MachineId,
        request: TakeLease,
        asker: &Asker,
    ) -> Result<Lease, WorkerError> {
        let home = self.home(id).await?;
        self.at(&home, id, home.worker.take_lease(id, request, asker))
            .await
    }

    pub(crate) async fn lease(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<Option<Lease>, WorkerError> {
        let home = self.home(id).await?;
        self.at(&home, id, home.worker.lease(id, asker)).await
    }

    pub(crate) async fn release_lease(
        &self,
        id: &MachineId,
        how: ReleaseLease,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let home = self.home(id).await?;
        self.at(&home, id, home.worker.release_lease(id, how, asker))
            .await
    }

    pub(crate) async fn machine_events(
        &self,
        id: &MachineId,
        limit: usize,
    ) -> Result<Vec<MachineEvent>, WorkerError> {
        let home = self.home(id).await?;
        self.at(&home, id, home.worker.machine_events(id, limit))
            .await
    }

    pub(crate) async fn exec(
        &self,
        id: &MachineId,
        command: ExecCommand,
    ) -> Result<ExecOutcome, WorkerError> {
        let home = self.home(id).await?;
        self.at(&home, id, home.worker.exec(id, command)).await
    }

    pub(crate) async fn processes(&self, id: &MachineId) -> Result<Vec<Process>, WorkerError> {
        let home = self.home(id).await?;
        self.at(&home, id, home.worker.processes(id)).await
    }

    pub(crate) async fn listening_sockets(
        &self,
        id: &MachineId,
    ) -> Result<Vec<ListeningSocket>, WorkerError> {
        let home = self.home(id).await?;
        self.at(&home, id, home.worker.listening_sockets(id)).await
    }

    /// The answers of all nodes that answer. What the others did is not told: it is history,
    /// and will be told again.
    async fn of_all<T, F>(
        &self,
        question: impl Fn(Arc<dyn WorkerApi>) -> F + Sync,
    ) -> Result<Vec<T>, WorkerError>
    where
        T: Send,
        F: Future<Output = Result<T, WorkerError>> + Send,
    {
        let ids = self.answering();
        let is_only = ids.len() == 1;
        let question = &question;
        let ask = |id: NodeId| -> BoxFuture<'_, Result<T, WorkerError>> {
            Box::pin(async move {
                let worker = self.worker(&id)?;
                self.ask_soon(&id, question(worker)).await
            })
        };
        let asks: Vec<_> = ids.into_iter().map(ask).collect();
        let mut asks = stream::iter(asks).buffer_unordered(limits::FAN_OUT);
        let mut answers = vec![];
        while let Some(answer) = asks.next().await {
            match answer {
                Err(WorkerError::Unreachable { .. }) if !is_only => {}
                answer => answers.push(answer?),
            }
        }
        Ok(answers)
    }

    /// What was and is done to machines, newest first, on nodes that answer.
    pub(crate) async fn operations(
        &self,
        filter: OperationFilter,
    ) -> Result<Vec<Operation>, WorkerError> {
        let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
        let of_node = |worker: Arc<dyn WorkerApi>| {
            let filter = filter.clone();
            async move { worker.operations(filter).await }
        };
        let mut all = self.of_all(of_node).await?.concat();
        all.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        all.truncate(limit);
        Ok(all)
    }

    /// One operation with its steps.
    pub(crate) async fn operation(&self, id: &RunId) -> Result<Option<Operation>, WorkerError> {
        let of_node = |worker: Arc<dyn WorkerApi>| async move { worker.operation(id).await };
        let found = self.of_all(of_node).await?;
        Ok(found.into_iter().flatten().next())
    }

    /// Every rung, weakest first; one is refused when every node refuses it.
    pub(crate) async fn rungs(&self) -> Result<Vec<RungStatus>, WorkerError> {
        let of_node = |worker: Arc<dyn WorkerApi>| async move { worker.rungs().await };
        let found = self.of_all(of_node).await?.concat();
        let merged = |rung| {
            let mut of_rung = found.iter().filter(|status| status.rung == rung);
            let offered = of_rung.clone().find(|status| status.refusal.is_none());
            offered.or_else(|| of_rung.next()).cloned()
        };
        Ok(Rung::ALL.into_iter().filter_map(merged).collect())
    }
}

/// That a machine is to run, or to rest.
fn runs(runs: bool) -> Change {
    Change {
        rests: Some(!runs),
        ..Change::default()
    }
}

/// What is wanted could not be recorded.
pub(crate) fn not_recorded(error: &roost_store::StoreError) -> WorkerError {
    match error {
        roost_store::StoreError::DiskFull { .. } => WorkerError::DiskFull(chain(error)),
        other => WorkerError::Internal(chain(other)),
    }
}
