//! A node as the control plane sees it: a simulated worker behind a network that loses and
//! delays by seed, and that may be cut.

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use roost_model::id::{MachineId, NodeId, ReservationId, RunId};
use roost_model::machine::StopSignal;
use roost_model::name::{AppName, RegionCode};
use roost_model::placement::NodeView;
use roost_proto::worker::{
    Asker, CreateMachine, ExecCommand, ExecOutcome, Lease, ListeningSocket, MachineEvent,
    MachineStatus, Operation, OperationFilter, Process, ReleaseLease, Reservation, Reserve,
    RungStatus, TakeLease, UpdateMachine, WaitFor, WorkerApi, WorkerError,
};
use roost_runtime::tasks::Tasks;
use roost_testkit::sim_worker::SimWorker;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How long a caller waits for an answer that does not come.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// How much later than that a request may arrive.
const LATE_MAX_MS: u64 = 20_000;

/// What goes wrong on the way, of 1,000 calls.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Requests that never arrive.
    pub(crate) lost_requests: u32,
    /// Requests that arrive after the caller has given up.
    pub(crate) late_requests: u32,
    /// Answers that never arrive.
    pub(crate) lost_answers: u32,
    /// Creations that are refused though there is room.
    pub(crate) refusals: u32,
    /// Longest delay.
    pub(crate) delay_max: Duration,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    RequestLost,
    RequestLate,
    AnswerLost,
}

/// A node.
pub(crate) struct Link {
    pub(crate) id: NodeId,
    pub(crate) worker: Arc<SimWorker>,
    state: Mutex<State>,
    tasks: Tasks,
}

struct State {
    rng: StdRng,
    faults: Faults,
    is_cut: bool,
}

impl Link {
    pub(crate) fn new(seed: u64, n: u64, region: &RegionCode, tasks: &Tasks) -> Arc<Self> {
        let id = NodeId::from_ulid(ulid::Ulid::from_parts(n + 1, 0));
        let worker = Arc::new(SimWorker::on_node(id.clone(), region.clone()));
        Arc::new(Self {
            id,
            worker,
            state: Mutex::new(State {
                rng: StdRng::seed_from_u64(seed ^ (n << 32)),
                faults: Faults::default(),
                is_cut: false,
            }),
            tasks: tasks.clone(),
        })
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.state.lock().is_cut = is_cut;
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.state.lock().is_cut
    }

    /// What goes wrong with the next call, and how long each way takes.
    fn draw(&self) -> (Fault, Duration) {
        let mut state = self.state.lock();
        let faults = state.faults;
        let max = u64::try_from(faults.delay_max.as_millis()).unwrap();
        let delay = Duration::from_millis(state.rng.random_range(0..=max));
        let dice = state.rng.random_range(0..1_000);
        let mut bound = 0;
        for (fault, share) in [
            (Fault::RequestLost, faults.lost_requests),
            (Fault::RequestLate, faults.late_requests),
            (Fault::AnswerLost, faults.lost_answers),
        ] {
            bound += share;
            if dice < bound {
                return (fault, delay);
            }
        }
        (Fault::None, delay)
    }

    fn refuses(&self) -> bool {
        let mut state = self.state.lock();
        let share = state.faults.refusals;
        state.rng.random_range(0..1_000) < share
    }

    fn unreachable(&self) -> WorkerError {
        WorkerError::Unreachable {
            node: self.id.clone(),
            reason: "the network of the simulation".into(),
        }
    }

    async fn no_answer<T>(&self) -> Result<T, WorkerError> {
        tokio::time::sleep(CALL_TIMEOUT).await;
        Err(self.unreachable())
    }

    /// Does something at the worker, if the network lets it, and again later if it plays tricks.
    async fn call<T, F>(&self, act: impl FnOnce(Arc<SimWorker>) -> F) -> Result<T, WorkerError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, WorkerError>> + Send + 'static,
    {
        let (fault, delay) = self.draw();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if self.is_cut() || fault == Fault::RequestLost {
            return self.no_answer().await;
        }
        let action = act(Arc::clone(&self.worker));
        if fault == Fault::RequestLate {
            let late = Duration::from_millis(self.state.lock().rng.random_range(0..LATE_MAX_MS));
            self.tasks.spawn("late request", async move {
                tokio::time::sleep(CALL_TIMEOUT + late).await;
                // Its caller has left.
                let _ = action.await;
            });
            return self.no_answer().await;
        }
        let answer = action.await;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if self.is_cut() || fault == Fault::AnswerLost {
            return self.no_answer().await;
        }
        answer
    }
}

#[async_trait]
impl WorkerApi for Link {
    async fn capacity(&self) -> Result<NodeView, WorkerError> {
        self.call(|worker| async move { worker.capacity().await })
            .await
    }
    async fn reserve(&self, request: Reserve) -> Result<Reservation, WorkerError> {
        self.call(|worker| async move { worker.reserve(request).await })
            .await
    }
    async fn release(&self, id: &ReservationId) -> Result<(), WorkerError> {
        let id = id.clone();
        self.call(move |worker| async move { worker.release(&id).await })
            .await
    }
    async fn create_machine(
        &self,
        request: CreateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (asker, refuses) = (asker.clone(), self.refuses());
        self.call(move |worker| async move {
            if refuses {
                return Err(WorkerError::NoCapacity("bad luck".into()));
            }
            worker.create_machine(request, &asker).await
        })
        .await
    }
    async fn update_machine(
        &self,
        id: &MachineId,
        request: UpdateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.call(move |worker| async move { worker.update_machine(&id, request, &asker).await })
            .await
    }
    async fn machine(&self, id: &MachineId) -> Result<MachineStatus, WorkerError> {
        let id = id.clone();
        self.call(move |worker| async move { worker.machine(&id).await })
            .await
    }
    async fn machines(&self, app: Option<&AppName>) -> Result<Vec<MachineStatus>, WorkerError> {
        let app = app.cloned();
        self.call(move |worker| async move { worker.machines(app.as_ref()).await })
            .await
    }
    async fn start_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.call(move |worker| async move { worker.start_machine(&id, &asker).await })
            .await
    }
    async fn stop_machine(
        &self,
        id: &MachineId,
        signal: Option<StopSignal>,
        timeout: Option<Duration>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.call(
            move |worker| async move { worker.stop_machine(&id, signal, timeout, &asker).await },
        )
        .await
    }
    async fn suspend_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.call(move |worker| async move { worker.suspend_machine(&id, &asker).await })
            .await
    }
    async fn rungs(&self) -> Result<Vec<RungStatus>, WorkerError> {
        self.call(|worker| async move { worker.rungs().await })
            .await
    }
    async fn restart_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.call(move |worker| async move { worker.restart_machine(&id, &asker).await })
            .await
    }
    async fn signal_machine(
        &self,
        id: &MachineId,
        signal: StopSignal,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.call(move |worker| async move { worker.signal_machine(&id, signal, &asker).await })
            .await
    }
    async fn destroy_machine(
        &self,
        id: &MachineId,
        force: bool,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.call(move |worker| async move { worker.destroy_machine(&id, force, &asker).await })
            .await
    }
    async fn set_cordoned(
        &self,
        id: &MachineId,
        cordoned: bool,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.call(move |worker| async move { worker.set_cordoned(&id, cordoned, &asker).await })
            .await
    }
    async fn take_lease(
        &self,
        id: &MachineId,
        request: TakeLease,
        asker: &Asker,
    ) -> Result<Lease, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.call(move |worker| async move { worker.take_lease(&id, request, &asker).await })
            .await
    }
    async fn lease(&self, id: &MachineId, asker: &Asker) -> Result<Option<Lease>, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.call(move |worker| async move { worker.lease(&id, &asker).await })
            .await
    }
    async fn release_lease(
        &self,
        id: &MachineId,
        how: ReleaseLease,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.call(move |worker| async move { worker.release_lease(&id, how, &asker).await })
            .await
    }
    async fn set_metadata(
        &self,
        id: &MachineId,
        key: &str,
        value: Option<String>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, key, asker) = (id.clone(), key.to_owned(), asker.clone());
        self.call(move |worker| async move { worker.set_metadata(&id, &key, value, &asker).await })
            .await
    }
    async fn wait_machine(
        &self,
        id: &MachineId,
        wait: WaitFor,
    ) -> Result<MachineStatus, WorkerError> {
        let id = id.clone();
        self.call(move |worker| async move { worker.wait_machine(&id, wait).await })
            .await
    }
    async fn machine_events(
        &self,
        id: &MachineId,
        limit: usize,
    ) -> Result<Vec<MachineEvent>, WorkerError> {
        let id = id.clone();
        self.call(move |worker| async move { worker.machine_events(&id, limit).await })
            .await
    }
    async fn operations(&self, filter: OperationFilter) -> Result<Vec<Operation>, WorkerError> {
        self.call(|worker| async move { worker.operations(filter).await })
            .await
    }
    async fn operation(&self, id: &RunId) -> Result<Option<Operation>, WorkerError> {
        let id = id.clone();
        self.call(move |worker| async move { worker.operation(&id).await })
            .await
    }
    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, WorkerError> {
        let id = id.clone();
        self.call(move |worker| async move { worker.exec(&id, command).await })
            .await
    }
    async fn processes(&self, id: &MachineId) -> Result<Vec<Process>, WorkerError> {
        let id = id.clone();
        self.call(move |worker| async move { worker.processes(&id).await })
            .await
    }
    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, WorkerError> {
        let id = id.clone();
        self.call(move |worker| async move { worker.listening_sockets(&id).await })
            .await
    }
}
