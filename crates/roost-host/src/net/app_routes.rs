//! The way to the private addresses of apps: all lead to the host itself, where the edge listens
//! at those that apps have. Who may come is the business of [`super::firewall`].

use super::PlumbError;
use super::addresses::{APPS_PREFIX, NodeNetwork};
use super::linux::has_ipv6;
use super::netlink::{Netlink, OnLink as _};
use crate::instance::InstanceTag;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType,
};
use std::net::Ipv6Addr;

/// The kernel's table of what is for the host itself.
const TABLE_LOCAL: u32 = 255;

/// Makes it, if it is missing.
pub(super) async fn ensure(netlink: &Netlink, network: NodeNetwork) -> Result<(), PlumbError> {
    if !has_ipv6() {
        return Ok(());
    }
    let loopback = netlink.expect_link("lo").await?.index;
    let route = RouteMessageBuilder::<Ipv6Addr>::new()
        .table_id(TABLE_LOCAL)
        .protocol(RouteProtocol::Static)
        .kind(RouteType::Local)
        .destination_prefix(network.apps_ipv6(), APPS_PREFIX)
        .output_interface(loopback);
    let message = RouteNetlinkMessage::NewRoute(route.build());
    match netlink.send(message, NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result.on(|| "make the way to private addresses".to_owned()),
    }
}

/// Takes it away; none is fine.
pub(super) async fn remove(netlink: &Netlink, tag: InstanceTag) -> Result<(), PlumbError> {
    for route in netlink.routes_of_table(TABLE_LOCAL).await? {
        if !is_own(&route, tag) {
            continue;
        }
        match netlink.send(RouteNetlinkMessage::DelRoute(route), 0).await {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            result => result.on(|| "take the way to private addresses away".to_owned())?,
        }
    }
    Ok(())
}

fn is_own(route: &RouteMessage, tag: InstanceTag) -> bool {
    let is_of_node = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
            address.segments()[..2] == [0xfdaa, tag.as_number()]
        }
        _ => false,
    };
    route.header.protocol == RouteProtocol::Static
        && route.header.destination_prefix_length == APPS_PREFIX
        && route.attributes.iter().any(is_of_node)
}
