//! What the control database holds, in domain words.

use crate::Claim;
use roost_fsm::journal::NewRun;
use roost_model::id::MachineId;
use roost_model::name::{AppName, SecretName};
use roost_model::time::Timestamp;
use roost_proto::machine_config::MachineConfig;
use roost_proto::rest::{DeploymentCanary, DeploymentError};
use std::time::Duration;

/// A token; its secret text is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its id.
    pub id: String,
    /// A name for people.
    pub name: String,
    /// SHA-256 of the secret text, in hexadecimal.
    pub hash: String,
    /// What it may do: `admin` or `deploy:APP`.
    pub scope: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRecord {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: AppName,
    /// When it was made.
    pub created_at: Timestamp,
    /// The number of the release that serves, once one does.
    pub current_release: Option<u64>,
    /// Grows with each change of its secrets.
    pub secrets_version: u64,
    /// When its deletion began, if it did.
    pub deleting_at: Option<Timestamp>,
}

/// A release.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseRecord {
    /// Its id.
    pub id: String,
    /// The app.
    pub app_id: String,
    /// Its number within the app, from 1.
    pub version: u64,
    /// The image as the user named it.
    pub image: String,
    /// The digest it is pinned to.
    pub image_digest: Option<String>,
    /// The config; its image is pinned.
    pub config: MachineConfig,
    /// Text given with it.
    pub description: Option<String>,
    /// How far it came.
    pub status: ReleaseStatus,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What a new release is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRelease {
    /// Its id.
    pub id: String,
    /// The image as the user named it.
    pub image: String,
    /// The digest it is pinned to.
    pub image_digest: Option<String>,
    /// The config; its image is pinned.
    pub config: MachineConfig,
    /// Text given with it.
    pub description: Option<String>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant),* }

        impl $name {
            /// The stored word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// Reads the stored word.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words!(
    /// How far a release came.
    ReleaseStatus {
        /// Its deployment has not begun.
        Pending = "pending",
        /// Its deployment is under way.
        Running = "running",
        /// It was deployed.
        Succeeded = "succeeded",
        /// Its deployment was undone.
        Failed = "failed",
    }
);

words!(
    /// How far a deployment came.
    DeploymentStatus {
        /// Recorded, not begun.
        Pending = "pending",
        /// New machines come, old ones are stopped.
        Running = "running",
        /// Past the point of no return: old machines are removed.
        Retiring = "retiring",
        /// Old machines come back, new ones are removed.
        Undoing = "undoing",
        /// Done.
        Succeeded = "succeeded",
        /// Undone.
        Failed = "failed",
    }
);

words!(
    /// How far a slot of a deployment came.
    SlotPhase {
        /// Nothing was done.
        Planned = "planned",
        /// The new machine is recorded at the worker.
        Created = "created",
        /// The new machine takes traffic.
        Healthy = "healthy",
        /// The old machine is stopped.
        Shifted = "shifted",
    }
);

/// A deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct DeploymentRecord {
    /// Its id.
    pub id: String,
    /// The app's id.
    pub app_id: String,
    /// The release it moves to.
    pub release_version: u64,
    /// How far it came.
    pub status: DeploymentStatus,
    /// Indexes of slots: batches one after the other.
    pub batches: Vec<Vec<usize>>,
    /// How long each machine may take to become healthy.
    pub wait_timeout: Duration,
    /// How its first machine is tried out, if it is, and what became of that.
    pub canary: Option<DeploymentCanary>,
    /// What went wrong.
    pub error: Option<DeploymentError>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// One slot of a deployment: at most one old and one new machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRecord {
    /// Its position.
    pub idx: usize,
    /// The machine that goes.
    pub old_machine: Option<MachineId>,
    /// Whether the old machine ran when the deployment began.
    pub old_ran: bool,
    /// Whether a new machine comes.
    pub makes_new: bool,
    /// The machine that comes, once it is recorded at the worker.
    pub new_machine: Option<MachineId>,
    /// How far it came.
    pub phase: SlotPhase,
}

/// A new deployment with its slots.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDeployment {
    /// Its id.
    pub id: String,
    /// The app's newest deployment when the machines that the slots name were looked up.
    pub follows: Option<String>,
    /// Indexes of slots: batches one after the other.
    pub batches: Vec<Vec<usize>>,
    /// How long each machine may take to become healthy.
    pub wait_timeout: Duration,
    /// How its first machine is tried out, if it is.
    pub canary: Option<DeploymentCanary>,
    /// Its slots in order.
    pub slots: Vec<SlotRecord>,
    /// What executes it. Its key is the deployment's id.
    pub run: NewRun,
}

/// A sealed secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRecord {
    /// Its name.
    pub name: SecretName,
    /// Its sealed value.
    pub sealed: Vec<u8>,
    /// What is shown of it.
    pub digest: String,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When it was last set.
    pub updated_at: Timestamp,
}

/// A change to one secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretChange {
    /// Set it.
    Set {
        /// Its name.
        name: SecretName,
        /// Its sealed value.
        sealed: Vec<u8>,
        /// What is shown of it.
        digest: String,
    },
    /// Remove it; a missing one is fine.
    Remove(SecretName),
}

/// What is known about an idempotency key.
#[derive(Debug)]
pub enum Idempotency {
    /// Nothing: the caller does the work now.
    New(Claim),
    /// The same request was answered like this.
    Done(String),
    /// The same request is under way.
    UnderWay,
    /// The key was used for another request.
    Different,
    /// As many requests as there may be are under way.
    TooMany,
}
