//! What is done to machines can be followed, explained and cancelled.

use roost_testkit::images::busybox;
use roost_testkit::platform::Platform;
use roost_testkit::skip_unless_possible;
use serde_json::{Value, json};

/// Runs `roost ops list` until the newest operation of the machine has ended.
fn newest(platform: &Platform, machine: &str) -> Value {
    for _ in 0..600 {
        let args = ["ops", "list", "-a", "web", "--machine", machine];
        let newest = platform.roost_json(&args)[0].clone();
        if newest["ended_at"].is_u64() {
            return newest;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("no operation of {machine} ends");
}

/// What was done, in order.
fn steps(operation: &Value) -> Vec<&str> {
    let steps = operation["steps"].as_array().unwrap().iter();
    steps.map(|step| step["name"].as_str().unwrap()).collect()
}

#[test]
fn operations_tell_who_asked_what_was_done_and_why_it_failed() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(
        &busybox().config(
            "Cmd",
            json!(["/bin/httpd", "-f", "-p", "8080", "-h", "/tmp"]),
        ),
        "box:1",
    );
    platform.roost(&["apps", "create", "web"]);
    platform.roost(&[
        "deploy",
        "-a",
        "web",
        "--image",
        "box:1",
        "--internal-port",
        "8080",
        "--yes",
    ]);
    let machine = platform.roost_json(&["machines", "list", "-a", "web"])[0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();

    let all = platform.roost_json(&["ops", "list", "-a", "web"]);
    let kinds: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|operation| operation["kind"].as_str().unwrap())
        .collect();
    let place = kinds.iter().position(|kind| *kind == "deploy");
    let deploy = all[place.expect("a deployment")]["id"].as_str().unwrap();
    let shown = platform.roost_json(&["ops", "show", "-a", "web", deploy]);
    assert_eq!(
        steps(&shown),
        ["plan", "roll", "commit", "retire", "finish"],
        "{shown}"
    );
    assert_eq!(
        (&shown["id"], &shown["status"]),
        (&json!(deploy), &json!("succeeded"))
    );

    platform.roost(&["machines", "stop", &machine]);
    platform.roost(&["machines", "wait", &machine, "--state", "stopped"]);
    let stop = newest(&platform, &machine);
    assert_eq!(
        (&stop["kind"], &stop["status"]),
        (&json!("stop"), &json!("succeeded"))
    );
    let id = stop["id"].as_str().unwrap();
    let shown = platform.roost_json(&["ops", "show", "-a", "web", id]);
    // As first process, this web server does not hear a signal.
    assert_eq!(steps(&shown), ["drain", "signal", "kill"]);
    assert_eq!(shown["cause"]["kind"], "user");

    let why = platform.roost(&["why", "machine", &machine]);
    assert!(why.contains("is stopped"), "{why}");
    assert!(why.contains("stop of machine/"), "{why}");
    assert!(why.contains("it is there because: node "), "{why}");

    platform.roost(&["machines", "start", &machine]);
    platform.roost(&["machines", "wait", &machine, "--state", "started"]);
    let start = newest(&platform, &machine);
    let watched = platform.roost(&["ops", "watch", "-a", "web", start["id"].as_str().unwrap()]);
    assert!(watched.contains("succeeded"), "{watched}");
}
