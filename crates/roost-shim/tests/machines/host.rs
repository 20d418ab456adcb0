//! A host of its own for each test: directories, a driver, tiny layers.

use async_trait::async_trait;
use parking_lot::Mutex;
use roost_host::cgroup::Cgroup;
use roost_host::container::{ContainerConfig, ContainerDriver, ContainerRuntime};
use roost_host::driver::{
    IdRange, LaunchConfig, LaunchProcess, MachineAddresses, MachineDriver as _, RootFs,
};
use roost_host::instance::InstanceTag;
use roost_host::net::{PacketPlumber, PlumbError};
use roost_host::shim::ShimConfig;
use roost_model::id::{InstanceId, MachineId};
use roost_model::machine::{Guest, MachineExit};
use roost_model::name::{AppName, RegionCode};
use roost_model::size::ByteSize;
use roost_proto::logs::LogStream;
use roost_proto::worker::{ExecCommand, ExecOutcome};
use roost_testkit::logs::lines;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for anything; only a broken test gets there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 24] = [
    "sh", "cat", "chmod", "chown", "chroot", "echo", "env", "grep", "head", "id", "kill", "ls",
    "mkdir", "mknod", "mount", "nc", "ps", "pwd", "seq", "sleep", "stat", "tail", "touch", "yes",
];
static MACHINE_COUNTER: AtomicU32 = AtomicU32::new(0);

/// Remembers who was attached; there is no network in these tests.
#[derive(Debug, Default)]
pub(crate) struct FakePlumber {
    attached: Mutex<BTreeSet<MachineId>>,
    /// The process ids that were given.
    pub(crate) pids: Mutex<Vec<u32>>,
}

#[async_trait]
impl PacketPlumber for FakePlumber {
    async fn ensure_node(&self) -> Result<(), PlumbError> {
        Ok(())
    }
    async fn admit(&self, _: &MachineId, _: MachineAddresses) -> Result<(), PlumbError> {
        Ok(())
    }
    async fn attach(
        &self,
        id: &MachineId,
        _: MachineAddresses,
        pid: u32,
    ) -> Result<(), PlumbError> {
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        if std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap() == own {
            return Err(PlumbError::NotIsolated(pid));
        }
        self.attached.lock().insert(id.clone());
        self.pids.lock().push(pid);
        Ok(())
    }
    async fn detach(&self, id: &MachineId) -> Result<(), PlumbError> {
        self.attached.lock().remove(id);
        Ok(())
    }
    async fn attached(&self) -> Result<Vec<MachineId>, PlumbError> {
        Ok(self.attached.lock().iter().cloned().collect())
    }
    async fn remove_node(&self) -> Result<(), PlumbError> {
        Ok(())
    }
}

/// A host.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) driver: ContainerDriver,
    pub(crate) plumber: Arc<FakePlumber>,
    runtime: ContainerRuntime,
    tag: InstanceTag,
}

impl Host {
    /// A host with the built-in runtime, or none with the reason why.
    pub(crate) fn library() -> Option<Self> {
        Self::new(ContainerRuntime::Library)
    }

    /// A host with `runc`, or none with the reason why.
    pub(crate) fn runc() -> Option<Self> {
        let runc = ["/usr/sbin/runc", "/usr/bin/runc"].map(PathBuf::from);
        let Some(runc) = runc.into_iter().find(|path| path.exists()) else {
            println!("skipped: no runc (Debian package runc)");
            return None;
        };
        Self::new(ContainerRuntime::External(runc))
    }

    fn new(runtime: ContainerRuntime) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: machines need root");
            return None;
        }
        if !Path::new(BUSYBOX).exists() {
            println!("skipped: no {BUSYBOX} (Debian package busybox-static)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        write_layers(dir.path());
        let tag = InstanceTag::of_data_dir(dir.path());
        let plumber = Arc::new(FakePlumber::default());
        let driver = driver(dir.path(), tag, &runtime, plumber.clone());
        Some(Self {
            dir,
            driver,
            plumber,
            runtime,
            tag,
        })
    }

    /// What a restarted `roostd` has.
    pub(crate) fn new_driver(&self) -> ContainerDriver {
        driver(
            self.dir.path(),
            self.tag,
            &self.runtime,
            self.plumber.clone(),
        )
    }

    /// A driver of this host with another network.
    pub(crate) fn driver_with(&self, plumber: Arc<dyn PacketPlumber>) -> ContainerDriver {
        driver(self.dir.path(), self.tag, &self.runtime, plumber)
    }

    pub(crate) fn layer(&self) -> PathBuf {
        self.dir.path().join("layers/base")
    }

    pub(crate) fn run_dir(&self, id: &MachineId) -> PathBuf {
        self.dir.path().join("run").join(id.as_str())
    }

    pub(crate) fn cgroup_parent(&self) -> String {
        self.tag.cgroup_name()
    }

    pub(crate) fn cgroup(&self, id: &MachineId) -> Cgroup {
        Cgroup::at(&format!("/{}/{id}", self.tag.cgroup_name())).unwrap()
    }

    /// The cgroups of all its machines, and of their shims.
    pub(crate) fn cgroups(&self) -> [Cgroup; 2] {
        [self.tag.cgroup_name(), self.tag.shim_cgroup_name()].map(|name| Cgroup::at(&name).unwrap())
    }

    /// A machine that runs a shell script.
    pub(crate) fn machine(&self, script: &str) -> LaunchConfig {
        let number = MACHINE_COUNTER.fetch_add(1, Ordering::Relaxed);
        let [a, b, c, d] = std::process::id().to_be_bytes();
        let [_, e, f, g] = number.to_be_bytes();
        let id = MachineId::from_bytes([a ^ e, b, c, d, e, f, g]);
        LaunchConfig {
            instance_id: InstanceId::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap(),
            app: AppName::parse("demo").unwrap(),
            region: RegionCode::parse("local").unwrap(),
            root_fs: RootFs::Layers(vec![self.layer(), self.dir.path().join("layers/top")]),
            resume: false,
            process: LaunchProcess {
                args: ["sh", "-c", script].map(str::to_owned).to_vec(),
                env: vec![("COLOUR".to_owned(), "blue".to_owned())],
                workdir: String::new(),
                user: String::new(),
            },
            beside: Vec::new(),
            guest: Guest::DEFAULT,
            root_disk: ByteSize::gib(1),
            swap: ByteSize(0),
            addresses: MachineAddresses {
                ipv4: Ipv4Addr::new(10, 1, 2, 3),
                ipv6: Ipv6Addr::LOCALHOST,
            },
            id_range: IdRange {
                base: 1_000_000 + number * 65_536,
                size: 65_536,
            },
            files: Vec::new(),
            hostname: id.as_str().to_owned(),
            log_dir: self.dir.path().join("logs").join(id.as_str()),
            machine_id: id,
        }
    }

    /// Runs a machine to its end; returns that and its standard output.
    pub(crate) async fn run(&self, config: LaunchConfig) -> (MachineExit, String) {
        let (id, log_dir) = (config.machine_id.clone(), config.log_dir.clone());
        self.driver.launch(config).await.unwrap();
        let exit = self.wait(&id).await;
        (exit, lines(&log_dir, LogStream::Stdout).join("\n"))
    }

    /// Runs a script to its end; returns its standard output.
    pub(crate) async fn output(&self, script: &str) -> String {
        self.run(self.machine(script)).await.1
    }

    pub(crate) async fn wait(&self, id: &MachineId) -> MachineExit {
        tokio::time::timeout(PATIENCE, self.driver.wait_exit(id))
            .await
            .unwrap()
            .unwrap()
    }

    /// Runs a command in a machine.
    pub(crate) async fn exec(&self, id: &MachineId, script: &str) -> ExecOutcome {
        let command = ExecCommand {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            stdin: Vec::new(),
            timeout: PATIENCE,
        };
        self.driver.exec(id, command).await.unwrap()
    }

    /// Removes a machine, and claims that nothing of it is left.
    pub(crate) async fn remove(&self, id: &MachineId) {
        self.driver.remove(id).await.unwrap();
        self.driver.remove(id).await.unwrap();
        assert!(!self.cgroup(id).exists(), "its cgroup is left");
        assert!(!self.run_dir(id).exists(), "its run directory is left");
        assert!(
            !self.dir.path().join("data").join(id.as_str()).exists(),
            "its writes are left"
        );
        assert!(!self.driver.list().await.unwrap().contains(id));
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(
            !mounts.contains(self.dir.path().to_str().unwrap()),
            "a mount is left"
        );
        assert_eq!(processes_naming(id.as_str()), 0, "a process is left");
    }

    /// Removes all machines, and claims that the last one took the cgroups along.
    pub(crate) async fn end(&self) {
        for id in self.driver.list().await.unwrap() {
            self.remove(&id).await;
        }
        let left: Vec<_> = self.cgroups().into_iter().filter(Cgroup::exists).collect();
        assert!(left.is_empty(), "{left:?} are left");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // After a failed test; shims end when their machines do.
        for cgroup in self.cgroups() {
            let _ = cgroup.remove(Duration::from_secs(10));
        }
    }
}

fn driver(
    dir: &Path,
    tag: InstanceTag,
    runtime: &ContainerRuntime,
    plumber: Arc<dyn PacketPlumber>,
) -> ContainerDriver {
    ContainerDriver::new(ContainerConfig {
        shims: ShimConfig {
            tag,
            run_dir: dir.join("run"),
            data_dir: dir.join("data"),
            plumber,
        },
        program: PathBuf::from(env!("CARGO_BIN_EXE_roost-shim")),
        runtime: runtime.clone(),
    })
    .unwrap()
}

/// The layers of a machine that is to be.
pub(crate) fn layers(config: &mut LaunchConfig) -> &mut Vec<PathBuf> {
    match &mut config.root_fs {
        RootFs::Layers(layers) => layers,
        RootFs::Image(_) => panic!("containers are made of layers"),
    }
}

fn write_layers(dir: &Path) {
    let base = dir.join("layers/base");
    for sub in ["bin", "etc", "tmp", "data"] {
        std::fs::create_dir_all(base.join(sub)).unwrap();
    }
    std::fs::copy(BUSYBOX, base.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", base.join("bin").join(applet)).unwrap();
    }
    let accounts = "root:x:0:0::/root:/bin/sh\napp:x:1000:100::/home/app:/bin/sh\n";
    std::fs::write(base.join("etc/passwd"), accounts).unwrap();
    std::fs::write(
        base.join("etc/group"),
        "root:x:0:\nusers:x:100:\nextra:x:200:app\n",
    )
    .unwrap();
    std::fs::write(base.join("data/mine"), "app's\n").unwrap();
    std::os::unix::fs::chown(base.join("data/mine"), Some(1000), Some(100)).unwrap();
    std::fs::write(base.join("data/layered"), "below\n").unwrap();
    std::fs::write(base.join("data/plain"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(base.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    let top = dir.join("layers/top/data");
    std::fs::create_dir_all(&top).unwrap();
    std::fs::write(top.join("layered"), "above\n").unwrap();
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How many processes have this text in their command lines.
pub(crate) fn processes_naming(text: &str) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(text))
        .count()
}
