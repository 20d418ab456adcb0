//! Cancelling: in time, too late, again, and with a kill in between.

use super::{assert_serving, ids, start};
use crate::http::tests::{Platform, web};
use crate::workflows::deploy;
use http::StatusCode;
use roost_fsm::journal::{Journal as _, NewRun};
use roost_fsm::record::{Cancel, Kind, Turn};
use roost_fsm::workflow::OnBusy;
use roost_model::id::RunId;
use roost_model::name::AppName;
use roost_proto::worker::{Cause, Launch, SecretEnv, UpdateMachine, WorkerApi as _};
use roost_store::records::DeploymentStatus;
use roost_testkit::sim_worker::Fate;
use serde_json::{Value, json};
use std::time::Duration;

pub(super) async fn begin(platform: &Platform, body: Value) -> String {
    let (status, begun) = platform
        .call("POST", "/v1/apps/web/deployments", body)
        .await;
    assert_eq!(status, 201, "{begun}");
    begun["id"].as_str().unwrap().to_owned()
}

async fn cancel(platform: &Platform, id: &str) -> (StatusCode, Value) {
    let path = format!("/v1/apps/web/deployments/{id}/cancel");
    platform.call("POST", &path, Value::Null).await
}

/// Waits until the deployment has a step of this name.
pub(super) async fn await_step(platform: &Platform, id: &str, name: &str) {
    for _ in 0..6000 {
        let path = format!("/v1/apps/web/deployments/{id}");
        let (_, deployment) = platform.call("GET", &path, Value::Null).await;
        let steps = deployment["steps"].as_array().unwrap();
        if steps.iter().any(|step| step["name"] == name) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("deployment {id} never came to `{name}`");
}

#[tokio::test]
async fn a_deployment_that_waits_is_cancelled_at_once_and_the_old_release_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    platform
        .deploy("web", json!({"config": web("hello"), "count": 3}))
        .await;
    let before = ids(&platform.machines("web").await);
    // The first batch replaces one machine, the second one waits for an hour.
    platform.worker.set_fate("web-v2-2", Fate::Unhealthy);
    let id = begin(
        &platform,
        json!({"config": web("next"), "max_unavailable": 1, "wait_timeout": 3600}),
    )
    .await;
    await_step(&platform, &id, "stop").await;
    let (status, answer) = cancel(&platform, &id).await;
    assert_eq!(
        (status.as_u16(), &answer["id"]),
        (202, &json!(id)),
        "{answer}"
    );
    let ended = platform.finished("web", &id).await;
    assert_eq!(ended["status"], "failed", "{ended}");
    assert_eq!(ended["error"]["code"], "deploy-cancelled", "{ended}");
    let machines = platform.machines("web").await;
    assert_serving(&machines, 3, "1");
    assert_eq!(ids(&machines), before, "the old machines are the same");
    let (status, again) = cancel(&platform, &id).await;
    assert_eq!(
        (status.as_u16(), &again["status"]),
        (202, &json!("failed")),
        "again is harmless"
    );
    let next = platform.deploy("web", json!({"config": web("next")})).await;
    assert_eq!(next["status"], "succeeded", "the way is free: {next}");
    platform.stop().await;
}

#[tokio::test]
async fn machines_of_a_deployment_are_its_own_until_its_end_and_go_with_it_whatever_their_labels() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    platform
        .deploy("web", json!({"config": web("hello")}))
        .await;
    let before = ids(&platform.machines("web").await);
    platform.worker.set_fate("web-v2-1", Fate::Unhealthy);
    let id = begin(
        &platform,
        json!({"config": web("next"), "wait_timeout": 3600}),
    )
    .await;
    await_step(&platform, &id, "healthy").await;
    for machine in ids(&platform.machines("web").await) {
        let path = format!("/v1/apps/web/machines/{machine}");
        for (method, action, body) in [
            ("POST", "", json!({"config": web("other")})),
            ("POST", "/start", Value::Null),
            ("POST", "/stop", json!({})),
            ("POST", "/restart", Value::Null),
            ("POST", "/cordon", Value::Null),
            ("DELETE", "?force=true", Value::Null),
        ] {
            let (status, error) = platform
                .call(method, &format!("{path}{action}"), body)
                .await;
            assert_eq!(
                (status.as_u16(), &error["code"]),
                (409, &json!("deploy-in-progress")),
                "{method} {action}: {error}"
            );
        }
    }
    // The worker itself refuses nobody.
    let machines = platform.worker.machines(None).await.unwrap();
    let new = machines
        .into_iter()
        .find(|machine| machine.id.to_string() != before[0])
        .unwrap();
    let mut update = UpdateMachine {
        current_version: None,
        spec: new.spec,
        secrets: SecretEnv::default(),
        launch: Launch::Start,
    };
    update.spec.metadata.clear();
    platform
        .worker
        .update_machine(&new.id, update, &Cause::HostRestart.into())
        .await
        .unwrap();
    cancel(&platform, &id).await;
    let ended = platform.finished("web", &id).await;
    assert_eq!(ended["status"], "failed", "{ended}");
    assert_eq!(ids(&platform.machines("web").await), before);
    let path = format!("/v1/apps/web/machines/{}/cordon", before[0]);
    assert_eq!(platform.call("POST", &path, Value::Null).await.0, 200);
    platform.stop().await;
}

#[tokio::test]
async fn what_ended_or_is_nobodys_is_not_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let done = platform
        .deploy("web", json!({"config": web("hello")}))
        .await;
    let id = done["id"].as_str().unwrap();
    let (status, error) = cancel(&platform, id).await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (409, &json!("too-late-to-cancel"))
    );
    let (_, after) = platform
        .call(
            "GET",
            &format!("/v1/apps/web/deployments/{id}"),
            Value::Null,
        )
        .await;
    assert_eq!(
        (&after["status"], &after["error"]),
        (&json!("succeeded"), &Value::Null)
    );
    platform
        .call("POST", "/v1/apps", json!({"app_name": "other"}))
        .await;
    let elsewhere = format!("/v1/apps/other/deployments/{id}/cancel");
    assert_eq!(platform.call("POST", &elsewhere, Value::Null).await.0, 404);
    assert_eq!(cancel(&platform, "dep_x").await.0, 422);
    platform.stop().await;
}

#[tokio::test]
async fn of_a_cancellation_and_the_point_of_no_return_one_wins_and_a_kill_changes_neither() {
    for n_writes in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let platform = start(dir.path()).await;
        platform
            .deploy("web", json!({"config": web("hello"), "count": 2}))
            .await;
        platform.state.kill_switch.after(n_writes);
        let id = begin(
            &platform,
            json!({"config": web("next"), "max_unavailable": 1}),
        )
        .await;
        let killed = tokio::select! {
            () = platform.state.kill_switch.fired.notified() => true,
            _ = platform.finished("web", &id) => false,
        };
        let (status, answer) = cancel(&platform, &id).await;
        platform.stop().await;
        let again = Platform::start_with(dir.path(), platform.worker.clone()).await;
        again.state.resume().await.unwrap();
        let ended = again.finished("web", &id).await;
        let (expected, release) = match status.as_u16() {
            202 => ("failed", "1"),
            409 => ("succeeded", "2"),
            _ => panic!("{answer}"),
        };
        assert_eq!(ended["status"], expected, "before write {n_writes}");
        assert_serving(&again.machines("web").await, 2, release);
        again.stop().await;
        if !killed {
            assert!(n_writes > 6, "the kill switch struck {n_writes} times");
            assert_eq!(status, 409, "it had ended");
            return;
        }
    }
    panic!("the deployment has more journal writes than were tried");
}

/// A run that nobody executes keeps the app's next one waiting.
async fn block(platform: &Platform) {
    let name = AppName::parse("web").unwrap();
    let app = platform.state.store.app(&name).await.unwrap();
    let blocker = NewRun {
        id: RunId::from_ulid(ulid::Ulid::nil()),
        kind: Kind {
            name: "nobody's".into(),
            version: 1,
        },
        subject: deploy::subject(&app.id).unwrap(),
        on_busy: OnBusy::Queue,
        key: None,
        parent: None,
        cause: "{}".into(),
        params: "{}".into(),
        created_at: app.created_at,
    };
    platform.state.store.runs().open(blocker).await.unwrap();
}

#[tokio::test]
async fn a_deployment_that_has_not_begun_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    block(&platform).await;
    let id = begin(&platform, json!({"config": web("hello")})).await;
    let (status, answer) = cancel(&platform, &id).await;
    assert_eq!(
        (status.as_u16(), &answer["status"]),
        (202, &json!("failed"))
    );
    assert_eq!(answer["error"]["code"], "deploy-cancelled", "{answer}");
    assert!(!answer["finished_at"].is_null());
    assert!(platform.machines("web").await.is_empty());
    platform.stop().await;
}

#[tokio::test]
async fn a_deployment_whose_run_ended_before_a_kill_ends_with_the_next_start() {
    for (left_at, status, code) in [
        (
            DeploymentStatus::Pending,
            "failed",
            json!("deploy-cancelled"),
        ),
        (DeploymentStatus::Retiring, "succeeded", Value::Null),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let platform = start(dir.path()).await;
        block(&platform).await;
        let id = begin(&platform, json!({"config": web("hello")})).await;
        let store = &platform.state.store;
        let record = store.unfinished_deployments(None).await.unwrap().remove(0);
        let set = store.set_deployment_status(&record, left_at, None, record.created_at);
        set.await.unwrap();
        let run = store.run_with_key(&id).await.unwrap().unwrap();
        let cancel = Cancel {
            at: record.created_at,
            turn: Turn::Cancelled,
            reason: "by hand".into(),
        };
        store.runs().ask_cancel(run.id, cancel).await.unwrap();
        platform.stop().await;
        let again = Platform::start_with(dir.path(), platform.worker.clone()).await;
        again.state.resume().await.unwrap();
        let ended = again.finished("web", &id).await;
        assert_eq!(
            (&ended["status"], &ended["error"]["code"]),
            (&json!(status), &code)
        );
        again.stop().await;
    }
}
