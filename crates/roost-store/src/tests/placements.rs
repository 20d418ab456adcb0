//! Where machines are: each change once, and of what was seen only.

use super::{NOW, open_with_app};
use crate::placements::{Blueprint, Change, Chosen, Fence, Placement};
use crate::{Store, StoreError};
use roost_model::id::{InstanceId, MachineId, NodeId};
use roost_model::name::MachineName;
use roost_proto::machine_config::MachineConfig;

fn machine_name(text: &str) -> MachineName {
    MachineName::parse(text).unwrap()
}

fn machine(n: u8) -> MachineId {
    MachineId::from_bytes([n; 7])
}

fn version(n: u128) -> InstanceId {
    InstanceId::from_ulid(n.into())
}

fn blueprint() -> Blueprint {
    Blueprint {
        region: "local".to_owned().try_into().unwrap(),
        config: MachineConfig::default(),
        release_version: Some(3),
        is_kept: true,
    }
}

fn chosen(n: u64) -> Chosen {
    Chosen {
        node: NodeId::parse(&format!("node_{n:026}")).unwrap(),
        why: "the only one".into(),
        at: NOW,
    }
}

fn fence(of: &Placement) -> Fence {
    Fence {
        node: of.node.clone(),
        app: of.app.clone(),
        name: of.name.clone(),
        machine: of.machine.clone(),
        why: "replaced".into(),
        since: NOW,
    }
}

async fn begin(store: &Store, request_id: &str, name: &str) -> Result<bool, StoreError> {
    let name = machine_name(name);
    store
        .begin_placement((request_id, "app_1", &name), &blueprint(), &chosen(1))
        .await
}

#[tokio::test]
async fn a_request_has_one_node_and_a_name_one_request() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    assert!(begin(&store, "r1", "one").await.unwrap());
    assert!(!begin(&store, "r1", "one").await.unwrap(), "it has one");
    let taken = begin(&store, "r2", "one").await;
    assert!(matches!(taken, Err(StoreError::Exists(_))), "{taken:?}");
    let seen = store.placement("r1").await.unwrap().unwrap();
    assert_eq!((seen.attempt, &seen.machine), (0, &None));
    assert_eq!(store.blueprint("r1").await.unwrap(), blueprint());
    store.give_up_placement(&seen).await.unwrap();
    assert!(begin(&store, "r2", "one").await.unwrap());
}

#[tokio::test]
async fn a_placement_that_changed_since_it_was_seen_is_not_moved() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    begin(&store, "r1", "one").await.unwrap();
    let early = store.placement("r1").await.unwrap().unwrap();
    assert!(
        store
            .settle_placement("r1", 0, (&machine(1), &version(1)))
            .await
            .unwrap()
    );
    let late = store
        .move_placement(&early, &chosen(2), Some(&fence(&early)))
        .await;
    assert!(!late.unwrap());
    assert!(store.fences().await.unwrap().is_empty());
    let seen = store.placement("r1").await.unwrap().unwrap();
    store.set_leaving(&machine(1), NOW).await.unwrap();
    assert!(
        !store.move_placement(&seen, &chosen(2), None).await.unwrap(),
        "it may be gone because somebody wanted so"
    );
    store.set_staying(&machine(1), NOW, None).await.unwrap();
    let moved = store
        .move_placement(&seen, &chosen(2), Some(&fence(&seen)))
        .await;
    assert!(moved.unwrap());
    assert!(
        !store
            .settle_placement("r1", 0, (&machine(1), &version(1)))
            .await
            .unwrap(),
        "the answer of the first node comes late"
    );
    let fences = store.fences().await.unwrap();
    assert_eq!(fences[0].machine, Some(machine(1)));
    store.lift_fence(&fences[0]).await.unwrap();
    assert!(store.fences().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_change_is_of_what_was_seen_and_one_that_is_asked_for_has_no_version() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    begin(&store, "r1", "one").await.unwrap();
    let settle = async |n| {
        let machine = (&machine(1), &version(n));
        let settled = store.settle_placement("r1", 0, machine).await;
        assert!(settled.unwrap());
    };
    let placement = async || store.placement("r1").await.unwrap().unwrap();
    settle(1).await;
    settle(2).await;
    let seen = placement().await;
    assert_eq!(seen.version, Some(version(1)), "of a repetition: unknown");

    let wanted = Change {
        blueprint: Some(Blueprint {
            release_version: None,
            is_kept: false,
            ..blueprint()
        }),
        is_cordoned: Some(true),
        ..Change::default()
    };
    store.change_placement(&machine(1), &wanted).await.unwrap();
    let asked = placement().await;
    assert_eq!((&asked.version, asked.is_cordoned), (&None, true));
    assert_eq!((asked.release_version, asked.is_kept), (None, false));
    assert!(!asked.rests, "nothing was said of that");
    let told = Change {
        version: Some(version(1)),
        blueprint: Some(blueprint()),
        rests: Some(true),
        is_cordoned: None,
    };
    store.note_placement(&seen, &told).await.unwrap();
    assert_eq!(
        placement().await,
        asked,
        "it was told before that was asked"
    );
    let moved = store.move_placement(&seen, &chosen(2), None).await.unwrap();
    assert!(!moved, "what it is to be is not what was seen");
    store.note_placement(&asked, &told).await.unwrap();
    let noted = placement().await;
    assert_eq!((noted.version, noted.rests), (Some(version(1)), true));
    assert!(noted.is_kept && noted.is_cordoned);
    assert!(
        store
            .move_placement(&placement().await, &chosen(2), None)
            .await
            .unwrap()
    );
    let moved = placement().await;
    assert_eq!((moved.version, moved.is_cordoned), (None, true));
}

#[tokio::test]
async fn fences_outlive_the_app_and_what_is_left_of_it_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    begin(&store, "r1", "one").await.unwrap();
    store
        .settle_placement("r1", 0, (&machine(1), &version(1)))
        .await
        .unwrap();
    let seen = store.placements().await.unwrap().remove(0);
    store.fence_out(&machine(1), &fence(&seen)).await.unwrap();
    assert!(store.placements().await.unwrap().is_empty());
    begin(&store, "r2", "two").await.unwrap();
    let left = store.placements().await.unwrap().remove(0);
    store.begin_app_deletion("app_1", NOW).await.unwrap();
    store.delete_app("app_1", NOW).await.unwrap();
    assert!(store.placements().await.unwrap().is_empty());
    // Nobody could ask the node of the second one.
    let left = Fence {
        why: "its app was deleted".into(),
        ..fence(&left)
    };
    assert_eq!(store.fences().await.unwrap(), [fence(&seen), left]);
}
