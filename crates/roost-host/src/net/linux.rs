//! The plumber of a Linux host.

use super::addresses::{ExistingRoute, GATEWAY_LINK_LOCAL, NodeNetwork, hardware_address_of};
use super::firewall::{self, Sources};
use super::netlink::{Link, Netlink, Netns, OnLink as _, is_same_namespace, run_in};
use super::{MTU, PacketPlumber, PlumbError, app_routes, edge_routes, sysctl};
use crate::driver::MachineAddresses;
use crate::instance::InstanceTag;
use async_trait::async_trait;
use roost_model::id::MachineId;
use roost_runtime::points;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// The machine's end of its link.
const MACHINE_LINK: &str = "eth0";

/// What a plumber is told about its node.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The instance.
    pub tag: InstanceTag,
    /// The node's networks.
    pub network: NodeNetwork,
    /// Where changed kernel settings are recorded: [`sysctl::DEFAULT_RECORD`].
    pub sysctl_record: PathBuf,
}

/// Plumbs by netlink and nftables.
#[derive(Debug)]
pub struct LinuxPlumber {
    config: NetConfig,
    /// The addresses that the firewall lets each link use. Held across a
    /// change of the firewall, so that a whole replacement loses no element.
    sources: tokio::sync::Mutex<Sources>,
}

/// The destinations that this host has routes to, for [`NodeNetwork::choose`].
pub async fn existing_routes() -> Result<Vec<ExistingRoute>, PlumbError> {
    let routes = run_in(Netns::Own, async |netlink: Netlink| netlink.routes().await).await?;
    Ok(routes
        .iter()
        .map(|route| ExistingRoute {
            address: route.destination,
            prefix: route.prefix,
        })
        .collect())
}

impl LinuxPlumber {
    /// A plumber; does nothing to the host yet.
    pub fn new(config: NetConfig) -> Self {
        Self {
            config,
            sources: tokio::sync::Mutex::default(),
        }
    }

    async fn own_links(&self) -> Result<Vec<Link>, PlumbError> {
        let prefix = self.config.tag.interface_prefix();
        run_in(Netns::Own, async move |netlink: Netlink| {
            netlink.links(&prefix).await
        })
        .await
    }

    async fn lock_sysctl(&self) -> Result<sysctl::SysctlLock, PlumbError> {
        let record = self.config.sysctl_record.clone();
        blocking(move || sysctl::lock(&record)).await
    }

    async fn plumb(&self, plan: LinkPlan) -> Result<(), PlumbError> {
        let host_plan = plan.clone();
        run_in(Netns::Own, async move |netlink: Netlink| {
            make_host_end(&netlink, &host_plan).await
        })
        .await?;
        points::pass("link-host-end-made");
        let pid = plan.netns_pid;
        run_in(Netns::OfProcess(pid), async move |netlink: Netlink| {
            set_machine_end(&netlink, &plan).await
        })
        .await
    }

    async fn delete_link(&self, name: String) -> Result<(), PlumbError> {
        run_in(Netns::Own, async move |netlink: Netlink| {
            match netlink.link(&name).await? {
                Some(link) => netlink.delete_link(&link).await,
                None => Ok(()),
            }
        })
        .await
    }

    /// Takes the link and its firewall entries away.
    async fn unplumb(&self, name: &str) -> Result<(), PlumbError> {
        points::pass("before-link-removal");
        self.delete_link(name.to_owned()).await?;
        points::pass("link-removed");
        let mut sources = self.sources.lock().await;
        if let Some(addresses) = sources.get(name).copied() {
            firewall::forbid_source(self.config.tag, name, addresses).await?;
            sources.remove(name);
            points::pass("address-forbidden");
        }
        Ok(())
    }
}

#[async_trait]
impl PacketPlumber for LinuxPlumber {
    async fn ensure_node(&self) -> Result<(), PlumbError> {
        let lock = self.lock_sysctl().await?;
        let prefix = self.config.tag.interface_prefix();
        let mut sources = self.sources.lock().await;
        // The kernel is the record of what is attached: an earlier process may have done it.
        *sources = run_in(Netns::Own, async move |netlink: Netlink| {
            read_sources(&netlink, &prefix).await
        })
        .await?;
        firewall::replace_table(self.config.tag, &self.config.network, &sources).await?;
        let (tag, network) = (self.config.tag, self.config.network);
        run_in(Netns::Own, async move |netlink: Netlink| {
            edge_routes::ensure(&netlink, tag, network).await?;
            app_routes::ensure(&netlink, network).await
        })
        .await?;
        // Only behind the firewall: nothing is routed before its rules are there.
        blocking(move || lock.ensure_forwarding()).await
    }

    async fn admit(&self, id: &MachineId, addresses: MachineAddresses) -> Result<(), PlumbError> {
        let name = self.config.tag.interface_name(id);
        let mut sources = self.sources.lock().await;
        match sources.get(&name).copied() {
            Some(old) if old == addresses => return Ok(()),
            Some(old) => firewall::forbid_source(self.config.tag, &name, old).await?,
            None => {}
        }
        // Noted first: what may have been done is undone by `detach`.
        sources.insert(name.clone(), addresses);
        firewall::allow_source(self.config.tag, &name, addresses).await?;
        points::pass("address-allowed");
        Ok(())
    }

    async fn attach(
        &self,
        id: &MachineId,
        addresses: MachineAddresses,
        netns_pid: u32,
    ) -> Result<(), PlumbError> {
        self.admit(id, addresses).await?;
        let name = self.config.tag.interface_name(id);
        let plan = LinkPlan {
            name: name.clone(),
            machine: id.to_string(),
            network: self.config.network,
            addresses,
            netns_pid,
        };
        let result = self.plumb(plan).await;
        let is_foreign = matches!(result, Err(PlumbError::NameTaken { .. }));
        if result.is_err()
            && !is_foreign
            && let Err(error) = self.unplumb(&name).await
        {
            tracing::warn!(machine_id = %id, error = &error as &dyn std::error::Error, "undo attach");
        }
        result
    }

    async fn detach(&self, id: &MachineId) -> Result<(), PlumbError> {
        self.unplumb(&self.config.tag.interface_name(id)).await
    }

    async fn attached(&self) -> Result<Vec<MachineId>, PlumbError> {
        let links = self.own_links().await?;
        let ids = links
            .into_iter()
            .filter_map(|link| MachineId::parse(&link.alias?).ok());
        Ok(ids.collect())
    }

    async fn remove_node(&self) -> Result<(), PlumbError> {
        remove_instance(self.config.tag, &self.config.sysctl_record).await?;
        self.sources.lock().await.clear();
        Ok(())
    }
}

/// Removes the links and the table of an instance, and restores the kernel's
/// settings when it was the last one on the host. Returns the links' names.
pub async fn remove_instance(
    tag: InstanceTag,
    sysctl_record: &Path,
) -> Result<Vec<String>, PlumbError> {
    let record = sysctl_record.to_owned();
    let lock = blocking(move || sysctl::lock(&record)).await?;
    let prefix = tag.interface_prefix();
    let removed = run_in(Netns::Own, async move |netlink: Netlink| {
        let links = netlink.links(&prefix).await?;
        for link in &links {
            netlink.delete_link(link).await?;
        }
        edge_routes::remove(&netlink, tag).await?;
        app_routes::remove(&netlink, tag).await?;
        Ok(links.into_iter().map(|link| link.name).collect())
    })
    .await?;
    firewall::remove_table(tag).await?;
    if firewall::instance_tables().await?.is_empty() {
        blocking(move || lock.restore()).await?;
    }
    Ok(removed)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, roost_runtime::fs::FileError> + Send + 'static,
) -> Result<T, PlumbError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(PlumbError::Sysctl),
        Err(error) => {
            Err(std::io::Error::other(error)).on(|| "change kernel network settings".to_owned())
        }
    }
}

/// All that is needed to make one machine's link.
#[derive(Debug, Clone)]
struct LinkPlan {
    name: String,
    machine: String,
    network: NodeNetwork,
    addresses: MachineAddresses,
    netns_pid: u32,
}

pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf").exists()
}

/// Settings of a link of the calling thread's namespace: no waiting for
/// duplicate addresses, no address or route from anybody's advertisement, and
/// a link-local address that follows from the hardware address.
fn quiet_ipv6(name: &str) -> Result<(), PlumbError> {
    for setting in [
        "accept_dad",
        "accept_ra",
        "accept_redirects",
        "addr_gen_mode",
    ] {
        write_setting("ipv6", name, setting, "0")?;
    }
    Ok(())
}

/// Settings of the host's end. With `rp_filter` the host learns no neighbour
/// from a request with a false sender: its table of neighbours is one for all
/// machines. With `arp_ignore` it does not say which other addresses it has.
fn distrust_ipv4(name: &str) -> Result<(), PlumbError> {
    let settings = [
        ("rp_filter", "1"),
        ("arp_ignore", "1"),
        ("accept_redirects", "0"),
        ("send_redirects", "0"),
    ];
    for (setting, value) in settings {
        write_setting("ipv4", name, setting, value)?;
    }
    Ok(())
}

/// Changes a setting of a link of the calling thread's namespace.
pub(super) fn write_setting(
    family: &str,
    name: &str,
    setting: &str,
    value: &str,
) -> Result<(), PlumbError> {
    let path = format!("/proc/sys/net/{family}/conf/{name}/{setting}");
    std::fs::write(&path, value).on(|| format!("write {path}"))
}

async fn make_host_end(netlink: &Netlink, plan: &LinkPlan) -> Result<(), PlumbError> {
    let LinkPlan {
        name,
        netns_pid,
        addresses,
        network,
        ..
    } = plan;
    let netns = format!("/proc/{netns_pid}/ns/net");
    let is_host = is_same_namespace(Path::new(&netns))
        .on(|| format!("look at the network namespace of process {netns_pid}"))?;
    if is_host {
        return Err(PlumbError::NotIsolated(*netns_pid));
    }
    if let Some(old) = netlink.link(name).await? {
        let owner = old.alias.clone().unwrap_or_default();
        if owner != plan.machine {
            return Err(PlumbError::NameTaken {
                name: name.clone(),
                owner,
            });
        }
        // Of an earlier run of the same machine.
        netlink.delete_link(&old).await?;
    }
    create_pair(netlink, plan).await?;
    points::pass("link-made");
    let link = netlink.expect_link(name).await?;
    let alias = LinkUnspec::new_with_index(link.index);
    netlink
        .change_link(alias.alias(plan.machine.as_str()).build(), name)
        .await?;
    points::pass("link-named");
    distrust_ipv4(name)?;
    netlink
        .add_address(&link, IpAddr::V4(network.gateway_ipv4()), 32)
        .await?;
    if has_ipv6() {
        quiet_ipv6(name)?;
        netlink
            .add_address(&link, IpAddr::V6(network.gateway_ipv6()), 128)
            .await?;
        netlink
            .add_address(&link, IpAddr::V6(GATEWAY_LINK_LOCAL), 64)
            .await?;
    }
    points::pass("link-has-its-addresses");
    let up = LinkUnspec::new_with_index(link.index).up().build();
    netlink.change_link(up, name).await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(addresses.ipv4, 32)
        .output_interface(link.index)
        .pref_source(network.gateway_ipv4())
        .scope(rtnetlink::packet_route::route::RouteScope::Link)
        .protocol(RouteProtocol::Static);
    netlink
        .add_route(route.build(), "the IPv4 route to the machine")
        .await?;
    points::pass("route-to-the-machine-made");
    if has_ipv6() {
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(addresses.ipv6, 128)
            .output_interface(link.index)
            .pref_source(network.gateway_ipv6())
            .protocol(RouteProtocol::Static);
        netlink
            .add_route(route.build(), "the IPv6 route to the machine")
            .await?;
    }
    Ok(())
}

/// The peer is born in the machine's namespace, under its name there.
async fn create_pair(netlink: &Netlink, plan: &LinkPlan) -> Result<(), PlumbError> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(MACHINE_LINK)
        .address(hardware_address_of(plan.addresses.ipv4).to_vec())
        .mtu(MTU)
        .setns_by_pid(plan.netns_pid)
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(plan.name.as_str())
        .mtu(MTU)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    netlink
        .handle
        .link()
        .add(pair)
        .execute()
        .await
        .on(|| format!("create link {}", plan.name))
}

/// Runs in the machine's network namespace.
async fn set_machine_end(netlink: &Netlink, plan: &LinkPlan) -> Result<(), PlumbError> {
    let LinkPlan {
        addresses, network, ..
    } = plan;
    let loopback = netlink.expect_link("lo").await?;
    let up = LinkUnspec::new_with_index(loopback.index).up().build();
    netlink.change_link(up, "lo").await?;
    let link = netlink.expect_link(MACHINE_LINK).await?;
    netlink
        .add_address(&link, IpAddr::V4(addresses.ipv4), 32)
        .await?;
    if has_ipv6() {
        quiet_ipv6(MACHINE_LINK)?;
        netlink
            .add_address(&link, IpAddr::V6(addresses.ipv6), 128)
            .await?;
    }
    let up = LinkUnspec::new_with_index(link.index).up().build();
    netlink.change_link(up, MACHINE_LINK).await?;
    points::pass("machine-link-up");
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(network.gateway_ipv4())
        .output_interface(link.index)
        .onlink();
    netlink
        .add_route(route.build(), "the machine's IPv4 default route")
        .await?;
    if has_ipv6() {
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .gateway(GATEWAY_LINK_LOCAL)
            .output_interface(link.index)
            .onlink();
        netlink
            .add_route(route.build(), "the machine's IPv6 default route")
            .await?;
    }
    Ok(())
}

/// The addresses of attached machines, from the host's routes to them.
async fn read_sources(netlink: &Netlink, prefix: &str) -> Result<Sources, PlumbError> {
    let routes = netlink.routes().await?;
    let mut sources = Sources::new();
    for link in netlink.links(prefix).await? {
        let mut ipv4 = None;
        let mut ipv6 = None;
        for route in routes
            .iter()
            .filter(|route| route.is_static && route.link_index == Some(link.index))
        {
            match route.destination {
                IpAddr::V4(address) => ipv4 = Some(address),
                IpAddr::V6(address) => ipv6 = Some(address),
            }
        }
        if let Some(ipv4) = ipv4 {
            let ipv6 = ipv6.unwrap_or(Ipv6Addr::UNSPECIFIED);
            sources.insert(link.name, MachineAddresses { ipv4, ipv6 });
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests;
