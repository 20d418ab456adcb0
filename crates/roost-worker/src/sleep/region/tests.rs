//! Which machines of other nodes are counted, and what all nodes keep together.

use super::{Alike, Elsewhere, OfRegion};
use proptest::prelude::*;
use roost_model::id::{MachineId, NodeId};
use roost_model::machine::{Autostop, Protocol, Service};
use roost_model::name::{AppName, RegionCode};
use roost_model::split::Split;
use roost_proto::traffic::{Endpoint, EndpointHealth, PeerNode};
use std::sync::Arc;

pub(in crate::sleep) fn node(number: u8) -> NodeId {
    NodeId::from_ulid(ulid::Ulid::from_parts(1, number.into()))
}

fn region(code: &str) -> RegionCode {
    RegionCode::parse(code).unwrap()
}

pub(in crate::sleep) fn alike() -> Alike {
    let ports = vec![(Protocol::Tcp, 80), (Protocol::Tcp, 443)];
    (AppName::parse("web").unwrap(), region("fra"), ports)
}

/// An awake machine of a node, of release 1 and with a minimum of 2.
pub(in crate::sleep) fn awake(at: u8, number: u8) -> Endpoint {
    let mut service = Service::http(8080);
    (service.autostop, service.min_machines_running) = (Autostop::Stop, 2);
    Endpoint {
        machine_id: MachineId::from_bytes([at, number, 0, 0, 0, 0, 0]),
        region: region("fra"),
        release: Some(1),
        split: None,
        address: "10.0.0.1:8080".parse().unwrap(),
        health: EndpointHealth::Passing,
        service: Arc::new(service),
        node: Some(Arc::new(PeerNode {
            id: node(at),
            edge: "192.0.2.1:4282".parse().unwrap(),
        })),
        statics: Arc::default(),
    }
}

/// How many are kept before node 5 of those that are like the machines of [`awake`].
fn kept_before(elsewhere: &[Endpoint]) -> usize {
    let alike = alike();
    let of_region = OfRegion {
        alike: &alike,
        release: Some(1),
        n_kept: 2,
    };
    of_region.n_kept_before(&node(5), elsewhere)
}

#[test]
fn machines_of_nodes_before_this_one_count_and_others_do_not() {
    let all = [awake(1, 1), awake(4, 1), awake(4, 2), awake(6, 1)];
    assert_eq!(kept_before(&all), 3);
    assert_eq!(kept_before(&[awake(5, 1), awake(9, 1)]), 0);
    assert_eq!(kept_before(&[]), 0);
}

#[test]
fn what_another_node_may_not_keep_does_not_count() {
    let changes: [fn(&mut Endpoint); 8] = [
        |it| it.health = EndpointHealth::Failing("no".into()),
        |it| it.health = EndpointHealth::Draining,
        |it| it.health = EndpointHealth::Asleep("stopped".into()),
        |it| it.region = region("ams"),
        |it| it.release = Some(2),
        |it| Arc::make_mut(&mut it.service).autostop = Autostop::Off,
        |it| Arc::make_mut(&mut it.service).min_machines_running = 1,
        |it| Arc::make_mut(&mut it.service).ports.truncate(1),
    ];
    for (idx, change) in changes.into_iter().enumerate() {
        let mut changed = awake(1, 1);
        change(&mut changed);
        assert_eq!(kept_before(&[changed, awake(1, 2)]), 1, "{idx}");
    }
    // A machine of two services is one machine, and another kind of machine than one of one.
    let mut other = awake(1, 1);
    let ports = &mut Arc::make_mut(&mut other.service).ports;
    ports.truncate(1);
    let mut first = other.clone();
    Arc::make_mut(&mut first.service).ports = Service::http(1).ports.split_off(1);
    assert_eq!(kept_before(&[first.clone(), other]), 1);
    assert_eq!(kept_before(&[first, awake(1, 1)]), 0);
    // While a release is tried out the others are not relied on.
    let mut tried = awake(6, 1);
    tried.split = Some(Arc::new(Split::parse("percent=5").unwrap()));
    assert_eq!(kept_before(&[awake(1, 1), tried]), 0);
}

/// What node 5 knows of the others.
fn elsewhere(all: &[Endpoint]) -> (usize, u32) {
    let Elsewhere {
        n_running,
        n_nodes_before,
    } = Elsewhere::of(&alike(), &node(5), all);
    (n_running, n_nodes_before)
}

#[test]
fn what_runs_elsewhere_need_not_be_woken_here() {
    // Of whatever node and release, and whether it is to stay awake or not.
    let mut other = awake(9, 1);
    other.release = Some(2);
    Arc::make_mut(&mut other.service).min_machines_running = 0;
    assert_eq!(elsewhere(&[awake(1, 1), awake(1, 2), other]), (3, 0));
    let changes: [fn(&mut Endpoint); 5] = [
        |it| it.health = EndpointHealth::Draining,
        |it| it.health = EndpointHealth::Down("stopped".into()),
        |it| it.region = region("ams"),
        |it| it.split = Some(Arc::new(Split::parse("percent=5").unwrap())),
        |it| Arc::make_mut(&mut it.service).ports.truncate(1),
    ];
    for (idx, change) in changes.into_iter().enumerate() {
        let mut changed = awake(1, 1);
        change(&mut changed);
        assert_eq!(elsewhere(&[changed, awake(1, 2)]), (1, 0), "{idx}");
    }
}

#[test]
fn what_is_woken_elsewhere_counts_and_who_has_one_that_is_not_up_yet_is_waited_for() {
    let is = |at, health| Endpoint {
        health,
        ..awake(at, 1)
    };
    let starting = EndpointHealth::Down("starting".into());
    let all = [is(1, starting.clone()), is(9, starting.clone())];
    assert_eq!(elsewhere(&all), (2, 0));
    let mut tried = is(1, starting);
    tried.split = Some(Arc::new(Split::parse("percent=5").unwrap()));
    assert_eq!(elsewhere(&[tried]), (0, 0));
    let failing = EndpointHealth::Failing("no".into());
    assert_eq!(elsewhere(&[is(9, failing.clone())]), (0, 0));
    // A node is waited for once.
    let asleep = Endpoint {
        health: EndpointHealth::Asleep("stopped".into()),
        ..awake(1, 2)
    };
    assert_eq!(elsewhere(&[is(1, failing), asleep]), (0, 1));
}

#[test]
fn who_has_machines_that_sleep_is_waited_for_by_those_after_it() {
    let asleep = |at, number| Endpoint {
        health: EndpointHealth::Asleep("stopped".into()),
        ..awake(at, number)
    };
    let all = [asleep(1, 1), asleep(1, 2), asleep(3, 1), asleep(7, 1)];
    assert_eq!(elsewhere(&all), (0, 2));
    let mut far = asleep(1, 1);
    far.region = region("ams");
    assert_eq!(elsewhere(&[far, awake(3, 1)]), (1, 0));
}

proptest! {
    /// Each node has some machines, and has heard of some of the others.
    #[test]
    fn all_nodes_together_keep_the_minimum_and_no_more_if_they_know_of_each_other(
        n_awake in proptest::collection::vec(0..4_u8, 1..5),
        heard in proptest::collection::vec(any::<bool>(), 25),
        all_heard in any::<bool>(),
        minimum in 1..4_u32,
    ) {
        let machines = |at: u8, n: u8| {
            (0..n).map(move |number| {
                let mut machine = awake(at, number);
                Arc::make_mut(&mut machine.service).min_machines_running = minimum;
                machine
            })
        };
        let nodes: Vec<(u8, u8)> = (0..).zip(n_awake).collect();
        let alike = alike();
        let n_kept = usize::try_from(minimum).unwrap();
        let of_region = OfRegion { alike: &alike, release: Some(1), n_kept };
        let mut stay = 0;
        for (own, n) in &nodes {
            let knows = |at: u8| all_heard || heard[usize::from(own * 5 + at)];
            let others = nodes.iter().filter(|(at, _)| at != own && knows(*at));
            let elsewhere: Vec<_> = others.flat_map(|(at, n)| machines(*at, *n)).collect();
            let before = of_region.n_kept_before(&node(*own), &elsewhere);
            stay += usize::from(*n).min(n_kept.saturating_sub(before));
        }
        let all: usize = nodes.iter().map(|(_, n)| usize::from(*n)).sum();
        prop_assert!(stay >= n_kept.min(all));
        if all_heard {
            prop_assert_eq!(stay, n_kept.min(all));
        }
    }
}
