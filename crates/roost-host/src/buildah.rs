//! Builds Dockerfiles with `buildah`, the Debian package.
//!
//! Its storage, its settings and its saved logins are roost's own, under the
//! data folder: nothing of the user's is read or changed. Steps run in
//! buildah's `chroot` isolation, which needs no OCI runtime and no network
//! set-up; a build therefore trusts its Dockerfile as much as its author, who
//! holds a token of the platform.
//!
//! The programs of one build share a process group, which is killed when the
//! build ends for whatever reason; mounts below the storage are undone then, and
//! at the next start. Layers are kept for later builds up to a limit.

use crate::process::Program;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use roost_proto::dockerfile::{BuildDockerfileError, DockerfileBuild, DockerfileBuilder};
use roost_runtime::fs::{FileError, ensure_dir, write_atomic};
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

mod storage;

/// The program and its package.
pub const BUILDAH: Program = Program {
    name: "buildah",
    debian_package: "buildah",
};

/// Builds at the same time: one, so that what it leaves behind can be told from what is in use.
const BUILDS_PARALLEL: usize = 1;
/// How often who waits for another build hears of it.
const WAIT_NEWS_INTERVAL: Duration = Duration::from_secs(15);
/// How long killed programs have to be gone.
const LEFTOVERS_LIMIT: Duration = Duration::from_secs(5);
const LEFTOVERS_POLL: Duration = Duration::from_millis(5);
/// Longest line of output that is passed on; the rest of it is cut.
const LINE_BYTES_MAX: u64 = 4 * 1024;

/// A registry that builds may pull base images from.
#[derive(Clone, PartialEq, Eq)]
pub struct BuildRegistry {
    /// Host and port, as in `FROM`; spoken to without TLS.
    pub address: String,
    /// The token for it.
    pub token: String,
}

impl std::fmt::Debug for BuildRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildRegistry")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// How Dockerfiles are built.
#[derive(Debug, Clone)]
pub struct BuildahSettings {
    /// Folder for buildah's storage and settings.
    pub dir: PathBuf,
    /// The built-in registry, if builds may use it.
    pub registry: Option<BuildRegistry>,
    /// Longest build.
    pub timeout: Duration,
    /// Above this, in bytes, the layers of earlier builds are removed after a build.
    pub storage_bytes_max: u64,
}

/// Builds Dockerfiles with `buildah`.
#[derive(Debug)]
pub struct Buildah {
    settings: BuildahSettings,
    turns: Arc<Semaphore>,
}

impl Buildah {
    /// Writes buildah's settings. Whether it is installed shows at the first build.
    pub fn prepare(settings: BuildahSettings) -> Result<Self, FileError> {
        let dir = &settings.dir;
        ensure_dir(dir)?;
        // A process that was killed in a build left its programs, mounts and files.
        end_leftovers(dir);
        unmount_below(dir);
        storage::clear_temporary(dir);
        let registry = settings.registry.as_ref();
        let insecure = registry.map(|registry| {
            format!(
                "[[registry]]\nlocation = {:?}\ninsecure = true\n",
                registry.address
            )
        });
        let registries = format!(
            "unqualified-search-registries = [\"docker.io\"]\nshort-name-mode = \"permissive\"\n\n{}",
            insecure.unwrap_or_default()
        );
        write_atomic(&dir.join("registries.conf"), registries.as_bytes(), 0o600)?;
        let logins = registry.map(|registry| {
            let login = STANDARD.encode(format!("roost:{}", registry.token));
            serde_json::json!({ &registry.address: { "auth": login } })
        });
        let logins = serde_json::json!({ "auths": logins.unwrap_or(serde_json::json!({})) });
        write_atomic(&dir.join("auth.json"), logins.to_string().as_bytes(), 0o600)?;
        let policy = br#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        write_atomic(&dir.join("policy.json"), policy, 0o600)?;
        Ok(Self {
            settings,
            turns: Arc::new(Semaphore::new(BUILDS_PARALLEL)),
        })
    }

    /// Waits until no other build runs, and says so meanwhile.
    async fn turn(&self, progress: &mpsc::Sender<String>) -> Option<OwnedSemaphorePermit> {
        let mut turn = std::pin::pin!(Arc::clone(&self.turns).acquire_owned());
        // No wait at all when it is free.
        let mut patience = Duration::ZERO;
        loop {
            if let Ok(turn) = tokio::time::timeout(patience, turn.as_mut()).await {
                // The semaphore lives as long as this: it is never closed.
                return turn.ok();
            }
            let line = "waiting for another build on this node to end";
            // Nobody needs to listen.
            drop(progress.send(line.to_owned()).await);
            patience = WAIT_NEWS_INTERVAL;
        }
    }

    fn file(&self, name: &str) -> String {
        self.settings.dir.join(name).display().to_string()
    }

    /// The program with what all its commands need.
    fn command(&self) -> Command {
        let mut command = Command::new(BUILDAH.name);
        command
            .args(["--storage-driver", "overlay"])
            .args([
                "--root",
                &self.file("storage"),
                "--runroot",
                &self.file("run"),
            ])
            .env_clear()
            .env("PATH", roost_model::program::PATH_DEFAULT)
            .env("HOME", &self.settings.dir)
            .env("TMPDIR", self.file("tmp"))
            .env("CONTAINERS_REGISTRIES_CONF", self.file("registries.conf"))
            .env("REGISTRY_AUTH_FILE", self.file("auth.json"))
            .env("BUILDAH_ISOLATION", "chroot")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    async fn build_and_export(
        &self,
        build: &DockerfileBuild,
        progress: &mpsc::Sender<String>,
    ) -> Result<(), BuildDockerfileError> {
        let mut image_id_path = build.layout_dir.clone().into_os_string();
        image_id_path.push(".id");
        let image_id_path = PathBuf::from(image_id_path);
        let mut command = self.command();
        command
            .args([
                "build",
                "--isolation",
                "chroot",
                "--layers",
                "--format",
                "oci",
            ])
            .args(["--signature-policy", &self.file("policy.json")])
            .args(["--timestamp", "0"])
            .arg("--iidfile")
            .arg(&image_id_path)
            .arg("--file")
            .arg(&build.dockerfile);
        for (name, value) in &build.args {
            command.arg("--build-arg").arg(format!("{name}={value}"));
        }
        if let Some(target) = &build.target {
            command.arg("--target").arg(target);
        }
        command.arg("--").arg(&build.context_dir);
        run(command, "build the image", progress).await?;
        let image_id = read(&image_id_path).await?;
        let image_id = image_id.trim().trim_start_matches("sha256:").to_owned();

        let mut command = self.command();
        command
            .args(["push", "--quiet", "--format", "oci"])
            .args(["--signature-policy", &self.file("policy.json")])
            .arg("--")
            .arg(&image_id)
            .arg(layout_argument(&build.layout_dir)?);
        run(command, "export the image", progress).await
    }
}

#[async_trait]
impl DockerfileBuilder for Buildah {
    async fn build(
        &self,
        build: &DockerfileBuild,
        progress: &mpsc::Sender<String>,
    ) -> Result<(), BuildDockerfileError> {
        let timeout = self.settings.timeout;
        let turn = self.turn(progress).await;
        let result = {
            let _mounts = Mounts(&self.settings.dir);
            tokio::time::timeout(timeout, self.build_and_export(build, progress)).await
        };
        let result = result.unwrap_or(Err(BuildDockerfileError::TimedOut {
            seconds: timeout.as_secs(),
        }));
        let is_full = result
            .as_ref()
            .is_err_and(BuildDockerfileError::is_no_space);
        let dir = self.settings.dir.clone();
        // On a full disk, layers for later builds are the first to go.
        let bytes_max = if is_full {
            0
        } else {
            self.settings.storage_bytes_max
        };
        let trimmed = tokio::task::spawn_blocking(move || {
            storage::clear_temporary(&dir);
            storage::trim(&dir, bytes_max);
            // The turn comes along: no build begins meanwhile, even when nobody waits here.
            drop(turn);
        });
        // It only logs; it is cut off when the process ends.
        drop(trimmed.await);
        result
    }
}

/// Undoes the mounts of a build when it ends, dropped or not.
struct Mounts<'a>(&'a Path);

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        unmount_below(self.0);
    }
}

/// Kills what still builds with a storage in `dir` or below it, and waits for
/// its end: nobody waits for it after the `roostd` that started it was killed.
/// Returns the leaders of the process groups that were killed, one for each build.
pub(crate) fn end_leftovers(dir: &Path) -> Vec<u32> {
    let start = std::time::Instant::now();
    let mut ended = Vec::new();
    loop {
        let left = builders_below(dir);
        if left.is_empty() || start.elapsed() > LEFTOVERS_LIMIT {
            return ended;
        }
        for pid in left {
            let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // One that has ended meanwhile is what is wanted.
            let group = raw.and_then(|pid| rustix::process::getpgid(Some(pid)).ok());
            if let Some(group) = group.filter(|group| *group != rustix::process::getpgrp()) {
                let _ = kill_process_group(group, Signal::KILL);
                let leader = group.as_raw_pid().unsigned_abs();
                if !ended.contains(&leader) {
                    ended.push(leader);
                }
            }
        }
        std::thread::sleep(LEFTOVERS_POLL);
    }
}

/// Processes with the option that names their storage, as all builds of roost have it.
fn builders_below(dir: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let is_builder = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.windows(2).any(|pair| {
            pair[0] == b"--root" && Path::new(std::ffi::OsStr::from_bytes(pair[1])).starts_with(dir)
        })
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_builder)
        .collect()
}

/// Detaches every mount below `dir`, the latest first.
fn unmount_below(dir: &Path) {
    for point in mounts_below(dir) {
        if let Err(error) = rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH) {
            tracing::warn!(error = %error, path = %point.display(), "a mount of a build stays");
        }
    }
}

/// The mount points below `dir`, the latest first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    // Mount points are absolute and free of links.
    let Ok(dir) = std::fs::canonicalize(dir) else {
        return Vec::new();
    };
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The fifth field is the mount point (proc_pid_mountinfo(5)).
    let points = table
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    points.filter(|point| point.starts_with(&dir)).collect()
}

fn layout_argument(layout_dir: &Path) -> Result<String, BuildDockerfileError> {
    let path = layout_dir.display().to_string();
    if path.contains(':') {
        let source = std::io::Error::other("the data folder's path must have no colon in it");
        return Err(BuildDockerfileError::Io {
            operation: "export the image".into(),
            source,
        });
    }
    Ok(format!("oci:{path}:latest"))
}

async fn read(path: &Path) -> Result<String, BuildDockerfileError> {
    let operation = || format!("read {}", path.display());
    let failed = |source| BuildDockerfileError::Io {
        operation: operation(),
        source,
    };
    tokio::fs::read_to_string(path).await.map_err(failed)
}

/// Ends the process group of a child that is dropped.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // An error means that nobody of the group is left.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

/// Runs one command to its end and passes its output on.
async fn run(
    mut command: Command,
    operation: &str,
    progress: &mpsc::Sender<String>,
) -> Result<(), BuildDockerfileError> {
    let failed = |source| BuildDockerfileError::Io {
        operation: operation.to_owned(),
        source,
    };
    let child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => BuildDockerfileError::Missing {
            program: BUILDAH.name,
            debian_package: BUILDAH.debian_package,
        },
        _ => failed(error),
    })?;
    let id = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let mut group = Group { child, id };
    let (stdout, stderr) = (group.child.stdout.take(), group.child.stderr.take());
    let (_, last_line) = tokio::join!(pass_on(stdout, progress), pass_on(stderr, progress));
    let status = group.child.wait().await.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let last_line = last_line.unwrap_or_else(|| format!("buildah ended with {status}"));
    Err(BuildDockerfileError::Failed { last_line })
}

/// Sends a stream line by line; returns the last line that says something.
async fn pass_on(
    stream: Option<impl AsyncRead + Unpin>,
    progress: &mpsc::Sender<String>,
) -> Option<String> {
    let mut reader = BufReader::new(stream?);
    let mut last = None;
    loop {
        let mut line = Vec::new();
        let n_read = (&mut reader)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .await;
        if n_read.is_err() || line.is_empty() {
            return last;
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if !line.is_empty() {
            last = Some(line.trim_start_matches("Error: ").to_owned());
            // Nobody needs to listen.
            drop(progress.send(line).await);
        }
    }
}

#[cfg(test)]
mod tests;
