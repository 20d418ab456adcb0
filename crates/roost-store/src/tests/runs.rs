//! Runs in the control database: the contract, and one transaction with what they are about.

use super::{NOW, count, open, open_with_app, run};
use crate::subject_of_app;
use parking_lot::Mutex;
use roost_fsm::journal::{Journal, JournalError, NewRun};
use roost_fsm::record::Subject;
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
async fn the_runs_of_an_app_go_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    for (n, id) in [(1, "app_1"), (2, "app_2")] {
        let subject = Subject::new(subject_of_app(id)).unwrap();
        let new = NewRun { subject, ..run(n) };
        store.runs().open(new).await.unwrap();
    }
    store.begin_app_deletion("app_1", NOW).await.unwrap();
    store.delete_app("app_1").await.unwrap();
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
