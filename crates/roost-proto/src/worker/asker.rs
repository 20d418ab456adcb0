//! Who asks for a change of a machine, and with which lease.

use super::WorkerError;
use super::lease::LeaseNonce;
use roost_model::id::{InstanceId, MachineId};
use serde::{Deserialize, Serialize};

/// What stands behind a change of a machine. It is kept in the machine's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Cause {
    /// Somebody with a token of the API.
    User {
        /// Id of the token.
        token: String,
        /// Its name.
        name: String,
    },
    /// A deployment.
    Deployment {
        /// Its id.
        id: String,
    },
    /// The deletion of its app.
    AppDeletion,
    /// The machine's own schedule.
    Schedule,
    /// The machine's own restart policy.
    RestartPolicy,
    /// A request that found no machine, or machines that none came to.
    Proxy,
    /// The node, or the worker on it, started anew.
    HostRestart,
    /// What sees to it that there is what is wanted: a machine vanished with its
    /// node, or is one too many.
    Reconciler,
}

impl Cause {
    /// The word for it in a machine's history: what an event's `source` is.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::User { .. } => "user",
            Self::Deployment { .. } => "deployment",
            Self::AppDeletion => "app-deletion",
            Self::Schedule => "schedule",
            Self::RestartPolicy => "restart-policy",
            Self::Proxy => "proxy",
            Self::HostRestart => "host-restart",
            Self::Reconciler => "reconciler",
        }
    }

    /// Whether a change for this has to wait while somebody else holds a lease.
    ///
    /// A deployment looks for leases before it begins and takes none meanwhile; a
    /// deleted app takes its machines along; and what keeps a machine as it is
    /// wanted is no change.
    pub fn heeds_leases(&self) -> bool {
        match self {
            Self::User { .. } | Self::Schedule | Self::Proxy => true,
            Self::Deployment { .. }
            | Self::AppDeletion
            | Self::RestartPolicy
            | Self::HostRestart
            | Self::Reconciler => false,
        }
    }

    /// The name of the user or the id of the deployment, where there is one.
    pub fn subject(&self) -> Option<&str> {
        match self {
            Self::User { name, .. } => Some(name),
            Self::Deployment { id } => Some(id),
            Self::AppDeletion
            | Self::Schedule
            | Self::RestartPolicy
            | Self::Proxy
            | Self::HostRestart
            | Self::Reconciler => None,
        }
    }
}

/// Who asks for a change of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// What stands behind the request.
    pub cause: Cause,
    /// The lease under which it is made.
    pub lease_nonce: Option<LeaseNonce>,
    /// The version of the machine that the asker has seen. A request that comes
    /// when the machine has another one is late, and is refused.
    pub seen_version: Option<InstanceId>,
}

impl Asker {
    /// The same asker, for this version of a machine only.
    #[must_use]
    pub fn for_version(mut self, version: InstanceId) -> Self {
        self.seen_version = Some(version);
        self
    }

    /// Refuses what was asked of another version than the machine has.
    pub fn check_version(
        &self,
        machine: &MachineId,
        version: &InstanceId,
    ) -> Result<(), WorkerError> {
        match &self.seen_version {
            Some(seen) if seen != version => Err(WorkerError::Conflict(format!(
                "machine {machine} has version {version} now; the request was made for {seen} and comes late"
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

impl From<Cause> for Asker {
    /// One that holds no lease, and asks whatever the version.
    fn from(cause: Cause) -> Self {
        Self {
            cause,
            lease_nonce: None,
            seen_version: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cause;

    #[test]
    fn the_word_for_a_cause_is_the_kind_it_is_written_with() {
        let causes = [
            Cause::User {
                token: "tok".into(),
                name: "ann".into(),
            },
            Cause::Deployment { id: "dep".into() },
            Cause::AppDeletion,
            Cause::Schedule,
            Cause::RestartPolicy,
            Cause::Proxy,
            Cause::HostRestart,
            Cause::Reconciler,
        ];
        for cause in causes {
            let json = serde_json::to_value(&cause).unwrap();
            assert_eq!(json["kind"], cause.as_str());
            assert_eq!(serde_json::from_value::<Cause>(json).unwrap(), cause);
        }
    }
}
