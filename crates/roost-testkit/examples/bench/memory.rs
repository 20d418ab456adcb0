//! What idle machines cost their host in memory, on each rung.
//!
//! Pages that several processes share are counted once, in equal parts.

use crate::process::{Memory, children, memory, parent};
use crate::vm::{PATIENCE, RUNG, refusal};
use crate::{api, web_image};
use roost_testkit::platform::Platform;
use roost_testkit::wait::wait_until;
use serde_json::{Value, json};
use std::time::Duration;

/// Machines side by side.
const MACHINES: usize = 20;
/// How many boot at a time: an emulated guest uses a core while it boots.
const STARTS_AT_A_TIME: usize = 2;
/// Nominal memory of one.
const MEMORY_MIB: u64 = 128;
/// Most of a guest's nominal memory that may be in use, in percent.
const RESIDENT_TARGET: f64 = 60.0;
/// Time in which a guest gives back what its boot has used.
const SETTLING: Duration = Duration::from_secs(20);

/// Containers, then emulated VMs.
pub(crate) fn idle_machines(platform: &Platform) {
    platform.push(&web_image(), "bench:1");
    platform.roost(&["apps", "create", "bench-memory"]);
    let (holder, _) = measure(platform, "container");
    println!(
        "{MACHINES} idle containers: {} MiB each beside their own processes (roost-shim)",
        mib(holder.own_kib)
    );
    if let Some(reason) = refusal(platform) {
        println!("skipped: {reason}");
        return;
    }
    let (holder, hypervisor) = measure(platform, RUNG);
    let percent = hypervisor.guest_kib as f64 * 100.0 / (MEMORY_MIB * 1_024) as f64;
    let verdict = if percent < RESIDENT_TARGET {
        "ok"
    } else {
        "MISSED"
    };
    println!(
        "{MACHINES} idle VMs ({RUNG}) of {MEMORY_MIB} MiB: {percent:.0} % of their memory is \
         resident (target < {RESIDENT_TARGET}) {verdict}; beside it {} MiB each (hypervisor {}, \
         roost-vm {})",
        mib(hypervisor.own_kib + holder.own_kib),
        mib(hypervisor.own_kib),
        mib(holder.own_kib)
    );
}

fn mib(kib: u64) -> u64 {
    kib.div_ceil(1_024)
}

/// Starts machines on a rung; the mean memory of the processes of ours that
/// hold them, and of their children, which are the hypervisors of VMs.
fn measure(platform: &Platform, rung: &str) -> (Memory, Memory) {
    let token = platform.token();
    let body = json!({"config": {
        "image": "bench:1",
        "isolation": rung,
        "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": MEMORY_MIB},
    }});
    let mut pids = Vec::new();
    let mut ids = Vec::new();
    while pids.len() < MACHINES {
        for _ in 0..STARTS_AT_A_TIME.min(MACHINES - ids.len()) {
            let path = "/v1/apps/bench-memory/machines";
            let machine = api(platform, &token, "POST", path, &body);
            let id = machine["id"].as_str();
            let id = id.unwrap_or_else(|| panic!("no machine: {machine}"));
            ids.push(id.to_owned());
        }
        for id in &ids[pids.len()..] {
            pids.push(await_started(platform, &token, id));
        }
    }
    std::thread::sleep(SETTLING);
    let (mut holders, mut hypervisors) = (Memory::default(), Memory::default());
    for pid in &pids {
        let holder = holder_of(*pid, rung);
        add(&mut holders, memory(holder, 0));
        for child in children(holder) {
            add(&mut hypervisors, memory(child, MEMORY_MIB * 1_024));
        }
    }
    for id in ids {
        platform.roost(&[
            "machines",
            "destroy",
            &id,
            "-a",
            "bench-memory",
            "--force",
            "--yes",
        ]);
    }
    (mean(holders), mean(hypervisors))
}

/// The pid of a machine, once it runs.
fn await_started(platform: &Platform, token: &str, id: &str) -> i32 {
    let path = format!("/v1/apps/bench-memory/machines/{id}");
    wait_until("a machine runs", PATIENCE, || {
        let machine = api(platform, token, "GET", &path, &Value::Null);
        match (machine["state"].as_str(), machine["pid"].as_i64()) {
            (Some("started"), Some(pid)) => Ok(i32::try_from(pid).expect("a process id")),
            _ => Err(machine["state"].to_string()),
        }
    })
}

/// The process of ours: a container's pid is that of its app, whose parent it is.
fn holder_of(pid: i32, rung: &str) -> i32 {
    if rung == RUNG {
        return pid;
    }
    parent(pid).expect("a container that runs has a shim")
}

fn add(sum: &mut Memory, memory: Memory) {
    sum.guest_kib += memory.guest_kib;
    sum.own_kib += memory.own_kib;
}

fn mean(sum: Memory) -> Memory {
    let n = MACHINES as u64;
    Memory {
        guest_kib: sum.guest_kib / n,
        own_kib: sum.own_kib / n,
    }
}
