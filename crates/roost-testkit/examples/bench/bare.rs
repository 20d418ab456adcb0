//! The peer of a VM's start: QEMU as a person would start it for the same guest.
//!
//! The same kernel, initial file system, root image, devices and kernel
//! arguments, taken from the command line of a hypervisor that roost has
//! started; and nothing around it: no jail, no sandbox, no control channel, no
//! cgroup, no new disk. The tap device and an empty disk are there before the
//! clock runs. The agent is told to start the app at once, and the app is
//! asked by its own address.

use crate::vm::PATIENCE;
use crate::{REQUEST, process};
use roost_agent::host::{ConnectOptions, client, connect};
use roost_agent::proto::{Address, BootRequest, EnvironmentVariable, Network, Process, RootDisks};
use roost_testkit::program::run;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The host's end of the guest's link.
const TAP: &str = "roost-bench1";
const HOST: &str = "10.254.254.5";
const GUEST: &str = "10.254.254.6";
/// Flags of QEMU without a value.
const BARE_FLAGS: [&str; 3] = ["-nodefaults", "-no-user-config", "-no-reboot"];

/// A VM that can be started again and again.
pub(crate) struct BareVm {
    dir: tempfile::TempDir,
    program: PathBuf,
    args: Vec<String>,
}

impl BareVm {
    /// One that is like that of a process which runs.
    pub(crate) fn like(hypervisor: i32, data_dir: &Path) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("roost-bench-")
            .tempdir()
            .unwrap();
        let line = fs::read_to_string(format!("/proc/{hypervisor}/cmdline")).unwrap();
        let mut words = line.split('\0').map(str::to_owned);
        let program = words.next().expect("a program").into();
        let args = Translation {
            dir: dir.path(),
            data_dir,
        }
        .translate(words);
        make_tap(&args);
        Self { dir, program, args }
    }

    fn scratch(&self) -> PathBuf {
        scratch_path(self.dir.path())
    }

    /// Starts it; the wall and processor time until it answers.
    pub(crate) fn start(&self) -> (Duration, Duration) {
        make_scratch(&self.scratch());
        let agent = agent_path(self.dir.path());
        let _ = fs::remove_file(&agent);
        let start = Instant::now();
        let child = Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::null())
            .spawn()
            .expect("QEMU starts");
        let mut qemu = Qemu(child);
        start_app(&agent);
        qemu.await_answer(start);
        let wall = start.elapsed();
        (wall, process::cpu(qemu.0.id().cast_signed()))
    }
}

impl Drop for BareVm {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["link", "del", TAP]).status());
    }
}

/// From roost's command line to a person's.
struct Translation<'a> {
    /// Our own directory.
    dir: &'a Path,
    /// The platform's, with one kernel, one image and one VM.
    data_dir: &'a Path,
}

impl Translation<'_> {
    fn translate(&self, mut words: impl Iterator<Item = String>) -> Vec<String> {
        let mut args = Vec::new();
        while let Some(flag) = words.next() {
            if BARE_FLAGS.contains(&flag.as_str()) {
                args.push(flag);
            } else if let Some(value) = words.next()
                && let Some(value) = self.value(&flag, value)
            {
                args.extend([flag, value]);
            }
        }
        args
    }

    /// The value for a flag; none if the flag is left out.
    fn value(&self, flag: &str, value: String) -> Option<String> {
        match flag {
            "-sandbox" | "-name" | "-mon" | "-add-fd" => None,
            "-kernel" => Some(self.find("kernels", "vmlinux")),
            "-initrd" => Some(self.find("kernels", "initramfs.cpio")),
            "-netdev" => Some(format!("tap,id=net0,ifname={TAP},script=no,downscript=no")),
            "-chardev" if value.contains("id=control") => None,
            "-chardev" if value.contains("id=console") => Some("null,id=console".into()),
            "-chardev" => {
                let path = agent_path(self.dir);
                let path = path.display();
                Some(format!("socket,id=agent,path={path},server=on,wait=off"))
            }
            "-drive" => Some(self.drive(&value)),
            _ => Some(value),
        }
    }

    /// The image is the same file, the disk a new one of the same size.
    fn drive(&self, value: &str) -> String {
        let (before, rest) = value.split_once("/dev/fdset/").expect("a descriptor");
        let (_, after) = rest.split_once(',').expect("more options");
        let path = if value.contains("readonly=on") {
            self.find("images/root-images", "")
        } else {
            let theirs = fs::metadata(self.find("machines", "scratch.img")).unwrap();
            let path = scratch_path(self.dir);
            let disk = fs::File::create(&path).unwrap();
            disk.set_len(theirs.len()).unwrap();
            path.display().to_string()
        };
        format!("{before}{path},{after}")
    }

    /// The path of the platform's file whose name ends so.
    fn find(&self, dir: &str, name: &str) -> String {
        let dir = self.data_dir.join(dir);
        let found = search(&dir, name);
        let found = found.unwrap_or_else(|| panic!("no {name} in {}", dir.display()));
        found.display().to_string()
    }
}

fn search(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let mut found = entries.filter_map(|entry| {
        let path = entry.path();
        if entry.file_type().ok()?.is_dir() {
            return search(&path, name);
        }
        let is_it = path.is_file() && path.to_string_lossy().ends_with(name);
        is_it.then_some(path)
    });
    found.next()
}

fn scratch_path(dir: &Path) -> PathBuf {
    dir.join("scratch.img")
}

fn agent_path(dir: &Path) -> PathBuf {
    dir.join("agent.sock")
}

fn make_scratch(path: &Path) {
    run(Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0"])
        .args(["-O", "^has_journal", "-E", "lazy_itable_init=1"])
        .arg(path));
}

/// Makes the tap device, and names the guest's hardware address on it: nobody
/// has to ask for it while the clock runs.
fn make_tap(args: &[String]) {
    let nic = args.iter().find_map(|arg| arg.split_once(",mac="));
    let (_, rest) = nic.expect("the guest has a link");
    let address = rest.split(',').next().expect("a hardware address");
    let ip = |args: &str| {
        run(Command::new("ip").args(args.split(' ')));
    };
    ip(&format!("tuntap add dev {TAP} mode tap"));
    ip(&format!("addr add {HOST}/30 dev {TAP}"));
    ip(&format!("link set {TAP} up"));
    ip(&format!(
        "neigh replace {GUEST} lladdr {address} nud permanent dev {TAP}"
    ));
}

/// Waits for the agent and has it start the app, as a machine's holder does.
fn start_app(agent: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = loop {
            match tokio::net::UnixStream::connect(agent).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let options = ConnectOptions {
            answer_within: PATIENCE,
            ..ConnectOptions::default()
        };
        let connection = connect(stream, &options).await.expect("the agent answers");
        let mut agent = client(connection.channel);
        tokio::select! {
            reply = agent.boot(boot_request()) => drop(reply.expect("the app starts")),
            end = connection.driver => panic!("the session ended: {end}"),
        }
    });
}

fn boot_request() -> BootRequest {
    BootRequest {
        clock_unix_ns: 1_700_000_000_000_000_000,
        random_seed: vec![7; 64].into(),
        hostname: "bench".into(),
        network: Some(Network {
            link: "eth0".into(),
            mtu: 1500,
            addresses: vec![Address {
                address: GUEST.into(),
                prefix: 30,
                gateway: HOST.into(),
            }],
            ..Network::default()
        }),
        root: Some(RootDisks {
            image_device: "vda".into(),
            scratch_device: "vdb".into(),
        }),
        processes: vec![Process {
            args: ["/bin/httpd", "-f", "-p", "8080", "-h", "/srv"]
                .map(str::to_owned)
                .to_vec(),
            env: vec![EnvironmentVariable {
                name: "PATH".into(),
                value: "/bin".into(),
            }],
            ..Process::default()
        }],
        open_files_max: 1024,
        manage_etc: true,
        ..BootRequest::default()
    }
}

/// A process that ends with its owner.
struct Qemu(Child);

impl Qemu {
    fn await_answer(&mut self, start: Instant) {
        let address = SocketAddr::new(GUEST.parse().unwrap(), 8080);
        while !ask(address).contains("hello") {
            assert!(start.elapsed() < PATIENCE, "the bare VM does not answer");
            assert!(
                self.0.try_wait().expect("our child").is_none(),
                "QEMU ended"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// One request. A packet that nobody took is not repeated for a second, so
/// connections that do not come about soon are given up.
fn ask(address: SocketAddr) -> String {
    let mut text = Vec::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        drop(stream.write_all(REQUEST.as_bytes()));
        drop(stream.read_to_end(&mut text));
    }
    String::from_utf8_lossy(&text).into_owned()
}
