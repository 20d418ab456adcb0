//! An emulated VM's cold start and resume.
//!
//! ```text
//!   round:  start (cold) ─▶ suspend ─▶ start (resume) ─▶ stop ─▶ QEMU by hand ([`bare`])
//! ```
//! Each time is from the call of the API, or the start of QEMU, until a
//! request is answered: through the edge, or by the guest's own address.

use crate::bare::BareVm;
use crate::{REQUEST, api, http, median_ms, process, report, web_image};
use roost_testkit::platform::Platform;
use roost_testkit::wait::wait_until;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Longest wait for anything; only a broken platform gets there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
/// Turns per side; each takes some seconds of a core.
const ROUNDS: usize = 5;
/// The rung in question.
pub(crate) const RUNG: &str = "vm-emulated";

/// Start against QEMU by hand, resume against start.
pub(crate) fn start_and_resume(platform: &Platform) {
    if let Some(reason) = refusal(platform) {
        println!("skipped: {reason}");
        return;
    }
    platform.push(&web_image(), "bench:1");
    platform.roost(&["apps", "create", "bench-vm"]);
    let machine = Machine::create(
        platform,
        &json!({
            "image": "bench:1",
            "isolation": RUNG,
            "guest": {"cpu_kind": "performance", "cpus": 1, "memory_mb": 256},
            "services": [{"internal_port": 8080}],
        }),
    );
    machine.await_answer();
    let bare = BareVm::like(machine.hypervisor(), &platform.data_dir());
    machine.post("stop", "stopped");
    let mut cold = Samples::default();
    let mut resumed = Samples::default();
    let mut by_hand = Samples::default();
    for _ in 0..ROUNDS {
        cold.add(machine.start());
        machine.post("suspend", "suspended");
        resumed.add(machine.start());
        machine.post("stop", "stopped");
        by_hand.add(bare.start());
    }
    report(
        "VM start to first request",
        median_ms(cold.wall.clone()),
        "QEMU by hand",
        median_ms(by_hand.wall),
        1.25,
    );
    println!(
        "  processor time: {:.0} ms (hypervisor, roost-vm and roostd), QEMU by hand: {:.0} ms",
        median_ms(cold.cpu.clone()),
        median_ms(by_hand.cpu)
    );
    report(
        "VM resume to first request",
        median_ms(resumed.wall),
        "its start",
        median_ms(cold.wall),
        0.35,
    );
    println!(
        "  processor time: {:.0} ms, its start: {:.0} ms",
        median_ms(resumed.cpu),
        median_ms(cold.cpu)
    );
    machine.destroy();
}

/// Why the node starts no machines on the rung, as soon as it knows.
pub(crate) fn refusal(platform: &Platform) -> Option<String> {
    let token = platform.token();
    wait_until("the rung is tried", PATIENCE, || {
        let node = api(platform, &token, "GET", "/v1/node", &Value::Null);
        let rungs = node["rungs"].as_array().expect("a list of rungs");
        let rung = rungs.iter().find(|rung| rung["rung"] == RUNG);
        match rung.and_then(|rung| rung["refusal"].as_str()) {
            Some(reason) if reason.contains("being tried") => Err(reason.to_owned()),
            refusal => Ok(refusal.map(str::to_owned)),
        }
    })
}

/// Wall and processor times of the turns of one side.
#[derive(Default)]
struct Samples {
    wall: Vec<Duration>,
    cpu: Vec<Duration>,
}

impl Samples {
    fn add(&mut self, (wall, cpu): (Duration, Duration)) {
        self.wall.push(wall);
        self.cpu.push(cpu);
    }
}

/// A machine of the app `bench-vm`.
struct Machine<'a> {
    platform: &'a Platform,
    token: String,
    id: String,
}

impl<'a> Machine<'a> {
    fn create(platform: &'a Platform, config: &Value) -> Self {
        let token = platform.token();
        let body = json!({ "config": config });
        let path = "/v1/apps/bench-vm/machines";
        let machine = api(platform, &token, "POST", path, &body);
        let id = machine["id"].as_str();
        let id = id.unwrap_or_else(|| panic!("no machine: {machine}"));
        Self {
            platform,
            token,
            id: id.to_owned(),
        }
    }

    fn call(&self, method: &str, operation: &str) -> Value {
        let path = format!("/v1/apps/bench-vm/machines/{}{operation}", self.id);
        let body = match method {
            "POST" => json!({}),
            _ => Value::Null,
        };
        api(self.platform, &self.token, method, &path, &body)
    }

    /// Asks for an operation, and waits for the state that it leads to.
    fn post(&self, operation: &str, state: &str) {
        self.call("POST", &format!("/{operation}"));
        wait_until(state, PATIENCE, || {
            let machine = self.call("GET", "");
            if machine["state"] == state {
                Ok(())
            } else {
                Err(machine["state"].to_string())
            }
        });
    }

    /// Starts it; the wall and processor time until it answers.
    fn start(&self) -> (Duration, Duration) {
        let roostd = self.platform.roostd_pid();
        let before = process::cpu(roostd);
        let start = Instant::now();
        self.call("POST", "/start");
        self.await_answer();
        let wall = start.elapsed();
        let holder = self.holder();
        let cpu =
            process::cpu(roostd) - before + process::cpu(holder) + process::cpu(self.hypervisor());
        (wall, cpu)
    }

    fn await_answer(&self) {
        let start = Instant::now();
        let request = REQUEST.replace("bench.", "bench-vm.");
        while !http(self.platform.http_port, &request).contains("hello") {
            assert!(
                start.elapsed() < PATIENCE,
                "no answer of {}",
                self.call("GET", "")
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process of ours that holds the VM.
    fn holder(&self) -> i32 {
        let machine = self.call("GET", "");
        let pid = machine["pid"].as_i64();
        let pid = pid.unwrap_or_else(|| panic!("not running: {machine}"));
        i32::try_from(pid).expect("a process id")
    }

    fn hypervisor(&self) -> i32 {
        let children = process::children(self.holder());
        *children.first().expect("a hypervisor runs")
    }

    fn destroy(self) {
        self.platform.roost(&[
            "machines", "destroy", &self.id, "-a", "bench-vm", "--force", "--yes",
        ]);
    }
}
