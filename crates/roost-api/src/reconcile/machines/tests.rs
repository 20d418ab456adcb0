//! Looks at a cluster whose nodes do as a test says.

use super::Machines;
use crate::limits;
use crate::placement;
use crate::reconcile::{Pass, Reconciler as _};
use crate::testing::cluster::{Cluster, LOST, NONE, SILENT, user};
use crate::workflows::deploy::RELEASE_KEY;
use roost_proto::worker::{
    Launch, LeaseNonce, SecretEnv, TakeLease, UpdateMachine, WorkerApi as _,
};
use roost_testkit::wait::wait_until_async;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

async fn cluster(n_nodes: u128) -> (tempfile::TempDir, Cluster) {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path(), n_nodes).await;
    (dir, cluster)
}

async fn look(cluster: &Cluster) -> Pass {
    Machines(cluster.state.clone()).pass().await.unwrap()
}

/// Stops tokio's clock, which then moves only when a test moves it: also not while the threads
/// of the database work.
fn pause_time() -> mpsc::Sender<()> {
    let (hold, held) = mpsc::channel();
    tokio::time::pause();
    tokio::task::spawn_blocking(move || held.recv());
    hold
}

#[tokio::test]
async fn what_a_node_tells_is_recorded_and_made_anew_of() {
    let (_dir, cluster) = cluster(1).await;
    let made = cluster.create("one", true).await;
    assert_eq!(look(&cluster).await, Pass::default());
    // As after a control plane that was killed before the answers.
    let worker = &cluster.nodes[0].worker;
    let mut spec = made.spec.clone();
    spec.process.env.insert("KEY".into(), "new".into());
    let update = UpdateMachine {
        current_version: None,
        spec,
        secrets: SecretEnv::default(),
        launch: Launch::Start,
    };
    let updated = worker.update_machine(&made.id, update, &user()).await;
    worker.set_cordoned(&made.id, true, &user()).await.unwrap();
    assert_eq!(look(&cluster).await, Pass::default());
    let noted = cluster.placement("one").await.unwrap();
    assert_eq!(noted.version, Some(updated.unwrap().instance_id));
    assert!(noted.is_cordoned);

    worker.wipe();
    assert_eq!(look(&cluster).await.done.len(), 1);
    let anew = cluster.nodes[0].machines().await.remove(0);
    assert_ne!(anew.id, made.id);
    assert_eq!(anew.spec.process.env["KEY"], "new");
    assert!(anew.cordoned, "nobody uncordoned it");
}

#[tokio::test]
async fn what_was_asked_for_on_a_full_disk_is_recorded_once_there_is_room() {
    let (_dir, cluster) = cluster(1).await;
    let made = cluster.create("one", true).await;
    let (fleet, asker) = (&cluster.state.worker, &user());
    cluster.fill_disk().await;
    fleet.set_cordoned(&made.id, true, asker).await.unwrap();
    let stop = fleet.stop_machine(&made.id, None, None, asker);
    stop.await.unwrap();
    let recorded = cluster.placement("one").await.unwrap();
    assert!(!recorded.is_cordoned && !recorded.rests);
    cluster.make_room().await;
    look(&cluster).await;
    let recorded = cluster.placement("one").await.unwrap();
    assert!(recorded.is_cordoned && recorded.rests);
}

#[tokio::test]
async fn a_machine_that_was_stopped_does_not_come_back_and_one_that_ran_does() {
    let (_dir, cluster) = cluster(1).await;
    let (one, two) = (
        cluster.create("one", true).await,
        cluster.create("two", true).await,
    );
    let (fleet, asker) = (&cluster.state.worker, user());
    fleet
        .stop_machine(&one.id, None, None, &asker)
        .await
        .unwrap();
    fleet
        .stop_machine(&two.id, None, None, &asker)
        .await
        .unwrap();
    fleet.start_machine(&two.id, &asker).await.unwrap();
    cluster.nodes[0].worker.wipe();
    look(&cluster).await;
    assert_eq!(cluster.placement("one").await, None);
    let left = cluster.nodes[0].machines().await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].spec.name.as_str(), "two");
}

#[tokio::test]
async fn a_machine_of_a_release_that_does_not_serve_goes_whoever_leases_it() {
    let (_dir, cluster) = cluster(1).await;
    let mut request = cluster.request("one", true);
    let release = (RELEASE_KEY.to_owned(), "7".to_owned());
    request.spec.metadata.extend([release]);
    let made = placement::create(&cluster.state, request, &user()).await;
    let lease = TakeLease {
        nonce: LeaseNonce::from_bytes([7; 16]),
        ttl: Duration::from_secs(60),
        description: "a look inside".into(),
    };
    let fleet = &cluster.state.worker;
    let taken = fleet.take_lease(&made.unwrap().id, lease, &user()).await;
    taken.unwrap();
    assert_eq!(look(&cluster).await.done.len(), 1);
    assert_eq!(cluster.n_machines().await, 0);
}

#[tokio::test]
async fn a_removal_that_comes_late_is_not_undone() {
    let (_dir, cluster) = cluster(1).await;
    let made = cluster.create("one", true).await;
    cluster.nodes[0].calls(SILENT);
    let fleet = &cluster.state.worker;
    fleet
        .destroy_machine(&made.id, true, &user())
        .await
        .unwrap_err();
    cluster.nodes[0].calls(NONE);
    look(&cluster).await;
    let leaving = cluster.placement("one").await.unwrap().leaving_since;
    assert!(leaving.is_some(), "the call may still be on its way");
    let worker = &cluster.nodes[0].worker;
    worker
        .destroy_machine(&made.id, true, &user())
        .await
        .unwrap();
    look(&cluster).await;
    assert_eq!(cluster.placement("one").await, None);
    assert_eq!(cluster.n_machines().await, 0);
}

#[tokio::test]
async fn a_removal_that_never_came_is_forgotten_in_time() {
    let (_dir, cluster) = cluster(1).await;
    let made = cluster.create("one", true).await;
    cluster.nodes[0].calls(SILENT);
    let fleet = &cluster.state.worker;
    fleet
        .destroy_machine(&made.id, true, &user())
        .await
        .unwrap_err();
    cluster.nodes[0].calls(NONE);
    cluster.pass(limits::LATE_CALL_MAX);
    look(&cluster).await;
    let placed = cluster.placement("one").await.unwrap();
    assert_eq!(placed.leaving_since, None);
    assert_eq!(cluster.n_machines().await, 1);
}

#[tokio::test]
async fn a_name_is_free_again_when_its_node_answers_without_the_machine() {
    let (_dir, cluster) = cluster(1).await;
    cluster.nodes[0].calls(SILENT);
    let request = cluster.request("one", false);
    let create = placement::create(&cluster.state, request, &user()).await;
    create.unwrap_err();
    cluster.pass(limits::COMING_MAX);
    look(&cluster).await;
    assert!(cluster.placement("one").await.is_some(), "it may be there");
    cluster.nodes[0].calls(NONE);
    look(&cluster).await;
    assert_eq!(cluster.placement("one").await, None);
}

#[tokio::test]
async fn a_machine_whose_answer_was_lost_is_found_by_its_name() {
    let (_dir, cluster) = cluster(1).await;
    cluster.nodes[0].calls(LOST);
    let request = cluster.request("one", false);
    let create = placement::create(&cluster.state, request, &user()).await;
    create.unwrap_err();
    cluster.nodes[0].calls(NONE);
    look(&cluster).await;
    let found = cluster.nodes[0].machines().await.remove(0);
    let placed = cluster.placement("one").await.unwrap();
    assert_eq!(placed.machine, Some(found.id));
    assert_eq!(placed.version, Some(found.instance_id));
}

#[tokio::test]
async fn nothing_is_made_for_an_app_whose_deletion_has_begun() {
    let (_dir, cluster) = cluster(1).await;
    cluster.create("one", true).await;
    cluster.nodes[0].worker.wipe();
    let gate = cluster.state.machine_gates.of("app_1");
    let deletion = gate.write().await;
    let pass = look(&cluster);
    tokio::pin!(pass);
    let at_gate = wait_until_async("the pass is at the gate", PATIENCE, async || {
        // Whoever waits at a gate holds it, beside the test and the state.
        let n_holders = Arc::strong_count(&gate);
        (n_holders == 3).then_some(()).ok_or(n_holders)
    });
    tokio::select! {
        early = &mut pass => panic!("it waits: {early:?}"),
        () = at_gate => {}
    }
    let (store, now) = (&cluster.state.store, cluster.state.clock.now());
    store.begin_app_deletion("app_1", now).await.unwrap();
    drop(deletion);
    assert_eq!(pass.await, Pass::default());
    assert_eq!(cluster.n_machines().await, 0);
}

#[tokio::test]
async fn what_is_on_a_lost_node_is_made_elsewhere_and_fenced_there() {
    let (_dir, cluster) = cluster(3).await;
    let made = cluster.create("one", true).await;
    let old = cluster.node_of("one").await;
    let _hold = pause_time();
    cluster.lose(old).await;
    assert_eq!(look(&cluster).await.done.len(), 1);
    assert_ne!(cluster.node_of("one").await, old);
    assert_eq!(
        cluster.n_machines().await,
        2,
        "nobody could tell the old node"
    );
    let fences = cluster.state.worker.fences();
    assert_eq!(fences[0].machine, Some(made.id));
}

#[tokio::test]
async fn what_is_to_serve_again_is_made_elsewhere_though_it_was_stopped_on_a_node_that_is_lost() {
    let (_dir, cluster) = cluster(3).await;
    let made = cluster.create("one", true).await;
    let (fleet, asker) = (&cluster.state.worker, &user());
    fleet.set_cordoned(&made.id, true, asker).await.unwrap();
    let stop = fleet.stop_machine(&made.id, None, None, asker);
    stop.await.unwrap();
    let old = cluster.node_of("one").await;
    let _hold = pause_time();
    cluster.lose(old).await;
    assert_eq!(look(&cluster).await, Pass::default(), "it rests");
    fleet.want_serving(&made.id).await.unwrap();
    assert_eq!(look(&cluster).await.done.len(), 1);
    let new = cluster.node_of("one").await;
    assert_ne!(new, old);
    assert!(!cluster.nodes[new].machines().await[0].cordoned);
}

#[tokio::test]
async fn nothing_is_made_elsewhere_while_most_nodes_are_silent() {
    let (_dir, cluster) = cluster(3).await;
    cluster.create("one", true).await;
    let _hold = pause_time();
    for idx in [0, 1] {
        cluster.nodes[idx].calls(SILENT);
    }
    cluster.lose(cluster.node_of("one").await).await;
    assert!(!cluster.state.worker.is_majority());
    assert_eq!(look(&cluster).await, Pass::default());
    assert_eq!(cluster.n_machines().await, 1);
}
