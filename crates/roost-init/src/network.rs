//! The guest's network: links up, the machine's addresses and routes.

mod netlink;

use crate::failure::{Attempt as _, Failure};
use crate::limits::{ADDRESSES_MAX, DEVICE_POLL_INTERVAL, DEVICE_TIMEOUT};
use netlink::{Netlink, Network};
use roost_agent::proto;
use rustix::net::netdevice::name_to_index;
use std::net::IpAddr;
use std::path::Path;
use tokio::time::Instant;

/// Longest name of a link (Linux: `IFNAMSIZ` less the zero byte).
const LINK_NAME_LEN_MAX: usize = 15;
/// What IPv6 would do on its own: the node says which addresses there are, and
/// knows that nobody else has them.
const IPV6_SETTINGS: [(&str, &str); 3] = [
    ("accept_dad", "0"),
    ("dad_transmits", "0"),
    ("accept_ra", "0"),
];

/// Sets up the network.
pub(crate) async fn set_up(network: &proto::Network) -> Result<(), Failure> {
    let addresses = parse_addresses(&network.addresses)?;
    let mut netlink = Netlink::open().attempt("open the kernel's network interface")?;
    let lo = find_link(&netlink, "lo").await?;
    netlink.set_link_up(lo, None).attempt("set lo up")?;
    let link = network.link.as_str();
    let index = find_link(&netlink, link).await?;
    for (name, value) in IPV6_SETTINGS {
        // Without effect in a kernel without IPv6, which then has no addresses of it.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/{name}"), value);
    }
    let mtu = (network.mtu > 0).then_some(network.mtu);
    netlink
        .set_link_up(index, mtu)
        .attempt(format_args!("set {link} up"))?;
    for address in &addresses {
        let (ip, prefix) = (address.network.address, address.network.prefix);
        netlink
            .add_address(index, &address.network)
            .attempt(format_args!("add {ip}/{prefix} to {link}"))?;
    }
    for gateway in addresses.iter().filter_map(|address| address.gateway) {
        netlink
            .add_default_route(index, gateway)
            .attempt(format_args!("route by {gateway}"))?;
    }
    Ok(())
}

/// An address with the way out of its family.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    network: Network,
    gateway: Option<IpAddr>,
}

fn parse_addresses(addresses: &[proto::Address]) -> Result<Vec<Address>, Failure> {
    if addresses.len() > ADDRESSES_MAX {
        return Err(Failure::request(format!(
            "{} addresses were asked for, and {ADDRESSES_MAX} is the most",
            addresses.len()
        )));
    }
    addresses.iter().map(parse_address).collect()
}

fn parse_address(address: &proto::Address) -> Result<Address, Failure> {
    let parse = |text: &str| {
        text.parse::<IpAddr>()
            .map_err(|_| Failure::request(format!("`{text}` is not an address")))
    };
    let ip = parse(&address.address)?;
    let prefix_max = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = u8::try_from(address.prefix)
        .ok()
        .filter(|prefix| *prefix <= prefix_max)
        .ok_or_else(|| Failure::request(format!("{} is not a prefix of {ip}", address.prefix)))?;
    let gateway = match address.gateway.as_str() {
        "" => None,
        text => Some(parse(text)?),
    };
    if gateway.is_some_and(|gateway| gateway.is_ipv4() != ip.is_ipv4()) {
        return Err(Failure::request(format!(
            "the gateway of {ip} is of another family"
        )));
    }
    let network = Network {
        address: ip,
        prefix,
    };
    Ok(Address { network, gateway })
}

/// The number of a link; its device may take a moment to appear.
async fn find_link(netlink: &Netlink, name: &str) -> Result<u32, Failure> {
    let is_name = (1..=LINK_NAME_LEN_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_name {
        return Err(Failure::request(format!(
            "`{name}` is not the name of a link"
        )));
    }
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    loop {
        match name_to_index(netlink.socket(), name) {
            Ok(index) => return Ok(index),
            Err(error) if Instant::now() > deadline => {
                return Err(error).attempt(format_args!("find link {name}"));
            }
            Err(_) => tokio::time::sleep(DEVICE_POLL_INTERVAL).await,
        }
    }
}

/// Sets kernel settings, `net.core.somaxconn` and the like.
pub(crate) fn set_sysctl(name: &str, value: &str) -> Result<(), Failure> {
    let is_name = name.split('.').all(|part| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    });
    if !is_name {
        return Err(Failure::machine(format!(
            "there is no kernel setting `{name}`"
        )));
    }
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    std::fs::write(&path, value).attempt_for_machine(format_args!("set kernel setting {name}"))
}

#[cfg(test)]
mod tests {
    use super::{parse_address, set_sysctl};
    use roost_agent::proto::Address;

    fn problem(address: &str, prefix: u32, gateway: &str) -> String {
        let address = Address {
            address: address.to_owned(),
            prefix,
            gateway: gateway.to_owned(),
        };
        parse_address(&address).map_or_else(|failure| failure.message, |_| String::new())
    }

    #[test]
    fn addresses_are_checked_before_anything_is_set() {
        assert_eq!(problem("10.0.0.2", 32, "169.254.0.1"), "");
        assert_eq!(problem("fdaa::3", 112, "fe80::1"), "");
        assert_eq!(problem("fdaa::3", 128, ""), "");
        assert!(problem("10.0.0.2", 33, "").contains("not a prefix"));
        assert!(problem("10.0.0.300", 32, "").contains("not an address"));
        assert!(problem("10.0.0.2", 32, "fe80::1").contains("another family"));
    }

    #[test]
    fn a_setting_cannot_be_a_path_to_elsewhere() {
        for name in [
            "",
            ".",
            "..",
            "a..b",
            "../../etc/passwd",
            "/etc/passwd",
            "kernel/x",
        ] {
            let failure = set_sysctl(name, "1").unwrap_err();
            assert!(
                failure.message.starts_with("there is no kernel setting"),
                "{name}"
            );
        }
    }
}
