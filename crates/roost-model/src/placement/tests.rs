//! Tests of the placement: each rule by example, and what always holds by chance.

use super::{
    Capacity, ClusterView, NodeView, Overcommit, PlacementRequest, Reason, Usage, choose, filter,
};
use crate::error::{Classify as _, Retry};
use crate::id::NodeId;
use crate::machine::{Guest, Isolation, Rung};
use crate::name::{AppName, RegionCode, ZoneName};
use crate::size::ByteSize;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn region(code: &str) -> RegionCode {
    RegionCode::parse(code).unwrap()
}

fn node_id(n: u64) -> NodeId {
    NodeId::from_ulid(ulid::Ulid::from_parts(n, 0))
}

fn app() -> AppName {
    AppName::parse("web").unwrap()
}

fn node(n: u64, region_code: &str, zone: &str) -> NodeView {
    NodeView {
        id: node_id(n),
        region: region(region_code),
        zone: ZoneName::parse(zone).ok(),
        labels: BTreeMap::new(),
        refused_rungs: BTreeMap::from([(Rung::Vm, "there is no KVM".to_owned())]),
        cordoned: false,
        capacity: Capacity {
            n_cores: 4,
            memory: ByteSize::gib(8),
            n_machines: 100,
            overcommit: Overcommit::DEFAULT,
        },
        used: Usage::default(),
        reserved: Usage::default(),
        disk_free: ByteSize::gib(10),
        images: BTreeSet::new(),
        machines: BTreeMap::new(),
    }
}

fn request() -> PlacementRequest {
    PlacementRequest {
        app: app(),
        group: "app".into(),
        regions: vec![region("fra"), region("ams")],
        guest: Guest::DEFAULT,
        isolation: Isolation::Default,
        isolation_floor: Rung::Container,
        labels: BTreeMap::new(),
        volume_node: None,
        alone: false,
        image: None,
        spread_slack: 0,
        excluded: BTreeMap::new(),
    }
}

fn view(nodes: impl Into<Vec<NodeView>>) -> ClusterView {
    ClusterView {
        nodes: nodes.into(),
    }
}

/// Places `n` machines one after another; the nodes that they got.
fn place(view: &mut ClusterView, request: &PlacementRequest, n: usize) -> Vec<NodeId> {
    let mut place_one = || {
        let chosen = choose(view, request).unwrap().node;
        let node = view.nodes.iter_mut().find(|node| node.id == chosen);
        node.unwrap().add(request);
        chosen
    };
    (0..n).map(|_| place_one()).collect()
}

#[test]
fn the_first_region_with_room_wins_and_its_rank_is_told() {
    let mut nodes = view([node(1, "ams", "a"), node(2, "fra", "a")]);
    assert_eq!(choose(&nodes, &request()).unwrap().node, node_id(2));
    nodes.nodes[1].cordoned = true;
    let choice = choose(&nodes, &request()).unwrap();
    assert_eq!((choice.node, choice.why.region_rank), (node_id(1), 1));
    assert!(choice.why.to_string().contains("region ams (choice 2)"));
}

#[test]
fn an_excluded_node_is_not_chosen_and_its_reason_is_told_after_all_others() {
    let mut nodes = view([node(1, "fra", "a"), node(2, "fra", "a")]);
    let mut excluding = request();
    let silent = Reason::Silent { seconds: 20 };
    excluding.excluded.insert(node_id(1), silent.clone());
    assert_eq!(choose(&nodes, &excluding).unwrap().node, node_id(2));
    nodes.nodes.truncate(1);
    let refusal = choose(&nodes, &excluding).unwrap_err();
    assert_eq!(refusal.nodes[0].reason, silent);
    assert_eq!(refusal.retry(), Retry::Backoff, "it may come back");
    nodes.nodes[0].cordoned = true;
    let refusal = choose(&nodes, &excluding).unwrap_err();
    assert_eq!(refusal.nodes[0].reason, Reason::Cordoned);
}

#[test]
fn a_group_is_spread_over_zones_then_over_nodes() {
    let mut nodes = view([
        node(1, "fra", "a"),
        node(2, "fra", "a"),
        node(3, "fra", "b"),
    ]);
    let placed = place(&mut nodes, &request(), 4);
    assert_eq!(placed, [1, 3, 2, 3].map(node_id));
    // Another group of the app does not count.
    let other = PlacementRequest {
        group: "worker".into(),
        ..request()
    };
    assert_eq!(choose(&nodes, &other).unwrap().why.n_on_node, 0);
}

#[test]
fn nodes_without_a_zone_are_zones_of_their_own() {
    let mut nodes = view([node(1, "fra", ""), node(2, "fra", "")]);
    assert_eq!(place(&mut nodes, &request(), 2), [1, 2].map(node_id));
}

#[test]
fn within_the_slack_the_image_counts_then_the_fullest_node() {
    let mut nodes = view([node(1, "fra", ""), node(2, "fra", ""), node(3, "fra", "")]);
    nodes.nodes[1].used = Usage::of(Guest::preset("shared-cpu-4x").unwrap());
    assert_eq!(choose(&nodes, &request()).unwrap().node, node_id(2));
    nodes.nodes[2].images.insert("sha256:1".into());
    let with_image = PlacementRequest {
        image: Some("sha256:1".into()),
        ..request()
    };
    assert_eq!(choose(&nodes, &with_image).unwrap().node, node_id(3));
    let packed = PlacementRequest {
        spread_slack: 2,
        ..request()
    };
    assert_eq!(place(&mut nodes, &packed, 4), [2, 2, 2, 1].map(node_id));
}

/// Why a node that is changed refuses a request that is: the word and the text.
fn reason(change: fn(&mut NodeView), wish: fn(&mut PlacementRequest)) -> (&'static str, String) {
    let mut nodes = view([node(1, "fra", "a")]);
    change(&mut nodes.nodes[0]);
    let mut request = request();
    wish(&mut request);
    let refusal = choose(&nodes, &request).unwrap_err();
    assert!(refusal.hint().is_some());
    let text = refusal.to_string();
    assert!(text.contains(node_id(1).as_str()), "{text}");
    (refusal.nodes[0].reason.as_str(), text)
}

#[test]
fn a_node_that_is_not_what_was_asked_for_says_why() {
    let by_wish = |wish| reason(|_| (), wish);
    let by_node = |change| reason(change, |_| ());
    let cases = [
        (
            by_wish(|r| r.volume_node = Some(node_id(9))),
            "volume",
            "volume is on node_",
        ),
        (
            by_node(|n| n.region = region("iad")),
            "region",
            "region iad",
        ),
        (
            by_wish(|r| drop(r.labels.insert("disk".into(), "nvme".into()))),
            "label",
            "no label disk",
        ),
        (
            by_wish(|r| r.isolation = Isolation::Rung(Rung::Vm)),
            "isolation",
            "isolation `vm` is refused on this node: there is no KVM",
        ),
        (
            by_wish(|r| r.isolation_floor = Rung::Vm),
            "isolation",
            "it would be `container`, and the app wants `vm` at least",
        ),
    ];
    for ((word, text), expected, part) in cases {
        assert_eq!(word, expected, "{text}");
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_node_that_takes_no_more_says_why() {
    let by_node = |change| reason(change, |_| ());
    let cases = [
        (
            by_node(|n| n.cordoned = true),
            "cordoned",
            "no new machines",
        ),
        (
            reason(|n| n.add(&request()), |r| r.alone = true),
            "alone",
            "1 of the group",
        ),
        (
            by_node(|n| n.disk_free = ByteSize(0)),
            "disk",
            "256 MiB must be",
        ),
        (
            reason(
                |_| (),
                |r| r.guest = Guest::preset("performance-6x").unwrap(),
            ),
            "cpus",
            "whole cores: 6 wanted, 4 free",
        ),
        (
            by_node(|n| n.reserved.dedicated_memory = ByteSize::gib(8)),
            "memory",
            "256 MiB wanted, 0 B free",
        ),
        (
            by_node(|n| n.capacity.n_machines = 0),
            "machines",
            "0 machines",
        ),
    ];
    for ((word, text), expected, part) in cases {
        assert_eq!(word, expected, "{text}");
        assert!(text.contains(part), "{text}");
    }
    let nobody = choose(&ClusterView::default(), &request()).unwrap_err();
    assert!(nobody.to_string().ends_with("there are no nodes"));
}

fn any_guest() -> impl Strategy<Value = Guest> {
    prop::sample::select(Guest::PRESETS.as_slice()).prop_map(|name| Guest::preset(name).unwrap())
}

fn any_node() -> impl Strategy<Value = NodeView> {
    let place = (0..3_usize, 0..3_usize, any::<bool>(), 0..8_u8);
    let room = (1..16_u32, 1..64_u64, 0..12_u32, 1..8_u32);
    (place, room, prop::collection::vec(any_guest(), 0..4)).prop_map(
        |((region_idx, zone_idx, has_label, dice), (n_cores, gib, n_machines, factor), guests)| {
            let mut view = node(
                0,
                ["fra", "ams", "iad"][region_idx],
                ["a", "b", ""][zone_idx],
            );
            if has_label {
                view.labels.insert("disk".into(), "nvme".into());
            }
            view.cordoned = dice == 0;
            if dice == 1 {
                view.disk_free = ByteSize(1);
            }
            if dice > 3 {
                view.refused_rungs.clear();
                view.images.insert("sha256:1".into());
            }
            view.capacity = Capacity {
                n_cores,
                memory: ByteSize::gib(gib),
                n_machines,
                overcommit: Overcommit::new(factor * 100, factor * 100).unwrap(),
            };
            for guest in guests {
                if view.capacity.shortage(view.used, guest).is_none() {
                    view.add(&PlacementRequest { guest, ..request() });
                }
            }
            view
        },
    )
}

fn any_view() -> impl Strategy<Value = ClusterView> {
    prop::collection::vec(any_node(), 0..12).prop_map(|mut nodes| {
        for (n, node) in nodes.iter_mut().enumerate() {
            node.id = node_id(u64::try_from(n).unwrap());
        }
        ClusterView { nodes }
    })
}

fn any_request() -> impl Strategy<Value = PlacementRequest> {
    let wishes = (any::<bool>(), any::<bool>(), any::<bool>(), 0..3_u32);
    let isolation = prop::sample::select(Isolation::WORDS.as_slice());
    (any_guest(), wishes, isolation, 0..3_usize).prop_map(
        |(guest, (wants_label, alone, has_image, spread_slack), isolation, n_regions)| {
            let mut request = PlacementRequest {
                guest,
                alone,
                spread_slack,
                isolation: Isolation::parse(isolation).unwrap(),
                image: has_image.then(|| "sha256:1".to_owned()),
                ..request()
            };
            request.regions.truncate(n_regions);
            if wants_label {
                request.labels.insert("disk".into(), "nvme".into());
            }
            request
        },
    )
}

/// Whether a node has promised no more than it may.
fn is_within(node: &NodeView) -> bool {
    let (capacity, taken) = (&node.capacity, node.taken());
    let shared = u64::from(capacity.overcommit.cpu_percent());
    let cpus = taken.dedicated_cores * 16 * shared + taken.shared_cpus * 100;
    let percent = u64::from(capacity.overcommit.memory_percent());
    let memory = taken.dedicated_memory.as_mib() * percent + taken.shared_memory.as_mib() * 100;
    cpus <= u64::from(capacity.n_cores) * 16 * shared
        && memory <= capacity.memory.as_mib() * percent
        && taken.n_machines <= capacity.n_machines
}

proptest! {
    #[test]
    fn a_choice_passes_every_filter_and_a_refusal_names_every_node(
        view in any_view(), request in any_request(),
    ) {
        match choose(&view, &request) {
            Ok(choice) => {
                let node = view.nodes.iter().find(|node| node.id == choice.node).unwrap();
                prop_assert!(filter(node, &request).is_ok());
                let better = |other: &&NodeView| {
                    filter(other, &request).is_ok_and(|rank| rank < choice.why.region_rank)
                };
                prop_assert!(!view.nodes.iter().any(|node| better(&node)));
            }
            Err(refusal) => {
                let named: Vec<_> = refusal.nodes.iter().map(|node| &node.node).collect();
                let all: Vec<_> = view.nodes.iter().map(|node| &node.id).collect();
                prop_assert_eq!(named, all);
                for (node, refused) in view.nodes.iter().zip(&refusal.nodes) {
                    prop_assert_eq!(filter(node, &request), Err(refused.reason.clone()));
                }
            }
        }
    }

    #[test]
    fn no_node_is_ever_overbooked(
        mut view in any_view(), requests in prop::collection::vec(any_request(), 1..60),
    ) {
        for request in &requests {
            if let Ok(choice) = choose(&view, request) {
                let node = view.nodes.iter_mut().find(|node| node.id == choice.node).unwrap();
                node.add(request);
                prop_assert!(is_within(node), "{:?}", node);
            }
        }
    }

    #[test]
    fn more_room_never_turns_a_choice_into_a_refusal(
        view in any_view(), request in any_request(), more in any_node(),
        (cores, gib, machines) in (0..9_u32, 0..9_u64, 0..9_u32),
    ) {
        prop_assume!(choose(&view, &request).is_ok());
        let mut larger = view;
        for node in &mut larger.nodes {
            node.capacity.n_cores += cores;
            node.capacity.memory = ByteSize(node.capacity.memory.bytes() + (gib << 30));
            node.capacity.n_machines += machines;
        }
        larger.nodes.push(NodeView { id: node_id(999), ..more });
        prop_assert!(choose(&larger, &request).is_ok());
    }

    #[test]
    fn the_order_of_nodes_does_not_matter(view in any_view(), request in any_request(), by in 0..12_usize) {
        let mut turned = view.clone();
        let n = turned.nodes.len().max(1);
        turned.nodes.rotate_left(by % n);
        prop_assert_eq!(choose(&view, &request), choose(&turned, &request));
    }

    #[test]
    fn a_group_that_fits_everywhere_is_spread_evenly(n in 1..20_usize, n_nodes in 1..6_u64) {
        let mut nodes = view((0..n_nodes).map(|n| node(n, "fra", "")).collect::<Vec<_>>());
        place(&mut nodes, &request(), n);
        let counts: Vec<u32> = nodes.nodes.iter().map(|node| node.n_of_group(&app(), "app")).collect();
        let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        prop_assert!(max - min <= 1, "{:?}", counts);
    }
}

#[test]
fn a_refusal_is_an_environment_s_fault_unless_the_request_is_in_vain() {
    use crate::error::{Blame, CallerFault};
    let mut nodes = view([node(1, "iad", "a")]);
    let refusal = choose(&nodes, &request()).unwrap_err();
    assert_eq!(refusal.blame(), Blame::Caller(CallerFault::Invalid));
    nodes.nodes.push(NodeView {
        cordoned: true,
        ..node(2, "fra", "a")
    });
    let refusal = choose(&nodes, &request()).unwrap_err();
    assert_eq!(refusal.blame(), Blame::Environment);
    assert!(matches!(refusal.nodes[1].reason, Reason::Cordoned));
}
