//! Tests of imports: layouts and archives, written by hand and by stock tools.

use super::ImportError;
use crate::images::{Images, ImagesConfig};
use crate::platform::Platform;
use crate::pull::NoProgress;
use roost_model::digest::Digest;
use roost_model::image_ref::ImageRef;
use sha2::Digest as _;
use std::path::Path;

fn digest_of(content: &[u8]) -> Digest {
    Digest::from_sha256(sha2::Sha256::digest(content).into())
}

async fn open(dir: &Path) -> Images {
    Images::open(ImagesConfig::new(dir.join("store")))
        .await
        .unwrap()
}

fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Config and layer of a small image for this CPU.
fn parts() -> (Vec<u8>, Vec<u8>) {
    let layer = tar_of(&[("hello", b"hi")]);
    let config = serde_json::json!({
        "architecture": Platform::native().architecture, "os": "linux",
        "config": {"Entrypoint": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(&layer)]},
    });
    (config.to_string().into_bytes(), layer)
}

fn saved_archive() -> Vec<u8> {
    let (config, layer) = parts();
    let manifest = r#"[{"Config":"c.json","RepoTags":["a:b"],"Layers":["one/layer.tar"]}]"#;
    tar_of(&[
        ("one/layer.tar", &layer),
        ("c.json", &config),
        ("manifest.json", manifest.as_bytes()),
    ])
}

async fn assert_imported(images: &Images, name: &ImageRef) {
    let image = images.pull(name, &NoProgress).await.unwrap();
    let paths = images.rootfs_layers(&image).await.unwrap();
    assert_eq!(std::fs::read(paths[0].join("hello")).unwrap(), b"hi");
    assert_eq!(image.config.entrypoint, ["/hello"]);
}

#[tokio::test]
async fn a_saved_archive_is_imported_plain_and_compressed_and_found_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let archive = saved_archive();
    for (file, content) in [
        ("a.tar", archive.clone()),
        ("a.tar.zst", zstd::encode_all(&archive[..], 1).unwrap()),
    ] {
        let path = dir.path().join(file);
        std::fs::write(&path, content).unwrap();
        let name = ImageRef::parse(&format!("team/{}", file.replace('.', "-"))).unwrap();
        assert_eq!(images.import_archive(&path, &name).await.unwrap().len(), 1);
        assert_imported(&images, &name).await;
    }
}

#[tokio::test]
async fn what_skopeo_makes_of_it_is_imported_as_folder_and_archive() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let saved = dir.path().join("saved.tar");
    std::fs::write(&saved, saved_archive()).unwrap();
    for kind in ["oci", "oci-archive"] {
        let target = dir.path().join(kind);
        let copied = tokio::process::Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--quiet"])
            .arg(format!("docker-archive:{}", saved.display()))
            .arg(format!("{kind}:{}:v1", target.display()))
            .status()
            .await;
        let Ok(status) = copied else { return };
        assert!(status.success());
        let name = ImageRef::parse(kind).unwrap();
        match kind {
            "oci" => images.import_layout(&target, &name).await.unwrap(),
            _ => images.import_archive(&target, &name).await.unwrap(),
        };
        assert_imported(&images, &name).await;
    }
}

#[tokio::test]
async fn what_is_no_image_or_lacks_a_part_is_refused_and_gets_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let (config, _layer) = parts();
    let manifest = br#"[{"Config":"c.json","Layers":["../../etc/passwd"]}]"#;
    let cases = [
        (tar_of(&[("x", b"y")]), "neither"),
        (b"no archive at all".to_vec(), "read archive"),
        (saved_archive()[..1500].to_vec(), "ends inside"),
        (
            tar_of(&[("manifest.json", manifest), ("c.json", &config)]),
            "lacks",
        ),
        (
            tar_of(&[("index.json", br#"{"manifests":[]}"#)]),
            "0 images",
        ),
    ];
    let path = dir.path().join("bad.tar");
    let name = ImageRef::parse("bad").unwrap();
    for (content, part) in cases {
        std::fs::write(&path, content).unwrap();
        let error: ImportError = images.import_archive(&path, &name).await.unwrap_err();
        let error = roost_model::error::chain(&error);
        assert!(error.contains(part) && error.contains("bad.tar"), "{error}");
    }
    assert!(
        images
            .store()
            .repositories(None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}
