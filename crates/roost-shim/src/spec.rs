//! The bundle config of a machine, as the OCI runtime specification wants it.

use crate::failure::{Attempt as _, LaunchError};
use crate::root::Root;
use crate::seccomp;
use roost_model::account::Account;
use roost_model::program;
use roost_proto::shim::ShimLaunch;
use rustix::process::{Resource, Rlimit};
use serde_json::{Value, json};
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// What container engines leave to root in a container by default, less the
/// making of device nodes, which a user namespace forbids anyway.
pub(crate) const CAPABILITIES: [&str; 13] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Parts of `/proc` and `/sys` that say or change something about the host.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Parts of `/proc` that can be read only.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Files that a program makes are writable by their owner alone, unless it says otherwise.
pub(crate) const UMASK: u32 = 0o022;

/// The environment of the machine's program: what was asked, with `PATH` and `HOME`.
pub(crate) fn environment(launch: &ShimLaunch, account: &Account) -> Vec<(String, String)> {
    let mut env = launch.env.clone();
    program::add_default_env(&mut env, &account.home);
    env
}

/// Builds the config.
pub(crate) fn build(
    launch: &ShimLaunch,
    root: &Root,
    account: &Account,
    env: &[(String, String)],
) -> Result<Value, LaunchError> {
    let env: Vec<String> = env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if let Some(text) = env
        .iter()
        .chain(&launch.args)
        .find(|text| text.contains('\0'))
    {
        let name = text.split(['=', '\0']).next().unwrap_or_default();
        return Err(LaunchError::machine(format!(
            "argument or variable `{name}` has a zero byte"
        )));
    }
    let process = json!({
        "terminal": false,
        "user": {
            "uid": account.uid,
            "gid": account.gid,
            "additionalGids": account.additional_gids,
            "umask": UMASK,
        },
        "args": launch.args,
        "env": env,
        "cwd": workdir(launch),
        "capabilities": {
            "bounding": CAPABILITIES,
            "effective": CAPABILITIES,
            "permitted": CAPABILITIES,
            "inheritable": [],
            "ambient": [],
        },
        "noNewPrivileges": true,
    });
    let ids = json!([{ "containerID": 0, "hostID": launch.id_base, "size": launch.id_size }]);
    let mut namespaces = ["network", "pid", "mount", "ipc", "uts", "cgroup"]
        .map(|kind| json!({ "type": kind }))
        .to_vec();
    // By this process's own id: an outside runtime opens it as well.
    let (own, user_namespace) = (std::process::id(), root.user_namespace.as_raw_fd());
    let path = format!("/proc/{own}/fd/{user_namespace}");
    namespaces.push(json!({ "type": "user", "path": path }));
    let linux = json!({
        "uidMappings": ids,
        "gidMappings": ids,
        // Services bind port 80 without being root inside.
        "sysctl": { "net.ipv4.ip_unprivileged_port_start": "0" },
        "resources": resources(launch)?,
        "cgroupsPath": launch.cgroup,
        "namespaces": namespaces,
        "seccomp": seccomp::filter(),
        "maskedPaths": MASKED,
        "readonlyPaths": READ_ONLY,
    });
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": { "path": root.path, "readonly": false },
        "hostname": launch.machine_id,
        "mounts": mounts(),
        "linux": linux,
    }))
}

/// The working directory; `/` when none is named.
pub(crate) fn workdir(launch: &ShimLaunch) -> &str {
    if launch.workdir.is_empty() {
        "/"
    } else {
        &launch.workdir
    }
}

/// As many open files as wanted, within what this process may give.
pub(crate) fn open_files(launch: &ShimLaunch) -> u64 {
    let own = rustix::process::getrlimit(Resource::Nofile)
        .maximum
        .unwrap_or(u64::MAX);
    launch.limits.open_files_max.min(own)
}

/// Sets the limits of this process, which those that it makes inherit. An
/// outside runtime may not set those of a process in another user namespace.
pub(crate) fn set_limits(open_files_max: Option<u64>) -> Result<(), LaunchError> {
    // Cores would fill the disk.
    let core = Some((Resource::Core, 0));
    let files = open_files_max.map(|n_files| (Resource::Nofile, n_files));
    for (resource, wanted) in core.into_iter().chain(files) {
        // A limit that is lower already stays so.
        let old = rustix::process::getrlimit(resource).maximum;
        let value = Some(old.map_or(wanted, |old| old.min(wanted)));
        let limit = Rlimit {
            current: value,
            maximum: value,
        };
        rustix::process::setrlimit(resource, limit).attempt("set limits")?;
    }
    Ok(())
}

fn resources(launch: &ShimLaunch) -> Result<Value, LaunchError> {
    let limits = &launch.limits;
    let memory = i64::try_from(limits.memory_bytes).attempt("read the memory limit")?;
    let swap = i64::try_from(limits.swap_bytes).attempt("read the swap limit")?;
    let with_swap = memory.saturating_add(swap);
    let mut memory = json!({ "limit": memory });
    if counts_swap() {
        // Memory and swap together.
        memory["swap"] = with_swap.into();
    }
    Ok(json!({
        "devices": [{ "allow": false, "access": "rwm" }],
        "memory": memory,
        "cpu": {
            "shares": limits.cpu_shares,
            "quota": limits.cpu_quota_us,
            "period": limits.cpu_period_us,
        },
        "pids": { "limit": limits.pids_max },
    }))
}

/// Whether the kernel counts swap per cgroup; without swap it may not.
fn counts_swap() -> bool {
    is_unified() || Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
}

fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn mounts() -> Vec<Value> {
    let mount = |place: &str, kind: &str, options: &[&str]| json!({ "destination": place, "type": kind, "source": kind, "options": options });
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=64k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=64m"],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    if is_unified() {
        // Runtimes of languages read their limits there. Under v1 it would be
        // a dozen mounts in the way of every start.
        mounts.push(mount(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "ro"],
        ));
    }
    mounts
}
