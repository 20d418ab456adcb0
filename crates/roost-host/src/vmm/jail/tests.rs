//! The jail, with a shell in the place of a hypervisor.

use super::{JailConfig, JailDevice, JailFile, Jailed};
use crate::vmm::{VmEnd, VmOwner, VmmError};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A user that nobody else is.
const OWNER: VmOwner = VmOwner {
    uid: 1_879_048_193,
    gid: 1_879_048_194,
};
const LIMIT: Duration = Duration::from_secs(60);
/// Tells [`holder`] that it is not run as a test.
const HOLDER: &str = "ROOST_TEST_JAIL_HOLDER";

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: not root");
    }
    is_root
}

fn config<'a>(dir: &'a TempDir, script: &str) -> JailConfig<'a> {
    JailConfig {
        name: "test",
        dir: dir.path(),
        owner: OWNER,
        cgroup: None,
        program: Path::new("/bin/sh"),
        args: ["-c", script].map(OsString::from).into(),
        files: Vec::new(),
        devices: Vec::new(),
        descriptors: Vec::new(),
        file_size_max: 1 << 20,
        uses_huge_pages: false,
    }
}

async fn run(config: JailConfig<'_>) -> VmEnd {
    let mut process = Jailed::start(config).await.unwrap();
    let end = tokio::time::timeout(LIMIT, process.ended()).await;
    end.expect("the script ends")
}

#[tokio::test]
async fn a_process_is_its_owner_and_sees_programs_and_its_files_only() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Below a directory that the owner cannot enter, as all temporary ones are.
    let file = dir.path().join("given");
    std::fs::write(&file, "content").unwrap();
    let script = "id -u; id -g; id -G; echo $(ls /); cat /vm/given; echo; ulimit -c; \
        env | grep -v -e PWD -e _= -e SHLVL -e OLDPWD";
    let mut config = config(&dir, script);
    config.files = vec![JailFile {
        source: file,
        target: "/vm/given",
    }];
    let end = run(config).await;
    let lines: Vec<&str> = end.message.lines().collect();
    let (uid, gid) = (OWNER.uid.to_string(), OWNER.gid.to_string());
    assert_eq!(lines[..3], [&*uid, &*gid, &*gid], "{end}");
    let allowed = "bin dev etc lib lib64 sbin usr vm";
    assert!(
        lines[3].split(' ').all(|name| allowed.contains(name)),
        "{}",
        lines[3]
    );
    assert_eq!(lines[4..], ["content", "0"], "no environment, {end}");
}

#[tokio::test]
async fn a_process_can_write_nowhere_and_open_no_device() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "for place in / /dev /etc /usr /usr/bin /tmp /vm; do \
        (: >$place/new) 2>&- && echo wrote to $place; done; \
        (: </dev/null) 2>&- && echo opened a device; \
        chmod 777 /dev 2>&- && echo changed a mode; echo done";
    let end = run(config(&dir, script)).await;
    assert_eq!((end.exit_code, end.message.as_str()), (Some(0), "done"));
    assert!(!dir.path().join("root/new").exists());
}

#[tokio::test]
async fn descriptors_pass_under_their_numbers_and_no_others_do() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("given");
    std::fs::write(&path, "content").unwrap();
    let given = OwnedFd::from(File::open(&path).unwrap());
    let kept = File::open(&path).unwrap();
    // As one that some library opened without a thought.
    rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::empty()).unwrap();
    let (given_number, kept_number) = (given.as_raw_fd(), kept.as_raw_fd());
    let script = format!("cat <&{given_number}; echo; (cat <&{kept_number}) 2>&-; true");
    let mut config = config(&dir, &script);
    // A plain shell cannot name descriptors of two digits.
    config.program = Path::new("/bin/bash");
    config.descriptors = vec![given];
    let end = run(config).await;
    assert_eq!(end.message, "content", "{end}");
}

#[tokio::test]
async fn a_step_that_fails_is_named_and_leaves_no_process() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir, "true");
    // It is there, but `/dev` inside has no directories.
    config.devices = vec![JailDevice {
        path: "/dev/pts/ptmx",
    }];
    let error = Jailed::start(config).await.unwrap_err();
    let VmmError::Io { source, .. } = &error else {
        panic!("{error}");
    };
    assert!(
        source.to_string().starts_with("make a device: "),
        "{source}"
    );
}

#[tokio::test]
async fn root_is_no_owner() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir, "true");
    config.owner.uid = 0;
    Jailed::start(config).await.unwrap_err();
}

#[tokio::test]
async fn of_what_a_process_says_the_end_is_kept() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i + 1)); done; exit 7";
    let end = run(config(&dir, script)).await;
    assert_eq!(end.exit_code, Some(7));
    assert!(end.message.len() <= super::MESSAGE_BYTES_MAX);
    assert!(end.message.ends_with("line 19999"), "{end}");
}

#[tokio::test]
async fn a_file_larger_than_allowed_ends_the_process() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let file = OwnedFd::from(File::create(&path).unwrap());
    let script = format!(
        "exec head -c 2097152 /usr/bin/bash /bin/bash >&{}",
        file.as_raw_fd()
    );
    let mut config = config(&dir, &script);
    config.program = Path::new("/bin/bash");
    config.descriptors = vec![file];
    let end = run(config).await;
    assert_ne!(end.exit_code, Some(0), "{end}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
}

#[test]
fn a_process_ends_with_the_one_that_started_it() {
    if !is_root() {
        return;
    }
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "vmm::jail::tests::holder", "--nocapture"])
        .env(HOLDER, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(holder.stdout.take().unwrap());
    let pid = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("holds ")?.parse::<u32>().ok());
    let pid = pid.expect("the process id");
    assert!(is_alive(pid));
    holder.kill().unwrap();
    holder.wait().unwrap();
    let deadline = Instant::now() + LIMIT;
    while is_alive(pid) {
        if Instant::now() >= deadline {
            let pid = Pid::from_raw(pid.cast_signed()).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
            panic!("it goes on alone");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The other process of the test above; of no effect on its own.
#[test]
fn holder() {
    if std::env::var_os(HOLDER).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let process = Jailed::start(config(&dir, "sleep 600; true"))
            .await
            .unwrap();
        // The thread that awaited the start may go; the process may not.
        println!("\nholds {}", process.pid());
        std::future::pending::<()>().await;
    });
}

fn is_alive(pid: u32) -> bool {
    // One that nobody has reaped yet has ended.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" Z"))
}
