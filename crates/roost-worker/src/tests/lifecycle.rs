//! Machines from creation to destruction, on paused time.

use super::{Node, Run, samples};
use roost_host::fake::FakeLaunch;
use roost_model::id::MachineId;
use roost_model::image_ref::ImageRef;
use roost_model::machine::{
    ExitCause, MachineExit, MachineState, RestartPolicy, RestartWhen, StopSignal,
};
use roost_proto::traffic::EndpointHealth;
use roost_proto::worker::{
    ExecCommand, Launch, SecretEnv, UpdateMachine, WaitFor, WorkerApi as _, WorkerError,
};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn exit(exit_code: i32) -> MachineExit {
    MachineExit {
        exit_code,
        signal: None,
        oom_killed: false,
        cause: ExitCause::App,
    }
}

/// What happened to a machine, oldest first.
async fn event_kinds(run: &Run, id: &MachineId) -> Vec<String> {
    let events = run.worker.machine_events(id, 50).await.unwrap();
    events.into_iter().map(|event| event.kind).rev().collect()
}

#[tokio::test(start_paused = true)]
async fn a_created_machine_starts_with_its_secrets_and_ends_in_nothing() {
    let node = Node::new();
    let run = node.start().await;
    let machine = run.started().await;
    assert_eq!(machine.pid, node.host.pid(&machine.id));
    assert_eq!(
        machine.image_digest,
        Some(samples::image("", "").digest.to_string())
    );
    let launch = node.host.launches().remove(0);
    assert!(
        launch
            .process
            .env
            .contains(&("TOKEN".into(), "hunter2".into()))
    );
    assert_eq!(launch.id_range.base, 1_000_000);
    let database = std::fs::read(node.dir.path().join("worker.db-wal")).unwrap();
    assert!(
        !database.windows(7).any(|bytes| bytes == b"hunter2"),
        "secrets are sealed on disk"
    );

    let refused = run
        .worker
        .destroy_machine(&machine.id, false, &samples::asker())
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("is started: stop it first"),
        "{refused}"
    );
    run.worker
        .stop_machine(&machine.id, None, None, &samples::asker())
        .await
        .unwrap();
    let stopped = run.wait(&machine.id, MachineState::Stopped).await;
    assert_eq!(
        stopped.last_exit.map(|exit| exit.exit_code),
        Some(130),
        "SIGINT by default"
    );
    node.wait_clear("").await;
    run.worker
        .destroy_machine(&machine.id, false, &samples::asker())
        .await
        .unwrap();
    run.wait(&machine.id, MachineState::Destroyed).await;
    assert_eq!(
        *node.images.released.lock(),
        std::slice::from_ref(&machine.id)
    );
    assert!(run.worker.machines(None).await.unwrap().is_empty());
    assert_eq!(
        event_kinds(&run, &machine.id).await,
        [
            "create",
            "launch",
            "start",
            "stop",
            "exit",
            "destroy",
            "destroyed"
        ]
    );
    run.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_refused_fails_with_its_reason_and_leaves_nothing() {
    let node = Node::new();
    let run = node.start().await;
    node.host
        .plan_launches([FakeLaunch::Refuse("image has no user `web`".into())]);
    let created = run
        .worker
        .create_machine(samples::create("r1"), &samples::asker())
        .await
        .unwrap();
    let failed = run.wait(&created.id, MachineState::Failed).await;
    assert_eq!(
        failed.state_reason.as_deref(),
        Some("image has no user `web`")
    );
    assert_eq!(node.host.launches().len(), 1, "trying again would not help");
    node.wait_clear("").await;
    run.worker
        .start_machine(&created.id, &samples::asker())
        .await
        .unwrap();
    run.wait(&created.id, MachineState::Started).await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_and_a_missing_command_fail_by_name() {
    let node = Node::new();
    let run = node.start().await;
    *node.images.refusal.lock() = Some("image nginx:1.25 is not in docker.io");
    let created = run
        .worker
        .create_machine(samples::create("r1"), &samples::asker())
        .await
        .unwrap();
    let failed = run.wait(&created.id, MachineState::Failed).await;
    assert_eq!(
        failed.state_reason.as_deref(),
        Some("image nginx:1.25 is not in docker.io")
    );
    *node.images.refusal.lock() = None;
    let mut request = samples::create("r2");
    request.spec.process.entrypoint = Some(vec![]);
    let created = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap();
    let failed = run.wait(&created.id, MachineState::Failed).await;
    assert!(failed.state_reason.unwrap().contains("no command to run"));
    assert!(node.host.launches().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_failure_is_tried_again_and_then_given_up() {
    let node = Node::new();
    let run = node.start().await;
    node.host
        .plan_launches([FakeLaunch::HostFailure("no veth".into())]);
    run.started().await;
    assert_eq!(node.host.launches().len(), 2);
    node.host
        .plan_launches(vec![FakeLaunch::HostFailure("no veth".into()); 10]);
    let created = run
        .worker
        .create_machine(samples::create("r2"), &samples::asker())
        .await
        .unwrap();
    let failed = run.wait(&created.id, MachineState::Failed).await;
    assert!(failed.state_reason.unwrap().contains("no veth"));
    assert_eq!(
        node.host.launches().len(),
        2 + 4,
        "the first try and three more"
    );
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_backs_off_and_gives_up() {
    let node = Node::new();
    let run = node.start().await;
    let crash = FakeLaunch::ExitAfter(Duration::from_millis(10), exit(7));
    node.host.plan_launches(vec![crash; 20]);
    let mut request = samples::create("r1");
    request.spec.restart = RestartPolicy {
        when: RestartWhen::OnFailure,
        retries_max: 3,
    };
    let begun = tokio::time::Instant::now();
    let created = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap();
    let failed = run.wait(&created.id, MachineState::Failed).await;
    let reason = failed.state_reason.unwrap();
    assert!(
        reason.contains("code 7") && reason.contains("gave up after 3 restarts"),
        "{reason}"
    );
    assert_eq!(node.host.launches().len(), 4);
    let events = run.worker.machine_events(&created.id, 50).await.unwrap();
    let launches = events.iter().filter(|event| event.kind == "launch");
    let sources: Vec<&str> = launches.map(|event| event.source.as_str()).collect();
    let policy = "restart-policy";
    assert_eq!(sources, [policy, policy, policy, "worker"], "newest first");
    assert!(
        // Less what the test itself took: the restart times are of the real clock.
        begun.elapsed() >= Duration::from_millis(500 + 1_000 + 1_000),
        "waits grow"
    );
    assert_eq!(failed.last_exit, Some(exit(7)));
}

#[tokio::test(start_paused = true)]
async fn a_clean_end_rests_and_auto_destroy_removes() {
    let node = Node::new();
    let run = node.start().await;
    let machine = run.started().await;
    node.host.exit(&machine.id, exit(0));
    run.wait(&machine.id, MachineState::Stopped).await;
    let mut request = samples::create("r2");
    request.spec.auto_destroy = true;
    let created = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap();
    run.wait(&created.id, MachineState::Started).await;
    node.host.exit(&created.id, exit(0));
    run.wait(&created.id, MachineState::Destroyed).await;
    node.wait_clear("").await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_ignores_its_signal_is_killed() {
    let node = Node::new();
    let run = node.start().await;
    node.host.plan_launches([FakeLaunch::RunStubbornly]);
    let machine = run.started().await;
    let begun = tokio::time::Instant::now();
    let timeout = Some(Duration::from_secs(20));
    run.worker
        .stop_machine(
            &machine.id,
            Some(StopSignal::Term),
            timeout,
            &samples::asker(),
        )
        .await
        .unwrap();
    let stopped = run.wait(&machine.id, MachineState::Stopped).await;
    assert_eq!(stopped.last_exit.and_then(|exit| exit.signal), Some(9));
    assert!(
        begun.elapsed() >= Duration::from_secs(20),
        "it had its time"
    );
}

#[tokio::test(start_paused = true)]
async fn a_machine_destroyed_by_force_finishes_its_requests_and_is_killed() {
    let node = Node::new();
    let run = node.start().await;
    let mut request = samples::create("r1");
    request.spec.services = vec![samples::service(1)];
    request.spec.stop.timeout = Duration::from_secs(300);
    for is_stopping in [false, true] {
        node.gauge.0.store(1, Ordering::SeqCst);
        request.request_id = format!("stopping: {is_stopping}");
        let created = run
            .worker
            .create_machine(request.clone(), &samples::asker())
            .await
            .unwrap();
        run.wait(&created.id, MachineState::Started).await;
        let begun = tokio::time::Instant::now();
        if is_stopping {
            run.worker
                .stop_machine(&created.id, None, None, &samples::asker())
                .await
                .unwrap();
        }
        run.worker
            .destroy_machine(&created.id, true, &samples::asker())
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
        let signals = node.host.signals(&created.id);
        assert!(signals.is_empty(), "a request is under way: {signals:?}");
        let table = run.worker.traffic().borrow().clone();
        let endpoints = table.values().flat_map(|app| &app.endpoints);
        let health: Vec<_> = endpoints.map(|endpoint| &endpoint.health).collect();
        assert_eq!(health, [&EndpointHealth::Draining]);
        node.gauge.0.store(0, Ordering::SeqCst);
        run.wait(&created.id, MachineState::Destroyed).await;
        // Its stop time-out is not waited for.
        assert!(begun.elapsed() < Duration::from_secs(100));
    }
    node.wait_clear("").await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_requests_under_way() {
    let node = Node::new();
    let run = node.start().await;
    node.gauge.0.store(1, Ordering::SeqCst);
    let mut request = samples::create("r1");
    request.spec.services = vec![samples::service(1)];
    let created = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap();
    run.wait(&created.id, MachineState::Started).await;
    run.worker
        .stop_machine(&created.id, None, None, &samples::asker())
        .await
        .unwrap();
    run.wait(&created.id, MachineState::Stopping).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(
        node.host.signals(&created.id).is_empty(),
        "a request is under way"
    );
    node.gauge.0.store(0, Ordering::SeqCst);
    run.wait(&created.id, MachineState::Stopped).await;
    // And not for ever.
    node.gauge.0.store(1, Ordering::SeqCst);
    run.worker
        .start_machine(&created.id, &samples::asker())
        .await
        .unwrap();
    run.wait(&created.id, MachineState::Started).await;
    run.worker
        .stop_machine(&created.id, None, None, &samples::asker())
        .await
        .unwrap();
    run.wait(&created.id, MachineState::Stopped).await;
}

#[tokio::test(start_paused = true)]
async fn the_old_version_is_stopped_by_the_signal_of_its_own_image() {
    const SIGQUIT: i32 = 3;
    let node = Node::new();
    let run = node.start().await;
    node.host.plan_launches([FakeLaunch::RunStubbornly]);
    let mut request = samples::create("r1");
    request.spec.image = ImageRef::parse("nginx:quits").unwrap();
    let asker = samples::asker();
    let created = run.worker.create_machine(request, &asker).await.unwrap();
    let mut spec = run.wait(&created.id, MachineState::Started).await.spec;
    spec.image = ImageRef::parse("nginx:1.26").unwrap();
    let update = UpdateMachine {
        current_version: None,
        spec,
        secrets: SecretEnv::default(),
        launch: Launch::Start,
    };
    let update = run.worker.update_machine(&created.id, update, &asker);
    update.await.unwrap();
    while node.host.signals(&created.id).is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.host.signals(&created.id), [SIGQUIT]);
    run.wait(&created.id, MachineState::Started).await;
}

#[tokio::test(start_paused = true)]
async fn an_update_replaces_the_process_and_guards_the_version() {
    let node = Node::new();
    let run = node.start().await;
    let machine = run.started().await;
    let mut spec = machine.spec.clone();
    spec.image = ImageRef::parse("nginx:1.26").unwrap();
    let update = UpdateMachine {
        current_version: Some(machine.instance_id.clone()),
        spec,
        secrets: SecretEnv::default(),
        launch: Launch::Start,
    };
    let updated = run
        .worker
        .update_machine(&machine.id, update.clone(), &samples::asker())
        .await
        .unwrap();
    assert_ne!(updated.instance_id, machine.instance_id);
    let stale = run
        .worker
        .update_machine(&machine.id, update.clone(), &samples::asker())
        .await
        .unwrap_err();
    assert!(matches!(stale, WorkerError::Conflict(_)), "{stale}");
    let again = run.wait(&machine.id, MachineState::Started).await;
    assert_eq!(again.instance_id, updated.instance_id);
    assert_eq!(node.host.launches().len(), 2);
    assert_eq!(node.host.launches()[1].instance_id, updated.instance_id);
    assert_eq!(node.images.asked.lock()[1].to_string(), "nginx:1.26");
    let old = WaitFor {
        states: vec![MachineState::Started],
        instance_id: Some(machine.instance_id),
        after_event: None,
        timeout: Duration::from_secs(1),
    };
    let replaced = run.worker.wait_machine(&machine.id, old).await.unwrap_err();
    assert!(replaced.to_string().contains("was replaced"), "{replaced}");
    let skip = UpdateMachine {
        current_version: None,
        launch: Launch::Skip,
        ..update
    };
    let refused = run
        .worker
        .update_machine(&machine.id, skip, &samples::asker())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("stop it before"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_repeated_create_is_the_same_machine_and_names_are_unique() {
    let node = Node::new();
    let run = node.start().await;
    let first = run
        .worker
        .create_machine(samples::create("r1"), &samples::asker())
        .await
        .unwrap();
    let second = run
        .worker
        .create_machine(samples::create("r1"), &samples::asker())
        .await
        .unwrap();
    assert_eq!(first.id, second.id);
    let mut same_name = samples::create("r2");
    same_name.spec.name = first.spec.name.clone();
    let taken = run
        .worker
        .create_machine(same_name, &samples::asker())
        .await
        .unwrap_err();
    assert!(taken.to_string().contains(first.id.as_str()), "{taken}");
    let second = run
        .worker
        .create_machine(samples::create("r2"), &samples::asker())
        .await
        .unwrap();
    let third = run
        .worker
        .create_machine(samples::create("r3"), &samples::asker())
        .await
        .unwrap();
    let full = run
        .worker
        .create_machine(samples::create("r4"), &samples::asker())
        .await
        .unwrap_err();
    assert!(matches!(full, WorkerError::NoCapacity(_)), "{full}");
    let addresses = [first.private_ipv6, second.private_ipv6, third.private_ipv6];
    assert!(addresses[0] != addresses[1] && addresses[1] != addresses[2]);
    run.worker
        .destroy_machine(&second.id, true, &samples::asker())
        .await
        .unwrap();
    run.wait(&second.id, MachineState::Destroyed).await;
    let fourth = run
        .worker
        .create_machine(samples::create("r4"), &samples::asker())
        .await
        .unwrap();
    assert_eq!(
        fourth.private_ipv6, second.private_ipv6,
        "a freed slot is used again"
    );
    run.wait(&first.id, MachineState::Started).await;
    assert_eq!(
        node.host
            .launches()
            .iter()
            .filter(|l| l.machine_id == first.id)
            .count(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_makes_a_new_process_and_a_start_of_a_started_machine_does_nothing() {
    let node = Node::new();
    let run = node.start().await;
    let machine = run.started().await;
    run.worker
        .start_machine(&machine.id, &samples::asker())
        .await
        .unwrap();
    run.worker
        .restart_machine(&machine.id, &samples::asker())
        .await
        .unwrap();
    let again = run.wait(&machine.id, MachineState::Started).await;
    assert_ne!(again.pid, machine.pid);
    assert_eq!(node.host.launches().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_command_runs_only_in_a_started_machine() {
    let node = Node::new();
    let run = node.start().await;
    let mut request = samples::create("r1");
    request.launch = Launch::Skip;
    let created = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap();
    let command = ExecCommand {
        command: vec!["echo".into(), "hi".into()],
        stdin: vec![],
        timeout: Duration::from_secs(1),
    };
    let refused = run
        .worker
        .exec(&created.id, command.clone())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("is created"), "{refused}");
    run.worker
        .start_machine(&created.id, &samples::asker())
        .await
        .unwrap();
    run.wait(&created.id, MachineState::Started).await;
    assert_eq!(
        run.worker.exec(&created.id, command).await.unwrap().stdout,
        b"echo hi"
    );
    assert_eq!(
        run.worker
            .listening_sockets(&created.id)
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_too_long_says_the_state() {
    let node = Node::new();
    let run = node.start().await;
    let machine = run.started().await;
    let wait = WaitFor {
        states: vec![MachineState::Stopped],
        instance_id: None,
        after_event: None,
        timeout: Duration::from_secs(2),
    };
    let late = run
        .worker
        .wait_machine(&machine.id, wait)
        .await
        .unwrap_err();
    assert_eq!(
        late.to_string(),
        format!("machine {} is started, not stopped, after 2 s", machine.id)
    );
}

#[tokio::test(start_paused = true)]
async fn a_state_of_a_moment_is_not_missed_by_who_waits_from_an_event_on() {
    let node = Node::new();
    let run = node.start().await;
    let machine = run.started().await;
    let since = run.worker.machine_events(&machine.id, 1).await.unwrap()[0].seq;
    let asker = samples::asker();
    run.worker
        .restart_machine(&machine.id, &asker)
        .await
        .unwrap();
    run.worker
        .stop_machine(&machine.id, None, None, &asker)
        .await
        .unwrap();
    run.wait(&machine.id, MachineState::Stopped).await;
    let wait = |state, after_event| WaitFor {
        states: vec![state],
        instance_id: None,
        after_event,
        timeout: Duration::from_secs(1),
    };
    let stopping = wait(MachineState::Stopping, Some(since));
    let reached = run.worker.wait_machine(&machine.id, stopping).await;
    assert_eq!(reached.unwrap().state, MachineState::Stopped);
    let newest = run.worker.machine_events(&machine.id, 1).await.unwrap()[0].seq;
    let late = wait(MachineState::Stopped, Some(newest));
    let error = run
        .worker
        .wait_machine(&machine.id, late)
        .await
        .unwrap_err();
    assert!(
        matches!(error, WorkerError::WaitTimeout { .. }),
        "it was so before"
    );
    run.shut_down().await;
}
