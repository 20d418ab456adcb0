//! What a worker is started with.

use crate::capacity::NodeProfile;
use crate::housekeeping::Housekeeper;
use crate::limits;
use roost_auth::seal::SealingKey;
use roost_host::driver::MachineAddresses;
use roost_model::name::RegionCode;
use roost_model::placement::Capacity;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The addresses of the machine in this slot of the node's private networks.
pub type AddressAllocator = Arc<dyn Fn(u32) -> MachineAddresses + Send + Sync>;

/// What a worker is started with.
#[derive(Clone)]
pub struct WorkerConfig {
    /// Where `worker.db` is.
    pub data_dir: PathBuf,
    /// Logs of a machine are in `<log_root>/<app>/<machine id>`.
    pub log_root: PathBuf,
    /// The region of this node.
    pub region: RegionCode,
    /// Addresses by slot; slots are counted from 0.
    pub addresses: AddressAllocator,
    /// Seals secrets in the database.
    pub sealer: Arc<SealingKey>,
    /// Variables that every machine gets, above all others: where the API is, and so on.
    pub platform_env: Vec<(String, String)>,
    /// Longest wait for requests under way before a machine is stopped.
    pub drain_timeout: Duration,
    /// How long a machine has had less traffic than it could take before it may be put to sleep.
    pub autostop_after: Duration,
    /// What this node is and has.
    pub node: NodeProfile,
    /// Called by the periodic pass.
    pub housekeeper: Arc<dyn Housekeeper>,
}

impl WorkerConfig {
    /// The usual wait for requests under way.
    pub const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
    /// The usual time without traffic before a machine is put to sleep.
    pub const AUTOSTOP_AFTER_DEFAULT: Duration = Duration::from_secs(300);
    /// The usual most number of machines.
    pub const N_MACHINES_MAX_DEFAULT: u32 = 1_000;

    /// What this node has; not more machines than there are ids for.
    pub(crate) fn capacity(&self) -> Capacity {
        let capacity = self.node.capacity;
        Capacity {
            n_machines: capacity.n_machines.min(limits::MACHINES_MAX),
            ..capacity
        }
    }
}

impl std::fmt::Debug for WorkerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerConfig")
            .field("data_dir", &self.data_dir)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// A worker could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartWorkerError {
    /// The database cannot be used.
    #[error("open worker database {}", path.display())]
    OpenDatabase {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        #[source]
        source: crate::store::StoreError,
    },
}
