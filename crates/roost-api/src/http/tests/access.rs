//! Every route of the OpenAPI document: who may, and how much may be sent.

use super::{Platform, web};
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, StatusCode};
use serde_json::{Value, json};

/// One operation of the document, with all that its path and body need.
struct Operation {
    id: String,
    method: String,
    path: String,
    takes_json: bool,
}

impl Operation {
    /// A body that would be accepted, so that only the token can be what is refused.
    fn body(&self) -> Body {
        let value = match self.id.as_str() {
            "create" => json!({"app_name": "new"}),
            "create_machine" | "update_machine" | "create_deployment" => {
                json!({"config": web("hello")})
            }
            "patch_machine" => json!({"config": {}, "current_version": "1"}),
            "signal_machine" => json!({"signal": 1}),
            "exec_in_machine" => json!({"command": ["true"]}),
            "set_secrets" => json!({"values": {"A": "x"}}),
            "set_secret" | "set_metadata" => json!({"value": "x"}),
            "issue_certificate" => json!({"hostname": "www.example.com"}),
            "upload_certificate" => {
                json!({"hostname": "www.example.com", "fullchain": "", "private_key": ""})
            }
            "assign_ip" => json!({"type": "v4"}),
            "pull_image" => json!({"image": "hello"}),
            _ => return Body::empty(),
        };
        Body::from(value.to_string())
    }

    fn request(&self, token: &str, body: Body) -> Request<Body> {
        Request::builder()
            .method(self.method.as_str())
            .uri(&self.path)
            .header("authorization", format!("Bearer {token}"))
            .body(body)
            .unwrap()
    }

    fn is_of_an_app(&self) -> bool {
        self.path.starts_with("/v1/apps/web")
    }
}

fn operations() -> Vec<Operation> {
    let document = serde_json::to_value(crate::http::openapi()).unwrap();
    let mut found = vec![];
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if !["get", "post", "put", "patch", "delete"].contains(&method.as_str()) {
                continue;
            }
            let id = if path.contains("/deployments/") {
                "dep_01ARZ3NDEKTSV4RRFFQ69G5FAV"
            } else if path.contains("/operations/") {
                "run_01ARZ3NDEKTSV4RRFFQ69G5FAV"
            } else {
                "00000000000000"
            };
            let mut path = path
                .replace("{app}", "web")
                .replace("{id}", id)
                .replace("{name}", "A")
                .replace("{key}", "A")
                .replace("{version}", "1")
                .replace("{ip}", "192.0.2.1")
                .replace("{hostname}", "www.example.com");
            assert!(!path.contains('{'), "{path} has a part with no sample");
            if path.ends_with("/builds") {
                path += "?plan=%7B%22kind%22%3A%22static%22%2C%22root%22%3A%22p%22%7D";
            }
            let content = &operation["requestBody"]["content"];
            found.push(Operation {
                id: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase(),
                path,
                takes_json: !content["application/json"].is_null(),
            });
        }
    }
    assert!(found.len() > 30, "{}", found.len());
    found
}

async fn start(dir: &std::path::Path) -> Platform {
    let platform = Platform::start(dir).await;
    for app in ["web", "other"] {
        platform
            .call("POST", "/v1/apps", json!({"app_name": app}))
            .await;
    }
    platform
}

#[tokio::test]
async fn without_a_token_every_route_says_401_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    for operation in operations() {
        let request = operation.request("roost_wrong", operation.body());
        let (status, text) = platform.send(request).await;
        assert_eq!(status, 401, "{}: {text}", operation.id);
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(error["code"], "unauthenticated");
        assert!(error["request_id"].as_str().unwrap().starts_with("req_"));
    }
    let healthz = Request::builder()
        .uri("/healthz")
        .body(Body::empty())
        .unwrap();
    assert_eq!(platform.send(healthz).await.0, 200);
    platform.stop().await;
}

#[tokio::test]
async fn the_token_of_another_app_gets_nothing_of_an_app_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let (other, own) = (
        platform.deploy_token("other").await,
        platform.deploy_token("web").await,
    );
    for operation in operations() {
        let request = operation.request(&other, operation.body());
        let (status, text) = platform.send(request).await;
        let for_everybody = ["/v1/node", "/v1/token"].contains(&operation.path.as_str());
        let expected = if for_everybody { 200 } else { 403 };
        assert_eq!(status, expected, "{}: {text}", operation.id);
    }
    let (_, app) = platform.call("GET", "/v1/apps/web", Value::Null).await;
    assert_eq!(app["status"], "pending", "{app}");
    // The refusals are about the token: its own app's gets through to all but deletion.
    for operation in operations().iter().filter(|one| one.is_of_an_app()) {
        let request = operation.request(&own, operation.body());
        let is_deletion =
            (operation.method.as_str(), operation.path.as_str()) == ("DELETE", "/v1/apps/web");
        // Streams are not read to their end.
        let status = platform.status_of(request).await;
        assert_eq!(
            status == StatusCode::FORBIDDEN,
            is_deletion,
            "{}: {status}",
            operation.id
        );
    }
    platform.stop().await;
}

#[tokio::test]
async fn every_json_body_is_refused_at_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let json_operations = operations().into_iter().filter(|one| one.takes_json);
    let mut n_tried = 0;
    for operation in json_operations {
        let spaces = || Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 65536]));
        let endless = Body::from_stream(stream::repeat_with(spaces));
        let request = operation.request(&platform.token(), endless);
        assert_eq!(platform.send(request).await.0, 413, "{}", operation.id);
        n_tried += 1;
    }
    assert!(n_tried >= 9, "{n_tried}");
    platform.stop().await;
}
