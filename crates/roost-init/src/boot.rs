//! From the node's boot message to an app that runs, in order.

use crate::app::{App, Surroundings};
use crate::cgroup::Cgroups;
use crate::children::Children;
use crate::clock;
use crate::disks;
use crate::failure::{Attempt as _, Failure};
use crate::guest_files;
use crate::limits::PROCESSES_MAX;
use crate::network;
use crate::output::Output;
use crate::process::Recipe;
use crate::stats::Disk;
use crate::tasks::Tasks;
use roost_agent::proto::BootRequest;
use std::sync::Arc;

/// Services bind port 80 without being root.
const UNPRIVILEGED_PORTS: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "0");

/// A guest whose app was started.
#[derive(Debug)]
pub(crate) struct Booted {
    /// The app.
    pub(crate) app: App,
    /// What commands beside it share with it.
    pub(crate) around: Surroundings,
    /// What is mounted: the root, then further disks in the order of mounting.
    pub(crate) disks: Vec<Disk>,
}

/// Sets the guest up and starts the app.
pub(crate) async fn boot(
    request: &BootRequest,
    children: Children,
    output: Arc<Output>,
    tasks: Tasks,
) -> Result<Booted, Failure> {
    if !(1..=PROCESSES_MAX).contains(&request.processes.len()) {
        return Err(Failure::request(format!(
            "{} processes were asked for, not 1 to {PROCESSES_MAX}",
            request.processes.len()
        )));
    }
    clock::set(request.clock_unix_ns)?;
    clock::seed(&request.random_seed)?;
    rustix::system::sethostname(request.hostname.as_bytes()).attempt("set the host name")?;
    let root = request
        .root
        .as_ref()
        .ok_or_else(|| Failure::request("the disks of the root are missing"))?;
    disks::enter_root(root, request.swap_bytes).await?;
    let cgroups = Arc::new(Cgroups::create()?);
    let mut mounted = vec![Disk {
        path: "/".to_owned(),
        devices: vec![root.image_device.clone(), root.scratch_device.clone()],
    }];
    for volume in &request.mounts {
        disks::mount_volume(volume).await?;
        mounted.push(Disk {
            path: volume.path.clone(),
            devices: vec![volume.device.clone()],
        });
    }
    let recipes = request
        .processes
        .iter()
        .map(Recipe::of_app)
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(network) = &request.network {
        network::set_up(network).await?;
    }
    network::set_sysctl(UNPRIVILEGED_PORTS.0, UNPRIVILEGED_PORTS.1)?;
    for (name, value) in &request.sysctls {
        network::set_sysctl(name, value)?;
    }
    guest_files::write_all(request)?;
    let around = Surroundings {
        cgroups,
        children,
        output,
        tasks,
    };
    let app = App::start(recipes, request.open_files_max, &around)?;
    Ok(Booted {
        app,
        around,
        disks: mounted,
    })
}
