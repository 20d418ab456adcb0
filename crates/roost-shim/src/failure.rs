//! What was attempted when the host is at fault that a machine could not be started.

pub(crate) use roost_proto::shim::LaunchError;

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
