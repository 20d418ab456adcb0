//! Machines that stand by for others.

use super::{Node, samples};
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use roost_proto::worker::{Launch, SecretEnv, UpdateMachine, WorkerApi as _};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_standby_rests_until_it_is_started_by_name() {
    let node = Node::new();
    let run = node.start().await;
    let (worker, asker) = (&run.worker, samples::asker());
    let mut request = samples::create("r1");
    request.spec.standbys = vec![MachineId::from_bytes([9; 7])];
    let spec = request.spec.clone();
    let created = worker.create_machine(request, &asker).await.unwrap();
    let id = created.id;
    let update = || UpdateMachine {
        current_version: None,
        spec: spec.clone(),
        secrets: SecretEnv::default(),
        launch: Launch::Start,
    };
    worker.restart_machine(&id, &asker).await.unwrap();
    let updated = worker.update_machine(&id, update(), &asker).await.unwrap();
    assert_ne!(updated.instance_id, created.instance_id);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let resting = worker.machine(&id).await.unwrap();
    assert_eq!(resting.state, MachineState::Created);
    assert_eq!(node.host.launches().len(), 0);

    worker.start_machine(&id, &asker).await.unwrap();
    run.wait(&id, MachineState::Started).await;
    // What runs is restarted like any other.
    worker.restart_machine(&id, &asker).await.unwrap();
    run.wait(&id, MachineState::Started).await;
    worker.update_machine(&id, update(), &asker).await.unwrap();
    run.wait(&id, MachineState::Started).await;
    assert_eq!(node.host.launches().len(), 3);
    run.shut_down().await;
}
