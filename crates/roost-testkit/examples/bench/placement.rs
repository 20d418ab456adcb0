//! What a placement costs: CPU per decision among 1,000 nodes with 50,000
//! machines, and whether that grows faster than the nodes.

use super::process;
use roost_model::id::NodeId;
use roost_model::machine::{Guest, Isolation, Rung};
use roost_model::name::{AppName, RegionCode, ZoneName};
use roost_model::placement::{
    Capacity, ClusterView, NodeView, Overcommit, PlacementRequest, Usage, choose,
};
use roost_model::size::ByteSize;
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::Duration;

const NODES: u64 = 1_000;
const MACHINES_PER_NODE: u64 = 50;
/// So many that a tick of the kernel's clock, 10 ms, is little of it.
const DECISIONS: u32 = 4_000;
/// The most CPU of one decision.
const TARGET: Duration = Duration::from_millis(5);
/// Twice the nodes may cost twice as much, and what a noisy machine adds.
const RATIO_TARGET: f64 = 2.2;

pub(crate) fn decisions() {
    let whole = cpu_of(&cluster(NODES));
    let half = cpu_of(&cluster(NODES / 2));
    let verdict = |ok| if ok { "ok" } else { "MISSED" };
    println!(
        "placement among {NODES} nodes and {} machines: {:.3} ms of CPU per decision (target < {}) {}",
        NODES * MACHINES_PER_NODE,
        whole.as_secs_f64() * 1e3,
        TARGET.as_millis(),
        verdict(whole < TARGET)
    );
    let ratio = whole.as_secs_f64() / half.as_secs_f64().max(1e-9);
    println!(
        "placement, twice the nodes: {ratio:.2} times the CPU (target ≤ {RATIO_TARGET}) {}",
        verdict(ratio <= RATIO_TARGET)
    );
}

/// CPU of one decision, of those for as many apps in turn.
fn cpu_of(view: &ClusterView) -> Duration {
    let pid = i32::try_from(std::process::id()).unwrap();
    let requests: Vec<PlacementRequest> = (0..100).map(request).collect();
    let before = process::cpu(pid);
    for request in requests.iter().cycle().take(DECISIONS as usize) {
        black_box(choose(black_box(view), black_box(request)).unwrap());
    }
    (process::cpu(pid) - before) / DECISIONS
}

fn region(n: u64) -> RegionCode {
    RegionCode::parse(["fra", "ams", "iad", "nrt"][usize::try_from(n % 4).unwrap()]).unwrap()
}

fn app(n: u64) -> AppName {
    AppName::parse(&format!("app-{n}")).unwrap()
}

/// Every machine has a size, and belongs to one of as many apps as there are machines on ten nodes.
fn cluster(n_nodes: u64) -> ClusterView {
    let node = |n: u64| {
        let mut view = NodeView {
            id: NodeId::from_ulid(ulid::Ulid::from_parts(n, 0)),
            region: region(n),
            zone: Some(ZoneName::parse(&format!("z{}", n % 12)).unwrap()),
            labels: BTreeMap::from([("disk".into(), "nvme".into())]),
            refused_rungs: BTreeMap::new(),
            cordoned: n.is_multiple_of(97),
            capacity: Capacity {
                n_cores: 32,
                memory: ByteSize::gib(128),
                n_machines: 1_000,
                overcommit: Overcommit::DEFAULT,
            },
            used: Usage::default(),
            reserved: Usage::default(),
            disk_free: ByteSize::gib(100),
            images: (0..20)
                .map(|image| digest(n * 7 + image))
                .collect::<BTreeSet<_>>(),
            machines: BTreeMap::new(),
        };
        for machine in 0..MACHINES_PER_NODE {
            view.add(&request(n * 31 + machine));
        }
        view
    };
    ClusterView {
        nodes: (0..n_nodes).map(node).collect(),
    }
}

fn digest(n: u64) -> String {
    format!("sha256:{n:064x}")
}

fn request(n: u64) -> PlacementRequest {
    let presets = ["shared-cpu-1x", "shared-cpu-2x", "shared-cpu-4x"];
    let preset = presets[usize::try_from(n % 3).unwrap()];
    PlacementRequest {
        app: app(n % 500),
        group: "app".into(),
        regions: vec![region(n), region(n + 1)],
        guest: Guest::preset(preset).unwrap(),
        isolation: Isolation::Default,
        isolation_floor: Rung::Container,
        labels: BTreeMap::from([("disk".into(), "nvme".into())]),
        volume_node: None,
        alone: false,
        image: Some(digest(n)),
        spread_slack: 0,
        excluded: BTreeMap::new(),
    }
}
