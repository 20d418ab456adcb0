//! Routes from tables.

use super::{Router, app_of_host};
use crate::gauge::{InFlight, TrafficCounter};
use crate::relay::distance::FARTHEST;
use roost_model::id::NodeId;
use roost_model::machine::{PortHandler, PortRange, ServicePort};
use roost_model::split::Split;
use roost_model::{id::MachineId, machine::Service, name::AppName, name::RegionCode};
use roost_proto::traffic::{
    AppTraffic, Endpoint, EndpointHealth, PeerNode, TrafficGauge as _, TrafficTable,
};
use std::sync::Arc;

fn one(health: EndpointHealth) -> Endpoint {
    Endpoint {
        machine_id: MachineId::from_bytes([1; 7]),
        region: RegionCode::parse("local").unwrap(),
        release: None,
        split: None,
        statics: [].into(),
        address: "127.0.0.1:1".parse().unwrap(),
        node: None,
        health,
        service: Service::http(1).into(),
    }
}

fn peer(number: u8) -> PeerNode {
    PeerNode {
        id: NodeId::from_ulid(ulid::Ulid::from(u128::from(number))),
        edge: "192.0.2.1:4282".parse().unwrap(),
    }
}

/// A machine of this region. Its number is that of its node; 0 is the edge's own.
fn at(number: u8, region: &str) -> Endpoint {
    Endpoint {
        machine_id: MachineId::from_bytes([number; 7]),
        region: RegionCode::parse(region).unwrap(),
        node: (number > 0).then(|| Arc::new(peer(number))),
        ..one(EndpointHealth::Passing)
    }
}

fn table_of(endpoints: Vec<Endpoint>) -> Arc<TrafficTable> {
    let traffic = AppTraffic { endpoints };
    Arc::new([(AppName::parse("a").unwrap(), traffic)].into())
}

fn table(health: EndpointHealth) -> Arc<TrafficTable> {
    table_of(vec![one(health)])
}

#[test]
fn services_have_counts_and_queues_of_their_own_and_keep_them() {
    let http = one(EndpointHealth::Passing);
    let mut admin = http.clone();
    Arc::make_mut(&mut admin.service).ports = vec![ServicePort::new(
        PortRange {
            first: 9000,
            last: 9001,
        },
        PortHandler::Raw,
    )];
    let (sender, feed) = tokio::sync::watch::channel(table_of(vec![http, admin.clone()]));
    let counter = TrafficCounter::new();
    let router = Router::new(RegionCode::parse("local").unwrap(), feed, counter);
    let before = router.routes().app("a").unwrap().clone();
    let port = |number| before.port(number).unwrap();
    let busy = InFlight::begin(&port(80).passing[0]).unwrap();
    assert_eq!(port(9000).passing[0].load.now(), 0);
    assert!(Arc::ptr_eq(&port(80).queue, &port(443).queue));
    assert!(Arc::ptr_eq(&port(9000).queue, &port(9001).queue));
    assert!(!Arc::ptr_eq(&port(80).queue, &port(9000).queue));
    // A change, in another order.
    let failing = one(EndpointHealth::Failing("check".into()));
    sender.send(table_of(vec![admin, failing])).unwrap();
    router.refresh();
    let after = router.routes().app("a").unwrap().clone();
    for number in [80, 443, 9000, 9001] {
        let after = after.port(number).unwrap();
        assert!(Arc::ptr_eq(&after.queue, &port(number).queue));
        let (old, new) = (&port(number).targets[0].load, &after.targets[0].load);
        assert!(Arc::ptr_eq(old, new), "{number}");
    }
    assert_eq!(after.port(80).unwrap().targets[0].load.now(), 1);
    drop(busy);
}

#[test]
fn only_one_label_under_a_domain_is_an_app() {
    let domains = ["localhost".to_owned(), "apps.example.com".to_owned()];
    assert_eq!(app_of_host("a.localhost", &domains), Some("a"));
    assert_eq!(app_of_host("a-1.apps.example.com", &domains), Some("a-1"));
    for none in [
        "localhost",
        ".localhost",
        "a.b.localhost",
        "a.example.com",
        "a",
        "",
        "a/.localhost",
    ] {
        assert_eq!(app_of_host(none, &domains), None, "{none}");
    }
}

#[test]
fn a_reading_of_the_gauge_applies_the_newest_table_first() {
    let (sender, feed) = tokio::sync::watch::channel(table(EndpointHealth::Passing));
    let counter = TrafficCounter::new();
    let router = Router::new(RegionCode::parse("local").unwrap(), feed, counter.clone());
    let app = router.routes().app("a").unwrap().clone();
    let machine = &app.port(80).unwrap().passing[0];
    let guard = InFlight::begin(machine).unwrap();
    assert!(app.is_current());
    sender.send(table(EndpointHealth::Draining)).unwrap();
    let machine = MachineId::from_bytes([1; 7]);
    assert_eq!(counter.in_flight(&machine), 1);
    assert!(!app.is_current(), "the pick has to look again");
    let now = router.routes().app("a").unwrap().clone();
    assert!(now.port(80).unwrap().passing.is_empty());
    drop(now);
    sender.send(Arc::default()).unwrap();
    assert_eq!(
        counter.in_flight(&machine),
        1,
        "a machine that left the table still has its request"
    );
    drop((guard, app));
    assert_eq!(counter.in_flight(&machine), 0);
}

#[test]
fn who_asks_first_while_the_app_is_replaced_is_counted_where_it_goes_on() {
    let (sender, feed) = tokio::sync::watch::channel(table(EndpointHealth::Passing));
    let router = Router::new(
        RegionCode::parse("local").unwrap(),
        feed,
        TrafficCounter::new(),
    );
    assert_eq!(router.routes().asked().count(), 0, "nobody has asked");
    let snapshots: Vec<_> = (0..3)
        .map(|turn| {
            let before = router.routes.load_full();
            let health = [EndpointHealth::Failing("x".into()), EndpointHealth::Passing];
            sender.send_replace(table(health[turn % 2].clone()));
            router.refresh();
            before
        })
        .collect();
    // Somebody had the last snapshot before, and asks now.
    let late = snapshots[2].app("a").unwrap();
    assert!(!late.is_current(), "the pick has to look again");
    let busy = InFlight::begin(&late.targets[0]).unwrap();
    let now = router.routes().app("a").unwrap().clone();
    assert!(now.is_current() && Arc::ptr_eq(&now.freed, &late.freed));
    assert_eq!(now.targets[0].load.now(), 1);
    // From now on there is a route at each change.
    sender.send_replace(table(EndpointHealth::Draining));
    router.refresh();
    let next = router.routes.load_full();
    assert_eq!(next.asked().count(), 1);
    assert_eq!(next.app("a").unwrap().targets[0].load.now(), 1);
    drop(busy);
}

#[test]
fn machines_are_in_order_of_the_way_to_them_and_those_of_the_region_before_all() {
    let all = [
        at(1, "ams"),
        at(2, "fra"),
        at(3, "local"),
        at(4, "ord"),
        at(0, "local"),
        at(5, "fra"),
    ];
    let (_sender, feed) = tokio::sync::watch::channel(table_of(all.into()));
    let counter = TrafficCounter::new();
    let router = Router::new(RegionCode::parse("local").unwrap(), feed, counter);
    let classes = || -> Vec<Vec<u8>> {
        let app = router.routes().app("a").unwrap().clone();
        let port = app.port(80).unwrap();
        let number = |at: usize| {
            let id = port.passing[at].endpoint.machine_id.as_str();
            id[..2].parse().unwrap()
        };
        let classes = port.classes.iter();
        classes
            .map(|class| class.clone().map(number).collect())
            .collect()
    };
    // Of nobody in other regions it is known where he is.
    assert_eq!(classes(), [vec![3, 0], vec![1, 2, 4, 5]]);
    let before = router.routes().app("a").unwrap().clone();
    let busy = InFlight::begin(&before.port(80).unwrap().passing[0]).unwrap();
    // A region is as near as its nearest node, and all of it is one class.
    router.is_at(&peer(2), 1);
    assert_eq!(classes(), [vec![3, 0], vec![2, 5], vec![1, 4]]);
    // Not even far away is a machine of the region behind others.
    router.is_at(&peer(3), 6);
    router.is_at(&peer(1), 5);
    router.is_at(&peer(4), 5);
    assert_eq!(classes(), [vec![3, 0], vec![2, 5], vec![1, 4]]);
    router.is_at(&peer(4), 0);
    assert_eq!(classes(), [vec![3, 0], vec![4], vec![2, 5], vec![1]]);
    let now = router.routes().app("a").unwrap().clone();
    let port = now.port(80).unwrap();
    assert!(!before.is_current() && now.is_current());
    assert_eq!(port.passing[0].load.now(), 1, "its load stays");
    assert_eq!(port.class_of(&port.passing[3]), Some(2));
    drop(busy);
}

#[test]
fn far_away_an_unmeasured_node_counts_as_the_farthest_of_its_region() {
    let all = vec![at(1, "local"), at(2, "fra"), at(3, "fra")];
    let (_sender, feed) = tokio::sync::watch::channel(table_of(all));
    let counter = TrafficCounter::new();
    let router = Router::new(RegionCode::parse("local").unwrap(), feed, counter);
    let distances = || -> Vec<u8> {
        let app = router.routes().app("a").unwrap().clone();
        let passing = &app.port(80).unwrap().passing;
        let candidates = passing.iter().map(|target| target.candidate(false, 0));
        candidates.map(|candidate| candidate.distance).collect()
    };
    assert_eq!(distances(), [0, FARTHEST, FARTHEST]);
    router.is_at(&peer(2), 1);
    assert_eq!(distances(), [0, 1, FARTHEST]);
    router.is_at(&peer(3), 2);
    assert_eq!(distances(), [0, 1, 2]);
}

#[test]
fn releases_have_tallies_at_their_own_node_and_only_while_one_is_tried_out() {
    let of = |number: u8, release: u64, node: u8| Endpoint {
        release: Some(release),
        machine_id: MachineId::from_bytes([number; 7]),
        ..at(node, "local")
    };
    let mut canary = of(4, 2, 0);
    canary.split = Some(Arc::new(Split::parse("percent=5").unwrap()));
    let old = || vec![of(1, 1, 0), of(2, 1, 0), of(3, 1, 7)];
    let (sender, feed) = tokio::sync::watch::channel(table_of(old()));
    let region = RegionCode::parse("local").unwrap();
    let router = Router::new(region, feed, TrafficCounter::new());
    let tallies = || {
        router.refresh();
        let routes = router.routes();
        let targets = routes.app("a").unwrap().targets();
        let tallies = targets.map(|target| target.tally.clone());
        (tallies.collect::<Vec<_>>(), routes.split().count())
    };
    let (before, n_split) = tallies();
    assert!(before.iter().all(Option::is_none) && n_split == 0);
    let publish = |canary: &[Endpoint]| {
        sender.send_replace(table_of([&old(), canary].concat()));
    };
    publish(&[canary.clone()]);
    let (made, n_split) = tallies();
    let [Some(one), Some(two), None, Some(new)] = &made[..] else {
        panic!("{made:?}");
    };
    assert!(Arc::ptr_eq(one, two) && !Arc::ptr_eq(one, new) && n_split == 1);
    one.answered(http::StatusCode::OK, std::time::Duration::from_millis(3));
    // They go on when the machines change, and with the next canary new ones begin.
    canary.health = EndpointHealth::Draining;
    publish(&[canary.clone()]);
    let (kept, _) = tallies();
    assert!(Arc::ptr_eq(one, kept[0].as_ref().unwrap()));
    assert!(Arc::ptr_eq(new, kept[3].as_ref().unwrap()));
    publish(&[]);
    assert!(tallies().0.iter().all(Option::is_none));
    publish(&[canary]);
    let (again, _) = tallies();
    let (again, before) = (again[0].as_ref().unwrap().read(), one.read());
    assert_eq!(
        (before.traffic.requests(), again.traffic.requests()),
        (1, 0)
    );
    assert_ne!(before.id, again.id);
}
