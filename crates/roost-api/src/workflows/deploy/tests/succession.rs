//! One deployment after the other, as close as can be.

use super::cancel::{await_step, begin};
use super::{assert_serving, ids, start};
use crate::http::tests::{Platform, web};
use crate::workflows::deploy::{DEPLOYMENT_KEY, RELEASE_KEY};
use roost_model::id::MachineId;
use roost_proto::worker::{Asker, Cause, WorkerApi as _};
use roost_testkit::sim_worker::Fate;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deployments_that_begin_as_another_one_ends_count_each_machine_once() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Arc::new(start(dir.path()).await);
    platform
        .deploy("web", json!({"config": web("hello"), "count": 2}))
        .await;
    let mut callers = JoinSet::new();
    for _ in 0..3 {
        let platform = Arc::clone(&platform);
        callers.spawn(async move {
            for _ in 0..6 {
                deploy_as_soon_as_possible(&platform).await;
            }
        });
    }
    callers.join_all().await;
    let last = deploy_as_soon_as_possible(&platform).await;
    let version = last["release"].as_u64().unwrap().to_string();
    assert_eq!(version, "20", "each caller was served");
    let ended = platform.finished("web", last["id"].as_str().unwrap()).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert_serving(&platform.machines("web").await, 2, &version);
    platform.stop().await;
}

/// Asks without pause until the deployment before has ended.
async fn deploy_as_soon_as_possible(platform: &Platform) -> Value {
    loop {
        let path = "/v1/apps/web/deployments";
        let body = json!({"config": web("hello")});
        let (status, answer) = platform.call("POST", path, body).await;
        if status == 201 {
            return answer;
        }
        assert_eq!(answer["code"], "deploy-in-progress", "{answer}");
    }
}

#[tokio::test]
async fn a_machine_that_an_earlier_deployment_could_not_remove_is_removed_and_not_counted() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    platform
        .deploy("web", json!({"config": web("hello"), "count": 2}))
        .await;
    let body = json!({"config": web("hello"), "skip_launch": true});
    let (_, left_over) = platform.call("POST", "/v1/apps/web/machines", body).await;
    let id = MachineId::parse(left_over["id"].as_str().unwrap()).unwrap();
    for (key, value) in [(DEPLOYMENT_KEY, "dep_earlier"), (RELEASE_KEY, "0")] {
        let asker = Cause::Reconciler.into();
        let set = platform
            .worker
            .set_metadata(&id, key, Some(value.into()), &asker);
        set.await.unwrap();
    }
    assert_eq!(platform.machines("web").await.len(), 3);
    platform
        .deploy("web", json!({"config": web("hello")}))
        .await;
    assert_serving(&platform.machines("web").await, 2, "2");
    platform.stop().await;
}

#[tokio::test]
async fn an_old_machine_that_is_woken_meanwhile_is_stopped_before_it_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    platform
        .deploy("web", json!({"config": web("hello")}))
        .await;
    let [old] = &ids(&platform.machines("web").await)[..] else {
        panic!("one machine");
    };
    let asker = Asker::from(Cause::Reconciler);
    let old = MachineId::parse(old).unwrap();
    let stopped = platform.worker.stop_machine(&old, None, None, &asker).await;
    stopped.unwrap();
    platform.worker.hold_destruction(true);
    platform.worker.set_fate("web-v2-1", Fate::Unhealthy);
    let body = json!({"config": web("next"), "wait_timeout": 3600});
    let id = begin(&platform, body).await;
    await_step(&platform, &id, "healthy").await;
    platform.worker.start_machine(&old, &asker).await.unwrap();
    // The new one passes its checks from its next start on.
    platform.worker.set_fate("web-v2-1", Fate::Healthy);
    for new in ids(&platform.machines("web").await) {
        let new = MachineId::parse(&new).unwrap();
        if new != old {
            let restarted = platform.worker.restart_machine(&new, &asker).await;
            restarted.unwrap();
        }
    }
    let ended = platform.finished("web", &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let events = platform.worker.machine_events(&old, 3).await.unwrap();
    let last: Vec<&str> = events.iter().rev().map(|event| &*event.kind).collect();
    assert_eq!(last, ["cordon", "stop", "destroy"]);
    platform.stop().await;
}
