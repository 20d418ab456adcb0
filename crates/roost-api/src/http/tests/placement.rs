//! Machines that no node takes, and what a user is told.

use super::{Platform, web};
use crate::placement;
use roost_model::placement::{Capacity, Overcommit};
use roost_model::size::ByteSize;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::worker::{Cause, CreateMachine, Launch, SecretEnv};
use roost_testkit::sim_worker::SimWorker;
use roost_testkit::worker_contract;
use serde_json::{Value, json};

/// Room for so many machines of 256 MiB.
fn room(n_machines: u64) -> Capacity {
    Capacity {
        n_cores: 2,
        memory: ByteSize::mib(256 * n_machines),
        n_machines: 100,
        overcommit: Overcommit::NONE,
    }
}

/// A machine of the app `web`.
fn request() -> CreateMachine {
    let config: MachineConfig = serde_json::from_value(web("hello")).unwrap();
    let identity = MachineIdentity {
        app: "web".to_owned().try_into().unwrap(),
        name: "one".to_owned().try_into().unwrap(),
        region: "local".to_owned().try_into().unwrap(),
    };
    CreateMachine {
        request_id: "r1".into(),
        spec: config.to_spec(identity).unwrap(),
        secrets: SecretEnv::default(),
        launch: Launch::Start,
        cordoned: false,
        reservation: None,
        lease: None,
        placement: None,
    }
}

async fn start(dir: &std::path::Path, capacity: Capacity) -> Platform {
    let platform = Platform::start(dir).await;
    platform.worker.set_capacity(capacity);
    platform
        .call("POST", "/v1/apps", json!({"app_name": "web"}))
        .await;
    platform
}

#[tokio::test]
async fn a_machine_that_no_node_takes_is_refused_with_the_reason_of_each() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path(), room(1)).await;
    let create = async |config: Value| {
        let body = json!({"config": config});
        let (status, answer) = platform.call("POST", "/v1/apps/web/machines", body).await;
        (status.as_u16(), answer)
    };
    assert_eq!(create(web("hello")).await.0, 201);
    let (status, error) = create(web("hello")).await;
    assert_eq!((status, &error["code"]), (503, &json!("no-placement")));
    let refusal = &error["refusals"][0];
    assert_eq!(refusal["reason"], "memory");
    let message = error["error"].as_str().unwrap();
    for part in [
        refusal["node"].as_str().unwrap(),
        "256 MiB wanted, 0 B free",
    ] {
        assert!(message.contains(part), "{part}: {error}");
    }
    assert!(error["hint"].as_str().unwrap().contains("smaller size"));

    let mut config = web("hello");
    config["isolation"] = json!("vm");
    let (status, error) = create(config).await;
    assert_eq!((status, &error["code"]), (422, &json!("no-placement")));
    assert_eq!(error["refusals"][0]["reason"], "isolation");
    assert!(error["error"].as_str().unwrap().contains("there is no KVM"));
    assert_eq!(platform.machines("web").await.len(), 1);
    platform.stop().await;
}

#[tokio::test]
async fn a_size_that_is_none_is_refused_with_what_is_possible() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path(), room(1)).await;
    for (path, size, part) in [
        (
            "size",
            json!("shared-cpu-1"),
            "did you mean `shared-cpu-1x`?",
        ),
        (
            "guest",
            json!({"cpu_kind": "shared", "cpus": 1, "memory_mb": 4096}),
            "2 GiB is the most with 1 shared CPUs",
        ),
    ] {
        let mut config = web("hello");
        config[path] = size;
        for (uri, body) in [
            ("/v1/apps/web/machines", json!({"config": config})),
            ("/v1/apps/web/deployments", json!({"config": config})),
        ] {
            let (status, error) = platform.call("POST", uri, body).await;
            assert_eq!(status, 422, "{error}");
            assert_eq!(error["faults"][0]["path"], path);
            assert!(error["error"].as_str().unwrap().contains(part), "{error}");
        }
    }
    platform.stop().await;
}

#[tokio::test]
async fn a_deployment_without_room_fails_with_the_reason_and_the_old_release_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path(), room(2)).await;
    let first = platform
        .deploy("web", json!({"config": web("hello")}))
        .await;
    assert_eq!(first["status"], "succeeded", "{first}");
    let body = json!({"config": web("hello:2"), "count": 3});
    let second = platform.deploy("web", body).await;
    assert_eq!(second["status"], "failed", "{second}");
    assert_eq!(second["error"]["code"], "no-placement", "{second}");
    let message = second["error"]["message"].as_str().unwrap();
    assert!(message.contains("memory for shared machines"), "{message}");
    let machines = platform.machines("web").await;
    assert_eq!(machines.len(), 1);
    assert_eq!(machines[0]["state"], "started");
    platform.stop().await;
}

#[tokio::test]
async fn a_repeated_creation_is_answered_though_its_machine_took_the_last_room() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path(), room(1)).await;
    let create =
        async || placement::create(&platform.state, request(), &Cause::HostRestart.into()).await;
    let (first, second) = (create().await.unwrap(), create().await.unwrap());
    assert_eq!(first.id, second.id);
    platform.stop().await;
}

#[tokio::test]
async fn the_simulated_worker_keeps_the_contract_of_room() {
    let worker = SimWorker::new();
    worker.set_capacity(room(4));
    worker_contract::room(&worker, &request(), &Cause::HostRestart.into()).await;
}
