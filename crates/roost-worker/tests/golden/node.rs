//! A node, and the machines on it when its database is dumped.

use roost_host::fake::FakeLaunch;
use roost_model::id::ReservationId;
use roost_model::machine::{Guest, MachineSpec, MachineState};
use roost_model::name::{AppName, MachineName};
use roost_model::placement::{Capacity, Overcommit};
use roost_model::size::ByteSize;
use roost_model::time::Timestamp;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::worker::{
    Asker, Cause, CreateMachine, Launch, LeaseNonce, Operation, OperationFilter, Reserve,
    SecretEnv, TakeLease, WorkerApi as _,
};
use roost_runtime::clock::Clock;
use roost_worker::Worker;
use roost_worker::testing::{Node, Run, region};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// When the dumps were made; leases and reservations hold for some minutes.
const MADE_AT: Timestamp = Timestamp::from_ms(1_800_000_000_000);
pub(crate) const NONCE: &str = "0123456789abcdef";

/// It stands still.
#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        MADE_AT
    }
}

/// An empty node; its machines take all that they like.
pub(crate) fn node() -> Node {
    let capacity = Capacity {
        n_cores: 64,
        memory: ByteSize::gib(256),
        n_machines: 10,
        overcommit: Overcommit::DEFAULT,
    };
    let mut node = Node::new(capacity);
    node.clock = Arc::new(StoppedClock);
    node
}

/// A machine that runs under a lease, one that was stopped, one that is being
/// launched, one that was destroyed; and a reservation.
pub(crate) async fn fill(node: &Node, run: &Run) {
    let worker = &run.worker;
    let runs = worker
        .create_machine(creation("run"), &asker())
        .await
        .unwrap();
    run.wait(&runs.id, MachineState::Started).await;
    let lease = TakeLease {
        nonce: LeaseNonce::parse(NONCE).unwrap(),
        ttl: Duration::from_secs(600),
        description: "a migration".into(),
    };
    worker.take_lease(&runs.id, lease, &asker()).await.unwrap();
    let stopped = worker
        .create_machine(creation("stopped"), &asker())
        .await
        .unwrap();
    run.wait(&stopped.id, MachineState::Started).await;
    worker
        .stop_machine(&stopped.id, None, None, &asker())
        .await
        .unwrap();
    run.wait(&stopped.id, MachineState::Stopped).await;
    worker
        .set_cordoned(&stopped.id, true, &asker())
        .await
        .unwrap();
    node.host.plan_launches([FakeLaunch::Hang]);
    worker
        .create_machine(creation("begun"), &asker())
        .await
        .unwrap();
    while node.host.launches().len() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let gone = worker
        .create_machine(creation("gone"), &asker())
        .await
        .unwrap();
    run.wait(&gone.id, MachineState::Started).await;
    worker
        .destroy_machine(&gone.id, true, &asker())
        .await
        .unwrap();
    run.wait(&gone.id, MachineState::Destroyed).await;
    let filter = OperationFilter {
        machine: Some(gone.id),
        limit: 50,
        ..OperationFilter::default()
    };
    finished(&run.worker, filter).await;
    let reservation = Reserve {
        id: ReservationId::from_ulid(ulid::Ulid::from_parts(2, 2)),
        guest: Guest::DEFAULT,
        hold: Duration::from_secs(600),
    };
    worker.reserve(reservation).await.unwrap();
}

pub(crate) fn asker() -> Asker {
    Asker::from(Cause::User {
        token: "tok_1".into(),
        name: "ann".into(),
    })
}

pub(crate) fn creation(name: &str) -> CreateMachine {
    CreateMachine {
        request_id: name.into(),
        spec: spec(name),
        secrets: SecretEnv(BTreeMap::from([("TOKEN".into(), "hunter2".into())])),
        launch: Launch::Start,
        cordoned: false,
        reservation: None,
        lease: None,
        placement: None,
    }
}

pub(crate) fn spec(name: &str) -> MachineSpec {
    let config: MachineConfig = serde_json::from_value(serde_json::json!({
        "image": "nginx:1.25",
        "env": {"A": "b"},
        "guest": {"cpu_kind": "shared", "cpus": 2, "memory_mb": 512},
        "services": [{"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}],
        "metadata": {"tier": "gold"},
    }))
    .unwrap();
    let identity = MachineIdentity {
        app: AppName::parse("web").unwrap(),
        name: MachineName::parse(name).unwrap(),
        region: region(),
    };
    config.to_spec(identity).unwrap()
}

/// Operations, once all of them have ended.
pub(crate) async fn finished(worker: &Worker, filter: OperationFilter) -> Vec<Operation> {
    for _ in 0..1_000 {
        let operations = worker.operations(filter.clone()).await.unwrap();
        if operations
            .iter()
            .all(|operation| operation.ended_at.is_some())
        {
            return operations;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("some operation does not end");
}
