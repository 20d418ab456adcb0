//! What a machine cannot do to its host and its neighbours.

use roost_testkit::images::busybox;
use roost_testkit::platform::Platform;
use roost_testkit::skip_unless_possible;
use serde_json::json;
use std::net::TcpListener;

#[test]
fn a_machine_reaches_neither_the_host_nor_another_machine() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(
        &busybox().config(
            "Cmd",
            json!(["/bin/httpd", "-f", "-p", "8080", "-h", "/tmp"]),
        ),
        "box:1",
    );
    for app in ["first", "second"] {
        platform.roost(&["apps", "create", app]);
        platform.roost(&[
            "deploy",
            "-a",
            app,
            "--image",
            "box:1",
            "--internal-port",
            "8080",
            "--yes",
        ]);
    }
    let neighbour = platform.roost_json(&["machines", "list", "-a", "second"]);
    let neighbour = neighbour[0]["private_ipv4"]
        .as_str()
        .expect("an address")
        .to_owned();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let host_port = listener.local_addr().unwrap().port();

    // The machine's own web server answers it: the test can tell yes from no.
    let own = exec(
        &platform,
        "first",
        "wget -T 2 -q -O - http://127.0.0.1:8080/ || echo refused-$?",
    );
    assert!(
        own.contains("refused"),
        "404 from httpd counts as an answer: {own}"
    );
    let own = exec(
        &platform,
        "first",
        "nc -w 2 127.0.0.1 8080 </dev/null && echo open || echo closed",
    );
    assert!(own.contains("open"), "{own}");
    let other = exec(
        &platform,
        "first",
        &format!("nc -w 2 {neighbour} 8080 </dev/null && echo open || echo closed"),
    );
    assert!(other.contains("closed"), "another machine: {other}");
    let gateway = exec(&platform, "first", "ip route | grep default");
    let gateway = gateway
        .split_whitespace()
        .nth(2)
        .expect("a default route")
        .to_owned();
    for port in [host_port, platform.api_port, platform.http_port] {
        let host = exec(
            &platform,
            "first",
            &format!("nc -w 2 {gateway} {port} </dev/null && echo open || echo closed"),
        );
        assert!(host.contains("closed"), "host port {port}: {host}");
    }
    // Not root on the host, whatever it is inside.
    let pid = platform.machine_pids("first").into_values().next().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid: u64 = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("Uid:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap();
    assert!(uid >= 65_536, "{status}");
    assert!(
        status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"),
        "{status}"
    );
}

fn exec(platform: &Platform, app: &str, script: &str) -> String {
    platform.roost(&["exec", "-a", app, "--", "/bin/sh", "-c", script])
}
