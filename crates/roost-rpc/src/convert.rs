//! Messages to domain values, and back.
//!
//! To messages is total. From messages checks everything: a peer of the
//! cluster is trusted to be who it is, and not to be of this version.

mod failure;
pub mod fuzzing;
mod machine;
mod node;
pub(crate) mod request;

pub use failure::{failure_from_wire, failure_to_wire};

use crate::proto;
use roost_model::machine::{CpuKind, Guest};
use roost_model::size::ByteSize;
use roost_model::time::Timestamp;
use roost_proto::worker::{ListeningSocket, RungStatus};
use std::time::Duration;

/// A message is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadMessage {
    /// The field.
    pub field: &'static str,
    /// What is wrong.
    pub problem: String,
}

impl BadMessage {
    fn new(field: &'static str, problem: impl ToString) -> Self {
        Self {
            field,
            problem: problem.to_string().chars().take(300).collect(),
        }
    }
}

/// A domain value that has a message.
pub trait Wire: Sized {
    /// The message.
    type Message: prost::Message + Default;
    /// As a message.
    fn to_wire(&self) -> Self::Message;
    /// From a message.
    fn from_wire(message: Self::Message) -> Result<Self, BadMessage>;
}

/// A message that must be there.
fn present<T: Wire>(message: Option<T::Message>, field: &'static str) -> Result<T, BadMessage> {
    T::from_wire(message.ok_or_else(|| BadMessage::new(field, "is missing"))?)
}

/// A word that one of our vocabularies has.
fn word<T>(
    text: &str,
    field: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, BadMessage> {
    let cut: String = text.chars().take(40).collect();
    parse(text).ok_or_else(|| BadMessage::new(field, format!("`{cut}` is not known here")))
}

/// A text with a form.
fn text<T, E: std::fmt::Display>(
    text: &str,
    field: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, BadMessage> {
    parse(text).map_err(|error| BadMessage::new(field, error))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn time(ms: u64) -> Timestamp {
    Timestamp::from_ms(ms)
}

impl Wire for Guest {
    type Message = proto::Guest;

    fn to_wire(&self) -> proto::Guest {
        let Self {
            cpu_kind,
            n_cpus,
            memory,
        } = *self;
        proto::Guest {
            cpu_kind: cpu_kind.as_str().to_owned(),
            n_cpus,
            memory_bytes: memory.bytes(),
        }
    }

    fn from_wire(message: proto::Guest) -> Result<Self, BadMessage> {
        let proto::Guest {
            cpu_kind,
            n_cpus,
            memory_bytes,
        } = message;
        Ok(Self {
            cpu_kind: word(&cpu_kind, "cpu_kind", CpuKind::parse)?,
            n_cpus,
            memory: ByteSize(memory_bytes),
        })
    }
}

/// Answers that are lists of small things come whole.
macro_rules! list_answer {
    ($($item:ty = $message:ident . $field:ident),*) => {$(
        impl Wire for Vec<$item> {
            type Message = proto::$message;

            fn to_wire(&self) -> proto::$message {
                proto::$message { $field: self.iter().map(Wire::to_wire).collect() }
            }

            fn from_wire(message: proto::$message) -> Result<Self, BadMessage> {
                message.$field.into_iter().map(Wire::from_wire).collect()
            }
        }
    )*};
}
list_answer!(
    RungStatus = RungsAnswer.rungs,
    ListeningSocket = ListeningSocketsAnswer.sockets
);

#[cfg(test)]
mod tests;
