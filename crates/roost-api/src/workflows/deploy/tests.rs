//! Deployments over a worker in memory, and what a kill leaves of them.

mod canary;
mod cancel;
mod checker;
mod earlier;
mod succession;

use crate::http::tests::{Platform, web};
use roost_model::name::AppName;
use roost_testkit::sim_worker::Fate;
use serde_json::{Value, json};
use std::path::Path;

async fn start(dir: &Path) -> Platform {
    let platform = Platform::start(dir).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    platform
}

fn ids(machines: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> = machines
        .iter()
        .map(|machine| machine["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

/// Every machine runs, takes its full part of the traffic and is of this release.
fn assert_serving(machines: &[Value], n: usize, release: &str) {
    assert_eq!(machines.len(), n, "{machines:?}");
    for machine in machines {
        assert_eq!(machine["state"], "started");
        assert_eq!(machine["cordoned"], false);
        assert_eq!(
            machine["config"]["metadata"]["roost_release_version"],
            release
        );
        let split = &machine["config"]["metadata"]["roost_split"];
        assert!(split.is_null(), "a split ends with its deployment: {split}");
    }
}

#[tokio::test]
async fn a_second_release_replaces_the_first_without_fewer_machines_in_between() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let first = platform
        .deploy("web", json!({"config": web("hello"), "count": 3}))
        .await;
    assert_eq!(first["status"], "succeeded", "{first}");
    assert_serving(&platform.machines("web").await, 3, "1");
    let app = AppName::parse("web").unwrap();
    platform.worker.take_serving_min(&app);
    let second = platform
        .deploy("web", json!({"config": web("hello:2")}))
        .await;
    assert_eq!(second["status"], "succeeded", "{second}");
    assert_serving(&platform.machines("web").await, 3, "2");
    assert_eq!(
        platform.worker.take_serving_min(&app),
        3,
        "never fewer than three machines served"
    );
    let (_, releases) = platform
        .call("GET", "/v1/apps/web/releases", Value::Null)
        .await;
    assert_eq!(
        (&releases[0]["version"], &releases[0]["current"]),
        (&json!(2), &json!(true))
    );
    assert!(
        releases[0]["config"]["image"]
            .as_str()
            .unwrap()
            .contains("@sha256:"),
        "the image is pinned"
    );
    platform.stop().await;
}

#[tokio::test]
async fn machines_come_and_go_with_the_count_and_a_rollback_is_a_new_release() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    for (count, version) in [(1, "1"), (4, "2"), (2, "3")] {
        platform
            .deploy("web", json!({"config": web("hello"), "count": count}))
            .await;
        assert_serving(&platform.machines("web").await, count, version);
    }
    let (status, begun) = platform
        .call("POST", "/v1/apps/web/rollback", json!({"version": 1}))
        .await;
    assert_eq!(status, 201);
    platform
        .finished("web", begun["id"].as_str().unwrap())
        .await;
    assert_serving(&platform.machines("web").await, 2, "4");
    let (_, begun) = platform
        .call("POST", "/v1/apps/web/redeploy", Value::Null)
        .await;
    platform
        .finished("web", begun["id"].as_str().unwrap())
        .await;
    assert_serving(&platform.machines("web").await, 2, "5");
    platform.stop().await;
}

#[tokio::test]
async fn a_release_that_is_not_healthy_is_undone_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    platform
        .deploy("web", json!({"config": web("hello"), "count": 2}))
        .await;
    let before = ids(&platform.machines("web").await);
    platform.worker.set_fate("broken", Fate::Unhealthy);
    let failed = platform
        .deploy("web", json!({"config": web("broken"), "wait_timeout": 1}))
        .await;
    assert_eq!(
        (&failed["status"], &failed["error"]["code"]),
        (&json!("failed"), &json!("wrong-port")),
        "{failed}"
    );
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(
        message.ends_with("listens on 127.0.0.1:3000, not on 0.0.0.0:8080"),
        "{message}"
    );
    assert_eq!(failed["error"]["log_tail"][0], "cannot open config");
    platform.worker.set_fate("crash", Fate::Exits);
    let failed = platform
        .deploy("web", json!({"config": web("crash")}))
        .await;
    assert_eq!(failed["error"]["code"], "machine-exited", "{failed}");
    let machines = platform.machines("web").await;
    assert_serving(&machines, 2, "1");
    assert_eq!(ids(&machines), before, "the old machines are the same");
    let (_, app) = platform.call("GET", "/v1/apps/web", Value::Null).await;
    assert_eq!(app["current_release"], 1);
    platform.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_machine_is_told_once_that_it_listens_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    platform.worker.set_fate("broken", Fate::Unhealthy);
    let failed = platform
        .deploy("web", json!({"config": web("broken"), "wait_timeout": 5}))
        .await;
    let steps = failed["steps"].as_array().unwrap();
    let names: Vec<&str> = steps
        .iter()
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    let is_notice = |name: &&&str| **name == "listening";
    assert_eq!(names.iter().filter(is_notice).count(), 1, "{names:?}");
    let place = names.iter().position(|name| *name == "listening").unwrap();
    assert_eq!(
        steps[place]["message"],
        "it listens on 127.0.0.1:3000, not on 0.0.0.0:8080; waiting up to 5 s in all"
    );
    assert!(!steps[place]["machine"].is_null());
    let waited = steps[place]["at"].as_u64().unwrap() + 500;
    assert!(
        waited < failed["finished_at"].as_u64().unwrap(),
        "while the deployment waits, not at its end"
    );
    platform.stop().await;
}

#[tokio::test]
async fn a_first_release_that_fails_leaves_no_machine() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    platform.worker.set_fate("crash", Fate::Exits);
    let failed = platform
        .deploy("web", json!({"config": web("crash")}))
        .await;
    assert_eq!(failed["status"], "failed");
    assert!(platform.machines("web").await.is_empty());
    platform.stop().await;
}

#[tokio::test]
async fn a_second_deployment_is_refused_while_one_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    platform.state.kill_switch.after(1);
    let (_, begun) = platform
        .call(
            "POST",
            "/v1/apps/web/deployments",
            json!({"config": web("hello")}),
        )
        .await;
    let (status, error) = platform
        .call(
            "POST",
            "/v1/apps/web/deployments",
            json!({"config": web("hello")}),
        )
        .await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (409, &json!("deploy-in-progress"))
    );
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .contains(begun["id"].as_str().unwrap()),
        "it is named: {error}"
    );
    platform.stop().await;
}

/// Kills the platform before each journal write in turn, starts it again, and checks that
/// the deployment ends as it must with no machine lost and none too many.
async fn kill_everywhere(prepare: impl Fn(&Platform), body: Value, status: &str, release: &str) {
    for n_writes in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let platform = start(dir.path()).await;
        platform
            .deploy("web", json!({"config": web("hello"), "count": 2}))
            .await;
        prepare(&platform);
        platform.state.kill_switch.after(n_writes);
        let (_, begun) = platform
            .call("POST", "/v1/apps/web/deployments", body.clone())
            .await;
        let id = begun["id"].as_str().unwrap().to_owned();
        let killed = tokio::select! {
            () = platform.state.kill_switch.fired.notified() => true,
            _ = platform.finished("web", &id) => false,
        };
        platform.stop().await;
        let again = Platform::start_with(dir.path(), platform.worker.clone()).await;
        prepare(&again);
        again.state.resume().await.unwrap();
        let ended = again.finished("web", &id).await;
        assert_eq!(
            ended["status"], status,
            "killed before write {n_writes}: {ended}"
        );
        assert_serving(&again.machines("web").await, 2, release);
        again.stop().await;
        if !killed {
            assert!(n_writes > 5, "the kill switch struck {n_writes} times");
            return;
        }
    }
    panic!("the deployment has more journal writes than were tried");
}

#[tokio::test]
async fn a_good_release_killed_at_any_journal_write_is_completed_after_a_restart() {
    let body = json!({"config": web("next"), "max_unavailable": 1});
    kill_everywhere(|_| {}, body, "succeeded", "2").await;
}

#[tokio::test]
async fn a_bad_release_killed_at_any_journal_write_is_undone_after_a_restart() {
    let exits = |platform: &Platform| platform.worker.set_fate("web-v2-2", Fate::Exits);
    let body = json!({"config": web("next"), "max_unavailable": 1});
    kill_everywhere(exits, body, "failed", "1").await;
}
