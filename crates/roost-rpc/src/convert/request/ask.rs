//! Questions, and what is run in a machine.

use super::machine;
use crate::convert::{BadMessage, Wire, millis, text, word};
use crate::proto;
use roost_model::id::{InstanceId, MachineId, RunId};
use roost_model::machine::MachineState;
use roost_model::name::AppName;
use roost_proto::worker::{ExecCommand, OperationFilter, WaitFor};
use std::time::Duration;

#[derive(Debug, Clone)]
pub(crate) struct Wait {
    pub(crate) id: MachineId,
    pub(crate) wait: WaitFor,
}

impl Wire for Wait {
    type Message = proto::WaitMachineRequest;

    fn to_wire(&self) -> proto::WaitMachineRequest {
        let Self { id, wait } = self;
        let WaitFor {
            states,
            instance_id,
            timeout,
            after_event,
        } = wait;
        proto::WaitMachineRequest {
            id: id.to_string(),
            states: states
                .iter()
                .map(|state| state.as_str().to_owned())
                .collect(),
            instance_id: instance_id.as_ref().map(ToString::to_string),
            timeout_ms: millis(*timeout),
            after_event: *after_event,
        }
    }

    fn from_wire(message: proto::WaitMachineRequest) -> Result<Self, BadMessage> {
        let proto::WaitMachineRequest {
            id,
            states,
            instance_id,
            timeout_ms,
            after_event,
        } = message;
        if states.len() > MachineState::ALL.len() {
            return Err(BadMessage::new("states", "are more than there are"));
        }
        let states = states
            .iter()
            .map(|state| word(state, "states", MachineState::parse));
        let version = instance_id.map(|id| text(&id, "instance_id", InstanceId::parse));
        let wait = WaitFor {
            states: states.collect::<Result<_, _>>()?,
            instance_id: version.transpose()?,
            timeout: Duration::from_millis(timeout_ms),
            after_event,
        };
        let id = machine(&id)?;
        Ok(Self { id, wait })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Events {
    pub(crate) id: MachineId,
    pub(crate) limit: usize,
}

impl Wire for Events {
    type Message = proto::MachineEventsRequest;

    fn to_wire(&self) -> proto::MachineEventsRequest {
        let Self { id, limit } = self;
        proto::MachineEventsRequest {
            id: id.to_string(),
            limit: u32::try_from(*limit).unwrap_or(u32::MAX),
        }
    }

    fn from_wire(message: proto::MachineEventsRequest) -> Result<Self, BadMessage> {
        let proto::MachineEventsRequest { id, limit } = message;
        Ok(Self {
            id: machine(&id)?,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Exec {
    pub(crate) id: MachineId,
    pub(crate) command: ExecCommand,
}

impl Wire for Exec {
    type Message = proto::ExecRequest;

    fn to_wire(&self) -> proto::ExecRequest {
        let Self { id, command } = self;
        let ExecCommand {
            command,
            stdin,
            timeout,
        } = command;
        proto::ExecRequest {
            id: id.to_string(),
            command: command.clone(),
            stdin: stdin.clone(),
            timeout_ms: millis(*timeout),
        }
    }

    fn from_wire(message: proto::ExecRequest) -> Result<Self, BadMessage> {
        let proto::ExecRequest {
            id,
            command,
            stdin,
            timeout_ms,
        } = message;
        let command = ExecCommand {
            command,
            stdin,
            timeout: Duration::from_millis(timeout_ms),
        };
        let id = machine(&id)?;
        Ok(Self { id, command })
    }
}

/// The machines of an app, or all.
#[derive(Debug, Clone)]
pub(crate) enum List {
    /// Those that exist.
    Present(Option<AppName>),
    /// Those that are destroyed and still on record.
    Destroyed(AppName),
}

impl Wire for List {
    type Message = proto::ListMachinesRequest;

    fn to_wire(&self) -> proto::ListMachinesRequest {
        let (app, destroyed) = match self {
            Self::Present(app) => (app.as_ref(), false),
            Self::Destroyed(app) => (Some(app), true),
        };
        proto::ListMachinesRequest {
            app: app.map(ToString::to_string),
            destroyed,
        }
    }

    fn from_wire(message: proto::ListMachinesRequest) -> Result<Self, BadMessage> {
        let proto::ListMachinesRequest { app, destroyed } = message;
        let app = app.map(|name| text(&name, "app", AppName::parse));
        match (app.transpose()?, destroyed) {
            (app, false) => Ok(Self::Present(app)),
            (Some(app), true) => Ok(Self::Destroyed(app)),
            (None, true) => Err(BadMessage::new("app", "is missing")),
        }
    }
}

impl Wire for OperationFilter {
    type Message = proto::OperationsRequest;

    fn to_wire(&self) -> proto::OperationsRequest {
        let Self {
            app,
            machine,
            only_unfinished,
            limit,
        } = self;
        proto::OperationsRequest {
            app: app.as_ref().map(ToString::to_string),
            machine: machine.as_ref().map(ToString::to_string),
            only_unfinished: *only_unfinished,
            limit: *limit,
        }
    }

    fn from_wire(message: proto::OperationsRequest) -> Result<Self, BadMessage> {
        let proto::OperationsRequest {
            app,
            machine: id,
            only_unfinished,
            limit,
        } = message;
        let app = app.map(|name| text(&name, "app", AppName::parse));
        Ok(Self {
            app: app.transpose()?,
            machine: id.as_deref().map(machine).transpose()?,
            only_unfinished,
            limit,
        })
    }
}

/// One operation.
#[derive(Debug, Clone)]
pub(crate) struct GetOperation {
    pub(crate) id: RunId,
}

impl Wire for GetOperation {
    type Message = proto::GetOperationRequest;

    fn to_wire(&self) -> proto::GetOperationRequest {
        proto::GetOperationRequest {
            id: self.id.to_string(),
        }
    }

    fn from_wire(message: proto::GetOperationRequest) -> Result<Self, BadMessage> {
        Ok(Self {
            id: text(&message.id, "id", RunId::parse)?,
        })
    }
}
