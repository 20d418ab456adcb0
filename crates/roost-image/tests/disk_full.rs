//! A disk that fills up: a clear error, nothing half-made, and success once there is room.
//!
//! Each test runs itself again in a mount namespace of its own, where a small
//! file system is mounted; it goes with the namespace, however the test ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use roost_image::build::{Builder, BuilderSettings, receive_context};
use roost_image::registry::{RegistryAccess, RegistryAuth, router};
use roost_image::{Credentials, Images, ImagesConfig, NoProgress, is_no_space};
use roost_model::error::{Classify as _, ErrorCode, chain};
use roost_model::image_ref::ImageRef;
use roost_proto::rest::BuildPlan;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

/// Set in the run within the namespace: where the small file system is.
const DISK: &str = "ROOST_TEST_SMALL_DISK";
const DISK_BYTES: usize = 16 << 20;
/// More than is left on the disk while it is full.
const CONTENT_BYTES: usize = 3 << 20;
const LEFT_WHEN_FULL_BYTES: usize = 1 << 20;

/// The small disk; `None` in the outer run, when the inner one has done the test.
fn small_disk() -> Option<SmallDisk> {
    if let Some(dir) = std::env::var_os(DISK) {
        return Some(SmallDisk { dir: dir.into() });
    }
    let probe = Command::new("unshare").args(["--mount", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no mount namespace can be made here (it needs CAP_SYS_ADMIN)");
        return None;
    }
    // The harness names the thread of a test after it.
    let thread = std::thread::current();
    let test = thread.name().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let script =
        format!("mount -t tmpfs -o size={DISK_BYTES} roost-test \"${DISK}\" && exec \"$@\"");
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "sh",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(DISK, dir.path())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        output.status.success() && said.contains(" 1 passed"),
        "{said}"
    );
    None
}

struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Leaves only so much.
    fn fill(&self, left_bytes: usize) {
        let stat = rustix::fs::statvfs(&self.dir).unwrap();
        let free = usize::try_from(stat.f_bavail * stat.f_bsize).unwrap();
        let ballast = vec![7; free.saturating_sub(left_bytes)];
        std::fs::write(self.path("ballast"), ballast).unwrap();
    }

    fn make_room(&self) {
        std::fs::remove_file(self.path("ballast")).unwrap();
    }

    async fn images(&self) -> Images {
        self.images_with_login(None).await
    }

    async fn images_with_login(&self, registry: Option<&str>) -> Images {
        let mut config = ImagesConfig::new(self.path("images"));
        let login = Credentials {
            username: "roost".into(),
            password: "sesame".into(),
        };
        config.credentials = registry
            .map(|name| (name.to_owned(), login))
            .into_iter()
            .collect();
        Images::open(config).await.unwrap()
    }

    /// Whether every file of the store is one that the store knows to be whole.
    fn assert_nothing_half_made(&self, what: &str) {
        let names = |name: &str| -> Vec<String> {
            let entries = std::fs::read_dir(self.path("images").join(name)).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        assert_eq!(names("partial"), [""; 0], "{what}");
        assert_eq!(names("layers"), [""; 0], "{what}");
        assert_eq!(names("root-images"), [""; 0], "{what}");
        for name in names("blobs/sha256") {
            let content = std::fs::read(self.path("images/blobs/sha256").join(&name)).unwrap();
            assert_eq!(hex::encode(Sha256::digest(&content)), name, "{what}");
        }
    }
}

fn assert_is_full(error: &(dyn Error + 'static), what: &str) {
    let text = chain(error);
    assert!(is_no_space(error), "{what}: {text}");
    assert!(
        text.contains("No space left on device") || text.contains("disk is full"),
        "{what}: {text}"
    );
}

/// Bytes that no compression makes smaller.
fn noise(n_bytes: usize) -> Vec<u8> {
    let blocks = (0..n_bytes.div_ceil(32)).flat_map(|n| Sha256::digest(n.to_le_bytes()));
    blocks.take(n_bytes).collect()
}

struct OneToken;

#[async_trait]
impl RegistryAuth for OneToken {
    async fn check(&self, secret: &str) -> Option<RegistryAccess> {
        (secret == "sesame").then_some(RegistryAccess::Write)
    }
}

fn layer(content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, "content", content).unwrap();
    tar.into_inner().unwrap()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, content).unwrap();
    encoder.finish().unwrap()
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

/// The blobs of an image with one layer, its config and its manifest, by digest.
fn image(layer: &[u8], compressed: &[u8]) -> Vec<(String, Vec<u8>)> {
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": ["/content"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(layer)] },
    });
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config), "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest(compressed), "size": compressed.len(),
        }],
    });
    let blobs = [
        compressed.to_vec(),
        config,
        manifest.to_string().into_bytes(),
    ];
    blobs.map(|blob| (digest(&blob), blob)).into()
}

async fn send(router: &Router, method: &str, path: &str, body: Vec<u8>) -> (StatusCode, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer sesame")
        .header("content-type", "application/vnd.oci.image.manifest.v1+json")
        .body(Body::from(body))
        .unwrap();
    let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let location = parts.headers.get("location");
    let location = location.map(|value| value.to_str().unwrap().to_owned());
    let text = String::from_utf8_lossy(&body).into_owned();
    (parts.status, location.unwrap_or(text))
}

/// Pushes an image as `team/app:v1`; the first answer that is no success.
async fn push(router: &Router, image: &[(String, Vec<u8>)]) -> Result<(), (StatusCode, String)> {
    let check = |(status, text): (StatusCode, String)| {
        status.is_success().then_some(()).ok_or((status, text))
    };
    let (manifest, blobs) = image.split_last().unwrap();
    for (digest, blob) in blobs {
        let path = format!("/v2/team/app/blobs/uploads/?digest={digest}");
        check(send(router, "POST", &path, blob.clone()).await)?;
    }
    let path = "/v2/team/app/manifests/v1";
    check(send(router, "PUT", path, manifest.1.clone()).await)
}

/// A registry outside of the small disk that has the image.
async fn registry_with(image: &[(String, Vec<u8>)]) -> (ImageRef, tempfile::TempDir, JoinSet<()>) {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(ImagesConfig::new(dir.path().join("images")));
    let router = router(images.await.unwrap().store().clone(), Arc::new(OneToken));
    push(&router, image).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reference = format!("{}/team/app:v1", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (ImageRef::parse(&reference).unwrap(), dir, tasks)
}

#[tokio::test]
async fn a_pull_fails_clearly_and_works_once_there_is_room() {
    let Some(disk) = small_disk() else {
        return;
    };
    let layer = layer(&noise(CONTENT_BYTES));
    let (reference, _dir, _tasks) = registry_with(&image(&layer, &gzip(&layer))).await;
    let images = disk.images_with_login(reference.registry.as_deref()).await;
    disk.fill(LEFT_WHEN_FULL_BYTES);
    for turn in ["first", "second"] {
        let error = images.pull(&reference, &NoProgress).await.unwrap_err();
        assert_is_full(&error, turn);
        disk.assert_nothing_half_made(turn);
    }
    disk.make_room();
    let image = images.pull(&reference, &NoProgress).await.unwrap();
    let layers = images.rootfs_layers(&image).await.unwrap();
    let content = std::fs::read(layers[0].join("content")).unwrap();
    assert_eq!(content, noise(CONTENT_BYTES));
}

#[tokio::test]
async fn a_layer_that_does_not_fit_once_unpacked_leaves_no_part_of_itself() {
    let Some(disk) = small_disk() else {
        return;
    };
    // Small as a blob, large as a file.
    let layer = layer(&vec![0; CONTENT_BYTES]);
    let (reference, _dir, _tasks) = registry_with(&image(&layer, &gzip(&layer))).await;
    let images = disk.images_with_login(reference.registry.as_deref()).await;
    disk.fill(LEFT_WHEN_FULL_BYTES);
    let image = images.pull(&reference, &NoProgress).await.unwrap();
    for turn in ["first", "second"] {
        let error = images.rootfs_layers(&image).await.unwrap_err();
        assert_is_full(&error, turn);
        disk.assert_nothing_half_made(turn);
    }
    disk.make_room();
    let layers = images.rootfs_layers(&image).await.unwrap();
    let size = std::fs::metadata(layers[0].join("content")).unwrap().len();
    assert_eq!(size, CONTENT_BYTES as u64);
}

#[tokio::test]
async fn a_root_image_that_does_not_fit_leaves_no_part_of_itself() {
    let Some(disk) = small_disk() else {
        return;
    };
    let layer = layer(&noise(CONTENT_BYTES));
    let (reference, _dir, _tasks) = registry_with(&image(&layer, &gzip(&layer))).await;
    let images = disk.images_with_login(reference.registry.as_deref()).await;
    let image = images.pull(&reference, &NoProgress).await.unwrap();
    images.rootfs_layers(&image).await.unwrap();
    disk.fill(LEFT_WHEN_FULL_BYTES);
    for turn in ["first", "second"] {
        let error = images.root_image(&image).await.unwrap_err();
        assert_is_full(&error, turn);
        let folder = disk.path("images/root-images");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "{turn}");
    }
    disk.make_room();
    let path = images.root_image(&image).await.unwrap();
    let size = std::fs::metadata(path).unwrap().len();
    assert!(size > CONTENT_BYTES as u64);
}

#[tokio::test]
async fn a_push_is_refused_at_any_step_and_works_once_there_is_room() {
    let Some(disk) = small_disk() else {
        return;
    };
    let images = disk.images().await;
    let router = router(images.store().clone(), Arc::new(OneToken));
    let (mut n_refused, mut n_taken) = (0, 0);
    // The disk fills up in the database as well as in blobs.
    for left in (0..400_usize << 10).step_by(12 << 10) {
        let mut content = noise(200 << 10);
        content.extend_from_slice(&left.to_le_bytes());
        let layer = layer(&content);
        let image = image(&layer, &gzip(&layer));
        disk.fill(left);
        match push(&router, &image).await {
            Ok(()) => n_taken += 1,
            Err((status, text)) => {
                n_refused += 1;
                assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{left}: {text}");
                assert!(text.contains("disk is full"), "{left}: {text}");
            }
        }
        disk.assert_nothing_half_made(&format!("{left} bytes left"));
        disk.make_room();
    }
    assert!(n_refused > 5 && n_taken > 5, "{n_refused}, {n_taken}");
    let last = image(&layer(b"last"), &gzip(&layer(b"last")));
    push(&router, &last).await.unwrap();
    drop((router, images));
    // What is on record after all of it is there, and the other way round.
    let images = disk.images().await;
    let n_files = std::fs::read_dir(disk.path("images/blobs/sha256"))
        .unwrap()
        .count();
    let used = images.store().bytes_used().await.unwrap();
    let found = images
        .pull(&ImageRef::parse("team/app:v1").unwrap(), &NoProgress)
        .await;
    assert_eq!(found.unwrap().layers[0].digest.as_str(), last[0].0);
    assert!(
        n_files >= n_taken * 3 && used.bytes() > 0,
        "{n_files} files"
    );
}

#[tokio::test]
async fn an_upload_in_chunks_that_does_not_fit_is_gone() {
    let Some(disk) = small_disk() else {
        return;
    };
    let images = disk.images().await;
    let router = router(images.store().clone(), Arc::new(OneToken));
    let (status, session) = send(&router, "POST", "/v2/a/blobs/uploads/", vec![]).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    disk.fill(LEFT_WHEN_FULL_BYTES);
    let chunk = noise(CONTENT_BYTES);
    let (status, _) = send(&router, "PATCH", &session, chunk.clone()).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE);
    disk.assert_nothing_half_made("after the chunk");
    let (status, text) = send(&router, "GET", &session, vec![]).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{text}");
    disk.make_room();
    let path = format!("/v2/a/blobs/uploads/?digest={}", digest(&chunk));
    let (status, text) = send(&router, "POST", &path, chunk).await;
    assert_eq!(status, StatusCode::CREATED, "{text}");
}

#[tokio::test]
async fn an_import_that_does_not_fit_leaves_nothing_and_works_once_there_is_room() {
    let Some(disk) = small_disk() else {
        return;
    };
    let layer = layer(&noise(CONTENT_BYTES));
    let blobs = image(&layer, &gzip(&layer));
    let (manifest_digest, manifest) = blobs.last().unwrap();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest, "size": manifest.len(),
        }],
    });
    let layout = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(layout.path().join("blobs/sha256")).unwrap();
    let mut files = BTreeMap::from([("index.json".to_owned(), index.to_string().into_bytes())]);
    for (digest, blob) in &blobs {
        let hex = digest.trim_start_matches("sha256:");
        files.insert(format!("blobs/sha256/{hex}"), blob.clone());
    }
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in &files {
        std::fs::write(layout.path().join(path), content).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive
            .append_data(&mut header, path, &content[..])
            .unwrap();
    }
    let archive_path = layout.path().join("image.tar");
    std::fs::write(&archive_path, archive.into_inner().unwrap()).unwrap();
    let images = disk.images().await;
    let name = ImageRef::parse("app:v1").unwrap();
    disk.fill(LEFT_WHEN_FULL_BYTES);
    let error = images.import(&archive_path, None, &name).await.unwrap_err();
    assert_is_full(&error, "archive");
    disk.assert_nothing_half_made("archive");
    let error = images.import(layout.path(), None, &name).await.unwrap_err();
    assert_is_full(&error, "layout");
    disk.assert_nothing_half_made("layout");
    disk.make_room();
    let taken = images.import(&archive_path, None, &name).await.unwrap();
    assert_eq!(taken.digest.as_str(), manifest_digest);
}

#[tokio::test]
async fn a_build_that_does_not_fit_says_so_and_works_once_there_is_room() {
    let Some(disk) = small_disk() else {
        return;
    };
    let upload = || {
        let archive = layer(&noise(CONTENT_BYTES));
        futures_util::stream::iter([Ok::<_, std::io::Error>(archive.into())])
    };
    let folder = disk.path("folder");
    disk.fill(LEFT_WHEN_FULL_BYTES);
    let error = receive_context(upload(), &folder).await.unwrap_err();
    assert_is_full(&error, "upload");
    assert!(!error.is_callers_fault() && !folder.exists());
    disk.make_room();
    receive_context(upload(), &folder).await.unwrap();

    let images = disk.images().await;
    // Any program will do: it is packed, not run.
    let program = disk.path("serve");
    std::fs::write(&program, "program").unwrap();
    let settings = BuilderSettings {
        serve_program: program,
        scratch_dir: disk.path("scratch"),
        dockerfile_builder: None,
    };
    let builder = Builder::new(images.clone(), settings);
    let plan = BuildPlan::Static { root: ".".into() };
    let app = roost_model::name::AppName::parse("app").unwrap();
    let id = roost_model::id::BuildId::parse("bld_01J0000000000000000000000A").unwrap();
    let (progress, _lines) = tokio::sync::mpsc::channel(100);
    disk.fill(LEFT_WHEN_FULL_BYTES);
    let error = builder
        .build(&folder, &plan, &app, &id, &progress)
        .await
        .unwrap_err();
    assert_is_full(&error, "build");
    assert_eq!(error.code(), ErrorCode("disk-full"));
    disk.assert_nothing_half_made("build");
    disk.make_room();
    let built = builder
        .build(&folder, &plan, &app, &id, &progress)
        .await
        .unwrap();
    assert!(built.size_bytes >= CONTENT_BYTES as u64);
}
