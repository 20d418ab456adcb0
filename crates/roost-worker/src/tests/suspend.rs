//! Suspend and resume, on paused time.

use super::{Node, Run, samples};
use roost_host::fake::{FAKE_KERNEL, FakeLaunch, FakeSuspend};
use roost_model::id::MachineId;
use roost_model::machine::{ExitCause, MachineExit, MachineState, Rung};
use roost_proto::traffic::EndpointHealth;
use roost_proto::worker::{Launch, MachineEvent, SecretEnv, UpdateMachine, WorkerApi as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn suspended(run: &Run) -> MachineId {
    let id = run.started().await.id;
    run.worker
        .suspend_machine(&id, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Suspended).await;
    id
}

/// The newest event of a kind.
async fn event(run: &Run, id: &MachineId, kind: &str) -> MachineEvent {
    let events = run.worker.machine_events(id, 50).await.unwrap();
    let found = events.iter().find(|event| event.kind == kind);
    found
        .unwrap_or_else(|| panic!("no {kind} in {events:#?}"))
        .clone()
}

#[tokio::test(start_paused = true)]
async fn a_suspended_machine_takes_no_traffic_and_resumes() {
    let node = Node::on(Rung::Vm);
    let run = node.start().await;
    let mut request = samples::create("r1");
    request.spec.services = vec![samples::service(1)];
    let id = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap()
        .id;
    run.wait(&id, MachineState::Started).await;
    for _ in 0..2 {
        run.worker
            .suspend_machine(&id, &samples::asker())
            .await
            .unwrap();
    }
    let suspended = run.wait(&id, MachineState::Suspended).await;
    assert_eq!((suspended.pid, suspended.state_reason), (None, None));
    run.worker
        .suspend_machine(&id, &samples::asker())
        .await
        .unwrap();
    let feed = run.worker.traffic();
    let health = feed.borrow()[&suspended.spec.app].endpoints[0]
        .health
        .clone();
    assert_eq!(health, EndpointHealth::Down("suspended".into()));
    assert!(node.host.running().is_empty());
    assert_eq!(node.host.snapshots(), std::slice::from_ref(&id));
    assert!(node.host.signals(&id).is_empty());

    run.worker
        .start_machine(&id, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Started).await;
    assert!(node.host.launches()[1].resume);
    assert!(node.host.snapshots().is_empty());
    let start = event(&run, &id, "start").await;
    assert_eq!(start.detail["resumed"], true);
    assert_eq!(start.detail["kernel"], FAKE_KERNEL);
    // And it is like any other again.
    run.worker
        .restart_machine(&id, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Started).await;
    assert!(!node.host.launches()[2].resume);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_outlives_roostd() {
    let node = Node::on(Rung::Vm);
    let first = node.start().await;
    let id = suspended(&first).await;
    first.kill();
    let second = node.start().await;
    let status = second.worker.machine(&id).await.unwrap();
    assert_eq!(status.state, MachineState::Suspended);
    assert_eq!(node.host.snapshots(), std::slice::from_ref(&id));
    second
        .worker
        .start_machine(&id, &samples::asker())
        .await
        .unwrap();
    second.wait(&id, MachineState::Started).await;
    assert_eq!(event(&second, &id, "start").await.detail["resumed"], true);
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_in_place_of_a_resume_says_why() {
    let node = Node::on(Rung::Vm);
    let run = node.start().await;
    let id = suspended(&run).await;
    node.host.lose_snapshot(&id);
    run.worker
        .start_machine(&id, &samples::asker())
        .await
        .unwrap();
    let started = run.wait(&id, MachineState::Started).await;
    assert_eq!(
        started.state_reason.as_deref(),
        Some("started anew, as it could not be resumed: there is no snapshot of it")
    );
    assert_eq!(event(&run, &id, "start").await.detail["resumed"], false);
}

#[tokio::test(start_paused = true)]
async fn a_suspend_that_fails_or_hangs_leaves_the_machine_running() {
    let node = Node::on(Rung::Vm);
    let run = node.start().await;
    let machine = run.started().await;
    for (plan, words) in [
        (FakeSuspend::Fail("the disk is full".into()), "disk is full"),
        (FakeSuspend::Hang, "not written within"),
    ] {
        node.host.plan_suspends([plan]);
        run.worker
            .suspend_machine(&machine.id, &samples::asker())
            .await
            .unwrap();
        let begun = tokio::time::Instant::now();
        let still = loop {
            let status = run.worker.machine(&machine.id).await.unwrap();
            if status.state == MachineState::Started && status.pid.is_some() {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(3_600));
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let reason = still.state_reason.unwrap();
        assert!(reason.contains(words), "{reason}");
        assert_eq!(still.pid, machine.pid, "it is the same process");
        event(&run, &machine.id, "suspend_failed").await;
        assert!(node.host.snapshots().is_empty());
    }
    // Its end is seen again.
    let exit = MachineExit {
        exit_code: 0,
        signal: None,
        oom_killed: false,
        cause: ExitCause::App,
    };
    node.host.exit(&machine.id, exit);
    run.wait(&machine.id, MachineState::Stopped).await;
    assert_eq!(node.host.launches().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_while_a_suspend_fails_does_not_restart_what_runs() {
    let node = Node::on(Rung::Vm);
    let run = node.start().await;
    let machine = run.started().await;
    node.host.plan_suspends([FakeSuspend::Hang]);
    run.worker
        .suspend_machine(&machine.id, &samples::asker())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = run
        .worker
        .start_machine(&machine.id, &samples::asker())
        .await
        .unwrap();
    assert_eq!(asked.state, MachineState::Suspending);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let still = run.worker.machine(&machine.id).await.unwrap();
    assert_eq!(
        (still.state, still.pid),
        (MachineState::Started, machine.pid)
    );
    assert_eq!(node.host.launches().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_ends_while_it_is_being_suspended_rests_with_its_reason() {
    let node = Node::on(Rung::Vm);
    let run = node.start().await;
    // A request under way holds the suspend up.
    node.gauge.0.store(1, Ordering::SeqCst);
    let mut request = samples::create("r1");
    request.spec.services = vec![samples::service(1)];
    let id = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap()
        .id;
    run.wait(&id, MachineState::Started).await;
    run.worker
        .suspend_machine(&id, &samples::asker())
        .await
        .unwrap();
    let exit = MachineExit {
        exit_code: 1,
        signal: None,
        oom_killed: false,
        cause: ExitCause::GuestPanic,
    };
    node.host.exit(&id, exit);
    let stopped = run.wait(&id, MachineState::Stopped).await;
    assert!(stopped.state_reason.unwrap().contains("kernel panicked"));
    assert_eq!(stopped.last_exit, Some(exit));
    assert_eq!(
        event(&run, &id, "exit").await.detail["exit_event"]["cause"],
        "guest-panic"
    );
    node.wait_clear("").await;
    assert_eq!(node.host.launches().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_destruction_does_not_wait_for_a_suspend() {
    let node = Node::on(Rung::Vm);
    let run = node.start().await;
    let machine = run.started().await;
    node.host.plan_suspends([FakeSuspend::Hang]);
    run.worker
        .suspend_machine(&machine.id, &samples::asker())
        .await
        .unwrap();
    let refused = run
        .worker
        .destroy_machine(&machine.id, false, &samples::asker())
        .await;
    assert!(refused.is_err(), "it may run on");
    let begun = tokio::time::Instant::now();
    run.worker
        .destroy_machine(&machine.id, true, &samples::asker())
        .await
        .unwrap();
    run.wait(&machine.id, MachineState::Destroyed).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    node.wait_clear("").await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_a_restart_and_an_update_drop_the_snapshot() {
    let node = Node::on(Rung::Vm);
    let run = node.start().await;
    let id = suspended(&run).await;
    run.worker
        .stop_machine(&id, None, None, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Stopped).await;
    node.wait_clear("").await;
    event(&run, &id, "discard").await;

    let suspend_again = async || {
        run.worker
            .start_machine(&id, &samples::asker())
            .await
            .unwrap();
        run.wait(&id, MachineState::Started).await;
        run.worker
            .suspend_machine(&id, &samples::asker())
            .await
            .unwrap();
        run.wait(&id, MachineState::Suspended).await.spec
    };
    suspend_again().await;
    run.worker
        .restart_machine(&id, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Started).await;
    assert!(!node.host.launches().last().unwrap().resume);
    run.worker
        .stop_machine(&id, None, None, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Stopped).await;
    for launch in [Launch::Start, Launch::Skip] {
        let spec = suspend_again().await;
        let update = UpdateMachine {
            current_version: None,
            spec,
            secrets: SecretEnv::default(),
            launch,
        };
        run.worker
            .update_machine(&id, update, &samples::asker())
            .await
            .unwrap();
        match launch {
            Launch::Start => {
                run.wait(&id, MachineState::Started).await;
                assert!(!node.host.launches().last().unwrap().resume);
                run.worker
                    .stop_machine(&id, None, None, &samples::asker())
                    .await
                    .unwrap();
                run.wait(&id, MachineState::Stopped).await;
            }
            Launch::Skip => {
                run.wait(&id, MachineState::Stopped).await;
                node.wait_clear("").await;
            }
        }
    }
    let id = suspend_again_then_destroy(&node, &run, id).await;
    run.wait(&id, MachineState::Destroyed).await;
    node.wait_clear("").await;
}

async fn suspend_again_then_destroy(node: &Node, run: &Run, id: MachineId) -> MachineId {
    run.worker
        .start_machine(&id, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Started).await;
    run.worker
        .suspend_machine(&id, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Suspended).await;
    assert_eq!(node.host.snapshots(), std::slice::from_ref(&id));
    // Without force: nothing runs.
    run.worker
        .destroy_machine(&id, false, &samples::asker())
        .await
        .unwrap();
    id
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_the_driver_refuses_ends_with_its_reason_and_no_snapshot() {
    let node = Node::on(Rung::Vm);
    let run = node.start().await;
    let id = suspended(&run).await;
    node.host
        .plan_launches([FakeLaunch::Refuse("no such program".into())]);
    run.worker
        .start_machine(&id, &samples::asker())
        .await
        .unwrap();
    let failed = run.wait(&id, MachineState::Failed).await;
    assert_eq!(failed.state_reason.as_deref(), Some("no such program"));
    node.wait_clear("").await;
    run.worker
        .start_machine(&id, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Started).await;
    assert!(!node.host.launches().last().unwrap().resume);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_suspended_is_refused_with_the_reason() {
    let node = Node::new();
    let run = node.start().await;
    let machine = run.started().await;
    let refused = run
        .worker
        .suspend_machine(&machine.id, &samples::asker())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("rung container"), "{refused}");
    run.shut_down().await;

    let node = Node::on(Rung::Vm);
    let run = node.start().await;
    let mut request = samples::create("r1");
    request.launch = Launch::Skip;
    let id = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap()
        .id;
    let refused = run
        .worker
        .suspend_machine(&id, &samples::asker())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("is created"), "{refused}");
    run.worker
        .start_machine(&id, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Started).await;
    node.host.plan_suspends([FakeSuspend::Hang]);
    run.worker
        .suspend_machine(&id, &samples::asker())
        .await
        .unwrap();
    let refused = run
        .worker
        .restart_machine(&id, &samples::asker())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("is suspending"), "{refused}");
}
