//! Bad input gets a clear error that names the thing, and leaves nothing.

use roost_testkit::images::{busybox, nginx};
use roost_testkit::platform::{Platform, leftovers};
use roost_testkit::program::run;
use roost_testkit::skip_unless_possible;
use serde_json::json;
use std::net::TcpListener;
use std::process::{Command, Output};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_left() {
    skip_unless_possible!();
    let platform = Platform::prepare();
    let _holder = TcpListener::bind(("127.0.0.1", platform.http_port)).unwrap();
    let output = platform.up_command().output().unwrap();
    assert!(!output.status.success());
    let text = text(&output);
    assert!(
        text.contains(&platform.http_port.to_string()) && text.contains("--http-port"),
        "{text}"
    );
    assert_eq!(leftovers(&platform.data_dir()), Vec::<String>::new());
}

#[test]
fn wrong_requests_are_refused_with_the_reason_and_change_nothing() {
    skip_unless_possible!();
    let platform = Platform::up();
    let api = format!("http://127.0.0.1:{}", platform.api_port);
    let curl = |args: &[&str]| {
        let output = run(Command::new("curl")
            .args(["-sS", "--max-time", "60", "-w", "\n%{http_code}"])
            .args(args));
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse::<u16>().unwrap(), body.to_owned())
    };
    let bearer = format!("Authorization: Bearer {}", platform.token());
    let apps = format!("{api}/v1/apps");

    let (status, body) = curl(&[
        "-H",
        "Authorization: Bearer roost_wrong",
        &format!("{apps}?org_slug=personal"),
    ]);
    assert_eq!(status, 401, "{body}");
    for name in ["a/b", "a.b", &"x".repeat(300), "Übung"] {
        let body = json!({"app_name": name}).to_string();
        let (status, answer) = curl(&[
            "-H",
            &bearer,
            "-H",
            "Content-Type: application/json",
            "-d",
            &body,
            &apps,
        ]);
        assert!((400..=422).contains(&status), "{name}: {status} {answer}");
        assert!(answer.contains("app name"), "{answer}");
    }
    let (status, answer) = curl(&[
        "-H",
        &bearer,
        "-H",
        "Content-Type: application/json",
        "-d",
        r#"{"app_name": "ok", "colour": "red"}"#,
        &apps,
    ]);
    assert!(
        (400..=422).contains(&status) && answer.contains("colour"),
        "{status} {answer}"
    );

    // A body of 1 GB, sparse on this side, is refused before it is read.
    let big = platform.scratch().join("big");
    std::fs::File::create(&big)
        .unwrap()
        .set_len(1_000_000_000)
        .unwrap();
    let output = Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "60",
            "-w",
            "\n%{http_code}",
            "-H",
            &bearer,
        ])
        .args(["-H", "Content-Type: application/json", "-T"])
        .arg(&big)
        .args(["-X", "POST", &apps])
        .output()
        .unwrap();
    assert!(text(&output).contains("413"), "{}", text(&output));
    assert_eq!(
        platform.roost_json(&["apps", "list"])["total_apps"]
            .as_u64()
            .unwrap_or(0),
        0
    );
}

#[test]
fn images_that_cannot_run_here_are_named() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(
        &busybox()
            .architecture("s390x")
            .config("Cmd", json!(["/bin/sh"])),
        "odd:cpu",
    );
    platform.push(&busybox(), "odd:nothing");
    platform.push(
        &busybox().config("Cmd", json!(["/no/such/program"])),
        "odd:program",
    );
    platform.push(
        &busybox()
            .config("Cmd", json!(["/bin/sh"]))
            .config("User", json!("nosuchuser")),
        "odd:user",
    );
    platform.roost(&["apps", "create", "odd"]);
    for (image, words) in [
        ("odd:cpu", vec!["s390x"]),
        ("odd:nothing", vec!["command"]),
        ("odd:program", vec!["/no/such/program"]),
        ("odd:user", vec!["nosuchuser"]),
        ("odd:missing", vec!["odd:missing"]),
    ] {
        let output = platform
            .cli(&[
                "deploy",
                "-a",
                "odd",
                "--image",
                image,
                "--internal-port",
                "80",
                "--yes",
            ])
            .output()
            .unwrap();
        let text = text(&output);
        assert!(!output.status.success(), "{image}: {text}");
        for word in words {
            assert!(text.contains(word), "{image} → {word}: {text}");
        }
        let machines = platform.roost_json(&["machines", "list", "-a", "odd"]);
        assert_eq!(
            machines.as_array().map(Vec::len),
            Some(0),
            "{image} left {machines}"
        );
    }
}

#[test]
fn a_config_file_with_slips_is_explained_line_by_line() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&nginx("x"), "web:1");
    let folder = platform.scratch();
    let config = "app = \"web\"\n[build]\nimage = \"web:1\"\n[http_service]\ninternl_port = 80\nforce_https = \"yes\"\n";
    std::fs::write(folder.join("roost.toml"), config).unwrap();
    let output = platform
        .cli(&["deploy", folder.to_str().unwrap(), "--yes"])
        .output()
        .unwrap();
    let text = text(&output);
    assert!(!output.status.success());
    for word in ["internl_port", "internal_port", "force_https", "5", "6"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(
        platform.roost_json(&["apps", "list"])["total_apps"]
            .as_u64()
            .unwrap_or(0),
        0
    );
}

#[test]
fn a_damaged_worker_database_is_refused_with_the_way_on_which_leads_on() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&nginx("kept"), "web:1");
    platform.roost(&["apps", "create", "web"]);
    let deploy = [
        "deploy",
        "-a",
        "web",
        "--image",
        "web:1",
        "--internal-port",
        "80",
        "--yes",
    ];
    platform.roost(&deploy);
    let pids: Vec<u64> = platform.machine_pids("web").into_values().collect();
    let runs = || {
        pids.iter()
            .all(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists())
    };
    platform.kill_roostd();
    let file = |name: &str| platform.data_dir().join(name);
    // Its log alone might hold all there is to know.
    std::fs::write(file("worker.db"), vec![b'x'; 100_000]).unwrap();
    std::fs::write(file("worker.db-wal"), b"").unwrap();

    for _ in 0..2 {
        let refused = platform.up_command().output().unwrap();
        let text = text(&refused);
        assert!(!refused.status.success());
        for part in ["worker.db", "damaged", "move all three aside"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
    assert!(runs(), "a machine was touched");
    let doctor = Command::new(platform.cli(&[]).get_program())
        .args(["doctor", "--data-dir"])
        .arg(platform.data_dir())
        .output()
        .unwrap();
    let told = text(&doctor);
    assert!(!doctor.status.success());
    assert!(told.contains("move all three aside"), "{told}");

    for name in ["worker.db", "worker.db-wal", "worker.db-shm"] {
        let aside = platform.scratch().join(name);
        if file(name).exists() {
            std::fs::rename(file(name), aside).unwrap();
        }
    }
    let up = platform.up_command().output().unwrap();
    assert!(up.status.success(), "{}", text(&up));
    assert!(!runs(), "a machine that nobody knows runs on");
    platform.roost(&deploy);
    assert_eq!(platform.get("web", "/").0, 200);
}
