//! Host names: one app each, and what is left to be done when they go.

use super::{NOW, name, open_with_app};
use crate::host_names::{Attempt, CertificateRecord, NewHostName, Source};
use crate::{Store, StoreError, limits};
use roost_model::host_name::HostName;
use std::time::Duration;

fn host(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

fn certificate(text: &str) -> CertificateRecord {
    CertificateRecord {
        chain: text.into(),
        sealed_key: vec![1],
    }
}

fn attempt(ms: u64) -> Attempt {
    Attempt {
        at: NOW.after(Duration::from_millis(ms)),
        method: "http-01".into(),
        outcome: "failed".into(),
        message: format!("attempt {ms}"),
    }
}

async fn add(
    store: &Store,
    app_id: &str,
    host: &HostName,
    certificate: Option<&CertificateRecord>,
) -> Result<(), StoreError> {
    let method = "http-01";
    let new = NewHostName {
        host,
        app_id,
        certificate,
        method,
    };
    store.add_host_name(new, NOW).await
}

#[tokio::test]
async fn a_host_name_is_one_apps_and_is_issued_or_uploaded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let other = name("other");
    store.create_app("app_2", &other, NOW, None).await.unwrap();
    let www = host("www.example.com");
    add(&store, "app_1", &www, None).await.unwrap();
    let taken = add(&store, "app_2", &www, None).await;
    assert!(matches!(taken, Err(StoreError::Exists(_))), "{taken:?}");
    assert_eq!(store.due_host_names(NOW, 10).await.unwrap().len(), 1);

    let uploaded = certificate("uploaded");
    add(&store, "app_1", &www, Some(&uploaded)).await.unwrap();
    let records = store.host_names(Some("app_1")).await.unwrap();
    assert_eq!(records[0].source, Source::Custom);
    assert_eq!(records[0].certificate.as_ref(), Some(&uploaded));
    assert!(store.due_host_names(NOW, 10).await.unwrap().is_empty());
    let (late, attempt) = (certificate("late"), attempt(1));
    let issued = store.set_certificate(&www, &late, &attempt, NOW).await;
    issued.unwrap();
    let records = store.host_names(None).await.unwrap();
    assert_eq!(
        records[0].certificate.as_ref(),
        Some(&uploaded),
        "an order that is late"
    );

    add(&store, "app_1", &www, None).await.unwrap();
    let records = store.host_names(None).await.unwrap();
    assert_eq!(
        records[0].certificate.as_ref(),
        Some(&uploaded),
        "it serves until then"
    );
    assert!(!store.remove_host_name("app_2", &www, NOW).await.unwrap());
    assert!(store.remove_host_name("app_1", &www, NOW).await.unwrap());
    assert!(store.host_names(None).await.unwrap().is_empty());
    let revocations = store.due_revocations(NOW, 10).await.unwrap();
    assert!(revocations.is_empty(), "no authority of ours issued it");
}

#[tokio::test]
async fn a_wildcard_and_the_names_that_it_covers_are_one_apps() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let other = name("other");
    store.create_app("app_2", &other, NOW, None).await.unwrap();
    let (wildcard, below) = (host("*.example.com"), host("login.example.com"));
    let uploaded = certificate("wildcard");
    for (first, second) in [(&wildcard, &below), (&below, &wildcard)] {
        add(&store, "app_1", first, Some(&uploaded)).await.unwrap();
        let taken = add(&store, "app_2", second, Some(&uploaded)).await;
        assert!(matches!(taken, Err(StoreError::Exists(_))), "{taken:?}");
        add(&store, "app_1", second, None).await.unwrap();
        for host in [first, second] {
            assert!(store.remove_host_name("app_1", host, NOW).await.unwrap());
        }
    }
    add(&store, "app_1", &wildcard, Some(&uploaded))
        .await
        .unwrap();
    let deeper = host("a.b.example.com");
    add(&store, "app_2", &deeper, None).await.unwrap();
}

#[tokio::test]
async fn asking_again_for_a_certificate_orders_none_and_lifts_no_limit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let www = host("www.example.com");
    add(&store, "app_1", &www, None).await.unwrap();
    let until = NOW.after(Duration::from_secs(3600));
    let (next, attempt) = (("tls-alpn-01", until), attempt(1));
    let failed = store.set_certificate_failed(&www, &attempt, next, Some(until));
    failed.await.unwrap();
    add(&store, "app_1", &www, None).await.unwrap();
    let records = store.host_names(None).await.unwrap();
    assert_eq!(records[0].limited_until, Some(until));
    assert!(store.due_host_names(NOW, 10).await.unwrap().is_empty());

    let (issued, renewal) = (certificate("issued"), NOW.after(Duration::from_secs(9_000)));
    let set = store.set_certificate(&www, &issued, &attempt, renewal);
    set.await.unwrap();
    add(&store, "app_1", &www, None).await.unwrap();
    assert!(store.due_host_names(until, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_issued_certificate_is_to_be_revoked_when_its_name_or_its_app_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let (a, b) = (host("a.example.com"), host("b.example.com"));
    for host in [&a, &b] {
        add(&store, "app_1", host, None).await.unwrap();
        let issued = certificate(host.as_str());
        let set = store.set_certificate(host, &issued, &attempt(1), NOW).await;
        set.unwrap();
    }
    assert!(store.remove_host_name("app_1", &a, NOW).await.unwrap());
    store.begin_app_deletion("app_1", NOW).await.unwrap();
    store.delete_app("app_1", NOW).await.unwrap();
    assert!(store.host_names(None).await.unwrap().is_empty());
    let due = store.due_revocations(NOW, 10).await.unwrap();
    let mut hosts: Vec<_> = due.iter().map(|due| &due.host).collect();
    hosts.sort();
    assert_eq!(hosts, [&a, &b]);
    let later = NOW.after(Duration::from_secs(60));
    store
        .end_revocation("a.example.com", Some(later))
        .await
        .unwrap();
    store.end_revocation("b.example.com", None).await.unwrap();
    assert!(store.due_revocations(NOW, 10).await.unwrap().is_empty());
    let due = store.due_revocations(later, 10).await.unwrap();
    assert_eq!((&due[0].host, due[0].n_failures), (&a, 1));
}

#[tokio::test]
async fn a_failure_ends_the_order_and_only_the_last_ones_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    let www = host("www.example.com");
    add(&store, "app_1", &www, None).await.unwrap();
    store
        .set_certificate_order(&www, Some(&[7]), NOW)
        .await
        .unwrap();
    let later = NOW.after(Duration::from_secs(60));
    for ms in 0..15 {
        let (attempt, next) = (attempt(ms), ("tls-alpn-01", later));
        let failed = store.set_certificate_failed(&www, &attempt, next, None);
        failed.await.unwrap();
    }
    let record = store.host_names(None).await.unwrap().remove(0);
    assert_eq!((record.sealed_order, record.n_failures), (None, 15));
    assert_eq!(record.method, "tls-alpn-01");
    let attempts = store.certificate_attempts(&www).await.unwrap();
    assert_eq!(
        i64::try_from(attempts.len()),
        Ok(limits::CERTIFICATE_ATTEMPTS_MAX)
    );
    assert_eq!(attempts[0], attempt(14), "newest first");

    assert!(store.due_host_names(NOW, 10).await.unwrap().is_empty());
    store.hasten_certificate(&www, NOW).await.unwrap();
    assert_eq!(store.due_host_names(NOW, 10).await.unwrap().len(), 1);
    let (attempt, next) = (attempt(20), ("http-01", later));
    let limited = store.set_certificate_failed(&www, &attempt, next, Some(later));
    limited.await.unwrap();
    store.hasten_certificate(&www, NOW).await.unwrap();
    assert!(
        store.due_host_names(NOW, 10).await.unwrap().is_empty(),
        "the authority's word"
    );
}

#[tokio::test]
async fn an_account_is_kept_by_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_app(dir.path()).await;
    assert_eq!(store.acme_account("https://ca").await.unwrap(), None);
    store
        .set_acme_account("https://ca", Some(&[1]), NOW)
        .await
        .unwrap();
    store
        .set_acme_account("https://ca", Some(&[2]), NOW)
        .await
        .unwrap();
    assert_eq!(
        store.acme_account("https://ca").await.unwrap(),
        Some(vec![2])
    );
    store
        .set_acme_account("https://ca", None, NOW)
        .await
        .unwrap();
    assert_eq!(store.acme_account("https://ca").await.unwrap(), None);
}
