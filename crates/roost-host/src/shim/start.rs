//! Starting a shim, and the machine in it.

use super::control::Handshake;
use super::{Shims, host};
use crate::cgroup::Cgroup;
use crate::driver::{DriverError, LaunchConfig, Origin};
use crate::net::PlumbError;
use roost_model::error::chain;
use roost_runtime::points;
use serde::Serialize;
use std::io;
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
        points::pass("shim-before-start");
        let failed =
            |error: io::Error| host(format!("start {}", shim.display()), error.to_string());
        let home = Cgroup::at(&self.config.tag.shim_cgroup_name()).map_err(failed)?;
        let mut handshake =
            Handshake::begin(shim, &self.run_dir(id), &home, limit).map_err(failed)?;
        points::pass("shim-started");
        let refused =
            |error: PlumbError| host(format!("attach machine {id} to the network"), chain(&error));
        let plumber = &self.config.plumber;
        // Both are waited for, whichever fails: nothing is changed behind a sweep.
        let (created, admitted) =
            tokio::join!(handshake.create(message), plumber.admit(id, addresses));
        let pid = created?;
        admitted.map_err(refused)?;
        points::pass("machine-created");
        let attached = plumber.attach(id, addresses, pid).await;
        attached.map_err(refused)?;
        points::pass("machine-attached");
        let origin = handshake.start().await?;
        points::pass("machine-started");
        Ok((pid, origin))
    }
}
