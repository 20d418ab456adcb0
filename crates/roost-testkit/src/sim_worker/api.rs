//! A simulated worker's answers.

use super::SimWorker;
use super::room::NO_VM;
use async_trait::async_trait;
use roost_model::id::{InstanceId, MachineId, ReservationId, RunId};
use roost_model::machine::{MachineState, Rung, StopSignal};
use roost_model::name::AppName;
use roost_model::placement::NodeView;
use roost_proto::worker::{
    Asker, CreateMachine, ExecCommand, ExecOutcome, Launch, Lease, ListeningSocket, MachineEvent,
    MachineStatus, Operation, OperationFilter, Process, ReleaseLease, Reservation, Reserve,
    RungStatus, TakeLease, UpdateMachine, WaitFor, WorkerApi, WorkerError,
};
use std::time::Duration;

#[async_trait]
impl WorkerApi for SimWorker {
    async fn capacity(&self) -> Result<NodeView, WorkerError> {
        let mut inner = self.inner.lock();
        let now = inner.now();
        inner.reservations.retain(|_, held| held.expires_at > now);
        Ok(inner.node())
    }

    async fn reserve(&self, request: Reserve) -> Result<Reservation, WorkerError> {
        self.inner.lock().reserve(request)
    }

    async fn release(&self, id: &ReservationId) -> Result<(), WorkerError> {
        self.inner.lock().reservations.remove(id);
        Ok(())
    }

    async fn create_machine(
        &self,
        request: CreateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        self.inner.lock().create(request, &asker.cause)
    }

    async fn update_machine(
        &self,
        id: &MachineId,
        request: UpdateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        let machine = inner.find_lasting(id)?;
        if request
            .current_version
            .is_some_and(|version| version != machine.status.instance_id)
        {
            return Err(WorkerError::Conflict(
                "the machine has another version".into(),
            ));
        }
        machine.status.spec = request.spec;
        machine.secrets = request.secrets;
        machine.status.instance_id = InstanceId::from_ulid(ulid::Ulid::generate());
        inner.set_state(id, "update", MachineState::Stopped, Some(&asker.cause))?;
        match request.launch {
            Launch::Start => inner.start(id, &asker.cause),
            Launch::Skip => Ok(inner.find(id)?.status.clone()),
        }
    }

    async fn machine(&self, id: &MachineId) -> Result<MachineStatus, WorkerError> {
        Ok(self.inner.lock().find(id)?.status.clone())
    }

    async fn machines(&self, app: Option<&AppName>) -> Result<Vec<MachineStatus>, WorkerError> {
        let inner = self.inner.lock();
        let statuses = inner
            .machines
            .values()
            .map(|machine| machine.status.clone());
        Ok(statuses
            .filter(|status| app.is_none_or(|app| status.spec.app == *app))
            .collect())
    }

    async fn start_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        inner.start(id, &asker.cause)
    }

    async fn stop_machine(
        &self,
        id: &MachineId,
        _signal: Option<StopSignal>,
        _timeout: Option<Duration>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        inner.find_lasting(id)?.status.pid = None;
        inner.set_state(id, "stop", MachineState::Stopped, Some(&asker.cause))
    }

    async fn suspend_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        let status = &mut inner.find_lasting(id)?.status;
        match (status.rung, status.state) {
            (rung @ Rung::Container, _) => Err(WorkerError::CannotSuspend {
                machine: id.clone(),
                rung,
            }),
            (_, MachineState::Suspended) => Ok(status.clone()),
            (_, MachineState::Started) => {
                status.pid = None;
                inner.set_state(id, "suspend", MachineState::Suspended, Some(&asker.cause))
            }
            (_, state) => Err(WorkerError::Conflict(format!(
                "machine {id} is {}: only a started machine can be suspended",
                state.as_str()
            ))),
        }
    }

    async fn rungs(&self) -> Result<Vec<RungStatus>, WorkerError> {
        let refusal = |rung| (rung == Rung::Vm).then(|| NO_VM.to_owned());
        let status = |rung| RungStatus {
            rung,
            refusal: refusal(rung),
        };
        Ok(Rung::ALL.map(status).to_vec())
    }

    async fn restart_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        inner.find_lasting(id)?;
        inner.set_state(id, "restart", MachineState::Stopped, Some(&asker.cause))?;
        inner.start(id, &asker.cause)
    }

    async fn signal_machine(
        &self,
        id: &MachineId,
        _signal: StopSignal,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        match inner.find(id)?.status.state {
            MachineState::Started => Ok(()),
            other => Err(WorkerError::Conflict(format!(
                "machine {id} is {}",
                other.as_str()
            ))),
        }
    }

    async fn destroy_machine(
        &self,
        id: &MachineId,
        force: bool,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        if inner.find(id)?.status.state == MachineState::Started && !force {
            return Err(WorkerError::Conflict(format!("machine {id} runs")));
        }
        inner.set_state(id, "destroy", MachineState::Destroying, Some(&asker.cause))?;
        if !inner.holds_destruction {
            inner.machines.remove(id);
        }
        Ok(())
    }

    async fn set_cordoned(
        &self,
        id: &MachineId,
        cordoned: bool,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        let machine = inner.find(id)?;
        machine.status.cordoned = cordoned;
        let state = machine.status.state;
        let kind = if cordoned { "cordon" } else { "uncordon" };
        inner.set_state(id, kind, state, Some(&asker.cause))
    }

    async fn set_metadata(
        &self,
        id: &MachineId,
        key: &str,
        value: Option<String>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let mut inner = self.inner.lock();
        inner.admit_asker(id, asker)?;
        let status = &mut inner.find_lasting(id)?.status;
        let metadata = &mut status.spec.metadata;
        let old = match &value {
            Some(value) => metadata.insert(key.to_owned(), value.clone()),
            None => metadata.remove(key),
        };
        let state = status.state;
        if old == value {
            return Ok(status.clone());
        }
        inner.set_state(id, "metadata", state, Some(&asker.cause))
    }

    async fn take_lease(
        &self,
        id: &MachineId,
        request: TakeLease,
        asker: &Asker,
    ) -> Result<Lease, WorkerError> {
        self.inner.lock().take_lease(id, request, asker)
    }

    async fn lease(&self, id: &MachineId, asker: &Asker) -> Result<Option<Lease>, WorkerError> {
        self.inner.lock().lease(id, asker)
    }

    async fn release_lease(
        &self,
        id: &MachineId,
        how: ReleaseLease,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let mut inner = self.inner.lock();
        match inner.lease(id, asker)? {
            None => return Err(WorkerError::NoLease(id.clone())),
            Some(lease) if how == ReleaseLease::Own && !lease.is_own => {
                return Err(inner.leased(id, lease));
            }
            Some(_) => {}
        }
        inner.find(id)?.lease = None;
        if how == ReleaseLease::Any {
            let state = inner.find(id)?.status.state;
            inner.set_state(id, "lease-clear", state, Some(&asker.cause))?;
        }
        Ok(())
    }

    async fn wait_machine(
        &self,
        id: &MachineId,
        wait: WaitFor,
    ) -> Result<MachineStatus, WorkerError> {
        let deadline = tokio::time::Instant::now() + wait.timeout;
        loop {
            let (status, is_reached) = {
                let mut inner = self.inner.lock();
                let machine = inner.find(id)?;
                let reached = |state| wait.states.contains(state);
                let is_reached = match wait.after_event {
                    None => reached(&machine.status.state),
                    Some(seq) => {
                        let mut newer = machine.events.iter().filter(|event| event.seq > seq);
                        newer.any(|event| reached(&event.state))
                    }
                };
                (machine.status.clone(), is_reached)
            };
            if let Some(version) = &wait.instance_id
                && *version != status.instance_id
            {
                return Err(WorkerError::Conflict(format!("{version} was replaced")));
            }
            if is_reached {
                return Ok(status);
            }
            if tokio::time::Instant::now() >= deadline {
                let wanted: Vec<_> = wait.states.iter().map(|state| state.as_str()).collect();
                return Err(WorkerError::WaitTimeout {
                    machine: id.clone(),
                    state: status.state.as_str(),
                    wanted: wanted.join(" or "),
                    seconds: wait.timeout.as_secs(),
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn machine_events(
        &self,
        id: &MachineId,
        limit: usize,
    ) -> Result<Vec<MachineEvent>, WorkerError> {
        let mut inner = self.inner.lock();
        Ok(inner
            .find(id)?
            .events
            .iter()
            .rev()
            .take(limit)
            .cloned()
            .collect())
    }

    async fn operations(&self, filter: OperationFilter) -> Result<Vec<Operation>, WorkerError> {
        Ok(self.inner.lock().operations(&filter))
    }

    async fn operation(&self, id: &RunId) -> Result<Option<Operation>, WorkerError> {
        Ok(self.inner.lock().operation(id))
    }

    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, WorkerError> {
        let mut inner = self.inner.lock();
        if inner.find(id)?.status.state != MachineState::Started {
            return Err(WorkerError::Conflict(format!("machine {id} does not run")));
        }
        let stdout = command.command.join(" ").into_bytes();
        Ok(ExecOutcome {
            exit_code: 0,
            stdout,
            stderr: command.stdin,
            truncated: false,
        })
    }

    async fn processes(&self, id: &MachineId) -> Result<Vec<Process>, WorkerError> {
        let mut inner = self.inner.lock();
        let status = &inner.find(id)?.status;
        match status.state {
            MachineState::Started => Ok(vec![Process {
                pid: 1,
                command: "/app --serve".into(),
                directory: Some("/".into()),
                age: Duration::from_secs(90),
                cpu_time: Duration::from_millis(1_500),
                memory: 8 * 1024 * 1024,
                listening: vec![],
            }]),
            _ => Err(WorkerError::Conflict(format!("machine {id} does not run"))),
        }
    }

    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, WorkerError> {
        let mut inner = self.inner.lock();
        inner.find(id)?;
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 3000));
        Ok(vec![ListeningSocket {
            protocol: "tcp".into(),
            address,
            process: Some("app".into()),
        }])
    }
}
