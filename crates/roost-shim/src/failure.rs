//! Why a machine could not be started, and whose fault that is.

use roost_proto::shim::LaunchFault;

/// A machine could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct LaunchError {
    /// Whose fault it is.
    pub(crate) fault: LaunchFault,
    /// What went wrong, with its causes.
    pub(crate) message: String,
}

impl LaunchError {
    /// The machine's config or image is at fault.
    pub(crate) fn machine(message: impl Into<String>) -> Self {
        Self {
            fault: LaunchFault::Machine,
            message: message.into(),
        }
    }

    /// The host is at fault.
    pub(crate) fn host(message: impl Into<String>) -> Self {
        Self {
            fault: LaunchFault::Host,
            message: message.into(),
        }
    }
}

/// Says what was attempted when the host fails.
pub(crate) trait Attempt<T> {
    /// The same result, with an error that begins with what was attempted.
    fn attempt(self, what: impl std::fmt::Display) -> Result<T, LaunchError>;
}

impl<T, E: std::error::Error + 'static> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl std::fmt::Display) -> Result<T, LaunchError> {
        self.map_err(|error| {
            LaunchError::host(format!("{what}: {}", roost_model::error::chain(&error)))
        })
    }
}
