//! A driver without a host, for tests of those that use drivers.
//!
//! A [`FakeHost`] is the machine room: what runs there outlives drivers. A
//! [`FakeDriver`] is one `roostd`'s handle on it; after [`FakeDriver::cut`] none
//! of its calls ever returns, as if that `roostd` had been killed.

use crate::driver::{
    Adoption, DriverError, LaunchConfig, MachineDriver, MachineStats, Origin, RootFsKind, Running,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use roost_model::id::MachineId;
use roost_model::machine::{ExitCause, MachineExit, Rung};
use roost_proto::worker::{ExecCommand, ExecOutcome, ListeningSocket, Process};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// The kernel of machines on other rungs than `container`.
pub const FAKE_KERNEL: &str = "6.0.0-fake";

/// What the next launch does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FakeLaunch {
    /// Runs until it gets a signal.
    Run,
    /// Runs until it gets SIGKILL.
    RunStubbornly,
    /// Ends by itself after this time.
    ExitAfter(Duration, MachineExit),
    /// Is refused for this reason.
    Refuse(String),
    /// Fails because of the host.
    HostFailure(String),
    /// Never returns, and starts nothing.
    Hang,
}

/// What the next suspend does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FakeSuspend {
    /// Leaves a snapshot and no process.
    Succeed,
    /// Fails for this reason, and the machine runs on.
    Fail(String),
    /// Never returns, and the machine runs on.
    Hang,
}

/// A process of the fake host.
#[derive(Debug)]
struct FakeProcess {
    config: LaunchConfig,
    pid: u32,
    is_stubborn: bool,
    exit: watch::Sender<Option<MachineExit>>,
    signals: Vec<i32>,
}

#[derive(Debug, Default)]
struct Room {
    processes: BTreeMap<MachineId, FakeProcess>,
    snapshots: BTreeSet<MachineId>,
    plans: VecDeque<FakeLaunch>,
    suspend_plans: VecDeque<FakeSuspend>,
    launches: Vec<LaunchConfig>,
    exec_output: Vec<u8>,
}

/// The machine room that outlives drivers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FakeHost {
    rung: Rung,
    room: Arc<Mutex<Room>>,
}

impl FakeHost {
    /// Nothing runs; its machines are containers.
    pub fn new() -> Self {
        Self::of_rung(Rung::Container)
    }

    /// Nothing runs; its machines are on this rung. All but containers can be suspended.
    pub fn of_rung(rung: Rung) -> Self {
        Self {
            rung,
            room: Arc::default(),
        }
    }

    /// The handle of one `roostd`.
    pub fn driver(&self) -> Arc<FakeDriver> {
        Arc::new(FakeDriver {
            host: self.clone(),
            is_cut: AtomicBool::new(false),
        })
    }

    /// Sets what the next launches do, first in first out; after that they run.
    pub fn plan_launches(&self, plans: impl IntoIterator<Item = FakeLaunch>) {
        self.room.lock().plans.extend(plans);
    }

    /// Sets what the next suspends do, first in first out; after that they succeed.
    pub fn plan_suspends(&self, plans: impl IntoIterator<Item = FakeSuspend>) {
        self.room.lock().suspend_plans.extend(plans);
    }

    /// The machines of which there is a snapshot.
    pub fn snapshots(&self) -> Vec<MachineId> {
        self.room.lock().snapshots.iter().cloned().collect()
    }

    /// Takes a machine's snapshot away.
    pub fn lose_snapshot(&self, id: &MachineId) {
        self.room.lock().snapshots.remove(id);
    }

    /// Every launch that was begun, oldest first.
    pub fn launches(&self) -> Vec<LaunchConfig> {
        self.room.lock().launches.clone()
    }

    /// The machines of which a process runs.
    pub fn running(&self) -> Vec<MachineId> {
        let room = self.room.lock();
        let alive = room
            .processes
            .iter()
            .filter(|(_, process)| process.exit.borrow().is_none());
        alive.map(|(id, _)| id.clone()).collect()
    }

    /// The machines of which anything is left.
    pub fn present(&self) -> Vec<MachineId> {
        let room = self.room.lock();
        let mut present = room.snapshots.clone();
        present.extend(room.processes.keys().cloned());
        present.into_iter().collect()
    }

    /// The process id of a machine that is present.
    pub fn pid(&self, id: &MachineId) -> Option<u32> {
        self.room
            .lock()
            .processes
            .get(id)
            .map(|process| process.pid)
    }

    /// The signals that a machine got.
    pub fn signals(&self, id: &MachineId) -> Vec<i32> {
        self.room
            .lock()
            .processes
            .get(id)
            .map(|process| process.signals.clone())
            .unwrap_or_default()
    }

    /// Ends a machine's process.
    pub fn exit(&self, id: &MachineId, exit: MachineExit) {
        if let Some(process) = self.room.lock().processes.get(id) {
            process.exit.send_if_modified(|state| {
                let is_first = state.is_none();
                *state = state.or(Some(exit));
                is_first
            });
        }
    }

    /// Makes a machine vanish without a trace, as a reboot does.
    pub fn lose(&self, id: &MachineId) {
        self.room.lock().processes.remove(id);
    }

    /// Sets what every command prints.
    pub fn set_exec_output(&self, output: &[u8]) {
        self.room.lock().exec_output = output.to_vec();
    }

    fn begin_launch(&self, config: &LaunchConfig) -> FakeLaunch {
        let mut room = self.room.lock();
        room.launches.push(config.clone());
        room.plans.pop_front().unwrap_or(FakeLaunch::Run)
    }

    fn place(&self, config: LaunchConfig, is_stubborn: bool) -> Result<Running, DriverError> {
        let mut room = self.room.lock();
        if room.processes.contains_key(&config.machine_id) {
            return Err(DriverError::Host {
                operation: "launch".into(),
                reason: format!("machine {} is here already", config.machine_id),
            });
        }
        let had_snapshot = room.snapshots.remove(&config.machine_id);
        let origin = match (config.resume, had_snapshot) {
            (false, _) => Origin::Cold,
            (true, true) => Origin::Resumed,
            (true, false) => Origin::ColdAfter("there is no snapshot of it".into()),
        };
        let n_launches = u32::try_from(room.launches.len()).unwrap_or(u32::MAX);
        let pid = n_launches.saturating_add(1_000);
        let exit = watch::Sender::new(None);
        let id = config.machine_id.clone();
        room.processes.insert(
            id,
            FakeProcess {
                config,
                pid,
                is_stubborn,
                exit,
                signals: vec![],
            },
        );
        let has_kernel = self.rung != Rung::Container;
        Ok(Running {
            pid,
            origin,
            kernel: has_kernel.then(|| FAKE_KERNEL.to_owned()),
        })
    }
}

/// One `roostd`'s handle on a [`FakeHost`].
#[derive(Debug)]
pub struct FakeDriver {
    host: FakeHost,
    is_cut: AtomicBool,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeDriver {
    /// From now on no call returns and none has an effect.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
    }

    async fn check_cut(&self) {
        if self.is_cut.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    fn with_running<T>(
        &self,
        id: &MachineId,
        act: impl FnOnce(&mut FakeProcess) -> T,
    ) -> Result<T, DriverError> {
        let mut room = self.host.room.lock();
        match room.processes.get_mut(id) {
            Some(process) if process.exit.borrow().is_none() => Ok(act(process)),
            Some(_) | None => Err(DriverError::NotRunning(id.clone())),
        }
    }
}

#[async_trait]
impl MachineDriver for FakeDriver {
    fn rung(&self) -> Rung {
        self.host.rung
    }

    fn root_fs(&self) -> RootFsKind {
        match self.host.rung {
            Rung::Container => RootFsKind::Layers,
            Rung::VmEmulated | Rung::Vm => RootFsKind::Image,
        }
    }

    fn can_suspend(&self) -> bool {
        self.host.rung != Rung::Container
    }

    async fn launch(&self, config: LaunchConfig) -> Result<Running, DriverError> {
        self.check_cut().await;
        match self.host.begin_launch(&config) {
            FakeLaunch::Run => self.host.place(config, false),
            FakeLaunch::RunStubbornly => self.host.place(config, true),
            FakeLaunch::ExitAfter(after, exit) => {
                let id = config.machine_id.clone();
                let running = self.host.place(config, false)?;
                let (rung, room) = (self.host.rung, Arc::downgrade(&self.host.room));
                // A plain task: it plays the part of the host, not of a service.
                roost_runtime::tasks::Tasks::new().spawn("fake process", async move {
                    tokio::time::sleep(after).await;
                    if let Some(room) = room.upgrade() {
                        FakeHost { rung, room }.exit(&id, exit);
                    }
                });
                Ok(running)
            }
            FakeLaunch::Refuse(reason) => Err(DriverError::Refused(reason)),
            FakeLaunch::HostFailure(reason) => Err(DriverError::Host {
                operation: "launch".into(),
                reason,
            }),
            FakeLaunch::Hang => std::future::pending().await,
        }
    }

    async fn adopt(&self, id: &MachineId) -> Result<Adoption, DriverError> {
        self.check_cut().await;
        let room = self.host.room.lock();
        Ok(match room.processes.get(id) {
            Some(process) => match *process.exit.borrow() {
                Some(exit) => Adoption::Exited(exit),
                None => Adoption::Running { pid: process.pid },
            },
            None if room.snapshots.contains(id) => Adoption::Suspended,
            None => Adoption::Gone,
        })
    }

    async fn wait_exit(&self, id: &MachineId) -> Result<MachineExit, DriverError> {
        self.check_cut().await;
        let mut exit = {
            let room = self.host.room.lock();
            match room.processes.get(id) {
                Some(process) => process.exit.subscribe(),
                None => return Err(DriverError::NotRunning(id.clone())),
            }
        };
        let outcome = exit.wait_for(Option::is_some).await.map(|exit| *exit);
        self.check_cut().await;
        match outcome {
            Ok(Some(exit)) => Ok(exit),
            Ok(None) | Err(_) => Err(DriverError::NotRunning(id.clone())),
        }
    }

    async fn suspend(&self, id: &MachineId) -> Result<(), DriverError> {
        self.check_cut().await;
        self.with_running(id, |_| ())?;
        let plan = self.host.room.lock().suspend_plans.pop_front();
        match plan.unwrap_or(FakeSuspend::Succeed) {
            FakeSuspend::Succeed => {
                let mut room = self.host.room.lock();
                room.processes.remove(id);
                room.snapshots.insert(id.clone());
                Ok(())
            }
            FakeSuspend::Fail(reason) => Err(DriverError::Host {
                operation: "suspend".into(),
                reason,
            }),
            FakeSuspend::Hang => std::future::pending().await,
        }
    }

    async fn stats(&self, id: &MachineId) -> Result<MachineStats, DriverError> {
        self.check_cut().await;
        self.with_running(id, |_| MachineStats::default())
    }

    async fn signal(&self, id: &MachineId, signal: i32) -> Result<(), DriverError> {
        const SIGKILL: i32 = 9;
        self.check_cut().await;
        self.with_running(id, |process| {
            process.signals.push(signal);
            if signal == SIGKILL || !process.is_stubborn {
                let exit = MachineExit {
                    exit_code: 128 + signal,
                    signal: Some(signal),
                    oom_killed: false,
                    cause: ExitCause::App,
                };
                process.exit.send_replace(Some(exit));
            }
        })
    }

    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, DriverError> {
        self.check_cut().await;
        self.with_running(id, |_| ())?;
        let stdout = match self.host.room.lock().exec_output.clone() {
            output if output.is_empty() => command.command.join(" ").into_bytes(),
            output => output,
        };
        Ok(ExecOutcome {
            exit_code: 0,
            stdout,
            stderr: vec![],
            truncated: false,
        })
    }

    async fn processes(&self, id: &MachineId) -> Result<Vec<Process>, DriverError> {
        self.check_cut().await;
        let command = self.with_running(id, |process| process.config.process.args.join(" "))?;
        Ok(vec![Process {
            pid: 1,
            command,
            directory: Some("/".into()),
            age: Duration::from_secs(1),
            cpu_time: Duration::ZERO,
            memory: 4_096,
            listening: vec![],
        }])
    }

    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, DriverError> {
        self.check_cut().await;
        let ipv4 = self.with_running(id, |process| process.config.addresses.ipv4)?;
        let address = std::net::SocketAddr::from((ipv4, 8080));
        Ok(vec![ListeningSocket {
            protocol: "tcp".into(),
            address,
            process: None,
        }])
    }

    async fn remove(&self, id: &MachineId) -> Result<(), DriverError> {
        self.check_cut().await;
        let mut room = self.host.room.lock();
        room.processes.remove(id);
        room.snapshots.remove(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<MachineId>, DriverError> {
        self.check_cut().await;
        Ok(self.host.present())
    }
}
