//! Machines: what they should be, what they are, what happened to them.

use super::{BadMessage, Wire, millis, present, text, time, word};
use crate::proto;
use roost_model::id::{InstanceId, MachineId};
use roost_model::machine::{ExitCause, MachineExit, MachineSpec, MachineState, Rung};
use roost_model::name::{AppName, MachineName, RegionCode};
use roost_model::time::Timestamp;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::worker::{
    CheckResult, CheckStatus, ExecOutcome, Lease, ListeningSocket, MachineEvent, MachineStatus,
    Operation, Process,
};
use std::time::Duration;

impl Wire for MachineSpec {
    type Message = proto::Spec;

    fn to_wire(&self) -> proto::Spec {
        let config = serde_json::to_string(&MachineConfig::from(self));
        proto::Spec {
            app: self.app.to_string(),
            name: self.name.to_string(),
            region: self.region.to_string(),
            config: config.expect("a config has only text as keys"),
        }
    }

    fn from_wire(message: proto::Spec) -> Result<Self, BadMessage> {
        let proto::Spec {
            app,
            name,
            region,
            config,
        } = message;
        let identity = MachineIdentity {
            app: text(&app, "app", AppName::parse)?,
            name: text(&name, "name", MachineName::parse)?,
            region: text(&region, "region", RegionCode::parse)?,
        };
        let config: MachineConfig = text(&config, "config", |json| serde_json::from_str(json))?;
        config.to_recorded_spec(identity).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            BadMessage::new("config", faults.join("; "))
        })
    }
}

impl Wire for CheckStatus {
    type Message = proto::CheckStatus;

    fn to_wire(&self) -> proto::CheckStatus {
        use proto::check_status::Result;
        let Self {
            name,
            result,
            output,
            updated_at,
        } = self;
        let result = match result {
            CheckResult::Waiting => Result::Waiting,
            CheckResult::Passing => Result::Passing,
            CheckResult::Critical => Result::Critical,
        };
        proto::CheckStatus {
            name: name.clone(),
            result: result.into(),
            output: output.clone(),
            updated_at_ms: updated_at.as_ms(),
        }
    }

    fn from_wire(message: proto::CheckStatus) -> Result<Self, BadMessage> {
        use proto::check_status::Result as Wire;
        let proto::CheckStatus {
            name,
            result,
            output,
            updated_at_ms,
        } = message;
        let result = match Wire::try_from(result) {
            Ok(Wire::Waiting) => CheckResult::Waiting,
            Ok(Wire::Passing) => CheckResult::Passing,
            Ok(Wire::Critical) => CheckResult::Critical,
            Ok(Wire::Unknown) => return Err(BadMessage::new("result", "is missing")),
            Err(error) => return Err(BadMessage::new("result", error)),
        };
        Ok(Self {
            name,
            result,
            output,
            updated_at: time(updated_at_ms),
        })
    }
}

impl Wire for MachineExit {
    type Message = proto::MachineExit;

    fn to_wire(&self) -> proto::MachineExit {
        let Self {
            exit_code,
            signal,
            oom_killed,
            cause,
        } = *self;
        proto::MachineExit {
            exit_code,
            signal,
            oom_killed,
            cause: cause.as_str().to_owned(),
        }
    }

    fn from_wire(message: proto::MachineExit) -> Result<Self, BadMessage> {
        let proto::MachineExit {
            exit_code,
            signal,
            oom_killed,
            cause,
        } = message;
        Ok(Self {
            exit_code,
            signal,
            oom_killed,
            cause: word(&cause, "cause", ExitCause::parse)?,
        })
    }
}

impl Wire for MachineStatus {
    type Message = proto::Machine;

    fn to_wire(&self) -> proto::Machine {
        let Self {
            id,
            instance_id,
            spec,
            state,
            state_reason,
            image_digest,
            private_ipv4,
            private_ipv6,
            rung,
            pid,
            checks,
            cordoned,
            last_exit,
            due_at,
            created_at,
            updated_at,
        } = self;
        proto::Machine {
            id: id.to_string(),
            instance_id: instance_id.to_string(),
            spec: Some(spec.to_wire()),
            state: state.as_str().to_owned(),
            state_reason: state_reason.clone(),
            image_digest: image_digest.clone(),
            private_ipv4: private_ipv4.to_string(),
            private_ipv6: private_ipv6.to_string(),
            rung: rung.as_str().to_owned(),
            pid: *pid,
            checks: checks.iter().map(Wire::to_wire).collect(),
            cordoned: *cordoned,
            last_exit: last_exit.as_ref().map(Wire::to_wire),
            due_at_ms: due_at.map(Timestamp::as_ms),
            created_at_ms: created_at.as_ms(),
            updated_at_ms: updated_at.as_ms(),
        }
    }

    fn from_wire(message: proto::Machine) -> Result<Self, BadMessage> {
        let proto::Machine {
            id,
            instance_id,
            spec,
            state,
            state_reason,
            image_digest,
            private_ipv4,
            private_ipv6,
            rung,
            pid,
            checks,
            cordoned,
            last_exit,
            due_at_ms,
            created_at_ms,
            updated_at_ms,
        } = message;
        let checks = checks.into_iter().map(CheckStatus::from_wire);
        Ok(Self {
            id: text(&id, "id", MachineId::parse)?,
            instance_id: text(&instance_id, "instance_id", InstanceId::parse)?,
            spec: present(spec, "spec")?,
            state: word(&state, "state", MachineState::parse)?,
            state_reason,
            image_digest,
            private_ipv4: text(&private_ipv4, "private_ipv4", str::parse)?,
            private_ipv6: text(&private_ipv6, "private_ipv6", str::parse)?,
            rung: word(&rung, "rung", Rung::parse)?,
            pid,
            checks: checks.collect::<Result<_, _>>()?,
            cordoned,
            last_exit: last_exit.map(MachineExit::from_wire).transpose()?,
            due_at: due_at_ms.map(time),
            created_at: time(created_at_ms),
            updated_at: time(updated_at_ms),
        })
    }
}

impl Wire for MachineEvent {
    type Message = proto::MachineEvent;

    fn to_wire(&self) -> proto::MachineEvent {
        let Self {
            seq,
            at,
            kind,
            state,
            source,
            detail,
        } = self;
        proto::MachineEvent {
            seq: *seq,
            at_ms: at.as_ms(),
            kind: kind.clone(),
            state: state.as_str().to_owned(),
            source: source.clone(),
            detail: detail.to_string(),
        }
    }

    fn from_wire(message: proto::MachineEvent) -> Result<Self, BadMessage> {
        let proto::MachineEvent {
            seq,
            at_ms,
            kind,
            state,
            source,
            detail,
        } = message;
        Ok(Self {
            seq,
            at: time(at_ms),
            kind,
            state: word(&state, "state", MachineState::parse)?,
            source,
            detail: text(&detail, "detail", |json| serde_json::from_str(json))?,
        })
    }
}

impl Wire for ExecOutcome {
    type Message = proto::ExecAnswer;

    fn to_wire(&self) -> proto::ExecAnswer {
        let Self {
            exit_code,
            stdout,
            stderr,
            truncated,
        } = self;
        proto::ExecAnswer {
            exit_code: *exit_code,
            stdout: stdout.clone(),
            stderr: stderr.clone(),
            truncated: *truncated,
        }
    }

    fn from_wire(message: proto::ExecAnswer) -> Result<Self, BadMessage> {
        let proto::ExecAnswer {
            exit_code,
            stdout,
            stderr,
            truncated,
        } = message;
        Ok(Self {
            exit_code,
            stdout,
            stderr,
            truncated,
        })
    }
}

impl Wire for ListeningSocket {
    type Message = proto::ListeningSocket;

    fn to_wire(&self) -> proto::ListeningSocket {
        let Self {
            protocol,
            address,
            process,
        } = self;
        proto::ListeningSocket {
            protocol: protocol.clone(),
            address: address.to_string(),
            process: process.clone(),
        }
    }

    fn from_wire(message: proto::ListeningSocket) -> Result<Self, BadMessage> {
        let proto::ListeningSocket {
            protocol,
            address,
            process,
        } = message;
        Ok(Self {
            protocol,
            address: text(&address, "address", str::parse)?,
            process,
        })
    }
}

impl Wire for Process {
    type Message = proto::Process;

    fn to_wire(&self) -> proto::Process {
        let Self {
            pid,
            command,
            directory,
            age,
            cpu_time,
            memory,
            listening,
        } = self;
        proto::Process {
            pid: *pid,
            command: command.clone(),
            directory: directory.clone(),
            age_ms: millis(*age),
            cpu_time_ms: millis(*cpu_time),
            memory_bytes: *memory,
            listening: listening.iter().map(Wire::to_wire).collect(),
        }
    }

    fn from_wire(message: proto::Process) -> Result<Self, BadMessage> {
        let proto::Process {
            pid,
            command,
            directory,
            age_ms,
            cpu_time_ms,
            memory_bytes,
            listening,
        } = message;
        let listening = listening.into_iter().map(ListeningSocket::from_wire);
        Ok(Self {
            pid,
            command,
            directory,
            age: Duration::from_millis(age_ms),
            cpu_time: Duration::from_millis(cpu_time_ms),
            memory: memory_bytes,
            listening: listening.collect::<Result<_, _>>()?,
        })
    }
}

impl Wire for Operation {
    type Message = proto::Operation;

    fn to_wire(&self) -> proto::Operation {
        proto::Operation {
            json: serde_json::to_string(self).expect("an operation has only text as keys"),
        }
    }

    fn from_wire(message: proto::Operation) -> Result<Self, BadMessage> {
        text(&message.json, "operation", |json| {
            serde_json::from_str(json)
        })
    }
}

impl Wire for Option<Operation> {
    type Message = proto::GetOperationAnswer;

    fn to_wire(&self) -> proto::GetOperationAnswer {
        proto::GetOperationAnswer {
            operation: self.as_ref().map(Wire::to_wire),
        }
    }

    fn from_wire(message: proto::GetOperationAnswer) -> Result<Self, BadMessage> {
        message.operation.map(Operation::from_wire).transpose()
    }
}

impl Wire for Lease {
    type Message = proto::Lease;

    fn to_wire(&self) -> proto::Lease {
        let Self {
            owner,
            description,
            version,
            expires_at,
            is_own,
        } = self;
        proto::Lease {
            owner: owner.clone(),
            description: description.clone(),
            version: version.to_string(),
            expires_at_ms: expires_at.as_ms(),
            is_own: *is_own,
        }
    }

    fn from_wire(message: proto::Lease) -> Result<Self, BadMessage> {
        let proto::Lease {
            owner,
            description,
            version,
            expires_at_ms,
            is_own,
        } = message;
        Ok(Self {
            owner,
            description,
            version: text(&version, "version", InstanceId::parse)?,
            expires_at: time(expires_at_ms),
            is_own,
        })
    }
}

impl Wire for Option<Lease> {
    type Message = proto::GetLeaseAnswer;

    fn to_wire(&self) -> proto::GetLeaseAnswer {
        proto::GetLeaseAnswer {
            lease: self.as_ref().map(Wire::to_wire),
        }
    }

    fn from_wire(message: proto::GetLeaseAnswer) -> Result<Self, BadMessage> {
        message.lease.map(Lease::from_wire).transpose()
    }
}
