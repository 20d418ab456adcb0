//! What must not be there goes when its node answers, and the fence with it.

use super::Fences;
use crate::limits;
use crate::placement;
use crate::reconcile::{Pass, Reconciler as _};
use crate::testing::cluster::{Cluster, NONE, SILENT, user};
use futures_util::poll;
use roost_proto::worker::{Asker, Cause, WorkerApi as _};
use roost_testkit::faults::Faults;
use std::pin::pin;
use std::time::Duration;

async fn cluster(n_nodes: u128) -> (tempfile::TempDir, Cluster) {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path(), n_nodes).await;
    (dir, cluster)
}

async fn look(cluster: &Cluster) -> Pass {
    Fences(cluster.state.clone()).pass().await.unwrap()
}

#[tokio::test]
async fn a_machine_that_was_removed_while_its_node_was_silent_goes_when_it_answers() {
    let (_dir, cluster) = cluster(1).await;
    let made = cluster.create("one", true).await;
    cluster.nodes[0].calls(SILENT);
    let (fleet, asker) = (&cluster.state.worker, Asker::from(Cause::AppDeletion));
    fleet.destroy_machine(&made.id, true, &asker).await.unwrap();
    let pass = look(&cluster).await;
    assert!(pass.is_more && pass.done.is_empty(), "{pass:?}");
    assert_eq!(fleet.fences().len(), 1);
    cluster.nodes[0].calls(NONE);
    let pass = look(&cluster).await;
    assert_eq!(pass.done.len(), 1, "{pass:?}");
    assert_eq!(cluster.n_machines().await, 0);
    assert!(fleet.fences().is_empty());
    assert!(cluster.state.store.fences().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_machine_that_may_still_come_is_waited_for() {
    let (_dir, cluster) = cluster(2).await;
    let request = cluster.request("one", true);
    cluster.nodes[0].calls(SILENT);
    let asker = user();
    let create = placement::create(&cluster.state, request.clone(), &asker);
    create.await.unwrap();
    cluster.nodes[0].calls(NONE);
    let fleet = &cluster.state.worker;
    look(&cluster).await;
    assert_eq!(fleet.fences().len(), 1, "the call may be under way");
    let late = cluster.nodes[0].worker.create_machine(request, &asker);
    late.await.unwrap();
    let pass = look(&cluster).await;
    assert_eq!(pass.done.len(), 1, "{pass:?}");
    assert!(cluster.nodes[0].machines().await.is_empty());
    assert_eq!(cluster.n_machines().await, 1);
    assert_eq!(fleet.fences().len(), 1, "there were two calls");
    cluster.pass(limits::LATE_CALL_MAX);
    look(&cluster).await;
    assert!(fleet.fences().is_empty());
    assert_eq!(cluster.n_machines().await, 1);
}

#[tokio::test]
async fn a_fence_is_lifted_only_by_a_look_that_began_after_the_last_late_call() {
    let (_dir, cluster) = cluster(2).await;
    cluster.nodes[0].calls(SILENT);
    cluster.create("one", true).await;
    cluster.nodes[0].calls(Faults {
        delay_max: Duration::from_millis(100),
        ..NONE
    });
    let mut slow = pin!(look(&cluster));
    assert!(poll!(&mut slow).is_pending());
    cluster.pass(limits::LATE_CALL_MAX);
    slow.await;
    let fleet = &cluster.state.worker;
    assert_eq!(fleet.fences().len(), 1, "a call may have come meanwhile");
    look(&cluster).await;
    assert!(fleet.fences().is_empty());
}
