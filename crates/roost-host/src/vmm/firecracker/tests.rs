//! The driver with a fake of Firecracker: real processes, sockets and links.
//!
//! The fake is the example `fake-firecracker`, which `cargo test` builds as well.

use super::{FilterPolicy, Firecracker, FirecrackerOptions};
use crate::vmm::kernel::{GuestKernel, KernelFlavor};
use crate::vmm::{
    Drive, DriveAccess, DriveLimit, Hypervisor as _, Nic, Vm, VmConfig, VmOwner, VmmError,
};
use roost_model::size::ByteSize;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

/// A user that nobody else is.
const OWNER: VmOwner = VmOwner {
    uid: 1_879_048_193,
    gid: 1_879_048_193,
};
/// Most time for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// A fake that is installed somewhere.
struct Fake {
    dir: TempDir,
}

impl Fake {
    /// `None`, with the reason printed, where processes cannot be jailed.
    fn install(behavior: Value) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root");
            return None;
        }
        let own = std::env::current_exe().unwrap();
        let program = own
            .parent()
            .unwrap()
            .with_file_name("examples")
            .join("fake-firecracker");
        assert!(
            program.exists(),
            "no fake; run `cargo test` without `--lib`"
        );
        let dir = tempfile::tempdir().unwrap();
        for name in ["firecracker", "jailer", "hold"] {
            let path = dir.path().join(name);
            // Links, not copies, where that works: a program that was just
            // written may be open in the child of another test.
            if fs::hard_link(&program, &path).is_err() {
                fs::copy(&program, &path).unwrap();
            }
        }
        let mut all = json!({
            "firecracker_version": "1.10.1",
            "jailer_version": "1.10.1",
            "filter": "yes",
        });
        for (key, value) in behavior.as_object().unwrap() {
            all[key] = value.clone();
        }
        let fake = Self { dir };
        fake.write("behavior.json", all.to_string().as_bytes());
        fake.write("vmlinux", b"a kernel");
        fake.write("initramfs", b"a file system");
        fake.write("image", b"an image");
        fake.write("scratch", b"a disk");
        Some(fake)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).unwrap();
    }

    fn driver(&self, filter: FilterPolicy) -> Firecracker {
        Firecracker::new(FirecrackerOptions {
            firecracker: Some(self.path("firecracker")),
            jailer: Some(self.path("jailer")),
            filter,
            region: "fra".to_owned(),
        })
    }

    fn config(&self, dir: &str) -> VmConfig {
        fs::create_dir(self.path(dir)).unwrap();
        VmConfig {
            name: "mch_01k".to_owned(),
            dir: self.path(dir),
            owner: OWNER,
            cgroup: None,
            n_cpus: 2,
            memory: ByteSize::mib(256),
            kernel: GuestKernel {
                id: "fake".to_owned(),
                release: "6.12".to_owned(),
                flavor: KernelFlavor::Debian,
                vmlinux: self.path("vmlinux"),
                initramfs: self.path("initramfs"),
            },
            drives: vec![
                Drive {
                    path: self.path("image"),
                    access: DriveAccess::ReadOnly,
                    limit: None,
                },
                Drive {
                    path: self.path("scratch"),
                    access: DriveAccess::ReadWrite,
                    limit: Some(DriveLimit {
                        bytes_per_second: 64_000_000,
                        operations_per_second: 1_000,
                        burst_seconds: 2,
                    }),
                },
            ],
            nic: Some(Nic {
                tap: "tap0".to_owned(),
                hardware_address: [0x02, 0, 0, 0xab, 0, 0x1f],
            }),
        }
    }

    async fn launch(&self, dir: &str) -> Result<Box<dyn Vm>, VmmError> {
        let config = self.config(dir);
        self.driver(FilterPolicy::Required).launch(&config).await
    }

    fn requests(&self) -> Vec<(String, Value)> {
        let text = fs::read_to_string(self.path("requests.jsonl")).unwrap_or_default();
        let parse = |line| serde_json::from_str(line).unwrap();
        text.lines().map(parse).collect()
    }

    fn body(&self, request: &str) -> Value {
        let mut requests = self.requests().into_iter();
        let found = requests.find(|(name, _)| name == request);
        found.unwrap_or_else(|| panic!("no {request}")).1
    }

    /// Waits until nothing of what is installed here runs any more.
    async fn assert_no_process(&self) {
        let dir = self.dir.path().to_str().unwrap();
        let deadline = Instant::now() + LIMIT;
        while let Some(left) = process_with(dir) {
            assert!(Instant::now() < deadline, "left: {left}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn process_with(text: &str) -> Option<String> {
    let mut entries = fs::read_dir("/proc").unwrap().flatten();
    entries.find_map(|entry| {
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        command.contains(text).then_some(command)
    })
}

async fn await_end(mut is_ended: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_ended() {
        assert!(Instant::now() < deadline, "it goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_vm_is_told_all_of_its_config_and_then_started() {
    let Some(fake) = Fake::install(json!({})) else {
        return;
    };
    let mut vm = fake.launch("vm").await.unwrap();
    let names: Vec<String> = fake.requests().into_iter().map(|(name, _)| name).collect();
    let expected = [
        "jailer",
        "firecracker",
        "GET /version",
        "PUT /machine-config",
        "PUT /boot-source",
        "PUT /drives/drive0",
        "PUT /drives/drive1",
        "PUT /network-interfaces/eth0",
        "PUT /mmds/config",
        "PUT /mmds",
        "PUT /vsock",
        "PUT /entropy",
        "PUT /balloon",
        "PUT /actions",
    ];
    assert_eq!(names, expected);
    assert_eq!(fake.body("PUT /machine-config")["mem_size_mib"], 256);
    assert_eq!(fake.body("PUT /drives/drive0")["is_read_only"], true);
    assert_eq!(fake.body("PUT /drives/drive0")["rate_limiter"], json!(null));
    let limiter = json!({
        "bandwidth": { "size": 128_000_000, "refill_time": 2_000 },
        "ops": { "size": 2_000, "refill_time": 2_000 },
    });
    assert_eq!(fake.body("PUT /drives/drive1")["rate_limiter"], limiter);
    let nic = fake.body("PUT /network-interfaces/eth0");
    assert_eq!(
        (&nic["guest_mac"], &nic["host_dev_name"]),
        (&json!("02:00:00:ab:00:1f"), &json!("tap0"))
    );
    assert_eq!(fake.body("PUT /mmds/config")["version"], "V2");
    assert_eq!(
        fake.body("PUT /mmds")["machine"],
        json!({ "id": "mch_01k", "region": "fra" })
    );
    let args = fake.body("jailer").to_string();
    for part in [
        "\"--uid\",\"1879048193\"",
        "\"--id\",\"mch-01k\"",
        "fsize=335544320",
    ] {
        assert!(args.contains(part), "{part} in {args}");
    }
    assert!(!args.contains("no-seccomp"), "{args}");

    assert_eq!(
        (
            vm.pid() > 0,
            vm.stats().await.unwrap().resident > ByteSize(0)
        ),
        (true, true)
    );
    let mut console = BufReader::new(vm.take_console().unwrap());
    let mut line = String::new();
    console.read_line(&mut line).await.unwrap();
    assert_eq!(line, "the guest boots\n");
    vm.kill().await.unwrap();
    fake.assert_no_process().await;
}

#[tokio::test]
async fn files_are_linked_and_mounted_where_they_cannot_be() {
    let Some(fake) = Fake::install(json!({})) else {
        return;
    };
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    if device(elsewhere.path()) == device(fake.dir.path()) {
        println!("skipped: /dev/shm is no file system of its own");
        return;
    }
    let mut config = fake.config("vm");
    config.drives[1].path = elsewhere.path().join("scratch");
    fs::write(&config.drives[1].path, "on another disk").unwrap();
    let vm = fake
        .driver(FilterPolicy::Required)
        .launch(&config)
        .await
        .unwrap();

    let root = config.dir.join("firecracker/mch-01k/root");
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&root.join("drive-0")), inode(&fake.path("image")));
    assert_eq!(inode(&root.join("vmlinux")), inode(&fake.path("vmlinux")));
    let inside = PathBuf::from(format!("/proc/{}/cwd/drive-1", vm.pid()));
    assert_eq!(fs::read_to_string(inside).unwrap(), "on another disk");
    assert_eq!(
        fs::read(root.join("drive-1")).unwrap(),
        b"",
        "mounted on the host"
    );
    drop(vm);
    fake.assert_no_process().await;
    // Nothing is mounted, so nothing is in the way.
    fs::remove_dir_all(&config.dir).unwrap();
}

#[tokio::test]
async fn the_stream_begins_after_the_greeting() {
    let Some(fake) = Fake::install(json!({})) else {
        return;
    };
    let mut vm = fake.launch("vm").await.unwrap();
    let mut stream = vm.open_agent().await.unwrap();
    stream.write_all(b"world").await.unwrap();
    let mut answer = [0; 11];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello world");
}

#[tokio::test]
async fn a_guest_that_takes_no_stream_is_an_error_and_the_vm_goes_on() {
    for (behavior, text) in [
        ("closed", "nobody in the guest"),
        ("garbage", "unexpected answer"),
        ("endless", "too long"),
    ] {
        let Some(fake) = Fake::install(json!({ "agent": behavior })) else {
            return;
        };
        let mut vm = fake.launch("vm").await.unwrap();
        let error = vm.open_agent().await.err().unwrap();
        assert!(full(&error).contains(text), "{behavior}: {}", full(&error));
        vm.pause().await.unwrap();
        vm.kill().await.unwrap();
        let error = vm.open_agent().await.err().unwrap();
        assert!(matches!(error, VmmError::Ended(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_snapshot_moves_out_of_the_jail_and_starts_other_vms() {
    let Some(fake) = Fake::install(json!({})) else {
        return;
    };
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let here = fake.path("files");
    fs::create_dir(&here).unwrap();
    for (dir, files) in [("a", here.as_path()), ("b", elsewhere.path())] {
        let mut vm = fake.launch(dir).await.unwrap();
        vm.pause().await.unwrap();
        vm.snapshot(files).await.unwrap();
        assert_eq!(
            fs::read_to_string(files.join("state")).unwrap(),
            "snapshot_path"
        );
        assert_eq!(fs::metadata(files.join("memory")).unwrap().uid(), OWNER.uid);
        vm.kill().await.unwrap();
        for again in ["1", "2"] {
            let config = fake.config(&format!("{dir}{again}"));
            let restored = fake.driver(FilterPolicy::Required);
            let mut vm = restored.restore(&config, files).await.unwrap();
            vm.resume().await.unwrap();
        }
    }
    let requests = fake.requests();
    let loads = requests
        .iter()
        .filter(|(name, _)| name == "PUT /snapshot/load");
    assert!(loads.clone().all(|(_, body)| body["resume_vm"] == false));
    assert_eq!(loads.count(), 4);
}

#[tokio::test]
async fn versions_that_nobody_compared_are_refused() {
    for (firecracker, jailer, text) in [
        ("1.7.0", "1.7.0", "1.7.0 is not supported; versions 1.8 to"),
        ("2.0.0", "2.0.0", "2.0.0 is not supported"),
        ("1.10.1", "1.9.0", "its jailer 1.9.0"),
        ("", "1.9.0", "does not say a version"),
    ] {
        let behavior = json!({ "firecracker_version": firecracker, "jailer_version": jailer });
        let Some(fake) = Fake::install(behavior) else {
            return;
        };
        let error = fake.launch("vm").await.unwrap_err();
        assert!(matches!(error, VmmError::Unusable(_)), "{error:?}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn a_missing_program_is_an_error_that_names_it() {
    let firecracker = Firecracker::new(FirecrackerOptions {
        firecracker: Some("/none-such/firecracker".into()),
        ..FirecrackerOptions::default()
    });
    let error = firecracker.facts().await.unwrap_err();
    assert!(
        error.to_string().contains("/none-such/firecracker"),
        "{error}"
    );
}

#[tokio::test]
async fn one_without_a_filter_is_refused_unless_that_is_wanted() {
    let Some(fake) = Fake::install(json!({ "filter": "no" })) else {
        return;
    };
    let error = fake.launch("vm").await.unwrap_err();
    assert!(error.to_string().contains("without a filter"), "{error}");
    fake.assert_no_process().await;
    let config = fake.config("again");
    let driver = fake.driver(FilterPolicy::Optional);
    driver.launch(&config).await.unwrap();
}

#[tokio::test]
async fn a_refused_request_is_named_and_leaves_no_process() {
    let Some(fake) = Fake::install(json!({ "PUT /drives/drive1": "refuse" })) else {
        return;
    };
    let error = fake.launch("vm").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "PUT /drives/drive1 of firecracker: the fake does not want to"
    );
    fake.assert_no_process().await;
}

#[tokio::test]
async fn one_that_dies_has_its_last_words_in_the_error() {
    let Some(fake) = Fake::install(json!({ "PUT /vsock": "die" })) else {
        return;
    };
    let error = fake.launch("vm").await.unwrap_err();
    let VmmError::Ended(message) = &error else {
        panic!("{error:?}");
    };
    for part in ["exit code 148", "a forbidden call", "a word of warning"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    fake.assert_no_process().await;
}

#[tokio::test]
async fn a_jailer_that_fails_says_why() {
    let Some(fake) = Fake::install(json!({ "jailer": "refuse" })) else {
        return;
    };
    let error = fake.launch("vm").await.unwrap_err();
    assert!(error.to_string().contains("cannot make a jail"), "{error}");
}

#[tokio::test]
async fn what_firecracker_cannot_give_is_refused_before_anything_starts() {
    let Some(fake) = Fake::install(json!({})) else {
        return;
    };
    let mut config = fake.config("vm");
    config.n_cpus = 3;
    let driver = fake.driver(FilterPolicy::Required);
    let error = driver.launch(&config).await.unwrap_err();
    assert!(error.to_string().contains("3 processors"), "{error}");
    config.n_cpus = 1;
    config.owner.uid = 0;
    let error = driver.launch(&config).await.unwrap_err();
    assert!(error.to_string().contains("root"), "{error}");
    config.owner = OWNER;
    config.kernel.vmlinux = fake.path("none-such");
    let error = driver.launch(&config).await.unwrap_err();
    assert!(error.to_string().contains("none-such"), "{error}");
    assert!(fake.requests().is_empty());
}

#[tokio::test]
async fn a_killed_one_is_seen_and_a_dropped_one_is_killed() {
    let Some(fake) = Fake::install(json!({})) else {
        return;
    };
    let mut vm = fake.launch("killed").await.unwrap();
    let pid = rustix::process::Pid::from_raw(vm.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let end = tokio::time::timeout(LIMIT, vm.ended()).await.unwrap();
    assert_eq!((end.signal, end.exit_code), (Some(libc::SIGKILL), None));
    let error = vm.resume().await.unwrap_err();
    assert!(matches!(error, VmmError::Ended(_)), "{error:?}");

    drop(fake.launch("dropped").await.unwrap());
    fake.assert_no_process().await;
}

#[tokio::test]
async fn a_vm_dies_with_its_caller() {
    let Some(fake) = Fake::install(json!({})) else {
        return;
    };
    let mut caller = tokio::process::Command::new(fake.path("hold"))
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(caller.stdout.take().unwrap());
    output.read_line(&mut line).await.unwrap();
    let vm = PathBuf::from(format!("/proc/{}", line.trim()));
    assert!(line.trim().parse::<u32>().is_ok() && vm.exists(), "{line}");
    caller.kill().await.unwrap();
    await_end(|| !vm.exists()).await;
    fake.assert_no_process().await;
}

fn full(error: &VmmError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}
