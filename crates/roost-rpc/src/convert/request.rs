//! Requests: the arguments of the trait's methods as one value each.

use super::{BadMessage, Wire, millis, present, text, word};
use crate::proto;
use roost_model::id::{InstanceId, MachineId, ReservationId, RunId};
use roost_model::machine::{MachineState, StopSignal};
use roost_model::name::AppName;
use roost_proto::worker::{
    Asker, CreateMachine, ExecCommand, Launch, LeaseNonce, OperationFilter, ReleaseLease, Reserve,
    SecretEnv, TakeLease, UpdateMachine, WaitFor,
};
use std::time::Duration;

/// Something new. Messages that name only a machine, or nothing, need no type.
#[derive(Debug, Clone)]
pub(crate) struct Create {
    pub(crate) request: CreateMachine,
    pub(crate) asker: Asker,
}

#[derive(Debug, Clone)]
pub(crate) struct Update {
    pub(crate) id: MachineId,
    pub(crate) request: UpdateMachine,
    pub(crate) asker: Asker,
}

/// A change that needs to say no more.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) id: MachineId,
    pub(crate) asker: Asker,
}

#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) id: MachineId,
    pub(crate) signal: Option<StopSignal>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) asker: Asker,
}

#[derive(Debug, Clone)]
pub(crate) struct Signal {
    pub(crate) id: MachineId,
    pub(crate) signal: StopSignal,
    pub(crate) asker: Asker,
}

#[derive(Debug, Clone)]
pub(crate) struct Destroy {
    pub(crate) id: MachineId,
    pub(crate) force: bool,
    pub(crate) asker: Asker,
}

#[derive(Debug, Clone)]
pub(crate) struct SetCordoned {
    pub(crate) id: MachineId,
    pub(crate) cordoned: bool,
    pub(crate) asker: Asker,
}

/// A label of a machine; without a value it is removed.
#[derive(Debug, Clone)]
pub(crate) struct SetMetadata {
    pub(crate) id: MachineId,
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    pub(crate) asker: Asker,
}

#[derive(Debug, Clone)]
pub(crate) struct Wait {
    pub(crate) id: MachineId,
    pub(crate) wait: WaitFor,
}

#[derive(Debug, Clone)]
pub(crate) struct Events {
    pub(crate) id: MachineId,
    pub(crate) limit: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Exec {
    pub(crate) id: MachineId,
    pub(crate) command: ExecCommand,
}

/// A lease on a machine.
#[derive(Debug, Clone)]
pub(crate) struct Take {
    pub(crate) id: MachineId,
    pub(crate) terms: TakeLease,
    pub(crate) asker: Asker,
}

#[derive(Debug, Clone)]
pub(crate) struct GiveBack {
    pub(crate) id: MachineId,
    pub(crate) how: ReleaseLease,
    pub(crate) asker: Asker,
}

/// One operation.
#[derive(Debug, Clone)]
pub(crate) struct GetOperation {
    pub(crate) id: RunId,
}

/// The machines of an app, or all.
#[derive(Debug, Clone)]
pub(crate) enum List {
    /// Those that exist.
    Present(Option<AppName>),
    /// Those that are destroyed and still on record.
    Destroyed(AppName),
}

/// A question about a machine, in a message of its own.
macro_rules! of_machine {
    ($($name:ident = $message:ident),*) => {$(
        #[derive(Debug, Clone)]
        pub(crate) struct $name {
            pub(crate) id: MachineId,
        }

        impl Wire for $name {
            type Message = proto::$message;

            fn to_wire(&self) -> proto::$message {
                proto::$message { id: self.id.to_string() }
            }

            fn from_wire(message: proto::$message) -> Result<Self, BadMessage> {
                Ok(Self { id: machine(&message.id)? })
            }
        }
    )*};
}
of_machine!(
    Get = GetMachineRequest,
    Processes = ProcessesRequest,
    Sockets = ListeningSocketsRequest
);

/// A question about the node.
macro_rules! of_node {
    ($($name:ident = $message:ident),*) => {$(
        #[derive(Debug, Clone)]
        pub(crate) struct $name;

        impl Wire for $name {
            type Message = proto::$message;

            fn to_wire(&self) -> proto::$message {
                proto::$message {}
            }

            fn from_wire(proto::$message {}: proto::$message) -> Result<Self, BadMessage> {
                Ok(Self)
            }
        }
    )*};
}
of_node!(View = CapacityRequest, Rungs = RungsRequest);

fn machine(id: &str) -> Result<MachineId, BadMessage> {
    text(id, "id", MachineId::parse)
}

fn signal(text: &str) -> Result<StopSignal, BadMessage> {
    word(text, "signal", StopSignal::parse)
}

fn launch(start: bool) -> Launch {
    if start { Launch::Start } else { Launch::Skip }
}

fn starts(launch: Launch) -> bool {
    match launch {
        Launch::Start => true,
        Launch::Skip => false,
    }
}

/// Not quoted in errors: it is a secret.
fn nonce(text: &str) -> Result<LeaseNonce, BadMessage> {
    LeaseNonce::parse(text)
        .ok_or_else(|| BadMessage::new("lease_nonce", "does not have the form of one"))
}

impl Wire for () {
    type Message = proto::Done;

    fn to_wire(&self) -> proto::Done {
        proto::Done {}
    }

    fn from_wire(proto::Done {}: proto::Done) -> Result<Self, BadMessage> {
        Ok(())
    }
}

impl Wire for Asker {
    type Message = proto::Asker;

    fn to_wire(&self) -> proto::Asker {
        let Self {
            cause,
            lease_nonce,
            seen_version,
        } = self;
        proto::Asker {
            cause: serde_json::to_string(cause).expect("a cause has only text as keys"),
            lease_nonce: lease_nonce.as_ref().map(|nonce| nonce.expose().to_owned()),
            seen_version: seen_version.as_ref().map(ToString::to_string),
        }
    }

    fn from_wire(message: proto::Asker) -> Result<Self, BadMessage> {
        let proto::Asker {
            cause,
            lease_nonce,
            seen_version,
        } = message;
        let seen = seen_version.map(|id| text(&id, "seen_version", InstanceId::parse));
        let lease_nonce = lease_nonce.as_deref().map(nonce);
        Ok(Self {
            cause: text(&cause, "cause", |json| serde_json::from_str(json))?,
            lease_nonce: lease_nonce.transpose()?,
            seen_version: seen.transpose()?,
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

impl Wire for Create {
    type Message = proto::CreateMachineRequest;

    fn to_wire(&self) -> proto::CreateMachineRequest {
        let Self { request, asker } = self;
        let CreateMachine {
            request_id,
            spec,
            secrets: SecretEnv(secrets),
            launch,
            reservation,
            lease,
            placement,
        } = request;
        proto::CreateMachineRequest {
            request_id: request_id.clone(),
            spec: Some(spec.to_wire()),
            secrets: secrets.clone().into_iter().collect(),
            start: starts(*launch),
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
            reservation: reservation.transpose()?,
            lease: lease.map(Wire::from_wire).transpose()?,
            placement,
        };
        let asker = present(asker, "asker")?;
        Ok(Self { request, asker })
    }
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

impl Wire for TakeLease {
    type Message = proto::LeaseTerms;

    fn to_wire(&self) -> proto::LeaseTerms {
        let Self {
            nonce,
            ttl,
            description,
        } = self;
        proto::LeaseTerms {
            nonce: nonce.expose().to_owned(),
            ttl_ms: millis(*ttl),
            description: description.clone(),
        }
    }

    fn from_wire(message: proto::LeaseTerms) -> Result<Self, BadMessage> {
        let proto::LeaseTerms {
            nonce: text,
            ttl_ms,
            description,
        } = message;
        Ok(Self {
            nonce: nonce(&text)?,
            ttl: Duration::from_millis(ttl_ms),
            description,
        })
    }
}

impl Wire for Take {
    type Message = proto::TakeLeaseRequest;

    fn to_wire(&self) -> proto::TakeLeaseRequest {
        let Self { id, terms, asker } = self;
        proto::TakeLeaseRequest {
            id: id.to_string(),
            terms: Some(terms.to_wire()),
            asker: Some(asker.to_wire()),
        }
    }

    fn from_wire(message: proto::TakeLeaseRequest) -> Result<Self, BadMessage> {
        let proto::TakeLeaseRequest { id, terms, asker } = message;
        Ok(Self {
            id: machine(&id)?,
            terms: present(terms, "terms")?,
            asker: present(asker, "asker")?,
        })
    }
}

impl Wire for GiveBack {
    type Message = proto::ReleaseLeaseRequest;

    fn to_wire(&self) -> proto::ReleaseLeaseRequest {
        let Self { id, how, asker } = self;
        proto::ReleaseLeaseRequest {
            id: id.to_string(),
            any: match how {
                ReleaseLease::Own => false,
                ReleaseLease::Any => true,
            },
            asker: Some(asker.to_wire()),
        }
    }

    fn from_wire(message: proto::ReleaseLeaseRequest) -> Result<Self, BadMessage> {
        let proto::ReleaseLeaseRequest { id, any, asker } = message;
        Ok(Self {
            id: machine(&id)?,
            how: if any {
                ReleaseLease::Any
            } else {
                ReleaseLease::Own
            },
            asker: present(asker, "asker")?,
        })
    }
}
