//! `certs`: custom host names.

use crate::complete;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use std::path::PathBuf;

/// `certs …`.
#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Let an app answer at a host name, with a certificate that is issued, or with your own
    #[command(
        alias = "create",
        before_help = "Examples:\n  roost certs add www.example.com -a web\n  roost certs add www.example.com -a web --cert fullchain.pem --key privkey.pem"
    )]
    Add(AddArgs),
    /// List the host names of an app
    #[command(
        visible_alias = "ls",
        before_help = "Examples:\n  roost certs list -a web"
    )]
    List,
    /// Show a host name with its certificate and the last attempts to get one
    #[command(before_help = "Examples:\n  roost certs show www.example.com -a web")]
    Show {
        /// The host name
        #[arg(add = ArgValueCandidates::new(complete::host_names))]
        host: String,
    },
    /// Look where a host name leads, and try again now what failed
    #[command(before_help = "Examples:\n  roost certs check www.example.com -a web")]
    Check {
        /// The host name
        #[arg(add = ArgValueCandidates::new(complete::host_names))]
        host: String,
    },
    /// Remove a host name, and revoke a certificate that was issued for it
    #[command(
        visible_alias = "rm",
        alias = "delete",
        before_help = "Examples:\n  roost certs remove www.example.com -a web\n  roost certs remove www.example.com -a web --yes"
    )]
    Remove {
        /// The host name
        #[arg(add = ArgValueCandidates::new(complete::host_names))]
        host: String,
    },
}

/// Flags of `certs add`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AddArgs {
    /// The host name, such as www.example.com; with a certificate of your own also *.example.com
    pub(crate) host: String,
    /// The certificate and those that sign it (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
}
