//! `machines …` and `exec`: commands, and flags that say what a machine should be.

use super::values::{isolation, variable};
use crate::complete;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use roost_model::machine::Isolation;

/// `machines …`.
#[derive(Debug, Subcommand)]
pub(crate) enum MachinesCommand {
    /// List the machines of an app
    #[command(
        visible_alias = "ls",
        before_help = "Examples:\n  roost machines list -a web\n  roost machines list -a web --include-deleted"
    )]
    List {
        /// Also those that were destroyed within the last hour
        #[arg(long)]
        include_deleted: bool,
    },
    /// Show a machine with its checks and events
    #[command(
        alias = "show",
        before_help = "Examples:\n  roost machines status 148e…"
    )]
    Status(MachineId),
    /// Start a machine, or resume a suspended one
    #[command(before_help = "Examples:\n  roost machines start 148e…")]
    Start(MachineId),
    /// Stop a machine
    #[command(before_help = "Examples:\n  roost machines stop 148e…")]
    Stop(MachineId),
    /// Write the memory of a machine to disk and end it; a start goes on from there
    #[command(
        before_help = "Examples:\n  roost machines suspend 148e…\n  roost machines wait 148e… --state suspended"
    )]
    Suspend(MachineId),
    /// Restart a machine
    #[command(before_help = "Examples:\n  roost machines restart 148e…")]
    Restart(MachineId),
    /// Remove a machine
    #[command(
        visible_alias = "rm",
        before_help = "Examples:\n  roost machines destroy 148e…\n  roost machines destroy 148e… --force --yes"
    )]
    Destroy {
        /// The machine.
        #[command(flatten)]
        machine: MachineId,
        /// Kill it at once when it runs
        #[arg(long)]
        force: bool,
    },
    /// Make a machine from an image and start it, outside any release
    #[command(
        before_help = "Examples:\n  roost machines run nginx -a web --port 80\n  roost machines run debian -a jobs --rm --memory 512 -- sh -c 'echo done'"
    )]
    Run(Box<NewMachineArgs>),
    /// Make a machine from an image without starting it
    #[command(
        before_help = "Examples:\n  roost machines create nginx -a web --name spare --size shared-cpu-2x"
    )]
    Create(Box<NewMachineArgs>),
    /// Change some of what a machine should be, if nobody else changes it meanwhile
    #[command(
        before_help = "Examples:\n  roost machines update 148e… --memory 512\n  roost machines update 148e… --image nginx:1.27 --env LOG=debug --skip-start"
    )]
    Update(Box<UpdateMachineArgs>),
    /// Make a machine like another one
    #[command(
        before_help = "Examples:\n  roost machines clone 148e…\n  roost machines clone 148e… --name second --skip-start"
    )]
    Clone(CloneMachineArgs),
    /// Keep new traffic from a machine
    #[command(before_help = "Examples:\n  roost machines cordon 148e…")]
    Cordon(MachineId),
    /// Let traffic to a machine again
    #[command(before_help = "Examples:\n  roost machines uncordon 148e…")]
    Uncordon(MachineId),
    /// Send a signal to the first process of a machine
    #[command(before_help = "Examples:\n  roost machines signal 148e… SIGHUP")]
    Signal {
        /// The machine.
        #[command(flatten)]
        machine: MachineId,
        /// The signal, by name or number
        signal: String,
    },
    /// List the processes that run in a machine
    #[command(before_help = "Examples:\n  roost machines ps 148e…")]
    Ps(MachineId),
    /// Metadata of a machine: list, set, remove
    #[command(
        subcommand,
        before_help = "Examples:\n  roost machines metadata list 148e…\n  roost machines metadata set 148e… role blue"
    )]
    Metadata(MetadataCommand),
    /// Leases, under which one tool alone changes a machine: list, clear
    #[command(
        subcommand,
        alias = "lease",
        before_help = "Examples:\n  roost machines leases list -a web\n  roost machines leases clear 148e…"
    )]
    Leases(LeasesCommand),
    /// Run a command in a machine; exits with the command's code
    #[command(before_help = "Examples:\n  roost machines exec 148e… -- ls -l /")]
    Exec {
        /// The machine.
        #[command(flatten)]
        machine: MachineId,
        /// Program and arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Wait for a state of a machine
    #[command(before_help = "Examples:\n  roost machines wait 148e… --state started --timeout 60")]
    Wait {
        /// The machine.
        #[command(flatten)]
        machine: MachineId,
        /// The state: started, stopped, suspended, destroyed, …, settled; several joined by commas
        #[arg(long, default_value = "started")]
        state: String,
    },
}

/// Which machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct MachineId {
    /// The id or name of the machine
    #[arg(add = ArgValueCandidates::new(complete::machine_ids))]
    pub(crate) machine: String,
}

/// Flags of `exec`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExecArgs {
    /// The machine; the first that runs when absent
    #[arg(long, add = ArgValueCandidates::new(complete::machine_ids))]
    pub(crate) machine: Option<String>,
    /// Program and arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

/// What a machine should be.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MachineConfigArgs {
    /// A size such as shared-cpu-1x or performance-2x
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["cpus", "memory"])]
    pub(crate) size: Option<String>,
    /// Number of CPUs
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<u32>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u64>,
    /// An environment variable; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// The port it takes traffic on through the edge
    #[arg(short, long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// When it is started again
    #[arg(long, value_name = "POLICY", value_parser = PossibleValuesParser::new(["no", "on-failure", "always"]))]
    pub(crate) restart: Option<String>,
    /// When it is started by itself: hourly, daily, weekly, monthly, or a cron line in UTC;
    /// an empty text for never
    #[arg(long, value_name = "WHEN")]
    pub(crate) schedule: Option<String>,
    /// A machine that it stands by for: it rests until that one's node is lost; may be repeated
    #[arg(long, value_name = "MACHINE ID", conflicts_with = "port")]
    pub(crate) standby_for: Vec<String>,
    /// The rung of the isolation ladder
    #[arg(long, value_name = "RUNG", value_parser = isolation())]
    pub(crate) isolation: Option<Isolation>,
    /// Program arguments instead of the image's
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

/// Flags of `machines run` and `machines create`.
#[derive(Debug, Clone, Args)]
pub(crate) struct NewMachineArgs {
    /// The image
    pub(crate) image: String,
    /// Its name; a new one when absent
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Its region; that of the platform when absent
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// Remove it when it has ended
    #[arg(long, conflicts_with = "restart")]
    pub(crate) rm: bool,
    /// What it should be.
    #[command(flatten)]
    pub(crate) config: MachineConfigArgs,
}

/// Flags of `machines update`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpdateMachineArgs {
    /// The machine.
    #[command(flatten)]
    pub(crate) machine: MachineId,
    /// Another image
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// Write the new version and do not start it
    #[arg(long)]
    pub(crate) skip_start: bool,
    /// What is to be another way.
    #[command(flatten)]
    pub(crate) config: MachineConfigArgs,
}

/// Flags of `machines clone`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CloneMachineArgs {
    /// The machine.
    #[command(flatten)]
    pub(crate) machine: MachineId,
    /// The name of the new one; a generated one when absent
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The region of the new one; that of the old one when absent
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// Record it without starting it
    #[arg(long)]
    pub(crate) skip_start: bool,
}

/// `machines leases …`.
#[derive(Debug, Subcommand)]
pub(crate) enum LeasesCommand {
    /// List the leases on machines of the app, or on one machine
    #[command(
        visible_alias = "ls",
        alias = "view",
        before_help = "Examples:\n  roost machines leases list -a web\n  roost machines leases list 148e…"
    )]
    List {
        /// The id or name of the machine
        #[arg(add = ArgValueCandidates::new(complete::machine_ids))]
        machine: Option<String>,
    },
    /// End the lease on a machine, whoever holds it
    #[command(before_help = "Examples:\n  roost machines leases clear 148e…")]
    Clear(MachineId),
}

/// `machines metadata …`.
#[derive(Debug, Subcommand)]
pub(crate) enum MetadataCommand {
    /// Show the metadata of a machine
    #[command(
        visible_alias = "ls",
        before_help = "Examples:\n  roost machines metadata list 148e…"
    )]
    List(MachineId),
    /// Set one entry; this makes no new version of the machine
    #[command(before_help = "Examples:\n  roost machines metadata set 148e… role blue")]
    Set {
        /// The machine.
        #[command(flatten)]
        machine: MachineId,
        /// Its key
        key: String,
        /// Its value
        value: String,
    },
    /// Remove one entry
    #[command(
        visible_alias = "rm",
        before_help = "Examples:\n  roost machines metadata remove 148e… role"
    )]
    Remove {
        /// The machine.
        #[command(flatten)]
        machine: MachineId,
        /// Its key
        key: String,
    },
}
