//! Tests of imports: layouts and archives, written by hand and by stock tools.

use super::ImportError;
use crate::images::{Images, ImagesConfig};
use crate::limits::ARCHIVE_BYTES_MAX;
use crate::manifest::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use crate::platform::Platform;
use crate::pull::NoProgress;
use roost_model::digest::Digest;
use roost_model::error::{Classify as _, ErrorCode, chain};
use roost_model::image_ref::ImageRef;
use serde_json::{Value, json};
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

/// What `docker save a:1 b:2 b:3` writes: two images, the second with two names.
fn archive_of_two() -> Vec<u8> {
    let (config, layer) = parts();
    let manifest = r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["one/layer.tar"]},
        {"Config":"c.json","RepoTags":["b:2","b:3"],"Layers":["one/layer.tar"]}]"#;
    tar_of(&[
        ("one/layer.tar", &layer),
        ("c.json", &config),
        ("manifest.json", manifest.as_bytes()),
    ])
}

/// A layout folder whose index lists these architectures, each by the names that are given.
fn write_layout(dir: &Path, images: &[(&str, &[&str])]) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |content: &[u8], media_type: &str| {
        let digest = digest_of(content);
        std::fs::write(blobs.join(digest.hex()), content).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    };
    let (config, layer) = parts();
    let mut manifests = Vec::new();
    for (architecture, names) in images {
        let mut config: Value = serde_json::from_slice(&config).unwrap();
        config["architecture"] = json!(architecture);
        let config = put(config.to_string().as_bytes(), OCI_CONFIG);
        let layer = put(&layer, OCI_LAYER);
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]});
        let mut entry = put(manifest.to_string().as_bytes(), OCI_MANIFEST);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        if names.is_empty() {
            manifests.push(entry.clone());
        }
        for name in *names {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            manifests.push(entry.clone());
        }
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

async fn assert_imported(images: &Images, name: &ImageRef) {
    let image = images.pull(name, &NoProgress).await.unwrap();
    let paths = images.rootfs_layers(&image).await.unwrap();
    assert_eq!(std::fs::read(paths[0].join("hello")).unwrap(), b"hi");
    assert_eq!(image.config.entrypoint, ["/hello"]);
}

/// The whole message, and the code, of an import that fails.
async fn refusal(images: &Images, path: &Path, wanted: Option<&str>) -> (String, &'static str) {
    let name = ImageRef::parse("bad").unwrap();
    let error: ImportError = images.import(path, wanted, &name).await.unwrap_err();
    let ErrorCode(code) = error.code();
    (chain(&error), code)
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
        images.import(&path, None, &name).await.unwrap();
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
        images.import(&target, Some("v1"), &name).await.unwrap();
        assert_imported(&images, &name).await;
    }
}

#[tokio::test]
async fn of_several_images_the_one_that_is_named_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let native = Platform::native().architecture;
    let saved = dir.path().join("two.tar");
    std::fs::write(&saved, archive_of_two()).unwrap();
    let layout = dir.path().join("layout");
    write_layout(&layout, &[(&native, &["a:1"]), ("other", &["b:2", "b:3"])]);
    for path in [&saved, &layout] {
        let (error, code) = refusal(&images, path, None).await;
        assert!(error.contains("not one: a:1, b:2, b:3"), "{error}");
        assert_eq!(code, "archive-image-unclear");
        let (error, _) = refusal(&images, path, Some("c:4")).await;
        assert!(error.contains("`c:4`") && error.contains("a:1"), "{error}");
        let name = ImageRef::parse("chosen").unwrap();
        images.import(path, Some("a:1"), &name).await.unwrap();
        assert_imported(&images, &name).await;
    }
    let (error, code) = refusal(&images, &layout, Some("b:3")).await;
    assert!(error.contains("linux/other"), "{error}");
    assert_eq!(code, "image-unusable");
}

#[tokio::test]
async fn one_image_with_two_names_or_for_two_processors_is_one_image() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let native = Platform::native().architecture;
    let cases: [&[(&str, &[&str])]; 3] = [
        &[(&native, &["v1", "latest"])],
        &[("other", &["v1"]), (&native, &["v1"])],
        &[("other", &[]), (&native, &[])],
    ];
    for (idx, case) in cases.iter().enumerate() {
        let layout = dir.path().join(format!("layout-{idx}"));
        write_layout(&layout, case);
        let name = ImageRef::parse(&format!("one-{idx}")).unwrap();
        images.import(&layout, None, &name).await.unwrap();
        assert_imported(&images, &name).await;
    }
}

#[tokio::test]
async fn what_is_no_image_or_lacks_a_part_is_refused_and_gets_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let (config, _layer) = parts();
    let manifest = br#"[{"Config":"c.json","Layers":["../../etc/passwd"]}]"#;
    let mut damaged = saved_archive();
    // Inside the layer: after its header in the archive, and that of its only file.
    damaged[1024] ^= 1;
    let cases = [
        (damaged, "damaged copy of layer sha256:"),
        (tar_of(&[("x", b"y")]), "neither"),
        (b"no archive at all".to_vec(), "not a whole archive"),
        (saved_archive()[..1500].to_vec(), "ends inside"),
        (
            tar_of(&[("manifest.json", manifest), ("c.json", &config)]),
            "lacks",
        ),
        (
            tar_of(&[("index.json", br#"{"schemaVersion":2,"manifests":[]}"#)]),
            "holds no image",
        ),
        (tar_of(&[("manifest.json", b"{}")]), "bad manifest.json"),
        (tar_of(&[("index.json", b"{}")]), "index.json is not valid"),
    ];
    let path = dir.path().join("bad.tar");
    for (content, part) in cases {
        std::fs::write(&path, content).unwrap();
        let (error, code) = refusal(&images, &path, None).await;
        assert!(error.contains(part), "{error}");
        assert_eq!(code, "archive-invalid", "{error}");
    }
    let none = images.store().repositories(None, 10).await.unwrap();
    assert_eq!(none, Vec::<String>::new());
}

#[tokio::test]
async fn a_layout_folder_with_a_damaged_or_missing_blob_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let layout = dir.path().join("layout");
    let (error, _) = refusal(&images, dir.path(), None).await;
    assert!(error.contains("no index.json"), "{error}");
    write_layout(&layout, &[(&Platform::native().architecture, &[])]);
    let (_, layer) = parts();
    let blob = layout.join("blobs/sha256").join(digest_of(&layer).hex());
    std::fs::write(&blob, "other").unwrap();
    let (error, code) = refusal(&images, &layout, None).await;
    assert!(error.contains("damaged"), "{error}");
    assert_eq!(code, "archive-invalid");
    std::fs::remove_file(&blob).unwrap();
    let (error, _) = refusal(&images, &layout, None).await;
    assert!(error.contains("lacks blob sha256:"), "{error}");
}

#[tokio::test]
async fn what_a_link_leads_to_outside_of_a_layout_is_not_read() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let (_, layer) = parts();
    let blob = format!("blobs/sha256/{}", digest_of(&layer).hex());
    let beside = dir.path().join("beside");
    std::fs::write(&beside, &layer).unwrap();
    for (idx, file) in ["index.json", &blob].into_iter().enumerate() {
        // What a store has is not taken anew.
        let images = open(&dir.path().join(idx.to_string())).await;
        write_layout(&layout, &[(&Platform::native().architecture, &[])]);
        // A link into the folder, and one through it: neither leads upwards by its text.
        std::fs::create_dir_all(layout.join("blobs/sha256/c")).unwrap();
        symlink("../../..", layout.join("blobs/sha256/c/up")).unwrap();
        symlink("blobs/sha256/c/up", layout.join("up")).unwrap();
        std::fs::copy(layout.join(file), layout.join("inside")).unwrap();
        let at = layout.join(file);
        let zero = format!("c/up{}/dev/zero", "/..".repeat(20));
        for (target, problem) in [
            ("c/up/../beside", "leads out of the folder"),
            (&zero, "leads out of the folder"),
            ("c", "is no regular file"),
        ] {
            std::fs::remove_file(&at).unwrap();
            let target = match file {
                "index.json" => format!("blobs/sha256/{target}"),
                _ => target.to_owned(),
            };
            symlink(&target, &at).unwrap();
            let (error, code) = refusal(&images, &layout, None).await;
            assert!(error.contains(problem), "{file} -> {target}: {error}");
            assert_eq!(code, "archive-invalid");
        }
        std::fs::remove_file(&at).unwrap();
        let inside = match file {
            "index.json" => "up/inside",
            _ => "c/up/inside",
        };
        symlink(inside, &at).unwrap();
        let name = ImageRef::parse("linked").unwrap();
        images.import(&layout, None, &name).await.unwrap();
        std::fs::remove_dir_all(&layout).unwrap();
    }
}

#[tokio::test]
async fn a_pipe_is_no_archive_and_no_index() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let layout = dir.path().join("layout");
    std::fs::create_dir(&layout).unwrap();
    let pipe = layout.join("index.json");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for path in [&layout, &pipe] {
        let (error, code) = refusal(&images, path, None).await;
        assert!(error.contains("no regular file"), "{error}");
        assert_eq!(code, "archive-invalid");
    }
}

#[tokio::test]
async fn an_archive_that_announces_more_than_the_limit_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let mut header = tar::Header::new_gnu();
    header.set_path("huge").unwrap();
    header.set_size(ARCHIVE_BYTES_MAX + 1);
    header.set_mode(0o644);
    header.set_cksum();
    let path = dir.path().join("huge.tar");
    std::fs::write(&path, header.as_bytes()).unwrap();
    let (error, _) = refusal(&images, &path, None).await;
    assert!(error.contains("holds more than"), "{error}");
}
