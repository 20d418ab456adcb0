//! A worker with whom things go wrong, by seed: calls that take long, are not
//! done, are done without an answer, and find the worker dead.

use async_trait::async_trait;
use parking_lot::Mutex;
use roost_model::id::{MachineId, NodeId, ReservationId, RunId};
use roost_model::machine::StopSignal;
use roost_model::name::AppName;
use roost_model::placement::NodeView;
use roost_proto::worker::{
    Asker, CreateMachine, ExecCommand, ExecOutcome, Lease, ListeningSocket, MachineEvent,
    MachineStatus, Operation, OperationFilter, Process, ReleaseLease, Reservation, Reserve,
    RungStatus, TakeLease, UpdateMachine, WaitFor, WorkerApi, WorkerError,
};
use std::sync::Arc;
use std::time::Duration;

/// How often a worker fails, and how. The same seed and the same
/// calls in the same order fail alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Chooses which calls fail.
    pub seed: u64,
    /// Calls take up to this long.
    pub delay_max: Duration,
    /// Of a thousand calls, those that are not done at all.
    pub refused_permille: u32,
    /// Of a thousand calls, those that are done and whose answer is lost.
    pub lost_permille: u32,
    /// Of a thousand calls, those at which the worker dies: they are not done,
    /// and neither are the next [`Self::dead_calls`]. What it had done is kept,
    /// as a worker's database is.
    pub death_permille: u32,
    /// Calls that fail after a death.
    pub dead_calls: u32,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    delay: Duration,
    outcome: Outcome,
}

/// How a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It is done and answered.
    Answered,
    /// It is done, and nobody hears of it.
    Lost,
    /// It is not done.
    Refused,
    /// It is not done, since the worker is dead.
    Dead,
}

/// The faults of one worker, call by call.
#[derive(Debug, Default)]
struct Course {
    faults: Faults,
    state: u64,
    dead_calls_left: u32,
}

impl Course {
    fn new(faults: Faults) -> Self {
        Self {
            faults,
            state: faults.seed,
            dead_calls_left: 0,
        }
    }

    /// What becomes of the next call.
    fn next(&mut self) -> Turn {
        let (delay, roll) = (self.permille(), self.permille());
        let delay = self.faults.delay_max * delay / 1_000;
        let Faults {
            refused_permille,
            lost_permille,
            death_permille,
            ..
        } = self.faults;
        let outcome = if self.dead_calls_left > 0 {
            self.dead_calls_left -= 1;
            Outcome::Dead
        } else if roll < death_permille {
            self.dead_calls_left = self.faults.dead_calls;
            Outcome::Dead
        } else if roll < death_permille + refused_permille {
            Outcome::Refused
        } else if roll < death_permille + refused_permille + lost_permille {
            Outcome::Lost
        } else {
            Outcome::Answered
        };
        Turn { delay, outcome }
    }

    /// 0 to 999, by SplitMix64 (Steele, Lea and Flood 2014).
    fn permille(&mut self) -> u32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % 1_000).expect("it is below 1,000")
    }
}

/// A worker and its faults.
pub struct Faulty<W: ?Sized> {
    course: Mutex<Course>,
    node: NodeId,
    worker: Arc<W>,
}

impl<W: ?Sized> std::fmt::Debug for Faulty<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty")
            .field("course", &self.course)
            .finish_non_exhaustive()
    }
}

impl<W: WorkerApi + ?Sized> Faulty<W> {
    /// This worker; `node` is named in errors.
    pub fn new(worker: Arc<W>, node: NodeId, faults: Faults) -> Self {
        Self {
            course: Mutex::new(Course::new(faults)),
            node,
            worker,
        }
    }

    /// Fails otherwise from now on; with the default, not at all.
    pub fn set_faults(&self, faults: Faults) {
        *self.course.lock() = Course::new(faults);
    }

    /// What becomes of a call, which is not begun before this says so.
    async fn turn<T>(
        &self,
        call: impl Future<Output = Result<T, WorkerError>>,
    ) -> Result<T, WorkerError> {
        let turn = self.course.lock().next();
        if !turn.delay.is_zero() {
            tokio::time::sleep(turn.delay).await;
        }
        let reason = match turn.outcome {
            Outcome::Answered => return call.await,
            Outcome::Lost => {
                // Whatever came of it: nobody hears.
                let _ = call.await;
                "the answer was lost"
            }
            Outcome::Refused => "the call did not arrive",
            Outcome::Dead => "the worker is dead",
        };
        Err(WorkerError::Unreachable {
            node: self.node.clone(),
            reason: reason.to_owned(),
        })
    }
}

#[async_trait]
impl<W: WorkerApi + ?Sized> WorkerApi for Faulty<W> {
    async fn capacity(&self) -> Result<NodeView, WorkerError> {
        self.turn(self.worker.capacity()).await
    }

    async fn reserve(&self, request: Reserve) -> Result<Reservation, WorkerError> {
        self.turn(self.worker.reserve(request)).await
    }

    async fn release(&self, id: &ReservationId) -> Result<(), WorkerError> {
        self.turn(self.worker.release(id)).await
    }

    async fn create_machine(
        &self,
        request: CreateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        self.turn(self.worker.create_machine(request, asker)).await
    }

    async fn update_machine(
        &self,
        id: &MachineId,
        request: UpdateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        self.turn(self.worker.update_machine(id, request, asker))
            .await
    }

    async fn machine(&self, id: &MachineId) -> Result<MachineStatus, WorkerError> {
        self.turn(self.worker.machine(id)).await
    }

    async fn machines(&self, app: Option<&AppName>) -> Result<Vec<MachineStatus>, WorkerError> {
        self.turn(self.worker.machines(app)).await
    }

    async fn start_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        self.turn(self.worker.start_machine(id, asker)).await
    }

    async fn stop_machine(
        &self,
        id: &MachineId,
        signal: Option<StopSignal>,
        timeout: Option<Duration>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        self.turn(self.worker.stop_machine(id, signal, timeout, asker))
            .await
    }

    async fn suspend_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        self.turn(self.worker.suspend_machine(id, asker)).await
    }

    async fn rungs(&self) -> Result<Vec<RungStatus>, WorkerError> {
        self.turn(self.worker.rungs()).await
    }

    async fn restart_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        self.turn(self.worker.restart_machine(id, asker)).await
    }

    async fn signal_machine(
        &self,
        id: &MachineId,
        signal: StopSignal,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        self.turn(self.worker.signal_machine(id, signal, asker))
            .await
    }

    async fn destroy_machine(
        &self,
        id: &MachineId,
        force: bool,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        self.turn(self.worker.destroy_machine(id, force, asker))
            .await
    }

    async fn set_cordoned(
        &self,
        id: &MachineId,
        cordoned: bool,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        self.turn(self.worker.set_cordoned(id, cordoned, asker))
            .await
    }

    async fn take_lease(
        &self,
        id: &MachineId,
        request: TakeLease,
        asker: &Asker,
    ) -> Result<Lease, WorkerError> {
        self.turn(self.worker.take_lease(id, request, asker)).await
    }

    async fn lease(&self, id: &MachineId, asker: &Asker) -> Result<Option<Lease>, WorkerError> {
        self.turn(self.worker.lease(id, asker)).await
    }

    async fn release_lease(
        &self,
        id: &MachineId,
        how: ReleaseLease,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        self.turn(self.worker.release_lease(id, how, asker)).await
    }

    async fn set_metadata(
        &self,
        id: &MachineId,
        key: &str,
        value: Option<String>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        self.turn(self.worker.set_metadata(id, key, value, asker))
            .await
    }

    async fn wait_machine(
        &self,
        id: &MachineId,
        wait: WaitFor,
    ) -> Result<MachineStatus, WorkerError> {
        self.turn(self.worker.wait_machine(id, wait)).await
    }

    async fn machine_events(
        &self,
        id: &MachineId,
        limit: usize,
    ) -> Result<Vec<MachineEvent>, WorkerError> {
        self.turn(self.worker.machine_events(id, limit)).await
    }

    async fn operations(&self, filter: OperationFilter) -> Result<Vec<Operation>, WorkerError> {
        self.turn(self.worker.operations(filter)).await
    }

    async fn operation(&self, id: &RunId) -> Result<Option<Operation>, WorkerError> {
        self.turn(self.worker.operation(id)).await
    }

    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, WorkerError> {
        self.turn(self.worker.exec(id, command)).await
    }

    async fn processes(&self, id: &MachineId) -> Result<Vec<Process>, WorkerError> {
        self.turn(self.worker.processes(id)).await
    }

    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, WorkerError> {
        self.turn(self.worker.listening_sockets(id)).await
    }
}

#[cfg(test)]
mod tests {
    use super::{Course, Faults, Outcome};

    const FAULTS: Faults = Faults {
        seed: 7,
        delay_max: std::time::Duration::from_millis(50),
        refused_permille: 100,
        lost_permille: 100,
        death_permille: 10,
        dead_calls: 5,
    };

    #[test]
    fn the_same_seed_fails_alike_and_about_as_often_as_asked() {
        let course = |faults| {
            let mut course = Course::new(faults);
            (0..10_000).map(|_| course.next()).collect::<Vec<_>>()
        };
        let turns = course(FAULTS);
        assert_eq!(turns, course(FAULTS));
        assert_ne!(turns, course(Faults { seed: 8, ..FAULTS }));
        let count = |outcome| turns.iter().filter(|turn| turn.outcome == outcome).count();
        assert!((500..1_500).contains(&count(Outcome::Refused)));
        assert!((500..1_500).contains(&count(Outcome::Lost)));
        assert!((200..1_200).contains(&count(Outcome::Dead)));
        assert!(turns.iter().all(|turn| turn.delay < FAULTS.delay_max));
        let calm = course(Faults::default());
        assert!(calm.iter().all(|turn| turn.outcome == Outcome::Answered));
    }

    #[test]
    fn a_death_lasts_for_the_calls_that_were_named() {
        let mut course = Course::new(Faults {
            death_permille: 1_000,
            ..FAULTS
        });
        assert_eq!(course.next().outcome, Outcome::Dead);
        course.faults.death_permille = 0;
        course.faults.refused_permille = 0;
        course.faults.lost_permille = 0;
        for _ in 0..5 {
            assert_eq!(course.next().outcome, Outcome::Dead);
        }
        assert_eq!(course.next().outcome, Outcome::Answered);
    }
}
