//! `apps`, `secrets`, `logs`, `open` and `config`: what belongs to an app.

use crate::complete;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

/// `apps …`.
#[derive(Debug, Subcommand)]
pub(crate) enum AppsCommand {
    /// List apps
    #[command(visible_alias = "ls", before_help = "Examples:\n  roost apps list")]
    List,
    /// Create an app without deploying it
    #[command(before_help = "Examples:\n  roost apps create web")]
    Create {
        /// Its name
        name: String,
    },
    /// Show an app
    #[command(before_help = "Examples:\n  roost apps show web")]
    Show {
        /// Its name
        #[arg(add = ArgValueCandidates::new(complete::apps))]
        name: Option<String>,
    },
    /// Remove an app with its machines, releases and secrets
    #[command(
        visible_alias = "rm",
        before_help = "Examples:\n  roost apps destroy web\n  roost apps destroy web --yes"
    )]
    Destroy {
        /// Its name
        #[arg(add = ArgValueCandidates::new(complete::apps))]
        name: String,
    },
}

/// Flags of `logs`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    /// Go on as new lines come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Number of lines to begin with
    #[arg(short = 'n', long, alias = "limit", default_value_t = 100)]
    pub(crate) lines: u32,
    /// Print what is there and end; this is the default, and the flag is for scripts written for flyctl
    #[arg(long, conflicts_with = "follow")]
    pub(crate) no_tail: bool,
    /// Only of this machine
    #[arg(long, alias = "instance", add = ArgValueCandidates::new(complete::machine_ids))]
    pub(crate) machine: Option<String>,
}

/// `secrets …`.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// List names and digests, never values
    #[command(
        visible_alias = "ls",
        before_help = "Examples:\n  roost secrets list -a web"
    )]
    List,
    /// Set secrets; running machines get them at the next deploy
    #[command(
        before_help = "Examples:\n  roost secrets set A=1 B=2\n  roost secrets set A=1 --deploy\n  roost secrets set KEY=- < key.pem"
    )]
    Set {
        /// NAME=VALUE; a value of `-` is read from standard input
        #[arg(required = true)]
        pairs: Vec<String>,
        /// When running machines get them
        #[command(flatten)]
        then: ThenDeploy,
    },
    /// Remove secrets
    #[command(
        visible_alias = "rm",
        before_help = "Examples:\n  roost secrets unset A B"
    )]
    Unset {
        /// Names
        #[arg(required = true, add = ArgValueCandidates::new(complete::secrets))]
        names: Vec<String>,
        /// When running machines lose them
        #[command(flatten)]
        then: ThenDeploy,
    },
    /// Read NAME=VALUE lines from standard input
    #[command(
        before_help = "Examples:\n  roost secrets import < .env\n  roost secrets import --deploy < .env"
    )]
    Import {
        /// When running machines get them
        #[command(flatten)]
        then: ThenDeploy,
    },
}

/// Whether a change is brought to the running machines.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ThenDeploy {
    /// Deploy the current release again at once, so that running machines have the change
    #[arg(long)]
    pub(crate) deploy: bool,
    /// Return once that deploy has begun
    #[arg(long, requires = "deploy")]
    pub(crate) detach: bool,
}

/// Flags of `open`.
#[derive(Debug, Clone, Args)]
pub(crate) struct OpenArgs {
    /// Print the URL only
    #[arg(long)]
    pub(crate) print: bool,
}

/// `config …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show the machine config that the app configuration asks for
    #[command(
        before_help = "Examples:\n  roost config show\n  roost config show -c fly.toml --json"
    )]
    Show,
    /// Check the app configuration
    #[command(
        before_help = "Examples:\n  roost config validate\n  roost config validate -c fly.toml"
    )]
    Validate,
}
