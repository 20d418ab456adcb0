//! The configuration of a node: checked and complete, every fault at once.

mod addresses;
mod node;

use crate::args::{AcmeArgs, RunArgs, VmArgs};
use anyhow::{Context as _, Result, bail};
use roost_certs::acme::AcmeSettings;
use roost_edge::{EdgeRates, Network};
use roost_host::instance::InstanceTag;
use roost_model::duration::parse_go_duration;
use roost_model::id::NodeId;
use roost_model::name::RegionCode;
use roost_model::size::ByteSize;
use roost_observe::access::AccessShare;
use roost_proto::traffic::PeerNode;
use roost_worker::NodeProfile;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Less would stop machines before a deployment has seen that they are healthy.
const AUTOSTOP_AFTER_MIN: Duration = Duration::from_secs(1);

/// What a node runs with.
#[derive(Debug, Clone)]
pub(crate) struct NodeConfig {
    pub(crate) paths: NodePaths,
    pub(crate) tag: InstanceTag,
    pub(crate) region: RegionCode,
    pub(crate) api: Vec<SocketAddr>,
    pub(crate) http: Vec<SocketAddr>,
    pub(crate) https: Vec<SocketAddr>,
    /// Proxies in front of the edge that say who the client is.
    pub(crate) proxies: Vec<Network>,
    pub(crate) rates: EdgeRates,
    /// Which requests the access log has.
    pub(crate) access_log: AccessShare,
    /// Where the worker answers other nodes.
    pub(crate) worker: Option<SocketAddr>,
    /// Where the edge answers edges of other nodes.
    pub(crate) edge_peers_listen: Option<SocketAddr>,
    /// Edges of other nodes.
    pub(crate) edge_peers: Vec<PeerNode>,
    /// Best first: the first one is shown to users.
    pub(crate) domains: Vec<String>,
    pub(crate) runtime: RuntimeChoice,
    pub(crate) shim: PathBuf,
    pub(crate) serve: PathBuf,
    /// The program that holds a VM.
    pub(crate) vm: PathBuf,
    /// What guests boot: a kernel, its modules and `roost-init`.
    pub(crate) guest: PathBuf,
    /// QEMU, Firecracker and its jailer; where absent they are looked for.
    pub(crate) qemu: Option<PathBuf>,
    pub(crate) firecracker: Option<PathBuf>,
    pub(crate) jailer: Option<PathBuf>,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) images_max: ByteSize,
    /// Who issues certificates for custom host names.
    pub(crate) acme: Option<AcmeSettings>,
    /// Addresses of the host that apps may have for themselves.
    pub(crate) edge_addresses: Vec<IpAddr>,
    /// Where the edge is reached from outside, as far as that is known.
    pub(crate) public_ips: Vec<IpAddr>,
    pub(crate) node: NodeProfile,
    /// Take the place of the daemon that runs, if one does.
    pub(crate) take_over: bool,
    /// How long connections may go on once another daemon has taken over.
    pub(crate) drain_timeout: Duration,
    /// How long machines are without traffic before they are put to sleep.
    pub(crate) autostop_after: Duration,
}

/// Which container runtime starts machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RuntimeChoice {
    /// The library inside the shim.
    Library,
    /// An OCI runtime program.
    External(PathBuf),
}

/// Where a node keeps what.
#[derive(Debug, Clone)]
pub(crate) struct NodePaths {
    /// The data directory itself, absolute.
    pub(crate) data: PathBuf,
    /// Sockets and records of what runs; empty after a reboot.
    pub(crate) run: PathBuf,
}

impl NodePaths {
    /// The paths of the node with this data directory, which is made if missing.
    pub(crate) fn of(data_dir: &Path) -> Result<(Self, InstanceTag)> {
        roost_runtime::fs::ensure_dir(data_dir)?;
        let data = std::fs::canonicalize(data_dir)
            .with_context(|| format!("resolve the data directory {}", data_dir.display()))?;
        let tag = InstanceTag::of_data_dir(&data);
        // Not under the data directory: socket paths have at most 107 bytes.
        let run = PathBuf::from(format!("/run/roost-{tag}"));
        Ok((Self { data, run }, tag))
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.data.join("images")
    }
    pub(crate) fn machines(&self) -> PathBuf {
        self.data.join("machines")
    }
    pub(crate) fn kernels(&self) -> PathBuf {
        self.data.join("kernels")
    }
    pub(crate) fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }
    /// The access log of the edge.
    pub(crate) fn access(&self) -> PathBuf {
        self.data.join("access")
    }
    pub(crate) fn builds(&self) -> PathBuf {
        self.data.join("builds")
    }
    pub(crate) fn authority(&self) -> PathBuf {
        self.data.join("ca")
    }
    pub(crate) fn cluster(&self) -> PathBuf {
        self.data.join("cluster")
    }
    pub(crate) fn session_tickets(&self) -> PathBuf {
        self.cluster().join("tickets")
    }
    pub(crate) fn sealing_key(&self) -> PathBuf {
        self.data.join("sealing.key")
    }
    pub(crate) fn control_db(&self) -> PathBuf {
        self.data.join("control.db")
    }
    pub(crate) fn worker_db(&self) -> PathBuf {
        self.data.join("worker.db")
    }
    pub(crate) fn admin_token(&self) -> PathBuf {
        self.data.join("admin-token")
    }
    pub(crate) fn network(&self) -> PathBuf {
        self.data.join("network.json")
    }
    pub(crate) fn node_id(&self) -> PathBuf {
        self.data.join("node-id")
    }
    pub(crate) fn pid(&self) -> PathBuf {
        self.data.join("roostd.pid")
    }
    pub(crate) fn lock(&self) -> PathBuf {
        self.data.join("roostd.lock")
    }
    /// The lock of a daemon that another one took over from, with its process id.
    pub(crate) fn leaving(&self) -> PathBuf {
        self.data.join("roostd.leaving")
    }
    /// Where a new daemon asks the one that runs for its place.
    pub(crate) fn takeover(&self) -> PathBuf {
        self.run.join("takeover.sock")
    }
    pub(crate) fn facts(&self) -> PathBuf {
        self.data.join("roostd.json")
    }
}

impl NodeConfig {
    /// The port of the API and the built-in registry.
    pub(crate) fn api_port(&self) -> u16 {
        self.api.first().map_or(0, SocketAddr::port)
    }

    /// Checks the command line and fills in what it leaves open.
    pub(crate) fn from_args(args: &RunArgs) -> Result<Self> {
        let (paths, tag) = NodePaths::of(&args.data_dir)?;
        let mut faults = Vec::new();
        let domains = domains(args, &mut faults);
        let proxies = proxies(&args.proxies, &mut faults);
        let edge_peers = edge_peers(&args.edge_peers, &mut faults);
        let listen = edge_ip(args);
        let http = addresses(listen, args.http_port);
        let edge_addresses = addresses::edge_addresses(&args.edge_addresses, &http, &mut faults);
        let region = RegionCode::parse(&args.region)
            .map_err(|error| faults.push(error.to_string()))
            .ok();
        let images_max = images_max(&args.images_max, &mut faults);
        let runtime = match args.runtime.as_str() {
            "library" => RuntimeChoice::Library,
            path => RuntimeChoice::External(find_program(path, "--runtime", &mut faults)),
        };
        let shim = sibling(args.shim.as_deref(), "roost-shim", "--shim", &mut faults)?;
        let serve = sibling(args.serve.as_deref(), "roost-serve", "--serve", &mut faults)?;
        let vm = sibling(args.vm.as_deref(), "roost-vm", "--vm", &mut faults)?;
        let guest = guest_dir(&args.vms)?;
        let mut program = |path: &Option<PathBuf>, flag| {
            let path = path.as_ref()?;
            Some(find_program(&path.to_string_lossy(), flag, &mut faults))
        };
        let qemu = program(&args.vms.qemu, "--qemu");
        let firecracker = program(&args.vms.firecracker, "--firecracker");
        let jailer = program(&args.vms.jailer, "--jailer");
        let acme = acme(&args.acme, &mut faults);
        let drain_timeout = duration(("--drain-timeout", &args.drain_timeout), &mut faults);
        let autostop_after = autostop_after(&args.autostop_after, &mut faults);
        let access_log = access_share(&args.access_log, &mut faults);
        let node = node::profile(&args.node, &paths, &mut faults)?;
        let (Some(region), Some(images_max), Some(node), true) =
            (region, images_max, node, faults.is_empty())
        else {
            bail!("the configuration has faults:\n  {}", faults.join("\n  "));
        };
        Ok(Self {
            paths,
            tag,
            region,
            api: addresses(args.listen, args.api_port),
            http,
            https: addresses(listen, args.https_port),
            proxies,
            rates: (&args.rates).into(),
            access_log,
            worker: args.worker_listen,
            edge_peers_listen: args.edge_peers_listen,
            edge_peers,
            domains,
            runtime,
            shim,
            serve,
            vm,
            guest,
            qemu,
            firecracker,
            jailer,
            insecure_registries: args.insecure_registries.clone(),
            images_max,
            acme,
            public_ips: public_ips(args, listen),
            edge_addresses,
            node,
            take_over: args.take_over,
            drain_timeout,
            autostop_after,
        })
    }
}

/// Where the edge listens: on every address once it has a public one.
fn edge_ip(args: &RunArgs) -> IpAddr {
    match args.public_ip {
        Some(_) if args.listen.is_loopback() => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => args.listen,
    }
}

/// The addresses by which the world reaches the edge for all apps, as far as they are known.
fn public_ips(args: &RunArgs, listen: IpAddr) -> Vec<IpAddr> {
    let shared = [args.public_ip.unwrap_or(listen)].into_iter();
    shared
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
        .collect()
}

/// The domains of apps, best first.
fn domains(args: &RunArgs, faults: &mut Vec<String>) -> Vec<String> {
    let mut domains = Vec::new();
    for domain in &args.domains {
        match check_domain(domain) {
            Ok(domain) => domains.push(domain),
            Err(problem) => faults.push(problem),
        }
    }
    if let Some(ip) = args.public_ip {
        domains.push(encoded_name(ip, &args.wildcard_zone));
    }
    domains.push("localhost".into());
    domains
}

fn proxies(texts: &[String], faults: &mut Vec<String>) -> Vec<Network> {
    let mut proxies = Vec::new();
    for text in texts {
        match Network::parse(text) {
            Some(network) => proxies.push(network),
            None => faults.push(format!(
                "--proxy `{text}` is not an address or a network such as 10.0.0.0/8"
            )),
        }
    }
    proxies
}

fn images_max(text: &str, faults: &mut Vec<String>) -> Option<ByteSize> {
    let size = ByteSize::parse(text);
    if size.is_none() {
        let fault = format!("--images-max `{text}` is not a size such as 20GiB");
        faults.push(fault);
    }
    size
}

fn edge_peers(texts: &[String], faults: &mut Vec<String>) -> Vec<PeerNode> {
    let peer = |text: &String| {
        let (id, edge) = text.split_once('=')?;
        let (id, edge) = (NodeId::parse(id).ok()?, edge.parse().ok()?);
        Some(PeerNode { id, edge })
    };
    let mut peers = Vec::new();
    for text in texts {
        match peer(text) {
            Some(peer) => peers.push(peer),
            None => faults.push(format!(
                "--edge-peer `{text}` is not a node's id, `=`, an address and a port"
            )),
        }
    }
    peers
}

fn duration((flag, text): (&str, &str), faults: &mut Vec<String>) -> Duration {
    parse_go_duration(text).unwrap_or_else(|| {
        faults.push(format!("{flag} `{text}` is not a duration such as 10m"));
        Duration::ZERO
    })
}

fn access_share(text: &str, faults: &mut Vec<String>) -> AccessShare {
    AccessShare::parse(text).unwrap_or_else(|| {
        let fault =
            format!("--access-log `{text}` is not `off`, `full` or a percentage such as 1%");
        faults.push(fault);
        AccessShare::Off
    })
}

fn autostop_after(text: &str, faults: &mut Vec<String>) -> Duration {
    let n_faults = faults.len();
    let after = duration(("--autostop-after", text), faults);
    if faults.len() == n_faults && after < AUTOSTOP_AFTER_MIN {
        faults.push(format!("--autostop-after `{text}` is less than a second"));
    }
    after
}

/// The directory of what VMs boot.
pub(crate) fn guest_dir(args: &VmArgs) -> Result<PathBuf> {
    match &args.guest {
        Some(dir) => Ok(dir.clone()),
        None => beside("guest"),
    }
}

/// IPv4 loopback brings IPv6 loopback with it, since browsers resolve `*.localhost` to both.
fn addresses(ip: IpAddr, port: u16) -> Vec<SocketAddr> {
    let mut addresses = vec![SocketAddr::new(ip, port)];
    if ip == IpAddr::V4(Ipv4Addr::LOCALHOST) && port != 0 {
        addresses.push(SocketAddr::new(
            IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            port,
        ));
    }
    addresses
}

/// `203-0-113-7.ZONE`: a name that leads to the address without any set-up.
fn encoded_name(ip: IpAddr, zone: &str) -> String {
    let encoded = ip.to_string().replace(['.', ':'], "-");
    // An address that begins or ends with a colon would give a label that does so with a dash.
    let encoded = encoded.trim_matches('-').to_owned();
    format!("{encoded}.{}", zone.trim_matches('.'))
}

fn acme(args: &AcmeArgs, faults: &mut Vec<String>) -> Option<AcmeSettings> {
    let directory = args.acme_directory.clone()?;
    if !directory.starts_with("https://") {
        faults.push(format!(
            "--acme-directory `{directory}` is not an https URL"
        ));
    }
    if let Some(root) = &args.acme_root
        && !root.is_file()
    {
        faults.push(format!("--acme-root `{}` is not a file", root.display()));
    }
    Some(AcmeSettings {
        directory,
        email: args.acme_email.clone(),
        root: args.acme_root.clone(),
    })
}

fn check_domain(domain: &str) -> Result<String, String> {
    let name = domain.trim_end_matches('.').to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 190 && name.split('.').all(is_label) {
        Ok(name)
    } else {
        Err(format!(
            "--domain `{domain}` is not a domain name such as apps.example.com"
        ))
    }
}

fn find_program(path: &str, flag: &str, faults: &mut Vec<String>) -> PathBuf {
    let path = PathBuf::from(path);
    if !path.is_absolute() || !path.exists() {
        faults.push(format!(
            "{flag} `{}` is not the absolute path of a program",
            path.display()
        ));
    }
    path
}

/// What lies beside this program under this name.
fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find out where roostd lies")?;
    Ok(own.with_file_name(name))
}

/// A program given by flag, or the one beside this program.
fn sibling(
    given: Option<&Path>,
    name: &str,
    flag: &str,
    faults: &mut Vec<String>,
) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(find_program(&path.to_string_lossy(), flag, faults));
    }
    let path = beside(name)?;
    if !path.exists() {
        faults.push(format!(
            "`{}` is missing; give its path with {flag}",
            path.display()
        ));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::{check_domain, encoded_name};

    #[test]
    fn the_name_of_an_address_encodes_it() {
        assert_eq!(
            encoded_name("203.0.113.7".parse().unwrap(), "sslip.io"),
            "203-0-113-7.sslip.io"
        );
        assert_eq!(
            encoded_name("2001:db8::1".parse().unwrap(), "sslip.io"),
            "2001-db8--1.sslip.io"
        );
    }

    #[test]
    fn domains_are_checked_and_lower_cased() {
        assert_eq!(
            check_domain("Apps.Example.COM.").as_deref(),
            Ok("apps.example.com")
        );
        for bad in ["", "a b", "-a.com", "a..b", "http://x"] {
            assert!(check_domain(bad).is_err(), "{bad}");
        }
    }
}
