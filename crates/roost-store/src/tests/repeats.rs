//! Idempotency keys and what a process that dies leaves of them.

use super::{NOW, deployment, name, open, open_with_app, release};
use crate::records::{AppRecord, DeploymentRecord, Idempotency};
use crate::{Answer, Claim, Store, limits};
use std::time::Duration;

async fn claim(store: &Store, key: &str, fingerprint: &str) -> Claim {
    match store.claim_request(key, fingerprint, NOW).await.unwrap() {
        Idempotency::New(claim) => claim,
        other => panic!("{other:?}"),
    }
}

fn id_of(record: &DeploymentRecord) -> serde_json::Result<String> {
    Ok(record.id.clone())
}

#[tokio::test]
async fn what_was_made_is_never_without_the_answer_even_when_the_process_dies_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let claim = claim(&store, "k", "f").await;
    let answer = Answer {
        claim: &claim,
        write: &id_of,
    };
    store
        .create_deployment("app_1", &release(1), &deployment(1), NOW, Some(answer))
        .await
        .unwrap();
    // The process is gone before it could say so to anybody.
    store.close().await;
    let again = open(dir.path()).await;
    let found = again.claim_request("k", "f", NOW).await.unwrap();
    assert!(
        matches!(&found, Idempotency::Done(id) if id == "dep_1"),
        "{found:?}"
    );
    let other = again.claim_request("k", "other", NOW).await.unwrap();
    assert!(matches!(other, Idempotency::Different), "{other:?}");
    let releases = again.releases("app_1").await.unwrap();
    assert_eq!(releases.len(), 1);
}

#[tokio::test]
async fn what_was_refused_or_cut_off_keeps_no_answer_and_frees_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let first = claim(&store, "k", "f").await;
    let write = |_: &AppRecord| Ok("made".to_owned());
    let answer = Answer {
        claim: &first,
        write: &write,
    };
    store
        .create_app("app_2", &name("web"), NOW, Some(answer))
        .await
        .expect_err("the name is taken");
    drop(first);
    // A process that dies with a claim leaves nothing of it.
    std::mem::drop(claim(&store, "k", "f").await);
    let _held = claim(&store, "k", "f").await;
    let again = open(dir.path()).await;
    claim(&again, "k", "f").await;
}

#[tokio::test]
async fn a_key_under_way_is_known_with_its_request_and_their_number_has_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut held = vec![claim(&store, "k", "f").await];
    let same = store.claim_request("k", "f", NOW).await.unwrap();
    assert!(matches!(same, Idempotency::UnderWay), "{same:?}");
    let other = store.claim_request("k", "g", NOW).await.unwrap();
    assert!(matches!(other, Idempotency::Different), "{other:?}");
    for n in held.len()..limits::REQUESTS_UNDER_WAY_MAX {
        held.push(claim(&store, &n.to_string(), "f").await);
    }
    let one_more = store.claim_request("more", "f", NOW).await.unwrap();
    assert!(matches!(one_more, Idempotency::TooMany), "{one_more:?}");
    held.pop();
    claim(&store, "more", "f").await;
}

#[tokio::test]
async fn an_answer_is_kept_for_a_day_and_the_first_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let held = claim(&store, "k", "f").await;
    store.keep_answer(&held, "first", NOW).await.unwrap();
    store.keep_answer(&held, "second", NOW).await.unwrap();
    drop(held);
    let last_moment = NOW.after(limits::IDEMPOTENCY_KEEP - Duration::from_millis(1));
    let found = store.claim_request("k", "f", last_moment).await.unwrap();
    assert!(
        matches!(&found, Idempotency::Done(text) if text == "first"),
        "{found:?}"
    );
    let too_late = NOW.after(limits::IDEMPOTENCY_KEEP);
    let found = store.claim_request("k", "f", too_late).await.unwrap();
    assert!(matches!(found, Idempotency::New(_)), "{found:?}");
}

#[tokio::test]
async fn of_an_answer_that_is_too_long_only_the_request_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let longest = "x".repeat(limits::ANSWER_BYTES_MAX);
    for (key, answer) in [("kept", longest.clone()), ("long", longest + "x")] {
        let held = claim(&store, key, "f").await;
        store.keep_answer(&held, &answer, NOW).await.unwrap();
    }
    let found = store.claim_request("kept", "f", NOW).await.unwrap();
    assert!(matches!(found, Idempotency::Done(_)), "{found:?}");
    claim(&store, "long", "f").await;
    let other = store.claim_request("long", "g", NOW).await.unwrap();
    assert!(matches!(other, Idempotency::Different), "{other:?}");
}
