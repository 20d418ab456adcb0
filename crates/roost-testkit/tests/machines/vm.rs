//! What only VMs have: their own kernel, suspend and resume, guests that misbehave.

use crate::host::{GuestChoice, Host, Kind, until};
use roost_host::driver::{Adoption, DriverError, Origin};
use roost_model::machine::ExitCause;
use roost_model::size::ByteSize;
use roost_proto::logs::LogStream;
use roost_testkit::logs::lines;

/// Counts, and shows a random number and the time with each count.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i $(date +%s) \
     $(head -c 8 /dev/urandom | hexdump -e '8/1 \"%02x\"'); sleep 0.2; done";

fn counts(host_lines: &[String]) -> Vec<u64> {
    let first = |line: &String| line.split(' ').next()?.parse().ok();
    host_lines.iter().filter_map(first).collect()
}

async fn a_suspended_machine_goes_on_where_it_was(host: &mut Host) {
    let mut config = host.machine(COUNTER);
    let id = config.machine_id.clone();
    host.launch(&config).await;
    let out = || lines(&config.log_dir, LogStream::Stdout);
    until("it counts", || out().len() > 3).await;
    // Another kernel than the host's, which may be of the same release.
    let boot_id = "/proc/sys/kernel/random/boot_id";
    let own = host.ask(&id, &format!("cat {boot_id}")).await;
    assert_ne!(own, std::fs::read_to_string(boot_id).unwrap().trim());

    host.driver.suspend(&id).await.unwrap();
    let n_before = out().len();
    assert_eq!(host.driver.adopt(&id).await.unwrap(), Adoption::Suspended);
    assert!(host.driver.list().await.unwrap().contains(&id));
    let gone = host.driver.signal(&id, 15).await;
    assert!(matches!(gone, Err(DriverError::NotRunning(_))), "{gone:?}");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;

    config.resume = true;
    let running = host.launch(&config).await;
    assert_eq!(running.origin, Origin::Resumed);
    let out = || lines(&config.log_dir, LogStream::Stdout);
    until("it counts on", || out().len() > n_before + 3).await;
    let seen = counts(&out());
    let expected: Vec<u64> = (1..=u64::try_from(seen.len()).unwrap()).collect();
    assert_eq!(seen, expected, "no count is lost and none comes twice");
    // The clock was stepped before the program ran on.
    let now: i64 = host.ask(&id, "date +%s").await.parse().unwrap();
    let host_now = roost_runtime::clock::now().as_ms() / 1_000;
    assert!((now - i64::try_from(host_now).unwrap()).abs() <= 5);
    host.driver.signal(&id, 9).await.unwrap();
    host.wait(&id).await;

    // It was used up: there is nothing to go on from a second time.
    let running = host.launch(&config).await;
    assert!(
        matches!(running.origin, Origin::ColdAfter(_)),
        "{running:?}"
    );
    host.remove(&id).await;
}

async fn a_snapshot_that_does_not_fit_is_a_cold_start(host: &mut Host) {
    let mut config = host.machine("echo begun; while :; do sleep 1; done");
    let id = config.machine_id.clone();
    let state = host.data_dir(&id).join("snapshot");
    let begun = || lines(&config.log_dir, LogStream::Stdout);
    host.launch(&config).await;
    until("it has begun", || begun() == ["begun"]).await;
    host.driver.suspend(&id).await.unwrap();
    let file = std::fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let file = file
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    config.resume = true;
    let running = host.launch(&config).await;
    assert!(
        matches!(&running.origin, Origin::ColdAfter(why) if why.contains("damaged")),
        "{running:?}"
    );
    let begun = || lines(&config.log_dir, LogStream::Stdout);
    until("it has begun anew", || begun() == ["begun", "begun"]).await;

    // Of another version of the machine.
    host.driver.suspend(&id).await.unwrap();
    config.process.env.push(("COLOUR".into(), "green".into()));
    let running = host.launch(&config).await;
    assert!(
        matches!(&running.origin, Origin::ColdAfter(why) if why.contains("another version of the machine")),
        "{running:?}"
    );
    host.remove(&id).await;
}

/// Two guests from one snapshot must not draw the same random numbers.
async fn random_numbers_differ_after_a_restore(host: &mut Host) {
    const DRAW: &str = "head -c 16 /dev/urandom | hexdump -e '16/1 \"%02x\"'";
    let mut config = host.machine("while :; do sleep 1; done");
    let id = config.machine_id.clone();
    host.launch(&config).await;
    host.driver.suspend(&id).await.unwrap();
    let data = host.data_dir(&id);
    let (snapshot, disk) = (data.join("snapshot"), data.join("scratch.img"));
    let (kept, kept_disk) = (data.join("kept"), data.join("kept.img"));
    copy(&snapshot, &kept);
    copy(&disk, &kept_disk);
    let modified = disk.metadata().unwrap().modified().unwrap();

    config.resume = true;
    let mut drawn = Vec::new();
    for _ in 0..2 {
        let running = host.launch(&config).await;
        assert_eq!(running.origin, Origin::Resumed);
        drawn.push(host.ask(&id, DRAW).await);
        host.driver.signal(&id, 9).await.unwrap();
        host.wait(&id).await;
        // The same moment again, of memory and of disk.
        copy(&kept, &snapshot);
        let mut content = std::fs::File::open(&kept_disk).unwrap();
        let mut file = std::fs::File::options().write(true).open(&disk).unwrap();
        std::io::copy(&mut content, &mut file).unwrap();
        file.set_modified(modified).unwrap();
    }
    assert_ne!(drawn[0], drawn[1]);
    host.remove(&id).await;
}

/// Copies a file or folder, holes as holes.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let mut command = std::process::Command::new("cp");
    let command = command
        .args(["-a", "--sparse=always", "-T"])
        .arg(from)
        .arg(to);
    assert!(command.status().unwrap().success());
}

async fn a_damaged_kernel_is_named_and_boots_nothing(host: &mut Host) {
    let kernels = host.dir.path().join("kernels");
    let kernel = std::fs::read_dir(&kernels)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut kernel = kernel;
    let kernel = kernel.find(|path| path.is_dir()).unwrap().join("vmlinux");
    let bytes = std::fs::read(&kernel).unwrap();
    std::fs::write(&kernel, &bytes[..bytes.len() / 2]).unwrap();
    let config = host.machine("true");
    let error = host.driver.launch(config.clone()).await.unwrap_err();
    assert!(
        matches!(&error, DriverError::Host { reason, .. } if reason.contains("vmlinux")),
        "{error}"
    );
    host.remove(&config.machine_id).await;
}

/// A guest whose first process never speaks to the node.
async fn a_guest_that_never_answers_is_given_up_in_time(kind: Kind) {
    let guest = GuestChoice {
        init: "/bin/busybox".into(),
        boot_timeout: std::time::Duration::from_secs(15),
    };
    let Some(host) = Host::with_guest(kind, guest).await else {
        return;
    };
    let config = host.machine("true");
    let error = host.driver.launch(config.clone()).await.unwrap_err();
    assert!(
        matches!(&error, DriverError::Host { reason, .. } if reason.contains("did not boot")
        || reason.contains("panicked")),
        "{error}"
    );
    host.remove(&config.machine_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emulated_guest_that_never_answers_is_given_up() {
    a_guest_that_never_answers_is_given_up_in_time(Kind::Emulated).await;
}

async fn a_killed_hypervisor_is_told_from_an_app_that_ended(host: &mut Host) {
    let config = host.machine("while :; do sleep 1; done");
    let id = config.machine_id.clone();
    host.launch(&config).await;
    let neighbour = host.machine("while :; do sleep 1; done");
    host.launch(&neighbour).await;
    let pids = hypervisors_of(id.as_str());
    assert_eq!(pids.len(), 1, "{pids:?}");
    let pid = nix::unistd::Pid::from_raw(pids[0]);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let exit = host.wait(&id).await;
    assert_eq!(exit.cause, ExitCause::Hypervisor);
    assert_eq!(exit.signal, Some(9));
    assert_eq!(host.ask(&neighbour.machine_id, "echo well").await, "well");
    host.driver.remove(&neighbour.machine_id).await.unwrap();
    host.remove(&id).await;
}

/// Processes in the machine's cgroup.
fn hypervisors_of(id: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| text.contains(id))
        })
        .collect()
}

async fn a_guest_whose_kernel_panics_says_so(host: &mut Host) {
    // Every kernel has this way to panic; not all have the magic key.
    let config =
        host.machine("echo 2 > /proc/sys/vm/panic_on_oom; x=12345678; while :; do x=$x$x; done");
    host.launch(&config).await;
    let exit = host.wait(&config.machine_id).await;
    assert_eq!(exit.cause, ExitCause::GuestPanic, "{exit:?}");
    let system = lines(&config.log_dir, LogStream::System).join("\n");
    assert!(system.contains("kernel panicked"), "{system}");
    host.remove(&config.machine_id).await;
}

async fn a_full_disk_is_the_machines_own_problem(host: &mut Host) {
    let config = host.machine("dd if=/dev/zero of=/tmp/big bs=1M count=2000 2>&1; echo after");
    host.launch(&config).await;
    host.wait(&config.machine_id).await;
    let out = lines(&config.log_dir, LogStream::Stdout).join("\n");
    assert!(out.contains("No space left"), "{out}");
    assert!(out.ends_with("after"), "{out}");
    host.remove(&config.machine_id).await;
}

/// The rates of `performance-1x`, where the hypervisor and the kernel were told of them.
async fn disks_and_link_have_the_rates_of_the_machines_size(host: &mut Host) {
    let config = host.machine("while :; do sleep 1; done");
    let id = config.machine_id.clone();
    host.launch(&config).await;
    let pid = hypervisors_of(id.as_str())[0];
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let line = String::from_utf8_lossy(&line).into_owned();
    // Firecracker is told by requests, which its own tests look at.
    if line.contains("qemu") {
        assert_eq!(line.matches("bps-total=50331648,").count(), 2, "{line}");
        assert_eq!(line.matches("iops-total=12000,").count(), 2, "{line}");
    }
    let namespace = format!("--net=/proc/{pid}/ns/net");
    let mut command = std::process::Command::new("nsenter");
    command.args([namespace.as_str(), "tc", "qdisc", "show"]);
    let shown = String::from_utf8(command.output().unwrap().stdout).unwrap();
    for link in ["eth0", "tap0"] {
        let is_limited = |line: &str| {
            line.starts_with("qdisc tbf") && line.contains(link) && line.contains("rate 2Gbit")
        };
        assert!(shown.lines().any(is_limited), "{link}: {shown}");
    }
    host.remove(&id).await;
}

async fn more_than_the_memory_fits_with_swap_and_outlives_a_suspend(host: &mut Host) {
    let mut config = host.machine("while :; do sleep 1; done");
    let id = config.machine_id.clone();
    config.swap = ByteSize::mib(192);
    host.launch(&config).await;
    let free = "df -m / | awk 'NR == 2 { print $2 }'";
    let disk_mib: u64 = host.ask(&id, free).await.parse().unwrap();
    assert!(disk_mib > 512, "the swap is not taken from {disk_mib}");
    // A file system in memory, with more in it than the memory.
    let fill = "mount -o remount,size=300m /dev/shm && \
         head -c 256m /dev/urandom > /dev/shm/file && md5sum /dev/shm/file";
    let sum = host.ask(&id, fill).await;
    let swapped = "awk 'NR == 2 { print $4 }' /proc/swaps";
    let swapped_kib: u64 = host.ask(&id, swapped).await.parse().unwrap();
    assert!(swapped_kib > 0, "nothing was swapped");
    host.driver.suspend(&id).await.unwrap();
    config.resume = true;
    assert_eq!(host.launch(&config).await.origin, Origin::Resumed);
    assert_eq!(host.ask(&id, "md5sum /dev/shm/file").await, sum);
    host.remove(&id).await;
}

async fn a_fork_bomb_is_ended_by_sigkill(host: &mut Host) {
    let config =
        host.machine("echo bomb; bomb() { bomb | bomb & }; bomb; while :; do sleep 1; done");
    host.launch(&config).await;
    until("it began", || {
        lines(&config.log_dir, LogStream::Stdout) == ["bomb"]
    })
    .await;
    host.driver.signal(&config.machine_id, 9).await.unwrap();
    assert_eq!(host.wait(&config.machine_id).await.exit_code, 137);
    host.remove(&config.machine_id).await;
}

with_kinds!(
    [Emulated vm_emulated, QemuKvm vm_qemu, Firecracker vm_firecracker],
    [
        a_suspended_machine_goes_on_where_it_was,
        a_snapshot_that_does_not_fit_is_a_cold_start,
        random_numbers_differ_after_a_restore,
        a_damaged_kernel_is_named_and_boots_nothing,
        a_killed_hypervisor_is_told_from_an_app_that_ended,
        a_guest_whose_kernel_panics_says_so,
        a_full_disk_is_the_machines_own_problem,
        disks_and_link_have_the_rates_of_the_machines_size,
        more_than_the_memory_fits_with_swap_and_outlives_a_suspend,
        a_fork_bomb_is_ended_by_sigkill,
    ]
);
