//! The search of a node, when nodes decline, fall silent, or have answered to nobody.

use super::{Search, create, create_anew, is_kept, rests};
use crate::error::ApiError;
use crate::limits;
use crate::testing::cluster::{Cluster, LOST, NONE, SILENT, user};
use roost_model::error::Classify as _;
use roost_model::machine::MachineState;
use roost_proto::worker::Cause;

async fn cluster(n_nodes: u128) -> (tempfile::TempDir, Cluster) {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path(), n_nodes).await;
    (dir, cluster)
}

#[tokio::test]
async fn a_node_that_declines_is_passed_over_without_a_fence() {
    let (_dir, cluster) = cluster(2).await;
    // Which one is asked first is for the choice to say.
    for node in &cluster.nodes {
        node.set_room(1);
    }
    let first = cluster.create("one", true).await;
    let second = cluster.create("two", true).await;
    assert_ne!(cluster.node_of("one").await, cluster.node_of("two").await);
    let placed = cluster.placement("two").await.unwrap();
    assert_eq!(placed.machine, Some(second.id));
    assert_eq!(placed.version, Some(second.instance_id));
    assert_ne!(placed.machine, Some(first.id));
    assert!(cluster.state.store.fences().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_machine_that_no_node_takes_leaves_its_name_free_and_each_node_has_its_reason() {
    let (_dir, cluster) = cluster(2).await;
    cluster.nodes.iter().for_each(|node| node.set_room(0));
    let request = cluster.request("one", false);
    let refused = create(&cluster.state, request, &user()).await.unwrap_err();
    let refused = ApiError::from(refused);
    assert_eq!(refused.code, "no-placement");
    assert_eq!(refused.refusals.len(), 2, "{:?}", refused.refusals);
    assert_eq!(cluster.placement("one").await, None);
}

#[tokio::test]
async fn what_a_reconciler_searches_a_node_for_is_not_given_up() {
    let (_dir, cluster) = cluster(2).await;
    cluster.create("one", true).await;
    let seen = cluster.placement("one").await.unwrap();
    // Each declines, though there was room when it was looked at.
    cluster.nodes.iter().for_each(|node| {
        node.worker.wipe();
        node.set_room(0);
    });
    let request = cluster.request("one", true);
    let anew = create_anew(&cluster.state, &seen, request.clone(), "it vanished").await;
    assert_eq!(anew.unwrap_err().code().to_string(), "no-placement");
    let kept = cluster.placement("one").await.unwrap();
    assert_eq!((&kept.machine, kept.attempt), (&None, 1));
    cluster.nodes.iter().for_each(|node| node.set_room(1));
    let found = create(&cluster.state, request, &Cause::Reconciler.into()).await;
    assert_eq!(
        cluster.placement("one").await.unwrap().machine,
        Some(found.unwrap().id)
    );
}

#[tokio::test]
async fn a_kept_machine_whose_answer_is_lost_is_asked_of_another_node_and_fenced_on_the_first() {
    for lost in [LOST, SILENT] {
        let (_dir, cluster) = cluster(2).await;
        // Both look alike: the one that is chosen has the smaller id.
        cluster.nodes[0].calls(lost);
        let made = cluster.create("one", true).await;
        assert_eq!(cluster.node_of("one").await, 1);
        assert_eq!(cluster.nodes[1].machines().await[0].id, made.id);
        let fences = cluster.state.worker.fences();
        let [fence] = fences.as_slice() else {
            panic!("{fences:?}");
        };
        assert_eq!((&fence.node, &fence.machine), (&cluster.nodes[0].id, &None));
        assert_eq!(cluster.state.store.fences().await.unwrap(), fences);
    }
}

#[tokio::test]
async fn a_machine_that_is_not_kept_is_asked_of_its_node_only_and_made_once() {
    let (_dir, cluster) = cluster(2).await;
    cluster.nodes[0].calls(LOST);
    let request = cluster.request("one", false);
    let lost = create(&cluster.state, request.clone(), &user()).await;
    assert_eq!(lost.unwrap_err().code().to_string(), "worker-unreachable");
    cluster.nodes[0].calls(NONE);
    let again = create(&cluster.state, request, &user()).await.unwrap();
    assert_eq!(cluster.n_machines().await, 1);
    assert_eq!(
        cluster.placement("one").await.unwrap().machine,
        Some(again.id)
    );
    assert!(cluster.state.worker.fences().is_empty());
}

#[tokio::test]
async fn a_name_that_an_unanswered_request_has_says_so_and_until_when() {
    let (_dir, cluster) = cluster(1).await;
    cluster.nodes[0].calls(SILENT);
    let first = cluster.request("one", false);
    create(&cluster.state, first.clone(), &user())
        .await
        .unwrap_err();
    cluster.nodes[0].calls(NONE);
    let mut second = first.clone();
    second.request_id = "another".into();
    let taken = create(&cluster.state, second.clone(), &user()).await;
    let taken = taken.unwrap_err();
    assert_eq!(taken.code().to_string(), "machine-conflict");
    let text = taken.to_string();
    assert!(text.contains("has not answered yet"), "{text}");
    assert!(text.contains("from 1970-01-01T00:18:40"), "{text}");
    // The time counts from the last question.
    cluster.pass(limits::COMING_MAX);
    cluster.nodes[0].calls(SILENT);
    create(&cluster.state, first.clone(), &user())
        .await
        .unwrap_err();
    cluster.nodes[0].calls(NONE);
    let taken = create(&cluster.state, second.clone(), &user()).await;
    let text = taken.unwrap_err().to_string();
    assert!(text.contains("from 1970-01-01T00:20:40"), "{text}");
    create(&cluster.state, first, &user()).await.unwrap();
    let taken = create(&cluster.state, second, &user()).await;
    let text = taken.unwrap_err().to_string();
    assert!(text.ends_with("already; choose another name"), "{text}");
}

#[tokio::test]
async fn a_machine_that_nobody_wants_when_its_answer_comes_is_removed() {
    let (_dir, cluster) = cluster(1).await;
    let request = cluster.request("one", false);
    cluster.nodes[0].calls(LOST);
    create(&cluster.state, request.clone(), &user())
        .await
        .unwrap_err();
    cluster.nodes[0].calls(NONE);
    assert_eq!(cluster.n_machines().await, 1);
    let asker = user();
    let mut search = Search::begin(&cluster.state, request, &asker)
        .await
        .unwrap();
    let seen = cluster.placement("one").await.unwrap();
    cluster.state.store.give_up_placement(&seen).await.unwrap();
    let refused = search.ask().await.unwrap_err();
    assert!(refused.to_string().contains("removed while it was made"));
    assert_eq!(cluster.n_machines().await, 0);
}

#[test]
fn only_what_came_to_an_end_rests() {
    for state in [MachineState::Stopping, MachineState::Suspending] {
        assert_eq!(rests(state), None, "it may be restarted");
    }
    assert_eq!(rests(MachineState::Starting), Some(false));
    assert_eq!(rests(MachineState::Failed), Some(true));
}

#[tokio::test]
async fn what_is_to_run_once_or_stands_by_is_not_kept() {
    let (_dir, cluster) = cluster(1).await;
    let kept = cluster.request("one", true).spec;
    assert!(is_kept(&kept));
    let mut once = kept.clone();
    once.auto_destroy = true;
    let mut by_hand = kept.clone();
    by_hand.metadata.clear();
    let mut standby = kept;
    standby.standbys = vec![roost_model::id::MachineId::from_bytes([1; 7])];
    for spec in [once, by_hand, standby] {
        assert!(!is_kept(&spec), "{spec:?}");
    }
}
