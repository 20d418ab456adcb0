//! The way of answers to clients in whose names the edge speaks to machines.
//!
//! The firewall marks such packets ([`super::firewall`]). Marked ones are looked up
//! in a table of the instance's own, which leads to the host itself whatever
//! address they are for: to the socket that the edge has bound to that address.
//! It says nothing of the node's own network: where `src_valid_mark` is on the
//! kernel looks there for the way back to the machine as well.

use super::PlumbError;
use super::addresses::{IPV4_PREFIX, IPV6_PREFIX, NodeNetwork};
use super::linux::has_ipv6;
use super::netlink::{Netlink, OnLink as _};
use crate::instance::InstanceTag;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Behind the rule for the host's own addresses, before those that other programs add.
const RULE_PRIORITY: u32 = 726;
/// The number of a table that does not fit into the header.
const TABLE_ELSEWHERE: u8 = 0;

/// Makes what is missing.
pub(super) async fn ensure(
    netlink: &Netlink,
    tag: InstanceTag,
    network: NodeNetwork,
) -> Result<(), PlumbError> {
    let loopback = netlink.expect_link("lo").await?.index;
    let routes = routes(tag, network, loopback);
    let routes = routes.into_iter().map(RouteNetlinkMessage::NewRoute);
    let rules = rules(tag).into_iter().map(RouteNetlinkMessage::NewRule);
    // The rules last: before, a marked packet would find no route of its own.
    for message in routes.chain(rules) {
        match netlink.send(message, NLM_F_CREATE | NLM_F_EXCL).await {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            result => result.on(|| "make the way of answers to the edge".to_owned())?,
        }
    }
    Ok(())
}

/// Takes it away; none is fine.
pub(super) async fn remove(netlink: &Netlink, tag: InstanceTag) -> Result<(), PlumbError> {
    let operation = || "take the way of answers to the edge away".to_owned();
    for rule in rules(tag) {
        let message = RouteNetlinkMessage::DelRule(rule);
        match netlink.send(message, 0).await {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => result.on(operation)?,
        }
    }
    for route in netlink.routes_of_table(tag.edge_mark()).await? {
        let message = RouteNetlinkMessage::DelRoute(route);
        match netlink.send(message, 0).await {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            result => result.on(operation)?,
        }
    }
    Ok(())
}

fn families() -> impl Iterator<Item = AddressFamily> {
    let ipv6 = has_ipv6().then_some(AddressFamily::Inet6);
    [AddressFamily::Inet].into_iter().chain(ipv6)
}

fn rules(tag: InstanceTag) -> Vec<RuleMessage> {
    let mark = tag.edge_mark();
    let rule = |family| {
        let mut rule = RuleMessage::default();
        rule.header.family = family;
        rule.header.table = TABLE_ELSEWHERE;
        rule.header.action = RuleAction::ToTable;
        rule.attributes = vec![
            RuleAttribute::Priority(RULE_PRIORITY),
            RuleAttribute::FwMark(mark),
            RuleAttribute::Table(mark),
        ];
        rule
    };
    families().map(rule).collect()
}

fn routes(tag: InstanceTag, network: NodeNetwork, loopback: u32) -> Vec<RouteMessage> {
    fn of_table<T>(route: RouteMessageBuilder<T>, tag: InstanceTag) -> RouteMessageBuilder<T> {
        let route = route.table_id(tag.edge_mark());
        route.protocol(RouteProtocol::Static)
    }
    let all = of_table(RouteMessageBuilder::<Ipv4Addr>::new(), tag)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .output_interface(loopback);
    let own = of_table(RouteMessageBuilder::<Ipv4Addr>::new(), tag)
        .kind(RouteType::Throw)
        .destination_prefix(network.ipv4, IPV4_PREFIX);
    let mut routes = vec![all.build(), own.build()];
    if has_ipv6() {
        let all = of_table(RouteMessageBuilder::<Ipv6Addr>::new(), tag)
            .kind(RouteType::Local)
            .output_interface(loopback);
        let own = of_table(RouteMessageBuilder::<Ipv6Addr>::new(), tag)
            .kind(RouteType::Throw)
            .destination_prefix(network.ipv6, IPV6_PREFIX);
        routes.extend([all.build(), own.build()]);
    }
    routes
}
