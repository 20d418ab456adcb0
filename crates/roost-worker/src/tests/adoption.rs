//! A new `roostd` on a node whose machines went on without it.

use super::{Node, samples};
use roost_model::machine::{ExitCause, MachineExit, MachineState};
use roost_proto::worker::WorkerApi as _;

#[tokio::test(start_paused = true)]
async fn a_running_machine_keeps_its_process() {
    let node = Node::new();
    let first = node.start().await;
    let machine = first.started().await;
    first.shut_down().await;
    assert_eq!(
        node.host.running(),
        std::slice::from_ref(&machine.id),
        "machines outlive roostd"
    );

    let second = node.start().await;
    let adopted = second.worker.machine(&machine.id).await.unwrap();
    assert_eq!(
        (adopted.state, adopted.pid),
        (MachineState::Started, machine.pid)
    );
    assert_eq!(node.host.launches().len(), 1);
    let newest = second.worker.machine_events(&machine.id, 1).await.unwrap();
    assert_eq!(newest[0].kind, "adopt");
    second
        .worker
        .stop_machine(&machine.id, None, None, &samples::asker())
        .await
        .unwrap();
    second.wait(&machine.id, MachineState::Stopped).await;
}

#[tokio::test(start_paused = true)]
async fn an_end_while_nobody_watched_is_handled_by_policy() {
    let node = Node::new();
    let first = node.start().await;
    let machine = first.started().await;
    first.kill();
    let exit = MachineExit {
        exit_code: 3,
        signal: None,
        oom_killed: false,
        cause: ExitCause::App,
    };
    node.host.exit(&machine.id, exit);
    let second = node.start().await;
    let again = second.wait(&machine.id, MachineState::Started).await;
    assert_eq!(again.last_exit, Some(exit));
    assert_ne!(again.pid, machine.pid);
    assert_eq!(node.host.launches().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_is_gone_is_started_again_and_the_events_say_so() {
    let node = Node::new();
    let first = node.start().await;
    let machine = first.started().await;
    first.kill();
    node.host.lose(&machine.id);
    *node.images.refusal.lock() = None;
    let second = node.start().await;
    second.wait(&machine.id, MachineState::Started).await;
    let events = second.worker.machine_events(&machine.id, 10).await.unwrap();
    assert!(
        events
            .iter()
            .any(|event| event.detail.to_string().contains("was gone")),
        "{events:#?}"
    );
    let launch = events.iter().find(|event| event.kind == "launch").unwrap();
    assert_eq!(launch.source, "host-restart");
    let pinned = node.images.asked.lock().last().cloned().unwrap();
    assert!(
        pinned.digest.is_some(),
        "the image it ran is used, whatever the tag says now"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_was_under_way_is_finished() {
    let node = Node::new();
    let first = node.start().await;
    let machine = first.started().await;
    // The wish is written and its owner is killed at once.
    first.driver.cut();
    first
        .worker
        .stop_machine(&machine.id, None, None, &samples::asker())
        .await
        .unwrap();
    first.kill();
    let second = node.start().await;
    second.wait(&machine.id, MachineState::Stopped).await;
    node.wait_clear("").await;
}

#[tokio::test(start_paused = true)]
async fn what_no_record_owns_is_removed_from_the_host() {
    let node = Node::new();
    let first = node.start().await;
    let machine = first.started().await;
    first.kill();
    for file in ["worker.db", "worker.db-wal", "worker.db-shm"] {
        std::fs::remove_file(node.dir.path().join(file)).unwrap();
    }
    let second = node.start().await;
    node.wait_clear("").await;
    assert!(second.worker.machine(&machine.id).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn another_key_does_not_start_a_machine_without_its_secrets() {
    let mut node = Node::new();
    let first = node.start().await;
    let machine = first.started().await;
    first.kill();
    node.host.lose(&machine.id);
    node.config.sealer =
        std::sync::Arc::new(roost_auth::seal::SealingKey::from_bytes(&[8; 32]).unwrap());
    let second = node.start().await;
    let failed = second.wait(&machine.id, MachineState::Failed).await;
    assert!(failed.state_reason.unwrap().contains("open secrets"));
}
