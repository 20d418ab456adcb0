//! Quotas on a file system of their own, where the kernel can.

use super::{PROJECT_MARK, check, limit, open, release, sys};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// `mkfs.xfs` makes none smaller than 300 MiB. The image is sparse.
const FILE_SYSTEM_BYTES: u64 = 320 * 1024 * 1024;
const LIMIT_BYTES: u64 = 4 * 1024 * 1024;
/// Longest wait for the kernel; only a broken test gets there.
const PATIENCE: Duration = Duration::from_secs(60);

/// What makes a file system that can have project quotas.
const EXT4: &[&str] = &[
    "mkfs.ext4",
    "-q",
    "-O",
    "quota,project",
    "-E",
    "quotatype=prjquota",
];
const XFS: &[&str] = &["mkfs.xfs", "-q"];

/// A file system with project quotas on a loop device.
struct QuotaDisk {
    dir: tempfile::TempDir,
}

impl QuotaDisk {
    /// Mounts one, or says why not.
    fn mount(format: &[&str]) -> Option<Self> {
        let disk = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let image = disk.dir.path().join("image");
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(FILE_SYSTEM_BYTES).unwrap();
        std::fs::create_dir(disk.root()).unwrap();
        let formatted = Command::new(format[0])
            .args(&format[1..])
            .arg(&image)
            .output();
        let mount = || {
            Command::new("mount")
                .args(["-o", "loop,prjquota"])
                .args([&image, &disk.root()])
                .output()
        };
        let result = match formatted {
            Ok(output) if output.status.success() => mount(),
            result => result,
        };
        let reason = match result {
            Ok(output) if output.status.success() => return Some(disk),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        eprintln!("skipped: no project quotas with {}: {reason}", format[0]);
        None
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn machine(&self, name: &str) -> PathBuf {
        let dir = self.root().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}

impl Drop for QuotaDisk {
    fn drop(&mut self) {
        // The loop device goes with the mount.
        let _ = Command::new("umount").arg(self.root()).status();
    }
}

/// How many bytes can be written to a new file, up to twice the limit.
///
/// The kernel lets those who may override resource limits write on, so the
/// writer is another user's process.
fn n_writable(dir: &Path) -> u64 {
    std::os::unix::fs::chown(dir, Some(65_534), Some(65_534)).unwrap();
    let file = dir.join("file");
    let n_kib = 2 * LIMIT_BYTES / 1024;
    let script = format!("head -c {}k /dev/zero >'{}'", n_kib, file.display());
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "sh",
        "-c",
    ]);
    let output = command.arg(script).output().unwrap();
    let size = std::fs::metadata(&file).unwrap().len();
    assert_eq!(output.status.success(), size == n_kib * 1024, "{output:?}");
    size
}

#[test]
fn a_file_system_without_project_quotas_is_told_by_asking_it() {
    let reason = check(Path::new("/proc")).unwrap_err();
    assert!(
        reason.contains("prjquota") || reason.contains("may not"),
        "{reason}"
    );
    // Neither is one that was never limited a reason not to remove it.
    let dir = tempfile::tempdir().unwrap();
    release(dir.path()).unwrap();
    release(&dir.path().join("none")).unwrap();
}

#[test]
fn on_ext4_each_directory_has_a_limit_of_its_own_and_none_is_left() {
    each_directory_has_a_limit_of_its_own_and_none_is_left(EXT4);
}

#[test]
fn on_xfs_each_directory_has_a_limit_of_its_own_and_none_is_left() {
    each_directory_has_a_limit_of_its_own_and_none_is_left(XFS);
}

fn each_directory_has_a_limit_of_its_own_and_none_is_left(format: &[&str]) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let Some(disk) = QuotaDisk::mount(format) else {
        return;
    };
    // So that the other user gets there.
    std::fs::set_permissions(
        disk.dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    std::fs::set_permissions(
        disk.root(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    check(&disk.root()).unwrap();
    let (one, two) = (disk.machine("one"), disk.machine("two"));
    for dir in [&one, &two] {
        limit(dir, LIMIT_BYTES).unwrap();
        limit(dir, LIMIT_BYTES).unwrap();
    }
    let project = |dir: &Path| sys::project(&open(dir).unwrap()).unwrap();
    let (first, second) = (project(&one), project(&two));
    assert_ne!(first, second);
    assert!(first & second & PROJECT_MARK != 0);
    let inner = one.join("root/upper");
    std::fs::create_dir_all(&inner).unwrap();
    assert_eq!(project(&inner), first, "inherited");

    assert!(n_writable(&one) <= LIMIT_BYTES);
    std::fs::write(two.join("small"), "there is room").unwrap();
    assert!(n_writable(&two) <= LIMIT_BYTES);

    for (dir, project) in [(one, first), (two, second)] {
        release(&dir).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let root = open(&disk.root()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        // xfs frees what removed files had a moment later.
        while sys::is_in_use(&root, project).unwrap() {
            assert!(Instant::now() < deadline, "a project is left");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
