//! A disk without room.

use super::{NOW, count, deployment, name, open, open_with_app, release};
use crate::records::{AppRecord, Idempotency, NewRelease};
use crate::{Answer, StoreError, limits};
use roost_model::error::{Classify as _, ErrorCode};

/// A release that needs more pages than any that are free.
fn large_release() -> NewRelease {
    let mut release = release(1);
    release.config.env = [("LARGE".to_owned(), "x".repeat(100_000))].into();
    release
}

#[tokio::test]
async fn a_full_disk_is_named_nothing_is_half_made_and_room_mends_it_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    store.limit_pages(1).await.unwrap();
    // Fewer times than there are connections: those that come after have no limit.
    for _ in 0..5 {
        let error = store
            .create_deployment("app_1", &large_release(), &deployment(1), NOW, None)
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
        assert_eq!(error.code(), ErrorCode("disk-full"));
        assert!(error.hint().unwrap().contains("make room"));
    }
    for table in ["releases", "deployments", "deployment_slots"] {
        assert_eq!(count(&store, table).await, 0, "{table}");
    }
    store
        .app(&name("web"))
        .await
        .expect("what is there is read");
    store.limit_pages(1_000_000).await.unwrap();
    let made = store
        .create_deployment("app_1", &large_release(), &deployment(1), NOW, None)
        .await
        .unwrap();
    assert_eq!(made.release_version, 1, "the failed ones took no number");
}

#[tokio::test]
async fn a_request_that_found_no_room_is_repeated_with_its_key_once_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store.limit_pages(1).await.unwrap();
    let write = |_: &AppRecord| Ok("x".repeat(limits::ANSWER_BYTES_MAX));
    for room in [false, true] {
        if room {
            store.limit_pages(1_000_000).await.unwrap();
        }
        let Idempotency::New(claim) = store.claim_request("k", "f", NOW).await.unwrap() else {
            panic!("the key is free");
        };
        let answer = Answer {
            claim: &claim,
            write: &write,
        };
        let made = store
            .create_app("app_1", &name("web"), NOW, Some(answer))
            .await;
        assert_eq!(made.is_ok(), room, "{made:?}");
        assert_eq!(count(&store, "apps").await, i64::from(room));
    }
}

#[tokio::test]
async fn the_shared_memory_file_stays_while_the_store_is_open_whatever_connections_close() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let shared = dir.path().join("control.db-shm");
    store.pool.close().await;
    assert!(shared.exists(), "a full disk has no room for a new one");
    store.close().await;
    assert!(!shared.exists());
}
