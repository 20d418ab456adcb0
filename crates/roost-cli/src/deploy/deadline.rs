//! When a command stops waiting for what the platform goes on doing.

use crate::args::Global;
use crate::error::CliError;
use crate::limits;
use std::time::{Duration, Instant};

/// The time that a command waits, from when it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    since: Instant,
    timeout: Duration,
}

impl Deadline {
    /// What `--timeout` says, from now on.
    pub(crate) fn of(global: &Global) -> Self {
        let timeout = global.timeout.map(Duration::from_secs);
        Self {
            since: Instant::now(),
            timeout: timeout.unwrap_or(limits::DEPLOY_TIMEOUT),
        }
    }

    /// The whole time again from now on, for what the user asks for in the middle.
    pub(super) fn anew(self) -> Self {
        Self {
            since: Instant::now(),
            ..self
        }
    }

    /// Waits for `work`; `late` makes the error of "gave up waiting after …".
    pub(crate) async fn wait<T>(
        self,
        work: impl Future<Output = Result<T, CliError>>,
        late: impl FnOnce(String) -> CliError,
    ) -> Result<T, CliError> {
        let left = self.timeout.saturating_sub(self.since.elapsed());
        match tokio::time::timeout(left, work).await {
            Ok(result) => result,
            Err(_) => {
                let n_seconds = self.timeout.as_secs();
                Err(late(format!("gave up waiting after {n_seconds} s")))
            }
        }
    }
}
