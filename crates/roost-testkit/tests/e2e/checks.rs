//! Health checks of programs that others wrote: what they decide, and what they lead to.

use roost_testkit::images::{nginx, redis};
use roost_testkit::platform::Platform;
use roost_testkit::skip_unless_possible;
use roost_testkit::wait::wait_until;
use serde_json::Value;
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
const MOMENT: Duration = Duration::from_secs(90);

/// Deploys the app of this configuration.
fn deploy(platform: &Platform, config: &str) {
    let folder = platform.scratch();
    std::fs::write(folder.join("roost.toml"), config).unwrap();
    platform.roost(&["deploy", folder.to_str().unwrap(), "--yes"]);
}

fn the_machine(platform: &Platform, app: &str) -> String {
    let machines = platform.roost_json(&["machines", "list", "-a", app]);
    machines[0]["id"].as_str().unwrap().to_owned()
}

/// Waits until a check of a machine has this status, and gives its output.
fn wait_check(platform: &Platform, machine: &str, name: &str, status: &str) -> String {
    wait_until(&format!("{name} {status}"), MOMENT, || {
        let machine = platform.roost_json(&["machines", "status", machine]);
        let checks = machine["checks"].as_array().cloned().unwrap_or_default();
        let check = checks.into_iter().find(|check| check["name"] == name);
        match check {
            Some(check) if check["status"] == status => {
                Ok(check["output"].as_str().unwrap().to_owned())
            }
            other => Err(other),
        }
    })
}

/// The events of a machine of this kind, newest first.
fn events(machine: &Value, kind: &str) -> Vec<Value> {
    let events = machine["events"].as_array().cloned().unwrap_or_default();
    events
        .into_iter()
        .filter(|event| event["type"] == kind)
        .collect()
}

#[test]
fn a_redis_that_hangs_is_started_again_because_its_check_asks_for_that() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&redis(), "cache:1");
    deploy(
        &platform,
        r#"
app = "cache"
[build]
image = "cache:1"
[[services]]
internal_port = 6379
[[services.tcp_checks]]
interval = "1s"
[checks.ping]
type = "exec"
command = ["/usr/bin/redis-cli", "ping"]
interval = "2s"
timeout = "2s"
unhealthy = "stop"
failure_threshold = 2
"#,
    );
    let machine = the_machine(&platform, "cache");
    assert_eq!(
        wait_check(&platform, &machine, "ping", "passing"),
        "exit code 0: PONG"
    );
    let before = platform.machine_pids("cache");
    // It accepts connections as before, and answers none of them.
    platform.roost(&[
        "exec",
        "-a",
        "cache",
        "--",
        "/usr/bin/redis-cli",
        "client",
        "pause",
        "3600000",
    ]);
    let status = wait_until("a new process", MOMENT, || {
        let now = platform.machine_pids("cache");
        let status = platform.roost_json(&["machines", "status", &machine]);
        match now.get(&machine) {
            Some(pid) if before.get(&machine) != Some(pid) => Ok(status),
            _ => Err(status),
        }
    });
    assert_eq!(events(&status, "unhealthy").len(), 1, "{status}");
    let exit = events(&status, "exit").remove(0);
    assert!(
        exit.to_string()
            .contains("its check ping failed 2 times in a row"),
        "{exit}"
    );
    assert_eq!(
        wait_check(&platform, &machine, "ping", "passing"),
        "exit code 0: PONG"
    );
}

#[test]
fn a_check_for_readiness_keeps_traffic_from_an_nginx_that_serves() {
    skip_unless_possible!();
    let platform = Platform::up();
    let busybox = std::fs::read("/bin/busybox")
        .expect("busybox-static is installed by scripts/setup --tests");
    let image =
        nginx("served").files(&[("opt/busybox", 0o755, &busybox), ("run/ready", 0o644, b"")]);
    platform.push(&image, "web:1");
    deploy(
        &platform,
        r#"
app = "web"
[build]
image = "web:1"
[http_service]
internal_port = 80
[[http_service.checks]]
path = "/no/such/page"
expected_statuses = ["404"]
[checks.ready]
type = "exec"
command = ["/opt/busybox", "test", "-e", "/run/ready"]
kind = "readiness"
interval = "2s"
timeout = "10s"
[checks.endless]
type = "exec"
command = ["/opt/busybox", "sh", "-c", "test ! -e /run/wild || /opt/busybox yes; echo calm"]
interval = "2s"
timeout = "1s"
grace_period = "0s"
"#,
    );
    let machine = the_machine(&platform, "web");
    assert_eq!(platform.get("web", "/"), (200, "served".into()));
    let busybox = |words: &[&str]| {
        platform.roost(&[&["exec", "-a", "web", "--", "/opt/busybox"], words].concat())
    };
    busybox(&["rm", "/run/ready"]);
    assert_eq!(
        wait_check(&platform, &machine, "ready", "critical"),
        "exit code 1"
    );
    assert_ne!(platform.get("web", "/").0, 200, "it is not asked");
    busybox(&["touch", "/run/ready"]);
    wait_check(&platform, &machine, "ready", "passing");
    assert_eq!(platform.get("web", "/"), (200, "served".into()));

    // A check that prints without end is cut off, and the machine serves on.
    busybox(&["touch", "/run/wild"]);
    let output = wait_check(&platform, &machine, "endless", "critical");
    assert!(output.len() < 1_000, "{output}");
    assert_eq!(platform.get("web", "/"), (200, "served".into()));
    busybox(&["rm", "/run/wild"]);
    let output = wait_check(&platform, &machine, "endless", "passing");
    assert_eq!(output, "exit code 0: calm");
}
