//! New machines, new versions of them, and room for machines to come.

use super::{launch, machine, starts};
use crate::convert::{BadMessage, Wire, millis, present, text};
use crate::proto;
use roost_model::id::{InstanceId, MachineId, ReservationId};
use roost_proto::worker::{Asker, CreateMachine, Reserve, SecretEnv, UpdateMachine};
use std::time::Duration;

/// A new machine.
#[derive(Debug, Clone)]
pub(crate) struct Create {
    pub(crate) request: CreateMachine,
    pub(crate) asker: Asker,
}

impl Wire for Create {
    type Message = proto::CreateMachineRequest;

    fn to_wire(&self) -> proto::CreateMachineRequest {
        let Self { request, asker } = self;
        let CreateMachine {
            request_id,
            spec,
            secrets: SecretEnv(secrets),
            launch,
            cordoned,
            reservation,
            lease,
            placement,
        } = request;
        proto::CreateMachineRequest {
            request_id: request_id.clone(),
            spec: Some(spec.to_wire()),
            secrets: secrets.clone().into_iter().collect(),
            start: starts(*launch),
            cordoned: *cordoned,
            reservation: reservation.as_ref().map(ToString::to_string),
            asker: Some(asker.to_wire()),
            lease: lease.as_ref().map(Wire::to_wire),
            placement: placement.clone(),
        }
    }

    fn from_wire(message: proto::CreateMachineRequest) -> Result<Self, BadMessage> {
        let proto::CreateMachineRequest {
            request_id,
            spec,
            secrets,
            start,
            cordoned,
            reservation,
            asker,
            lease,
            placement,
        } = message;
        let reservation = reservation.map(|id| text(&id, "reservation", ReservationId::parse));
        let request = CreateMachine {
            request_id,
            spec: present(spec, "spec")?,
            secrets: SecretEnv(secrets.into_iter().collect()),
            launch: launch(start),
            cordoned,
            reservation: reservation.transpose()?,
            lease: lease.map(Wire::from_wire).transpose()?,
            placement,
        };
        let asker = present(asker, "asker")?;
        Ok(Self { request, asker })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Update {
    pub(crate) id: MachineId,
    pub(crate) request: UpdateMachine,
    pub(crate) asker: Asker,
}

impl Wire for Update {
    type Message = proto::UpdateMachineRequest;

    fn to_wire(&self) -> proto::UpdateMachineRequest {
        let Self { id, request, asker } = self;
        let UpdateMachine {
            current_version,
            spec,
            secrets: SecretEnv(secrets),
            launch,
        } = request;
        proto::UpdateMachineRequest {
            id: id.to_string(),
            current_version: current_version.as_ref().map(ToString::to_string),
            spec: Some(spec.to_wire()),
            secrets: secrets.clone().into_iter().collect(),
            start: starts(*launch),
            asker: Some(asker.to_wire()),
        }
    }

    fn from_wire(message: proto::UpdateMachineRequest) -> Result<Self, BadMessage> {
        let proto::UpdateMachineRequest {
            id,
            current_version,
            spec,
            secrets,
            start,
            asker,
        } = message;
        let version = current_version.map(|id| text(&id, "current_version", InstanceId::parse));
        let request = UpdateMachine {
            current_version: version.transpose()?,
            spec: present(spec, "spec")?,
            secrets: SecretEnv(secrets.into_iter().collect()),
            launch: launch(start),
        };
        Ok(Self {
            id: machine(&id)?,
            request,
            asker: present(asker, "asker")?,
        })
    }
}

impl Wire for Reserve {
    type Message = proto::ReserveRequest;

    fn to_wire(&self) -> proto::ReserveRequest {
        let Self { id, guest, hold } = self;
        proto::ReserveRequest {
            id: id.to_string(),
            guest: Some(guest.to_wire()),
            hold_ms: millis(*hold),
        }
    }

    fn from_wire(message: proto::ReserveRequest) -> Result<Self, BadMessage> {
        let proto::ReserveRequest { id, guest, hold_ms } = message;
        Ok(Self {
            id: text(&id, "id", ReservationId::parse)?,
            guest: present(guest, "guest")?,
            hold: Duration::from_millis(hold_ms),
        })
    }
}

impl Wire for ReservationId {
    type Message = proto::ReleaseRequest;

    fn to_wire(&self) -> proto::ReleaseRequest {
        proto::ReleaseRequest {
            id: self.to_string(),
        }
    }

    fn from_wire(message: proto::ReleaseRequest) -> Result<Self, BadMessage> {
        text(&message.id, "id", Self::parse)
    }
}
