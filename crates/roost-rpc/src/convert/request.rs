//! Requests: the arguments of the trait's methods as one value each.
//!
//! Messages that name only a machine, or nothing, are made here; the others are
//! in files by what they are about.

mod ask;
mod change;
mod create;
mod lease;

pub(crate) use ask::{Events, Exec, GetOperation, List, Wait};
pub(crate) use change::{Change, Destroy, SetCordoned, SetMetadata, Signal, Stop};
pub(crate) use create::{Create, Update};
pub(crate) use lease::{GiveBack, Take};

use super::{BadMessage, Wire, text, word};
use crate::proto;
use roost_model::id::{InstanceId, MachineId};
use roost_model::machine::StopSignal;
use roost_proto::worker::{Asker, Launch, LeaseNonce};

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
