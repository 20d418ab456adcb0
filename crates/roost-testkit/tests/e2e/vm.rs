//! Machines with a kernel of their own, through the real programs.
//!
//! They are on the rung `vm-emulated`, which works on every host. A guest takes
//! some seconds of a core to boot, so each story tells much of few guests, and
//! one story is told at a time.

#[path = "vm/sleep.rs"]
mod sleep;

use crate::first_run::{host_state, instance_marks};
use parking_lot::{Mutex, MutexGuard};
use roost_testkit::images::{ImageBuilder, busybox, nginx};
use roost_testkit::platform::{Platform, leftovers};
use roost_testkit::program::{build_dir, checkout, find_in_path, run, why_not};
use roost_testkit::wait::wait_until;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;

/// Time for a guest to boot on a busy host.
const BOOT: Duration = Duration::from_secs(180);
/// Time for what takes a moment.
const MOMENT: Duration = Duration::from_secs(60);

/// The turn to tell a story, or `None` when guests cannot boot here, with the
/// reason printed.
#[expect(clippy::print_stdout, reason = "how a test says that it was skipped")]
fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    let reason = why_not().or_else(|| {
        if find_in_path("qemu-system-x86_64").is_none() {
            return Some(
                "`qemu-system-x86_64` is not installed: run `scripts/setup --tests`".into(),
            );
        }
        let guest = build_dir().join("guest");
        let missing = ["vmlinuz", "roost-init"]
            .into_iter()
            .find(|name| !guest.join(name).exists())?;
        let path = guest.join(missing);
        Some(format!(
            "{} is missing: run `make guest guest-kernel`",
            path.display()
        ))
    });
    if let Some(reason) = reason {
        println!("skipped: {reason}");
        return None;
    }
    Some(TURN.lock())
}

/// `roost deploy` of an image on the emulated rung.
fn deploy(platform: &Platform, app: &str, image: &str, wait: &str) -> Output {
    let mut command = platform.cli(&["deploy", "-a", app, "--image", image, "--yes"]);
    command.args(["--isolation", "vm-emulated", "--internal-port", "80"]);
    command.args(["--wait-timeout", wait]).output().unwrap()
}

fn assert_deploys(platform: &Platform, app: &str, image: &str) {
    let output = deploy(platform, app, image, "3m");
    assert!(output.status.success(), "{}", text(&output));
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The id of an app's only machine.
fn only_machine(platform: &Platform, app: &str) -> String {
    let machines = platform.roost_json(&["machines", "list", "-a", app]);
    let machines = machines.as_array().unwrap();
    assert_eq!(machines.len(), 1, "{machines:?}");
    machines[0]["id"].as_str().unwrap().to_owned()
}

fn status(platform: &Platform, machine: &str) -> Value {
    platform.roost_json(&["machines", "status", machine])
}

/// Runs a command of `roost machines` and waits for the state it leads to.
fn machines(platform: &Platform, verb: &str, machine: &str, state: &str) {
    platform.roost(&["machines", verb, machine]);
    platform.roost(&[
        "machines",
        "wait",
        machine,
        "--state",
        state,
        "--timeout",
        "3m",
    ]);
}

/// The process of a machine, which watches its hypervisor.
fn watcher(platform: &Platform, machine: &str) -> Option<u64> {
    status(platform, machine)["pid"].as_u64()
}

/// The hypervisor that a machine's process watches.
fn hypervisor(watcher: u64) -> Option<u64> {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        let parent = rest.split(' ').nth(1)?.parse();
        if parent == Ok(watcher) && name.starts_with("qemu-system") {
            return entry.file_name().to_str()?.parse().ok();
        }
    }
    None
}

fn is_alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn kill(pid: u64) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn exec(platform: &Platform, app: &str, command: &[&str]) -> String {
    platform.roost(&[&["exec", "-a", app, "--"], command].concat())
}

fn logs(platform: &Platform, app: &str) -> String {
    platform.roost(&["logs", "-a", app, "--no-tail", "--limit", "10000"])
}

/// Waits until an app answers with this status; returns the body.
fn answer(platform: &Platform, app: &str, path: &str, expected: u16) -> String {
    wait_until("the app to answer", MOMENT, || {
        match platform.get(app, path) {
            (status, body) if status == expected => Ok(body),
            other => Err(other),
        }
    })
}

/// Takes the platform down and looks for what it left of these processes and of itself.
fn assert_down_leaves_nothing(platform: &Platform, processes: &[u64]) {
    let marks = instance_marks(platform);
    let down = platform.down();
    assert!(down.status.success(), "{}", text(&down));
    let alive: Vec<_> = processes.iter().filter(|pid| is_alive(**pid)).collect();
    assert_eq!(alive, Vec::<&u64>::new());
    assert_eq!(host_state(&marks), BTreeSet::new());
    assert_eq!(leftovers(&platform.data_dir()), Vec::<String>::new());
}

#[test]
fn nginx_serves_from_a_guest_with_a_kernel_of_its_own() {
    let Some(_turn) = turn() else { return };
    let platform = Platform::up();
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let image = nginx("from a guest").files(&[("opt/busybox", 0o755, &busybox)]);
    platform.push(&image, "web:1");
    platform.roost(&["apps", "create", "web"]);
    assert_deploys(&platform, "web", "web:1");
    assert_eq!(platform.get("web", "/"), (200, "from a guest".into()));

    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let guest = exec(&platform, "web", &["/opt/busybox", "uname", "-r"]);
    assert!(
        guest.starts_with(|first: char| first.is_ascii_digit()),
        "{guest}"
    );
    assert_ne!(guest.trim(), host.trim());
    let code = platform
        .cli(&[
            "exec",
            "-a",
            "web",
            "--",
            "/opt/busybox",
            "sh",
            "-c",
            "exit 7",
        ])
        .status()
        .unwrap();
    assert_eq!(code.code(), Some(7));

    let machine = only_machine(&platform, "web");
    let shown = platform.roost(&["machines", "status", &machine]);
    assert!(shown.contains("vm-emulated"), "{shown}");
    platform.get("web", "/asked-for");
    wait_until("nginx's own line", MOMENT, || {
        let logs = logs(&platform, "web");
        if logs.contains("GET /asked-for") {
            Ok(())
        } else {
            Err(logs)
        }
    });

    let boot = || {
        exec(
            &platform,
            "web",
            &["/opt/busybox", "cat", "/proc/sys/kernel/random/boot_id"],
        )
    };
    let first_boot = boot();
    machines(&platform, "restart", &machine, "started");
    assert_eq!(answer(&platform, "web", "/", 200), "from a guest");
    assert_ne!(boot(), first_boot, "another guest");
    machines(&platform, "stop", &machine, "stopped");
    let stopped = status(&platform, &machine);
    let exit = event(&stopped, "exit")["request"].clone();
    assert_eq!(exit["exit_event"]["requested_stop"], true, "{stopped}");
    assert_eq!(
        exit["exit_event"]["exit_code"], 0,
        "nginx ends well when asked: {stopped}"
    );
    // A request starts it.
    assert_eq!(answer(&platform, "web", "/", 200), "from a guest");

    let pid = watcher(&platform, &machine).unwrap();
    let processes = [pid, hypervisor(pid).expect("its hypervisor runs")];
    assert_down_leaves_nothing(&platform, &processes);
}

/// The newest event of this type.
fn event<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let events = status["events"].as_array().unwrap();
    let found = events.iter().find(|event| event["type"] == kind);
    found.unwrap_or_else(|| panic!("no event {kind}: {status}"))
}

#[test]
fn a_suspended_machine_goes_on_where_it_was_and_a_new_release_begins_anew() {
    let Some(_turn) = turn() else { return };
    let platform = Platform::up();
    let example = checkout().join("examples/hello");
    let deploy = || {
        let flags = [
            "--isolation",
            "vm-emulated",
            "--wait-timeout",
            "3m",
            "--yes",
        ];
        run(platform
            .cli(&["deploy", example.to_str().unwrap()])
            .args(flags));
    };
    deploy();
    let count = || {
        let body = answer(&platform, "hello", "/json", 200);
        let body: Value = serde_json::from_str(&body).unwrap();
        body["requests"].as_u64().unwrap()
    };
    let machine = only_machine(&platform, "hello");
    for _ in 0..5 {
        count();
    }
    let before = count();
    let first = watcher(&platform, &machine).unwrap();
    let processes = [first, hypervisor(first).unwrap()];

    machines(&platform, "suspend", &machine, "suspended");
    assert!(
        !processes.iter().any(|pid| is_alive(*pid)),
        "it takes no memory"
    );
    let shown = platform.roost(&["machines", "status", &machine]);
    assert!(shown.contains("suspended"), "{shown}");

    // Not even a killed roostd forgets it.
    platform.kill_roostd();
    run(&mut platform.up_command());
    assert_eq!(status(&platform, &machine)["state"], "suspended");
    // A request wakes it.
    assert_eq!(count(), before + 1, "the app's memory is what it was");
    let resumed = status(&platform, &machine);
    let is_resumed = |event: &&Value| event["request"]["resumed"] == true;
    let n_resumed = resumed["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(is_resumed)
        .count();
    assert_eq!(n_resumed, 1, "{resumed}");

    // A new release takes the place of a machine that is suspended, too.
    machines(&platform, "suspend", &machine, "suspended");
    let snapshots = files_of(&platform, &machine);
    assert!(!snapshots.is_empty(), "a suspended machine has files");
    deploy();
    assert!(count() < before, "a new release begins anew");
    assert_ne!(only_machine(&platform, "hello"), machine);
    assert_eq!(files_of(&platform, &machine), BTreeSet::new());
    let last = watcher(&platform, &only_machine(&platform, "hello")).unwrap();
    machines(
        &platform,
        "suspend",
        &only_machine(&platform, "hello"),
        "suspended",
    );
    assert_down_leaves_nothing(&platform, &[last]);
}

/// Paths under the data folder that carry a machine's id, but for its logs.
fn files_of(platform: &Platform, machine: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![platform.data_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() && !path.ends_with("logs") {
                folders.push(path.clone());
            }
            let text = path.display().to_string();
            if text.contains(machine) && path.is_file() {
                found.insert(text);
            }
        }
    }
    found
}

/// An image that counts on its standard output and serves nothing but 404 on port 80.
fn ticker() -> ImageBuilder {
    let script = "i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.2; done & exec httpd -f -p 80 -h /tmp";
    busybox().config("Cmd", json!(["/bin/sh", "-c", script]))
}

/// The ticks in an app's logs, in their order.
fn ticks(platform: &Platform, app: &str) -> Vec<u64> {
    let logs = logs(platform, app);
    let numbers = logs
        .lines()
        .filter_map(|line| line.rsplit_once("tick ")?.1.parse().ok());
    numbers.collect()
}

#[test]
fn a_guest_outlives_roostd_and_is_spoken_with_again() {
    let Some(_turn) = turn() else { return };
    let platform = Platform::up();
    platform.push(&ticker(), "ticker:1");
    platform.roost(&["apps", "create", "ticker"]);
    assert_deploys(&platform, "ticker", "ticker:1");
    let machine = only_machine(&platform, "ticker");
    let pid = watcher(&platform, &machine).unwrap();
    let guest = hypervisor(pid).unwrap();
    let seen = *ticks(&platform, "ticker").last().expect("it has begun");

    platform.kill_roostd();
    run(&mut platform.up_command());
    assert_eq!(watcher(&platform, &machine), Some(pid));
    assert_eq!(hypervisor(pid), Some(guest), "the same guest");
    assert_eq!(platform.get("ticker", "/").0, 404, "its httpd answers");
    assert_eq!(
        exec(&platform, "ticker", &["/bin/echo", "salve"]),
        "salve\n"
    );
    let ticks = wait_until("more ticks", MOMENT, || {
        let ticks = ticks(&platform, "ticker");
        if ticks.last() > Some(&(seen + 5)) {
            Ok(ticks)
        } else {
            Err(ticks)
        }
    });
    let expected: Vec<u64> = (1..=ticks.len() as u64).collect();
    assert_eq!(ticks, expected, "each tick once, in order");
}

#[test]
fn a_killed_hypervisor_and_a_killed_watcher_are_named_and_started_again() {
    let Some(_turn) = turn() else { return };
    let platform = Platform::up();
    platform.push(&ticker(), "ticker:1");
    for app in ["ticker", "neighbour"] {
        platform.roost(&["apps", "create", app]);
        assert_deploys(&platform, app, "ticker:1");
    }
    let neighbour = only_machine(&platform, "neighbour");
    let others = {
        let pid = watcher(&platform, &neighbour).unwrap();
        [pid, hypervisor(pid).unwrap()]
    };
    let roostd = platform.roostd_pid();
    let machine = only_machine(&platform, "ticker");
    for (cause, words) in [
        ("hypervisor", "its hypervisor ended without being asked to"),
        ("shim", "the process that watched it was killed"),
    ] {
        let pid = watcher(&platform, &machine).unwrap();
        let guest = hypervisor(pid).unwrap();
        kill(if cause == "shim" { pid } else { guest });
        wait_until("another guest", BOOT, || {
            let seen = status(&platform, &machine);
            let is_new = seen["pid"].as_u64().is_some_and(|new| new != pid);
            if is_new && seen["state"] == "started" {
                Ok(())
            } else {
                Err(seen)
            }
        });
        assert!(!is_alive(guest) && !is_alive(pid), "{cause}: both are gone");
        let seen = status(&platform, &machine);
        let exit = event(&seen, "exit");
        assert_eq!(exit["request"]["exit_event"]["cause"], cause, "{seen}");
        let shown = platform.roost(&["machines", "status", &machine]);
        assert!(shown.contains(words), "{cause}: {shown}");
        assert_eq!(
            exec(&platform, "ticker", &["/bin/echo", "salve"]),
            "salve\n"
        );
        answer(&platform, "ticker", "/", 404);
    }
    assert_eq!(watcher(&platform, &neighbour), Some(others[0]));
    assert_eq!(hypervisor(others[0]), Some(others[1]));
    answer(&platform, "neighbour", "/", 404);
    assert_eq!(platform.roostd_pid(), roostd);
}

#[test]
fn a_rung_that_cannot_work_here_is_refused_with_the_reason_and_what_to_do() {
    let Some(_turn) = turn() else { return };
    let platform = Platform::prepare();
    let empty = platform.scratch().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.display().to_string();
    run(platform.up_command().args(["--guest", &empty]));
    platform.push(&nginx("page"), "web:1");
    platform.roost(&["apps", "create", "web"]);
    let deploy = |rung: &str| {
        let mut command = platform.cli(&["deploy", "-a", "web", "--image", "web:1", "--yes"]);
        command.args(["--internal-port", "80", "--isolation", rung]);
        command.output().unwrap()
    };
    for rung in ["vm-emulated", "vm"] {
        let output = deploy(rung);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let named = format!("isolation `{rung}` is refused on this node");
        for word in [
            &named,
            "guest kernel",
            &empty,
            "scripts/guest-kernel",
            "`container`",
        ] {
            assert!(text.contains(word), "{rung} → {word}: {text}");
        }
        let machines = platform.roost_json(&["machines", "list", "-a", "web"]);
        assert_eq!(machines, json!([]), "nothing is left of it");
    }
    let output = deploy("jail");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for word in ["jail", "default", "container", "vm-emulated", "vm"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(deploy("default").status.success());
    assert_eq!(platform.get("web", "/"), (200, "page".into()));
}

#[test]
fn kvm_that_runs_no_stock_guest_is_found_out() {
    let Some(_turn) = turn() else { return };
    let platform = Platform::up();
    platform.push(&nginx("page"), "web:1");
    let mut command = platform.cli(&["deploy", "-a", "web", "--image", "web:1", "--yes"]);
    command.args(["--internal-port", "80", "--isolation", "vm"]);
    let output = command.output().unwrap();
    if output.status.success() {
        println!("skipped: KVM runs guests on this host");
        return;
    }
    let text = text(&output);
    for word in [
        "isolation `vm` is refused",
        "kvm",
        "`container`",
        "roost doctor",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn a_release_that_does_not_come_up_in_its_guest_is_undone_with_the_cause() {
    let Some(_turn) = turn() else { return };
    let platform = Platform::up();
    platform.push(
        &busybox().config("Cmd", json!(["/no/such/program"])),
        "odd:program",
    );
    let elsewhere = ["/bin/httpd", "-f", "-p", "8080", "-h", "/tmp"];
    platform.push(&busybox().config("Cmd", json!(elsewhere)), "odd:port");
    platform.roost(&["apps", "create", "odd"]);
    for (image, words) in [
        ("odd:program", vec!["/no/such/program"]),
        ("odd:port", vec![":8080", "not on 0.0.0.0:80"]),
    ] {
        let output = deploy(&platform, "odd", image, "30s");
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("undone"), "{text}");
        for word in words {
            assert!(text.contains(word), "{image} → {word}: {text}");
        }
        wait_until("its machine to be gone", MOMENT, || {
            let machines = platform.roost_json(&["machines", "list", "-a", "odd"]);
            if machines == json!([]) {
                Ok(())
            } else {
                Err(machines)
            }
        });
    }
}

#[test]
fn a_guest_that_floods_fills_its_disk_and_ignores_signals_harms_nobody_and_is_ended() {
    let Some(_turn) = turn() else { return };
    let platform = Platform::up();
    platform.push(&nginx("calm"), "calm:1");
    platform.roost(&[
        "deploy",
        "-a",
        "calm",
        "--image",
        "calm:1",
        "--internal-port",
        "80",
        "--yes",
    ]);
    let script = "trap '' TERM INT
        (while true; do echo flood of output; done) &
        fallocate -l 900M /most
        dd if=/dev/zero of=/rest bs=1048576
        while true; do sleep 1; done";
    platform.push(
        &busybox().config("Cmd", json!(["/bin/busybox", "sh", "-c", script])),
        "hog:1",
    );
    platform.roost(&["apps", "create", "hog"]);
    let request = json!({"config": {
        "image": "hog:1", "isolation": "vm-emulated", "rootfs": {"size_gb": 1},
        "stop_config": {"timeout": "2s"},
    }});
    let url = format!(
        "http://127.0.0.1:{}/v1/apps/hog/machines",
        platform.api_port
    );
    let bearer = format!("Authorization: Bearer {}", platform.token());
    let json = "Content-Type: application/json";
    let created = run(Command::new("curl")
        .args(["-sS", "--max-time", "60", "-H", &bearer, "-H", json])
        .args(["-d", &request.to_string(), &url]));
    let created: Value = serde_json::from_slice(&created.stdout).unwrap();
    let machine = created["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{created}"));
    platform.roost(&["machines", "wait", machine, "--timeout", "3m"]);
    wait_until("the disk to be full", BOOT, || {
        assert_eq!(
            platform.get("calm", "/"),
            (200, "calm".into()),
            "its neighbour answers"
        );
        let output = platform
            .cli(&["exec", "-a", "hog", "--", "/bin/busybox", "df", "-P", "/"])
            .output()
            .unwrap();
        let text = text(&output);
        if text.contains("100% /") {
            Ok(())
        } else {
            Err(text)
        }
    });
    machines(&platform, "stop", machine, "stopped");
    let stopped = status(&platform, machine);
    let exit = &event(&stopped, "exit")["request"]["exit_event"];
    assert_eq!(
        (&exit["requested_stop"], &exit["signal"]),
        (&json!(true), &json!(9)),
        "{stopped}"
    );
    assert_eq!(platform.get("calm", "/"), (200, "calm".into()));
}
