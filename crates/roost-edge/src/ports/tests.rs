//! Who gets a port of the addresses that apps share.

use super::{Key, Way, divide};
use crate::gauge::TrafficCounter;
use crate::table::Router;
use roost_model::id::MachineId;
use roost_model::machine::{PortHandler, PortRange, Protocol, Service, ServicePort};
use roost_model::name::{AppName, RegionCode};
use roost_proto::traffic::{AppTraffic, Endpoint, EndpointHealth, TrafficTable};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const PORT: u16 = 6379;
const SHARED: Key = (Protocol::Tcp, None, PORT);
/// For documentation only (RFC 5737).
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn name(text: &str) -> AppName {
    AppName::parse(text).unwrap()
}

fn traffic(number: u8) -> AppTraffic {
    let port = ServicePort::new(PortRange::single(PORT), PortHandler::Raw);
    let service = Service {
        ports: vec![port],
        ..Service::http(1)
    };
    let endpoint = Endpoint {
        machine_id: MachineId::from_bytes([number; 7]),
        region: RegionCode::parse("local").unwrap(),
        release: None,
        split: None,
        statics: [].into(),
        address: "127.0.0.1:1".parse().unwrap(),
        node: None,
        health: EndpointHealth::Passing,
        service: service.into(),
    };
    AppTraffic {
        endpoints: vec![endpoint],
    }
}

/// Who gets the shared port when these ask for it, and who is told that another app has it.
fn given(apps: &[&str], with_own: &str, held: Option<&str>) -> (Way, Vec<AppName>) {
    let apps = apps.iter().zip(1..);
    let table: TrafficTable = apps.map(|(app, n)| (name(app), traffic(n))).collect();
    let (_sender, feed) = tokio::sync::watch::channel(Arc::new(table));
    let region = RegionCode::parse("local").unwrap();
    let router = Router::new(region, feed, TrafficCounter::new());
    let addresses = BTreeMap::from([(ADDRESS, name(with_own))]);
    let held = held.map(|app| Way::Raw(name(app)));
    let division = divide(
        &router.routes(),
        &addresses,
        |_| false,
        |key| held.clone().filter(|_| key == SHARED),
    );
    let refused = division.asked.iter();
    let refused = refused.filter(|(_, _, problem)| problem.is_some());
    let refused = refused.map(|(app, _, _)| app.clone()).collect();
    (division.ways[&SHARED].clone(), refused)
}

#[test]
fn a_port_that_nobody_holds_goes_to_an_app_without_an_address_of_its_own() {
    for (with_own, without) in [("a", "b"), ("b", "a")] {
        let (way, refused) = given(&["a", "b"], with_own, None);
        assert_eq!(way, Way::Raw(name(without)), "{with_own}");
        assert!(refused.is_empty(), "{refused:?}");
    }
    // Among those without one the name decides, and one that nobody else wants is not left over.
    let (way, refused) = given(&["a", "b", "c"], "a", None);
    assert_eq!((way, refused), (Way::Raw(name("b")), vec![name("c")]));
    assert_eq!(given(&["a"], "a", None).0, Way::Raw(name("a")));
}

#[test]
fn who_holds_a_port_keeps_it_with_and_without_an_address_of_its_own() {
    for (with_own, without) in [("a", "b"), ("b", "a")] {
        let (way, refused) = given(&["a", "b"], with_own, Some(with_own));
        assert_eq!(way, Way::Raw(name(with_own)));
        assert_eq!(refused, [name(without)]);
        let (way, _) = given(&["a", "b"], with_own, Some(without));
        assert_eq!(way, Way::Raw(name(without)));
    }
}
