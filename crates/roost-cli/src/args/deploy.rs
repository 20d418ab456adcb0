//! Flags of `launch`, `deploy` and `rollback`.

use super::values::{duration, isolation, variable};
use crate::complete;
use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use roost_model::machine::Isolation;
use roost_model::split::HeaderMatch;
use std::path::PathBuf;
use std::time::Duration;

/// Flags of `launch`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LaunchArgs {
    /// The folder of the app
    #[arg(default_value = ".")]
    pub(crate) folder: PathBuf,
    /// Run this image instead of building the folder
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// The name of the app
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The port the app listens on
    #[arg(long)]
    pub(crate) internal_port: Option<u16>,
    /// An environment variable of the machines; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// The rung of the isolation ladder for its machines; the strongest that works when absent
    #[arg(long, value_name = "RUNG", value_parser = isolation())]
    pub(crate) isolation: Option<Isolation>,
    /// Write the configuration and stop there
    #[arg(long)]
    pub(crate) no_deploy: bool,
    /// Return once the deploy has begun
    #[arg(long)]
    pub(crate) detach: bool,
}

/// Flags of `deploy`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DeployArgs {
    /// The folder of the app
    #[arg(default_value = ".")]
    pub(crate) folder: PathBuf,
    /// Release this image and build nothing
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// Release a saved image: an OCI layout folder or archive, or a file of `docker save`
    #[arg(long, value_name = "PATH", conflicts_with = "image")]
    pub(crate) archive: Option<PathBuf>,
    /// The image of the archive to release, when that holds several
    #[arg(long, value_name = "NAME", requires = "archive")]
    pub(crate) archive_image: Option<String>,
    /// The port the app listens on; replaces that of the configuration's service
    #[arg(long)]
    pub(crate) internal_port: Option<u16>,
    /// An environment variable of the machines; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// The rung of the isolation ladder for its machines; replaces that of the configuration
    #[arg(long, value_name = "RUNG", value_parser = isolation())]
    pub(crate) isolation: Option<Isolation>,
    /// Number of machines
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) count: Option<u32>,
    /// Time for each machine to become healthy, such as 90s or 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) wait_timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) canary: CanaryArgs,
    /// Text for the list of releases
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Return once the deploy has begun
    #[arg(long)]
    pub(crate) detach: bool,
    /// Deploy although `deploy.release_command` would not run
    #[arg(long)]
    pub(crate) skip_release_command: bool,
}

/// How the new release replaces the one that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Strategy {
    /// Machine by machine
    Rolling,
    /// One machine is tried out beside the others first
    Canary,
}

/// Flags of `deploy` about its strategy.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct CanaryArgs {
    /// How the release replaces the one before; replaces that of the configuration
    #[arg(long)]
    pub(crate) strategy: Option<Strategy>,
    /// Share of the requests that the canary gets, in percent
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) canary_percent: Option<u8>,
    /// A header whose requests the canary gets all
    #[arg(long, value_name = "NAME: VALUE", value_parser = HeaderMatch::parse)]
    pub(crate) canary_header: Option<HeaderMatch>,
    /// A region of the edge whose requests the canary gets all; may be repeated
    #[arg(long, value_name = "REGION")]
    pub(crate) canary_region: Vec<String>,
    /// Make the canary's share one of clients: each stays with one release
    #[arg(long)]
    pub(crate) canary_by_client: bool,
    /// The longest time that the canary is watched, such as 60s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) canary_wait: Option<Duration>,
    /// Judge the canary as soon as it has had so many requests
    #[arg(long, value_name = "NUMBER")]
    pub(crate) canary_requests: Option<u64>,
}

/// Flags of `rollback`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RollbackArgs {
    /// The release to go back to; the one before the current when absent
    #[arg(add = ArgValueCandidates::new(complete::releases))]
    pub(crate) release: Option<u64>,
    /// Return once the deploy has begun
    #[arg(long)]
    pub(crate) detach: bool,
}
