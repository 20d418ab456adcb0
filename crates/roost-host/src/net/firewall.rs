//! The node's firewall: one nftables table of its own, replaced as a whole.
//!
//! Rules, for packets from and to machines of this instance:
//! - from a machine: only with the machine's own source addresses (per link);
//! - machine → host: only answers, neighbour discovery, echo requests, and TCP to the private
//!   addresses of apps, where a socket is bound to that very address, as the edge's are: not to
//!   programs that listen at every address of the host, which those are as well;
//! - to the private addresses of apps: from nobody but machines and the host itself;
//! - machine → machine: nothing, of whichever instance;
//! - outside → machine: only answers;
//! - an answer to a client in whose name the edge has sent datagrams: to the
//!   edge's socket, which is bound to the client's address (TPROXY's way: such
//!   packets get a mark, and marked ones a route to the host itself);
//! - machine → outside: yes, with the host's address (NAT) for IPv4 and IPv6;
//! - to an address of the node's network whose machine has gone: refused. Its
//!   route went with it, and the packet must not try its luck with the host's
//!   default route, where a stranger could answer in the machine's name.
//!
//! The host itself reaches its machines: that is how the edge does.
//!
//! A packet has to pass the tables of all programs on the host, so a drop
//! policy of another one (ufw, firewalld, Docker's `FORWARD`) still stops
//! machines from reaching the outside; no table can undo that. Traffic
//! between host and machines passes a drop policy on `input` when that table
//! accepts answers, as all common ones do; but the way to private addresses of
//! apps is open only if it accepts what comes by the machines' links.

use super::PlumbError;
use super::addresses::{APPS_PREFIX, IPV4_PREFIX, IPV6_PREFIX, NodeNetwork, link_local_of};
use crate::driver::MachineAddresses;
use crate::instance::{InstanceTag, NFT_TABLE_PREFIX};
use crate::process::{self, NFT, ProgramOutput};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// `nft` takes milliseconds; more than this means that it hangs.
const NFT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most flows of one machine to the outside at a time; a small host's table holds 65,536.
pub(crate) const FLOWS_MAX: u32 = 16_384;
/// Most links that flows are counted for: more than a node has addresses.
const LINKS_MAX: u32 = 65_535;
/// Where clouds give a host its credentials over IPv6 (EC2, Google).
const METADATA_IPV6: &str = "fd00:ec2::254, fd20:ce::254";

/// The addresses of machines by the name of their interface.
pub(crate) type Sources = BTreeMap<String, MachineAddresses>;

/// The whole table as `nft` reads it; replaces an older one in one step.
pub(crate) fn table_script(tag: InstanceTag, network: &NodeNetwork, sources: &Sources) -> String {
    let table = tag.nft_table();
    let links = format!("\"{}*\"", tag.interface_prefix());
    let (ipv4, ipv6, mark) = (network.ipv4, network.ipv6, tag.edge_mark());
    let (for_edge, to_host) = (for_edge(&links, mark), to_host(network, mark));
    let apps = network.apps_ipv6();
    let mut script = format!(
        "table inet {table} {{}}
delete table inet {table}
table inet {table} {{
  set sources4 {{ type ifname . ipv4_addr; }}
  set sources6 {{ type ifname . ipv6_addr; }}
  set flows {{ type ifname; flags dynamic; size {LINKS_MAX}; }}
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifname {links} jump from_machine
  }}
  chain from_machine {{
    icmp type redirect drop
    icmpv6 type nd-redirect drop
    iifname . ip saddr @sources4 accept
    iifname . ip6 saddr @sources6 accept
    ip6 saddr :: icmpv6 type nd-neighbor-solicit accept
    drop
  }}
{for_edge}  chain input {{
    type filter hook input priority filter; policy accept;
    iifname {links} jump to_host
    iifname != \"lo\" ip6 daddr {apps}/{APPS_PREFIX} drop
  }}
{to_host}  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname {links} oifname {links} drop
    iifname {links} ct direction reply drop
    iifname {links} ip daddr 169.254.0.0/16 meta l4proto {{ tcp, udp }} th dport 53 accept
    iifname {links} ip daddr 169.254.0.0/16 drop
    iifname {links} ip6 daddr {{ {METADATA_IPV6} }} drop
    iifname {links} ct state new add @flows {{ iifname ct count over {FLOWS_MAX} }} drop
    iifname {links} ip daddr {ipv4}/{IPV4_PREFIX} drop
    iifname {links} ip6 daddr {ipv6}/{IPV6_PREFIX} drop
    oifname {links} ct state established,related accept
    oifname {links} drop
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname {links} accept
    oifname \"lo\" accept
    ip daddr {ipv4}/{IPV4_PREFIX} reject with icmpx type host-unreachable
    ip6 daddr {ipv6}/{IPV6_PREFIX} reject with icmpx type host-unreachable
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {ipv4}/{IPV4_PREFIX} oifname != {links} masquerade
    ip6 saddr {ipv6}/{IPV6_PREFIX} oifname != {links} masquerade
  }}
}}
"
    );
    let element = |(name, addresses): (&String, &MachineAddresses)| {
        element_script(tag, "add", name, *addresses)
    };
    script.extend(sources.iter().map(element));
    script
}

/// Marks what is for a socket of the edge that is bound to a client's address. Sockets that
/// take packets for any address are of other programs.
fn for_edge(links: &str, mark: u32) -> String {
    format!(
        "  chain for_edge {{
    type filter hook prerouting priority mangle; policy accept;
    iifname {links} meta l4proto {{ udp, icmp, ipv6-icmp }} socket wildcard 0 socket transparent 1 meta mark set {mark}
  }}
"
    )
}

/// What machines may send to the host itself.
fn to_host(network: &NodeNetwork, mark: u32) -> String {
    let (gateway4, gateway6) = (network.gateway_ipv4(), network.gateway_ipv6());
    let apps = format!("ip6 daddr {}/{APPS_PREFIX}", network.apps_ipv6());
    format!(
        "  chain to_host {{
    ct state established,related accept
    meta mark {mark} accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    ip daddr {gateway4} icmp type echo-request accept
    ip6 daddr {{ {gateway6}, fe80::1 }} icmpv6 type echo-request accept
    {apps} meta l4proto tcp socket wildcard 0 accept
    {apps} meta l4proto tcp reject with tcp reset
    drop
  }}
"
    )
}

fn element_script(tag: InstanceTag, verb: &str, name: &str, addresses: MachineAddresses) -> String {
    let table = tag.nft_table();
    let MachineAddresses { ipv4, ipv6 } = addresses;
    let mut script = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        script,
        "{verb} element inet {table} sources4 {{ \"{name}\" . {ipv4} }}"
    );
    let link_local = link_local_of(ipv4);
    let _ = writeln!(
        script,
        "{verb} element inet {table} sources6 {{ \"{name}\" . {ipv6}, \"{name}\" . {link_local} }}"
    );
    script
}

async fn nft(
    operation: &'static str,
    args: &[&str],
    script: &str,
) -> Result<ProgramOutput, PlumbError> {
    process::run(NFT, args, script.as_bytes(), NFT_TIMEOUT)
        .await
        .map_err(|source| PlumbError::Firewall { operation, source })
}

pub(crate) async fn replace_table(
    tag: InstanceTag,
    network: &NodeNetwork,
    sources: &Sources,
) -> Result<(), PlumbError> {
    let script = table_script(tag, network, sources);
    nft("replace the firewall table", &["-f", "-"], &script)
        .await
        .map(drop)
}

pub(crate) async fn allow_source(
    tag: InstanceTag,
    name: &str,
    addresses: MachineAddresses,
) -> Result<(), PlumbError> {
    let script = element_script(tag, "add", name, addresses);
    nft("allow a machine's addresses", &["-f", "-"], &script)
        .await
        .map(drop)
}

pub(crate) async fn forbid_source(
    tag: InstanceTag,
    name: &str,
    addresses: MachineAddresses,
) -> Result<(), PlumbError> {
    // Adding first makes the deletion of a missing one succeed.
    let script = element_script(tag, "add", name, addresses)
        + &element_script(tag, "delete", name, addresses);
    nft("forbid a machine's addresses", &["-f", "-"], &script)
        .await
        .map(drop)
}

/// Removes the table; none is fine.
pub(crate) async fn remove_table(tag: InstanceTag) -> Result<(), PlumbError> {
    let table = tag.nft_table();
    let script = format!("table inet {table} {{}}\ndelete table inet {table}\n");
    nft("remove the firewall table", &["-f", "-"], &script)
        .await
        .map(drop)
}

/// The tables of all roost instances on this host.
pub(crate) async fn instance_tables() -> Result<Vec<String>, PlumbError> {
    let output = nft("list firewall tables", &["list", "tables"], "").await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix("table inet "));
    Ok(names
        .map(str::trim)
        .filter(|name| name.starts_with(NFT_TABLE_PREFIX))
        .map(str::to_owned)
        .collect())
}
