//! What a host can do: found out by trying it.
//!
//! Each check says what was seen and, unless it passed, what to do about it.
//! Checks run side by side. Where all works they take less than a second; where
//! something hangs it is given up and named, after about a minute at most.

use crate::process::{self, Program};
use roost_model::time::Timestamp;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

mod child;
mod firewall;
mod kernel;
pub mod kvm;
mod sys;
mod vms;

pub use vms::VmSetup;

const GIB: u64 = 1024 * 1024 * 1024;
const DISK_BYTES_WARN: u64 = 5 * GIB;
const DISK_BYTES_FAIL: u64 = GIB;
const INODES_WARN: u64 = 100_000;
const MEMORY_BYTES_WARN: u64 = GIB / 2;
/// 2025-01-01: a clock before it was never set.
const CLOCK_FLOOR: Timestamp = Timestamp::from_ms(1_735_689_600_000);
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Longest time for one attempt. All take milliseconds; a host that is busy, or
/// loads modules from a slow disk, takes seconds, and is no worse for it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// What to check.
#[derive(Debug, Clone)]
pub struct DoctorConfig {
    /// Where the data is or will be.
    pub data_dir: PathBuf,
    /// Addresses that must be free to listen on; none when `roostd` runs already.
    pub listen: Vec<SocketAddr>,
    /// What VMs would be run with.
    pub vms: VmSetup,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// What was checked.
    pub name: &'static str,
    /// How it went.
    pub status: CheckStatus,
    /// What was seen.
    pub detail: String,
    /// What to do about it.
    pub fix: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckStatus {
    /// As it should be.
    Pass,
    /// Something does not work or soon may not.
    Warn,
    /// Machines cannot run like this.
    Fail,
}

impl CheckStatus {
    /// The word in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl CheckResult {
    fn pass(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            status: CheckStatus::Pass,
            detail: detail.into(),
            fix: None,
        }
    }

    fn warn(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            name,
            status: CheckStatus::Warn,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }

    fn fail(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            name,
            status: CheckStatus::Fail,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }
}

/// Checks the host; the order of results is fixed.
pub async fn examine(config: DoctorConfig) -> Vec<CheckResult> {
    let DoctorConfig {
        data_dir,
        listen,
        vms,
    } = config;
    let quick = move || {
        let mut results = vec![
            check_kernel(),
            check_privileges(),
            kernel::check_seccomp(),
            kernel::check_overlay(&data_dir),
            kernel::check_cgroups(Path::new(CGROUP_ROOT)),
        ];
        results.extend(check_disk(&data_dir));
        results.push(check_memory());
        results.extend(listen.into_iter().map(check_port));
        results.push(check_clock());
        results
    };
    let quick = tokio::task::spawn_blocking(quick);
    let kvm = tokio::task::spawn_blocking(kvm::find_out);
    let (namespaces, firewall, buildah, runc) = tokio::join!(
        check_user_namespaces(),
        firewall::check(),
        check_program(
            Program {
                name: "buildah",
                debian_package: "buildah"
            },
            "building from a Dockerfile"
        ),
        check_program(
            Program {
                name: "runc",
                debian_package: "runc"
            },
            "running machines with an outside runtime"
        ),
    );
    let mut results = quick.await.unwrap_or_default();
    results.push(namespaces);
    results.extend(firewall);
    results.extend([buildah, runc]);
    let kvm = kvm
        .await
        .unwrap_or_else(|_| kvm::Kvm::Unusable("the check itself failed".to_owned()));
    results.push(check_kvm(&kvm));
    results.extend(vms::check(&vms, &kvm).await);
    results
}

fn check_kernel() -> CheckResult {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // 5.19: overlayfs on mounts with mapped ids. Debian 12 has 6.1.
    if version >= (5, 19) {
        CheckResult::pass("kernel", release)
    } else {
        CheckResult::fail(
            "kernel",
            format!("{release} is older than 5.19"),
            "install a newer kernel: apt install linux-image-amd64",
        )
    }
}

fn check_privileges() -> CheckResult {
    if rustix::process::geteuid().is_root() {
        CheckResult::pass("privileges", "root")
    } else {
        CheckResult::fail("privileges", "not root", "run roostd as root")
    }
}

async fn check_user_namespaces() -> CheckResult {
    let unshare = Program {
        name: "unshare",
        debian_package: "util-linux",
    };
    let args = ["--user", "--map-root-user", "--net", "true"];
    match process::run(unshare, &args, b"", ATTEMPT_TIMEOUT).await {
        Ok(_) => CheckResult::pass("user namespaces", "made one"),
        Err(error) => CheckResult::fail(
            "user namespaces",
            error.to_string(),
            "sysctl -w user.max_user_namespaces=15000, or use a kernel with CONFIG_USER_NS",
        ),
    }
}

fn check_disk(data_dir: &Path) -> Vec<CheckResult> {
    // The directory need not exist yet: its nearest parent is on the same disk.
    let Some(existing) = data_dir.ancestors().find(|path| path.exists()) else {
        return Vec::new();
    };
    let Ok(stat) = rustix::fs::statvfs(existing) else {
        return vec![CheckResult::warn(
            "disk",
            format!("cannot look at {}", existing.display()),
            "check the disk",
        )];
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let detail = format!(
        "{} MiB free for {}",
        free / (1024 * 1024),
        data_dir.display()
    );
    let fix = "free some room, or choose another data directory";
    let room = match free {
        0..DISK_BYTES_FAIL => CheckResult::fail("disk", detail, fix),
        DISK_BYTES_FAIL..DISK_BYTES_WARN => CheckResult::warn("disk", detail, fix),
        DISK_BYTES_WARN.. => CheckResult::pass("disk", detail),
    };
    let detail = format!("{} free", stat.f_favail);
    // File systems that make inodes as they go say 0 of 0.
    let inodes = if stat.f_files == 0 || stat.f_favail >= INODES_WARN {
        CheckResult::pass("inodes", detail)
    } else {
        CheckResult::warn("inodes", detail, fix)
    };
    vec![room, inodes]
}

fn check_memory() -> CheckResult {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available_kib = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        })
        .unwrap_or(0);
    let detail = format!("{} MiB available", available_kib / 1024);
    if available_kib.saturating_mul(1024) >= MEMORY_BYTES_WARN {
        CheckResult::pass("memory", detail)
    } else {
        CheckResult::warn("memory", detail, "stop something, or add memory")
    }
}

fn check_port(address: SocketAddr) -> CheckResult {
    match TcpListener::bind(address) {
        Ok(_) => CheckResult::pass("port", format!("{address} is free")),
        Err(error) => CheckResult::fail(
            "port",
            format!("{address}: {error}"),
            format!(
                "see who has it with: ss -ltnp 'sport = :{}'",
                address.port()
            ),
        ),
    }
}

fn check_clock() -> CheckResult {
    let now = roost_runtime::clock::now();
    if now >= CLOCK_FLOOR {
        CheckResult::pass("clock", "set")
    } else {
        CheckResult::fail(
            "clock",
            "before the year 2025",
            "set the clock: apt install systemd-timesyncd",
        )
    }
}

async fn check_program(program: Program, purpose: &str) -> CheckResult {
    match process::run(program, &["--version"], b"", ATTEMPT_TIMEOUT).await {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            CheckResult::pass(
                program.name,
                text.lines().next().unwrap_or_default().to_owned(),
            )
        }
        Err(error) => CheckResult::warn(
            program.name,
            format!("{error} (optional: for {purpose})"),
            format!("apt install {}", program.debian_package),
        ),
    }
}

fn check_kvm(kvm: &kvm::Kvm) -> CheckResult {
    match kvm {
        kvm::Kvm::Absent => CheckResult::warn(
            "kvm",
            "no /dev/kvm",
            "switch on virtualisation in the firmware or the cloud's settings",
        ),
        kvm::Kvm::Unusable(reason) => CheckResult::warn(
            "kvm",
            reason.clone(),
            "use a host whose KVM runs stock guests",
        ),
        kvm::Kvm::Works => CheckResult::pass("kvm", "a guest ran"),
    }
}

#[cfg(test)]
mod tests {
    use super::{CheckStatus, DoctorConfig, VmSetup, examine};
    use std::net::TcpListener;

    #[tokio::test]
    async fn every_result_but_a_pass_has_a_fix_and_a_taken_port_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let data_dir = dir.path().join("not/yet");
        let results = examine(DoctorConfig {
            data_dir,
            listen: vec![address],
            vms: VmSetup {
                guest: dir.path().join("guest"),
                qemu: "/usr/bin/qemu-system-x86_64".into(),
                firecracker: None,
                kernels: dir.path().join("kernels"),
                proofs: dir.path().join("proofs.json"),
            },
        })
        .await;
        for result in &results {
            assert_eq!(
                result.fix.is_none(),
                result.status == CheckStatus::Pass,
                "{result:?}"
            );
        }
        let port = results.iter().find(|result| result.name == "port").unwrap();
        assert_eq!(port.status, CheckStatus::Fail);
        assert!(port.detail.contains(&address.to_string()));
        let isolation = results
            .iter()
            .find(|result| result.name == "isolation")
            .unwrap();
        assert!(isolation.detail.contains("`container`"));
        assert_eq!(
            results
                .iter()
                .find(|result| result.name == "clock")
                .unwrap()
                .status,
            CheckStatus::Pass
        );
    }
}
