//! What the edge tells of requests, to those who may know.

use super::Platform;
use axum::body::Body;
use http::Request;
use roost_model::name::AppName;
use roost_proto::release_traffic::{Reading, ReleaseTraffic, Tally};
use roost_proto::rest::RequestRecord;
use roost_proto::traffic::TrafficRecords;
use serde_json::{Value, json};
use std::sync::Arc;

/// An edge that has seen a request of the app `web`, and one of nobody.
struct Edge;

impl TrafficRecords for Edge {
    fn request(&self, id: &str) -> Option<Arc<RequestRecord>> {
        let app = match id {
            "of-web" => json!("web"),
            "of-nobody" => Value::Null,
            _ => return None,
        };
        let record = json!({
            "request_id": id, "trace_id": "", "at": 1, "edge": "n", "region": "local",
            "table_version": 1, "client": "192.0.2.1", "protocol": "HTTP/1.1", "tls": false,
            "method": "GET", "host": "web.localhost", "path": "/", "app": app, "status": 200,
            "response_bytes": 1, "complete": true, "first_byte_us": 1, "total_us": 2,
            "attempts": [], "spans": [],
        });
        Some(Arc::new(serde_json::from_value(record).unwrap()))
    }

    fn metrics(&self) -> String {
        "counted 1\n".to_owned()
    }

    fn tallies(&self, app: &AppName) -> Reading {
        let tally = |release| Tally {
            id: release,
            release,
            traffic: ReleaseTraffic {
                unanswered: release,
                ..ReleaseTraffic::default()
            },
        };
        Reading {
            own: (app.as_str() == "web")
                .then(|| tally(2))
                .into_iter()
                .collect(),
            ..Reading::default()
        }
    }
}

async fn get(platform: &Platform, path: &str, token: &str) -> (u16, String) {
    let request = Request::builder()
        .uri(path)
        .header("authorization", format!("Bearer {token}"))
        .body(Body::empty())
        .unwrap();
    let (status, text) = platform.send(request).await;
    (status.as_u16(), text)
}

#[tokio::test]
async fn records_are_for_the_admin_and_the_app_and_metrics_for_the_admin() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    for app in ["web", "other"] {
        let body = json!({"app_name": app});
        platform.call("POST", "/v1/apps", body).await;
    }
    let (of_web, of_other) = (
        platform.deploy_token("web").await,
        platform.deploy_token("other").await,
    );
    let admin = platform.token();
    assert_eq!(get(&platform, "/v1/requests/of-web", &admin).await.0, 404);
    platform.state.show_records(Arc::new(Edge));
    for (id, token, expected) in [
        ("of-web", &admin, 200),
        ("of-web", &of_web, 200),
        ("of-web", &of_other, 403),
        ("of-nobody", &admin, 200),
        ("of-nobody", &of_web, 403),
        ("unknown", &admin, 404),
        ("unknown", &of_web, 403),
    ] {
        let (status, text) = get(&platform, &format!("/v1/requests/{id}"), token).await;
        assert_eq!(status, expected, "{id}: {text}");
        assert!(
            status != 404 || text.contains("request-not-found"),
            "{text}"
        );
    }
    let metrics = get(&platform, "/v1/metrics", &admin).await;
    assert_eq!(metrics, (200, "counted 1\n".to_owned()));
    assert_eq!(get(&platform, "/v1/metrics", &of_web).await.0, 403);
    platform.stop().await;
}

#[tokio::test]
async fn what_the_edge_has_counted_of_releases_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    let web = AppName::parse("web").unwrap();
    assert_eq!(platform.state.tallies(&web), Reading::default());
    platform.state.show_records(Arc::new(Edge));
    let seen = platform.state.tallies(&web);
    assert_eq!(seen.own[0].traffic.errors(), 2);
    platform.stop().await;
}
