//! Changes of a machine that is there.

use super::{machine, signal};
use crate::convert::{BadMessage, Wire, millis, present};
use crate::proto;
use roost_model::id::MachineId;
use roost_model::machine::StopSignal;
use roost_proto::worker::Asker;
use std::time::Duration;

/// A change that needs to say no more.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) id: MachineId,
    pub(crate) asker: Asker,
}

impl Wire for Change {
    type Message = proto::ChangeRequest;

    fn to_wire(&self) -> proto::ChangeRequest {
        let Self { id, asker } = self;
        proto::ChangeRequest {
            id: id.to_string(),
            asker: Some(asker.to_wire()),
        }
    }

    fn from_wire(message: proto::ChangeRequest) -> Result<Self, BadMessage> {
        let proto::ChangeRequest { id, asker } = message;
        Ok(Self {
            id: machine(&id)?,
            asker: present(asker, "asker")?,
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) id: MachineId,
    pub(crate) signal: Option<StopSignal>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) asker: Asker,
}

impl Wire for Stop {
    type Message = proto::StopMachineRequest;

    fn to_wire(&self) -> proto::StopMachineRequest {
        let Self {
            id,
            signal,
            timeout,
            asker,
        } = self;
        proto::StopMachineRequest {
            id: id.to_string(),
            signal: signal.map(|signal| signal.as_str().to_owned()),
            timeout_ms: timeout.map(millis),
            asker: Some(asker.to_wire()),
        }
    }

    fn from_wire(message: proto::StopMachineRequest) -> Result<Self, BadMessage> {
        let proto::StopMachineRequest {
            id,
            signal: name,
            timeout_ms,
            asker,
        } = message;
        Ok(Self {
            id: machine(&id)?,
            signal: name.as_deref().map(signal).transpose()?,
            timeout: timeout_ms.map(Duration::from_millis),
            asker: present(asker, "asker")?,
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Signal {
    pub(crate) id: MachineId,
    pub(crate) signal: StopSignal,
    pub(crate) asker: Asker,
}

impl Wire for Signal {
    type Message = proto::SignalMachineRequest;

    fn to_wire(&self) -> proto::SignalMachineRequest {
        let Self { id, signal, asker } = self;
        proto::SignalMachineRequest {
            id: id.to_string(),
            signal: signal.as_str().to_owned(),
            asker: Some(asker.to_wire()),
        }
    }

    fn from_wire(message: proto::SignalMachineRequest) -> Result<Self, BadMessage> {
        let proto::SignalMachineRequest {
            id,
            signal: name,
            asker,
        } = message;
        Ok(Self {
            id: machine(&id)?,
            signal: signal(&name)?,
            asker: present(asker, "asker")?,
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Destroy {
    pub(crate) id: MachineId,
    pub(crate) force: bool,
    pub(crate) asker: Asker,
}

impl Wire for Destroy {
    type Message = proto::DestroyMachineRequest;

    fn to_wire(&self) -> proto::DestroyMachineRequest {
        let Self { id, force, asker } = self;
        proto::DestroyMachineRequest {
            id: id.to_string(),
            force: *force,
            asker: Some(asker.to_wire()),
        }
    }

    fn from_wire(message: proto::DestroyMachineRequest) -> Result<Self, BadMessage> {
        let proto::DestroyMachineRequest { id, force, asker } = message;
        Ok(Self {
            id: machine(&id)?,
            force,
            asker: present(asker, "asker")?,
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct SetCordoned {
    pub(crate) id: MachineId,
    pub(crate) cordoned: bool,
    pub(crate) asker: Asker,
}

impl Wire for SetCordoned {
    type Message = proto::SetCordonedRequest;

    fn to_wire(&self) -> proto::SetCordonedRequest {
        let Self {
            id,
            cordoned,
            asker,
        } = self;
        proto::SetCordonedRequest {
            id: id.to_string(),
            cordoned: *cordoned,
            asker: Some(asker.to_wire()),
        }
    }

    fn from_wire(message: proto::SetCordonedRequest) -> Result<Self, BadMessage> {
        let proto::SetCordonedRequest {
            id,
            cordoned,
            asker,
        } = message;
        Ok(Self {
            id: machine(&id)?,
            cordoned,
            asker: present(asker, "asker")?,
        })
    }
}

/// A label of a machine; without a value it is removed.
#[derive(Debug, Clone)]
pub(crate) struct SetMetadata {
    pub(crate) id: MachineId,
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    pub(crate) asker: Asker,
}

impl Wire for SetMetadata {
    type Message = proto::SetMetadataRequest;

    fn to_wire(&self) -> proto::SetMetadataRequest {
        let Self {
            id,
            key,
            value,
            asker,
        } = self;
        proto::SetMetadataRequest {
            id: id.to_string(),
            key: key.clone(),
            value: value.clone(),
            asker: Some(asker.to_wire()),
        }
    }

    fn from_wire(message: proto::SetMetadataRequest) -> Result<Self, BadMessage> {
        let proto::SetMetadataRequest {
            id,
            key,
            value,
            asker,
        } = message;
        Ok(Self {
            id: machine(&id)?,
            key,
            value,
            asker: present(asker, "asker")?,
        })
    }
}
