//! What a machine may write to its root file system.

use crate::host::{Host, until};
use roost_host::driver::MachineDriver as _;
use roost_model::size::ByteSize;
use roost_proto::logs::LogStream;
use roost_testkit::logs::lines;
use std::path::{Path, PathBuf};
use std::process::Command;

with_both_runtimes!(a_machine_that_fills_its_disk_is_told_so_and_harms_no_other,);

/// An ext4 with project quotas, mounted over a directory.
struct QuotaDisk {
    dir: PathBuf,
}

impl QuotaDisk {
    /// Mounts one, or says why not.
    fn mount(image: &Path, dir: PathBuf) -> Option<Self> {
        let script = "truncate -s 64M \"$1\" && \
                      mkfs.ext4 -q -O quota,project -E quotatype=prjquota \"$1\" && \
                      mount -o loop,prjquota \"$1\" \"$2\"";
        let output = Command::new("sh")
            .args(["-c", script, "sh"])
            .args([image, &dir])
            .output()
            .unwrap();
        if output.status.success() {
            return Some(Self { dir });
        }
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("skipped: no ext4 with project quotas: {}", reason.trim());
        None
    }
}

impl Drop for QuotaDisk {
    fn drop(&mut self) {
        // The loop device goes with the mount.
        let _ = Command::new("umount").arg(&self.dir).status();
    }
}

async fn a_machine_that_fills_its_disk_is_told_so_and_harms_no_other(host: &Host) {
    let data = host.dir.path().join("data");
    let Some(_disk) = QuotaDisk::mount(&host.dir.path().join("disk"), data) else {
        return;
    };
    // It asks the file system when it is made.
    let driver = host.new_driver();
    let mut greedy = host.machine("cat /dev/zero >/full; echo ended; sleep 600");
    let mut modest = host.machine("echo 12345 >/small && cat /small; sleep 600");
    for config in [&mut greedy, &mut modest] {
        config.root_disk = ByteSize::mib(8);
    }
    driver.launch(greedy.clone()).await.unwrap();
    // The streams are two pipes: what was said first may be logged last.
    until("the disk is full and `cat` says why", || {
        let errors = lines(&greedy.log_dir, LogStream::Stderr).join("\n");
        lines(&greedy.log_dir, LogStream::Stdout) == ["ended"] && errors.contains("quota")
    })
    .await;
    let upper = host
        .dir
        .path()
        .join("data")
        .join(greedy.machine_id.as_str());
    let size = std::fs::metadata(upper.join("root/upper/full"))
        .unwrap()
        .len();
    assert!(size <= greedy.root_disk.bytes(), "{size}");
    driver.launch(modest.clone()).await.unwrap();
    until("the other has written", || {
        lines(&modest.log_dir, LogStream::Stdout) == ["12345"]
    })
    .await;
    for config in [greedy, modest] {
        driver.remove(&config.machine_id).await.unwrap();
    }
}
