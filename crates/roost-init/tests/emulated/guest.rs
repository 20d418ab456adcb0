//! One emulated guest with busybox as its image.

use roost_agent::host::{self, Channel, ConnectOptions};
use roost_agent::proto::agent_client::AgentClient;
use roost_agent::proto::{BootRequest, EnvironmentVariable, Process, RootDisks};
use roost_host::vmm::kernel::{GuestKernels, KernelSource};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// An emulated boot takes seconds on an idle machine, and much longer on a busy one.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const BUSYBOX: &str = "/usr/bin/busybox";
const FIRMWARE: &str = "/usr/share/qemu/qboot.rom";
/// One guest at a time: each keeps a core busy.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// An emulated guest, which ends with this value.
pub(crate) struct Guest {
    pub(crate) agent: AgentClient<Channel>,
    qemu: Child,
    dir: tempfile::TempDir,
    session: JoinSet<()>,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if std::thread::panicking() {
            eprintln!("console of the guest:\n{}", self.console());
        }
    }
}

/// What guests are made of, or why there are none here.
struct Parts {
    kernel_dir: PathBuf,
    init: PathBuf,
}

fn find_parts() -> Result<Parts, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), PathBuf::from);
    let parts = Parts {
        kernel_dir: target.join("guest-kernel"),
        init: target.join("x86_64-unknown-linux-gnu/guest/roost-init"),
    };
    if !parts.init.exists() {
        return Err("no static roost-init; run make guest".to_owned());
    }
    if !parts.kernel_dir.join("RELEASE").exists() {
        return Err("no guest kernel; run scripts/guest-kernel".to_owned());
    }
    for file in [BUSYBOX, FIRMWARE] {
        if !Path::new(file).exists() {
            return Err(format!("no {file}"));
        }
    }
    for program in ["qemu-system-x86_64", "mkfs.erofs", "mke2fs"] {
        let found = Command::new(program).arg("--version").output();
        if found.is_err() {
            return Err(format!("no {program}"));
        }
    }
    Ok(parts)
}

impl Guest {
    /// Starts a guest in its turn and connects; `None` where that cannot be done.
    pub(crate) async fn start() -> Option<Self> {
        let parts = match find_parts() {
            Ok(parts) => parts,
            Err(reason) => {
                println!("skipped: {reason}");
                return None;
            }
        };
        let turn = TURN.lock().await;
        let dir = tempfile::tempdir().unwrap();
        let source = KernelSource::in_folder(&parts.kernel_dir, parts.init).unwrap();
        let kernels = GuestKernels::open(&dir.path().join("kernels")).unwrap();
        let kernel = within(kernels.import(source)).await.unwrap();
        let (root, scratch) = (dir.path().join("root"), dir.path().join("scratch"));
        make_disks(dir.path(), &root, &scratch);
        let socket = dir.path().join("agent.sock");
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-M", "q35,usb=off,smm=off,vmport=off,i8042=off", "-bios"])
            .args([FIRMWARE, "-accel", "tcg", "-cpu", "max", "-m", "256"])
            .args(["-smp", "1", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-kernel"])
            .arg(&kernel.vmlinux)
            .arg("-initrd")
            .arg(&kernel.initramfs)
            .args([
                "-append",
                "console=ttyS0 reboot=t panic=1 no_timer_check quiet",
            ])
            .arg("-serial")
            .arg(format!("file:{}", dir.path().join("console").display()))
            .args(["-device", "virtio-serial-pci", "-chardev"])
            .arg(format!(
                "socket,id=agent,path={},server=on,wait=off",
                socket.display()
            ))
            .args(["-device", "virtserialport,chardev=agent,name=roost.agent"])
            .args(["-netdev", "user,id=net,restrict=on"])
            .args(["-device", "virtio-net-pci,netdev=net,mac=02:00:00:00:00:01"])
            .args(["-device", "virtio-rng-pci"]);
        for (id, path, options) in [("vda", &root, ",readonly=on"), ("vdb", &scratch, "")] {
            let drive = format!(
                "file={},if=none,id={id},format=raw{options}",
                path.display()
            );
            let device = format!("virtio-blk-pci,drive={id}");
            command.args(["-drive", &drive, "-device", &device]);
        }
        let qemu = command.stdin(Stdio::null()).spawn().unwrap();
        let (agent, session) = connect(&socket).await;
        Some(Self {
            agent,
            qemu,
            dir,
            session,
            _turn: turn,
        })
    }

    /// Drops the session without a word, and begins another one.
    pub(crate) async fn reconnect(&mut self) {
        self.session.shutdown().await;
        let (agent, session) = connect(&self.dir.path().join("agent.sock")).await;
        (self.agent, self.session) = (agent, session);
    }

    /// What the guest wrote to its console.
    pub(crate) fn console(&self) -> String {
        let bytes = std::fs::read(self.dir.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the hypervisor has ended by itself.
    pub(crate) async fn ended(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while self.qemu.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the guest does not go off");
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// Begins the session as soon as the hypervisor has made the socket.
async fn connect(socket: &Path) -> (AgentClient<Channel>, JoinSet<()>) {
    let deadline = Instant::now() + LIMIT;
    let stream = loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "connect: {error}"),
        }
        sleep(POLL_INTERVAL).await;
    };
    let options = ConnectOptions {
        answer_within: LIMIT,
        // An emulated guest with hundreds of processes answers late.
        ping_timeout: LIMIT,
        ..ConnectOptions::default()
    };
    let connection = host::connect(stream, &options).await.unwrap();
    let mut session = JoinSet::new();
    session.spawn(async move {
        connection.driver.await;
    });
    (host::client(connection.channel), session)
}

/// An image of busybox, and an empty disk.
fn make_disks(dir: &Path, root: &Path, scratch: &Path) {
    let tree = dir.join("tree");
    for name in ["bin", "etc", "usr/bin"] {
        std::fs::create_dir_all(tree.join(name)).unwrap();
    }
    std::fs::copy(BUSYBOX, tree.join("bin/busybox")).unwrap();
    let list = Command::new(BUSYBOX).arg("--list").output().unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines() {
        if applet != "busybox" {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet)).unwrap();
        }
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/www:/bin/sh\n";
    std::fs::write(tree.join("etc/passwd"), passwd).unwrap();
    std::fs::write(tree.join("etc/group"), "root:x:0:\nwww:x:33:\n").unwrap();
    std::fs::write(tree.join("etc/hosts"), "192.0.2.9 of-image").unwrap();
    run(Command::new("mkfs.erofs")
        .arg("--all-root")
        .arg(root)
        .arg(&tree));
    std::fs::File::create(scratch)
        .unwrap()
        .set_len(256 << 20)
        .unwrap();
    let mut mke2fs = Command::new("mke2fs");
    run(mke2fs
        .args(["-q", "-t", "ext4", "-O", "^has_journal"])
        .arg(scratch));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Waits no longer than anything here may take.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("in time")
}

/// A boot message for one process of the image.
pub(crate) fn boot_request(args: &[&str]) -> BootRequest {
    BootRequest {
        clock_unix_ns: 2_000_000_000_123_456_789,
        random_seed: vec![7; 32].into(),
        hostname: "mch-1".to_owned(),
        root: Some(RootDisks {
            image_device: "vda".to_owned(),
            scratch_device: "vdb".to_owned(),
        }),
        processes: vec![Process {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![variable("PATH", "/bin"), variable("SECRET", "s3cr3t-value")],
            ..Process::default()
        }],
        manage_etc: true,
        ..BootRequest::default()
    }
}

pub(crate) fn variable(name: &str, value: &str) -> EnvironmentVariable {
    EnvironmentVariable {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}
