//! What is known of machines: where they are, and that they are no more.

use super::Nodes;
use roost_model::id::{InstanceId, MachineId, NodeId};
use roost_model::machine::{MachineState, Rung};
use roost_model::name::AppName;
use roost_model::time::Timestamp;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::worker::MachineStatus;
use roost_store::placements::Fence;
use roost_testkit::sim_worker::SimWorker;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

fn node(n: u128) -> NodeId {
    NodeId::from_ulid(n.into())
}

fn machine(n: u8) -> MachineId {
    MachineId::from_bytes([n; 7])
}

/// The machine `n` of an app; its name is its number's.
fn status(app: &str, n: u8) -> MachineStatus {
    let config: MachineConfig = serde_json::from_value(serde_json::json!({"image": "a"})).unwrap();
    let identity = MachineIdentity {
        app: app.to_owned().try_into().unwrap(),
        name: format!("m{n}").try_into().unwrap(),
        region: "local".to_owned().try_into().unwrap(),
    };
    MachineStatus {
        id: machine(n),
        instance_id: InstanceId::from_ulid(ulid::Ulid::nil()),
        spec: config.to_spec(identity).unwrap(),
        state: MachineState::Started,
        state_reason: None,
        image_digest: None,
        private_ipv4: Ipv4Addr::LOCALHOST,
        private_ipv6: Ipv6Addr::LOCALHOST,
        rung: Rung::Container,
        pid: None,
        checks: vec![],
        cordoned: false,
        last_exit: None,
        due_at: None,
        created_at: Timestamp::from_ms(1),
        updated_at: Timestamp::from_ms(1),
    }
}

fn fence(status: &MachineStatus, machine: Option<MachineId>) -> Fence {
    Fence {
        node: node(1),
        app: status.spec.app.clone(),
        name: status.spec.name.clone(),
        machine,
        why: "replaced".into(),
        since: Timestamp::from_ms(1),
    }
}

/// A question that comes after all that was heard until now.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

fn two_nodes() -> Nodes {
    let mut nodes = Nodes::default();
    nodes.join(node(1), Arc::new(SimWorker::new()));
    nodes.join(node(2), Arc::new(SimWorker::new()));
    nodes
}

#[test]
fn no_home_is_kept_of_a_machine_that_its_node_does_not_list_any_more() {
    let (mut nodes, web) = (two_nodes(), AppName::parse("web").unwrap());
    nodes.settle(&node(1), machine(9), web.clone());
    nodes.set_machines(&node(1), Some(&web), &[status("web", 1)], soon());
    nodes.set_machines(&node(1), None, &[1, 2, 3].map(|n| status("web", n)), soon());
    nodes.remember(&node(1), status("web", 4));
    assert_eq!(nodes.home(&machine(9)), None, "it was there before");
    nodes.set_machines(
        &node(1),
        Some(&web),
        &[1, 2].map(|n| status("web", n)),
        soon(),
    );
    nodes.unlist(&node(1), &machine(2));
    let last = nodes.home(&machine(2));
    assert_eq!(last, Some(node(1)), "its end can still be asked for");
    nodes.set_machines(&node(1), None, &[status("web", 1)], soon());
    assert_eq!(nodes.home(&machine(1)), Some(node(1)));
    assert_eq!(nodes.homes.len(), 1, "{:?}", nodes.homes);
    assert_eq!(nodes.by_id[&node(1)].homed.len(), 1);
}

#[test]
fn a_machine_that_was_made_while_its_node_was_asked_stays_known() {
    let (mut nodes, web) = (two_nodes(), AppName::parse("web").unwrap());
    nodes.set_machines(&node(1), None, &[status("web", 1)], soon());
    let asked_at = Instant::now();
    nodes.remember(&node(1), status("web", 2));
    nodes.set_machines(&node(1), None, &[status("web", 1)], asked_at);
    nodes.set_machines(&node(1), Some(&web), &[status("web", 1)], asked_at);
    assert_eq!(nodes.home(&machine(2)), Some(node(1)));
    assert!(nodes.last_known(&machine(2)).is_some());
    nodes.set_machines(&node(1), None, &[status("web", 1)], soon());
    assert_eq!(nodes.home(&machine(2)), None, "its node was asked since");
}

#[test]
fn a_machine_has_the_home_that_told_of_it_last() {
    let mut nodes = two_nodes();
    nodes.set_machines(&node(1), None, &[status("web", 1)], soon());
    nodes.set_machines(&node(2), None, &[status("web", 1)], soon());
    nodes.forget(&node(1), &machine(1));
    nodes.set_machines(&node(1), None, &[], soon());
    assert_eq!(nodes.home(&machine(1)), Some(node(2)));
}

#[test]
fn another_way_to_a_node_takes_along_what_is_known_of_it() {
    let mut nodes = two_nodes();
    nodes.set_machines(&node(1), None, &[status("web", 1)], soon());
    nodes.join(node(1), Arc::new(SimWorker::new()));
    assert!(nodes.last_known(&machine(1)).is_some());
    nodes.set_machines(&node(1), None, &[], soon());
    assert_eq!(nodes.home(&machine(1)), None);
}

#[test]
fn what_is_fenced_by_its_id_or_name_is_no_more_and_lifting_one_fence_leaves_the_others() {
    let mut nodes = two_nodes();
    let [one, two, three] = [1, 2, 3].map(|n| status("web", n));
    nodes.set_machines(
        &node(1),
        None,
        &[one.clone(), two.clone(), three.clone()],
        soon(),
    );
    nodes.fence(fence(&one, Some(machine(1))));
    nodes.fence(fence(&two, None));
    assert!(nodes.is_fenced_out(&machine(1)));
    assert_eq!(nodes.home(&machine(1)), None);
    assert_eq!(nodes.node_of(&machine(1)), Some(node(1)));
    assert!(nodes.is_fenced(&node(1), &one) && nodes.is_fenced(&node(1), &two));
    assert!(!nodes.is_fenced(&node(1), &three) && !nodes.is_fenced(&node(2), &two));
    let again = status("web", 7);
    let again = MachineStatus {
        spec: one.spec.clone(),
        ..again
    };
    assert!(
        !nodes.is_fenced(&node(1), &again),
        "another one of its name"
    );
    // A later fence for the same name takes the place of the first.
    nodes.fence(fence(&two, Some(machine(2))));
    assert_eq!(nodes.fences().count(), 2);
    nodes.lift(&fence(&one, None));
    let left: Vec<_> = nodes.fences().map(|fence| fence.machine.clone()).collect();
    assert_eq!(left, [Some(machine(2))]);
}
