//! Real builds without a base image, so that no network is needed.

use super::{BUILDAH, BuildRegistry, Buildah, BuildahSettings};
use roost_proto::dockerfile::{BuildDockerfileError, DockerfileBuild, DockerfileBuilder as _};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

fn settings(dir: &Path) -> BuildahSettings {
    let registry = BuildRegistry {
        address: "127.0.0.1:1".into(),
        token: "sesame".into(),
    };
    BuildahSettings {
        dir: dir.join("buildah"),
        registry: Some(registry),
        timeout: Duration::from_secs(120),
        storage_bytes_max: 1 << 30,
    }
}

/// Whether buildah is there; says so when it is not.
fn is_installed() -> bool {
    let found = std::process::Command::new(BUILDAH.name)
        .arg("--version")
        .output()
        .is_ok();
    if !found {
        eprintln!("skipped: buildah is not installed");
    }
    found
}

async fn build(
    dir: &Path,
    dockerfile: &str,
) -> (
    Result<(), BuildDockerfileError>,
    Vec<String>,
    DockerfileBuild,
) {
    let context_dir = dir.join("context");
    std::fs::create_dir_all(&context_dir).unwrap();
    std::fs::write(context_dir.join("greeting"), "hello").unwrap();
    std::fs::write(context_dir.join("Dockerfile"), dockerfile).unwrap();
    let build = DockerfileBuild {
        dockerfile: context_dir.join("Dockerfile"),
        context_dir,
        args: BTreeMap::from([("COLOUR".to_owned(), "red = warm".to_owned())]),
        target: None,
        layout_dir: dir.join("image"),
    };
    let (tx, mut rx) = mpsc::channel(1_000);
    let result = Buildah::prepare(settings(dir))
        .unwrap()
        .build(&build, &tx)
        .await;
    drop(tx);
    let mut lines = Vec::new();
    while let Some(line) = rx.recv().await {
        lines.push(line);
    }
    (result, lines, build)
}

#[tokio::test]
async fn a_dockerfile_from_scratch_becomes_a_layout() {
    if !is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dockerfile = "FROM scratch\nARG COLOUR\nCOPY greeting /\nLABEL colour=$COLOUR\n";
    let (result, lines, build) = build(dir.path(), dockerfile).await;
    result.unwrap();
    assert!(
        lines.iter().any(|line| line.contains("COPY greeting")),
        "{lines:?}"
    );
    let index = std::fs::read(build.layout_dir.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let blobs = std::fs::read_dir(build.layout_dir.join("blobs/sha256")).unwrap();
    let has_label = blobs.filter_map(|blob| std::fs::read_to_string(blob.ok()?.path()).ok());
    assert!(
        has_label
            .into_iter()
            .any(|text| text.contains("red = warm"))
    );
}

/// A build with a file of its own beside the Dockerfile.
fn build_in(dir: &Path, name: &str, dockerfile: &str) -> DockerfileBuild {
    let context_dir = dir.join(name);
    std::fs::create_dir_all(&context_dir).unwrap();
    std::fs::write(context_dir.join("greeting"), "hello").unwrap();
    std::fs::write(context_dir.join("Dockerfile"), dockerfile).unwrap();
    DockerfileBuild {
        dockerfile: context_dir.join("Dockerfile"),
        context_dir,
        args: BTreeMap::new(),
        target: None,
        layout_dir: dir.join(format!("{name}-image")),
    }
}

async fn lines_of(buildah: &Buildah, build: &DockerfileBuild) -> Vec<String> {
    let (tx, mut rx) = mpsc::channel(1_000);
    buildah.build(build, &tx).await.unwrap();
    drop(tx);
    let mut lines = Vec::new();
    while let Some(line) = rx.recv().await {
        lines.push(line);
    }
    lines
}

fn is_cached(lines: &[String]) -> bool {
    lines.iter().any(|line| line.contains("Using cache"))
}

#[tokio::test]
async fn layers_are_kept_for_the_next_build_until_they_take_too_much() {
    if !is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dockerfile = "FROM scratch\nCOPY greeting /one\nCOPY greeting /two\n";
    let build = |name: &str| build_in(dir.path(), name, dockerfile);
    let roomy = Buildah::prepare(settings(dir.path())).unwrap();
    assert!(!is_cached(&lines_of(&roomy, &build("first")).await));
    let again = lines_of(&roomy, &build("second")).await;
    assert!(is_cached(&again), "{again:?}");
    drop(roomy);

    let tight = BuildahSettings {
        storage_bytes_max: 1,
        ..settings(dir.path())
    };
    let tight = Buildah::prepare(tight).unwrap();
    assert!(is_cached(&lines_of(&tight, &build("third")).await));
    assert!(!dir.path().join("buildah/storage").exists());
    assert_eq!(super::mounts_below(dir.path()), [""; 0].map(Path::new));
    let after = lines_of(&tight, &build("fourth")).await;
    assert!(!is_cached(&after), "{after:?}");
    let left = std::fs::read_dir(dir.path().join("buildah/tmp")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn a_storage_is_measured_by_what_its_files_take_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("storage/layer");
    std::fs::create_dir_all(&file).unwrap();
    std::fs::write(file.join("content"), [7; 10_000]).unwrap();
    super::storage::trim(dir.path(), 20_000_000);
    assert!(file.exists(), "it is small enough");
    super::storage::trim(dir.path(), 1_000);
    assert!(!file.exists());
}

#[tokio::test]
async fn a_second_build_waits_for_the_first_and_says_so() {
    if !is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let buildah = Buildah::prepare(settings(dir.path())).unwrap();
    let build = |name: &str| build_in(dir.path(), name, "FROM scratch\nCOPY greeting /\n");
    let (one, two) = (build("one"), build("two"));
    let (first, second) = tokio::join!(lines_of(&buildah, &one), lines_of(&buildah, &two));
    let waits = |lines: &[String]| lines.iter().any(|line| line.starts_with("waiting for"));
    assert!(!waits(&first), "{first:?}");
    assert!(
        second[0].starts_with("waiting for another build"),
        "{second:?}"
    );
    assert!(one.layout_dir.exists() && two.layout_dir.exists());
}

#[tokio::test]
async fn a_build_that_takes_too_long_is_ended_with_all_it_started() {
    if !is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let context_dir = dir.path().join("context");
    std::fs::create_dir_all(&context_dir).unwrap();
    std::fs::write(
        context_dir.join("Dockerfile"),
        "FROM 127.0.0.1:1/no/such:image\n",
    )
    .unwrap();
    let build = DockerfileBuild {
        dockerfile: context_dir.join("Dockerfile"),
        context_dir,
        args: BTreeMap::new(),
        target: None,
        layout_dir: dir.path().join("image"),
    };
    let (tx, _rx) = mpsc::channel(1_000);
    let settings = BuildahSettings {
        timeout: Duration::from_millis(1),
        ..settings(dir.path())
    };
    let error = Buildah::prepare(settings)
        .unwrap()
        .build(&build, &tx)
        .await
        .unwrap_err();
    assert!(
        matches!(error, BuildDockerfileError::TimedOut { .. }),
        "{error}"
    );
    assert_eq!(super::mounts_below(dir.path()), [""; 0].map(Path::new));
}

#[tokio::test]
async fn a_step_that_fails_is_told_by_its_last_line() {
    if !is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (result, _lines, _build) = build(dir.path(), "FROM scratch\nCOPY nothing /\n").await;
    let error = result.unwrap_err();
    assert!(
        matches!(error, BuildDockerfileError::Failed { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("nothing"), "{error}");
    assert_eq!(super::mounts_below(dir.path()), [""; 0].map(Path::new));
}

#[test]
fn settings_name_the_registry_and_nobody_else_can_read_the_token() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    Buildah::prepare(settings(dir.path())).unwrap();
    let auth = dir.path().join("buildah/auth.json");
    assert_eq!(
        std::fs::metadata(&auth).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let text = std::fs::read_to_string(auth).unwrap();
    assert_eq!(
        text,
        r#"{"auths":{"127.0.0.1:1":{"auth":"cm9vc3Q6c2VzYW1l"}}}"#
    );
    let registries = std::fs::read_to_string(dir.path().join("buildah/registries.conf")).unwrap();
    assert!(registries.contains("location = \"127.0.0.1:1\"\ninsecure = true"));
}

#[test]
fn a_build_that_outlived_its_roostd_is_ended_with_all_its_programs() {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    let dir = tempfile::tempdir().unwrap();
    let build_in = |storage: std::path::PathBuf| {
        std::process::Command::new("sh")
            .args(["-c", "sleep 600; :", "buildah", "--root"])
            .arg(storage)
            .process_group(0)
            .spawn()
            .unwrap()
    };
    // The kernel lets the caller go on before the arguments of the new program can be read.
    let is_there = |build: &std::process::Child| {
        let arguments = std::fs::read(format!("/proc/{}/cmdline", build.id()));
        !arguments.unwrap().is_empty()
    };
    let mut own = build_in(dir.path().join("builds/storage"));
    let mut other = build_in(dir.path().join("builds-of-another/storage"));
    while !is_there(&own) || !is_there(&other) {
        std::thread::yield_now();
    }
    // A child that has not become `sleep` yet looks like its parent, and shares its group.
    let pid = own.id();
    // Reaped as its adopter would.
    let reaper = std::thread::spawn(move || own.wait().unwrap().signal());
    assert_eq!(super::end_leftovers(&dir.path().join("builds")), [pid]);
    assert_eq!(reaper.join().unwrap(), Some(libc::SIGKILL));
    assert!(
        other.try_wait().unwrap().is_none(),
        "another's build was ended"
    );
    let group = rustix::process::Pid::from_raw(i32::try_from(other.id()).unwrap()).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    other.wait().unwrap();
}

/// Set in a run of a test within a mount namespace: where a small file system is.
const SMALL_DISK: &str = "ROOST_TEST_SMALL_DISK";

#[tokio::test]
async fn a_build_that_fills_the_disk_says_so_and_gives_its_room_back() {
    if !is_installed() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let Some(disk) = std::env::var_os(SMALL_DISK).map(std::path::PathBuf::from) else {
        let dir = tempfile::tempdir().unwrap();
        let mount = format!("mount -t tmpfs -o size=24m x \"${SMALL_DISK}\" && exec \"$@\"");
        let name = "buildah::tests::a_build_that_fills_the_disk_says_so_and_gives_its_room_back";
        let output = std::process::Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                &mount,
                "sh",
            ])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(SMALL_DISK, dir.path())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&said)
        );
        return;
    };
    let buildah = Buildah::prepare(settings(&disk)).unwrap();
    let small = build_in(&disk, "small", "FROM scratch\nCOPY greeting /\n");
    lines_of(&buildah, &small).await;
    let large = build_in(
        &disk,
        "large",
        "FROM scratch\nCOPY data /one\nCOPY data /two\nCOPY data /three\nCOPY data /four\n",
    );
    std::fs::write(large.context_dir.join("data"), vec![7; 6 << 20]).unwrap();
    let (tx, _rx) = mpsc::channel(1_000);
    let error = buildah.build(&large, &tx).await.unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert!(!disk.join("buildah/storage").exists());
    std::fs::remove_dir_all(&large.context_dir).unwrap();
    let again = build_in(&disk, "again", "FROM scratch\nCOPY greeting /\n");
    lines_of(&buildah, &again).await;
}
