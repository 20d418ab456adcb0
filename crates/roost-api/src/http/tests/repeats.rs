//! Repeated requests with an idempotency key, also across a restart.

use super::{Platform, web};
use serde_json::{Value, json};

#[tokio::test]
async fn a_repeated_request_with_one_key_makes_one_thing() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let send = async |image: &str| {
        let body = json!({"config": web(image)});
        platform
            .call_with_key("/v1/apps/web/machines", "k1", body)
            .await
    };
    let (first, second) = (send("hello").await, send("hello").await);
    assert_eq!((first.0, &first.1), (201, &second.1));
    assert_eq!(send("changed").await.1["code"], "idempotency-mismatch");
    assert_eq!(platform.machines("web").await.len(), 1);
    platform.stop().await;
}

#[tokio::test]
async fn requests_repeated_after_a_restart_get_the_first_answer_and_make_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    let requests = [
        ("/v1/apps", json!({"app_name": "web"})),
        ("/v1/apps/web/deployments", json!({"config": web("hello")})),
        ("/v1/apps/web/machines", json!({"config": web("hello")})),
    ];
    let mut answers = vec![];
    for (path, body) in &requests {
        let (status, answer) = platform.call_with_key(path, "k", body.clone()).await;
        assert_eq!(status, 201, "{answer}");
        answers.push(answer);
    }
    let deployment = answers[1]["id"].as_str().unwrap();
    platform.finished("web", deployment).await;
    let (_, begun) = platform.call_redeploy("r").await;
    platform
        .finished("web", begun["id"].as_str().unwrap())
        .await;
    platform.stop().await;

    let again = Platform::start_with(dir.path(), platform.worker.clone()).await;
    // A key is its token's own, and the token is a new one.
    let again = again.seen_with(platform.token());
    for ((path, body), answer) in requests.iter().zip(&answers) {
        let (status, repeated) = again.call_with_key(path, "k", body.clone()).await;
        assert_eq!((status, &repeated), (201, answer), "{path}");
    }
    assert_eq!(again.call_redeploy("r").await, (201, begun));
    let (_, releases) = again
        .call("GET", "/v1/apps/web/releases", Value::Null)
        .await;
    assert_eq!(releases.as_array().unwrap().len(), 2);
    assert_eq!(again.machines("web").await.len(), 2, "one of them by hand");
    again.stop().await;
}

#[tokio::test]
async fn a_request_that_failed_may_be_repeated_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    let body = json!({"config": {"image": "missing"}});
    for _ in 0..2 {
        let deployments = "/v1/apps/web/deployments";
        let (_, error) = platform.call_with_key(deployments, "k", body.clone()).await;
        assert_eq!(error["code"], "app-not-found");
    }
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    for _ in 0..2 {
        let deployments = "/v1/apps/web/deployments";
        let (_, error) = platform.call_with_key(deployments, "k", body.clone()).await;
        assert_eq!(error["code"], "image-not-found");
    }
    platform.stop().await;
}

#[tokio::test]
async fn a_repeated_request_with_a_very_long_answer_makes_one_machine_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let send = async |letter: &str| {
        let mut config = web("hello");
        config["env"] = json!({"LARGE": letter.repeat(100_000)});
        let machines = "/v1/apps/web/machines";
        let body = json!({"config": config});
        platform.call_with_key(machines, "k", body).await
    };
    let (first, second) = (send("x").await, send("x").await);
    assert_eq!((first.0, &first.1), (201, &second.1));
    assert_eq!(send("y").await.1["code"], "idempotency-mismatch");
    assert_eq!(platform.worker.n_made(), 1);
    platform.stop().await;
}
