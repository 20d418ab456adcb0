//! The command line of `roostd`.

use clap::{Args, Parser, Subcommand};
use roost_edge::EdgeRates;
use roost_model::placement::Overcommit;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// The node daemon of roost: owns machines, proxies traffic, serves the API.
///
/// `roost up` starts it in the background; a service manager runs it as `roostd run`.
#[derive(Debug, Parser)]
#[command(name = "roostd", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the node in the foreground until SIGTERM or SIGINT. Machines outlive it.
    Run(Box<RunArgs>),
    /// Checks what this host can do.
    Doctor(DoctorArgs),
    /// Stops the daemon and removes its machines, devices, rules, mounts and cgroups.
    Teardown(TeardownArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Everything the node keeps: databases, images, logs, keys.
    #[arg(long, default_value = "/var/lib/roost")]
    pub(crate) data_dir: PathBuf,
    /// Address the edge, the ports of apps and the API listen on; loopback only unless said
    /// otherwise.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) listen: IpAddr,
    /// Port of the REST API and the built-in registry.
    #[arg(long, default_value_t = 4280)]
    pub(crate) api_port: u16,
    /// Port of the edge for HTTP.
    #[arg(long, default_value_t = 8080)]
    pub(crate) http_port: u16,
    /// Port of the edge for HTTPS.
    #[arg(long, default_value_t = 8443)]
    pub(crate) https_port: u16,
    /// A domain under which each app answers as APP.DOMAIN; may be repeated.
    #[arg(long = "domain")]
    pub(crate) domains: Vec<String>,
    /// The node's public address: adds a domain that encodes it, and listens on every address.
    #[arg(long)]
    pub(crate) public_ip: Option<IpAddr>,
    /// The wildcard DNS zone that the name for --public-ip is made under.
    #[arg(long, default_value = "sslip.io")]
    pub(crate) wildcard_zone: String,
    /// Address where the worker answers other nodes, which show an identity of this cluster;
    /// nowhere when absent.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) worker_listen: Option<SocketAddr>,
    /// Address where the edge takes requests from edges of other nodes, which show an identity of
    /// this cluster; nowhere when absent.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) edge_peers_listen: Option<SocketAddr>,
    /// An edge of another node, whose machines this edge hands requests to; may be repeated. Needs
    /// --edge-peers-listen, and both nodes the same authority.
    #[arg(
        long = "edge-peer",
        value_name = "NODE=ADDRESS:PORT",
        requires = "edge_peers_listen"
    )]
    pub(crate) edge_peers: Vec<String>,
    /// A proxy in front of the edge, as an address or a network such as 10.0.0.0/8; may be
    /// repeated. Its connections have to begin with a header of the PROXY protocol, which says
    /// who the client is.
    #[arg(long = "proxy", value_name = "NETWORK")]
    pub(crate) proxies: Vec<String>,
    /// An address of this host that an app may have for itself (`roost ips allocate-v4`); may be
    /// repeated. It is not one of --listen.
    #[arg(long = "edge-address", value_name = "ADDRESS")]
    pub(crate) edge_addresses: Vec<String>,
    /// What one client and one app may ask of the edge.
    #[command(flatten)]
    pub(crate) rates: RateArgs,
    /// Requests that the edge's access log has, besides failures: a percentage such as 1%, `full`,
    /// or `off` for no log at all.
    #[arg(long, value_name = "SHARE", default_value = "1%")]
    pub(crate) access_log: String,
    /// The region of this node.
    #[arg(long, default_value = "local")]
    pub(crate) region: String,
    /// What the node is to a placement.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// The container runtime: `library`, or the path of an OCI runtime such as /usr/sbin/runc.
    #[arg(long, default_value = "library")]
    pub(crate) runtime: String,
    /// The shim program; beside roostd when absent.
    #[arg(long)]
    pub(crate) shim: Option<PathBuf>,
    /// The file server for static sites; beside roostd when absent.
    #[arg(long)]
    pub(crate) serve: Option<PathBuf>,
    /// The program that holds a VM; beside roostd when absent.
    #[arg(long)]
    pub(crate) vm: Option<PathBuf>,
    /// What VMs are run with.
    #[command(flatten)]
    pub(crate) vms: VmArgs,
    /// Registries (HOST or HOST:PORT) that are spoken to in plain HTTP; loopback always is.
    #[arg(long = "insecure-registry")]
    pub(crate) insecure_registries: Vec<String>,
    /// Most bytes of images kept, such as 20GiB; what machines and releases need is always kept.
    #[arg(long, default_value = "20GiB")]
    pub(crate) images_max: String,
    /// Who issues certificates for custom host names.
    #[command(flatten)]
    pub(crate) acme: AcmeArgs,
    /// Take over from the roostd that runs with this data directory, if one does: its listening
    /// sockets, then its machines. It finishes its connections and ends.
    #[arg(long)]
    pub(crate) take_over: bool,
    /// How long connections may go on once another roostd has taken over from this one.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub(crate) drain_timeout: String,
    /// How long machines with `auto_stop_machines` have less traffic than they could take before
    /// those that are too many are stopped or suspended.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub(crate) autostop_after: String,
    /// Log filter, such as `info` or `roost_edge=debug,info`.
    #[arg(long, default_value = "info")]
    pub(crate) log: String,
    /// Write the log as JSON lines.
    #[arg(long)]
    pub(crate) log_json: bool,
}

/// What the node is to a placement.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeArgs {
    /// What this node fails together with, such as a rack; by itself when absent.
    #[arg(long)]
    pub(crate) zone: Option<String>,
    /// A label NAME=VALUE that machines may ask for; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Take no new machines.
    #[arg(long)]
    pub(crate) cordon: bool,
    /// Memory for machines, such as 8GiB; that of the host when absent.
    #[arg(long)]
    pub(crate) memory: Option<String>,
    /// Shared CPUs promised for each there is, in percent; 16 of them are a core.
    #[arg(long, value_name = "PERCENT", default_value_t = Overcommit::DEFAULT.cpu_percent())]
    pub(crate) overcommit_cpu: u32,
    /// Memory promised to machines with shared CPUs for what there is, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = Overcommit::DEFAULT.memory_percent())]
    pub(crate) overcommit_memory: u32,
}

/// What one client and one app may ask of the edge; 0 is no bound.
#[derive(Debug, Clone, Args)]
pub(crate) struct RateArgs {
    /// Connections of one client (an IPv4 address, or an IPv6 /64) at once.
    #[arg(long, value_name = "N", default_value_t = EdgeRates::default().client_connections)]
    client_connections: usize,
    /// Requests of one client a second.
    #[arg(long, value_name = "N", default_value_t = EdgeRates::default().client_requests)]
    client_requests: u32,
    /// TLS handshakes of one client a second.
    #[arg(long, value_name = "N", default_value_t = EdgeRates::default().client_handshakes)]
    client_handshakes: u32,
    /// Requests to one app a second.
    #[arg(long, value_name = "N", default_value_t = EdgeRates::default().app_requests)]
    app_requests: u32,
    /// TLS handshakes with the names of one app a second.
    #[arg(long, value_name = "N", default_value_t = EdgeRates::default().app_handshakes)]
    app_handshakes: u32,
    /// Requests, WebSockets, raw connections and flows of datagrams of one app at once.
    #[arg(long, value_name = "N", default_value_t = EdgeRates::default().app_open)]
    app_open: usize,
}

impl From<&RateArgs> for EdgeRates {
    fn from(args: &RateArgs) -> Self {
        Self {
            client_connections: args.client_connections,
            client_requests: args.client_requests,
            client_handshakes: args.client_handshakes,
            app_requests: args.app_requests,
            app_handshakes: args.app_handshakes,
            app_open: args.app_open,
        }
    }
}

/// Who issues certificates for custom host names.
#[derive(Debug, Clone, Args)]
pub(crate) struct AcmeArgs {
    /// URL of the directory of an authority that speaks ACME; to give it is to agree to its terms.
    #[arg(long, value_name = "URL")]
    pub(crate) acme_directory: Option<String>,
    /// Whom that authority may write to.
    #[arg(long, value_name = "ADDRESS", requires = "acme_directory")]
    pub(crate) acme_email: Option<String>,
    /// A file with more roots (PEM) that the authority's own HTTPS may be of.
    #[arg(long, value_name = "FILE", requires = "acme_directory")]
    pub(crate) acme_root: Option<PathBuf>,
}

/// What VMs are run with.
#[derive(Debug, Clone, Args)]
pub(crate) struct VmArgs {
    /// Directory of what VMs boot, as scripts/guest-kernel leaves it; beside roostd when absent.
    #[arg(long)]
    pub(crate) guest: Option<PathBuf>,
    /// QEMU; looked for in the usual places when absent.
    #[arg(long)]
    pub(crate) qemu: Option<PathBuf>,
    /// Firecracker; looked for in the usual places when absent.
    #[arg(long)]
    pub(crate) firecracker: Option<PathBuf>,
    /// Firecracker's jailer; looked for in the usual places when absent.
    #[arg(long)]
    pub(crate) jailer: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// The data directory whose disk is looked at.
    #[arg(long, default_value = "/var/lib/roost")]
    pub(crate) data_dir: PathBuf,
    /// Ports that must be free, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub(crate) ports: Vec<u16>,
    /// What VMs would be run with.
    #[command(flatten)]
    pub(crate) vms: VmArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TeardownArgs {
    /// The data directory of the node.
    #[arg(long, default_value = "/var/lib/roost")]
    pub(crate) data_dir: PathBuf,
    /// Keep the data directory: databases, images and logs.
    #[arg(long)]
    pub(crate) keep_data: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
