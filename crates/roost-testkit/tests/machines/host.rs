//! A host of its own for each test: directories, network, a driver, an image.

use roost_host::cgroup::Cgroup;
use roost_host::container::{ContainerConfig, ContainerDriver, ContainerRuntime};
use roost_host::driver::{
    IdRange, LaunchConfig, LaunchProcess, MachineDriver, RootFs, RootFsKind, Running,
};
use roost_host::instance::InstanceTag;
use roost_host::net::PacketPlumber;
use roost_host::net::addresses::NodeNetwork;
use roost_host::net::linux::{LinuxPlumber, NetConfig, existing_routes, remove_instance};
use roost_host::net::sysctl::DEFAULT_RECORD;
use roost_host::shim::ShimConfig;
use roost_host::vm::{VmDriver, VmDriverConfig};
use roost_host::vmm::kernel::{GuestKernels, KernelSource};
use roost_image::{Images, ImagesConfig};
use roost_model::id::{InstanceId, MachineId};
use roost_model::image_ref::ImageRef;
use roost_model::machine::{Guest, MachineExit, Rung};
use roost_model::name::{AppName, RegionCode};
use roost_model::size::ByteSize;
use roost_proto::vm::VmHypervisor;
use roost_proto::worker::{ExecCommand, ExecOutcome};
use roost_testkit::images::busybox;
use roost_testkit::program::{build_dir, built, find_in_path};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for anything; only a broken test gets there. An emulated guest
/// on a busy host takes half a minute for what takes a second elsewhere.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
static MACHINE_COUNTER: AtomicU16 = AtomicU16::new(0);

/// What machines run on in a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Container,
    Emulated,
    QemuKvm,
    Firecracker,
}

/// What a host's VMs boot, and how long they may take.
#[derive(Debug, Clone)]
pub(crate) struct GuestChoice {
    /// The guest's first process.
    pub(crate) init: PathBuf,
    pub(crate) boot_timeout: Duration,
}

impl GuestChoice {
    fn usual() -> Self {
        Self {
            init: guest_dir().join("roost-init"),
            boot_timeout: PATIENCE,
        }
    }
}

/// A host.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) driver: Arc<dyn MachineDriver>,
    root_fs: RootFs,
    network: NodeNetwork,
    tag: InstanceTag,
    make_driver: Box<dyn Fn() -> Arc<dyn MachineDriver> + Send + Sync>,
}

impl Host {
    /// A host for machines of this kind, or none with the reason printed.
    pub(crate) async fn new(kind: Kind) -> Option<Self> {
        Self::with_guest(kind, GuestChoice::usual()).await
    }

    /// The same with other guests.
    pub(crate) async fn with_guest(kind: Kind, guest: GuestChoice) -> Option<Self> {
        if let Some(reason) = why_not(kind) {
            println!("skipped: {reason}");
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("roost-machines-")
            .tempdir()
            .unwrap();
        let tag = InstanceTag::of_data_dir(dir.path());
        let network = NodeNetwork::choose(tag, &existing_routes().await.unwrap()).unwrap();
        let plumber: Arc<dyn PacketPlumber> = Arc::new(LinuxPlumber::new(NetConfig {
            tag,
            network,
            sysctl_record: DEFAULT_RECORD.into(),
        }));
        plumber.ensure_node().await.unwrap();
        let shims = ShimConfig {
            tag,
            run_dir: dir.path().join("run"),
            data_dir: dir.path().join("data"),
            plumber,
        };
        // Hypervisors run under ids of their own and pass through it.
        std::fs::set_permissions(
            dir.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o711),
        )
        .unwrap();
        let make_driver = match kind {
            Kind::Container => container_maker(shims),
            Kind::Emulated | Kind::QemuKvm | Kind::Firecracker => {
                vm_maker(kind, shims, dir.path(), network, guest).await
            }
        };
        let driver = make_driver();
        let root_fs = root_fs(dir.path(), driver.root_fs()).await;
        Some(Self {
            dir,
            driver,
            root_fs,
            network,
            tag,
            make_driver,
        })
    }

    /// What a restarted `roostd` has.
    pub(crate) fn restart(&mut self) {
        self.driver = (self.make_driver)();
    }

    pub(crate) fn run_dir(&self, id: &MachineId) -> PathBuf {
        self.dir.path().join("run").join(id.as_str())
    }

    pub(crate) fn data_dir(&self, id: &MachineId) -> PathBuf {
        self.dir.path().join("data").join(id.as_str())
    }

    /// A machine that runs a shell script.
    pub(crate) fn machine(&self, script: &str) -> LaunchConfig {
        let number = MACHINE_COUNTER.fetch_add(1, Ordering::Relaxed);
        let [a, b, c, d] = std::process::id().to_be_bytes();
        let [e, f] = number.to_be_bytes();
        let id = MachineId::from_bytes([a, b, c, d, e, f, 7]);
        LaunchConfig {
            instance_id: InstanceId::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap(),
            app: AppName::parse("demo").unwrap(),
            region: RegionCode::parse("local").unwrap(),
            root_fs: self.root_fs.clone(),
            resume: false,
            process: LaunchProcess {
                args: ["sh", "-c", script].map(str::to_owned).to_vec(),
                env: vec![
                    ("PATH".to_owned(), "/bin".to_owned()),
                    ("COLOUR".to_owned(), "blue".to_owned()),
                ],
                workdir: String::new(),
                user: String::new(),
            },
            beside: Vec::new(),
            guest: Guest {
                memory: ByteSize::mib(256),
                ..Guest::preset("performance-1x").unwrap()
            },
            root_disk: ByteSize::mib(512),
            swap: ByteSize(0),
            addresses: self.network.address(number).unwrap(),
            id_range: IdRange {
                base: 1_000_000 + u32::from(number) * 65_536,
                size: 65_536,
            },
            files: Vec::new(),
            hostname: id.as_str().to_owned(),
            log_dir: self.dir.path().join("logs").join(id.as_str()),
            machine_id: id,
        }
    }

    pub(crate) async fn launch(&self, config: &LaunchConfig) -> Running {
        match self.driver.launch(config.clone()).await {
            Ok(running) => running,
            Err(error) => panic!("launch: {error}"),
        }
    }

    pub(crate) async fn wait(&self, id: &MachineId) -> MachineExit {
        tokio::time::timeout(PATIENCE, self.driver.wait_exit(id))
            .await
            .expect("the machine ends")
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

    /// Runs a command in a machine; returns its output without the last line end.
    pub(crate) async fn ask(&self, id: &MachineId, script: &str) -> String {
        let outcome = self.exec(id, script).await;
        let stderr = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!(outcome.exit_code, 0, "{script}: {stderr}");
        String::from_utf8(outcome.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    }

    /// The cgroups of all its machines, and of their shims.
    fn cgroups(&self) -> [Cgroup; 2] {
        [self.tag.cgroup_name(), self.tag.shim_cgroup_name()].map(|name| Cgroup::at(&name).unwrap())
    }

    /// Removes a machine, and claims that nothing of it is left.
    pub(crate) async fn remove(&self, id: &MachineId) {
        self.driver.remove(id).await.unwrap();
        self.driver.remove(id).await.unwrap();
        assert!(!self.run_dir(id).exists(), "its run directory is left");
        assert!(!self.data_dir(id).exists(), "its writes are left");
        assert_eq!(self.driver.list().await.unwrap(), [], "something is left");
        let cgroups = self.cgroups().into_iter();
        let left: Vec<_> = cgroups.filter(Cgroup::exists).collect();
        assert!(left.is_empty(), "{left:?} are left");
        assert_eq!(processes_naming(id.as_str()), [""; 0], "a process is left");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(id.as_str()), "a mount is left");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // After a failed test too; shims end when their machines do.
        for cgroup in self.cgroups() {
            let _ = cgroup.remove(Duration::from_secs(10));
        }
        let tag = self.tag;
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(remove_instance(tag, Path::new(DEFAULT_RECORD)))
        });
        let _ = removed.join();
    }
}

fn why_not(kind: Kind) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("machines need root".into());
    }
    for (program, package) in [("nft", "nftables"), ("busybox", "busybox-static")] {
        if find_in_path(program).is_none() {
            return Some(format!("no `{program}` (Debian package {package})"));
        }
    }
    let has_kvm = std::env::var_os("ROOST_TEST_KVM").is_some();
    match kind {
        Kind::Container => None,
        Kind::Emulated | Kind::QemuKvm if find_in_path("qemu-system-x86_64").is_none() => {
            Some("no `qemu-system-x86_64` (Debian package qemu-system-x86)".into())
        }
        Kind::Emulated if !guest_dir().join("roost-init").exists() => {
            Some("no guest kernel and init (make guest guest-kernel)".into())
        }
        Kind::Emulated => None,
        Kind::QemuKvm | Kind::Firecracker if !has_kvm => {
            Some("KVM is tested by `make test-kvm`".into())
        }
        Kind::QemuKvm => None,
        Kind::Firecracker => std::env::var_os("ROOST_FIRECRACKER")
            .is_none()
            .then(|| "no Firecracker (ROOST_FIRECRACKER=PATH)".into()),
    }
}

/// The kernel of guests and their init: beside the programs.
fn guest_dir() -> PathBuf {
    build_dir().join("guest")
}

fn container_maker(shims: ShimConfig) -> Box<dyn Fn() -> Arc<dyn MachineDriver> + Send + Sync> {
    let config = ContainerConfig {
        shims,
        program: built("roost-shim"),
        runtime: ContainerRuntime::Library,
    };
    Box::new(move || Arc::new(ContainerDriver::new(config.clone()).unwrap()))
}

async fn vm_maker(
    kind: Kind,
    shims: ShimConfig,
    dir: &Path,
    network: NodeNetwork,
    guest: GuestChoice,
) -> Box<dyn Fn() -> Arc<dyn MachineDriver> + Send + Sync> {
    let kernels = dir.join("kernels");
    let store = GuestKernels::open(&kernels).unwrap();
    let source = KernelSource::in_folder(&guest_dir(), guest.init).unwrap();
    let kernel = store.import(source).await.unwrap();
    let hypervisor = match kind {
        Kind::Firecracker => VmHypervisor::Firecracker {
            program: std::env::var_os("ROOST_FIRECRACKER").unwrap().into(),
            jailer: std::env::var_os("ROOST_JAILER")
                .unwrap_or_else(|| "jailer".into())
                .into(),
        },
        Kind::Container | Kind::Emulated | Kind::QemuKvm => VmHypervisor::Qemu {
            program: find_in_path("qemu-system-x86_64").unwrap(),
            emulated: kind == Kind::Emulated,
        },
    };
    let config = VmDriverConfig {
        rung: match kind {
            Kind::Emulated => Rung::VmEmulated,
            Kind::Container | Kind::QemuKvm | Kind::Firecracker => Rung::Vm,
        },
        shims,
        program: built("roost-vm"),
        hypervisor,
        kernels,
        kernel: Some(kernel),
        network,
        boot_timeout: guest.boot_timeout,
    };
    Box::new(move || Arc::new(VmDriver::new(config.clone()).unwrap()))
}

async fn root_fs(dir: &Path, kind: RootFsKind) -> RootFs {
    let layout = dir.join("layout");
    busybox().write_layout(&layout);
    let images = Images::open(ImagesConfig::new(dir.join("images")))
        .await
        .unwrap();
    let name = ImageRef::parse("demo:1").unwrap();
    let image = images.import(&layout, None, &name).await.unwrap();
    match kind {
        RootFsKind::Layers => RootFs::Layers(images.rootfs_layers(&image).await.unwrap()),
        RootFsKind::Image => RootFs::Image(images.root_image(&image).await.unwrap()),
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Command lines of processes that name this.
pub(crate) fn processes_naming(name: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(name))
        .collect()
}
