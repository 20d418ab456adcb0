//! `ips`: dedicated addresses.

use crate::complete;
use clap::Subcommand;
use clap_complete::engine::ArgValueCandidates;
use std::net::IpAddr;

/// `ips …`.
#[derive(Debug, Subcommand)]
pub(crate) enum IpsCommand {
    /// List the addresses that are an app's alone
    #[command(
        visible_alias = "ls",
        before_help = "Examples:\n  roost ips list -a web\n  roost ips list -a web --json"
    )]
    List,
    /// Give an app an IPv4 address of its own
    #[command(before_help = "Examples:\n  roost ips allocate-v4 -a db")]
    AllocateV4,
    /// Give an app an IPv6 address of its own
    #[command(
        before_help = "Examples:\n  roost ips allocate-v6 -a db\n  roost ips allocate-v6 --private -a db"
    )]
    AllocateV6 {
        /// One that only the machines of the platform reach
        #[arg(long)]
        private: bool,
    },
    /// Take addresses from an app; what is connected there stays so
    #[command(
        before_help = "Examples:\n  roost ips release 203.0.113.7 -a db\n  roost ips release 203.0.113.7 -a db --yes"
    )]
    Release {
        /// The addresses
        #[arg(required = true, value_name = "ADDRESS", add = ArgValueCandidates::new(complete::addresses))]
        addresses: Vec<IpAddr>,
    },
}
