//! Metadata of machines, and what of it is not for users.

use super::{Platform, web};
use serde_json::{Value, json};

#[tokio::test]
async fn metadata_is_set_without_a_new_version_and_finds_machines() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let mut paths = vec![];
    for name in ["one", "two"] {
        let body = json!({"config": web("hello"), "name": name, "skip_launch": name == "two"});
        let (_, machine) = platform.call("POST", "/v1/apps/web/machines", body).await;
        paths.push(format!(
            "/v1/apps/web/machines/{}",
            machine["id"].as_str().unwrap()
        ));
    }
    let (_, before) = platform.call("GET", &paths[0], Value::Null).await;
    let entry = format!("{}/metadata/role", paths[0]);
    let (status, _) = platform
        .call("POST", &entry, json!({"value": "blue"}))
        .await;
    assert_eq!(status, 204);
    let (_, after) = platform.call("GET", &paths[0], Value::Null).await;
    assert_eq!(after["instance_id"], before["instance_id"]);
    let all = format!("{}/metadata", paths[0]);
    let (_, metadata) = platform.call("GET", &all, Value::Null).await;
    assert_eq!(metadata, json!({"role": "blue"}));
    for key in ["fly_x", "roost_deployment_id"] {
        let reserved = format!("{}/metadata/{key}", paths[0]);
        let set = platform.call("POST", &reserved, json!({"value": ""})).await;
        let remove = platform.call("DELETE", &reserved, Value::Null).await;
        assert_eq!((set.0.as_u16(), remove.0.as_u16()), (422, 422));
    }
    let names = async |query: &str| {
        let path = format!("/v1/apps/web/machines?{query}");
        let (_, found) = platform.call("GET", &path, Value::Null).await;
        let found = found.as_array().unwrap().iter();
        found
            .map(|machine| machine["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("metadata.role=blue").await, ["one"]);
    assert_eq!(names("state=created&region=local").await, ["two"]);
    assert_eq!(names("state=created,started").await.len(), 2);
    assert!(names("metadata.role=blue&state=created").await.is_empty());
    assert_eq!(platform.call("DELETE", &entry, Value::Null).await.0, 204);
    assert!(names("metadata.role=blue").await.is_empty());
    platform.stop().await;
}

#[tokio::test]
async fn what_roost_writes_into_metadata_is_refused_of_users_and_stays_when_they_update() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let body = json!({"config": web("hello")});
    platform.deploy("web", body).await;
    let machine = platform.machines("web").await.remove(0);
    let path = format!("/v1/apps/web/machines/{}", machine["id"].as_str().unwrap());
    let copied = json!({"config": machine["config"]});
    for path in ["/v1/apps/web/machines", "/v1/apps/web/deployments"] {
        let (status, error) = platform.call("POST", path, copied.clone()).await;
        assert_eq!(status, 422, "{path}: {error}");
        let faulted = &error["faults"][0]["path"];
        assert_eq!(*faulted, "metadata.roost_deployment_id", "{error}");
    }
    assert_eq!(platform.machines("web").await.len(), 1);

    let mut other = copied.clone();
    other["config"]["metadata"]["roost_release_version"] = json!("7");
    let (status, error) = platform.call("POST", &path, other).await;
    assert_eq!(status, 422, "{error}");
    for config in [copied["config"].clone(), web("hello:2")] {
        let body = json!({"config": config});
        let (status, updated) = platform.call("POST", &path, body).await;
        assert_eq!(status, 200, "{updated}");
        let kept = &updated["config"]["metadata"];
        assert_eq!(*kept, machine["config"]["metadata"]);
    }
    platform.stop().await;
}
