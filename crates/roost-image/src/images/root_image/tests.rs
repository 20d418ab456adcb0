//! Tests of root file systems as the store keeps them.

use crate::manifest::{OCI_INDEX, OCI_MANIFEST};
use crate::{Image, Images, ImagesConfig};
use roost_model::digest::Digest;
use roost_model::size::ByteSize;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;

async fn open(dir: &Path) -> Images {
    let mut config = ImagesConfig::new(dir.join("images"));
    config.garbage_age_min = Duration::ZERO;
    Images::open(config).await.unwrap()
}

fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Puts an image of these layers into the store; `cmd` tells images apart.
async fn image(images: &Images, cmd: &str, layers: &[Vec<u8>]) -> Image {
    let store = images.store();
    let mut digests = Vec::new();
    for layer in layers {
        digests.push(store.put_bytes(layer.clone().into()).await.unwrap());
    }
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": [cmd] },
        "rootfs": { "type": "layers", "diff_ids": digests },
    });
    let config = config.to_string();
    let config_bytes = config.len();
    let config = store.put_bytes(config.into()).await.unwrap();
    let listed: Vec<serde_json::Value> = digests
        .iter()
        .zip(layers)
        .map(|(digest, layer)| {
            let media_type = "application/vnd.oci.image.layer.v1.tar";
            serde_json::json!({ "mediaType": media_type, "digest": digest, "size": layer.len() })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config, "size": config_bytes,
        },
        "layers": listed,
    });
    for digest in digests.iter().chain([&config]) {
        assert!(store.link_blob("app", digest).await.unwrap());
    }
    let digest: Digest = store
        .put_manifest("app", manifest.to_string().into(), OCI_MANIFEST, None)
        .await
        .unwrap();
    images.image(&digest).await.unwrap().unwrap()
}

fn two_layers() -> [Vec<u8>; 2] {
    let (lower, upper) = (
        layer(&[("lower", b"one"), ("no/entry/for/these", b"x")]),
        layer(&[(".wh.lower", b""), ("upper", &[7; 10_000])]),
    );
    [lower, upper]
}

#[tokio::test]
async fn a_root_image_is_written_once_and_any_user_can_open_it() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let first = image(&images, "first", &two_layers()).await;
    let second = image(&images, "second", &two_layers()).await;
    let mut calls = JoinSet::new();
    for image in [&first, &second, &first, &second] {
        let (images, image) = (images.clone(), image.clone());
        calls.spawn(async move {
            let path = images.root_image(&image).await.unwrap();
            let inode = std::fs::metadata(&path).unwrap().ino();
            (path, inode)
        });
    }
    let made = calls.join_all().await;
    let (path, inode) = made[0].clone();
    assert!(made.iter().all(|other| *other == (path.clone(), inode)));
    assert_eq!(images.root_image(&first).await.unwrap(), path);
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o644);
    assert_eq!(mode(path.parent().unwrap()), 0o711);
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1
    );

    let [lower, upper] = two_layers();
    let other = image(&images, "first", &[upper, lower]).await;
    assert_ne!(images.root_image(&other).await.unwrap(), path);
}

#[tokio::test]
async fn every_node_makes_the_same_bytes_of_the_same_layers() {
    let mut made = Vec::new();
    for _ in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let images = open(dir.path()).await;
        let image = image(&images, "app", &two_layers()).await;
        let path = images.root_image(&image).await.unwrap();
        made.push((
            path.file_name().unwrap().to_owned(),
            std::fs::read(&path).unwrap(),
        ));
    }
    assert!(made[0] == made[1]);
}

#[tokio::test]
async fn a_root_image_is_counted_and_goes_only_with_the_images_that_need_it() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let first = image(&images, "first", &two_layers()).await;
    let second = image(&images, "second", &two_layers()).await;
    images.retain("machine:1", &first.digest).await.unwrap();
    images.retain("machine:2", &second.digest).await.unwrap();
    images.rootfs_layers(&first).await.unwrap();
    let before = images.store().bytes_used().await.unwrap();
    let path = images.root_image(&first).await.unwrap();
    assert_eq!(images.root_image(&second).await.unwrap(), path);
    let after = images.store().bytes_used().await.unwrap();
    let taken = std::fs::metadata(&path).unwrap().blocks() * 512;
    assert_eq!(after.bytes() - before.bytes(), taken);

    images.release("machine:1").await.unwrap();
    let report = images.collect_garbage(ByteSize(0)).await.unwrap();
    assert_eq!(report.n_root_images, 0, "the other machine needs it");
    assert!(path.exists());
    images.release("machine:2").await.unwrap();
    let report = images.collect_garbage(ByteSize(0)).await.unwrap();
    assert_eq!((report.n_root_images, report.left), (1, ByteSize(0)));
    assert!(!path.exists());

    let again = image(&images, "first", &two_layers()).await;
    assert_eq!(images.root_image(&again).await.unwrap(), path);
    assert!(path.exists());
}

#[tokio::test]
async fn what_a_crash_leaves_of_a_root_image_is_gone_and_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (path, content, digest);
    {
        let images = open(dir.path()).await;
        let image = image(&images, "app", &two_layers()).await;
        path = images.root_image(&image).await.unwrap();
        content = std::fs::read(&path).unwrap();
        digest = image.digest;
    }
    let folder = path.parent().unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(folder.join("tmp-0"), b"half").unwrap();
    std::fs::write(folder.join("a".repeat(64)), b"not on record").unwrap();
    let images = open(dir.path()).await;
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    let image = images.image(&digest).await.unwrap().unwrap();
    assert_eq!(images.root_image(&image).await.unwrap(), path);
    assert!(std::fs::read(&path).unwrap() == content);
}

#[tokio::test]
async fn an_index_that_machines_need_keeps_the_root_image() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let image = image(&images, "app", &two_layers()).await;
    let path = images.root_image(&image).await.unwrap();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{ "mediaType": OCI_MANIFEST, "digest": image.digest, "size": 1 }],
    });
    let index = images
        .store()
        .put_manifest("app", index.to_string().into(), OCI_INDEX, None)
        .await
        .unwrap();
    images.retain("release:1", &index).await.unwrap();
    images.collect_garbage(ByteSize(0)).await.unwrap();
    assert!(path.exists());
}
