//! Stock `skopeo` and `buildah` push to the built-in registry and pull from it.
//!
//! The image is made by hand in a temporary folder; all traffic is on loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use async_trait::async_trait;
use roost_image::ContentStore;
use roost_image::registry::{RegistryAccess, RegistryAuth, router};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::task::JoinSet;

/// Longest run of one tool: a stuck one must fail the test, not hang it.
const TOOL_TIMEOUT: Duration = Duration::from_secs(120);

struct OneToken;

#[async_trait]
impl RegistryAuth for OneToken {
    async fn check(&self, secret: &str) -> Option<RegistryAccess> {
        (secret == "sesame").then_some(RegistryAccess::Write)
    }
}

struct Running {
    address: String,
    dir: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

async fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(&dir.path().join("store")).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = router(store, Arc::new(OneToken));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Running {
        address,
        dir,
        _tasks: tasks,
    }
}

/// What a tool printed, and whether it succeeded.
struct Outcome {
    success: bool,
    stdout: String,
    stderr: String,
}

/// Runs a tool; `None`, with a line that says so, when it is not installed.
async fn run(dir: &Path, program: &str, arguments: &[&str]) -> Option<Outcome> {
    let child = Command::new(program)
        .args(arguments)
        // Neither the tools' stores nor their saved logins are the user's own.
        .env("HOME", dir)
        .env("XDG_RUNTIME_DIR", dir.join("runtime"))
        .env("TMPDIR", dir)
        .env_remove("REGISTRY_AUTH_FILE")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(TOOL_TIMEOUT, child)
        .await
        .expect("the tool ends in time")
    {
        Ok(output) => Some(Outcome {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: {program} is not installed");
            None
        }
        Err(error) => panic!("start {program}: {error}"),
    }
}

fn put_blob(layout: &Path, content: &[u8]) -> (String, usize) {
    let hex = hex::encode(Sha256::digest(content));
    std::fs::write(layout.join("blobs/sha256").join(&hex), content).unwrap();
    (format!("sha256:{hex}"), content.len())
}

/// An OCI layout with one image of one layer, tagged `v1`.
fn make_layout(layout: &Path) {
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(6);
    tar.append_data(&mut header, "greeting", &b"hello\n"[..])
        .unwrap();
    let layer = tar.into_inner().unwrap();
    let (layer_digest, layer_size) = put_blob(layout, &layer);
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": ["/greeting"] },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
    });
    let (config_digest, config_size) = put_blob(layout, config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest, "size": config_size,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer_digest, "size": layer_size,
        }],
    });
    let (digest, size) = put_blob(layout, manifest.to_string().as_bytes());
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest, "size": size,
            "annotations": { "org.opencontainers.image.ref.name": "v1" },
        }],
    });
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}

fn digest_in_layout(layout: &Path) -> String {
    let index = std::fs::read(layout.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn skopeo_pushes_pulls_lists_and_deletes_an_image() {
    let registry = start().await;
    let dir = registry.dir.path();
    make_layout(&dir.join("image"));
    let source = format!("oci:{}:v1", dir.join("image").display());
    let target = format!("docker://{}/team/app:v1", registry.address);
    let login = ["--tls-verify=false", "--creds", "roost:sesame"];

    let push = [
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        "--dest-creds",
        "roost:sesame",
        &source,
        &target,
    ];
    let Some(pushed) = run(dir, "skopeo", &push).await else {
        return;
    };
    assert!(pushed.success, "{}", pushed.stderr);
    let copy = format!("docker://{}/other/copy:v2", registry.address);
    let across = [
        "copy",
        "--preserve-digests",
        "--src-tls-verify=false",
        "--src-creds",
        "roost:sesame",
        "--dest-tls-verify=false",
        "--dest-creds",
        "roost:sesame",
        &target,
        &copy,
    ];
    let copied = run(dir, "skopeo", &across).await.unwrap();
    assert!(copied.success, "{}", copied.stderr);
    let back = format!("oci:{}:v1", dir.join("back").display());
    let pull = [
        "copy",
        "--preserve-digests",
        "--src-tls-verify=false",
        "--src-creds",
        "roost:sesame",
        &copy,
        &back,
    ];
    let pulled = run(dir, "skopeo", &pull).await.unwrap();
    assert!(pulled.success, "{}", pulled.stderr);
    assert_eq!(
        digest_in_layout(&dir.join("back")),
        digest_in_layout(&dir.join("image"))
    );

    let repository = format!("docker://{}/team/app", registry.address);
    let list = ["list-tags", login[0], login[1], login[2], &repository];
    let listed = run(dir, "skopeo", &list).await.unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed["Tags"], serde_json::json!(["v1"]));
    let delete = ["delete", login[0], login[1], login[2], &target];
    let deleted = run(dir, "skopeo", &delete).await.unwrap();
    assert!(deleted.success, "{}", deleted.stderr);
    let gone = run(dir, "skopeo", &pull_of(&target, &back)).await.unwrap();
    assert!(
        !gone.success && gone.stderr.contains("manifest unknown"),
        "{}",
        gone.stderr
    );
}

fn pull_of<'a>(from: &'a str, to: &'a str) -> [&'a str; 7] {
    [
        "copy",
        "--preserve-digests",
        "--src-tls-verify=false",
        "--src-creds",
        "roost:sesame",
        from,
        to,
    ]
}

#[tokio::test]
async fn skopeo_with_a_wrong_token_leaves_nothing_behind() {
    let registry = start().await;
    let dir = registry.dir.path();
    make_layout(&dir.join("image"));
    let source = format!("oci:{}:v1", dir.join("image").display());
    let target = format!("docker://{}/app:v1", registry.address);
    let push = [
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        "--dest-creds",
        "roost:open",
        &source,
        &target,
    ];
    let Some(refused) = run(dir, "skopeo", &push).await else {
        return;
    };
    assert!(!refused.success);
    assert!(
        refused.stderr.contains("unauthorized"),
        "{}",
        refused.stderr
    );
    let blobs = dir.join("store/blobs/sha256");
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
}

#[tokio::test]
async fn buildah_pulls_what_skopeo_pushed_and_pushes_what_it_made_of_it() {
    let registry = start().await;
    let dir = registry.dir.path();
    make_layout(&dir.join("image"));
    let source = format!("oci:{}:v1", dir.join("image").display());
    let image = format!("{}/team/app:v1", registry.address);
    let target = format!("docker://{image}");
    let push = [
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        "--dest-creds",
        "roost:sesame",
        &source,
        &target,
    ];
    let Some(pushed) = run(dir, "skopeo", &push).await else {
        return;
    };
    assert!(pushed.success, "{}", pushed.stderr);

    let (root, runroot) = (dir.join("b/root"), dir.join("b/run"));
    let storage = [
        "--storage-driver",
        "vfs",
        "--root",
        root.to_str().unwrap(),
        "--runroot",
        runroot.to_str().unwrap(),
    ];
    let buildah = |arguments: &[&str]| {
        let arguments: Vec<String> = storage
            .iter()
            .chain(arguments)
            .map(|argument| (*argument).to_owned())
            .collect();
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            run(dir, "buildah", &arguments).await
        }
    };
    let login = ["--tls-verify=false", "--creds", "roost:sesame"];
    let pull = buildah(&["pull", login[0], login[1], login[2], &image]).await;
    let Some(pull) = pull else { return };
    assert!(pull.success, "{}", pull.stderr);
    let made = format!("docker://{}/team/made:v1", registry.address);
    let push = buildah(&["push", login[0], login[1], login[2], &image, &made])
        .await
        .unwrap();
    assert!(push.success, "{}", push.stderr);
    let inspect = ["inspect", login[0], login[1], login[2], &made];
    let inspected = run(dir, "skopeo", &inspect).await.unwrap();
    assert!(inspected.success, "{}", inspected.stderr);
}
