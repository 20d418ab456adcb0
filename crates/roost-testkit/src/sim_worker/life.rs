//! The lives of simulated machines: all that is asked of one is done at once.

use super::{Fate, Inner, SimMachine};
use roost_model::id::{InstanceId, MachineId};
use roost_model::machine::{ExitCause, Isolation, MachineExit, MachineState, Rung};
use roost_proto::worker::{
    Asker, Cause, CheckResult, CheckStatus, CreateMachine, Launch, MachineEvent, MachineStatus,
    WorkerError,
};
use std::net::{Ipv4Addr, Ipv6Addr};

impl Inner {
    pub(super) fn create(
        &mut self,
        request: CreateMachine,
        cause: &Cause,
    ) -> Result<MachineStatus, WorkerError> {
        if let Some(id) = self.by_request.get(&request.request_id).cloned() {
            return Ok(self.find(&id)?.status.clone());
        }
        let is_taken = |machine: &SimMachine| {
            machine.status.spec.app == request.spec.app
                && machine.status.spec.name == request.spec.name
        };
        if self.machines.values().any(is_taken) {
            return Err(WorkerError::Conflict(format!(
                "a machine named {} exists",
                request.spec.name
            )));
        }
        self.take_room(&request)?;
        self.n_made += 1;
        let id = self.machine_id();
        let at = self.tick();
        let image_digest = request.spec.image.digest.as_ref().map(ToString::to_string);
        let rung = match request.spec.isolation {
            Isolation::Default => Rung::Container,
            Isolation::Rung(rung) => rung,
        };
        let status = MachineStatus {
            id: id.clone(),
            instance_id: InstanceId::from_ulid(ulid::Ulid::generate()),
            spec: request.spec,
            state: MachineState::Created,
            state_reason: None,
            image_digest,
            private_ipv4: Ipv4Addr::new(10, 0, 0, 2),
            private_ipv6: Ipv6Addr::LOCALHOST,
            rung,
            pid: None,
            checks: vec![],
            cordoned: request.cordoned,
            last_exit: None,
            due_at: None,
            created_at: at,
            updated_at: at,
        };
        let machine = SimMachine {
            status,
            secrets: request.secrets,
            events: vec![],
            lease: None,
        };
        self.machines.insert(id.clone(), machine);
        self.by_request.insert(request.request_id, id.clone());
        if let Some(lease) = request.lease {
            self.take_lease(&id, lease, &Asker::from(cause.clone()))?;
        }
        self.set_state(&id, "launch", MachineState::Created, Some(cause))?;
        if let (Some(why), Some(event)) = (request.placement, self.find(&id)?.events.last_mut()) {
            event.detail["placement"] = why.into();
        }
        match request.launch {
            Launch::Start => self.start(&id, cause),
            Launch::Skip => Ok(self.find(&id)?.status.clone()),
        }
    }

    /// The id of the machine that was made last: its node's, and its number.
    fn machine_id(&self) -> MachineId {
        let mix = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let node = self.node.id.as_str().bytes().fold(0x811c_9dc5, mix);
        let (node, n) = (node.to_be_bytes(), self.n_made.to_be_bytes());
        MachineId::from_bytes([node[0], node[1], node[2], node[3], n[5], n[6], n[7]])
    }

    /// Moves a machine to a state, with an event.
    pub(super) fn set_state(
        &mut self,
        id: &MachineId,
        kind: &str,
        state: MachineState,
        cause: Option<&Cause>,
    ) -> Result<MachineStatus, WorkerError> {
        let at = self.tick();
        let machine = self.find(id)?;
        machine.status.state = state;
        machine.status.updated_at = at;
        let seq = u64::try_from(machine.events.len()).unwrap_or(0) + 1;
        let source = cause.map_or("worker", Cause::as_str).to_owned();
        let detail = match cause {
            Some(cause) => serde_json::json!({ "cause": cause }),
            None => serde_json::json!({}),
        };
        machine.events.push(MachineEvent {
            seq,
            at,
            kind: kind.to_owned(),
            state,
            source,
            detail,
        });
        let status = machine.status.clone();
        let serving = self.serving(&status.spec.app);
        if let Some(min) = self.alive_min.get_mut(&status.spec.app) {
            *min = serving.min(*min);
        }
        Ok(status)
    }

    pub(super) fn start(
        &mut self,
        id: &MachineId,
        cause: &Cause,
    ) -> Result<MachineStatus, WorkerError> {
        let machine = self.find_lasting(id)?;
        if machine.status.state == MachineState::Started {
            return Ok(machine.status.clone());
        }
        let spec = machine.status.spec.clone();
        let fate = self.fate(&spec);
        if fate == Fate::Hangs {
            return self.set_state(id, "start", MachineState::Starting, Some(cause));
        }
        let at = self.tick();
        let machine = self.find(id)?;
        let result = if fate == Fate::Healthy {
            CheckResult::Passing
        } else {
            CheckResult::Critical
        };
        machine.status.pid = Some(4242);
        machine.status.checks = machine
            .status
            .spec
            .services
            .iter()
            .enumerate()
            .map(|(idx, service)| CheckStatus {
                name: format!("servicecheck-{idx}-tcp-{}", service.internal_port),
                result,
                output: if result == CheckResult::Passing {
                    "connected"
                } else {
                    "connection refused"
                }
                .into(),
                updated_at: at,
            })
            .collect();
        self.set_state(id, "start", MachineState::Started, Some(cause))?;
        if fate == Fate::Exits {
            let machine = self.find(id)?;
            machine.status.pid = None;
            machine.status.last_exit = Some(MachineExit {
                exit_code: 1,
                signal: None,
                oom_killed: false,
                cause: ExitCause::App,
            });
            return self.set_state(id, "exit", MachineState::Failed, None);
        }
        Ok(self.find(id)?.status.clone())
    }
}
