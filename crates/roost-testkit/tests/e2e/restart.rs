//! `roostd` replaced while it serves, and either side killed on the way.

use roost_testkit::images::nginx;
use roost_testkit::platform::Platform;
use roost_testkit::program::run;
use roost_testkit::skip_unless_possible;
use roost_testkit::takeover::hand_over_to_nobody;
use roost_testkit::wait::wait_until;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Longer than a restart takes on a busy machine.
const MOMENT: Duration = Duration::from_secs(300);

/// A platform with an app, whose programs may be told to die.
fn platform() -> Platform {
    let platform = Platform::prepare();
    run(&mut up_mortal(&platform));
    platform.push(&nginx("still here"), "web:1");
    platform.roost(&["apps", "create", "web"]);
    let image = ["--image", "web:1", "--internal-port", "80", "--yes"];
    platform.roost(&[&["deploy", "-a", "web"], &image[..]].concat());
    platform
}

/// From now on whoever passes `point` dies there.
fn plan(dir: &Path, point: &str) {
    drop(std::fs::remove_file(dir.join("passed")));
    let new = dir.join("plan.new");
    std::fs::write(&new, point).unwrap();
    std::fs::rename(new, dir.join("plan")).unwrap();
}

/// `roost up` of a `roostd` that may be told to die.
fn up_mortal(platform: &Platform) -> Command {
    let mut command = platform.up_command();
    command.env("ROOST_CRASH_DIR", platform.scratch());
    command
}

fn restart(platform: &Platform) -> bool {
    let output = up_mortal(platform).arg("--restart").output().unwrap();
    output.status.success()
}

fn until_api_answers(platform: &Platform) {
    wait_until("the API to answer", MOMENT, || {
        let output = platform.cli(&["apps", "list"]).output().unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(output)
        }
    });
}

#[test]
fn a_roostd_that_dies_before_it_serves_changes_nothing() {
    skip_unless_possible!();
    let platform = platform();
    let (old, machines) = (platform.roostd_pid(), platform.machine_pids("web"));
    for point in [
        "takeover-asked",
        "takeover-yours",
        "takeover-taken",
        "takeover-serving",
    ] {
        plan(&platform.scratch(), &format!("{point}:1"));
        assert!(!restart(&platform), "{point}");
        assert_eq!(
            platform.get("web", "/"),
            (200, "still here".into()),
            "{point}"
        );
        until_api_answers(&platform);
        assert_eq!(platform.roostd_pid(), old, "{point}");
        assert_eq!(platform.machine_pids("web"), machines, "{point}");
    }
    plan(&platform.scratch(), "");
    assert!(restart(&platform), "and the next one takes over");
    assert_ne!(platform.roostd_pid(), old);
    assert_eq!(platform.get("web", "/"), (200, "still here".into()));
    assert_eq!(platform.machine_pids("web"), machines);
}

#[test]
fn a_roostd_that_dies_while_it_is_replaced_is_replaced() {
    skip_unless_possible!();
    let platform = platform();
    let machines = platform.machine_pids("web");
    for point in ["takeover-control-ended", "takeover-given", "takeover-left"] {
        let old = platform.roostd_pid();
        plan(&platform.scratch(), &format!("{point}:1"));
        assert!(restart(&platform), "{point}");
        assert_eq!(
            platform.get("web", "/"),
            (200, "still here".into()),
            "{point}"
        );
        until_api_answers(&platform);
        assert_ne!(platform.roostd_pid(), old, "{point}");
        assert_eq!(platform.machine_pids("web"), machines, "{point}");
    }
}

#[test]
fn a_third_roostd_is_refused_while_the_first_has_connections() {
    use std::io::{Read as _, Write as _};
    skip_unless_possible!();
    let platform = platform();
    // A request that is not whole holds the connection to the first.
    let mut slow = std::net::TcpStream::connect(("127.0.0.1", platform.http_port)).unwrap();
    slow.set_read_timeout(Some(MOMENT)).unwrap();
    let ask = b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n";
    slow.write_all(ask).unwrap();
    let mut first = [0; 15];
    slow.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    platform.restart();
    let second = platform.roostd_pid();
    let mut command = platform.up_command();
    let output = command.arg("--restart").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("have not ended"), "{text}");
    assert_eq!(platform.roostd_pid(), second);
    // Its next answer is the last one.
    slow.write_all(ask).unwrap();
    let mut rest = String::new();
    slow.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("connection: close"), "{rest}");
    platform.until_left();
    platform.restart();
    assert_ne!(platform.roostd_pid(), second);
}

#[test]
fn the_edge_serves_while_nobody_looks_after_machines() {
    skip_unless_possible!();
    let platform = platform();
    let nobody = hand_over_to_nobody(&platform);
    assert_eq!(platform.get("web", "/"), (200, "still here".into()));
    drop(nobody);
    until_api_answers(&platform);
}

/// One request by a program that keeps its TLS session in this file; whether the session was
/// resumed. TLS 1.3 gives the ticket after the handshake, so the answer is waited for.
pub(crate) fn resumes(platform: &Platform, version: &str, session: &Path) -> bool {
    use std::io::Write as _;
    let mut command = Command::new("openssl");
    command.args(["s_client", "-ign_eof", "-servername", "web.localhost"]);
    let address = format!("127.0.0.1:{}", platform.https_port);
    command.args([version, "-connect", &address]);
    command.arg("-sess_out").arg(session);
    if session.exists() {
        command.arg("-sess_in").arg(session);
    }
    let pipe = std::process::Stdio::piped;
    command.stdin(pipe()).stdout(pipe()).stderr(pipe());
    let mut client = command.spawn().unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: web.localhost\r\nconnection: close\r\n\r\n";
    client.stdin.as_mut().unwrap().write_all(request).unwrap();
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("HTTP/1.1 200"), "{output:?}");
    text.contains("\nReused, ")
}

#[test]
fn tls_sessions_are_resumed_after_a_restart() {
    skip_unless_possible!();
    let platform = platform();
    let session = |version: &str| platform.scratch().join(version);
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(!resumes(&platform, version, &session(version)));
        assert!(resumes(&platform, version, &session(version)));
    }
    assert!(restart(&platform));
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(resumes(&platform, version, &session(version)), "{version}");
    }
    platform.kill_roostd();
    run(&mut up_mortal(&platform));
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(resumes(&platform, version, &session(version)), "{version}");
    }
}
