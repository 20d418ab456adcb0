//! Addresses that are an app's alone: two Redis from Debian's package at one port.

use roost_testkit::images::redis;
use roost_testkit::platform::{Platform, free_port};
use roost_testkit::skip_unless_possible;
use roost_testkit::wait::wait_until;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
const MOMENT: Duration = Duration::from_secs(90);

fn deploy(platform: &Platform, app: &str, port: u16) {
    let folder = platform.scratch();
    let config = format!(
        r#"
app = "{app}"
[build]
image = "cache:1"
[[services]]
internal_port = 6379
[[services.ports]]
port = {port}
[[services.tcp_checks]]
interval = "1s"
"#
    );
    std::fs::write(folder.join("roost.toml"), config).unwrap();
    platform.roost(&["deploy", folder.to_str().unwrap(), "--yes"]);
}

/// Asks the Redis there until it answers like this.
fn answers(address: &str, port: u16, command: &str, answer: &str) {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((address, port))?;
        stream.set_read_timeout(Some(MOMENT))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut bytes = vec![0; answer.len()];
        stream.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    wait_until("the answer", MOMENT, || match asked() {
        Ok(text) if text == answer => Ok(()),
        other => Err(other),
    });
}

fn allocate(platform: &Platform, app: &str) -> String {
    let own = platform.roost_json(&["ips", "allocate-v4", "-a", app]);
    own["ip"].as_str().unwrap().to_owned()
}

#[test]
fn a_machine_reaches_another_app_at_its_private_address_and_wakes_it() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&redis(), "cache:1");
    let port = free_port();
    deploy(&platform, "called", port);
    platform.roost(&["apps", "create", "caller"]);
    platform.roost(&["machines", "run", "cache:1", "-a", "caller"]);
    let own = platform.roost_json(&["ips", "allocate-v6", "--private", "-a", "called"]);
    let (address, port) = (own["ip"].as_str().unwrap(), port.to_string());
    assert!(address.starts_with("fdaa:"), "{own}");
    let says = |answer: &str| {
        wait_until(answer, MOMENT, || {
            let call = ["redis-cli", "-h", address, "-p", &port, "PING"];
            let exec = ["exec", "-a", "caller", "--"];
            let called = platform.cli(&[&exec[..], &call].concat()).output().unwrap();
            let [out, err] =
                [called.stdout, called.stderr].map(|text| String::from_utf8(text).unwrap());
            let text = out + &err;
            text.contains(answer).then_some(()).ok_or(text)
        });
    };
    says("PONG");

    // It sleeps, and the next call wakes it.
    let machines = platform.roost_json(&["machines", "list", "-a", "called"]);
    let id = machines[0]["id"].as_str().unwrap().to_owned();
    platform.roost(&["machines", "stop", &id, "-a", "called"]);
    says("PONG");
    let woken = platform.roost_json(&["machines", "status", &id, "-a", "called"]);
    assert_eq!(woken["state"], "started", "{woken}");

    // A new roostd has the address as well; a released one is nobody's.
    let mut restart = platform.up_command();
    assert!(restart.arg("--restart").status().unwrap().success());
    says("PONG");
    platform.roost(&["ips", "release", address, "-a", "called", "--yes"]);
    says("Connection refused");
}

#[test]
fn two_apps_have_one_raw_port_at_addresses_of_their_own() {
    skip_unless_possible!();
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let pool = [1, 2].map(|n| format!("127.{}.{low}.{n}", 64 | (high & 0x3f)));
    let flags = [
        format!("--edge-address={}", pool[0]),
        format!("--edge-address={}", pool[1]),
    ];
    let platform = Platform::up_with(&flags.each_ref().map(String::as_str));
    platform.push(&redis(), "cache:1");
    let port = free_port();
    for app in ["one", "two"] {
        platform.roost(&["apps", "create", app]);
    }
    deploy(&platform, "one", port);
    let of_two = allocate(&platform, "two");
    deploy(&platform, "two", port);
    answers("127.0.0.1", port, "SET name one", "+OK\r\n");
    answers(&of_two, port, "SET name two", "+OK\r\n");
    answers("127.0.0.1", port, "GET name", "$3\r\none\r\n");
    let of_one = allocate(&platform, "one");
    answers(&of_one, port, "GET name", "$3\r\none\r\n");
    let full = platform
        .cli(&["ips", "allocate-v4", "-a", "one"])
        .output()
        .unwrap();
    assert!(!full.status.success());
    let told = String::from_utf8_lossy(&full.stderr);
    assert!(told.contains("all 2 v4 addresses"), "{told}");

    // A connection goes on beside a new roostd, which has the address as well.
    let mut kept = TcpStream::connect((of_two.as_str(), port)).unwrap();
    kept.set_read_timeout(Some(MOMENT)).unwrap();
    let mut ask = |command: &[u8]| {
        kept.write_all(command).unwrap();
        let mut bytes = [0; 9];
        kept.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"$3\r\ntwo\r\n");
    };
    ask(b"GET name\r\n");
    let mut restart = platform.up_command();
    assert!(restart.arg("--restart").status().unwrap().success());
    ask(b"GET name\r\n");
    answers(&of_two, port, "GET name", "$3\r\ntwo\r\n");

    platform.roost(&["ips", "release", &of_one, "-a", "one", "--yes"]);
    platform.roost(&["apps", "destroy", "two", "--yes"]);
    for address in [&of_one, &of_two] {
        wait_until("nobody is there", MOMENT, || {
            match TcpStream::connect((address.as_str(), port)) {
                Ok(_) => Err("open"),
                Err(_) => Ok(()),
            }
        });
    }
    answers("127.0.0.1", port, "GET name", "$3\r\none\r\n");
    assert_eq!(
        allocate(&platform, "one"),
        pool[0],
        "the first that is free"
    );
}
