//! `kill -9` of `roostd`: machines run on, logs are kept, deploys end well.

use roost_testkit::images::{busybox, nginx};
use roost_testkit::platform::Platform;
use roost_testkit::program::Running;
use roost_testkit::skip_unless_possible;
use roost_testkit::wait::wait_until;
use serde_json::json;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn machines_outlive_roostd_and_their_logs_are_kept() {
    skip_unless_possible!();
    let platform = Platform::up();
    let script = "i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.2; done & exec httpd -f -p 8080 -h /tmp";
    platform.push(
        &busybox().config("Cmd", json!(["/bin/sh", "-c", script])),
        "ticker:1",
    );
    platform.roost(&["apps", "create", "ticker"]);
    platform.roost(&[
        "deploy",
        "-a",
        "ticker",
        "--image",
        "ticker:1",
        "--internal-port",
        "8080",
        "--yes",
    ]);
    let before = platform.machine_pids("ticker");
    assert_eq!(before.len(), 1);

    // A service manager that ends the whole cgroup of roostd leaves shims alone.
    let own = std::fs::read_to_string(format!(
        "/proc/{}/cgroup",
        shim_of(*before.values().next().unwrap())
    ))
    .unwrap();
    assert!(own.contains("-shims"), "{own}");

    platform.kill_roostd();
    let last_seen = last_tick(&platform);
    wait_until("ticks without roostd", Duration::from_secs(30), || {
        let seen = last_tick(&platform);
        if seen > last_seen + 3 {
            Ok(())
        } else {
            Err(seen)
        }
    });
    platform.up_command().output().unwrap();
    assert_eq!(
        platform.machine_pids("ticker"),
        before,
        "same machine, same process"
    );
    let logs = platform.roost(&["logs", "-a", "ticker", "--no-tail", "--limit", "10000"]);
    for tick in 1..=last_seen + 3 {
        assert!(
            logs.contains(&format!("tick {tick}\n")) || logs.contains(&format!("tick {tick}")),
            "tick {tick} is kept"
        );
    }
    assert_eq!(
        platform.get("ticker", "/").0,
        404,
        "httpd of the machine answers"
    );
}

/// The parent of a machine's first process.
fn shim_of(pid: u64) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold spaces: state, parent.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The newest tick in the log segments, read without `roostd`.
fn last_tick(platform: &Platform) -> u64 {
    let mut newest = 0;
    let mut folders = vec![platform.data_dir().join("logs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let text = std::fs::read(entry.path()).unwrap_or_default();
            for part in String::from_utf8_lossy(&text).split("tick ").skip(1) {
                let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
                newest = newest.max(digits.parse().unwrap_or(0));
            }
        }
    }
    newest
}

#[test]
fn a_deploy_that_was_cut_off_completes_or_is_undone() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&nginx("old"), "web:1");
    platform.push(&nginx("new"), "web:2");
    platform.roost(&["apps", "create", "web"]);
    platform.roost(&[
        "deploy",
        "-a",
        "web",
        "--image",
        "web:1",
        "--internal-port",
        "80",
        "--yes",
    ]);
    // Killed at several moments of a deploy; each time the platform comes back whole.
    for (round, delay_ms) in [5_u64, 150, 400, 900].into_iter().enumerate() {
        let image = if round % 2 == 0 { "web:2" } else { "web:1" };
        let flags = ["--internal-port", "80", "--yes"];
        let deploy = Running::start(
            platform
                .cli(&[&["deploy", "-a", "web", "--image", image], &flags[..]].concat())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        std::thread::sleep(Duration::from_millis(delay_ms));
        platform.kill_roostd();
        platform.up_command().output().unwrap();
        deploy.kill();
        wait_until("the deployment to end", Duration::from_secs(60), || {
            let releases = platform.roost_json(&["releases", "-a", "web"]);
            let text = releases.to_string();
            if text.contains("\"running\"") || text.contains("\"pending\"") {
                Err(text)
            } else {
                Ok(())
            }
        });
        let (status, page) = platform.get("web", "/");
        assert_eq!(status, 200, "round {round}: {page}");
        assert_eq!(
            platform.machine_pids("web").len(),
            1,
            "round {round}: no machine lost or doubled"
        );
    }
}

#[test]
fn a_cancelled_deploy_is_undone_even_when_roostd_is_killed_over_it() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&nginx("old"), "web:1");
    let deaf = ["/bin/sh", "-c", "while true; do sleep 1; done"];
    platform.push(&busybox().config("Cmd", json!(deaf)), "web:2");
    platform.roost(&["apps", "create", "web"]);
    let flags = ["--internal-port", "80", "--yes"];
    platform.roost(&[&["deploy", "-a", "web", "--image", "web:1"], &flags[..]].concat());
    let before = platform.machine_pids("web");
    let deploy = Running::start(
        platform
            .cli(&[&["deploy", "-a", "web", "--image", "web:2"], &flags[..]].concat())
            .args(["--wait-timeout", "30m"])
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    wait_until("the new machine to run", Duration::from_secs(60), || {
        let running = platform.machine_pids("web");
        if running.len() == 2 {
            Ok(())
        } else {
            Err(running)
        }
    });

    let deployments = format!(
        "http://127.0.0.1:{}/v1/apps/web/deployments",
        platform.api_port
    );
    let newest = || call(&platform, "GET", &deployments)[0].clone();
    let id = newest()["id"].as_str().unwrap().to_owned();
    let answer = call(&platform, "POST", &format!("{deployments}/{id}/cancel"));
    assert_eq!(answer["id"], json!(id), "{answer}");
    platform.kill_roostd();
    platform.up_command().output().unwrap();
    deploy.kill();
    wait_until("the deployment to end", Duration::from_secs(60), || {
        let deployment = newest();
        if deployment["finished_at"].is_null() {
            Err(deployment)
        } else {
            Ok(())
        }
    });
    let ended = newest();
    assert_eq!(ended["status"], "failed", "{ended}");
    assert_eq!(ended["error"]["code"], "deploy-cancelled", "{ended}");
    assert_eq!(
        platform.machine_pids("web"),
        before,
        "the old machine never stopped"
    );
    let (status, page) = platform.get("web", "/");
    assert_eq!((status, page.contains("old")), (200, true), "{page}");
    let again = call(&platform, "POST", &format!("{deployments}/{id}/cancel"));
    assert_eq!(again["status"], "failed", "again is harmless: {again}");
}

/// One request to the API with `curl`.
fn call(platform: &Platform, method: &str, url: &str) -> serde_json::Value {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "60", "-X", method, url])
        .args(["-H", &format!("Authorization: Bearer {}", platform.token())])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method} {url}: {error}: {text}"))
}
