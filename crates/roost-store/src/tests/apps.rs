//! Apps and what hangs on them.

use super::{NOW, count, deployment, name, open, open_with_app, release};
use crate::records::{DeploymentStatus, SecretChange};
use crate::{StoreError, limits};
use roost_auth::seal::SealingKey;
use roost_model::name::SecretName;
use roost_proto::rest::DeploymentStep;

#[tokio::test]
async fn an_app_is_not_deleted_under_a_deployment_and_then_takes_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let record = store
        .create_deployment("app_1", &release(1), &deployment(1), NOW, None)
        .await
        .unwrap();
    let refused = store.begin_app_deletion("app_1", NOW).await;
    assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
    store.delete_app("app_1", NOW).await.unwrap();
    store.app(&name("web")).await.expect("it was not marked");
    store
        .set_deployment_status(&record, DeploymentStatus::Failed, None, NOW)
        .await
        .unwrap();
    store.begin_app_deletion("app_1", NOW).await.unwrap();
    let refused = store
        .create_deployment("app_1", &release(2), &deployment(2), NOW, None)
        .await;
    assert!(
        matches!(refused, Err(StoreError::Deleting(_))),
        "{refused:?}"
    );
    store.delete_app("app_1", NOW).await.unwrap();
    store
        .delete_app("app_1", NOW)
        .await
        .expect("again is harmless");
    let gone = store.app(&name("web")).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
    let late = store.begin_app_deletion("app_1", NOW).await;
    assert!(matches!(late, Err(StoreError::NotFound(_))), "{late:?}");
}

#[tokio::test]
async fn all_that_belongs_to_an_app_goes_with_it_and_nothing_comes_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let record = store
        .create_deployment("app_1", &release(1), &deployment(1), NOW, None)
        .await
        .unwrap();
    let step = DeploymentStep {
        seq: 0,
        name: "plan".into(),
        machine: None,
        status: "done".into(),
        message: String::new(),
        at: 1,
    };
    store.add_step("dep_1", step).await.unwrap();
    let set = |name: &str| SecretChange::Set {
        name: SecretName::parse(name).unwrap(),
        sealed: vec![1],
        digest: "d".into(),
    };
    store
        .change_secrets("app_1", &[set("A")], NOW)
        .await
        .unwrap();
    store
        .set_deployment_status(&record, DeploymentStatus::Failed, None, NOW)
        .await
        .unwrap();
    store.begin_app_deletion("app_1", NOW).await.unwrap();
    store.delete_app("app_1", NOW).await.unwrap();
    let tables = [
        "apps",
        "releases",
        "deployments",
        "deployment_slots",
        "deployment_steps",
        "secrets",
    ];
    for table in tables {
        assert_eq!(count(&store, table).await, 0, "{table}");
    }
    store
        .create_deployment("app_1", &release(2), &deployment(1), NOW, None)
        .await
        .unwrap_err();
    store
        .change_secrets("app_1", &[set("B")], NOW)
        .await
        .unwrap_err();
    for table in tables {
        assert_eq!(count(&store, table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn a_secret_cannot_be_read_from_the_files_even_after_it_was_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let key = SealingKey::from_bytes(&[7; 32]).unwrap();
    for value in ["hunter2-first", "hunter2-second"] {
        let change = SecretChange::Set {
            name: SecretName::parse("KEY").unwrap(),
            sealed: key.seal(value.as_bytes(), b"place").unwrap(),
            digest: key.shown_digest(b"app_1", value.as_bytes()),
        };
        store.change_secrets("app_1", &[change], NOW).await.unwrap();
    }
    let holds = |text: &[u8]| {
        std::fs::read_dir(dir.path()).unwrap().any(|entry| {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            bytes.windows(text.len()).any(|window| window == text)
        })
    };
    // With the write-ahead log beside it, and when all is in one file.
    assert!(holds(b"KEY") && !holds(b"hunter2"));
    store.close().await;
    assert!(holds(b"KEY") && !holds(b"hunter2"));
    let sealed = open(dir.path()).await.secrets("app_1").await.unwrap();
    assert_eq!(
        *key.open(&sealed[0].sealed, b"place").unwrap(),
        b"hunter2-second"
    );
}

#[tokio::test]
async fn old_releases_are_forgotten_but_for_the_one_that_serves() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let max = u32::try_from(limits::LIST_MAX).unwrap();
    for n in 1..=max + 5 {
        let record = store
            .create_deployment("app_1", &release(n), &deployment(n), NOW, None)
            .await
            .unwrap();
        let end = if n == 2 {
            for status in [DeploymentStatus::Running, DeploymentStatus::Retiring] {
                store
                    .set_deployment_status(&record, status, None, NOW)
                    .await
                    .unwrap();
            }
            DeploymentStatus::Succeeded
        } else {
            DeploymentStatus::Failed
        };
        store
            .set_deployment_status(&record, end, None, NOW)
            .await
            .unwrap();
    }
    assert_eq!(count(&store, "deployments").await, limits::LIST_MAX);
    assert_eq!(count(&store, "deployment_slots").await, limits::LIST_MAX);
    assert_eq!(count(&store, "releases").await, limits::LIST_MAX + 1);
    store.release("app_1", 2).await.expect("it serves");
    store.release("app_1", 1).await.unwrap_err();
}

#[tokio::test]
async fn an_app_has_so_many_secrets_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let set = |n: i64| SecretChange::Set {
        name: SecretName::parse(&format!("KEY_{n}")).unwrap(),
        sealed: vec![1],
        digest: "d".into(),
    };
    let all: Vec<_> = (0..limits::SECRETS_MAX).map(set).collect();
    store.change_secrets("app_1", &all, NOW).await.unwrap();
    let refused = store
        .change_secrets("app_1", &[set(limits::SECRETS_MAX)], NOW)
        .await;
    assert!(
        matches!(refused, Err(StoreError::TooMany { .. })),
        "{refused:?}"
    );
    let exchange = [
        SecretChange::Remove(SecretName::parse("KEY_0").unwrap()),
        set(limits::SECRETS_MAX),
    ];
    store.change_secrets("app_1", &exchange, NOW).await.unwrap();
    assert_eq!(count(&store, "secrets").await, limits::SECRETS_MAX);
}
