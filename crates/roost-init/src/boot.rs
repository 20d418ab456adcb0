//! From the node's boot message to an app that runs, in order.

use crate::app::{App, Surroundings};
use crate::cgroup::Cgroup;
use crate::children::Children;
use crate::clock;
use crate::disks;
use crate::failure::{Attempt as _, Failure};
use crate::limits::PROCESSES_MAX;
use crate::output::Output;
use crate::process::Recipe;
use crate::tasks::Tasks;
use roost_agent::proto::BootRequest;
use std::sync::Arc;

/// A guest whose app was started.
#[derive(Debug)]
pub(crate) struct Booted {
    /// The app.
    pub(crate) app: App,
    /// What commands beside it share with it.
    pub(crate) around: Surroundings,
    /// Where further disks are mounted, in the order of mounting.
    pub(crate) volumes: Vec<String>,
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
    let cgroup = Arc::new(Cgroup::create()?);
    let mut volumes = Vec::new();
    for volume in &request.mounts {
        disks::mount_volume(volume).await?;
        volumes.push(volume.path.clone());
    }
    let recipes = request
        .processes
        .iter()
        .map(Recipe::of_app)
        .collect::<Result<Vec<_>, _>>()?;
    let around = Surroundings {
        cgroup,
        children,
        output,
        tasks,
    };
    let app = App::start(recipes, request.open_files_max, &around)?;
    Ok(Booted {
        app,
        around,
        volumes,
    })
}
