//! What became of a request can be asked afterwards.

use roost_testkit::images::busybox;
use roost_testkit::platform::Platform;
use roost_testkit::skip_unless_possible;
use roost_testkit::wait::wait_until;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// Longer than it takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks an app by curl; the status, and the id of the request.
fn ask(platform: &Platform, app: &str) -> (String, String) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--output", "/dev/null"])
        .args(["--write-out", "%{http_code} %header{roost-request-id}"])
        .args(["--header", &format!("Host: {app}.localhost")])
        .arg(platform.edge_url("/a?token=x"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (status, id) = text.split_once(' ').expect("a status and an id");
    (status.to_owned(), id.to_owned())
}

/// What is recorded of a request, once its last byte has gone.
fn record(platform: &Platform, id: &str) -> Value {
    wait_until("the record", PATIENCE, || {
        let args = ["why", "request", id, "--json"];
        let output = platform.cli(&args).output().unwrap();
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    })
}

#[test]
fn a_request_is_explained_by_its_id() {
    skip_unless_possible!();
    let platform = Platform::up_with(&["--access-log", "full"]);
    let server = json!(["/bin/httpd", "-f", "-p", "8080", "-h", "/tmp"]);
    platform.push(&busybox().config("Cmd", server), "box:1");
    platform.roost(&["apps", "create", "web"]);
    let deploy = [
        "deploy",
        "-a",
        "web",
        "--image",
        "box:1",
        "--internal-port",
        "8080",
        "--yes",
    ];
    platform.roost(&deploy);
    let machines = platform.roost_json(&["machines", "list", "-a", "web"]);

    let (status, id) = ask(&platform, "web");
    assert_eq!(status, "404", "nothing is served at that path");
    let why = record(&platform, &id);
    assert_eq!((&why["status"], &why["path"]), (&json!(404), &json!("/a")));
    assert_eq!(why["attempts"][0]["status"], 404);
    let ids: Vec<&Value> = machines
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["id"])
        .collect();
    assert!(ids.contains(&&why["machine"]), "{why}");
    let text = platform.roost(&["why", "request", &id]);
    assert!(text.contains("of web answered"), "{text}");
    assert!(text.contains("first byte"), "{text}");

    let (status, id) = ask(&platform, "nobody");
    assert_eq!(status, "404");
    assert_eq!(record(&platform, &id)["error"], "no-such-app");

    // The log is written a moment later, a batch at a time.
    let logged = || -> Vec<Value> {
        let segments = std::fs::read_dir(platform.data_dir().join("access")).unwrap();
        let texts = segments.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        let whole = |text: String| {
            let lines = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            lines
                .map(|line| serde_json::from_str(line).unwrap())
                .collect::<Vec<_>>()
        };
        texts.flat_map(whole).collect()
    };
    let has_both = || {
        let lines = logged();
        let has = |id: &str| lines.iter().any(|line| line["request_id"] == id);
        if has(&id) && has(why["request_id"].as_str().unwrap()) {
            Ok(())
        } else {
            Err(lines)
        }
    };
    wait_until("both requests in the log", PATIENCE, has_both);

    let metrics = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--header"])
        .arg(format!("Authorization: Bearer {}", platform.token()))
        .arg(format!("{}/v1/metrics", platform.env()["ROOST_API_URL"]))
        .output()
        .unwrap();
    let metrics = String::from_utf8(metrics.stdout).unwrap();
    // `roost deploy` may have looked at the app as well.
    let counted = r#"fly_edge_http_responses_count{app="web",region="local",status="4xx"} "#;
    let counted = metrics.lines().find_map(|line| line.strip_prefix(counted));
    let counted: u64 = counted.expect("a count").parse().unwrap();
    assert!(counted >= 1, "{metrics}");

    let unknown = platform
        .cli(&["why", "request", "unknown"])
        .output()
        .unwrap();
    assert!(!unknown.status.success());
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(said.contains("request-not-found"), "{said}");
}
