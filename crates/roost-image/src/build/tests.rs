//! Builds and uploads, with nothing run: what goes in, what comes out, what is refused.

use super::elf::tests::tiny_program;
use super::{BuildError, Builder, BuilderSettings, ReceiveContextError, receive_context};
use crate::images::{Images, ImagesConfig};
use crate::manifest::{Manifest, OCI_LAYER, parse_manifest};
use crate::platform::Platform;
use crate::store::{ContentStore, ManifestReference};
use async_trait::async_trait;
use bytes::Bytes;
use flate2::read::GzDecoder;
use futures_util::stream;
use roost_model::error::{Blame, Classify as _};
use roost_model::id::BuildId;
use roost_model::name::AppName;
use roost_proto::dockerfile::{BuildDockerfileError, DockerfileBuild, DockerfileBuilder};
use roost_proto::rest::BuildPlan;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;

struct Setup {
    dir: tempfile::TempDir,
    store: ContentStore,
    builder: Builder,
}

async fn set_up(dockerfile_builder: Option<Arc<dyn DockerfileBuilder>>) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let config = ImagesConfig::new(dir.path().join("store"));
    let images = Images::open(config).await.unwrap();
    let store = images.store().clone();
    let serve_program = dir.path().join("roost-serve");
    fs::write(&serve_program, tiny_program()).unwrap();
    let scratch_dir = dir.path().join("scratch");
    fs::create_dir_all(dir.path().join("app/public/css")).unwrap();
    let settings = BuilderSettings {
        serve_program,
        scratch_dir,
        dockerfile_builder,
    };
    let builder = Builder::new(images, settings);
    Setup {
        dir,
        store,
        builder,
    }
}

impl Setup {
    fn app(&self) -> std::path::PathBuf {
        self.dir.path().join("app")
    }

    async fn build(&self, plan: &BuildPlan) -> Result<super::BuiltImage, BuildError> {
        let app = AppName::parse("shop").unwrap();
        let id = BuildId::parse("bld_01JD000000000000000000000A").unwrap();
        let (tx, _rx) = mpsc::channel(100);
        self.builder.build(&self.app(), plan, &app, &id, &tx).await
    }

    /// The config of an image, and the entries of its layers.
    async fn read(&self, image: &super::BuiltImage) -> (Value, Vec<Vec<String>>) {
        let repository = &image.reference.repository;
        let tag = ManifestReference::Tag(image.reference.tag.clone().unwrap());
        let found = self
            .store
            .manifest(repository, &tag)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(Some(&found.digest), image.reference.digest.as_ref());
        let Manifest::Image(manifest) = parse_manifest(&found.bytes).unwrap() else {
            panic!()
        };
        let config = self
            .store
            .read_blob(&manifest.config.digest, 1 << 20)
            .await
            .unwrap()
            .unwrap();
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            let packed = fs::File::open(self.store.blob_path(&layer.digest)).unwrap();
            layers.push(entries(GzDecoder::new(packed)));
        }
        (serde_json::from_slice(&config).unwrap(), layers)
    }
}

fn entries(reader: impl std::io::Read) -> Vec<String> {
    let mut archive = tar::Archive::new(reader);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        let path = entry.path().unwrap().display().to_string();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.mtime().unwrap()), (0, 0));
        let mode = header.mode().unwrap();
        entry.read_to_string(&mut content).unwrap_or_default();
        let shown: String = content
            .chars()
            .filter(|c| c.is_ascii_graphic())
            .take(12)
            .collect();
        format!("{path} {mode:o} {shown}")
    });
    entries.collect()
}

#[tokio::test]
async fn a_static_folder_becomes_two_layers_and_the_same_folder_the_same_image() {
    let setup = set_up(None).await;
    fs::write(setup.app().join("public/index.html"), "hi").unwrap();
    fs::write(setup.app().join("public/css/a.css"), "a{}").unwrap();
    symlink("index.html", setup.app().join("public/start.html")).unwrap();
    let plan = BuildPlan::Static {
        root: "public".into(),
    };
    let image = setup.build(&plan).await.unwrap();
    assert!(
        image
            .reference
            .to_string()
            .starts_with("shop:01JD000000000000000000000A@sha256:")
    );
    let (config, layers) = setup.read(&image).await;
    assert_eq!(config["config"]["Entrypoint"][0], "/roost-serve");
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["history"].as_array().unwrap().len(), layers.len());
    assert_eq!(layers[0].len(), 1);
    assert!(layers[0][0].starts_with("roost-serve 755"), "{layers:?}");
    let site = [
        "site/ 755 ",
        "site/css/ 755 ",
        "site/css/a.css 644 a{}",
        "site/index.html 644 hi",
        "site/start.html 777 ",
    ];
    assert_eq!(layers[1], site);
    let again = setup.build(&plan).await.unwrap();
    assert_eq!(again.reference.digest, image.reference.digest);
}

#[tokio::test]
async fn a_static_program_becomes_one_layer_and_a_dynamic_one_is_refused_with_advice() {
    let setup = set_up(None).await;
    fs::write(setup.app().join("server"), tiny_program()).unwrap();
    let plan = |path: &str| BuildPlan::Binary {
        path: path.into(),
        args: vec!["--fast".into()],
    };
    let image = setup.build(&plan("server")).await.unwrap();
    let (config, layers) = setup.read(&image).await;
    assert_eq!(
        config["config"]["Entrypoint"],
        serde_json::json!(["/app/shop", "--fast"])
    );
    let names: Vec<&str> = layers[0]
        .iter()
        .filter_map(|entry| entry.split(' ').next())
        .collect();
    assert_eq!(
        names,
        ["app/", "app/shop", "etc/", "etc/passwd", "etc/group"]
    );

    fs::copy(
        std::env::current_exe().unwrap(),
        setup.app().join("dynamic"),
    )
    .unwrap();
    let error = setup.build(&plan("dynamic")).await.unwrap_err();
    let text = roost_model::error::chain(&error);
    assert!(
        text.contains("`dynamic`") && text.contains("linked dynamically"),
        "{text}"
    );
    assert!(error.hint().unwrap().contains("statically"));
    fs::write(setup.app().join("script"), "#!/bin/sh").unwrap();
    let error = setup.build(&plan("script")).await.unwrap_err();
    assert!(matches!(error.blame(), Blame::Caller(_)));
}

#[tokio::test]
async fn what_is_missing_or_outside_is_named_and_no_image_is_left() {
    let setup = set_up(None).await;
    symlink("/etc", setup.app().join("etc")).unwrap();
    fs::write(setup.app().join("file"), "x").unwrap();
    for (root, expected) in [
        ("none", "no folder `none`"),
        ("file", "no folder `file`"),
        ("../", "leads out of the upload"),
        ("/etc", "leads out of the upload"),
        ("etc", "leads out of the upload"),
    ] {
        let error = setup
            .build(&BuildPlan::Static { root: root.into() })
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{root}: {error}");
    }
    symlink("../../../etc/passwd", setup.app().join("public/css/leak")).unwrap();
    let error = setup
        .build(&BuildPlan::Static {
            root: "public".into(),
        })
        .await
        .unwrap_err();
    let text = roost_model::error::chain(&error);
    assert!(
        text.contains("`css/leak` leads out of the folder"),
        "{text}"
    );
    assert_eq!(
        setup.store.repositories(None, 10).await.unwrap(),
        Vec::<String>::new()
    );
}

/// Writes a layout as buildah would, or fails.
struct FakeDockerfileBuilder;

#[async_trait]
impl DockerfileBuilder for FakeDockerfileBuilder {
    async fn build(
        &self,
        build: &DockerfileBuild,
        progress: &mpsc::Sender<String>,
    ) -> Result<(), BuildDockerfileError> {
        progress.send("STEP 1".to_owned()).await.unwrap();
        let content = fs::read_to_string(&build.dockerfile).unwrap();
        if content.contains("false") {
            return Err(BuildDockerfileError::Failed {
                last_line: "exit status 1".into(),
            });
        }
        let blobs = build.layout_dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |content: &[u8]| {
            let digest = roost_model::digest::Digest::from_sha256(
                <sha2::Sha256 as sha2::Digest>::digest(content).into(),
            );
            fs::write(blobs.join(digest.hex()), content).unwrap();
            serde_json::json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest, "size": content.len() })
        };
        let mut layer = put(b"layer");
        let config = serde_json::json!({ "os": "linux",
            "architecture": Platform::native().architecture,
            "rootfs": { "type": "layers", "diff_ids": [&layer["digest"]] } });
        let config = put(config.to_string().as_bytes());
        layer["mediaType"] = OCI_LAYER.into();
        let manifest =
            serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
        let manifest = put(manifest.to_string().as_bytes());
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(build.layout_dir.join("index.json"), index.to_string()).unwrap();
        Ok(())
    }
}

#[tokio::test]
async fn the_result_of_a_dockerfile_is_taken_over_and_its_scratch_folder_goes() {
    let setup = set_up(Some(Arc::new(FakeDockerfileBuilder))).await;
    fs::write(setup.app().join("Dockerfile"), "FROM scratch").unwrap();
    let plan = |dockerfile: &str| BuildPlan::Dockerfile {
        dockerfile: dockerfile.into(),
        args: BTreeMap::new(),
        target: None,
    };
    let image = setup.build(&plan("Dockerfile")).await.unwrap();
    assert_eq!(image.size_bytes, 5);
    let tags = setup.store.tags("shop", None, 10).await.unwrap();
    assert_eq!(tags, ["01JD000000000000000000000A"]);
    fs::write(setup.app().join("Broken"), "RUN false").unwrap();
    let error = setup.build(&plan("Broken")).await.unwrap_err();
    assert!(roost_model::error::chain(&error).ends_with("exit status 1"));
    for path in ["None", "public"] {
        let error = setup.build(&plan(path)).await.unwrap_err();
        let expected = format!("the upload has no Dockerfile `{path}`");
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(
        fs::read_dir(setup.dir.path().join("scratch"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn a_saved_image_is_imported_as_a_build_of_the_app_and_named_in_errors() {
    let setup = set_up(Some(Arc::new(FakeDockerfileBuilder))).await;
    let layout_dir = setup.app().join("image");
    fs::write(setup.app().join("Dockerfile"), "").unwrap();
    let build = DockerfileBuild {
        context_dir: setup.app(),
        dockerfile: setup.app().join("Dockerfile"),
        args: BTreeMap::new(),
        target: None,
        layout_dir: layout_dir.clone(),
    };
    let (tx, _rx) = mpsc::channel(1);
    FakeDockerfileBuilder.build(&build, &tx).await.unwrap();
    let plan = |path: &str| BuildPlan::Archive {
        path: path.into(),
        image: None,
    };
    let image = setup.build(&plan("image")).await.unwrap();
    assert_eq!(image.reference.repository, "shop");
    assert_eq!(image.size_bytes, 5);

    let error = setup.build(&plan("Dockerfile")).await.unwrap_err();
    let text = roost_model::error::chain(&error);
    assert!(text.starts_with("import `Dockerfile`: it "), "{text}");
    assert_eq!(error.code().0, "archive-invalid");
    assert!(matches!(error.blame(), Blame::Caller(_)));
    let error = setup.build(&plan("none.tar")).await.unwrap_err();
    assert_eq!(error.to_string(), "the upload has no archive `none.tar`");
}

fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(size);
    header
}

#[tokio::test]
async fn a_layout_whose_links_lead_out_is_refused_even_when_no_gate_was_before_it() {
    let setup = set_up(None).await;
    let deep = setup.app().join("a/b/c");
    fs::create_dir_all(&deep).unwrap();
    symlink("../../..", deep.join("up")).unwrap();
    let zero = format!("a/b/c/up{}/dev/zero", "/..".repeat(20));
    symlink(zero, setup.app().join("index.json")).unwrap();
    let plan = BuildPlan::Archive {
        path: ".".into(),
        image: None,
    };
    let error = setup.build(&plan).await.unwrap_err();
    let text = roost_model::error::chain(&error);
    assert!(
        text.contains("`index.json`, which leads out of the folder"),
        "{text}"
    );
    assert!(matches!(error.blame(), Blame::Caller(_)));
}

/// An archive with one entry whose path is written as it is, whatever the library thinks of it.
fn archive_with(path: &str, kind: tar::EntryType, link: &str) -> Vec<u8> {
    let mut header = header(kind, 0);
    let raw = header.as_old_mut();
    raw.name[..path.len()].copy_from_slice(path.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, std::io::empty()).unwrap();
    builder.into_inner().unwrap()
}

/// One archive of several that have one entry each.
fn in_row(archives: &[Vec<u8>]) -> Vec<u8> {
    let entries = archives.iter().map(|archive| &archive[..512]);
    let end = [0; 1024];
    entries.chain([&end[..]]).collect::<Vec<_>>().concat()
}

async fn receive(content: Vec<u8>, dir: &Path) -> Result<(), ReceiveContextError> {
    let chunks: Vec<_> = content
        .chunks(700)
        .map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk)))
        .collect();
    receive_context(stream::iter(chunks), dir).await
}

#[tokio::test]
async fn an_uploaded_folder_arrives_plain_or_packed() {
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_data(
            &mut header(tar::EntryType::Regular, 3),
            "bin/run",
            &b"abc"[..],
        )
        .unwrap();
    let long = format!("deep/{}/file", "n".repeat(180));
    builder
        .append_data(&mut header(tar::EntryType::Regular, 2), &long, &b"xy"[..])
        .unwrap();
    builder
        .append_link(&mut header(tar::EntryType::Symlink, 0), "link", "bin/run")
        .unwrap();
    let plain = builder.into_inner().unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &plain).unwrap();
    for content in [plain, packed.finish().unwrap()] {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("context");
        receive(content, &target).await.unwrap();
        assert_eq!(fs::read_to_string(target.join("link")).unwrap(), "abc");
        assert_eq!(fs::read_to_string(target.join(&long)).unwrap(), "xy");
        let mode = fs::metadata(target.join("bin/run"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
    }
}

#[tokio::test]
async fn an_upload_that_would_leave_its_folder_is_refused_and_leaves_nothing() {
    use tar::EntryType::{Char, Link, Regular, Symlink};
    let through_link = in_row(&[
        archive_with("a", Symlink, "b"),
        archive_with("a/file", Regular, ""),
    ]);
    let two_steps = [
        archive_with("a/b/c/up", Symlink, "../../.."),
        archive_with("index.json", Symlink, "a/b/c/up/../../../../dev/zero"),
    ];
    let cases = [
        (archive_with("../evil", Regular, ""), "leads upwards"),
        (archive_with("a/../../evil", Regular, ""), "leads upwards"),
        (archive_with("/etc/evil", Regular, ""), "absolute"),
        (archive_with("l", Symlink, "/etc/passwd"), "leads out"),
        (archive_with("a/l", Symlink, "../../x"), "leads out"),
        (archive_with("h", Link, "/etc/passwd"), "neither a file"),
        (archive_with("dev", Char, ""), "neither a file"),
        (through_link, "no folder"),
        (
            in_row(&two_steps),
            "`index.json`, which is a link that leads out",
        ),
        // What a link means is settled by the last entry, not by those before it.
        (
            in_row(&[two_steps[1].clone(), two_steps[0].clone()]),
            "`index.json`, which is a link that leads out",
        ),
        (archive_with("round", Symlink, "round"), "in a circle"),
    ];
    for (content, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let error = receive(content, &dir.path().join("context"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.is_callers_fault());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{expected}");
    }
}

#[tokio::test]
async fn links_that_stay_in_the_folder_arrive_through_whatever_others_they_lead() {
    use tar::EntryType::{Regular, Symlink};
    let content = in_row(&[
        archive_with("a/b/c/up", Symlink, "../../.."),
        archive_with("l", Symlink, "a/b/c/up/a/../file"),
        archive_with("nowhere", Symlink, "a/none"),
        archive_with("file", Regular, ""),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("context");
    receive(content, &target).await.unwrap();
    assert_eq!(fs::read(target.join("l")).unwrap(), b"");
}

#[tokio::test]
async fn paths_that_contradict_each_other_or_are_too_long_are_the_uploads_fault() {
    use tar::EntryType::{Directory, Regular, Symlink};
    let file_and = |kind, link| {
        in_row(&[
            archive_with("a", Regular, ""),
            archive_with("a", kind, link),
        ])
    };
    let folder_and = |kind, link| {
        in_row(&[
            archive_with("a/", Directory, ""),
            archive_with("a", kind, link),
        ])
    };
    let long_name = {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = header(tar::EntryType::Regular, 0);
        builder
            .append_data(&mut header, "n".repeat(256), std::io::empty())
            .unwrap();
        builder.into_inner().unwrap()
    };
    let long_folder = {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = header(tar::EntryType::Regular, 0);
        let path = format!("{}/file", "n".repeat(256));
        builder
            .append_data(&mut header, path, std::io::empty())
            .unwrap();
        builder.into_inner().unwrap()
    };
    let cases = [
        (folder_and(Regular, ""), "is also a folder"),
        (folder_and(Symlink, "b"), "is also a folder"),
        (file_and(Directory, ""), "no folder"),
        (long_name, "too long"),
        (long_folder, "too long"),
    ];
    for (content, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let error = receive(content, &dir.path().join("context"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, ReceiveContextError::Path { .. }),
            "{expected}: {error}"
        );
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn broken_and_greedy_uploads_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("context");
    let error = receive(vec![b'x'; 2_000], &target).await.unwrap_err();
    assert!(matches!(error, ReceiveContextError::Archive(_)), "{error}");
    let mut huge_name = header(tar::EntryType::GNULongName, 3 << 30);
    huge_name.set_cksum();
    let mut content = huge_name.as_bytes().to_vec();
    content.resize(4 << 20, b'n');
    let error = roost_model::error::chain(&receive(content, &target).await.unwrap_err());
    assert!(error.contains("header of an entry is too long"), "{error}");
    let mut huge_file = header(tar::EntryType::Regular, 5 << 30);
    huge_file.set_cksum();
    huge_file.set_path("f").unwrap();
    huge_file.set_cksum();
    let error = receive(huge_file.as_bytes().to_vec(), &target)
        .await
        .unwrap_err();
    assert!(matches!(error, ReceiveContextError::TooLarge), "{error}");
    let broken = stream::iter([Ok(Bytes::from("x")), Err(std::io::Error::other("cut"))]);
    let error = receive_context(broken, &target).await.unwrap_err();
    assert!(matches!(error, ReceiveContextError::Upload(_)), "{error}");
    assert!(!target.exists());
}

#[test]
fn a_full_disk_is_no_fault_of_the_dockerfile() {
    use roost_model::error::{Blame, Classify as _, ErrorCode};
    let failed = |last_line: &str| super::BuildError::Dockerfile {
        path: "Dockerfile".into(),
        source: roost_proto::dockerfile::BuildDockerfileError::Failed {
            last_line: last_line.into(),
        },
    };
    let full = failed("processing tar file(write /one: no space left on device): exit status 1");
    assert_eq!(full.code(), ErrorCode("disk-full"));
    assert_eq!(full.blame(), Blame::Environment);
    let wrong = failed("no such file");
    assert_eq!(wrong.code(), ErrorCode("build-failed"));
    assert!(matches!(wrong.blame(), Blame::Caller(_)));
}
