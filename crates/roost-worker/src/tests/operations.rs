//! Operations as people see them, on paused time.

use super::{Node, Run, samples};
use roost_model::id::{MachineId, RunId};
use roost_model::machine::MachineState;
use roost_proto::worker::{Operation, OperationFilter, WorkerApi as _};

/// The operations of a machine with their steps, oldest first.
async fn operations(run: &Run, machine: &MachineId) -> Vec<Operation> {
    let filter = OperationFilter {
        machine: Some(machine.clone()),
        limit: 50,
        ..OperationFilter::default()
    };
    let mut operations = vec![];
    for listed in run.worker.operations(filter).await.unwrap().iter().rev() {
        let id = RunId::parse(&listed.id).unwrap();
        let shown = run.worker.operation(&id).await.unwrap().unwrap();
        assert_eq!(shown.kind, listed.kind);
        operations.push(shown);
    }
    operations
}

/// The newest operation, once it has ended.
async fn ended(run: &Run, machine: &MachineId) -> Operation {
    for _ in 0..1_000 {
        let newest = operations(run, machine).await.pop().unwrap();
        if newest.is_ended() {
            return newest;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("no operation of {machine} ends");
}

/// Steps as `name:outcome`.
fn steps(operation: &Operation) -> Vec<String> {
    let word = |step: &roost_proto::worker::OperationStep| {
        let outcome = step.outcome.as_deref().unwrap_or("under way");
        format!("{}:{outcome}", step.name)
    };
    operation.steps.iter().map(word).collect()
}

#[tokio::test(start_paused = true)]
async fn a_life_is_a_row_of_operations_with_their_steps() {
    let asker = samples::asker();
    let node = Node::new();
    let run = node.start().await;
    let id = run.started().await.id;
    let create = ended(&run, &id).await;
    assert_eq!(
        (create.kind.as_str(), create.status.as_str()),
        ("create", "succeeded")
    );
    assert_eq!(create.subject, format!("machine/{id}"));
    assert_eq!(steps(&create), ["resolve_image:done", "launch:done"]);
    assert_ne!(
        create.cause,
        serde_json::Value::Null,
        "somebody asked for it"
    );

    let stop = run.worker.stop_machine(&id, None, None, &asker);
    stop.await.unwrap();
    run.wait(&id, MachineState::Stopped).await;
    let stop = ended(&run, &id).await;
    assert_eq!(
        (stop.kind.as_str(), stop.status.as_str()),
        ("stop", "succeeded")
    );
    assert_eq!(steps(&stop), ["drain:done", "signal:done"]);

    let destroy = run.worker.destroy_machine(&id, false, &asker);
    destroy.await.unwrap();
    run.wait(&id, MachineState::Destroyed).await;
    let destroy = ended(&run, &id).await;
    assert_eq!(
        (destroy.kind.as_str(), destroy.status.as_str()),
        ("destroy", "succeeded")
    );
    assert_eq!(operations(&run, &id).await.len(), 3);
    run.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_fails_says_which_step_and_why() {
    let asker = samples::asker();
    let node = Node::new();
    *node.images.refusal.lock() = Some("no such image");
    let run = node.start().await;
    let machine = run.worker.create_machine(samples::create("r1"), &asker);
    let id = machine.await.unwrap().id;
    run.wait(&id, MachineState::Failed).await;
    let create = ended(&run, &id).await;
    assert_eq!(create.status, "failed");
    assert!(
        create.reason.as_ref().unwrap().contains("no such image"),
        "{create:?}"
    );
    assert_eq!(steps(&create), ["resolve_image:failed"]);
    assert!(
        create.steps[0]
            .reason
            .as_ref()
            .unwrap()
            .contains("no such image")
    );
    run.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_request_takes_the_place_of_the_one_under_way() {
    let asker = samples::asker();
    let node = Node::new();
    let run = node.start().await;
    let id = run.started().await.id;
    ended(&run, &id).await;
    let stop = run.worker.stop_machine(&id, None, None, &asker);
    stop.await.unwrap();
    let start = run.worker.start_machine(&id, &asker);
    start.await.unwrap();
    run.wait(&id, MachineState::Started).await;
    let start = ended(&run, &id).await;
    assert_eq!(
        (start.kind.as_str(), start.status.as_str()),
        ("start", "succeeded")
    );
    let all = operations(&run, &id).await;
    let stop = &all[all.len() - 2];
    assert_eq!(
        (stop.kind.as_str(), stop.status.as_str()),
        ("stop", "superseded")
    );
    assert!(
        stop.reason.as_ref().unwrap().contains(&start.id),
        "{stop:?}"
    );
    run.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_is_seen_in_the_operation_that_goes_on() {
    let asker = samples::asker();
    let mut node = Node::new();
    node.config.drain_timeout = std::time::Duration::from_secs(3_600);
    let first = node.start().await;
    let mut request = samples::create("r1");
    request.spec.services = vec![samples::service(8_080)];
    let created = first.worker.create_machine(request, &asker).await;
    let id = created.unwrap().id;
    first.wait(&id, MachineState::Started).await;
    ended(&first, &id).await;
    // Drains for as long as requests are under way.
    node.gauge.0.store(1, std::sync::atomic::Ordering::SeqCst);
    let stop = first.worker.stop_machine(&id, None, None, &asker);
    stop.await.unwrap();
    while steps(&operations(&first, &id).await.pop().unwrap()).is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    first.kill();
    node.gauge.0.store(0, std::sync::atomic::Ordering::SeqCst);
    let second = node.start().await;
    second.wait(&id, MachineState::Stopped).await;
    let stop = ended(&second, &id).await;
    assert_eq!(
        (stop.kind.as_str(), stop.status.as_str()),
        ("stop", "succeeded")
    );
    let steps = steps(&stop);
    assert_eq!(steps[..2], ["drain:cut off", "adopt:done"], "{steps:?}");
    second.shut_down().await;
}

#[tokio::test]
async fn an_operation_is_not_over_because_the_one_before_it_is() {
    let asker = samples::asker();
    let node = Node::new();
    let run = node.start().await;
    for name in ["a", "b", "c"] {
        // The start may not have been seen to be over when the stop comes.
        let request = samples::create(name);
        let created = run.worker.create_machine(request, &asker);
        let id = created.await.unwrap().id;
        run.wait(&id, MachineState::Started).await;
        let stop = run.worker.stop_machine(&id, None, None, &asker);
        stop.await.unwrap();
        let stop = ended(&run, &id).await;
        assert_eq!(stop.kind, "stop");
        assert_eq!(steps(&stop), ["drain:done", "signal:done"], "{stop:?}");
    }
    run.shut_down().await;
}
