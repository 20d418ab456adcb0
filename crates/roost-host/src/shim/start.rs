//! Starting a shim, and the machine in it.

use super::control::Handshake;
use super::{Shims, host};
use crate::driver::{DriverError, LaunchConfig, Origin};
use crate::net::PlumbError;
use roost_model::error::chain;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

impl Shims {
    /// Has a shim create the machine, connects it to the network and has it
    /// run. Returns the process that its network namespace is reached by, and
    /// what it runs on from. Each answer of the shim may take up to `limit`.
    ///
    /// What a failed start leaves behind is for a sweep to remove.
    pub(crate) async fn start(
        &self,
        shim: &Path,
        config: &LaunchConfig,
        message: &(impl Serialize + Sync),
        limit: Duration,
    ) -> Result<(u32, Origin), DriverError> {
        let (id, addresses) = (&config.machine_id, config.addresses);
        let mut handshake = Handshake::begin(shim, &self.run_dir(id), limit)
            .map_err(|error| host(format!("start {}", shim.display()), error.to_string()))?;
        let refused =
            |error: PlumbError| host(format!("attach machine {id} to the network"), chain(&error));
        let plumber = &self.config.plumber;
        // Both are waited for, whichever fails: nothing is changed behind a sweep.
        let (created, admitted) =
            tokio::join!(handshake.create(message), plumber.admit(id, addresses));
        let pid = created?;
        admitted.map_err(refused)?;
        let attached = plumber.attach(id, addresses, pid).await;
        attached.map_err(refused)?;
        Ok((pid, handshake.start().await?))
    }
}
