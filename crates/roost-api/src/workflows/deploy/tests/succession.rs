//! One deployment after the other, as close as can be.

use super::{assert_serving, start};
use crate::http::tests::{Platform, web};
use crate::workflows::deploy::{DEPLOYMENT_KEY, RELEASE_KEY};
use roost_model::id::MachineId;
use roost_proto::worker::{Cause, WorkerApi as _};
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
