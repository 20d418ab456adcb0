//! The command line: every command, flag and help text.

mod apps;
mod certs;
mod deploy;
mod ips;
pub(crate) mod machines;
mod operations;
mod platform;
mod values;

pub(crate) use apps::{AppsCommand, ConfigCommand, LogsArgs, OpenArgs, SecretsCommand, ThenDeploy};
pub(crate) use certs::{AddArgs, CertsCommand};
pub(crate) use deploy::{CanaryArgs, DeployArgs, LaunchArgs, RollbackArgs, Strategy};
pub(crate) use ips::IpsCommand;
pub(crate) use machines::{ExecArgs, MachineId, MachinesCommand};
pub(crate) use operations::{OpsCommand, WhyCommand};
pub(crate) use platform::{DoctorArgs, DownArgs, UpArgs};

use crate::complete;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;
use std::path::PathBuf;
use values::seconds;

/// Run apps from images and folders on your own machines
#[derive(Debug, Parser)]
#[command(
    name = "roost",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    before_help = "Examples:\n  roost up                      start a platform on this machine\n  roost launch                  make roost.toml for this folder and deploy it\n  roost deploy                  build and release this folder\n  roost logs -f                 follow the logs"
)]
pub(crate) struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(crate) struct Global {
    /// The app; `app` of the app configuration when absent
    #[arg(short, long, global = true, env = "ROOST_APP", add = ArgValueCandidates::new(complete::apps))]
    pub(crate) app: Option<String>,
    /// The app configuration, or the folder that holds it
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON: results on stdout, one object per line for streams; errors as one object on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print results and errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print more
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Answer yes to every question
    #[arg(short, long, global = true)]
    pub(crate) yes: bool,
    /// Check all that can be checked, show what would change, and change nothing
    #[arg(long, global = true)]
    pub(crate) dry_run: bool,
    /// Time to wait for an operation to finish, such as 90s, 5m, or a number of seconds
    #[arg(long, global = true, value_name = "DURATION", value_parser = seconds)]
    pub(crate) timeout: Option<u64>,
    /// The API token
    #[arg(long, global = true, env = "ROOST_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Where the API is
    #[arg(long, global = true, env = "ROOST_API_URL", value_name = "URL")]
    pub(crate) api_url: Option<String>,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a one-node platform on this machine
    #[command(
        before_help = "Examples:\n  roost up\n  roost up --data-dir ./.roost --deploy examples/hello\n  roost up --listen 0.0.0.0 --http-port 80 --https-port 443 --domain apps.example.com\n  roost up --runtime /usr/sbin/runc\n  roost up --firecracker /opt/firecracker/firecracker --jailer /opt/firecracker/jailer"
    )]
    Up(Box<UpArgs>),
    /// Stop the platform on this machine and remove every trace of it
    #[command(before_help = "Examples:\n  roost down\n  roost down --data-dir ./.roost --yes")]
    Down(DownArgs),
    /// Make an app configuration for a folder or an image, and deploy it
    #[command(
        before_help = "Examples:\n  roost launch\n  roost launch --image nginx:1.27 --name web --internal-port 80 --yes\n  roost launch --image nginx:1.27 --isolation vm --internal-port 80"
    )]
    Launch(LaunchArgs),
    /// Build and release an app
    #[command(
        before_help = "Examples:\n  roost deploy\n  roost deploy examples/hello\n  roost deploy --image localhost:4280/web:v2 -a web\n  roost deploy --archive web.tar -a web\n  roost deploy --image nginx --isolation vm-emulated -a web\n  roost deploy --dry-run"
    )]
    Deploy(DeployArgs),
    /// Apps: list, create, show, destroy
    #[command(
        subcommand,
        alias = "app",
        before_help = "Examples:\n  roost apps list\n  roost apps create web"
    )]
    Apps(AppsCommand),
    /// Machines: list, look at, start, stop, suspend, run commands in
    #[command(
        subcommand,
        visible_alias = "m",
        alias = "machine",
        before_help = "Examples:\n  roost machines list -a web\n  roost machines restart 148e…"
    )]
    Machines(MachinesCommand),
    /// Show an app with its machines and checks
    #[command(before_help = "Examples:\n  roost status\n  roost status -a web --json")]
    Status,
    /// Show or follow the logs of an app
    #[command(
        alias = "log",
        before_help = "Examples:\n  roost logs\n  roost logs -f -a web\n  roost logs -n 500 --machine 148e…"
    )]
    Logs(LogsArgs),
    /// Secrets of an app: list, set, unset, import
    #[command(
        subcommand,
        alias = "secret",
        before_help = "Examples:\n  roost secrets set DATABASE_URL=postgres://…\n  roost secrets import < .env"
    )]
    Secrets(SecretsCommand),
    /// Custom host names of an app and their certificates: add, list, show, check, remove
    #[command(
        subcommand,
        alias = "cert",
        before_help = "Examples:\n  roost certs add www.example.com -a web\n  roost certs show www.example.com -a web"
    )]
    Certs(CertsCommand),
    /// Addresses that are an app's alone: list, allocate, release
    #[command(
        subcommand,
        alias = "ip",
        before_help = "Examples:\n  roost ips list -a db\n  roost ips allocate-v4 -a db"
    )]
    Ips(IpsCommand),
    /// List the releases of an app
    #[command(
        alias = "release",
        before_help = "Examples:\n  roost releases\n  roost releases -a web --json"
    )]
    Releases,
    /// Go back to an earlier release
    #[command(before_help = "Examples:\n  roost rollback\n  roost rollback 3 -a web")]
    Rollback(RollbackArgs),
    /// Deployments of an app: list, watch, cancel
    #[command(
        subcommand,
        alias = "op",
        before_help = "Examples:\n  roost ops list -a web\n  roost ops watch -a web"
    )]
    Ops(OpsCommand),
    /// Explain from recorded evidence why something is as it is
    #[command(
        subcommand,
        before_help = "Examples:\n  roost why machine 148e…\n  roost why request 01JD…"
    )]
    Why(WhyCommand),
    /// Run a command in a machine of an app; exits with the command's code
    #[command(
        before_help = "Examples:\n  roost exec -- ls -l /\n  roost exec -a web -- printenv\n  roost exec --machine 148e… -- uptime"
    )]
    Exec(ExecArgs),
    /// Open the app in a browser, or print its URL
    #[command(before_help = "Examples:\n  roost open\n  roost open --print -a web")]
    Open(OpenArgs),
    /// Check this client, the API and this host
    #[command(before_help = "Examples:\n  roost doctor\n  roost doctor --json")]
    Doctor(DoctorArgs),
    /// Store the URL and token of a platform for later commands
    #[command(
        before_help = "Examples:\n  roost login --api-url https://roost.example.com\n  roost login < token"
    )]
    Login,
    /// Print the version of the client and of the platform
    #[command(before_help = "Examples:\n  roost version\n  roost version --json")]
    Version,
    /// Print a completion script, to be read at the start of each shell
    #[command(
        before_help = "Examples:\n  roost completion bash                      prints the script\n  source <(roost completion bash)            in ~/.bashrc\n  source <(roost completion zsh)             in ~/.zshrc, after compinit\n  roost completion fish | source             in ~/.config/fish/config.fish"
    )]
    Completion(CompletionArgs),
    /// The app configuration: show, validate
    #[command(
        subcommand,
        before_help = "Examples:\n  roost config validate\n  roost config show"
    )]
    Config(ConfigCommand),
    /// Help for a command, or the page of an error code
    #[command(
        before_help = "Examples:\n  roost help machines stop\n  roost help errors\n  roost help errors port-in-use"
    )]
    Help(HelpArgs),
}

/// What `help` is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct HelpArgs {
    /// A command, or `errors` and a code
    #[arg(add = ArgValueCandidates::new(complete::help_topics))]
    pub(crate) topic: Vec<String>,
}

/// Flags of `completion`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    pub(crate) shell: Shell,
}

/// Shells with completion.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    /// Bash
    Bash,
    /// Zsh
    Zsh,
    /// Fish
    Fish,
    /// PowerShell
    Powershell,
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory as _;

    fn leaves(command: &clap::Command, path: &str, visit: &mut dyn FnMut(&str, &clap::Command)) {
        let path = format!("{path} {}", command.get_name());
        let subcommands: Vec<_> = command.get_subcommands().collect();
        if subcommands.is_empty() {
            visit(path.trim(), command);
        }
        for subcommand in subcommands {
            leaves(subcommand, &path, visit);
        }
    }

    #[test]
    fn every_command_takes_json_and_shows_examples() {
        let mut root = Cli::command();
        root.build();
        let mut n_leaves = 0;
        leaves(&root, "", &mut |path, command| {
            n_leaves += 1;
            for flag in ["json", "app", "token", "api-url", "quiet", "yes"] {
                let has = command
                    .get_arguments()
                    .any(|arg| arg.get_long() == Some(flag));
                assert!(has, "{path} lacks --{flag}");
            }
            let help = command
                .get_before_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains(&format!("Examples:\n  {path}")),
                "{path} lacks examples: {help}"
            );
            assert!(command.get_about().is_some(), "{path} lacks a description");
            assert!(
                command.get_arguments().all(|arg| arg.get_help().is_some()),
                "{path} has a flag without help"
            );
        });
        assert!(n_leaves > 25, "{n_leaves}");
    }

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}
