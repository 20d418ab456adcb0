//! `roost up` to a URL that answers, twice, and `roost down` to nothing.

use roost_testkit::platform::{Platform, leftovers};
use roost_testkit::program::{checkout, run};
use roost_testkit::skip_unless_possible;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

/// What `roost down` must leave as it was: devices, rules, cgroups.
pub(crate) fn host_state(tag_marks: &[String]) -> BTreeSet<String> {
    let mut state = BTreeSet::new();
    for (program, args) in [
        ("ip", vec!["-o", "link"]),
        ("nft", vec!["list", "tables"]),
        ("ip", vec!["rule"]),
    ] {
        let output = run(Command::new(program).args(args));
        state.extend(
            String::from_utf8_lossy(&output.stdout)
                .lines()
                .map(str::to_owned),
        );
    }
    let groups = run(Command::new("find").args([
        "/sys/fs/cgroup",
        "-maxdepth",
        "3",
        "-type",
        "d",
        "-name",
        "roost*",
    ]));
    state.extend(
        String::from_utf8_lossy(&groups.stdout)
            .lines()
            .map(str::to_owned),
    );
    state.retain(|line| tag_marks.iter().any(|mark| line.contains(mark)));
    state
}

#[test]
fn up_prints_a_url_that_answers_and_down_leaves_nothing() {
    skip_unless_possible!();
    let platform = Platform::prepare();
    let example = checkout().join("examples/hello");
    // As `sudo` starts it for a user.
    let mut up = platform.up_command();
    up.env("SUDO_UID", "65534").env("SUDO_GID", "65534");
    let output = run(up.arg("--deploy").arg(&example));
    let env_file = std::fs::metadata(platform.data_dir().join("env.sh")).unwrap();
    assert_eq!((env_file.uid(), env_file.mode() & 0o777), (65_534, 0o600));
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let url = format!("http://hello.localhost:{}", platform.http_port);
    assert!(text.contains(&url), "the box names the app's URL: {text}");
    assert!(
        text.contains("roost down"),
        "and how to undo everything: {text}"
    );
    assert!(text.contains("container"), "and the isolation rung: {text}");

    let (status, body) = platform.get("hello", "/json");
    assert_eq!(status, 200, "{body}");
    let first: serde_json::Value = serde_json::from_str(&body).unwrap();
    let (_, body) = platform.get("hello", "/json");
    let second: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(
        second["requests"].as_u64() > first["requests"].as_u64(),
        "{first} {second}"
    );
    let machines = platform.machine_pids("hello");
    assert_eq!(machines.len(), 1);
    assert_eq!(
        first["machine"].as_str(),
        machines.keys().next().map(String::as_str)
    );

    // Twice is safe: same machine, nothing deployed again.
    let again = run(platform.up_command().arg("--deploy").arg(&example));
    let text = String::from_utf8_lossy(&again.stdout) + String::from_utf8_lossy(&again.stderr);
    assert!(text.contains("nothing to do"), "{text}");
    assert_eq!(platform.machine_pids("hello"), machines);

    let env = platform.env();
    for name in [
        "ROOST_API_URL",
        "ROOST_TOKEN",
        "ROOST_HTTP_PORT",
        "ROOST_HTTPS_PORT",
        "ROOST_DATA_DIR",
    ] {
        assert!(
            env.get(name).is_some_and(|value| !value.is_empty()),
            "env.sh exports {name}"
        );
    }

    let marks: Vec<String> = instance_marks(&platform);
    assert!(
        !host_state(&marks).is_empty(),
        "while it runs, the host shows it"
    );
    let down = platform.down();
    assert!(
        down.status.success(),
        "{}",
        String::from_utf8_lossy(&down.stderr)
    );
    assert_eq!(host_state(&marks), BTreeSet::new());
    assert_eq!(leftovers(&platform.data_dir()), Vec::<String>::new());
}

/// The texts that devices, tables and cgroups of this instance carry.
pub(crate) fn instance_marks(platform: &Platform) -> Vec<String> {
    let facts = std::fs::read_to_string(platform.data_dir().join("roostd.json")).unwrap();
    let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
    let tag = facts["tag"].as_str().unwrap();
    vec![
        format!("roost_{tag}"),
        format!("roost-{tag}"),
        format!("r{tag}-"),
    ]
}

#[test]
fn a_static_site_and_https_work_without_any_set_up() {
    skip_unless_possible!();
    let platform = Platform::up();
    let site = checkout().join("examples/site");
    platform.roost(&["deploy", site.to_str().unwrap(), "--yes"]);
    let (status, body) = platform.get("site", "/");
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("<html"), "{body}");
    assert_eq!(platform.get("site", "/no-such-page").0, 404);

    let name = "site.localhost";
    let authority = platform.data_dir().join("ca/ca.pem");
    let output = run(Command::new("curl")
        .args(["-sS", "--max-time", "30", "--cacert"])
        .arg(&authority)
        .args([
            "--resolve",
            &format!("{name}:{}:127.0.0.1", platform.https_port),
        ])
        .arg(format!("https://{name}:{}/", platform.https_port)));
    assert!(String::from_utf8_lossy(&output.stdout).contains("<html"));
}
