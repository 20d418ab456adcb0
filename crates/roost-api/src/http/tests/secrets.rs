//! Secrets: given to machines, never shown.

use super::{Platform, web};
use serde_json::{Value, json};

#[tokio::test]
async fn secrets_reach_machines_and_never_an_answer_or_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path()).await;
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    let body = json!({"values": {"KEY": "hunter2secret", "GONE": "hunter2secret"}});
    let (status, first) = platform.call("POST", "/v1/apps/web/secrets", body).await;
    assert_eq!((status.as_u16(), &first["version"]), (200, &json!(1)));
    assert_eq!(
        first["secrets"][0]["digest"], first["secrets"][1]["digest"],
        "equal values look equal"
    );
    platform
        .call("DELETE", "/v1/apps/web/secrets/GONE", Value::Null)
        .await;
    let deployment = platform
        .deploy("web", json!({"config": web("hello")}))
        .await;
    assert_eq!(deployment["status"], "succeeded", "{deployment}");
    let machines = platform.machines("web").await;
    let id = roost_model::id::MachineId::parse(machines[0]["id"].as_str().unwrap()).unwrap();
    let given = platform.worker.secrets(&id).unwrap();
    assert_eq!(
        given.0.into_iter().collect::<Vec<_>>(),
        [("KEY".to_owned(), "hunter2secret".to_owned())]
    );
    for path in [
        "",
        "/machines",
        "/secrets",
        "/secrets?",
        "/releases",
        "/deployments",
    ] {
        let (_, answer) = platform
            .call("GET", &format!("/v1/apps/web{path}"), Value::Null)
            .await;
        assert!(!answer.to_string().contains("hunter2"), "{path}");
    }
    platform.stop().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(
            !bytes.windows(7).any(|window| window == b"hunter2"),
            "no file holds the value"
        );
    }
}
