//! Who may: every route, without a token and with another app's.

use super::Platform;
use axum::body::Body;
use http::Request;
use serde_json::Value;

#[tokio::test]
async fn without_a_token_every_route_says_401_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    let document = serde_json::to_value(crate::http::openapi()).unwrap();
    let mut n_routes = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| ["get", "post", "delete", "put"].contains(&key.as_str()))
        {
            let path = path
                .replace("{app}", "web")
                .replace("{id}", "00000000000000")
                .replace("{name}", "A");
            let request = Request::builder()
                .method(method.to_uppercase().as_str())
                .uri(path.replace("{version}", "1"))
                .header("authorization", "Bearer roost_wrong");
            let (status, text) = platform.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(status, 401, "{method} {path}: {text}");
            let error: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(error["code"], "unauthenticated");
            assert!(error["request_id"].as_str().unwrap().starts_with("req_"));
            n_routes += 1;
        }
    }
    assert!(n_routes > 30, "{n_routes}");
    let healthz = Request::builder()
        .uri("/healthz")
        .body(Body::empty())
        .unwrap();
    assert_eq!(platform.send(healthz).await.0, 200);
    platform.stop().await;
}
