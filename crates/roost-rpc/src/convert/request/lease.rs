//! Leases on machines.

use super::{machine, nonce};
use crate::convert::{BadMessage, Wire, millis, present};
use crate::proto;
use roost_model::id::MachineId;
use roost_proto::worker::{Asker, ReleaseLease, TakeLease};
use std::time::Duration;

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

/// A lease on a machine.
#[derive(Debug, Clone)]
pub(crate) struct Take {
    pub(crate) id: MachineId,
    pub(crate) terms: TakeLease,
    pub(crate) asker: Asker,
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

#[derive(Debug, Clone)]
pub(crate) struct GiveBack {
    pub(crate) id: MachineId,
    pub(crate) how: ReleaseLease,
    pub(crate) asker: Asker,
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
