//! Several writers at once.

use super::{NOW, deployment, name, open, open_with_app, release};
use crate::StoreError;
use crate::records::{DeploymentStatus, NewDeployment, ReleaseStatus};
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
        .set_deployment_status(&first, DeploymentStatus::Succeeded, None, NOW)
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

#[tokio::test]
async fn what_ended_stays_as_it_is_and_a_release_that_serves_has_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let record = store
        .create_deployment("app_1", &release(1), &deployment(1), NOW, None)
        .await
        .unwrap();
    let error = DeploymentError {
        code: "machine-exited".into(),
        message: String::new(),
        hint: None,
        machine: None,
        log_tail: vec![],
        listening: vec![],
    };
    for (status, error) in [
        (DeploymentStatus::Undoing, Some(&error)),
        (DeploymentStatus::Retiring, None),
        (DeploymentStatus::Succeeded, None),
        (DeploymentStatus::Failed, Some(&error)),
    ] {
        let set = store.set_deployment_status(&record, status, error, NOW);
        set.await.unwrap();
    }
    let now = store.deployment("app_1", "dep_1").await.unwrap();
    assert_eq!(now.status, DeploymentStatus::Succeeded);
    assert_eq!((now.error, now.finished_at), (None, Some(NOW)));
    let app = store.app(&name("web")).await.unwrap();
    assert_eq!(app.current_release, Some(1));
    let release = store.release("app_1", 1).await.unwrap();
    assert_eq!(release.status, ReleaseStatus::Succeeded);
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
