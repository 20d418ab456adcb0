//! One deployment after the other, as close as can be.

use super::{assert_serving, start};
use crate::http::tests::web;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deployments_that_begin_as_another_one_ends_count_each_machine_once() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    platform
        .deploy("web", json!({"config": web("hello"), "count": 2}))
        .await;
    for _ in 0..15 {
        // Asked for without pause until the one before has ended.
        loop {
            let body = json!({"config": web("hello")});
            let path = "/v1/apps/web/deployments";
            let (status, answer) = platform.call("POST", path, body).await;
            if status == 201 {
                break;
            }
            assert_eq!(answer["code"], "deploy-in-progress", "{answer}");
        }
    }
    let body = json!({"config": web("hello")});
    let last = loop {
        let path = "/v1/apps/web/deployments";
        let (status, answer) = platform.call("POST", path, body.clone()).await;
        if status == 201 {
            let id = answer["id"].as_str().unwrap().to_owned();
            break platform.finished("web", &id).await;
        }
    };
    assert_eq!(last["status"], "succeeded", "{last}");
    let version = last["release"].as_u64().unwrap().to_string();
    assert_serving(&platform.machines("web").await, 2, &version);
    platform.stop().await;
}

#[tokio::test]
async fn a_machine_that_an_earlier_deployment_could_not_remove_is_removed_and_not_counted() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    platform
        .deploy("web", json!({"config": web("hello"), "count": 2}))
        .await;
    let mut left_over = web("hello");
    left_over["metadata"] =
        json!({"roost_deployment_id": "dep_earlier", "roost_release_version": "0"});
    let body = json!({"config": left_over, "skip_launch": true});
    platform.call("POST", "/v1/apps/web/machines", body).await;
    assert_eq!(platform.machines("web").await.len(), 3);
    platform
        .deploy("web", json!({"config": web("hello")}))
        .await;
    assert_serving(&platform.machines("web").await, 2, "2");
    platform.stop().await;
}
