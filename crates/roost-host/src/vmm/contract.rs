//! What every hypervisor driver has to do, as tests.
//!
//! A driver's tests make a [`Fixture`], call [`enter_namespaces`], and then
//! [`check_all`] in a runtime of one thread, or one claim after the other.
//! Claims are functions that panic when they do not hold; each boots guests of
//! its own, one at a time.
//!
//! # The guest
//!
//! [`guest`]: a kernel whose init, on the agent's stream, answers each line with the number
//! of lines so far, counted from its boot, a space, and the line. Before it
//! answers, it does what some lines say:
//!
//! - `hello`: writes `the guest says hello` and a line feed to its console;
//! - `flood`: begins to write to its console without an end;
//! - `disks`: copies the first 512 bytes of `vda` to `vdb`, tries to overwrite
//!   those of `vda`, and has all of it written out;
//! - `link`: gives `eth0` the address 192.0.2.2/24, and waits until 192.0.2.1
//!   answers a ping;
//! - `off`: restarts instead of answering, which ends a VM.

use super::kernel::GuestKernel;
use super::{
    AgentStream, Drive, DriveAccess, DriveLimit, Hypervisor, Nic, Vm, VmConfig, VmEnd, VmOwner,
    VmmError,
};
use crate::cgroup::{Cgroup, Limits, is_member};
use crate::net::tap::Tap;
use nix::sched::CloneFlags;
use roost_model::size::ByteSize;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::time::{Instant, sleep, timeout};

pub mod guest;

/// Time between two looks.
const POLL: Duration = Duration::from_millis(50);
/// Longest line of the guest.
const LINE_BYTES_MAX: u64 = 1_024;
/// How much a hypervisor may grow while a guest floods its console.
const FLOOD_GROWTH_MAX: u64 = 16 * 1024 * 1024;
/// How much of a flood is read.
const FLOOD_BYTES: usize = 64 * 1024;
/// The guest's address on its link.
const HARDWARE_ADDRESS: [u8; 6] = [2, 0, 0, 0, 0xc0, 1];

/// Gives the calling thread namespaces for links and mounts, which end with it.
pub fn enter_namespaces() {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .expect("make namespaces");
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", private).expect("part from the host's mounts");
}

/// A hypervisor with a guest to check it with.
#[derive(Debug)]
pub struct Fixture {
    /// The one to be checked.
    pub hypervisor: Box<dyn Hypervisor>,
    /// The guest described above.
    pub kernel: GuestKernel,
    /// Who the hypervisor runs as.
    pub owner: VmOwner,
    /// An empty directory.
    pub dir: PathBuf,
    /// Time for a guest to boot, and for anything else.
    pub limit: Duration,
}

impl Fixture {
    /// The config of a small VM without disks and network, with a new directory.
    pub fn config(&self, name: &str) -> VmConfig {
        let dir = self.dir.join(name);
        std::fs::create_dir(&dir).expect("make a directory for a VM");
        VmConfig {
            name: name.to_owned(),
            dir,
            owner: self.owner,
            cgroup: None,
            n_cpus: 1,
            memory: ByteSize::mib(128),
            kernel: self.kernel.clone(),
            drives: Vec::new(),
            nic: None,
        }
    }

    /// The same with a shared disk, a disk of its own, and a link.
    pub fn full_config(&self, name: &str) -> VmConfig {
        let mut config = self.config(name);
        let file = |suffix: &str, content: Vec<u8>| {
            let path = config.dir.with_extension(suffix);
            std::fs::write(&path, content).expect("write a disk");
            path
        };
        let (shared, own) = (file("vda", vec![b'a'; 4096]), file("vdb", vec![0; 1 << 20]));
        let owner = self.owner;
        std::os::unix::fs::chown(&own, Some(owner.uid), Some(owner.gid)).expect("give it away");
        config.drives = vec![
            Drive {
                path: shared,
                access: DriveAccess::ReadOnly,
                limit: None,
            },
            Drive {
                path: own,
                access: DriveAccess::ReadWrite,
                limit: Some(DriveLimit {
                    bytes_per_second: 8 << 20,
                    operations_per_second: 1_000,
                    burst_seconds: 1,
                }),
            },
        ];
        Tap::create("tap0", self.owner.uid).expect("make a tap device");
        config.nic = Some(Nic {
            tap: "tap0".to_owned(),
            hardware_address: HARDWARE_ADDRESS,
        });
        config
    }

    /// Launches a VM and waits until its guest answers.
    pub async fn boot(&self, config: &VmConfig) -> Guest {
        let vm = self.hypervisor.launch(config).await.expect("launch a VM");
        let mut guest = Guest::new(vm, self.limit);
        guest.connect().await;
        guest
    }
}

/// A VM with the guest of this suite.
#[derive(Debug)]
pub struct Guest {
    /// The VM.
    pub vm: Box<dyn Vm>,
    stream: Option<Stream>,
    limit: Duration,
}

struct Stream(BufReader<Box<dyn AgentStream>>);

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl Guest {
    /// Without a connection to the guest.
    pub fn new(vm: Box<dyn Vm>, limit: Duration) -> Self {
        Self {
            vm,
            stream: None,
            limit,
        }
    }

    /// Opens a stream to the guest, in place of an earlier one, until it answers.
    pub async fn connect(&mut self) {
        let deadline = Instant::now() + self.limit;
        self.stream = None;
        while self.stream.is_none() {
            match self.vm.open_agent().await {
                Ok(stream) => self.stream = Some(Stream(BufReader::new(stream))),
                Err(error) => {
                    assert!(Instant::now() < deadline, "no agent stream: {error}");
                    sleep(POLL).await;
                }
            }
        }
        self.ask("connected").await;
    }

    /// Sends a line and returns the number in the answer to it.
    ///
    /// Answers to other lines, of an earlier stream, are passed over.
    pub async fn ask(&mut self, line: &str) -> u64 {
        self.say(line).await;
        let stream = &mut self.stream.as_mut().expect("connected").0;
        let answer = async {
            loop {
                let mut answer = String::new();
                let n = (&mut *stream)
                    .take(LINE_BYTES_MAX)
                    .read_line(&mut answer)
                    .await
                    .expect("read from the guest");
                assert_ne!(n, 0, "the stream ended");
                let parts = answer.trim_end().split_once(' ');
                if let Some((count, said)) = parts
                    && said == line
                {
                    return count.parse().expect("a count");
                }
            }
        };
        timeout(self.limit, answer)
            .await
            .unwrap_or_else(|_| panic!("no answer to `{line}`"))
    }

    /// Sends a line.
    pub async fn say(&mut self, line: &str) {
        let stream = &mut self.stream.as_mut().expect("connected").0;
        let line = format!("{line}\n");
        let sent = timeout(self.limit, stream.write_all(line.as_bytes())).await;
        sent.expect("the guest takes a line").expect("send a line");
    }

    async fn ended(&mut self) -> VmEnd {
        timeout(self.limit, self.vm.ended())
            .await
            .expect("the end of the VM is seen")
    }
}

/// Checks all claims, one after the other, and says which: under nested
/// emulation each takes a minute.
pub async fn check_all(fixture: &Fixture) {
    macro_rules! check {
        ($($claim:ident)*) => {$(
            println!("claim: {}", stringify!($claim));
            $claim(fixture).await;
        )*};
    }
    check! {
        a_guest_answers_and_is_gone_when_it_is_killed
        a_guest_has_its_disks_and_its_link
        the_process_has_no_privileges
        a_paused_guest_stands_still_and_goes_on
        a_restored_guest_goes_on_where_it_was
        a_killed_hypervisor_is_seen
        a_guest_that_powers_off_ends_its_vm
        a_flooded_console_costs_no_memory
        a_dropped_vm_leaves_no_process
        a_corrupt_kernel_never_becomes_a_guest
        a_missing_kernel_is_an_error_that_names_it
        a_corrupt_snapshot_is_an_error
    }
}

/// The stream, the console, and the figures of a VM, from launch to kill.
pub async fn a_guest_answers_and_is_gone_when_it_is_killed(fixture: &Fixture) {
    let config = fixture.config("answers");
    let mut guest = fixture.boot(&config).await;
    let console = guest.vm.take_console().expect("the console");
    assert!(guest.vm.take_console().is_none());
    guest.ask("hello").await;
    await_text(console, "the guest says hello", fixture.limit).await;

    let count = guest.ask("before").await;
    guest.connect().await;
    assert_eq!(guest.ask("after").await, count + 2, "the same guest");

    let stats = guest.vm.stats().await.expect("stats");
    assert!(stats.guest_resident.bytes() > 0 && stats.guest_resident < config.memory);
    assert!(stats.resident > stats.guest_resident);
    assert!(!stats.cpu.is_zero());

    let pid = guest.vm.pid();
    guest.vm.kill().await.expect("kill the VM");
    assert!(!is_alive(pid), "process {pid} is left");
    guest.vm.kill().await.expect("kill it again");
    assert_eq!(guest.ended().await.signal, Some(Signal::KILL.as_raw()));
    let error = guest.vm.open_agent().await.err().expect("no more stream");
    assert!(matches!(error, VmmError::Ended(_)), "{error}");
    let error = guest.vm.pause().await.expect_err("nothing to pause");
    assert!(matches!(error, VmmError::Ended(_)), "{error}");
}

/// Disks in their order, the first one shared and so never written; a link with
/// the address that it was given.
pub async fn a_guest_has_its_disks_and_its_link(fixture: &Fixture) {
    let config = fixture.full_config("devices");
    let content = |position: usize| {
        let drive: &Drive = &config.drives[position];
        std::fs::read(&drive.path).expect("read a disk")
    };
    let shared = content(0);
    let mut guest = fixture.boot(&config).await;
    guest.ask("disks").await;
    assert_eq!(content(1)[..512], shared[..512], "what is on vdb");
    assert_eq!(content(0), shared, "the shared disk has changed");

    ip(&["address", "add", "192.0.2.1/24", "dev", "tap0"]);
    ip(&["link", "set", "tap0", "up"]);
    guest.ask("link").await;
    let neighbours = ip(&["neighbour", "show", "192.0.2.2"]);
    assert!(neighbours.contains("02:00:00:00:c0:01"), "{neighbours}");
}

/// What the process of a VM may do, by the kernel's own record.
pub async fn the_process_has_no_privileges(fixture: &Fixture) {
    let mut config = fixture.config("jailed");
    let cgroup = TestCgroup::new();
    config.cgroup = Some(cgroup.path.clone());
    let guest = fixture.boot(&config).await;
    let pid = guest.vm.pid();
    assert!(is_member(pid, &cgroup.path), "not in its cgroup");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let words = line
            .unwrap_or_else(|| panic!("no {name}"))
            .split_whitespace();
        words.collect::<Vec<_>>().join(" ")
    };
    let (uid, gid) = (fixture.owner.uid, fixture.owner.gid);
    assert_eq!(field("Uid:"), format!("{uid} {uid} {uid} {uid}"));
    assert_eq!(field("Gid:"), format!("{gid} {gid} {gid} {gid}"));
    assert_eq!(field("Groups:"), "");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2", "no system call filter");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    for namespace in ["mnt", "pid"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
        let (own, its) = (of("self").expect("own"), of(&pid.to_string()).expect("its"));
        assert_ne!(own, its, "{namespace} namespace");
    }
    let environment = std::fs::read(format!("/proc/{pid}/environ")).expect("its environment");
    assert!(environment.is_empty(), "an environment");
    for secret in ["etc/shadow", "root", "proc/self", "sys/kernel"] {
        let path = format!("/proc/{pid}/root/{secret}");
        assert!(!Path::new(&path).exists(), "{secret} is seen");
    }
}

/// Pause and resume, with a snapshot between that finds no room on the disk.
pub async fn a_paused_guest_stands_still_and_goes_on(fixture: &Fixture) {
    let config = fixture.config("pauses");
    let files = new_dir(fixture, "pauses-files");
    rustix::mount::mount("tmpfs", &files, "tmpfs", MountFlags::empty(), c"size=1m")
        .expect("mount a small file system");
    let mut guest = fixture.boot(&config).await;
    let count = guest.ask("before").await;
    guest.vm.pause().await.expect("pause");
    // The time of the process, of which a guest that runs would take all.
    guest.say("while paused").await;
    let error = guest.vm.snapshot(&files).await.expect_err("no room");
    assert!(!matches!(error, VmmError::Ended(_)), "{error}");
    guest.vm.resume().await.expect("resume");
    // An attempt may end the stream, with what was on its way.
    guest.connect().await;
    let answered = guest.ask("after").await - count;
    assert!((2..=3).contains(&answered), "{answered} answers");
    rustix::mount::unmount(&files, rustix::mount::UnmountFlags::DETACH).expect("unmount");
}

/// A snapshot is of the moment it was taken, and is good for more than one VM.
pub async fn a_restored_guest_goes_on_where_it_was(fixture: &Fixture) {
    let config = fixture.full_config("suspends");
    let files = new_dir(fixture, "suspends-files");
    let mut guest = fixture.boot(&config).await;
    let count = guest.ask("before").await;
    guest.vm.pause().await.expect("pause");
    guest.vm.snapshot(&files).await.expect("take a snapshot");
    guest.vm.resume().await.expect("resume");
    guest.connect().await;
    guest.ask("after the snapshot").await;
    guest.vm.kill().await.expect("kill the VM");

    for name in ["restores", "restores-again"] {
        let config = VmConfig {
            dir: new_dir(fixture, name),
            ..config.clone()
        };
        let restored = fixture.hypervisor.restore(&config, &files).await;
        let mut guest = Guest::new(restored.expect("restore"), fixture.limit);
        guest.vm.resume().await.expect("resume");
        guest.connect().await;
        assert_eq!(guest.ask("restored").await, count + 2);
        // Its disks are as far as the first VM left them.
        guest.ask("disks").await;
        guest.vm.kill().await.expect("kill the VM");
    }
}

/// `kill -9` from outside.
pub async fn a_killed_hypervisor_is_seen(fixture: &Fixture) {
    let config = fixture.config("killed");
    let mut guest = fixture.boot(&config).await;
    let pid = Pid::from_raw(guest.vm.pid().cast_signed()).expect("a process id");
    kill_process(pid, Signal::KILL).expect("kill it");
    assert_eq!(guest.ended().await.signal, Some(Signal::KILL.as_raw()));
    let error = guest.vm.resume().await.expect_err("nothing to resume");
    assert!(matches!(error, VmmError::Ended(_)), "{error}");
}

/// The ordinary end.
pub async fn a_guest_that_powers_off_ends_its_vm(fixture: &Fixture) {
    let config = fixture.config("off");
    let mut guest = fixture.boot(&config).await;
    guest.say("off").await;
    let end = guest.ended().await;
    assert_eq!((end.exit_code, end.signal), (Some(0), None), "{end}");
}

/// Nobody reads the console at first, then somebody does.
pub async fn a_flooded_console_costs_no_memory(fixture: &Fixture) {
    let config = fixture.config("flood");
    let mut guest = fixture.boot(&config).await;
    let own = |stats: super::VmStats| stats.resident.bytes() - stats.guest_resident.bytes();
    let before = own(guest.vm.stats().await.expect("stats"));
    let console = guest.vm.take_console().expect("the console");
    guest.ask("flood").await;
    let mut flood = console.take(u64::try_from(FLOOD_BYTES).expect("fits"));
    let mut read = Vec::new();
    timeout(fixture.limit, flood.read_to_end(&mut read))
        .await
        .expect("the flood comes")
        .expect("read the console");
    assert_eq!(read.len(), FLOOD_BYTES);
    // It goes on, unread.
    guest.ask("still there").await;
    let after = own(guest.vm.stats().await.expect("stats"));
    assert!(
        after < before + FLOOD_GROWTH_MAX,
        "grew from {before} to {after} bytes"
    );
}

/// Drop is the last resort of a caller that fails.
pub async fn a_dropped_vm_leaves_no_process(fixture: &Fixture) {
    let config = fixture.config("dropped");
    let guest = fixture.boot(&config).await;
    let pid = guest.vm.pid();
    drop(guest);
    wait_until(fixture.limit, "the process ends", || !is_alive(pid)).await;
}

/// It is refused at once, or ends, or is silent; the caller has a limit for that.
pub async fn a_corrupt_kernel_never_becomes_a_guest(fixture: &Fixture) {
    let mut config = fixture.config("corrupt");
    config.kernel.vmlinux = config.dir.with_extension("vmlinux");
    std::fs::write(&config.kernel.vmlinux, vec![0x5a; 1024 * 1024]).expect("write a file");
    match fixture.hypervisor.launch(&config).await {
        Err(error) => assert!(
            matches!(error, VmmError::Ended(_) | VmmError::Refused { .. }),
            "{error:?}"
        ),
        Ok(mut vm) => vm.kill().await.expect("kill the VM"),
    }
}

/// The message is for `roost machine status`.
pub async fn a_missing_kernel_is_an_error_that_names_it(fixture: &Fixture) {
    let mut config = fixture.config("missing");
    config.kernel.vmlinux = "/none-such/vmlinux".into();
    let error = fixture
        .hypervisor
        .launch(&config)
        .await
        .expect_err("an error");
    let source = std::error::Error::source(&error).map(ToString::to_string);
    let text = format!("{error}: {}", source.unwrap_or_default());
    assert!(text.contains("/none-such/vmlinux"), "{text}");
}

/// Whatever the manifest says, the hypervisor itself bears a bad file.
pub async fn a_corrupt_snapshot_is_an_error(fixture: &Fixture) {
    let config = fixture.config("corrupted");
    let files = new_dir(fixture, "corrupted-files");
    let mut guest = fixture.boot(&config).await;
    guest.vm.pause().await.expect("pause");
    guest.vm.snapshot(&files).await.expect("take a snapshot");
    guest.vm.kill().await.expect("kill the VM");
    for entry in std::fs::read_dir(&files).expect("its files") {
        let path = entry.expect("an entry").path();
        let len = std::fs::metadata(&path).expect("its size").len();
        let file = std::fs::File::options().write(true).open(&path);
        file.expect("open it").set_len(len / 2).expect("cut it off");
    }
    let config = VmConfig {
        dir: new_dir(fixture, "corrupted-again"),
        ..config.clone()
    };
    let restored = timeout(fixture.limit, fixture.hypervisor.restore(&config, &files)).await;
    restored.expect("an answer").expect_err("an error");
}

/// A cgroup that is removed in any case.
struct TestCgroup {
    path: String,
}

impl TestCgroup {
    fn new() -> Self {
        let path = format!("/roost-test-contract-{}", std::process::id());
        let limits = Limits {
            memory_bytes: ByteSize::mib(512).bytes(),
            cpu_shares: 1_024,
            cpu_quota_us: 100_000,
            cpu_period_us: 100_000,
            cpu_burst_us: 0,
            pids_max: 256,
        };
        Cgroup::create_with_limits(&path, &limits).expect("make a cgroup");
        Self { path }
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        let cgroup = Cgroup::at(&self.path).expect("the cgroup");
        if let Err(error) = cgroup.remove(Duration::from_secs(10)) {
            tracing::error!(%error, "cgroup of a test is left");
        }
    }
}

/// Runs `ip` in the network namespace of the calling thread.
fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().expect("run `ip`");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {errors}", args.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn await_text(mut console: impl AsyncRead + Unpin, text: &str, limit: Duration) {
    let mut seen = Vec::new();
    let find = async {
        let mut part = [0; 1_024];
        while !String::from_utf8_lossy(&seen).contains(text) {
            let n = console.read(&mut part).await.expect("read the console");
            assert_ne!(n, 0, "the console ended");
            seen.extend_from_slice(&part[..n]);
        }
    };
    let found = timeout(limit, find).await;
    found.unwrap_or_else(|_| panic!("`{text}` does not come"));
}

async fn wait_until(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        sleep(POLL).await;
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn new_dir(fixture: &Fixture, name: &str) -> PathBuf {
    let dir = fixture.dir.join(name);
    std::fs::create_dir(&dir).expect("make a directory");
    dir
}
