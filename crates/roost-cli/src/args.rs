//! The command line: every command, flag and help text.

pub(crate) mod machines;

use crate::complete;
use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;
use machines::{
    CloneMachineArgs, LeasesCommand, MetadataCommand, NewMachineArgs, UpdateMachineArgs,
};
use roost_model::machine::Isolation;
use std::path::PathBuf;
use std::time::Duration;

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
    #[command(subcommand, before_help = "Examples:\n  roost why machine 148e…")]
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

/// Flags of `up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Where everything is kept
    #[arg(long, env = "ROOST_DATA_DIR", default_value = "/var/lib/roost")]
    pub(crate) data_dir: PathBuf,
    /// Port of the API; that of the last `up`, or 4280
    #[arg(long, value_name = "PORT")]
    pub(crate) api_port: Option<u16>,
    /// Port of the edge for HTTP; that of the last `up`, or 8080
    #[arg(long, value_name = "PORT")]
    pub(crate) http_port: Option<u16>,
    /// Port of the edge for HTTPS; that of the last `up`, or 8443
    #[arg(long, value_name = "PORT")]
    pub(crate) https_port: Option<u16>,
    /// Address the edge listens on; an empty one takes it back
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// A domain under which every app gets a name; may be repeated, an empty one takes them back
    #[arg(long = "domain", value_name = "NAME")]
    pub(crate) domains: Vec<String>,
    /// The public address of this machine; an empty one takes it back
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) public_ip: Option<String>,
    /// The region of this machine; that of the last `up`, or `local`
    #[arg(short, long, value_name = "NAME")]
    pub(crate) region: Option<String>,
    /// What runs the machines of apps: `library`, or an OCI runtime such as /usr/sbin/runc
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) runtime: Option<String>,
    /// A registry (HOST or HOST:PORT) that is spoken to in plain HTTP; may be repeated, an empty one takes them back
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub(crate) insecure_registries: Vec<String>,
    /// Most bytes of images kept, such as 20GiB; what machines and releases need is always kept; an empty one takes it back
    #[arg(long, value_name = "SIZE")]
    pub(crate) images_max: Option<String>,
    /// Memory for the machines of apps, such as 8GiB; that of this machine when absent; an empty one takes it back
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Shared CPUs promised for each there is, in percent, 800 when absent; an empty one takes it back
    #[arg(long, value_name = "PERCENT")]
    pub(crate) overcommit_cpu: Option<String>,
    /// Memory promised to machines with shared CPUs for what there is, in percent, 400 when absent; an empty one takes it back
    #[arg(long, value_name = "PERCENT")]
    pub(crate) overcommit_memory: Option<String>,
    /// Deploy this folder once the platform runs
    #[arg(long, value_name = "FOLDER")]
    pub(crate) deploy: Option<PathBuf>,
    /// The roost-shim program; the one beside roostd when absent; an empty one takes it back, as with the others below
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) shim: Option<PathBuf>,
    /// The roost-vm program; the one beside roostd when absent
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) vm: Option<PathBuf>,
    /// What VMs boot, as scripts/guest-kernel leaves it; the folder `guest` beside roostd when absent
    #[arg(long, value_name = "FOLDER", value_parser = path())]
    pub(crate) guest: Option<PathBuf>,
    /// QEMU; looked for where Debian's programs are when absent
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) qemu: Option<PathBuf>,
    /// Firecracker; looked for where Debian's programs are when absent
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) firecracker: Option<PathBuf>,
    /// Firecracker's jailer; looked for where Debian's programs are when absent
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) jailer: Option<PathBuf>,
}

/// Flags of `down`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DownArgs {
    /// Where everything is kept
    #[arg(long, env = "ROOST_DATA_DIR", default_value = "/var/lib/roost")]
    pub(crate) data_dir: PathBuf,
    /// Keep apps, images and logs on disk
    #[arg(long)]
    pub(crate) keep_data: bool,
}

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

/// A path that may be empty.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn isolation() -> impl TypedValueParser<Value = Isolation> {
    PossibleValuesParser::new(Isolation::WORDS).try_map(|word| Isolation::parse(&word))
}

fn duration(text: &str) -> Result<Duration, String> {
    roost_model::duration::parse_go_duration(text)
        .ok_or_else(|| "not a duration such as 90s, 5m or 1m30s".to_owned())
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("not NAME=VALUE".into()),
    }
}

/// Whole seconds, at least one.
fn seconds(text: &str) -> Result<u64, String> {
    let seconds = match text.parse() {
        Ok(seconds) => seconds,
        Err(_) => duration(text)?.as_secs(),
    };
    if seconds == 0 {
        return Err("less than a second".into());
    }
    Ok(seconds)
}

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

/// `machines …`.
#[derive(Debug, Subcommand)]
pub(crate) enum MachinesCommand {
    /// List the machines of an app
    #[command(
        visible_alias = "ls",
        before_help = "Examples:\n  roost machines list -a web"
    )]
    List,
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

/// Flags of `open`.
#[derive(Debug, Clone, Args)]
pub(crate) struct OpenArgs {
    /// Print the URL only
    #[arg(long)]
    pub(crate) print: bool,
}

/// Flags of `doctor`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// Where the platform of this host keeps its data
    #[arg(long, env = "ROOST_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
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
