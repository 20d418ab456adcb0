//! Which addresses a node gives to its machines. Pure.

use crate::driver::MachineAddresses;
use crate::instance::InstanceTag;
use crate::net::MTU;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of the node's IPv4 prefix.
pub const IPV4_PREFIX: u8 = 20;
/// Length of the node's IPv6 prefix.
pub const IPV6_PREFIX: u8 = 64;
/// Length of the prefix of [`NodeNetwork::apps_ipv6`].
pub const APPS_PREFIX: u8 = 80;
/// How many machines a node has addresses for: all but network, gateway and broadcast.
pub const MACHINES_MAX: u16 = (1 << (32 - IPV4_PREFIX)) - 3;
/// The machines' IPv6 gateway: an address of the host's end of each link.
pub const GATEWAY_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Private IPv4 blocks that node networks are taken from, in order: address, prefix.
const IPV4_POOLS: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    // Shared address space (RFC 6598), where the others are taken.
    (Ipv4Addr::new(100, 64, 0, 0), 10),
];

/// The private networks of one node. Chosen once and kept by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNetwork {
    /// The first address of a /20.
    pub ipv4: Ipv4Addr,
    /// The first address of a /64.
    pub ipv6: Ipv6Addr,
}

/// A destination that the host already has a route to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExistingRoute {
    /// Its first address.
    pub address: IpAddr,
    /// The length of its prefix.
    pub prefix: u8,
}

/// How a guest with a kernel of its own is to use its link.
///
/// Its addresses are networks of one address each: it has no neighbours but
/// the gateways, and the default routes name them as on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestNetwork {
    /// Of its network card: that of the machine's link on the host's side.
    pub hardware_address: [u8; 6],
    /// Its own addresses, of prefixes 32 and 128.
    pub addresses: MachineAddresses,
    /// The next hop of its IPv4 default route.
    pub gateway_ipv4: Ipv4Addr,
    /// The next hop of its IPv6 default route.
    pub gateway_ipv6: Ipv6Addr,
    /// The longest packet on its link, in bytes.
    pub mtu: u32,
}

impl NodeNetwork {
    /// Networks that begin at a place given by the tag and overlap with no route.
    ///
    /// `None` when all private blocks are taken. Default routes overlap with nothing.
    pub fn choose(tag: InstanceTag, routes: &[ExistingRoute]) -> Option<Self> {
        Some(Self {
            ipv4: choose_ipv4(tag, routes)?,
            ipv6: choose_ipv6(tag, routes)?,
        })
    }

    /// The host's own address in the IPv4 network: the machines' gateway.
    pub fn gateway_ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.ipv4.to_bits() + 1)
    }

    /// The host's own address in the IPv6 network.
    pub fn gateway_ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.ipv6.to_bits() + 1)
    }

    /// The prefix of the addresses at which machines reach apps through the edge; no machine has
    /// one of them.
    pub fn apps_ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.ipv6.to_bits() + (1 << (128 - u32::from(APPS_PREFIX))))
    }

    /// The addresses of the machine at this position; `None` beyond [`MACHINES_MAX`].
    pub fn address(&self, machine_idx: u16) -> Option<MachineAddresses> {
        if machine_idx >= MACHINES_MAX {
            return None;
        }
        Some(MachineAddresses {
            ipv4: Ipv4Addr::from_bits(self.ipv4.to_bits() + 2 + u32::from(machine_idx)),
            ipv6: Ipv6Addr::from_bits(self.ipv6.to_bits() + 2 + u128::from(machine_idx)),
        })
    }

    /// What the guest of the machine with these addresses is told.
    pub fn guest(&self, addresses: MachineAddresses) -> GuestNetwork {
        GuestNetwork {
            hardware_address: hardware_address_of(addresses.ipv4),
            addresses,
            gateway_ipv4: self.gateway_ipv4(),
            gateway_ipv6: GATEWAY_LINK_LOCAL,
            mtu: MTU,
        }
    }
}

/// The hardware address of a machine: locally administered, from its IPv4 address.
pub(crate) fn hardware_address_of(ipv4: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ipv4.octets();
    [0x02, 0, a, b, c, d]
}

/// The link-local address that follows from [`hardware_address_of`] (RFC 4291, appendix A).
pub(crate) fn link_local_of(ipv4: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = ipv4.octets();
    let (a, b, c, d) = (u16::from(a), u16::from(b), u16::from(c), u16::from(d));
    let last = [a << 8 | 0xff, 0xfe00 | b, c << 8 | d];
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, last[0], last[1], last[2])
}

fn choose_ipv4(tag: InstanceTag, routes: &[ExistingRoute]) -> Option<Ipv4Addr> {
    for (pool, pool_prefix) in IPV4_POOLS {
        let n_blocks = 1_u32 << (IPV4_PREFIX - pool_prefix);
        for attempt in 0..n_blocks {
            let block = (u32::from(tag.as_number()) + attempt) % n_blocks;
            let address = Ipv4Addr::from_bits(pool.to_bits() + (block << (32 - IPV4_PREFIX)));
            if !routes.iter().any(|route| overlaps_ipv4(route, address)) {
                return Some(address);
            }
        }
    }
    None
}

fn choose_ipv6(tag: InstanceTag, routes: &[ExistingRoute]) -> Option<Ipv6Addr> {
    (0..=u16::MAX)
        .map(|attempt| Ipv6Addr::new(0xfdaa, tag.as_number(), 0, attempt, 0, 0, 0, 0))
        .find(|address| !routes.iter().any(|route| overlaps_ipv6(route, *address)))
}

fn overlaps_ipv4(route: &ExistingRoute, address: Ipv4Addr) -> bool {
    let IpAddr::V4(other) = route.address else {
        return false;
    };
    let shift = 32 - u32::from(route.prefix.min(IPV4_PREFIX));
    route.prefix > 0 && (other.to_bits() >> shift) == (address.to_bits() >> shift)
}

fn overlaps_ipv6(route: &ExistingRoute, address: Ipv6Addr) -> bool {
    let IpAddr::V6(other) = route.address else {
        return false;
    };
    let shift = 128 - u32::from(route.prefix.min(IPV6_PREFIX));
    route.prefix > 0 && (other.to_bits() >> shift) == (address.to_bits() >> shift)
}

#[cfg(test)]
mod tests {
    use super::{ExistingRoute, MACHINES_MAX, NodeNetwork};
    use crate::instance::InstanceTag;

    fn route(address: &str, prefix: u8) -> ExistingRoute {
        ExistingRoute {
            address: address.parse().unwrap(),
            prefix,
        }
    }

    fn choose(routes: &[ExistingRoute]) -> NodeNetwork {
        NodeNetwork::choose(InstanceTag::parse("1a2b").unwrap(), routes).unwrap()
    }

    #[test]
    fn machines_have_distinct_addresses_within_the_node_network() {
        let network = choose(&[]);
        assert_eq!(network.ipv4.to_string(), "10.162.176.0");
        assert_eq!(network.gateway_ipv4().to_string(), "10.162.176.1");
        let first = network.address(0).unwrap();
        let last = network.address(MACHINES_MAX - 1).unwrap();
        assert_eq!(
            (first.ipv4.to_string(), first.ipv6.to_string()),
            ("10.162.176.2".into(), "fdaa:1a2b::2".into())
        );
        assert_eq!(
            last.ipv4.to_string(),
            "10.162.191.254",
            "not the broadcast address"
        );
        assert!(network.address(MACHINES_MAX).is_none());
        assert_eq!(network.apps_ipv6().to_string(), "fdaa:1a2b:0:0:1::");
    }

    #[test]
    fn a_taken_block_is_passed_over_and_a_default_route_takes_nothing() {
        let default = [route("0.0.0.0", 0), route("::", 0)];
        assert_eq!(choose(&default), choose(&[]));
        let taken = [route("10.162.180.7", 32), route("fdaa:1a2b::", 48)];
        let network =
            NodeNetwork::choose(InstanceTag::parse("1a2b").unwrap(), &taken[..1]).unwrap();
        assert_eq!(network.ipv4.to_string(), "10.162.192.0");
        assert!(NodeNetwork::choose(InstanceTag::parse("1a2b").unwrap(), &taken).is_none());
        assert_eq!(choose(&[route("10.0.0.0", 8)]).ipv4.octets()[0], 172);
        assert_eq!(
            choose(&[route("fdaa:1a2b::", 64)]).ipv6.to_string(),
            "fdaa:1a2b:0:1::"
        );
    }
}
