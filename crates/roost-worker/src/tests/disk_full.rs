//! A disk that fills up, and has room again while the worker runs.

use super::{Node, samples};
use roost_model::error::{Blame, Classify as _, ErrorCode};
use roost_model::machine::{ExitCause, MachineExit, MachineState, RestartPolicy, RestartWhen};
use roost_proto::worker::{WorkerApi as _, WorkerError};
use std::time::Duration;

fn assert_disk_full(error: &WorkerError) {
    assert_eq!(error.code(), ErrorCode("disk-full"), "{error}");
    assert_eq!(error.blame(), Blame::Environment);
    assert!(error.hint().is_some_and(|hint| hint.contains("free space")));
}

#[tokio::test(start_paused = true)]
async fn a_request_on_a_full_disk_changes_nothing_and_can_be_repeated_once_there_is_room() {
    let node = Node::new();
    let run = node.start().await;
    let machine = run.started().await;
    let store = run.worker.inner.store.clone();
    store.fill_disk(&machine.id).await;

    let mut request = samples::create("r2");
    let value = "x".repeat(64 * 1024);
    request.spec.process.env.insert("LARGE".into(), value);
    let refused = run
        .worker
        .create_machine(request.clone(), &samples::asker())
        .await;
    assert_disk_full(&refused.unwrap_err());
    let stop = run
        .worker
        .stop_machine(&machine.id, None, None, &samples::asker())
        .await;
    assert_disk_full(&stop.unwrap_err());
    let destroy = run
        .worker
        .destroy_machine(&machine.id, true, &samples::asker())
        .await;
    assert_disk_full(&destroy.unwrap_err());
    let all = run.worker.machines(None).await.unwrap();
    assert_eq!(all.len(), 1, "no half-made machine");
    assert_eq!(
        (all[0].state, all[0].pid),
        (MachineState::Started, machine.pid)
    );
    assert_eq!(node.host.launches().len(), 1);

    store.free_disk().await;
    let created = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap();
    run.wait(&created.id, MachineState::Started).await;
    run.worker
        .destroy_machine(&machine.id, true, &samples::asker())
        .await
        .unwrap();
    run.wait(&machine.id, MachineState::Destroyed).await;
    run.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_on_a_full_disk_is_recorded_once_there_is_room() {
    let node = Node::new();
    let run = node.start().await;
    let mut request = samples::create("r1");
    request.spec.restart = RestartPolicy {
        when: RestartWhen::No,
        ..RestartPolicy::DEFAULT
    };
    let created = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap();
    run.wait(&created.id, MachineState::Started).await;
    let store = run.worker.inner.store.clone();
    store.fill_disk(&created.id).await;

    let exit = MachineExit {
        exit_code: 7,
        signal: None,
        oom_killed: false,
        cause: ExitCause::App,
    };
    node.host.exit(&created.id, exit);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let status = run.worker.machine(&created.id).await.unwrap();
    assert_eq!(status.state, MachineState::Started, "not recorded yet");
    assert_eq!(status.last_exit, None);

    store.free_disk().await;
    let stopped = run.wait(&created.id, MachineState::Stopped).await;
    assert_eq!(stopped.last_exit, Some(exit));
    let events = run.worker.machine_events(&created.id, 200).await.unwrap();
    let n_exits = events.iter().filter(|event| event.kind == "exit").count();
    assert_eq!(n_exits, 1);
    node.wait_clear("").await;
    run.shut_down().await;
}
