//! Flags of `up`, `down` and `doctor`: the platform of this host.

use super::values::path;
use clap::Args;
use std::path::PathBuf;

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
    /// A proxy in front of the edge, an address or a network such as 10.0.0.0/8, that says who its clients are by the PROXY protocol; may be repeated, an empty one takes them back
    #[arg(long = "proxy", value_name = "NETWORK")]
    pub(crate) proxies: Vec<String>,
    /// An address of this machine that an app may have for itself (`roost ips allocate-v4`); may be repeated, an empty one takes them back
    #[arg(long = "edge-address", value_name = "ADDRESS")]
    pub(crate) edge_addresses: Vec<String>,
    /// Address and port where the edge takes requests from edges of other nodes; an empty one takes it back
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) edge_peers_listen: Option<String>,
    /// An edge of another node, whose machines this edge hands requests to; needs --edge-peers-listen, may be repeated, an empty one takes them back
    #[arg(long = "edge-peer", value_name = "NODE=ADDRESS:PORT")]
    pub(crate) edge_peers: Vec<String>,
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
    /// Who issues certificates for custom host names: the directory of an ACME authority, to whose terms you agree; an empty one takes it back
    #[arg(long, value_name = "URL")]
    pub(crate) acme_directory: Option<String>,
    /// Whom that authority may write to; an empty one takes it back
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) acme_email: Option<String>,
    /// More roots (PEM) that the authority's own HTTPS may be of; an empty one takes it back
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) acme_root: Option<PathBuf>,
    /// Replace the roostd that runs, by this version and with these options; no request fails
    #[arg(long)]
    pub(crate) restart: bool,
    /// Requests that the edge's access log has besides failures: a percentage, 1% when absent, `full`, or `off` for no log; an empty one takes it back
    #[arg(long, value_name = "SHARE")]
    pub(crate) access_log: Option<String>,
    /// How long connections may go on in a roostd that was replaced, such as 10m
    #[arg(long, value_name = "DURATION")]
    pub(crate) drain_timeout: Option<String>,
    /// How long machines with `auto_stop_machines` are without traffic before they sleep, such as 5m
    #[arg(long, value_name = "DURATION")]
    pub(crate) autostop_after: Option<String>,
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

/// Flags of `doctor`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// Where the platform of this host keeps its data
    #[arg(long, env = "ROOST_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}
