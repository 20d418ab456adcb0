//! Tests of the store.

use super::{CommitBlobError, ContentStore, ManifestReference, PutManifestError};
use crate::limits::WRITE_BUFFER_BYTES;
use crate::manifest::OCI_MANIFEST;
use bytes::Bytes;
use roost_model::digest::Digest;
use roost_model::size::ByteSize;
use sha2::Digest as _;
use std::path::Path;
use std::time::Duration;

fn digest_of(content: &[u8]) -> Digest {
    Digest::from_sha256(sha2::Sha256::digest(content).into())
}

fn n_files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

async fn open(dir: &tempfile::TempDir) -> ContentStore {
    ContentStore::open(dir.path()).await.unwrap()
}

fn image_manifest(config: &Digest, layer: &Digest) -> Bytes {
    let json = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 1},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 1}],
    });
    Bytes::from(json.to_string())
}

/// An image in repository `app`: manifest, config, layer.
async fn push(store: &ContentStore, name: &str, tag: Option<&str>) -> (Digest, Digest, Digest) {
    let config = store
        .put_bytes(format!("config {name}").into())
        .await
        .unwrap();
    let layer = store
        .put_bytes(format!("layer {name}").into())
        .await
        .unwrap();
    assert!(store.link_blob("app", &config).await.unwrap());
    assert!(store.link_blob("app", &layer).await.unwrap());
    let manifest = image_manifest(&config, &layer);
    let manifest = store
        .put_manifest("app", manifest, OCI_MANIFEST, tag)
        .await
        .unwrap();
    (manifest, config, layer)
}

#[tokio::test]
async fn a_blob_is_readable_only_after_its_digest_was_verified() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let content: Vec<u8> = (0..WRITE_BUFFER_BYTES * 2 + 77)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let digest = digest_of(&content);
    let mut writer = store.begin_blob().await.unwrap();
    for part in content.chunks(100_000) {
        writer.write(part).await.unwrap();
        assert!(!store.has(&digest).await.unwrap());
    }
    assert_eq!(writer.commit(&digest).await.unwrap(), content.len() as u64);
    let read = store.read_blob(&digest, 1 << 30).await.unwrap().unwrap();
    assert_eq!(read, content);
    let error = store.read_blob(&digest, 10).await.unwrap_err();
    assert!(error.to_string().contains(digest.as_str()), "{error}");
    assert_eq!(n_files(&dir.path().join("partial")), 0);
}

#[tokio::test]
async fn content_with_another_digest_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let expected = digest_of(b"right");
    let mut writer = store.begin_blob().await.unwrap();
    writer.write(b"wrong").await.unwrap();
    let error = writer.commit(&expected).await.unwrap_err();
    assert!(matches!(error, CommitBlobError::Mismatch { .. }), "{error}");
    let writer = store.begin_blob().await.unwrap();
    drop(writer);
    assert!(!store.has(&expected).await.unwrap());
    assert_eq!(n_files(&dir.path().join("partial")), 0);
    assert_eq!(n_files(&dir.path().join("blobs/sha256")), 0);
}

#[tokio::test]
async fn a_partial_download_continues_after_a_restart_and_is_hashed_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let digest = digest_of(b"hello world");
    {
        let store = open(&dir).await;
        let mut writer = store.resume_blob(&digest).await.unwrap();
        writer.write(b"hello ").await.unwrap();
        writer.flush().await.unwrap();
    }
    let store = open(&dir).await;
    assert!(!store.has(&digest).await.unwrap());
    let mut writer = store.resume_blob(&digest).await.unwrap();
    assert_eq!(writer.written(), 6);
    writer.write(b"world").await.unwrap();
    writer.commit(&digest).await.unwrap();
    assert!(store.has(&digest).await.unwrap());

    let other = digest_of(b"other");
    let mut writer = store.resume_blob(&other).await.unwrap();
    writer.write(b"spoiled").await.unwrap();
    writer.restart().await.unwrap();
    writer.write(b"other").await.unwrap();
    writer.commit(&other).await.unwrap();
}

#[tokio::test]
async fn what_a_crash_leaves_is_gone_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let lost;
    {
        let store = open(&dir).await;
        lost = store.put_bytes(Bytes::from_static(b"lost")).await.unwrap();
        let cut = store
            .put_bytes(Bytes::from_static(b"cut short"))
            .await
            .unwrap();
        std::fs::remove_file(store.blob_path(&lost)).unwrap();
        std::fs::write(store.blob_path(&cut), b"cut").unwrap();
    }
    std::fs::write(dir.path().join("partial/upload-1-1"), b"half").unwrap();
    std::fs::write(
        dir.path().join("blobs/sha256").join("a".repeat(64)),
        b"no row",
    )
    .unwrap();
    std::fs::create_dir(dir.path().join("layers/tmp-3")).unwrap();
    std::fs::create_dir(dir.path().join("layers").join("b".repeat(64))).unwrap();
    let store = open(&dir).await;
    assert!(!store.has(&lost).await.unwrap());
    assert_eq!(n_files(&dir.path().join("blobs/sha256")), 0);
    assert_eq!(n_files(&dir.path().join("partial")), 0);
    assert_eq!(n_files(&dir.path().join("layers")), 0);
    assert_eq!(store.bytes_used().await.unwrap(), ByteSize(0));
}

#[tokio::test]
async fn repositories_see_only_what_was_put_into_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let (manifest, config, layer) = push(&store, "a", Some("v1")).await;
    let by_tag = ManifestReference::Tag("v1".to_owned());
    let found = store.manifest("app", &by_tag).await.unwrap().unwrap();
    assert_eq!(
        (found.digest, found.media_type.as_str()),
        (manifest.clone(), OCI_MANIFEST)
    );
    assert!(store.manifest("other", &by_tag).await.unwrap().is_none());
    assert!(
        store
            .repository_blob_size("app", &layer)
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        store
            .repository_blob_size("other", &layer)
            .await
            .unwrap()
            .is_none()
    );
    let bytes = image_manifest(&config, &layer);
    let error = store
        .put_manifest("other", bytes, OCI_MANIFEST, None)
        .await
        .unwrap_err();
    assert!(matches!(error, PutManifestError::Missing { .. }), "{error}");
    assert!(!store.link_blob("app", &digest_of(b"none")).await.unwrap());

    push(&store, "b", Some("v2")).await;
    assert_eq!(store.tags("app", None, 10).await.unwrap(), ["v1", "v2"]);
    assert_eq!(store.tags("app", Some("v1"), 10).await.unwrap(), ["v2"]);
    assert_eq!(store.tags("app", None, 1).await.unwrap(), ["v1"]);
    assert_eq!(store.repositories(None, 10).await.unwrap(), ["app"]);
    assert!(store.delete_tag("app", "v2").await.unwrap());
    assert!(!store.delete_tag("app", "v2").await.unwrap());
    assert!(store.delete_manifest("app", &manifest).await.unwrap());
    assert!(store.manifest("app", &by_tag).await.unwrap().is_none());
    assert!(store.tags("app", None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_referrer_is_found_by_its_subject_even_before_the_subject_exists() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let empty = store.put_bytes(Bytes::from_static(b"{}")).await.unwrap();
    store.link_blob("app", &empty).await.unwrap();
    let subject = digest_of(b"subject");
    let json = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "text/sbom",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
        "layers": [], "annotations": {"by": "test"},
        "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 7},
    });
    let bytes = Bytes::from(json.to_string());
    let digest = store
        .put_manifest("app", bytes, OCI_MANIFEST, None)
        .await
        .unwrap();
    let referrers = store.referrers("app", &subject).await.unwrap();
    assert_eq!(referrers.len(), 1);
    assert_eq!(referrers[0].digest, digest);
    assert_eq!(referrers[0].artifact_type.as_deref(), Some("text/sbom"));
    assert_eq!(referrers[0].annotations["by"], "test");
    assert!(store.referrers("other", &subject).await.unwrap().is_empty());
}

#[tokio::test]
async fn garbage_goes_and_what_is_tagged_owned_or_pinned_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let tagged = push(&store, "tagged", Some("v1")).await;
    let owned = push(&store, "owned", None).await;
    let pinned = push(&store, "pinned", None).await;
    let garbage = push(&store, "garbage", None).await;
    store.retain("machine:1", &owned.0).await.unwrap();
    let _pins = [
        store.pin(&pinned.0),
        store.pin(&pinned.1),
        store.pin(&pinned.2),
    ];

    let young = store
        .collect_garbage(ByteSize(0), Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(young.n_blobs, 0, "what is in the grace time stays");
    let enough = store
        .collect_garbage(ByteSize::gib(1), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(enough.n_blobs, 0, "nothing goes while there is room");

    let report = store
        .collect_garbage(ByteSize(0), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(report.n_blobs, 3);
    assert_eq!(report.left, store.bytes_used().await.unwrap());
    for digest in [
        tagged.0,
        tagged.1,
        tagged.2,
        pinned.0.clone(),
        pinned.2.clone(),
    ] {
        assert!(store.has(&digest).await.unwrap());
    }
    assert!(store.has(&owned.0).await.unwrap() && store.has(&owned.2).await.unwrap());
    for digest in [garbage.0, garbage.1, garbage.2] {
        assert!(!store.has(&digest).await.unwrap());
        assert!(!store.blob_path(&digest).exists());
    }
    store.release("machine:1").await.unwrap();
    store
        .collect_garbage(ByteSize(0), Duration::ZERO)
        .await
        .unwrap();
    assert!(!store.has(&owned.2).await.unwrap());
}
