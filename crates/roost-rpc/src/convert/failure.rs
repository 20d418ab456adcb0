//! Refusals: lossless between this version's worker and API, and readable as
//! ordinary gRPC statuses by anything else.

use super::{BadMessage, millis, text, time, word};
use crate::limits;
use crate::proto::WorkerFailure;
use crate::proto::worker_failure::{self, Kind};
use parking_lot::Mutex;
use prost::Message as _;
use roost_model::error::{Blame, CallerFault, Classify as _, ErrorCode, Retry};
use roost_model::id::{MachineId, NodeId};
use roost_model::machine::{MachineState, Rung};
use roost_proto::worker::WorkerError;
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::{Code, Status};

/// The status of a refusal.
pub fn failure_to_wire(error: &WorkerError) -> Status {
    let code = match error.blame() {
        Blame::Caller(CallerFault::Invalid | CallerFault::TooLarge) => Code::InvalidArgument,
        Blame::Caller(CallerFault::NotFound) => Code::NotFound,
        Blame::Caller(CallerFault::Conflict) => Code::FailedPrecondition,
        Blame::Caller(CallerFault::Unauthenticated) => Code::Unauthenticated,
        Blame::Caller(CallerFault::Forbidden) => Code::PermissionDenied,
        Blame::Environment => match error.retry() {
            Retry::ElsewhereNow => Code::ResourceExhausted,
            Retry::Never | Retry::Backoff => Code::Unavailable,
        },
        Blame::Internal => Code::Internal,
    };
    let failure = WorkerFailure {
        kind: Some(to_kind(error)),
    };
    // Both travel as headers: the message is for people that look at the wire.
    let message = cut(&error.to_string());
    Status::with_details(code, message, failure.encode_to_vec().into())
}

/// The refusal in a status; none when what refused was not the worker.
pub fn failure_from_wire(status: &Status) -> Option<WorkerError> {
    let details = status.details();
    if details.is_empty() || details.len() > limits::ERROR_BYTES_MAX {
        return None;
    }
    from_kind(WorkerFailure::decode(details).ok()?.kind?).ok()
}

fn cut(text: &str) -> String {
    if text.len() <= limits::ERROR_TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limits::ERROR_TEXT_BYTES_MAX - '…'.len_utf8());
    format!("{}…", &text[..end])
}

fn to_kind(error: &WorkerError) -> Kind {
    match error {
        WorkerError::NotFound(machine) => Kind::NotFound(machine.to_string()),
        WorkerError::Conflict(message) => Kind::Conflict(cut(message)),
        WorkerError::Invalid(message) => Kind::Invalid(cut(message)),
        WorkerError::CannotSuspend { machine, rung } => {
            Kind::CannotSuspend(worker_failure::CannotSuspend {
                machine: machine.to_string(),
                rung: rung.as_str().to_owned(),
            })
        }
        WorkerError::Image {
            message,
            code,
            retry,
        } => Kind::Image(worker_failure::Image {
            message: cut(message),
            code: code.to_string(),
            retry: match retry {
                Retry::Never => worker_failure::image::Retry::Never,
                Retry::Backoff => worker_failure::image::Retry::Backoff,
                Retry::ElsewhereNow => worker_failure::image::Retry::ElsewhereNow,
            }
            .into(),
        }),
        WorkerError::Start { machine, reason } => Kind::Start(worker_failure::Start {
            machine: machine.to_string(),
            reason: cut(reason),
        }),
        WorkerError::WaitTimeout {
            machine,
            state,
            wanted,
            seconds,
        } => Kind::WaitTimeout(worker_failure::WaitTimeout {
            machine: machine.to_string(),
            state: (*state).to_owned(),
            wanted: cut(wanted),
            seconds: *seconds,
        }),
        WorkerError::NoCapacity(message) => Kind::NoCapacity(cut(message)),
        WorkerError::DiskFull(message) => Kind::DiskFull(cut(message)),
        WorkerError::Leased {
            machine,
            owner,
            expires_at,
            left,
        } => Kind::Leased(worker_failure::Leased {
            machine: machine.to_string(),
            owner: cut(owner),
            expires_at_ms: expires_at.as_ms(),
            left_ms: millis(*left),
        }),
        WorkerError::NoLease(machine) => Kind::NoLease(machine.to_string()),
        WorkerError::Unreachable { node, reason } => {
            Kind::Unreachable(worker_failure::Unreachable {
                node: node.to_string(),
                reason: cut(reason),
            })
        }
        WorkerError::Internal(message) => Kind::Internal(cut(message)),
    }
}

fn from_kind(kind: Kind) -> Result<WorkerError, BadMessage> {
    let machine = |id: &str| text(id, "machine", MachineId::parse);
    Ok(match kind {
        Kind::NotFound(id) => WorkerError::NotFound(machine(&id)?),
        Kind::Conflict(message) => WorkerError::Conflict(message),
        Kind::Invalid(message) => WorkerError::Invalid(message),
        Kind::CannotSuspend(worker_failure::CannotSuspend { machine: id, rung }) => {
            WorkerError::CannotSuspend {
                machine: machine(&id)?,
                rung: word(&rung, "rung", Rung::parse)?,
            }
        }
        Kind::Image(worker_failure::Image {
            message,
            code,
            retry,
        }) => WorkerError::Image {
            message,
            code: code_of(&code).ok_or_else(|| BadMessage::new("code", "is no error code"))?,
            retry: match worker_failure::image::Retry::try_from(retry) {
                Ok(worker_failure::image::Retry::Never) => Retry::Never,
                Ok(worker_failure::image::Retry::Backoff) => Retry::Backoff,
                Ok(worker_failure::image::Retry::ElsewhereNow) => Retry::ElsewhereNow,
                Err(error) => return Err(BadMessage::new("retry", error)),
            },
        },
        Kind::Start(worker_failure::Start {
            machine: id,
            reason,
        }) => WorkerError::Start {
            machine: machine(&id)?,
            reason,
        },
        Kind::WaitTimeout(worker_failure::WaitTimeout {
            machine: id,
            state,
            wanted,
            seconds,
        }) => WorkerError::WaitTimeout {
            machine: machine(&id)?,
            state: word(&state, "state", MachineState::parse)?.as_str(),
            wanted,
            seconds,
        },
        Kind::NoCapacity(message) => WorkerError::NoCapacity(message),
        Kind::DiskFull(message) => WorkerError::DiskFull(message),
        Kind::Leased(worker_failure::Leased {
            machine: id,
            owner,
            expires_at_ms,
            left_ms,
        }) => WorkerError::Leased {
            machine: machine(&id)?,
            owner,
            expires_at: time(expires_at_ms),
            left: Duration::from_millis(left_ms),
        },
        Kind::NoLease(id) => WorkerError::NoLease(machine(&id)?),
        Kind::Unreachable(worker_failure::Unreachable { node, reason }) => {
            WorkerError::Unreachable {
                node: text(&node, "node", NodeId::parse)?,
                reason,
            }
        }
        Kind::Internal(message) => WorkerError::Internal(message),
    })
}

/// Codes that other nodes have sent: a code lives as long as the process.
static CODES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// The code with this text, which the worker's node may have made of something
/// that this one has never heard of.
fn code_of(text: &str) -> Option<ErrorCode> {
    let is_code =
        (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    if !is_code {
        return None;
    }
    let mut codes = CODES.lock();
    if let Some(known) = codes.get(text) {
        return Some(ErrorCode(known));
    }
    if codes.len() >= limits::CODES_MAX {
        return None;
    }
    let code: &'static str = text.to_owned().leak();
    codes.insert(code);
    Some(ErrorCode(code))
}
