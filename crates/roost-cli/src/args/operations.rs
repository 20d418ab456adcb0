//! `ops` and `why`: what is done, and why something is so.

use super::MachineId;
use crate::complete;
use clap::Subcommand;
use clap_complete::engine::ArgValueCandidates;

/// `ops …`.
#[derive(Debug, Subcommand)]
pub(crate) enum OpsCommand {
    /// List what was and is done to an app and its machines, the newest first
    #[command(
        visible_alias = "ls",
        before_help = "Examples:\n  roost ops list\n  roost ops list -a web --unfinished --json\n  roost ops list --machine 148e…"
    )]
    List {
        /// Of this machine only
        #[arg(long, add = ArgValueCandidates::new(complete::machine_ids))]
        machine: Option<String>,
        /// Only those under way
        #[arg(long)]
        unfinished: bool,
    },
    /// Show the steps of an operation, with times and outcomes
    #[command(
        before_help = "Examples:\n  roost ops show run_01JD…\n  roost ops show -a web dep_01JD… --json"
    )]
    Show {
        /// Its id
        id: String,
    },
    /// Follow a deployment or another operation to its end
    #[command(
        before_help = "Examples:\n  roost ops watch\n  roost ops watch -a web 01JD…\n  roost ops watch run_01JD…"
    )]
    Watch {
        /// Its id; the deployment under way when absent
        #[arg(add = ArgValueCandidates::new(complete::deployments))]
        id: Option<String>,
    },
    /// Cancel a deployment under way, which undoes it, or the start of a machine
    #[command(
        before_help = "Examples:\n  roost ops cancel\n  roost ops cancel -a web 01JD…\n  roost ops cancel run_01JD…"
    )]
    Cancel {
        /// Its id; the deployment under way when absent
        #[arg(add = ArgValueCandidates::new(complete::deployments))]
        id: Option<String>,
    },
}

/// `why …`.
#[derive(Debug, Subcommand)]
pub(crate) enum WhyCommand {
    /// Why a machine runs, or does not
    #[command(
        before_help = "Examples:\n  roost why machine 148e…\n  roost why machine 148e… --json"
    )]
    Machine(MachineId),
    /// Why a request went as it did: who was asked, who was not, and what its time went to
    #[command(
        before_help = "Examples:\n  roost why request 01JD…            the id is in the response's header roost-request-id\n  roost why request 01JD… --json"
    )]
    Request {
        /// Its id, as the header `roost-request-id` of its response says
        id: String,
    },
}
