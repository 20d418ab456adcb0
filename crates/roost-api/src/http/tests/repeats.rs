//! Repeated requests with an idempotency key.

use super::{Platform, web};
use axum::body::Body;
use serde_json::{Value, json};

#[tokio::test]
async fn a_repeated_request_with_one_key_makes_one_thing() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let send = async |image: &str| {
        let request = platform
            .request("POST", "/v1/apps/web/machines")
            .header("idempotency-key", "k1");
        let body = Body::from(json!({"config": web(image)}).to_string());
        let (status, text) = platform.send(request.body(body).unwrap()).await;
        (
            status.as_u16(),
            serde_json::from_str::<Value>(&text).unwrap(),
        )
    };
    let (first, second) = (send("hello").await, send("hello").await);
    assert_eq!((first.0, &first.1["id"]), (201, &second.1["id"]));
    assert_eq!(send("changed").await.1["code"], "idempotency-mismatch");
    assert_eq!(platform.machines("web").await.len(), 1);
    platform.stop().await;
}
