//! Why the node's wish could not be carried out, and whose fault that is.

use std::fmt::Display;
use tonic::{Code, Status};

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The machine's config or image: a user that is not there, no such program.
    Machine,
    /// The request makes no sense.
    Request,
    /// The guest's kernel or devices, which the node gave it.
    Guest,
}

/// A wish of the node could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Whose fault it is.
    pub(crate) fault: Fault,
    /// What went wrong, for people.
    pub(crate) message: String,
}

impl Failure {
    /// The machine's config or image is at fault.
    pub(crate) fn machine(message: impl Into<String>) -> Self {
        Self::new(Fault::Machine, message)
    }

    /// The request is at fault.
    pub(crate) fn request(message: impl Into<String>) -> Self {
        Self::new(Fault::Request, message)
    }

    /// The guest's kernel or devices are at fault.
    pub(crate) fn guest(message: impl Into<String>) -> Self {
        Self::new(Fault::Guest, message)
    }

    fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self {
            fault,
            message: message.into(),
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let code = match failure.fault {
            Fault::Machine => Code::FailedPrecondition,
            Fault::Request => Code::InvalidArgument,
            Fault::Guest => Code::Internal,
        };
        Status::new(code, failure.message)
    }
}

/// Says what was attempted when something fails.
pub(crate) trait Attempt<T> {
    /// The same result; the guest is at fault.
    fn attempt(self, what: impl Display) -> Result<T, Failure>;
    /// The same result; the machine's config or image is at fault.
    fn attempt_for_machine(self, what: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::guest(format!("{what}: {error}")))
    }

    fn attempt_for_machine(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::machine(format!("{what}: {error}")))
    }
}
