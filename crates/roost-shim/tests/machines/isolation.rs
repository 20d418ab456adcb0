//! What a machine can see and do, and what it costs its neighbours.

use crate::host::{Host, until};
use roost_host::driver::MachineDriver as _;
use roost_model::size::ByteSize;
use roost_proto::logs::LogStream;
use roost_testkit::logs::lines;
use std::os::unix::fs::MetadataExt as _;

with_both_runtimes!(
    root_inside_is_nobody_outside_and_each_machine_is_another_nobody,
    image_owners_look_right_and_writes_stay_off_the_shared_layer,
    a_machine_cannot_mount_or_make_devices_or_namespaces,
    a_machine_sees_its_own_processes_and_interfaces_only,
    privileges_are_bounded,
    kernel_interfaces_are_masked_or_read_only,
    a_machine_that_uses_too_much_memory_is_ended_and_says_so,
    limits_are_set,
);

fn status_field(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

async fn root_inside_is_nobody_outside_and_each_machine_is_another_nobody(host: &Host) {
    let (first, second) = (host.machine("sleep 600"), host.machine("sleep 600"));
    let mut uids = Vec::new();
    for config in [&first, &second] {
        let running = host.driver.launch(config.clone()).await.unwrap();
        let uid = std::fs::metadata(format!("/proc/{}", running.pid))
            .unwrap()
            .uid();
        // The directory of a process that cannot be traced belongs to root; its status does not lie.
        let status = status_field(running.pid, "Uid");
        assert!(
            status.starts_with(&config.id_range.base.to_string()),
            "{status} ({uid})"
        );
        assert_eq!(host.exec(&config.machine_id, "id -u").await.stdout, b"0\n");
        uids.push(status);
    }
    assert_ne!(uids[0], uids[1]);
    host.remove(&first.machine_id).await;
    host.remove(&second.machine_id).await;
}

async fn image_owners_look_right_and_writes_stay_off_the_shared_layer(host: &Host) {
    let output = host
        .output("stat -c '%u:%g' / /bin/busybox /data/mine; cat /data/layered; echo changed > /data/mine; chown 7:8 /bin/busybox; stat -c '%u:%g' /bin/busybox /data/mine; echo new > /data/new; stat -c '%u' /data/new; cat /data/mine")
        .await;
    assert_eq!(
        output,
        "0:0\n0:0\n1000:100\nabove\n7:8\n1000:100\n0\nchanged"
    );
    assert_eq!(
        std::fs::read_to_string(host.layer().join("data/mine")).unwrap(),
        "app's\n"
    );
    assert_eq!(
        std::fs::metadata(host.layer().join("bin/busybox"))
            .unwrap()
            .uid(),
        0
    );
    assert!(!host.layer().join("data/new").exists());
}

async fn a_machine_cannot_mount_or_make_devices_or_namespaces(host: &Host) {
    let output = host
        .output("mount -t tmpfs none /tmp || echo no mount; mknod /tmp/d b 8 0 || echo no device; busybox unshare -U true || echo no namespace; busybox unshare -m true || echo none; echo > /dev/null && head -c 3 /dev/zero | busybox wc -c")
        .await;
    assert_eq!(output, "no mount\nno device\nno namespace\nnone\n3");
}

async fn a_machine_sees_its_own_processes_and_interfaces_only(host: &Host) {
    let output = host
        .output("echo $$; ls /proc | grep -c '^[0-9]'; ls /sys/class/net")
        .await;
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "1");
    assert!(lines[1].parse::<u32>().unwrap() <= 4, "{output}");
    assert_eq!(lines[2..], ["lo"], "{output}");
}

async fn privileges_are_bounded(host: &Host) {
    let config = host.machine("sleep 600");
    let running = host.driver.launch(config.clone()).await.unwrap();
    let exec = host.exec(&config.machine_id, "cat /proc/self/status").await;
    let inside = String::from_utf8(exec.stdout).unwrap();
    let of_exec = |name: &str| {
        let line = inside
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    // chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
    // net_bind_service, net_raw, sys_chroot, audit_write, setfcap.
    let usual = format!("{:016x}", 0xa004_25fb_u64 & !(1 << 27));
    for (name, expected) in [
        ("CapBnd", usual.as_str()),
        ("CapPrm", &usual),
        ("CapEff", &usual),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(
            status_field(running.pid, name),
            expected,
            "{name} of the program"
        );
        assert_eq!(of_exec(name), expected, "{name} of a command");
    }
    host.remove(&config.machine_id).await;
}

async fn kernel_interfaces_are_masked_or_read_only(host: &Host) {
    let output = host
        .output("(echo 1 > /proc/sys/kernel/panic) || echo ro; (echo b > /proc/sysrq-trigger) || echo ro; touch /sys/x || echo ro; head -c 1 /proc/kcore | busybox wc -c; head -c 1 /proc/keys | busybox wc -c; ls /dev | grep -E 'sda|vda|kmsg|mem$' | busybox wc -l; echo x > /dev/shm/x && cat /dev/shm/x")
        .await;
    assert_eq!(output, "ro\nro\nro\n0\n0\n0\nx");
}

async fn a_machine_that_uses_too_much_memory_is_ended_and_says_so(host: &Host) {
    let mut config = host.machine("exec tail -c 300m /dev/zero");
    config.guest.memory = ByteSize::mib(32);
    let log_dir = config.log_dir.clone();
    let id = config.machine_id.clone();
    let (exit, _) = host.run(config).await;
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.signal, Some(9));
    let said = lines(&log_dir, LogStream::System).join("\n");
    assert!(said.contains("ran out of memory"), "{said}");
    host.remove(&id).await;
}

async fn limits_are_set(host: &Host) {
    let mut config = host.machine("sleep 600");
    config.swap = ByteSize::mib(64);
    let id = config.machine_id.clone();
    host.driver.launch(config).await.unwrap();
    let read = |controller: &str, v1: &str, v2: &str| {
        let name = format!("{}/{id}", host.cgroup_parent());
        let unified = format!("/sys/fs/cgroup/{name}/{v2}");
        let path = format!("/sys/fs/cgroup/{controller}/{name}/{v1}");
        std::fs::read_to_string(unified)
            .or_else(|_| std::fs::read_to_string(path))
            .unwrap()
    };
    assert_eq!(
        read("memory", "memory.limit_in_bytes", "memory.max").trim(),
        "268435456"
    );
    // Where swap is counted: under v1 together with the memory.
    let swap = [
        ("memory.memsw.limit_in_bytes", "335544320"),
        ("memory.swap.max", "67108864"),
    ];
    for (file, expected) in swap {
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"] {
            let path = format!("{root}/{}/{id}/{file}", host.cgroup_parent());
            if let Ok(limit) = std::fs::read_to_string(path) {
                assert_eq!(limit.trim(), expected, "{file}");
            }
        }
    }
    assert_eq!(read("pids", "pids.max", "pids.max").trim(), "4096");
    let quota = read("cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota.split_whitespace().next(), Some("80000"));
    let burst = read("cpu", "cpu.cfs_burst_us", "cpu.max.burst");
    assert_eq!(burst.trim(), "80000");
    until("it has a process", || !host.cgroup(&id).pids().is_empty()).await;
    host.remove(&id).await;
}
