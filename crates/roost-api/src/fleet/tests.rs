//! What is recorded of a machine when it is changed or removed, whatever becomes of the call.

use crate::fleet::Fleet;
use crate::placement;
use crate::testing::cluster::{Cluster, LOST, NONE, SILENT, user};
use roost_model::error::Classify as _;
use roost_model::id::MachineId;
use roost_proto::worker::{
    Asker, Cause, Launch, MachineStatus, SecretEnv, UpdateMachine, WorkerApi as _, WorkerError,
};
use roost_store::placements::Placement;

/// The app `web` with the kept machine `one` on one node.
struct One {
    _dir: tempfile::TempDir,
    cluster: Cluster,
    made: MachineStatus,
}

impl One {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::start(dir.path(), 1).await;
        let made = cluster.create("one", true).await;
        Self {
            _dir: dir,
            cluster,
            made,
        }
    }

    fn fleet(&self) -> &Fleet {
        &self.cluster.state.worker
    }

    fn id(&self) -> &MachineId {
        &self.made.id
    }

    /// A change of its environment.
    fn update(&self, value: &str) -> UpdateMachine {
        let mut spec = self.made.spec.clone();
        spec.process.env.insert("KEY".into(), value.into());
        UpdateMachine {
            current_version: None,
            spec,
            secrets: SecretEnv::default(),
            launch: Launch::Start,
        }
    }

    async fn ask(&self, update: UpdateMachine) -> Result<MachineStatus, WorkerError> {
        let asker = user();
        self.fleet().update_machine(self.id(), update, &asker).await
    }

    async fn recorded(&self) -> Placement {
        self.cluster.placement("one").await.unwrap()
    }

    async fn recorded_env(&self) -> Option<String> {
        let store = &self.cluster.state.store;
        let blueprint = store.blueprint("request-one").await.unwrap();
        blueprint.config.env.get("KEY").cloned()
    }

    async fn status(&self) -> MachineStatus {
        self.cluster.nodes[0]
            .worker
            .machine(self.id())
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn an_update_is_recorded_before_its_node_is_asked() {
    let one = One::start().await;
    for (value, lost) in [("a", LOST), ("b", SILENT)] {
        one.cluster.nodes[0].calls(lost);
        let update = one.ask(one.update(value)).await;
        assert_eq!(update.unwrap_err().code().to_string(), "worker-unreachable");
        assert_eq!(one.recorded_env().await.as_deref(), Some(value));
        assert_eq!(
            one.recorded().await.version,
            None,
            "what came of it is not known"
        );
    }
    one.cluster.nodes[0].calls(NONE);
    let updated = one.ask(one.update("c")).await.unwrap();
    assert_eq!(one.recorded_env().await.as_deref(), Some("c"));
    assert_eq!(one.recorded().await.version, Some(updated.instance_id));
}

#[tokio::test]
async fn an_update_that_is_refused_leaves_the_record_as_the_machine_is() {
    let one = One::start().await;
    let second = one.ask(one.update("a")).await.unwrap();
    let late = UpdateMachine {
        current_version: Some(one.made.instance_id.clone()),
        ..one.update("b")
    };
    let refused = one.ask(late).await;
    assert_eq!(refused.unwrap_err().code().to_string(), "machine-conflict");
    assert_eq!(one.recorded_env().await.as_deref(), Some("a"));
    assert_eq!(one.recorded().await.version, Some(second.instance_id));
}

#[tokio::test]
async fn an_update_that_cannot_be_recorded_does_not_happen() {
    let one = One::start().await;
    one.cluster.fill_disk().await;
    let refused = one.ask(one.update("a")).await;
    assert_eq!(refused.unwrap_err().code().to_string(), "disk-full");
    let (value, asker) = (Some("gold".to_owned()), &user());
    let set = one.fleet().set_metadata(one.id(), "tier", value, asker);
    assert_eq!(set.await.unwrap_err().code().to_string(), "disk-full");
    assert_eq!(one.status().await, one.made);
    one.cluster.make_room().await;
    assert_eq!(one.recorded_env().await, None);
}

#[tokio::test]
async fn rest_and_cordon_are_asked_for_also_when_they_cannot_be_recorded() {
    let one = One::start().await;
    let (fleet, id, asker) = (one.fleet(), one.id(), &user());
    one.cluster.fill_disk().await;
    let stopped = fleet.stop_machine(id, None, None, asker).await.unwrap();
    assert_eq!(placement::rests(stopped.state), Some(true));
    let started = fleet.start_machine(id, asker).await.unwrap();
    assert_eq!(placement::rests(started.state), Some(false));
    fleet.restart_machine(id, asker).await.unwrap();
    let suspended = fleet.suspend_machine(id, asker).await;
    let code = suspended.unwrap_err().code().to_string();
    assert_eq!(code, "cannot-suspend", "its worker's answer");
    let cordoned = fleet.set_cordoned(id, true, asker).await.unwrap();
    assert!(cordoned.cordoned);
    assert!(!one.recorded().await.is_cordoned);
}

#[tokio::test]
async fn rest_and_cordon_are_recorded_with_the_request_for_them() {
    let one = One::start().await;
    let (fleet, id, asker) = (one.fleet(), one.id(), &user());
    fleet.stop_machine(id, None, None, asker).await.unwrap();
    assert!(one.recorded().await.rests);
    fleet.start_machine(id, asker).await.unwrap();
    assert!(!one.recorded().await.rests);
    fleet.set_cordoned(id, true, asker).await.unwrap();
    let recorded = one.recorded().await;
    assert!(recorded.is_cordoned && !recorded.rests);
    assert_eq!(recorded.version, Some(one.made.instance_id.clone()));
    one.cluster.nodes[0].calls(LOST);
    fleet.stop_machine(id, None, None, asker).await.unwrap_err();
    assert!(one.recorded().await.rests, "it did stop, unheard");
}

#[tokio::test]
async fn metadata_that_changes_is_recorded() {
    let one = One::start().await;
    let (fleet, value) = (one.fleet(), Some("gold".to_owned()));
    let set = fleet.set_metadata(one.id(), "tier", value, &user()).await;
    set.unwrap();
    let store = &one.cluster.state.store;
    let blueprint = store.blueprint("request-one").await.unwrap();
    assert_eq!(blueprint.config.metadata["tier"], "gold");
    assert!(one.recorded().await.version.is_some());
}

#[tokio::test]
async fn a_removed_machine_is_forgotten_and_one_that_stays_is_not() {
    let one = One::start().await;
    let refused = one.fleet().destroy_machine(one.id(), false, &user()).await;
    assert_eq!(refused.unwrap_err().code().to_string(), "machine-conflict");
    assert_eq!(one.recorded().await.leaving_since, None);
    one.fleet()
        .destroy_machine(one.id(), true, &user())
        .await
        .unwrap();
    assert_eq!(one.cluster.placement("one").await, None);
    assert!(!one.fleet().is_under_way(one.id()));
}

#[tokio::test]
async fn a_removal_without_an_answer_stays_a_wish_of_its_time() {
    let one = One::start().await;
    one.cluster.nodes[0].calls(SILENT);
    let lost = one.fleet().destroy_machine(one.id(), true, &user()).await;
    assert_eq!(lost.unwrap_err().code().to_string(), "worker-unreachable");
    let now = one.cluster.state.clock.now();
    assert_eq!(one.recorded().await.leaving_since, Some(now));
    assert!(one.fleet().fences().is_empty());
}

#[tokio::test]
async fn a_removal_that_nobody_may_object_to_is_a_fence_when_its_node_is_silent() {
    let one = One::start().await;
    one.cluster.nodes[0].calls(SILENT);
    let asker = Asker::from(Cause::AppDeletion);
    one.fleet()
        .destroy_machine(one.id(), true, &asker)
        .await
        .unwrap();
    assert_eq!(one.cluster.placement("one").await, None);
    let fences = one.cluster.state.store.fences().await.unwrap();
    assert_eq!(fences, one.fleet().fences());
    assert_eq!(fences[0].machine.as_ref(), Some(one.id()));
    let gone = one.fleet().machine(one.id()).await.unwrap_err();
    assert_eq!(gone.code().to_string(), "machine-not-found");
}
