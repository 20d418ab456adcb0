//! Runs in the control database: the contract, and one transaction with what they are about.

use super::{NOW, count, deployment, open, open_with_app, release, run};
use crate::records::NewDeployment;
use crate::{StoreError, subject_of_app};
use parking_lot::Mutex;
use roost_fsm::journal::{Entry, Journal, JournalError, NewRun};
use roost_fsm::record::{Direction, Outcome, Status, Subject};
use roost_fsm::testing::contract::check_journal;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_of_journals_holds() {
    let dir = tempfile::tempdir().unwrap();
    let n_databases = Mutex::new(0);
    check_journal(async || {
        let path = {
            let mut n_databases = n_databases.lock();
            *n_databases += 1;
            dir.path().join(n_databases.to_string())
        };
        std::fs::create_dir(&path).unwrap();
        Arc::new(open(&path).await.runs()) as Arc<dyn Journal>
    })
    .await;
}

#[tokio::test]
async fn a_deployment_and_its_run_are_recorded_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let mut damaged = deployment(1);
    // The second slot is refused after all else was written.
    damaged.slots.push(damaged.slots[0].clone());
    for new in [damaged, deployment(1)] {
        let made = store
            .create_deployment("app_1", &release(1), &new, NOW, None)
            .await;
        let rows = [
            count(&store, "deployments").await,
            count(&store, "runs").await,
        ];
        assert_eq!(rows, [i64::from(made.is_ok()); 2], "{made:?}");
    }
    let found = store.run_with_key("dep_1").await.unwrap();
    assert_eq!(found.map(|run| run.id), Some(run(1).id));
    assert_eq!(store.run_with_key("dep_2").await.unwrap(), None);
}

#[tokio::test]
async fn a_deployment_whose_app_is_busy_is_refused_with_all_that_belongs_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    store.runs().open(run(7)).await.unwrap();
    let new = NewDeployment {
        run: NewRun {
            subject: run(7).subject,
            ..run(1)
        },
        ..deployment(1)
    };
    let refused = store
        .create_deployment("app_1", &release(1), &new, NOW, None)
        .await;
    assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
    assert_eq!(count(&store, "releases").await, 0);
}

#[tokio::test]
async fn a_run_is_taken_up_where_a_version_without_runs_left_its_deployment() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let done = [
        Entry::StepStarted {
            step: "roll".into(),
            direction: Direction::Do,
            attempt: 1,
        },
        Entry::StepEnded {
            outcome: Outcome::Done,
            reason: None,
            output: Some("null".into()),
            retry_at: None,
        },
        Entry::PointPassed,
    ];
    store.take_up_deployment(&run(1), &done, NOW).await.unwrap();
    let story = store.runs().load(run(1).id).await.unwrap().unwrap();
    assert!(story.run.is_past_point && story.run.status == Status::Running);
    assert_eq!(story.steps[0].output.as_deref(), Some("null"));
    let lease = story.run.lease.unwrap();
    assert!(lease.until <= NOW, "anybody may go on with it");
}

#[tokio::test]
async fn the_runs_of_an_app_go_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    for (n, id) in [(1, "app_1"), (2, "app_2")] {
        let subject = Subject::new(subject_of_app(id)).unwrap();
        let new = NewRun { subject, ..run(n) };
        store.runs().open(new).await.unwrap();
    }
    store.begin_app_deletion("app_1", NOW).await.unwrap();
    store.delete_app("app_1", NOW).await.unwrap();
    assert_eq!(count(&store, "runs").await, 1, "that of the other app");
}

#[tokio::test]
async fn a_full_disk_is_told_apart_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    store.limit_pages(1).await.unwrap();
    let large = NewRun {
        params: "x".repeat(100_000),
        ..run(1)
    };
    let error = store.runs().open(large.clone()).await.unwrap_err();
    assert!(matches!(error, JournalError::Full { .. }), "{error:?}");
    assert_eq!(count(&store, "runs").await, 0);
    store.limit_pages(1_000_000).await.unwrap();
    store.runs().open(large).await.unwrap();
}
