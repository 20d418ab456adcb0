//! Machines that start by themselves, and machines that do not.

use roost_testkit::images::busybox;
use roost_testkit::platform::Platform;
use roost_testkit::skip_unless_possible;
use roost_testkit::wait::wait_until;
use serde_json::json;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_machine_with_a_schedule_is_shown_with_it_and_started_once_it_is_due() {
    skip_unless_possible!();
    let platform = Platform::up();
    let image = busybox().config("Cmd", json!(["/bin/sleep", "100000"]));
    platform.push(&image, "job:1");
    platform.roost(&["apps", "create", "web"]);
    let args = |schedule| {
        [
            "machines",
            "create",
            "job:1",
            "-a",
            "web",
            "--schedule",
            schedule,
        ]
    };
    let refused = platform.cli(&args("0 25 * * *")).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(text.contains("schedule: hour: `25` is not"), "{text}");

    let created = platform.roost_json(&args("30 4 1 1 *"));
    let machine = created["id"].as_str().unwrap();
    assert_eq!(created["state"], "created");
    let due_at = created["due_at"].as_str().unwrap();
    assert!(due_at.ends_with("-01-01T04:30:00.000Z"), "{due_at}");
    let shown = platform.roost(&["machines", "status", machine]);
    assert!(
        shown.contains(&format!("schedule: 30 4 1 1 *, next at {due_at}")),
        "{shown}"
    );

    // Due while no roostd ran.
    platform.kill_roostd();
    let database = platform.data_dir().join("worker.db");
    let connection = rusqlite::Connection::open(database).unwrap();
    let changed = connection.execute("UPDATE machines SET due_ms = 1", []);
    assert_eq!(changed.unwrap(), 1);
    drop(connection);
    platform.up_command().output().unwrap();
    platform.roost(&["machines", "wait", machine, "--state", "started"]);
    let shown = platform.roost_json(&["machines", "status", machine]);
    assert_eq!(shown["due_at"], due_at);
    let events = shown["events"].as_array().unwrap();
    let by_schedule = events.iter().filter(|event| event["source"] == "schedule");
    let kinds: Vec<_> = by_schedule.map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["start"], "{events:?}");

    let update = ["machines", "update", machine, "--skip-start", "--schedule"];
    platform.roost(&["machines", "stop", machine]);
    platform.roost(&["machines", "wait", machine, "--state", "stopped"]);
    let updated = platform.roost_json(&[&update[..], &[""]].concat());
    assert_eq!(updated["config"].get("schedule"), None);
    assert_eq!(updated.get("due_at"), None);

    let run = [
        "machines",
        "run",
        "job:1",
        "-a",
        "web",
        "--standby-for",
        machine,
    ];
    let standby = platform.roost_json(&run);
    assert_eq!(standby["state"], "created");
    assert_eq!(standby["config"]["standbys"], json!([machine]));

    let standby = standby["id"].as_str().unwrap();
    platform.roost(&["machines", "destroy", standby, "--yes"]);
    let list = ["machines", "list", "-a", "web"];
    let ids = |machines: serde_json::Value| {
        let ids = machines.as_array().unwrap().clone().into_iter();
        let ids: Vec<_> = ids.map(|each| each["id"].clone()).collect();
        ids
    };
    wait_until("the machine to be gone", PATIENCE, || {
        match &ids(platform.roost_json(&list))[..] {
            [only] if only == machine => Ok(()),
            others => Err(format!("{others:?}")),
        }
    });
    let all = ids(platform.roost_json(&[&list[..], &["--include-deleted"]].concat()));
    assert!(all.contains(&json!(standby)), "{all:?}");
}
