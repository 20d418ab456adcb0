//! Several writers at once.

use super::{NOW, deployment, name, open, open_with_app, release};
use crate::records::{DeploymentStatus, NewDeployment};
use crate::{Store, StoreError};
use roost_proto::rest::{DeploymentError, DeploymentStep};
use std::time::Duration;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_deployments_begun_at_once_by_two_processes_one_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [open_with_app(dir.path()).await, open(dir.path()).await];
    let mut begun = JoinSet::new();
    for n in 1..=8_usize {
        let store = stores[n % 2].clone();
        begun.spawn(async move {
            let n = u32::try_from(n).unwrap();
            let new = NewDeployment {
                follows: None,
                ..deployment(n)
            };
            store
                .create_deployment("app_1", &release(n), &new, NOW, None)
                .await
        });
    }
    let (done, refused): (Vec<_>, Vec<_>) =
        begun.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!(done.len(), 1);
    for result in refused {
        assert!(matches!(result, Err(StoreError::Exists(_))), "{result:?}");
    }
    let releases = stores[1].releases("app_1").await.unwrap();
    assert_eq!(releases.len(), 1, "a refused deployment leaves no release");
}

#[tokio::test]
async fn a_deployment_planned_before_another_one_came_and_went_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let first = store
        .create_deployment("app_1", &release(1), &deployment(1), NOW, None)
        .await
        .unwrap();
    let late = deployment(2);
    store
        .finish_deployment(&first, DeploymentStatus::Succeeded, NOW)
        .await
        .unwrap();
    let stale = NewDeployment {
        follows: None,
        ..late.clone()
    };
    let refused = store
        .create_deployment("app_1", &release(2), &stale, NOW, None)
        .await;
    assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
    let next = store
        .create_deployment("app_1", &release(2), &late, NOW, None)
        .await
        .unwrap();
    assert_eq!(next.release_version, 2, "the refused one took no number");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn steps_written_at_once_are_numbered_without_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [open_with_app(dir.path()).await, open(dir.path()).await];
    stores[0]
        .create_deployment("app_1", &release(1), &deployment(1), NOW, None)
        .await
        .unwrap();
    let mut written = JoinSet::new();
    for n in 0..40_usize {
        let store = stores[n % 2].clone();
        written.spawn(async move {
            let step = DeploymentStep {
                seq: 0,
                name: n.to_string(),
                machine: None,
                status: "done".into(),
                message: String::new(),
                at: 1,
            };
            store.add_step("dep_1", step).await.unwrap();
        });
    }
    written.join_all().await;
    let steps = stores[0].steps("dep_1", 0).await.unwrap();
    let numbers: Vec<u64> = steps.iter().map(|step| step.seq).collect();
    assert_eq!(numbers, (1..=40).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whether_a_deployment_retires_or_is_undone_is_decided_once() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let store = open_with_app(dir.path()).await;
        let record = store
            .create_deployment("app_1", &release(1), &deployment(1), NOW, None)
            .await
            .unwrap();
        let running = DeploymentStatus::Running;
        store
            .set_deployment_status(&record, running, None)
            .await
            .unwrap();
        let decide = |status, error| {
            let (store, record): (Store, _) = (store.clone(), record.clone());
            async move {
                let error: Option<DeploymentError> = error;
                store
                    .set_deployment_status(&record, status, error.as_ref())
                    .await
                    .unwrap()
            }
        };
        let mut decisions = JoinSet::new();
        decisions.spawn(decide(DeploymentStatus::Retiring, None));
        decisions.spawn(decide(DeploymentStatus::Undoing, Some(cancelled())));
        let held = decisions.join_all().await;
        assert_eq!(held[0], held[1], "both are told the same");
        let now = store.deployment("app_1", "dep_1").await.unwrap();
        let app = store.app(&name("web")).await.unwrap();
        let retires = held[0] == DeploymentStatus::Retiring;
        assert_eq!(now.status, held[0]);
        assert_eq!(now.error.is_none(), retires);
        assert_eq!(app.current_release.is_some(), retires);
    }
}

fn cancelled() -> DeploymentError {
    DeploymentError {
        code: "deploy-cancelled".into(),
        message: String::new(),
        hint: None,
        machine: None,
        log_tail: vec![],
        listening: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_waits_for_another_process_that_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, other) = (open_with_app(dir.path()).await, open(dir.path()).await);
    let held = other.begin("hold the lock").await.unwrap();
    let mut waiting = JoinSet::new();
    let waiter = store.clone();
    waiting.spawn(async move { waiter.create_app("app_2", &name("api"), NOW, None).await });
    let early = tokio::time::timeout(Duration::from_millis(200), waiting.join_next()).await;
    assert!(early.is_err(), "it waits for the lock");
    store.app(&name("web")).await.expect("readers do not wait");
    held.commit().await.unwrap();
    waiting.join_all().await.remove(0).unwrap();
}
