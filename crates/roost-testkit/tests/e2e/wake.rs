//! Machines that sleep, and requests that wake them.

use crate::relay::two_nodes;
use roost_testkit::images::nginx;
use roost_testkit::platform::Platform;
use roost_testkit::program::run;
use roost_testkit::skip_unless_possible;
use roost_testkit::takeover::hand_over_to_nobody;
use roost_testkit::wait::wait_until;
use serde_json::Value;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
const MOMENT: Duration = Duration::from_secs(120);

/// Deploys nginx as the app `web` with these lines in its `[http_service]`, and gives its machine.
fn deploy(platform: &Platform, lines: &str) -> String {
    platform.push(&nginx("awake"), "web:1");
    let folder = platform.scratch();
    let config = format!(
        "app = 'web'\n[build]\nimage = 'web:1'\n[http_service]\ninternal_port = 80\n{lines}\n"
    );
    std::fs::write(folder.join("roost.toml"), config).unwrap();
    platform.roost(&["deploy", folder.to_str().unwrap(), "--yes"]);
    let machines = platform.roost_json(&["machines", "list", "-a", "web"]);
    machines[0]["id"].as_str().unwrap().to_owned()
}

fn stop(platform: &Platform, machine: &str) {
    platform.roost(&["machines", "stop", machine]);
    platform.roost(&["machines", "wait", machine, "--state", "stopped"]);
}

/// The events of a machine that the proxy asked for, newest first.
fn by_proxy(platform: &Platform, machine: &str) -> Vec<String> {
    let status = platform.roost_json(&["machines", "status", machine]);
    let events = status["events"].as_array().unwrap().iter();
    let events = events.filter(|event| event["source"] == "proxy");
    let kind = |event: &Value| event["type"].as_str().unwrap().to_owned();
    events.map(kind).collect()
}

#[test]
fn a_request_starts_the_machine_that_is_stopped_and_many_start_it_once() {
    skip_unless_possible!();
    let platform = Platform::up();
    let machine = deploy(&platform, "");
    stop(&platform, &machine);
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "-i",
        "--max-time",
        "120",
        "-H",
        "Host: web.localhost",
    ]);
    curl.args(["-H", "roost-debug: timings"]);
    let output = run(curl.arg(platform.edge_url("/")));
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("awake"), "{answer}");
    let timing = answer
        .lines()
        .find_map(|line| line.strip_prefix("server-timing: "));
    let timing = timing.unwrap_or_else(|| panic!("no timings: {answer}"));
    for stage in [
        "pick",
        "wake-ask",
        "wake-start",
        "wake-ready",
        "connect",
        "app",
    ] {
        assert!(timing.contains(&format!("{stage};dur=")), "{timing}");
    }
    assert_eq!(by_proxy(&platform, &machine), ["start"]);

    // Also after a roostd that was killed while the machine slept.
    stop(&platform, &machine);
    platform.kill_roostd();
    run(&mut platform.up_command());
    std::thread::scope(|scope| {
        let ask = || platform.get("web", "/");
        let asked: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
        for answer in asked {
            assert_eq!(answer.join().unwrap(), (200, "awake".into()));
        }
    });
    assert_eq!(by_proxy(&platform, &machine), ["start", "start"]);
    // What led to it is told.
    let why = platform.roost(&["why", "machine", &machine]);
    assert!(why.contains("proxy"), "{why}");
}

#[test]
fn a_request_waits_for_a_machine_while_nobody_looks_after_machines() {
    use std::io::{Read as _, Write as _};
    skip_unless_possible!();
    let platform = Platform::up();
    let machine = deploy(&platform, "");
    stop(&platform, &machine);
    let nobody = hand_over_to_nobody(&platform);
    let mut client = TcpStream::connect(("127.0.0.1", platform.http_port)).unwrap();
    let ask = b"GET / HTTP/1.1\r\nHost: web.localhost\r\nConnection: close\r\n\r\n";
    client.write_all(ask).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let too_early = client.read(&mut [0; 1]);
    assert!(too_early.is_err(), "it is answered: {too_early:?}");
    drop(nobody);
    client.set_read_timeout(Some(MOMENT)).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("awake"), "{answer}");
}

#[test]
fn a_machine_that_requests_may_not_start_stays_as_it_is() {
    skip_unless_possible!();
    let platform = Platform::up();
    let machine = deploy(&platform, "auto_start_machines = false");
    stop(&platform, &machine);
    let (status, page) = platform.get("web", "/");
    assert_eq!(status, 503, "{page}");
    assert!(
        page.contains("no-healthy-machine") && page.contains("stopped"),
        "{page}"
    );
    assert_eq!(by_proxy(&platform, &machine), [""; 0]);
}

#[test]
fn a_machine_without_traffic_is_stopped_and_the_next_request_starts_it() {
    skip_unless_possible!();
    let platform = Platform::up_with(&["--autostop-after", "5s"]);
    let machine = deploy(&platform, "auto_stop_machines = 'stop'");
    assert_eq!(platform.get("web", "/"), (200, "awake".into()));
    until_stopped_by_proxy(&platform, &machine, 1);
    assert_eq!(platform.get("web", "/"), (200, "awake".into()));
    // Also a roostd that comes later sees that nothing comes.
    platform.kill_roostd();
    run(&mut platform.up_command());
    until_stopped_by_proxy(&platform, &machine, 2);
    assert_eq!(platform.get("web", "/"), (200, "awake".into()));
    let why = platform.roost(&["why", "machine", &machine]);
    assert!(why.contains("proxy"), "{why}");
}

/// Waits until the machine is stopped, and has been put to sleep so often. On a slow host it
/// may have been more often: between any two steps of the story.
fn until_stopped_by_proxy(platform: &Platform, machine: &str, n_times: usize) {
    wait_until("the machine to sleep", MOMENT, || {
        let status = platform.roost_json(&["machines", "status", machine]);
        let stops = by_proxy(platform, machine);
        let n_stops = stops.iter().filter(|kind| *kind == "stop").count();
        if status["state"] == "stopped" && n_stops >= n_times {
            Ok(())
        } else {
            Err(format!("{} after {stops:?}", status["state"]))
        }
    });
}

#[test]
fn a_machine_that_sleeps_is_woken_when_the_node_that_kept_another_awake_is_killed() {
    skip_unless_possible!();
    let mut nodes = two_nodes();
    // The one with the smaller id keeps its own.
    nodes.sort_by_cached_key(|node| {
        std::fs::read_to_string(node.data_dir().join("node-id")).unwrap()
    });
    let [keeps, relies] = &nodes;
    let lines = "auto_stop_machines = 'stop'\nmin_machines_running = 1";
    let [kept, sleeper] = [keeps, relies].map(|node| deploy(node, lines));
    // None sleeps while its deployment still looks at it.
    for node in &nodes {
        node.kill_roostd();
        run(node.up_command().args(["--autostop-after", "5s"]));
    }
    until_stopped_by_proxy(relies, &sleeper, 1);

    keeps.kill_roostd();
    wait_until("the machine to be woken", MOMENT, || {
        let status = relies.roost_json(&["machines", "status", &sleeper]);
        let newest = by_proxy(relies, &sleeper).into_iter().next();
        if status["state"] == "started" && newest.as_deref() == Some("start") {
            Ok(())
        } else {
            Err(format!("{} after {newest:?}", status["state"]))
        }
    });
    // Once that node is back its machine is enough again; it never slept.
    let n_times = by_proxy(relies, &sleeper).len().div_ceil(2) + 1;
    run(&mut keeps.up_command());
    until_stopped_by_proxy(relies, &sleeper, n_times);
    let status = keeps.roost_json(&["machines", "status", &kept]);
    assert_eq!(status["state"], "started");
    assert_eq!(by_proxy(keeps, &kept), [""; 0]);
}
